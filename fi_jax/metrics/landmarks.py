"""Metrics of 68 landmarks: how far completions put them, and how much they vary.

Points are (..., 68, 2) x,y in pixels, iBUG order; distances are divided by the true distance of the
outer corners of the eyes. A mean over no point is NaN.
"""

import jax
import jax.numpy as jnp

_OUTER_EYES = (36, 45)


def _unit(truth: jax.Array) -> jax.Array:
    right, left = (truth[..., i, :] for i in _OUTER_EYES)
    width = jnp.linalg.norm(left - right, axis=-1)
    return jnp.where(width > 0, width, jnp.nan)


def inside(points: jax.Array, hole: jax.Array) -> jax.Array:
    """Which points (..., 68, 2) lie in the hole (..., H, W, 1): (..., 68) of 0 and 1.

    Points outside the frame lie in no hole.
    """
    height, width = hole.shape[-3:-1]
    x, y = jnp.round(points[..., 0]), jnp.round(points[..., 1])
    framed = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    index = jnp.where(framed, y * width + x, 0).astype(jnp.int32)
    flat = jnp.reshape(hole, (*hole.shape[:-3], height * width)).astype(jnp.float32)
    return jnp.take_along_axis(flat, index, axis=-1) * framed


def _mean(values: jax.Array, weight: jax.Array | None) -> jax.Array:
    if weight is None:
        return jnp.mean(values, axis=-1)
    count = jnp.sum(weight, axis=-1)
    return jnp.where(count > 0, jnp.sum(values * weight, axis=-1) / jnp.maximum(count, 1), jnp.nan)


def error(points: jax.Array, truth: jax.Array, hole: jax.Array | None = None) -> jax.Array:
    """Normalised mean error of points against the true ones: -> (...), 0.05 = 5 % of the eyes.

    hole (..., H, W, 1): the mean over the true points inside it.
    """
    away = jnp.linalg.norm(points - truth, axis=-1)
    return _mean(away, None if hole is None else inside(truth, hole)) / _unit(truth)


def spread(points: jax.Array, truth: jax.Array, hole: jax.Array | None = None) -> jax.Array:
    """Deviation of the points across samples: (B, N, 68, 2), (B, 68, 2) -> (B,).

    The root mean square distance to the mean over samples (N - 1 in the denominator), mean over the
    points, or over those whose true place is inside the hole (B, H, W, 1). NaN for N = 1.
    """
    count = points.shape[1]
    if count < 2:
        return jnp.full(points.shape[:1], jnp.nan, jnp.float32)
    away = jnp.square(points - jnp.mean(points, axis=1, keepdims=True)).sum(axis=-1)
    deviation = jnp.sqrt(jnp.sum(away, axis=1) / (count - 1))
    return _mean(deviation, None if hole is None else inside(truth, hole)) / _unit(truth)


def score(points: jax.Array, truth: jax.Array, hole: jax.Array) -> dict[str, jax.Array]:
    """Error and spread of points (B,N,68,2) read off samples: name -> (B,), whole and in the hole.

    truth (B,68,2); hole (B,H,W,1). NaN in a hole that holds no point, and the spread of N = 1.
    """
    found = {}
    for name, where in (('', None), ('_hole', hole)):
        away = error(points, truth[:, None], None if where is None else where[:, None])
        found[f'landmark_error{name}/mean'] = jnp.mean(away, axis=1)
        found[f'landmark_error{name}/best'] = jnp.min(away, axis=1)
        found[f'landmark_spread{name}'] = spread(points, truth, where)
    return found
