"""The network of a flow: noisy image, hole, landmark condition, time and style -> an image.

Patches first, width at low resolution: on two CPU cores most of its products then run near the
machine's matrix rate. `patch=1` is the plain U-Net for accelerators.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from fi_jax.nets.layers import Dtype, FiLM, group_norm

_ZEROS = nn.initializers.zeros


def space_to_depth(x: jax.Array, size: int) -> jax.Array:
    """(B,H,W,C) -> (B,H/size,W/size,size*size*C)."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // size, size, w // size, size, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, h // size, w // size, size * size * c)


def depth_to_space(x: jax.Array, size: int) -> jax.Array:
    """The inverse of `space_to_depth`."""
    b, h, w, c = x.shape
    x = x.reshape(b, h, w, size, size, c // size**2).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, h * size, w * size, c // size**2)


def time_features(t: jax.Array, width: int = 128) -> jax.Array:
    """Cosines and sines of t (B,) in [0,1] at geometric rates, (B,width) (Vaswani et al., 2017)."""
    rates = 1000.0 * jnp.exp(-math.log(1000.0) * jnp.arange(width // 2) / (width // 2))
    angles = t[:, None] * rates[None]
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


class Block(nn.Module):
    """Residual block of two 3x3 convolutions; the embedding (B,D) scales and shifts the second."""

    width: int
    dtype: Dtype

    @nn.compact
    def __call__(self, x: jax.Array, embedding: jax.Array) -> jax.Array:
        y = nn.silu(group_norm(x, self.dtype))
        y = group_norm(nn.Conv(self.width, (3, 3), dtype=self.dtype)(y), self.dtype)
        y = nn.silu(FiLM(self.dtype)(y, embedding))
        y = nn.Conv(self.width, (3, 3), dtype=self.dtype, kernel_init=_ZEROS)(y)
        if x.shape[-1] != self.width:
            x = nn.Dense(self.width, dtype=self.dtype)(x)
        return x + y


class Attention(nn.Module):
    """Residual self-attention over all pixels, heads of 32 channels (Vaswani et al., 2017)."""

    dtype: Dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        b, h, w, c = x.shape
        heads = max(1, c // 32)
        y = group_norm(x, self.dtype).reshape(b, h * w, c)
        qkv = nn.Dense(3 * c, dtype=self.dtype)(y).reshape(b, h * w, 3, heads, c // heads)
        q, k, v = (qkv[:, :, i] for i in range(3))
        y = jax.nn.dot_product_attention(q, k, v).reshape(b, h, w, c)
        return x + nn.Dense(c, dtype=self.dtype, kernel_init=_ZEROS)(y)


class FlowUNet(nn.Module):
    """A U-Net on patches: x (B,H,W,C), t (B,) in [0,1], style (B,D) -> (B,H,W,3) float32.

    widths: one entry an octave, from H/patch down; blocks: residual blocks a level on the way down,
    one more on the way up; attention: sides, in pixels of a level, at which pixels attend to all.
    """

    patch: int
    widths: Sequence[int]
    blocks: int = 1
    attention: Sequence[int] = ()
    embedding: int = 256
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, t: jax.Array, style: jax.Array) -> jax.Array:
        def dense(width: int) -> nn.Dense:
            return nn.Dense(width, dtype=self.dtype)

        def block(y: jax.Array, width: int) -> jax.Array:
            y = Block(width, self.dtype)(y, e)
            return Attention(self.dtype)(y) if y.shape[1] in self.attention else y

        e = jnp.concatenate([time_features(t), style], axis=-1)
        e = nn.silu(dense(self.embedding)(nn.silu(dense(self.embedding)(e))))
        y = space_to_depth(x.astype(self.dtype), self.patch)
        y = nn.Conv(self.widths[0], (3, 3), dtype=self.dtype)(y)
        levels = []
        for level, width in enumerate(self.widths):
            if level:
                y = dense(width)(space_to_depth(y, 2))
            skips = [y]
            for _ in range(self.blocks):
                y = block(y, width)
                skips.append(y)
            levels.append(skips)
        for level, width in reversed(list(enumerate(self.widths))):
            for skip in reversed(levels[level]):
                y = block(jnp.concatenate([y, skip], axis=-1), width)
            if level:
                y = depth_to_space(dense(4 * self.widths[level - 1])(y), 2)
        y = nn.silu(group_norm(y, jnp.float32))
        y = nn.Conv(3 * self.patch**2, (3, 3), kernel_init=_ZEROS)(y)
        return depth_to_space(y, self.patch)


def at_finer_patches(params: dict[str, Any], like: dict[str, Any]) -> dict[str, Any]:
    """Weights of a `FlowUNet` for patches of more pixels (or without a style), as `like` has them.

    What they draw stays the same: the first layer sees the mean of the pixels that stand for one of
    before, the last gives each of them the same value.
    """
    first, last, time = (dict(params[name]) for name in ('Conv_0', 'Conv_1', 'Dense_1'))
    before = math.isqrt(last['bias'].size // 3)
    after = math.isqrt(like['Conv_1']['bias'].size // 3)
    if after % before:
        return params
    more = after // before

    def repeat(x: np.ndarray, axis: int) -> np.ndarray:
        """Patches along an axis of before * before * C entries, each pixel more * more times."""
        x = np.asarray(x)
        shape, channels = x.shape, x.shape[axis] // before**2
        x = x.reshape(*shape[:axis], before, before, channels, *shape[axis + 1 :])
        x = np.repeat(np.repeat(x, more, axis), more, axis + 1)
        return x.reshape(*shape[:axis], after**2 * channels, *shape[axis + 1 :])

    first['kernel'] = repeat(first['kernel'], 2) / more**2
    last = {'kernel': repeat(last['kernel'], 3), 'bias': repeat(last['bias'], 0)}
    time['kernel'] = np.asarray(time['kernel'])[: like['Dense_1']['kernel'].shape[0]]
    return {**params, 'Conv_0': first, 'Conv_1': last, 'Dense_1': time}
