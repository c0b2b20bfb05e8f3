"""How a face looks: patches in front, tone, blur, noise."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from fi_jax.augmentation.draws import Draws

_GREY = (0.299, 0.587, 0.114)


def recoloured(image: jax.Array, amounts: Any, draws: Draws, key: jax.Array) -> jax.Array:
    """An image (H,W,3) uint8 with patches, tone, blur and noise as drawn."""
    if not (amounts.occlusion or amounts.colour or amounts.blur or amounts.noise):
        return image
    x = image.astype(jnp.float32)
    if amounts.occlusion:
        hidden, patched = draws.chance(amounts.occlusion), _patched(x, draws)
        x = jnp.where(hidden, patched, x)
    if amounts.colour:
        x = _toned(x, amounts.colour, draws)
    if amounts.blur:
        blurs, sigma = draws.chance(0.3), draws.uniform(0.2, 1) * amounts.blur
        x = jax.lax.cond(blurs, lambda x: _blurred(x, sigma), lambda x: x, x)
    if amounts.noise:
        noisy, deviation = draws.chance(0.3), draws.uniform(0, amounts.noise)
        x = jax.lax.cond(
            noisy, lambda x: x + deviation * jax.random.normal(key, x.shape), lambda x: x, x
        )
    return jnp.clip(jnp.round(x), 0, 255).astype(jnp.uint8)


def _patched(x: jax.Array, draws: Draws) -> jax.Array:
    """One or two ellipses in front of the face, of a colour of the photo or any other."""
    side = x.shape[0]
    line = jnp.arange(side)
    for present in (True, draws.chance(0.5)):
        at = draws.integers(0, side, (2,))
        own = jax.lax.dynamic_slice(x, (at[0], at[1], 0), (1, 1, 3))[0, 0]
        colour = jnp.where(draws.chance(0.5), own, draws.uniform(0, 255, (3,)))
        centre, axes = draws.integers(0, side, (2,)), draws.uniform(0.04, 0.2, (2,)) * side
        angle = draws.uniform(0, jnp.pi)
        dx, dy = line[None, :] - centre[0], line[:, None] - centre[1]
        along = (dx * jnp.cos(angle) + dy * jnp.sin(angle)) / axes[0]
        across = (dy * jnp.cos(angle) - dx * jnp.sin(angle)) / axes[1]
        inside = (along**2 + across**2 <= 1) & present
        x = jnp.where(inside[..., None], colour[None, None], x)
    return x


def _toned(x: jax.Array, amount: float, draws: Draws) -> jax.Array:
    """Brightness, contrast and the balance of colours changed; one face in ten made grey."""
    grey = draws.chance(0.1)
    contrast = (1 + amount) ** draws.uniform(-1, 1)
    balance = (1 + 0.5 * amount) ** draws.uniform(-1, 1, (3,))
    bias = 128 * (1 - contrast) + draws.uniform(-1, 1) * amount * 64
    luma = jnp.round(sum(share * x[..., c] for c, share in enumerate(_GREY)))[..., None]
    x = jnp.where(grey, luma, x * balance[None, None])
    return jnp.clip(x * contrast + bias, 0, 255)


def _blurred(x: jax.Array, sigma: jax.Array) -> jax.Array:
    """Gaussian blur; at the edges the weights within are shared out anew."""

    def along(length: int) -> jax.Array:
        line = jnp.arange(length)
        weights = jnp.exp(-0.5 * jnp.square((line[:, None] - line[None, :]) / sigma))
        return weights / weights.sum(1, keepdims=True)

    exact = jax.lax.Precision.HIGHEST
    x = jnp.einsum('ab,bxc->axc', along(x.shape[0]), x, precision=exact)
    return jnp.einsum('ab,ybc->yac', along(x.shape[1]), x, precision=exact)
