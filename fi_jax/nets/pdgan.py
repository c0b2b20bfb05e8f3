"""The networks of PD-GAN (Liu et al., 2021): noise, led to a prior image near a hole's border.

Those under spectral norm take update_stats, true where a call of the training moves its estimates.
"""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from fi_jax.nets.layers import (
    DownConv,
    Dtype,
    InstanceNorm,
    TransposedConv,
    halved,
    instance_norm,
    leaky,
    spectral,
)

NORMAL = nn.initializers.normal(0.02)


def conv(
    features: int, size: int, dtype: Dtype, stride: int = 1, use_bias: bool = True
) -> nn.Module:
    """A convolution as this system begins it; of stride 1 or 2."""
    if stride == 2:
        return DownConv(features, size, dtype, NORMAL, use_bias)
    return nn.Conv(features, (size, size), use_bias=use_bias, dtype=dtype, kernel_init=NORMAL)


def grown(visible: jax.Array, size: int = 3) -> jax.Array:
    """A map (B,H,W,1) of 0 and 1 whose ones reach half of `size` further."""
    return nn.max_pool(visible, (size, size), (1, 1), 'SAME')


def hard_map(visible: jax.Array, rings: int, size: int = 3) -> jax.Array:
    """How much each pixel follows the prior image; visible (B,H,W,1) of 0 and 1 -> (B,H,W,1).

    1 where visible, e^-i in the i-th ring from there, e^-rings in all that lies deeper: the
    diversity map of the paper's section 3.2.
    """
    share, reached = visible, visible
    for ring in range(1, rings + 1):
        further = grown(reached, size)
        share = share + (further - reached) * jnp.exp(-float(ring))
        reached = further
    return share + (1.0 - reached) * jnp.exp(-float(rings))


class SPDNorm(nn.Module):
    """Each pixel's channels normalised, then scaled and shifted by the prior image, by a share.

    x (B,h,w,C), prior (B,h,w,3), share (B,h,w,1 or C) in [0,1]: 0 leaves x to itself.
    """

    hidden: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, prior: jax.Array, share: jax.Array) -> jax.Array:
        wide = x.astype(jnp.float32)
        spread = jnp.var(wide, axis=-1, ddof=1, keepdims=True) + 1e-5
        wide = (wide - wide.mean(-1, keepdims=True)) * jax.lax.rsqrt(spread)
        y = nn.relu(conv(self.hidden, 3, self.dtype)(prior))
        scale, shift = jnp.split(conv(2 * x.shape[-1], 3, self.dtype)(y), 2, axis=-1)
        share = share.astype(self.dtype)
        return wide.astype(self.dtype) * (1.0 + share * scale) + share * shift


class Block(nn.Module):
    """Residual block of SPDNorms: hard in the main path, soft beside it, then twice the size."""

    features: int
    hidden: int
    rings: int
    ring_size: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, prior: jax.Array, visible: jax.Array, update_stats: bool
    ) -> jax.Array:
        def normed(x: jax.Array, share: jax.Array) -> jax.Array:
            return SPDNorm(self.hidden, self.dtype)(x, prior, share)

        width = x.shape[-1]
        look = nn.relu(instance_norm(conv(self.hidden, 3, self.dtype)(prior), self.dtype, 1e-5))
        look = jnp.concatenate([conv(width, 3, self.dtype)(look), x], axis=-1)
        soft = nn.sigmoid(conv(width, 3, self.dtype)(look))
        soft = (1.0 - visible) * soft + visible
        hard = hard_map(visible, self.rings, self.ring_size)

        shortcut = conv(self.features, 1, self.dtype, use_bias=False)
        first = conv(min(width, self.features), 3, self.dtype)
        second = conv(self.features, 3, self.dtype)
        beside = spectral(shortcut, normed(x, soft), update_stats)
        y = spectral(first, leaky(normed(x, hard)), update_stats)
        y = spectral(second, leaky(normed(y, hard)), update_stats)
        return TransposedConv(self.features, 4, self.dtype, NORMAL)(y + beside)


class Generator(nn.Module):
    """z (B,D), prior image (B,H,W,3), visible (B,H,W,1) -> image (B,H,W,3) in [-1,1].

    widths: of the blocks, from 4 pixels up. Each sees the prior image and the hole at its own size,
    pixels taken from the full one; rings grow by one a block, and wider from 64 pixels on.
    """

    widths: Sequence[int]
    hidden: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, z: jax.Array, prior: jax.Array, visible: jax.Array, update_stats: bool = False
    ) -> jax.Array:
        x = nn.Dense(16 * self.widths[0], dtype=self.dtype, kernel_init=NORMAL)(z)
        x = x.reshape(len(z), 4, 4, -1)
        for level, width in enumerate(self.widths):
            side = x.shape[1]
            step = prior.shape[1] // side
            block = Block(width, self.hidden, 2 + level, 3 if side < 64 else 5, self.dtype)
            x = block(x, prior[:, ::step, ::step], visible[:, ::step, ::step], update_stats)
        return jnp.tanh(conv(3, 3, self.dtype)(leaky(x)).astype(jnp.float32))


class PartialConv(nn.Module):
    """A convolution of what is visible, brought to its scale; and what is visible after it.

    x (B,H,W,C), visible (B,H,W,1); stride 1 or 2 (Liu et al., 2018). 0 where a window shows
    nothing.
    """

    features: int
    size: int
    stride: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, visible: jax.Array) -> tuple[jax.Array, jax.Array]:
        layer = conv(self.features, self.size, self.dtype, self.stride, use_bias=False)
        y = layer(x * visible.astype(x.dtype))
        window, stride = (self.size, self.size), (self.stride, self.stride)
        share = nn.avg_pool(visible, window, stride, 'SAME')
        seen = (share > 1e-6).astype(jnp.float32)
        return y * (seen / jnp.maximum(share, 1e-6)).astype(y.dtype), seen


class Prior(nn.Module):
    """A first guess (B,H,W,3) in [-1,1] of image (B,H,W,3) whose pixels are visible (B,H,W,1).

    A U-Net of partial convolutions, which forgets the hole as it narrows.
    """

    widths: Sequence[int]
    blocks: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, image: jax.Array, visible: jax.Array) -> jax.Array:
        x, seen, skips, deepest = image, visible, [], len(self.widths) - 1
        for level, width in enumerate(self.widths):
            x, seen = PartialConv(width, 4, 2, self.dtype)(leaky(x) if level else x, seen)
            x = InstanceNorm(self.dtype)(x) if 0 < level < deepest else x
            skips.append(x)
        for _ in range(self.blocks):
            y, seen = PartialConv(x.shape[-1], 3, 1, self.dtype)(x, seen)
            y = nn.relu(instance_norm(y, self.dtype, 1e-5))
            y, seen = PartialConv(x.shape[-1], 3, 1, self.dtype)(y, seen)
            x = x + instance_norm(y, self.dtype, 1e-5)
        for level in range(deepest, -1, -1):
            x = x if level == deepest else jnp.concatenate([x, skips[level]], axis=-1)
            width = self.widths[level - 1] if level else 3
            x = TransposedConv(width, 4, self.dtype, NORMAL)(nn.relu(x))
            x = InstanceNorm(self.dtype)(x) if level else x
        return jnp.tanh(x.astype(jnp.float32))


class Critic(nn.Module):
    """(B,H,W,C) -> for each of two sizes the maps of its layers; the last, one channel, scores."""

    widths: Sequence[int]
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, update_stats: bool = False
    ) -> tuple[tuple[jax.Array, ...], ...]:
        found = []
        for view in (x, halved(x)):
            maps = [leaky(conv(self.widths[0], 4, self.dtype, 2)(view))]
            for level, width in enumerate(self.widths[1:], 2):
                stride = 1 if level == len(self.widths) else 2
                layer = conv(width, 4, self.dtype, stride, use_bias=False)
                y = spectral(layer, maps[-1], update_stats)
                maps.append(leaky(instance_norm(y, self.dtype, 1e-5)))
            maps.append(conv(1, 4, self.dtype)(maps[-1]).astype(jnp.float32))
            found.append(tuple(maps))
        return tuple(found)
