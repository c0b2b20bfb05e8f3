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
    instance_norm,
    leaky,
)


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
                return TransposedConv(width, 4, self.dtype)(x)
            return UpConv(width, self.dtype)(x)

        skips: list[jax.Array] = []
        for level, width in enumerate(self.widths):
            x = DownConv(width, 4, self.dtype)(with_z(x))
            # One pixel has no deviation to be normalised by.
            x = leaky(instance_norm(x, self.dtype) if level and x.shape[1] > 1 else x)
            skips.append(x)
        for level, skip in reversed(list(enumerate(skips[:-1]))):
            x = nn.relu(instance_norm(up(x, self.widths[level]), self.dtype))
            x = jnp.concatenate([x, skip], axis=-1)
        return jnp.tanh(up(x, 3).astype(jnp.float32))


class Encoder(nn.Module):
    """(B,H,W,3) -> mean, logvar of z, each (B,z_dim): residual blocks, then the mean of all."""

    widths: Sequence[int]
    z_dim: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        x = DownConv(self.widths[0], 4, self.dtype)(x)
        for width in self.widths[1:]:
            y = leaky(instance_norm(x, self.dtype))
            y = nn.Conv(x.shape[-1], (3, 3), dtype=self.dtype)(y)
            y = DownConv(width, 3, self.dtype)(leaky(instance_norm(y, self.dtype)))
            x = y + nn.Conv(width, (1, 1), dtype=self.dtype)(nn.avg_pool(x, (2, 2), (2, 2)))
        return GaussianHead(self.z_dim, self.dtype)(leaky(x).mean(axis=(1, 2)))


class PatchCritic(nn.Module):
    """(B,H,W,3) -> scores (B,N) of patches, at the image's size and at half of it.

    more: a further layer of that width, without stride; half: the smaller view has half the widths.
    """

    widths: Sequence[int]
    more: int = 0
    half: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scores = []
        for view, part in ((x, 1), (nn.avg_pool(x, (2, 2), (2, 2)), 2 if self.half else 1)):
            for level, width in enumerate(self.widths):
                view = DownConv(width // part, 4, self.dtype)(view)
                view = leaky(instance_norm(view, self.dtype) if level else view)
            if self.more:
                view = nn.Conv(self.more // part, (4, 4), dtype=self.dtype)(view)
                view = leaky(instance_norm(view, self.dtype))
            view = nn.Conv(1, (4, 4), dtype=self.dtype)(view)
            scores.append(view.reshape(len(view), -1).astype(jnp.float32))
        return jnp.concatenate(scores, axis=-1)
