"""The networks of PICNet (Zheng et al., 2019): residual blocks under spectral norm, and attention.

Each takes update_stats, true where a call of the training moves the estimates of the norms.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from fi_jax.nets.layers import Dtype, InstanceNorm, TransposedConv, halved, spectral

ORTHOGONAL = nn.initializers.orthogonal(0.02)


class Gaussian(NamedTuple):
    """Mean and log-variance (B,h,w,C) of a code that has a place."""

    mean: jax.Array
    logvar: jax.Array


def leaky(x: jax.Array) -> jax.Array:
    """Leaky ReLU with slope 0.1, the activation of this system."""
    return nn.leaky_relu(x, 0.1)


def conv(features: int, size: int, dtype: Dtype, name: str, padding: str = 'SAME') -> nn.Module:
    """A convolution as this system begins it."""
    return nn.Conv(
        features, (size, size), padding=padding, dtype=dtype, kernel_init=ORTHOGONAL, name=name
    )


class ResBlock(nn.Module):
    """Activation, 3x3, activation, 3x3, beside a 1x1; at half the size where `down`."""

    features: int
    hidden: int
    down: bool = False
    slope: float = 0.1
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, update_stats: bool) -> jax.Array:
        def apply(features: int, size: int, name: str, x: jax.Array) -> jax.Array:
            return spectral(conv(features, size, self.dtype, name), x, update_stats)

        y = apply(self.hidden, 3, 'conv1', nn.leaky_relu(x, self.slope))
        y = apply(self.features, 3, 'conv2', nn.leaky_relu(y, self.slope))
        if self.down:  # a mean of 2x2 passes through a 1x1
            x, y = halved(x), halved(y)
        return y + apply(self.features, 1, 'bypass', x)


class FirstBlock(nn.Module):
    """3x3, activation, 3x3, beside a 1x1, at half the size: a block for pixels."""

    features: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, update_stats: bool) -> jax.Array:
        def apply(size: int, name: str, x: jax.Array) -> jax.Array:
            return spectral(conv(self.features, size, self.dtype, name), x, update_stats)

        y = apply(3, 'conv2', leaky(apply(3, 'conv1', x)))
        return halved(y) + apply(1, 'bypass', halved(x))


class UpBlock(nn.Module):
    """Norm, activation, 3x3, norm, activation, transposed 3x3, beside another; twice the size."""

    features: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, update_stats: bool) -> jax.Array:
        def up(name: str, x: jax.Array) -> jax.Array:
            layer = TransposedConv(self.features, 3, self.dtype, ORTHOGONAL, name=name)
            return spectral(layer, x, update_stats)

        y = leaky(InstanceNorm(self.dtype, name='norm1')(x))
        y = spectral(conv(self.features, 3, self.dtype, 'conv1'), y, update_stats)
        y = leaky(InstanceNorm(self.dtype, name='norm2')(y))
        return up('conv2', y) + up('bypass', x)


class Attention(nn.Module):
    """Of each place over all: short, to its own features, and long, to those of the encoder.

    x (B,h,w,C). encoded (B,h,w,D) and visible (B,h,w,1), the share of a place that is seen, if
    given: hidden places take what the encoder saw where the decoder's features are alike. The
    queries are the keys, and their products are not scaled.
    """

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        encoded: jax.Array | None = None,
        visible: jax.Array | None = None,
        update_stats: bool = False,
    ) -> jax.Array:
        b, h, w, c = x.shape
        gamma = self.param('gamma', nn.initializers.zeros, (1,)).astype(x.dtype)
        query = conv(c // 4, 1, self.dtype, 'query')(x).reshape(b, h * w, -1)
        energy = jnp.einsum('bic,bjc->bij', query, query).astype(jnp.float32)
        weights = jax.nn.softmax(energy, axis=-1).astype(x.dtype)

        def flow(values: jax.Array) -> jax.Array:
            rows = values.reshape(b, h * w, -1)
            return jnp.einsum('bij,bjc->bic', weights, rows).reshape(values.shape)

        short = gamma[0] * flow(x) + x
        if encoded is None or visible is None:
            return short
        alpha = self.param('alpha', nn.initializers.zeros, (1,)).astype(x.dtype)
        long = alpha[0] * (1.0 - visible) * flow(encoded) + visible * encoded
        both = jnp.concatenate([short, long], axis=-1)
        return ResBlock(c, c, slope=0.01, dtype=self.dtype, name='join')(both, update_stats)


class Encoder(nn.Module):
    """The visible image (B,H,W,3) -> prior, features of each level; with the hidden one, both ways.

    With `complement`, the pixels of the hole alone, the answer is (posterior, prior, features), the
    posterior read off the complement; the features are those of the visible image always.
    """

    widths: Sequence[int]
    z_dim: int
    prior_blocks: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, masked: jax.Array, complement: jax.Array | None = None, update_stats: bool = False
    ) -> tuple:
        x = masked
        if complement is not None:  # neighbours, so that no example leaves its device
            x = jnp.stack([masked, complement], axis=1).reshape(-1, *masked.shape[1:])
        x = FirstBlock(self.widths[0], self.dtype, name='block0')(x, update_stats)
        maps = [x]
        for level, (width, hidden) in enumerate(zip(self.widths[1:], self.widths, strict=False)):
            block = ResBlock(width, hidden, True, dtype=self.dtype, name=f'encoder{level}')
            maps.append(x := block(x, update_stats))

        def gaussian(name: str, x: jax.Array) -> Gaussian:
            head = ResBlock(2 * self.z_dim, x.shape[-1], dtype=self.dtype, name=name)
            mean, raw = jnp.split(head(x, update_stats).astype(jnp.float32), 2, axis=-1)
            return Gaussian(mean, 2.0 * jnp.log(jax.nn.softplus(raw) + 1e-6))

        both = complement is not None
        maps = [m[::2] for m in maps] if both else maps
        seen = maps[-1]
        for i in range(self.prior_blocks):
            width = seen.shape[-1]
            seen = ResBlock(width, width, dtype=self.dtype, name=f'infer_prior{i}')(
                seen, update_stats
            )
        prior = gaussian('prior', seen)
        if not both and not self.is_initializing():
            return prior, tuple(maps)
        posterior = gaussian('posterior', x[1::2] if both else x)
        return posterior, prior, tuple(maps)


class Generator(nn.Module):
    """z (B,h,w,Z), features of the encoder, visible (B,H,W,1) -> images, coarse to fine.

    widths: of the levels up. The last `scales` of them give an image in [-1,1] each, which the next
    level sees. Attention joins in after two levels.
    """

    widths: Sequence[int]
    scales: int = 4
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        z: jax.Array,
        maps: Sequence[jax.Array],
        visible: jax.Array,
        update_stats: bool = False,
    ) -> tuple[jax.Array, ...]:
        width = maps[-1].shape[-1]
        x = maps[-1] + ResBlock(width, width, dtype=self.dtype, name='generator')(z, update_stats)
        images: list[jax.Array] = []
        for level, width in enumerate(self.widths):
            x = UpBlock(width, self.dtype, name=f'decoder{level}')(x, update_stats)
            if level == 1:
                encoded = maps[-3]
                shares = visible.astype(x.dtype)
                while shares.shape[1] > x.shape[1]:
                    shares = halved(shares)
                x = Attention(self.dtype, name='attention')(x, encoded, shares, update_stats)
            if level >= len(self.widths) - self.scales:
                y = jnp.pad(leaky(x), ((0, 0), (1, 1), (1, 1), (0, 0)), mode='reflect')
                y = spectral(conv(3, 3, self.dtype, f'out{level}', 'VALID'), y, update_stats)
                images.append(jnp.tanh(y.astype(jnp.float32)))
                x = jnp.concatenate([x, images[-1].astype(x.dtype)], axis=-1)
        return tuple(images)


class Critic(nn.Module):
    """(B,H,W,3) -> scores (B,N) of places."""

    widths: Sequence[int]
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, update_stats: bool = False) -> jax.Array:
        x = FirstBlock(self.widths[0], self.dtype, name='block0')(x, update_stats)
        for level, (width, hidden) in enumerate(zip(self.widths[1:], self.widths, strict=False)):
            if level == 2:
                x = Attention(self.dtype, name='attention')(x)
            block = ResBlock(width, hidden, True, dtype=self.dtype, name=f'encoder{level}')
            x = block(x, update_stats)
        x = ResBlock(x.shape[-1], x.shape[-1], dtype=self.dtype, name='block1')(x, update_stats)
        x = spectral(conv(1, 3, self.dtype, 'conv', 'VALID'), leaky(x), update_stats)
        return x.reshape(len(x), -1).astype(jnp.float32)
