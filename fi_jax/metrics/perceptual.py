"""Perceptual distances of images: LPIPS and ST-LPIPS, of the whole frame or over the hole.

Zhang et al., "The unreasonable effectiveness of deep features as a perceptual metric", 2018,
version 0.1; Ghildyal and Liu, "Shift-tolerant perceptual similarity metric", 2022, a network of
its own.
"""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from fi_jax.metrics import trunks, weights

_SHIFT = np.array([-0.030, -0.088, -0.188], np.float32)
_SCALE = np.array([0.458, 0.448, 0.450], np.float32)
_EPSILON = 1e-10

# Name of the distance -> its trunk, and the published files whose arrays make it up.
_NETWORKS: dict[str, tuple[str, tuple[str, ...]]] = {
    'lpips_alex': ('alexnet', ('alexnet', 'lpips_heads_alex')),
    'lpips_vgg': ('vgg16', ('vgg16', 'lpips_heads_vgg')),
    'lpips_squeeze': ('squeezenet1_1', ('squeezenet1_1', 'lpips_heads_squeeze')),
    'stlpips_alex': ('stlpips_alex', ('stlpips_alex',)),
    'stlpips_vgg': ('stlpips_vgg', ('stlpips_vgg',)),
}
NAMES: tuple[str, ...] = tuple(_NETWORKS)

Features = tuple[jax.Array, ...]


def _unit(x: jax.Array) -> jax.Array:
    return x / (jnp.sqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True)) + _EPSILON)


def _bilinear(size: int, target: int) -> np.ndarray:
    """Weights (target, size) of bilinear upsampling between pixel centres."""
    place = np.clip((np.arange(target) + 0.5) * size / target - 0.5, 0, size - 1)
    return np.maximum(0, 1 - np.abs(place[:, None] - np.arange(size))).astype(np.float32)


def _mean(layer: jax.Array, hole: jax.Array | None) -> jax.Array:
    """Mean of a layer's map (..., h, w), or of the map upsampled to the hole's size, over it."""
    if hole is None:
        return jnp.mean(layer, axis=(-2, -1))
    # The hole shrunk by the transpose of the upsampling gives the same sum for less.
    rows, columns = (
        _bilinear(n, size) for n, size in zip(layer.shape[-2:], hole.shape[-3:-1], strict=True)
    )
    precision = jax.lax.Precision.HIGHEST
    region = jnp.asarray(hole, jnp.float32)[..., 0]
    shares = jnp.einsum('...yx,yh,xw->...hw', region, rows, columns, precision=precision)
    pixels = jnp.sum(region, axis=(-2, -1))
    total = jnp.sum(layer * shares, axis=(-2, -1))
    return jnp.where(pixels > 0, total / jnp.maximum(pixels, 1), jnp.nan)


@flax.struct.dataclass(eq=False)  # hashed as it is, for jit
class Distance:
    """A perceptual distance and its weights: a pytree, so that a jitted function can be given it.

    Called with images (..., H, W, 3) in 0..255 and, where only the hole counts, the hole
    (..., H, W, 1): -> (...). NaN over a hole without pixels.
    """

    arrays: dict[str, jax.Array]
    name: str = flax.struct.field(pytree_node=False)

    def features(self, images: jax.Array) -> Features:
        """Maps of unit vectors, one a layer, (..., h, w, C) of images (..., H, W, 3)."""
        leading = images.shape[:-3]
        x = jnp.asarray(images, jnp.float32).reshape(-1, *images.shape[-3:]) / 127.5 - 1
        x = (x - _SHIFT[None, None, None]) / _SCALE[None, None, None]
        trunk: Callable[..., Features] = trunks.TRUNKS[_NETWORKS[self.name][0]][0]
        maps = trunk(self.arrays, x)
        return tuple(_unit(y).reshape(*leading, *y.shape[1:]) for y in maps)

    def compare(self, a: Features, b: Features, hole: jax.Array | None = None) -> jax.Array:
        """Distance (...) of two images by their features; leading axes are broadcast."""
        total: Any = 0.0
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            head = self.arrays[f'lin{i}']
            square = jnp.square(x - y) * head.reshape((1,) * (x.ndim - 1) + (-1,))
            total = total + _mean(jnp.sum(square, axis=-1), hole)
        return total

    def __call__(self, a: jax.Array, b: jax.Array, hole: jax.Array | None = None) -> jax.Array:
        return self.compare(self.features(a), self.features(b), hole)


def from_arrays(name: str, arrays: dict[str, np.ndarray]) -> Distance:
    """The distance with weights at hand: those of its trunk, and 'lin0', 'lin1', ... (C,)."""
    if name not in _NETWORKS:
        raise ValueError(f'distance {name!r}: unknown; there are {", ".join(NAMES)}')
    return Distance({k: jnp.asarray(v) for k, v in arrays.items()}, name)


def make_distance(name: str) -> Distance:
    """The distance of NAMES with its published weights; it can be called inside jit.

    Raises MissingWeights where the cache has them not, ValueError for an unknown name.
    """
    if name not in _NETWORKS:
        raise ValueError(f'distance {name!r}: unknown; there are {", ".join(NAMES)}')
    arrays: dict[str, np.ndarray] = {}
    for part in _NETWORKS[name][1]:
        arrays |= weights.load(part)
    return from_arrays(name, arrays)


def available() -> tuple[str, ...]:
    """Those of NAMES whose weights are in the cache."""
    present = {row.name for row in weights.listing() if row.present}
    return tuple(name for name in NAMES if present.issuperset(_NETWORKS[name][1]))
