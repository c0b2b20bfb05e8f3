"""Extractor: the style encoder, image and face features -> mean and log-variance of z."""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from fi_jax.nets.layers import DownConv, Dtype, GaussianHead, leaky


class Extractor(nn.Module):
    """Strided convolutions and a Gaussian head; (B,H,W,C) -> mean, logvar, each (B,z_dim).

    No normalisation, on purpose: it would erase colour, which is the style to encode.
    """

    widths: Sequence[int]
    z_dim: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        for width in self.widths:
            x = leaky(DownConv(width, 5, self.dtype)(x))
        return GaussianHead(self.z_dim, dtype=self.dtype)(x)
