"""From config to optimizers and schedules."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import optax


def make_optimizers(config: Any, nets: Iterable[str]) -> dict[str, optax.GradientTransformation]:
    """One Adam for each net, clipped by global norm where config.optim.clip > 0.

    config.optim.lr_scale[net] multiplies the rate of a net; raises ValueError where it names none.
    """
    optim, nets = config.optim, tuple(nets)
    if unknown := set(optim.lr_scale) - set(nets):
        raise ValueError(
            f'config.optim.lr_scale: no net called {sorted(unknown)}; the nets are {list(nets)}'
        )

    def make(name: str) -> optax.GradientTransformation:
        rate = optim.lr * optim.lr_scale.get(name, 1.0)
        clip = optax.clip_by_global_norm(optim.clip) if optim.clip > 0 else optax.identity()
        return optax.chain(clip, optax.adam(rate, b1=optim.b1, b2=optim.b2))

    return {name: make(name) for name in nets}


def rate_scale(step: jax.Array, steps: int, decay_share: float) -> jax.Array:
    """Factor of the learning rate: 1, then linear to 0 over the last decay_share of the steps."""
    if decay_share <= 0:
        return jnp.ones(())
    return jnp.clip((steps - step) / (decay_share * steps), 0.0, 1.0)


def ema_decay(step: jax.Array, batch_size: int, halflife_images: float) -> jax.Array:
    """Decay of the weight average: a half-life in images, shorter at the start; 0 keeps none."""
    if halflife_images <= 0:
        return jnp.zeros(())
    slow = 0.5 ** (batch_size / halflife_images)
    return jnp.minimum(slow, (1.0 + step) / (10.0 + step))
