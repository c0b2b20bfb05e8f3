"""What to watch in a training that draws from a code z: is it used, and can it be read back.

Stacks hold K samples of each of B inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from fi_jax import losses

ACTIVE = 0.02  # nats of a dimension from which on it counts as used


def active(kl: jax.Array) -> jax.Array:
    """How many dimensions of KL terms (D,) are used."""
    return (kl > ACTIVE).sum().astype(jnp.float32)


def pair_distance(images: Sequence[jax.Array], hole: jax.Array) -> jax.Array:
    """Mean L1 inside the hole over all pairs of K images (B,H,W,C) of each input."""
    distances = [
        losses.masked_mean(jnp.abs(a - b), hole).mean()
        for i, a in enumerate(images)
        for b in images[:i]
    ]
    return jnp.stack(distances).mean()


def share_of_samples(values: jax.Array) -> jax.Array:
    """The share of the variance of (K,B,D) that is between the samples of one input."""
    return values.var(0).mean() / (values.var((0, 1)).mean() + 1e-9)


def read_back(name: str, read: jax.Array, z: jax.Array) -> dict[str, jax.Array]:
    """How well z (K,B,D) is read off its completions: L1, its ratio, correlation of a dimension.

    The ratio is to the L1 from another z of the same input, so that what the input itself shows
    does not count: 1 where z cannot be read.
    """
    distance, other = (jnp.abs(read - x).mean() for x in (z, jnp.roll(z, 1, axis=0)))
    a, b = (x - x.mean(0, keepdims=True) for x in (read, z))
    norm = jnp.sqrt((a**2).sum((0, 1)) * (b**2).sum((0, 1)) + 1e-12)
    return {
        name: distance,
        f'{name}_ratio': distance / other,
        f'{name}_correlation': ((a * b).sum((0, 1)) / norm).mean(),
    }


def pull(loss: Callable[[jax.Array], jax.Array], image: jax.Array) -> jax.Array:
    """How hard a loss pulls on images (B,H,W,C): the mean norm of its gradient, per example."""
    grad = jax.grad(loss)(image)
    return jnp.sqrt((grad**2).sum(axis=(1, 2, 3))).mean() * len(grad)
