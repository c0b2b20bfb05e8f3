"""Critic: strided convolutions and one score an image; serves as D_global and as D_local."""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from fi_jax.nets.layers import DownConv, Dtype, leaky, spectral


def batch_spread(x: jax.Array) -> jax.Array:
    """A channel with the mean standard deviation over the batch (Karras et al., 2018)."""
    x32 = x.astype(jnp.float32)
    spread = jnp.sqrt(x32.var(axis=0) + 1e-8).mean()
    channel = jnp.broadcast_to(spread, (*x.shape[:-1], 1)).astype(x.dtype)
    return jnp.concatenate([x, channel], axis=-1)


class Critic(nn.Module):
    """(B,H,W,C) -> scores (B,), unbounded, higher = more real.

    spectral_norm: divide each kernel by its largest singular value (Miyato et al., 2018); its
    running estimate lives in the collection 'batch_stats' and moves where update_stats is true.
    """

    widths: Sequence[int]
    spectral_norm: bool = False
    batch_spread: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, update_stats: bool = False) -> jax.Array:
        def layer(module: nn.Module, x: jax.Array) -> jax.Array:
            return spectral(module, x, update_stats) if self.spectral_norm else module(x)

        for width in self.widths:
            x = leaky(layer(DownConv(width, 5, self.dtype), x))
        if self.batch_spread:
            x = batch_spread(x)
        x = x.reshape(x.shape[0], -1)
        return layer(nn.Dense(1, dtype=self.dtype), x)[:, 0].astype(jnp.float32)
