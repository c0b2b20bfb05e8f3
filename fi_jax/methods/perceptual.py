"""How alike images are in the eyes of a published network, as a term of losses.

The network's weights are constants of a method; a run that names none needs none. It shall not be
the one that scores what was trained by it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from fi_jax.metrics import perceptual, trunks, weights

# Each with the maps that are looked at, fine to coarse, of sides from a half down.
TRUNKS = ('none', 'efficientnet_lite0', 'stlpips_vgg')
_LITE0_BLOCKS = (0, 2, 4, 10)


def constants(trunk: str) -> Callable[[], dict[str, Any]]:
    """A method's constants: what `maps` looks through; none for 'none'.

    Raises ValueError for a trunk that is not of TRUNKS; the function MissingWeights where its
    weights are not at hand.
    """
    if trunk not in TRUNKS:
        raise ValueError(f'config.trunk={trunk!r}: choose one of {list(TRUNKS)}')
    return partial(_constants, trunk)


def _constants(trunk: str) -> dict[str, Any]:
    if trunk == 'none':
        return {}
    if trunk == 'efficientnet_lite0':
        return {'trunk': weights.load(trunk)}
    return {'trunk': perceptual.make_distance(trunk)}


def maps(trunk: str, constant: Any, image: jax.Array) -> tuple[jax.Array, ...]:
    """Maps (B,h,w,C) of unit vectors of images (B,H,W,3) in [-1,1], fine to coarse."""
    if trunk == 'efficientnet_lite0':
        found = trunks.efficientnet_lite0_maps(constant, image)
        chosen = [found[block] for block in _LITE0_BLOCKS]
        # The root's gradient at 0, where the network sees nothing, would not be finite.
        return tuple(x * jax.lax.rsqrt(jnp.square(x).sum(-1, keepdims=True) + 1e-6) for x in chosen)
    return constant.features((image + 1.0) * 127.5)[:4]


def distances(a: tuple[jax.Array, ...], b: tuple[jax.Array, ...]) -> list[jax.Array]:
    """Of two images by their `maps`: squared distance of the vectors, mean of a map's places; (B,).

    Zhang et al., 2018, without weights of the channels: 0 to 4.
    """
    return [jnp.square(x - y).sum(-1).mean((1, 2)) for x, y in zip(a, b, strict=True)]


def mean_distance(a: tuple[jax.Array, ...], b: tuple[jax.Array, ...]) -> jax.Array:
    """The mean of `distances` over maps and images; a scalar."""
    return jnp.stack(distances(a, b)).mean()
