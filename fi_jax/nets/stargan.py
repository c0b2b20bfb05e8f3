"""The networks of StarGAN (Choi et al., 2018), given a hole, and the labels that were seen."""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from fi_jax.nets.layers import DownConv, Dtype, InstanceNorm, TransposedConv

# PyTorch's own, which the authors leave as it is.
UNIFORM = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')


class Generator(nn.Module):
    """(B,H,W,C), labels (B,K) of 0 and 1 -> image (B,H,W,3) in [-1,1].

    width: of the full side; twice that at half, four times at a quarter, where the blocks are.
    """

    width: int
    blocks: int = 6
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, labels: jax.Array) -> jax.Array:
        def conv(x: jax.Array, width: int, size: int) -> jax.Array:
            return nn.Conv(
                width, (size, size), use_bias=False, dtype=self.dtype, kernel_init=UNIFORM
            )(x)

        def normed(x: jax.Array) -> jax.Array:
            return InstanceNorm(self.dtype)(x)

        tiled = jnp.broadcast_to(labels[:, None, None, :], (*x.shape[:3], labels.shape[-1]))
        x = jnp.concatenate([x, tiled.astype(x.dtype)], axis=-1)
        x = nn.relu(normed(conv(x, self.width, 7)))
        for width in (2 * self.width, 4 * self.width):
            x = nn.relu(normed(DownConv(width, 4, self.dtype, UNIFORM, use_bias=False)(x)))
        for _ in range(self.blocks):
            y = nn.relu(normed(conv(x, x.shape[-1], 3)))
            x = x + normed(conv(y, x.shape[-1], 3))
        for width in (2 * self.width, self.width):
            x = nn.relu(normed(TransposedConv(width, 4, self.dtype, UNIFORM, use_bias=False)(x)))
        return jnp.tanh(conv(x, 3, 7).astype(jnp.float32))


class Critic(nn.Module):
    """(B,H,W,3) -> scores (B,N) of places, logits (B,K) of the labels."""

    widths: Sequence[int]
    labels: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        for width in self.widths:
            x = nn.leaky_relu(DownConv(width, 4, self.dtype, UNIFORM)(x), 0.01)
        last = dict(use_bias=False, dtype=self.dtype, kernel_init=UNIFORM)
        scores = nn.Conv(1, (3, 3), **last)(x)
        logits = nn.Dense(self.labels, **last)(x.reshape(len(x), -1))
        return scores.reshape(len(x), -1).astype(jnp.float32), logits.astype(jnp.float32)


class Labels(nn.Module):
    """The labels of the last `size` faces that were known, to draw from: what goes together stays.

    share (B,) in [0,1) chooses among them -> (B,K). labels (B,K) and known (B,K), if given, take
    the place of the oldest first; an unknown label keeps what stood there.
    """

    labels: int
    size: int = 1024

    @nn.compact
    def __call__(
        self,
        share: jax.Array,
        labels: jax.Array | None = None,
        known: jax.Array | None = None,
    ) -> jax.Array:
        shape = self.size, self.labels
        seen = self.variable('batch_stats', 'seen', jnp.zeros, shape, jnp.float32)
        count = self.variable('batch_stats', 'count', jnp.zeros, (), jnp.int32)
        if labels is not None and known is not None:
            rows = min(len(labels), self.size)
            oldest = seen.value[:rows]
            newest = jnp.where(known[:rows] > 0, labels[:rows], oldest)
            seen.value = jnp.concatenate([seen.value[rows:], newest])
            count.value = jnp.minimum(count.value + rows, self.size)
        back = (share * count.value).astype(jnp.int32)  # 0 is the newest
        return seen.value[jnp.clip(self.size - 1 - back, 0, self.size - 1)]
