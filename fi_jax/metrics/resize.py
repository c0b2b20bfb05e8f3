"""Resizing as the reference metrics do it: what stands before a network changes its distances.

Every resizer is two small matrices, one an axis, so that it runs anywhere in float32.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np


def _cubic(x: float) -> float:
    x = abs(x)
    if x < 1:
        return (1.5 * x - 2.5) * x * x + 1
    return ((-0.5 * x + 2.5) * x - 4) * x + 2 if x < 2 else 0.0


def _triangle(x: float) -> float:
    return max(0.0, 1 - abs(x))


_FILTERS: dict[str, tuple[Callable[[float], float], float]] = {
    'bicubic': (_cubic, 2.0),
    'bilinear': (_triangle, 1.0),
}


@functools.cache
def pillow_matrix(size: int, target: int, kind: str = 'bicubic') -> np.ndarray:
    """Weights (target, size) float64 of a line of `size` pixels resized with antialiasing.

    The filter is stretched where the line shrinks, cut at the borders and normalised, as in Pillow.
    """
    kernel, support = _FILTERS[kind]
    ratio = size / target
    stretch = max(ratio, 1.0)
    matrix = np.zeros((target, size))
    for row in range(target):
        centre = (row + 0.5) * ratio
        first = max(int(centre - support * stretch + 0.5), 0)
        last = min(int(centre + support * stretch + 0.5), size)
        for column in range(first, last):
            matrix[row, column] = kernel((column - centre + 0.5) / stretch)
    return matrix / matrix.sum(axis=1, keepdims=True)


@functools.cache
def tensorflow1_matrix(size: int, target: int) -> np.ndarray:
    """Weights (target, size) of TensorFlow 1's bilinear resizing, from corner to corner."""
    place = np.arange(target, dtype=np.float32) * np.float32(size / target)
    low = np.floor(place).astype(int)
    share = place - low.astype(np.float32)
    matrix = np.zeros((target, size))
    rows = np.arange(target)
    np.add.at(matrix, (rows, low), 1 - share)
    np.add.at(matrix, (rows, np.minimum(low + 1, size - 1)), share)
    return matrix


def _apply(images: jax.Array, target: int, matrix: Callable[[int, int], np.ndarray]) -> jax.Array:
    rows, columns = (matrix(n, target).astype(np.float32) for n in images.shape[-3:-1])
    precision = jax.lax.Precision.HIGHEST
    x = jnp.asarray(images, jnp.float32)
    x = jnp.einsum('wx,...yxc->...ywc', columns, x, precision=precision)
    return jnp.einsum('hy,...ywc->...hwc', rows, x, precision=precision)


def clean(images: jax.Array, target: int) -> jax.Array:
    """Pillow's bicubic resizing in floating point: (..., H, W, 3) 0..255 -> (..., S, S, 3).

    Not rounded, cut to 0..255: Parmar et al., "On aliased resizing and surprising subtleties in GAN
    evaluation", 2022.
    """
    return jnp.clip(_apply(images, target, pillow_matrix), 0, 255)


def tensorflow1(images: jax.Array, target: int) -> jax.Array:
    """Bilinear without antialiasing, as in the graph FID was defined by: -> (..., S, S, 3)."""
    return _apply(images, target, tensorflow1_matrix)


_BITS = 22  # of Pillow's fixed-point weights


def pillow8(images: np.ndarray, target: int, kind: str = 'bicubic') -> np.ndarray:
    """Pillow's resizing of 8-bit images to the bit: (..., H, W, 3) uint8 -> (..., S, S, 3) uint8.

    Each axis is rounded to 8 bits, along rows first. Raises ValueError for other types.
    """
    if images.dtype != np.uint8:
        raise ValueError(f'images {images.dtype}: 8-bit resizing takes uint8')
    x = images
    for axis in (-2, -3):
        if x.shape[axis] == target:
            continue
        weights = pillow_matrix(x.shape[axis], target, kind) * 2.0**_BITS
        fixed = np.floor(np.abs(weights) + 0.5).astype(np.int64) * np.sign(weights).astype(np.int64)
        moved = np.moveaxis(x.astype(np.int64), axis, -1)
        total = (moved @ fixed.T + (1 << (_BITS - 1))) >> _BITS
        x = np.moveaxis(np.clip(total, 0, 255), -1, axis).astype(np.uint8)
    return x


def box(images: jax.Array, target: int) -> jax.Array:
    """Means over equal areas: (..., H, W, 3) -> (..., S, S, 3)."""

    def matrix(size: int, target: int) -> np.ndarray:
        edges = np.arange(target + 1) * size / target
        pixels = np.arange(size)
        high = np.minimum(edges[1:, None], pixels + 1)
        low = np.maximum(edges[:-1, None], pixels)
        return np.maximum(high - low, 0) * target / size

    return _apply(images, target, matrix)
