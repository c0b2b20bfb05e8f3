"""Landmark predictors: a damaged face -> where its 68 points are, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from fi_jax.nets.layers import DownConv, Dtype

POINTS = 68


class Estimate(NamedTuple):
    """offset (B,68,2) from the mean face and log_scale (B,68), in sides of the frame; features."""

    offset: jax.Array
    log_scale: jax.Array
    features: jax.Array


class _Conv(nn.Module):
    """3x3 convolution, 'SAME', of stride 1; below 32 pixels one matrix product over columns.

    As in `DownConv`: there XLA's CPU backend takes many times as long for the gradients.
    """

    features: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        h, w = x.shape[1:3]
        if h >= 32:
            return nn.Conv(self.features, (3, 3), dtype=self.dtype)(x)
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        columns = [x[:, i : i + h, j : j + w] for i in range(3) for j in range(3)]
        return nn.Dense(self.features, dtype=self.dtype)(jnp.concatenate(columns, axis=-1))


class _Heads(nn.Module):
    """Offsets and log-scales from features (B,D); a fresh net answers with the mean face."""

    @nn.compact
    def __call__(self, features: jax.Array) -> Estimate:
        features = features.astype(jnp.float32)
        small = nn.initializers.normal(1e-3)
        offset = nn.Dense(2 * POINTS, kernel_init=small, name='offset')(features)
        log_scale = nn.Dense(
            POINTS, kernel_init=small, bias_init=nn.initializers.constant(-3.0), name='log_scale'
        )(features)
        return Estimate(offset.reshape(-1, POINTS, 2), jnp.clip(log_scale, -8.0, 1.0), features)


class LandmarkPredictor(nn.Module):
    """Levels of two 3x3 convolutions, then dense heads on what they see.

    masked (B,H,W,3) in [-1,1], 0 inside hole (B,H,W,1). The dense layer reads the last map with its
    places, and the averages of the last three.
    """

    widths: Sequence[int]
    hidden: int = 256
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, masked: jax.Array, hole: jax.Array, train: bool = False) -> Estimate:
        x = jnp.concatenate([masked, hole], axis=-1).astype(self.dtype)
        averages = []
        for width in self.widths:
            x = nn.relu(DownConv(width, 3, self.dtype)(x))
            x = _Conv(width, self.dtype)(x)
            x = nn.relu(nn.GroupNorm(8, dtype=self.dtype)(x))
            averages.append(x.mean(axis=(1, 2)))
        seen = jnp.concatenate([x.reshape(len(x), -1), *averages[-3:]], axis=-1)
        return _Heads()(nn.relu(nn.Dense(self.hidden, dtype=self.dtype)(seen)))


# Expansion, width, repeats, first stride (Sandler et al., 2018, table 2).
_MOBILE = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class _Depthwise(nn.Module):
    """3x3 depthwise convolution as nine shifted products.

    XLA's CPU backend takes many times as long for a convolution with a group a channel.
    """

    stride: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        h, w, c = x.shape[1:]
        kernel = self.param('kernel', nn.initializers.he_normal(), (3, 3, 1, c)).astype(x.dtype)
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        s = self.stride
        parts = [
            x[:, i : i + h : s, j : j + w : s] * kernel[i, j, 0][None, None, None, :]
            for i in range(3)
            for j in range(3)
        ]
        return sum(parts[1:], parts[0])


class MobileNetPredictor(nn.Module):
    """MobileNetV2 with a three-scale head, the predictor of LaFIn (Yang et al., 2019).

    Inputs and outputs as `LandmarkPredictor`; train=True normalises by the batch and moves the
    running statistics. The log-scales are an addition: LaFIn predicts none.
    """

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, masked: jax.Array, hole: jax.Array, train: bool = False) -> Estimate:
        def norm(x: jax.Array) -> jax.Array:
            return nn.BatchNorm(not train, momentum=0.95, dtype=self.dtype)(x)

        def point(x: jax.Array, width: int) -> jax.Array:
            return nn.Dense(width, use_bias=False, dtype=self.dtype)(x)

        x = jnp.concatenate([masked, hole], axis=-1).astype(self.dtype)
        x = nn.relu6(norm(DownConv(32, 3, self.dtype)(x)))
        for expand, width, repeats, first in _MOBILE:
            for repeat in range(repeats):
                stride = first if repeat == 0 else 1
                y = nn.relu6(norm(point(x, expand * x.shape[-1]))) if expand > 1 else x
                y = norm(point(nn.relu6(norm(_Depthwise(stride)(y))), width))
                x = x + y if stride == 1 and width == x.shape[-1] else y
        last = nn.relu6(norm(point(x, 1280)))
        a = nn.Dense(128, dtype=self.dtype)(x).mean(axis=(1, 2))
        b = nn.Dense(128, dtype=self.dtype)(last).mean(axis=(1, 2))
        c = nn.PReLU()(nn.Dense(64, dtype=self.dtype)(last.mean(axis=(1, 2))))
        return _Heads()(jnp.concatenate([a, b, c], axis=-1))
