"""The networks of DE-GAN (Zhang et al., 2020): two encoders, three decoders, a U-Net, critics.

Images and maps are in [0,1]; decoders and critics answer with logits.
"""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from fi_jax.nets.layers import DownConv, Dtype, TransposedConv, leaky


def as_map(code: jax.Array, side: int) -> jax.Array:
    """A code (B,D) laid out as (B,side,side,D/side^2)."""
    return code.reshape(len(code), side, side, -1)


class Encoder(nn.Module):
    """(B,H,W,C) -> mean and deviation of a code, each (B,code).

    softplus_mean: as in the authors' code, where no mean is below 0. unit: every deviation is 1.
    """

    widths: Sequence[int]
    code: int
    softplus_mean: bool = True
    unit: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        for width in self.widths:
            x = leaky(DownConv(width, 4, self.dtype)(x))
        x = x.reshape(len(x), -1)
        mean = nn.Dense(self.code, dtype=self.dtype, name='mean')(x).astype(jnp.float32)
        mean = nn.softplus(mean) if self.softplus_mean else mean
        if self.unit:
            return mean, jnp.ones_like(mean)
        deviation = nn.Dense(self.code, dtype=self.dtype, name='deviation')(x).astype(jnp.float32)
        return mean, nn.softplus(deviation)


class Decoder(nn.Module):
    """A code (B,D) -> logits of a map (B,H,W,channels), twice the side for each width.

    train: normalised by the batch, which moves the running means.
    """

    widths: Sequence[int]
    channels: int
    side: int  # of the map that the code begins as
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, code: jax.Array, train: bool = False) -> jax.Array:
        x = as_map(code, self.side)
        for width in self.widths:
            x = nn.relu(TransposedConv(width, 4, self.dtype)(x))
            # Keras's epsilon, the authors': a smaller one would read codes that hardly differ.
            x = nn.BatchNorm(not train, epsilon=1e-3, dtype=self.dtype)(x)
        return nn.Conv(self.channels, (1, 1), dtype=self.dtype)(x).astype(jnp.float32)


class UNet(nn.Module):
    """An image with a hole (B,H,W,3) and a code (B,D) -> image (B,H,W,3); the code joins below."""

    widths: Sequence[int]
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, code: jax.Array) -> jax.Array:
        def conv(x: jax.Array, width: int) -> jax.Array:
            return nn.Conv(width, (3, 3), dtype=self.dtype)(x)

        skips: list[jax.Array] = []
        for level, width in enumerate(self.widths):
            x = nn.relu(DownConv(width, 3, self.dtype)(x) if level else conv(x, width))
            x = nn.relu(conv(x, width))
            skips.append(x)
        x = jnp.concatenate([x, as_map(code, x.shape[1]).astype(x.dtype)], axis=-1)
        for level, (width, skip) in enumerate(zip(self.widths[-2::-1], skips[-2::-1], strict=True)):
            x = nn.relu(TransposedConv(width, 3, self.dtype, same=True, name=f'up{level}')(x))
            x = nn.relu(conv(jnp.concatenate([skip, x], axis=-1), width))
        return nn.sigmoid(conv(x, 3).astype(jnp.float32))


class ImageCritic(nn.Module):
    """(B,H,W,3) -> a logit of each patch (B,N), or with whole, of the image (B,1)."""

    widths: Sequence[int]
    whole: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for width in self.widths:
            x = leaky(DownConv(width, 4, self.dtype)(x))
        if self.whole:
            x = nn.Dense(1, dtype=self.dtype)(x.reshape(len(x), -1))
        else:
            x = nn.Conv(1, (1, 1), dtype=self.dtype)(x)
        return x.reshape(len(x), -1).astype(jnp.float32)


class CodeCritic(nn.Module):
    """A code (B,D) -> the logit (B,1) that it was drawn and not encoded."""

    width: int = 128
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for _ in range(2):
            x = nn.relu(nn.Dense(self.width, dtype=self.dtype)(x))
        return nn.Dense(1, dtype=self.dtype)(x).astype(jnp.float32)
