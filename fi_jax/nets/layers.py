"""Layers shared by the networks: convolutions, sub-pixel upsampling, norms, FiLM, attention."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

Dtype = Any


def leaky(x: jax.Array) -> jax.Array:
    """Leaky ReLU with slope 0.2, the activation of all encoders and critics."""
    return nn.leaky_relu(x, 0.2)


def group_norm(x: jax.Array, dtype: Dtype, groups: int = 8, epsilon: float = 1e-6) -> jax.Array:
    """Group normalisation without affine, statistics in float32, in two passes (Wu & He, 2018)."""
    b, h, w, c = x.shape
    size = c // groups

    def group_mean(x: jax.Array) -> jax.Array:
        # Sums by channel first: XLA's CPU backend is slow at reductions that cut the last axis.
        sums = x.sum(axis=(1, 2)).reshape(b, groups, size).sum(axis=-1) / (h * w * size)
        return jnp.repeat(sums, size, axis=-1)[:, None, None, :]

    x = x.astype(jnp.float32)
    x = x - group_mean(x)
    return (x * jax.lax.rsqrt(group_mean(x * x) + epsilon)).astype(dtype)


def instance_norm(x: jax.Array, dtype: Dtype, epsilon: float = 1e-6) -> jax.Array:
    """Each channel of each example to mean 0 and deviation 1 (Ulyanov et al., 2016)."""
    return group_norm(x, dtype, x.shape[-1], epsilon)


class InstanceNorm(nn.Module):
    """`instance_norm` with a learned scale and shift of each channel; (B,H,W,C)."""

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param('scale', nn.initializers.ones, (x.shape[-1],))
        bias = self.param('bias', nn.initializers.zeros, (x.shape[-1],))
        x = instance_norm(x, self.dtype, 1e-5)
        return x * scale.astype(x.dtype)[None, None, None] + bias.astype(x.dtype)[None, None, None]


def spectral(layer: nn.Module, x: jax.Array, update_stats: bool) -> jax.Array:
    """A layer with its kernel divided by its largest singular value (Miyato et al., 2018).

    The running estimate lives in the collection 'batch_stats' and moves where update_stats is true.
    """
    return nn.SpectralNorm(layer)(x, update_stats=update_stats)


def halved(x: jax.Array) -> jax.Array:
    """The means of 2x2 pixels: (B,H,W,C) -> (B,H/2,W/2,C)."""
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).mean(axis=(2, 4))


# Row a of the kernel that an output pixel of phase a sees, when a 3-tap filter runs over an image
# doubled by repetition: two of its three taps fall on the same source pixel and add up.
_PHASE_TAPS = (((1, 0, 0), (0, 1, 1)), ((1, 1, 0), (0, 0, 1)))


def upsample_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Nearest upsampling by 2, then a 3x3 convolution, computed at the low resolution.

    x: (B,H,W,I), kernel: (3,3,I,O) -> (B,2H,2W,O). The same function as the two steps one after
    the other (up to rounding) with 2.25 times fewer multiplications: each of the four output
    phases is a 2x2 convolution, and the four run as one with 4*O channels (Shi et al., 2016).
    """
    taps = jnp.asarray(_PHASE_TAPS, kernel.dtype)
    return _four_phases(x, jnp.einsum('aik,bjl,klco->ijcabo', taps, taps, kernel))


def transposed_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Transposed convolution of stride 2: x (B,H,W,I), kernel (k,k,O,I) -> (B,2H,2W,O).

    k is 3 or 4; element a of the kernel adds source pixel i to pixel 2i + a - 1. Computed as in
    `upsample_conv`, so that no inserted zeros are multiplied.
    """
    k = kernel.shape[0]
    taps = np.zeros((2, 2, k), np.float32)  # phase, tap, row of the kernel
    for phase, tap in ((0, 0), (0, 1), (1, 0), (1, 1)):
        row = 3 - phase - 2 * tap
        if row < k:
            taps[phase, tap, row] = 1
    chosen = jnp.asarray(taps, kernel.dtype)
    return _four_phases(x, jnp.einsum('aik,bjl,kloc->ijcabo', chosen, chosen, kernel))


def _four_phases(x: jax.Array, phases: jax.Array) -> jax.Array:
    # What moves is 4*I numbers a pixel before the product, or 16*O after it.
    fewer_after = 4 * phases.shape[-1] <= phases.shape[2]
    return product_then_windows(x, phases) if fewer_after else windows_then_product(x, phases)


def windows_then_product(x: jax.Array, phases: jax.Array) -> jax.Array:
    """x (B,H,W,I), phases (2,2,I,2,2,O) of `upsample_conv` -> (B,2H,2W,O).

    The 2x2 windows as columns and one matrix product: as a convolution, its gradient by the kernel
    takes XLA's CPU backend 20 times as long.
    """
    b, h, w, _ = x.shape
    o = phases.shape[-1]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    columns = jnp.concatenate(
        [padded[:, i : i + h + 1, j : j + w + 1] for i in (0, 1) for j in (0, 1)], axis=-1
    )
    y = columns @ phases.reshape(-1, 4 * o)
    y = y.reshape(b, h + 1, w + 1, 2, 2, o)
    rows = [
        jnp.stack([y[:, a : a + h, c : c + w, a, c] for c in (0, 1)], axis=3) for a in (0, 1)
    ]  # each (B,H,W,2,O)
    return jnp.stack(rows, axis=2).reshape(b, 2 * h, 2 * w, o)


def product_then_windows(x: jax.Array, phases: jax.Array) -> jax.Array:
    """The same as `windows_then_product`, with the sum over each window after the product."""
    b, h, w, c = x.shape
    o = phases.shape[-1]
    weights = phases.transpose(2, 3, 0, 4, 1, 5)  # channel, phase and tap of rows, of columns, out
    y = (x.reshape(-1, c) @ weights.reshape(c, -1)).reshape(b, h, w, 2, 2, 4 * o)
    y = _join_phases(y, axis=1).reshape(b, 2 * h, w, 2, 2, o)
    return _join_phases(y, axis=2)


def _join_phases(y: jax.Array, axis: int) -> jax.Array:
    """Along an axis of length n, (B,H,W,phase,tap,O) -> 2n: tap t of phase p reads at p + t - 1."""
    n = y.shape[axis]
    pad = [(1, 1) if i == axis else (0, 0) for i in range(4)]

    def read(phase: int, tap: int) -> jax.Array:
        padded = jnp.pad(y[:, :, :, phase, tap], pad)
        return jax.lax.slice_in_dim(padded, phase + tap, phase + tap + n, axis=axis)

    both = jnp.stack([read(phase, 0) + read(phase, 1) for phase in (0, 1)], axis=axis + 1)
    return both.reshape(*y.shape[:axis], 2 * n, *y.shape[axis + 1 : 3], y.shape[-1])


class UpConv(nn.Module):
    """Nearest upsampling by 2 and a 3x3 convolution; (B,H,W,I) -> (B,2H,2W,features)."""

    features: int
    dtype: Dtype = jnp.float32
    kernel_init: Any = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param('kernel', self.kernel_init, (3, 3, x.shape[-1], self.features))
        bias = self.param('bias', nn.initializers.zeros, (self.features,))
        y = upsample_conv(x.astype(self.dtype), kernel.astype(self.dtype))
        return y + bias.astype(self.dtype)[None, None, None, :]


class TransposedConv(nn.Module):
    """`transposed_conv` with a bias; (B,H,W,I) -> (B,2H,2W,features).

    same, of a 3x3 kernel: a pixel later, on what `DownConv` reads, as TensorFlow's 'SAME' lies.
    """

    features: int
    kernel_size: int
    dtype: Dtype = jnp.float32
    kernel_init: Any = nn.initializers.lecun_normal(in_axis=-1, out_axis=-2)
    use_bias: bool = True
    same: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.kernel_size, self.kernel_size, self.features, x.shape[-1])
        kernel = self.param('kernel', self.kernel_init, shape)
        if self.same:
            kernel = jnp.pad(kernel, ((1, 0), (1, 0), (0, 0), (0, 0)))
        y = transposed_conv(x.astype(self.dtype), kernel.astype(self.dtype))
        if not self.use_bias:
            return y
        bias = self.param('bias', nn.initializers.zeros, (self.features,))
        return y + bias.astype(self.dtype)[None, None, None, :]


def strided_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Stride 2, 'SAME'; x (B,H,W,I), kernel (k,k,I,O) -> (B,H/2,W/2,O)."""
    return jax.lax.conv_general_dilated(
        x, kernel, (2, 2), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )


def columns_then_product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`strided_conv` as one matrix product over columns."""
    k, (h, w) = kernel.shape[0], x.shape[1:3]
    before = (k - 2) // 2
    pad = (before, k - 2 - before)
    x = jnp.pad(x, ((0, 0), pad, pad, (0, 0)))
    columns = [x[:, i : i + h : 2, j : j + w : 2] for i in range(k) for j in range(k)]
    return jnp.concatenate(columns, axis=-1) @ kernel.reshape(-1, kernel.shape[-1])


class DownConv(nn.Module):
    """k x k convolution of stride 2, 'SAME' padding; (B,H,W,I) -> (B,H/2,W/2,features).

    At 8 pixels and below it is written as one matrix product: there XLA's CPU backend takes 7
    to 15 times as long for the gradient of the convolution by its input.
    """

    features: int
    kernel_size: int
    dtype: Dtype = jnp.float32
    kernel_init: Any = nn.initializers.lecun_normal()
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        k = self.kernel_size
        kernel = self.param('kernel', self.kernel_init, (k, k, x.shape[-1], self.features))
        conv = strided_conv if x.shape[1] > 8 else columns_then_product
        y = conv(x.astype(self.dtype), kernel.astype(self.dtype))
        if not self.use_bias:
            return y
        bias = self.param('bias', nn.initializers.zeros, (self.features,))
        return y + bias.astype(self.dtype)[None, None, None, :]


class FiLM(nn.Module):
    """Scale and shift each channel by a condition: x (B,H,W,C), w (B,D) (Perez et al., 2018)."""

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, w: jax.Array) -> jax.Array:
        scale, shift = jnp.split(
            nn.Dense(2 * x.shape[-1], dtype=self.dtype)(w)[:, None, None, :], 2, axis=-1
        )
        return x * (1 + scale) + shift


class GaussianHead(nn.Module):
    """Mean and log-variance of a diagonal Gaussian from features (B,...); both (B,features).

    The log-variance starts at 0 and is held to +-10; the mean keeps a normal initialisation, for a
    zero one would pass no gradient to what it reads.
    """

    features: int
    dtype: Dtype = jnp.float32
    kernel_init: Any = nn.initializers.lecun_normal()  # of the mean

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        x = x.reshape(x.shape[0], -1)
        init, zeros = self.kernel_init, nn.initializers.zeros
        mean = nn.Dense(self.features, dtype=self.dtype, kernel_init=init, name='mean')(x)
        logvar = nn.Dense(self.features, dtype=self.dtype, kernel_init=zeros, name='logvar')(x)
        return mean.astype(jnp.float32), jnp.clip(logvar.astype(jnp.float32), -10.0, 10.0)


def reparameterise(mean: jax.Array, logvar: jax.Array, noise: jax.Array) -> jax.Array:
    """A draw of N(mean, exp(logvar)) from standard normal noise of the same shape."""
    return mean + jnp.exp(0.5 * logvar) * noise


def patches(x: jax.Array, size: int, stride: int) -> jax.Array:
    """size x size windows, 'SAME' padding; (B,H,W,C) -> (B,H/stride,W/stride,size,size,C)."""
    h, w = x.shape[1:3]
    before = (size - stride) // 2
    pad = (before, size - stride - before)
    x = jnp.pad(x, ((0, 0), pad, pad, (0, 0)))
    rows = [
        jnp.stack([x[:, i : i + h : stride, j : j + w : stride] for j in range(size)], axis=3)
        for i in range(size)
    ]
    return jnp.stack(rows, axis=3)


def unpatch(windows: jax.Array) -> jax.Array:
    """Mean of 4x4 windows of stride 2 where they overlap; (B,H,W,4,4,C) -> (B,2H,2W,C)."""
    b, h, w, _, _, c = windows.shape
    blocks = windows.reshape(b, h, w, 2, 2, 2, 2, c)  # which block, which pixel, of rows, columns
    total = jnp.zeros((b, h + 1, w + 1, 2, 2, c), windows.dtype)
    for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
        total = total.at[:, i : i + h, j : j + w].add(blocks[:, :, :, i, :, j])
    joined = jnp.moveaxis(total, 3, 2).reshape(b, 2 * h + 2, 2 * w + 2, c)
    return joined[:, 1:-1, 1:-1] / 4


def contextual_attention(x: jax.Array, hole: jax.Array, sharpness: float = 10.0) -> jax.Array:
    """Each place of x (B,H,W,C) from visible patches that look like it (Yu et al., 2018).

    hole (B,H,W,1), 1 = missing. 3x3 patches of every second pixel are compared by cosine, scores of
    neighbours that shift alike are added up, and 4x4 patches of x laid over each other; patches
    that touch the hole give nothing. All 0 where none is free of it. Float32 inside.
    """
    b, h, w, c = x.shape
    h, w, n = h // 2, w // 2, h * w // 4
    wide = x.astype(jnp.float32)
    seen = patches(wide[:, ::2, ::2], 3, 1).reshape(b, n, -1)
    # A floor under the root, for the norm of nothing has no gradient.
    norm = jnp.sqrt(jnp.maximum(jnp.square(seen).sum(-1, keepdims=True), 1e-8))
    scores = jnp.einsum('bik,bjk->bij', seen, seen / norm)
    by_columns = (0, 2, 1, 4, 3)
    for shape in ((h, w), (w, h)):
        scores = _along_diagonal(scores)
        scores = scores.reshape(b, *shape, *shape).transpose(by_columns).reshape(b, n, n)
    halved = nn.max_pool(hole, (2, 2), (2, 2))
    touched = patches(halved, 3, 1).reshape(b, 1, n, -1).max(-1)
    free = (touched == 0).astype(jnp.float32)
    share = jax.nn.softmax(sharpness * scores * free, axis=-1) * free
    rebuilt = jnp.einsum('bij,bjk->bik', share, patches(wide, 4, 2).reshape(b, n, -1))
    return unpatch(rebuilt.reshape(b, h, w, 4, 4, c)).astype(x.dtype)


def _along_diagonal(scores: jax.Array) -> jax.Array:
    """Each score (B,N,N) plus its two neighbours on the diagonal: both places one further."""
    padded = jnp.pad(scores, ((0, 0), (1, 1), (1, 1)))
    n = scores.shape[1]
    before, here, after = (padded[:, i : i + n, i : i + n] for i in range(3))
    return before + here + after
