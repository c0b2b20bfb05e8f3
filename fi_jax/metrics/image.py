"""Pixel metrics of completions against the truth and against each other, one number per example.

Images are (..., H, W, 3) in 0..255 already rounded to 8 bits, holes (..., H, W, 1), 1 = missing.
Leading axes are kept. A metric over a hole without pixels is NaN, which `streaming` leaves out.
"""

import jax
import jax.numpy as jnp
import numpy as np

MAX_PSNR = 100.0  # dB, given to identical images

_RADIUS = 5
_GAUSSIAN = np.exp(-0.5 * (np.arange(-_RADIUS, _RADIUS + 1) / 1.5) ** 2)
_GAUSSIAN /= _GAUSSIAN.sum()
_C1 = (0.01 * 255) ** 2
_C2 = (0.03 * 255) ** 2
_PIXEL_AXES = (-3, -2, -1)


def _difference(a: jax.Array, b: jax.Array) -> jax.Array:
    # In float, because the difference of two uint8 wraps around.
    return jnp.asarray(a, jnp.float32) - jnp.asarray(b, jnp.float32)


def _mean(values: jax.Array, hole: jax.Array | None = None) -> jax.Array:
    """Mean of (..., H, W, C) over the frame, or over the hole (..., H, W, 1)."""
    if hole is None:
        return jnp.mean(values, axis=_PIXEL_AXES)
    hole = jnp.asarray(hole, jnp.float32)
    pixels = jnp.sum(hole, axis=_PIXEL_AXES)
    total = jnp.sum(jnp.mean(values, axis=-1, keepdims=True) * hole, axis=_PIXEL_AXES)
    return jnp.where(pixels > 0, total / jnp.maximum(pixels, 1), jnp.nan)


def l1(a: jax.Array, b: jax.Array) -> jax.Array:
    """Mean absolute difference in grey levels (0..255): (..., H, W, 3) twice -> (...)."""
    return _mean(jnp.abs(_difference(a, b)))


def l1_hole(a: jax.Array, b: jax.Array, hole: jax.Array) -> jax.Array:
    """Mean absolute difference inside the hole in grey levels (0..255): -> (...)."""
    return _mean(jnp.abs(_difference(a, b)), hole)


def _decibels(mse: jax.Array) -> jax.Array:
    return jnp.minimum(-10 * jnp.log10(mse / 255**2), MAX_PSNR)


def psnr(a: jax.Array, b: jax.Array) -> jax.Array:
    """Peak signal-to-noise ratio in dB, data range 255, at most MAX_PSNR: -> (...)."""
    return _decibels(_mean(jnp.square(_difference(a, b))))


def psnr_hole(a: jax.Array, b: jax.Array, hole: jax.Array) -> jax.Array:
    """PSNR of the squared error inside the hole in dB, at most MAX_PSNR: -> (...)."""
    return _decibels(_mean(jnp.square(_difference(a, b)), hole))


def _window_views(x: jax.Array, axis: int) -> list[tuple[float, jax.Array]]:
    size = x.shape[axis] - 2 * _RADIUS
    return [
        (float(weight), jax.lax.slice_in_dim(x, shift, shift + size, axis=axis))
        for shift, weight in enumerate(_GAUSSIAN)
    ]


# Shifted sums, not a convolution: that one runs in bfloat16 on a TPU.
def _window_mean(x: jax.Array, axis: int) -> jax.Array:
    return sum((weight * view for weight, view in _window_views(x, axis)), start=jnp.float32(0))


def _window_variance(x: jax.Array, axis: int) -> jax.Array:
    mean = _window_mean(x, axis)
    views = _window_views(x, axis)
    return sum((w * jnp.square(view - mean) for w, view in views), start=jnp.float32(0))


def _local_moments(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and variance of (..., H, W, C) in the window around each pixel."""
    # E[x^2] - E[x]^2 cancels in float32 where the image is flat. The law of total variance is as
    # separable and has nothing to cancel: the mean over columns of the variance along rows, plus
    # the variance over columns of the mean along rows.
    mean_of_rows = _window_mean(x, -2)
    within = _window_mean(_window_variance(x, -2), -3)
    return _window_mean(mean_of_rows, -3), within + _window_variance(mean_of_rows, -3)


def _similarity(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Likeness of means and of variations in the windows that lie inside (..., H, W, C)."""
    # By a + b and a - b: 4 cov(a, b) = var(a + b) - var(a - b), and so for products of the means.
    mean, variance = _local_moments(jnp.stack([a + b, a - b]))
    square = jnp.square(mean)
    luminance = (square[0] - square[1] + 2 * _C1) / (square[0] + square[1] + 2 * _C1)
    structure = (variance[0] - variance[1] + 2 * _C2) / (variance[0] + variance[1] + 2 * _C2)
    return luminance, structure


def ssim_map(a: jax.Array, b: jax.Array) -> jax.Array:
    """Structural similarity around each pixel, mean of RGB: (..., H, W, 3) twice -> (..., H, W).

    Gaussian window of 11 pixels, sigma 1.5, data range 255, population covariance, borders mirrored
    with the edge repeated, as in scikit-image. Wang et al., "Image quality assessment: from error
    visibility to structural similarity", 2004. Raises ValueError for sides below 11 pixels.
    """
    height, width = a.shape[-3:-1]
    if min(height, width) < 2 * _RADIUS + 1:
        raise ValueError(
            f'image size {height}x{width}: the SSIM window is 11 pixels wide; use larger images'
        )
    pad = [(0, 0)] * (a.ndim - 3) + [(_RADIUS, _RADIUS)] * 2 + [(0, 0)]
    a, b = (jnp.pad(jnp.asarray(x, jnp.float32), pad, mode='symmetric') for x in (a, b))
    luminance, structure = _similarity(a, b)
    return jnp.mean(luminance * structure, axis=-1)


def _frame_ssim(similarity: jax.Array) -> jax.Array:
    inner = slice(_RADIUS, -_RADIUS)
    return jnp.mean(similarity[..., inner, inner], axis=(-2, -1))


def ssim(a: jax.Array, b: jax.Array) -> jax.Array:
    """Mean of `ssim_map` over the pixels whose window lies inside the image: -> (...)."""
    return _frame_ssim(ssim_map(a, b))


def ssim_hole(a: jax.Array, b: jax.Array, hole: jax.Array) -> jax.Array:
    """Mean of `ssim_map` over the hole, image borders included: -> (...).

    Windows centred in the hole reach 5 pixels out of it, so a composite is what should be scored.
    """
    return _mean(ssim_map(a, b)[..., None], hole)


_MS_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
MS_SSIM_SIDE = 2 * _RADIUS * 2 ** (len(_MS_WEIGHTS) - 1) + 1  # pixels


def _halved(x: jax.Array) -> jax.Array:
    # A zero row before an odd side, counted in the mean, as the reference versions do.
    pad = [(0, 0)] * (x.ndim - 3) + [(n % 2, n % 2) for n in x.shape[-3:-1]] + [(0, 0)]
    x = jnp.pad(x, pad)
    x = x[..., : x.shape[-3] // 2 * 2, : x.shape[-2] // 2 * 2, :]
    return (
        x[..., ::2, ::2, :] + x[..., 1::2, ::2, :] + x[..., ::2, 1::2, :] + x[..., 1::2, 1::2, :]
    ) / 4


def ms_ssim(a: jax.Array, b: jax.Array) -> jax.Array:
    """Structural similarity over five scales, mean of RGB: (..., H, W, 3) twice -> (...).

    Negative contrast terms count as 0. Wang, Simoncelli and Bovik, "Multiscale structural
    similarity", 2003. Raises ValueError for sides below MS_SSIM_SIDE.
    """
    height, width = a.shape[-3:-1]
    if min(height, width) < MS_SSIM_SIDE:
        raise ValueError(
            f'image size {height}x{width}: MS-SSIM halves four times and needs sides of at least '
            f'{MS_SSIM_SIDE} pixels; use ssim'
        )
    x, y = (jnp.asarray(v, jnp.float32) for v in (a, b))
    result: jax.Array = jnp.ones((*x.shape[:-3], 3), jnp.float32)
    for scale, weight in enumerate(_MS_WEIGHTS):
        if scale:
            x, y = _halved(x), _halved(y)
        luminance, structure = _similarity(x, y)
        last = scale == len(_MS_WEIGHTS) - 1
        term = jnp.mean(luminance * structure if last else structure, axis=(-3, -2))
        result = result * jnp.maximum(term, 0) ** weight
    return jnp.mean(result, axis=-1)


def seam(image: jax.Array, hole: jax.Array) -> jax.Array:
    """How much steeper the step over the hole's border is than those beside it, in grey levels.

    (..., H, W, 3), (..., H, W, 1) -> (...): the mean over pairs of neighbours of which one is
    missing, of |step| less the mean |step| just inside and just outside; rows and columns both. A
    photo gives about 0, a visible seam more; read it beside the real image's. NaN without a border.
    """
    x, region = jnp.asarray(image, jnp.float32), jnp.asarray(hole, jnp.float32)
    total: jax.Array = jnp.zeros(x.shape[:-3], jnp.float32)
    count = total
    for axis in (-3, -2):
        step = jnp.mean(jnp.abs(jnp.diff(x, axis=axis)), axis=-1, keepdims=True)
        border = jnp.abs(jnp.diff(region, axis=axis))
        size = step.shape[axis]
        if size < 3:
            continue
        before, at, after = (
            jax.lax.slice_in_dim(step, i, size - 2 + i, axis=axis) for i in range(3)
        )
        where = jax.lax.slice_in_dim(border, 1, size - 1, axis=axis)
        total = total + jnp.sum((at - (before + after) / 2) * where, axis=_PIXEL_AXES)
        count = count + jnp.sum(where, axis=_PIXEL_AXES)
    return jnp.where(count > 0, total / jnp.maximum(count, 1), jnp.nan)


def pair_distance(samples: jax.Array, hole: jax.Array | None = None) -> jax.Array:
    """Mean L1 over the N(N-1)/2 pairs of samples of one input: (B, N, H, W, 3) -> (B,).

    In units of images in [-1, 1], over the hole (B, H, W, 1) or, without one, over the frame. NaN
    where there is no pair (N = 1).
    """
    batch, num_samples = samples.shape[:2]
    if num_samples < 2:
        return jnp.full((batch,), jnp.nan, jnp.float32)
    region = None if hole is None else hole[:, None]
    total = jnp.zeros((batch,), jnp.float32)
    for offset in range(1, num_samples):
        difference = _difference(samples[:, offset:], samples[:, :-offset])
        total += jnp.sum(_mean(jnp.abs(difference), region), axis=1)
    return total / (num_samples * (num_samples - 1) / 2 * 127.5)


_BEST = {
    'l1': jnp.min,
    'l1_hole': jnp.min,
    'psnr': jnp.max,
    'psnr_hole': jnp.max,
    'ssim': jnp.max,
    'ssim_hole': jnp.max,
}

# The keys of what `score` returns.
SCORES: tuple[str, ...] = (
    *(f'{name}/{over}' for name in _BEST for over in ('mean', 'best')),
    'pair_distance',
    'pair_distance_hole',
)


def score(samples: jax.Array, truth: jax.Array, hole: jax.Array) -> dict[str, jax.Array]:
    """All metrics of N completions of each input, as SCORES -> (B,).

    samples (B, N, H, W, 3), truth (B, H, W, 3), hole (B, H, W, 1). Each metric against the truth is
    given as the mean over the samples and as the best of N by that metric itself.
    """

    def against_truth(sample: jax.Array) -> dict[str, jax.Array]:
        similarity = ssim_map(sample, truth)
        return {
            'l1': l1(sample, truth),
            'l1_hole': l1_hole(sample, truth, hole),
            'psnr': psnr(sample, truth),
            'psnr_hole': psnr_hole(sample, truth, hole),
            'ssim': _frame_ssim(similarity),
            'ssim_hole': _mean(similarity[..., None], hole),
        }

    # One sample at a time, so that memory does not grow with N.
    each = jax.lax.map(against_truth, jnp.moveaxis(samples, 1, 0))
    scores = {}
    for name, best in _BEST.items():
        scores[f'{name}/mean'] = jnp.mean(each[name], axis=0)
        scores[f'{name}/best'] = best(each[name], axis=0)
    scores['pair_distance'] = pair_distance(samples)
    scores['pair_distance_hole'] = pair_distance(samples, hole)
    return scores
