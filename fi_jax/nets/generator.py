"""Face Generator: visible pixels, hole, V_emb and z -> the completed image."""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from fi_jax.nets.layers import DownConv, Dtype, FiLM, UpConv, group_norm, leaky


def visible_share(hole: jax.Array, size: int) -> jax.Array:
    """Share of visible pixels in each cell of a size x size grid; (B,H,W,1) -> (B,size,size,1)."""
    stride = hole.shape[1] // size
    cells = hole.reshape(hole.shape[0], size, stride, size, stride, 1)
    return 1.0 - cells.mean(axis=(2, 4))


def shrink(condition: jax.Array, size: int) -> jax.Array:
    """The greatest value in each cell of a size x size grid; (B,H,W,C) -> (B,size,size,C)."""
    stride = condition.shape[1] // size
    cells = condition.reshape(condition.shape[0], size, stride, size, stride, -1)
    return cells.max(axis=(2, 4))


class FaceGenerator(nn.Module):
    """U-Net modulated by [V_emb, z] -> image (B,H,W,3) in [-1,1].

    masked (B,H,W,3), hole (B,H,W,1), condition (B,H,W,G) of `features.condition_maps`.
    The first level runs at half resolution: full-resolution convolutions with few channels cost
    the most time and learn the least. Skips carry visible features only (as in LaFIn), so that a
    hole cannot pass zeros as content; the condition joins each decoder level as it is, for it holds
    inside the hole. z_inject: 'film' modulates each decoder level; 'concat' joins the code at the
    bottleneck only.
    """

    widths: Sequence[int]
    dilations: Sequence[int] = (1, 2, 4)
    full_width: int = 16
    z_inject: str = 'film'
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        masked: jax.Array,
        hole: jax.Array,
        condition: jax.Array,
        v_emb: jax.Array,
        z: jax.Array,
    ) -> jax.Array:
        def conv(x: jax.Array, width: int, dilation: int = 1) -> jax.Array:
            return nn.Conv(width, (3, 3), kernel_dilation=dilation, dtype=self.dtype)(x)

        code = jnp.concatenate([v_emb, z], axis=-1)
        w = code
        for _ in range(2):
            w = leaky(nn.Dense(256, dtype=self.dtype)(w))

        x = full = jnp.concatenate([masked, hole, condition], axis=-1)
        skips = []
        for width in self.widths:
            x = leaky(DownConv(width, 4, self.dtype)(x))
            x = leaky(conv(x, width))
            visible = x * visible_share(hole, x.shape[1]).astype(x.dtype)
            level_condition = shrink(condition, x.shape[1]).astype(x.dtype)
            skips.append(jnp.concatenate([visible, level_condition], axis=-1))

        side = x.shape[1]
        seed = code if self.z_inject == 'concat' else v_emb
        seed = nn.Dense(side * side * 32, dtype=self.dtype)(seed).reshape(-1, side, side, 32)
        x = leaky(conv(jnp.concatenate([x, seed], axis=-1), self.widths[-1]))
        for dilation in self.dilations:
            x = x + leaky(conv(x, self.widths[-1], dilation))

        def modulate(x: jax.Array) -> jax.Array:
            x = group_norm(x, self.dtype)
            return leaky(FiLM(self.dtype)(x, w) if self.z_inject == 'film' else x)

        x = modulate(x)
        for width, skip in zip(self.widths[-2::-1], skips[-2::-1], strict=True):
            x = leaky(UpConv(width, self.dtype)(x))
            x = modulate(conv(jnp.concatenate([x, skip], axis=-1), width))
        x = leaky(UpConv(self.full_width, self.dtype)(x))
        x = modulate(conv(jnp.concatenate([x, full], axis=-1), self.full_width))
        return jnp.tanh(conv(x, 3).astype(jnp.float32))
