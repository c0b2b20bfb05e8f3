"""The networks of BicycleGAN (Zhu et al., 2017): a U-Net, a residual encoder, patch critics."""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from fi_jax.nets.layers import (
    DownConv,
    Dtype,
    GaussianHead,
    TransposedConv,
    UpConv,
    halved,
    instance_norm,
    leaky,
)

# Xavier's with a gain of .02, the authors' for all layers: the first completions are grey.
XAVIER = nn.initializers.variance_scaling(0.02**2, 'fan_avg', 'normal')


class UNet(nn.Module):
    """(B,H,W,C), z (B,D) -> image (B,H,W,3) in [-1,1]; z joins the input of every level down.

    transposed: upwards by transposed convolutions 4x4, as the authors do.
    """

    widths: Sequence[int]
    transposed: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, z: jax.Array) -> jax.Array:
        def with_z(x: jax.Array) -> jax.Array:
            tiled = jnp.broadcast_to(z[:, None, None, :], (*x.shape[:3], z.shape[-1]))
            return jnp.concatenate([x, tiled.astype(x.dtype)], axis=-1)

        def up(x: jax.Array, width: int) -> jax.Array:
            if self.transposed:
                return TransposedConv(width, 4, self.dtype, XAVIER)(x)
            return UpConv(width, self.dtype, XAVIER)(x)

        skips: list[jax.Array] = []
        for level, width in enumerate(self.widths):
            x = with_z(x)
            x = DownConv(width, 4, self.dtype, XAVIER)(leaky(x) if level else x)
            # The lowest level keeps its scale: of one pixel a norm would leave nothing.
            if 0 < level < len(self.widths) - 1:
                x = instance_norm(x, self.dtype, 1e-5)
            skips.append(x)
        for width, skip in zip(self.widths[-2::-1], skips[-2::-1], strict=True):
            x = instance_norm(up(nn.relu(x), width), self.dtype, 1e-5)
            x = jnp.concatenate([x, skip], axis=-1)
        return jnp.tanh(up(nn.relu(x), 3).astype(jnp.float32))


class Encoder(nn.Module):
    """(B,H,W,C) -> mean, logvar of z, each (B,z_dim): residual blocks, then the mean of all."""

    widths: Sequence[int]
    z_dim: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        x = DownConv(self.widths[0], 4, self.dtype, XAVIER)(x)
        for width in self.widths[1:]:
            y = leaky(instance_norm(x, self.dtype, 1e-5))
            y = nn.Conv(x.shape[-1], (3, 3), dtype=self.dtype, kernel_init=XAVIER)(y)
            y = leaky(instance_norm(y, self.dtype, 1e-5))
            y = halved(nn.Conv(width, (3, 3), dtype=self.dtype, kernel_init=XAVIER)(y))
            x = y + nn.Conv(width, (1, 1), dtype=self.dtype, kernel_init=XAVIER)(halved(x))
        return GaussianHead(self.z_dim, self.dtype, XAVIER)(leaky(x).mean(axis=(1, 2)))


class PatchCritic(nn.Module):
    """(B,H,W,3) -> scores of patches, (B,h,w) at the image's size and at half of it.

    more: a further layer of that width, without stride; half: the smaller view has half the widths.
    """

    widths: Sequence[int]
    more: int = 0
    half: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, ...]:
        def conv(x: jax.Array, width: int) -> jax.Array:
            return nn.Conv(width, (4, 4), padding=1, dtype=self.dtype, kernel_init=XAVIER)(x)

        def patches(x: jax.Array, part: int) -> jax.Array:
            for level, width in enumerate(self.widths):
                x = DownConv(width // part, 4, self.dtype, XAVIER)(x)
                x = leaky(instance_norm(x, self.dtype, 1e-5) if level else x)
            if self.more:
                x = leaky(instance_norm(conv(x, self.more // part), self.dtype, 1e-5))
            return conv(x, 1)[..., 0].astype(jnp.float32)

        pad = ((1, 1), (1, 1))
        smaller = nn.avg_pool(x, (3, 3), (2, 2), pad, count_include_pad=False)
        return patches(x, 1), patches(smaller, 2 if self.half else 1)
