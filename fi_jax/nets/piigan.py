"""The inpainter of PiiGAN (Cai & Wei, 2020): coarse, then fine with attention, z in each layer."""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from fi_jax.nets.layers import DownConv, Dtype, UpConv, contextual_attention


class Inpainter(nn.Module):
    """masked (B,H,W,3), hole (B,H,W,1), z (B,H,W,1) -> coarse and fine image, each (B,H,W,3).

    Two stages of dilated convolutions without norms (Yu et al., 2018), images clipped to [-1,1]. z
    counts inside the hole alone; it is added to all channels of every convolution on the way down.
    """

    width: int = 32
    rates: Sequence[int] = (2, 4, 8, 16)
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, masked: jax.Array, hole: jax.Array, z: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        w, z = self.width, (z * hole).astype(self.dtype)
        condition = [z, jnp.ones_like(z), hole.astype(self.dtype)]
        z_of = {z.shape[1] // stride: z[:, ::stride, ::stride] for stride in (1, 2, 4)}

        def conv(x: jax.Array, width: int, size: int = 3, rate: int = 1) -> jax.Array:
            return nn.Conv(width, (size, size), kernel_dilation=rate, dtype=self.dtype)(x)

        def with_z(x: jax.Array) -> jax.Array:
            return nn.elu(x + z_of[x.shape[1]])

        def down(x: jax.Array, widths: Sequence[int]) -> jax.Array:
            """To a quarter of the side; the first of each octave's widths halves it."""
            first, half, same, quarter, *rest = widths
            x = with_z(conv(x, first, 5))
            x = with_z(conv(with_z(DownConv(half, 3, self.dtype)(x)), same))
            x = with_z(DownConv(quarter, 3, self.dtype)(x))
            for width in rest:
                x = with_z(conv(x, width))
            return x

        def dilated(x: jax.Array) -> jax.Array:
            for rate in self.rates:
                x = with_z(conv(x, 4 * w, rate=rate))
            return x

        def up(x: jax.Array) -> jax.Array:
            for _ in range(2):
                x = with_z(conv(x, 4 * w))
            for one, two in ((2 * w, 2 * w), (w, w // 2)):
                x = nn.elu(conv(nn.elu(UpConv(one, self.dtype)(x)), two))
            return jnp.clip(conv(x, 3).astype(jnp.float32), -1.0, 1.0)

        x = jnp.concatenate([masked.astype(self.dtype), *condition], axis=-1)
        coarse = up(dilated(down(x, (w, 2 * w, 2 * w, 4 * w, 4 * w, 4 * w))))

        pasted = jnp.where(hole > 0, coarse, masked).astype(self.dtype)
        x = jnp.concatenate([pasted, *condition], axis=-1)
        imagined = dilated(down(x, (w, w, 2 * w, 2 * w, 4 * w, 4 * w)))
        seen = down(x, (w, w, 2 * w, 4 * w, 4 * w, 4 * w))
        seen = contextual_attention(seen, nn.max_pool(hole, (4, 4), (4, 4)))
        for _ in range(2):
            seen = with_z(conv(seen, 4 * w))
        return coarse, up(jnp.concatenate([imagined, seen], axis=-1))
