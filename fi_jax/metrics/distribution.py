"""Distances between two sets of images, by features of them (`feature_networks`).

What is gathered of the features stays small however many images pass: the moments of a Gaussian,
or a sample that depends on the images' indices alone. Distances are computed on the host in
float64.

The `*_estimate` functions add 95 % intervals, with images as units, a real one and its completion
together: how far another draw of as many images may fall. They are about the mean of the distance
at this N, not its limit, from which most distances of sets stay apart: compare at one N. Images
are never drawn twice, as a bootstrap would: copies shift a Frechet distance, and are each other's
nearest neighbours.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from fi_jax.metrics.bootstrap import Estimate


class TooFewSamples(ValueError):
    """A set too small for the distance asked for."""


@dataclasses.dataclass(frozen=True)
class Gaussian:
    """Moments of features in float64 on the host: count, mean (D,) and scatter (D, D)."""

    count: int
    mean: np.ndarray
    scatter: np.ndarray  # sum of outer products of the deviations from the mean

    @classmethod
    def init(cls, dimension: int) -> 'Gaussian':
        """The moments of nothing."""
        return cls(0, np.zeros(dimension), np.zeros((dimension, dimension)))

    def update(self, features: Any, weight: Any = None) -> 'Gaussian':
        """With a batch (B, D); weight (B,) 0 for padding. Rows that are not finite are left out."""
        rows = _rows(features, weight)
        if not len(rows):
            return self
        mean = rows.mean(axis=0)
        centred = rows - mean
        return self.merge(Gaussian(len(rows), mean, centred.T @ centred))

    def merge(self, other: 'Gaussian') -> 'Gaussian':
        """The moments of both, in whatever order: Chan, Golub and LeVeque, 1979."""
        count = self.count + other.count
        if not count:
            return self
        delta = other.mean - self.mean
        share = other.count / count
        scatter = self.scatter + other.scatter
        scatter = scatter + np.outer(delta, delta) * (self.count * share)
        return Gaussian(count, self.mean + delta * share, scatter)

    @property
    def covariance(self) -> np.ndarray:
        """Sample covariance (D, D); TooFewSamples below two rows."""
        if self.count < 2:
            raise TooFewSamples(f'N={self.count}: a covariance needs at least 2 images')
        return self.scatter / (self.count - 1)


def _rows(features: Any, weight: Any = None) -> np.ndarray:
    rows = np.asarray(features, np.float64)
    keep = np.isfinite(rows).all(axis=1)
    if weight is not None:
        keep &= np.asarray(weight) > 0
    return rows[keep]


def frechet_distance(
    mean1: np.ndarray, covariance1: np.ndarray, mean2: np.ndarray, covariance2: np.ndarray
) -> float:
    """Squared Frechet distance of two Gaussians, in float64.

    Dowson and Landau, 1982. The trace of the root of C1 C2 is the sum of the roots of the
    eigenvalues of the symmetric C1^1/2 C2 C1^1/2: no complex numbers and no offset on the diagonal.
    """
    values, vectors = np.linalg.eigh(np.asarray(covariance1, np.float64))
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    inner = root @ np.asarray(covariance2, np.float64) @ root
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh((inner + inner.T) / 2), 0)).sum()
    delta = np.asarray(mean1, np.float64) - np.asarray(mean2, np.float64)
    return float(delta @ delta + np.trace(covariance1) + np.trace(covariance2) - 2 * cross)


def frechet(real: Gaussian, fake: Gaussian) -> float:
    """Frechet distance of two sets; TooFewSamples unless each has more images than dimensions."""
    dimension = len(real.mean)
    count = min(real.count, fake.count)
    if count <= dimension:
        raise TooFewSamples(
            f'N={count}: a Frechet distance on {dimension} features needs more than {dimension} '
            'images on each side; use more images, fewer features, or the kernel distance'
        )
    return frechet_distance(real.mean, real.covariance, fake.mean, fake.covariance)


@dataclasses.dataclass(frozen=True)
class Sample:
    """At most `size` rows of features, drawn by (seed, index): memory that does not grow with N.

    Which rows are kept depends on neither batch, order nor device.
    """

    size: int
    seed: int
    rank: np.ndarray
    index: np.ndarray
    rows: np.ndarray

    @classmethod
    def init(cls, dimension: int, size: int = 10_000, seed: int = 0) -> 'Sample':
        """A sample of nothing."""
        none = np.zeros(0, np.int64)
        return cls(size, seed, none.astype(np.uint64), none, np.zeros((0, dimension), np.float32))

    def update(self, features: Any, index: Any, weight: Any = None) -> 'Sample':
        """With a batch (B, D) of images with these indices (B,); weight (B,) 0 for padding."""
        features, index = np.asarray(features, np.float32), np.asarray(index, np.int64)
        keep = np.isfinite(features).all(axis=1)
        if weight is not None:
            keep &= np.asarray(weight) > 0
        rank = _hash(index, self.seed)
        return self._keep(rank[keep], index[keep], features[keep])

    def merge(self, other: 'Sample') -> 'Sample':
        """The sample of both."""
        return self._keep(other.rank, other.index, other.rows)

    def _keep(self, rank: np.ndarray, index: np.ndarray, rows: np.ndarray) -> 'Sample':
        rank = np.concatenate([self.rank, rank])
        index = np.concatenate([self.index, index])
        rows = np.concatenate([self.rows, rows])
        chosen = np.lexsort((index, rank))[: self.size]
        return Sample(self.size, self.seed, rank[chosen], index[chosen], rows[chosen])


def paired(real: Sample, fake: Sample) -> tuple[np.ndarray, np.ndarray]:
    """Rows (n, D) of the images that both samples hold, in the one order of their ranks."""
    _, a, b = np.intersect1d(real.index, fake.index, return_indices=True)
    order = np.argsort(a)
    return real.rows[a[order]], fake.rows[b[order]]


def _hash(index: np.ndarray, seed: int) -> np.ndarray:
    """SplitMix64 of (seed, index): Steele, Lea and Flood, 2014."""
    x = index.astype(np.uint64) + np.uint64((seed * 0x9E3779B97F4A7C15) % 2**64)
    with np.errstate(over='ignore'):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _finite(features: Any, least: int, what: str) -> np.ndarray:
    rows = np.asarray(features, np.float64)
    if rows.ndim != 2 or not np.isfinite(rows).all():
        raise ValueError(f'features {rows.shape}: {what} takes finite rows (N, D)')
    if len(rows) < least:
        raise TooFewSamples(f'N={len(rows)}: {what} needs at least {least} images')
    return rows


_Z = 1.959964  # of a normal, for 95 %
_MOST = 1000  # images that a standard error is read off, where that costs their square


def _estimate(value: float, stderr: float, count: int, least: float = -np.inf) -> Estimate:
    low = max(value - _Z * stderr, least)
    return Estimate(value, low, value + _Z * stderr, stderr, count)


def _share(value: float, stderr: float, count: int) -> Estimate:
    """The score interval of a share, of as many images as its standard error tells.

    Wilson, 1927. Unlike value +- 2 stderr it stays in [0, 1], and is not empty at 0 and 1.
    """
    spread = value * (1 - value)
    n = min(spread / stderr**2, count) if stderr > 0 and spread > 0 else count
    middle = (value + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z * np.sqrt(spread / n + _Z**2 / (4 * n**2)) / (1 + _Z**2 / n)
    low, high = max(middle - half, 0.0), min(middle + half, 1.0)
    return Estimate(value, float(low), float(high), stderr, count)


def frechet_estimate(real: Gaussian, fake: Gaussian, x: Any, y: Any) -> Estimate:
    """`frechet` with an interval by the infinitesimal jackknife; x, y (n, D) are pairs of images.

    The pairs may be a sample of those behind the moments. How much an image moves the distance is
    its derivative by the moments: by a mean twice the difference of the means, by a covariance I
    less the optimal map between the two (Efron, 1982; Dowson and Landau, 1982). Wider than need be
    where both sets are drawn alike, for there the derivative vanishes. Raises TooFewSamples.
    """
    value = frechet(real, fake)
    x, y = (_finite(v, 2, 'an interval') for v in (x, y))
    x, y, delta = x - real.mean, y - fake.mean, real.mean - fake.mean
    there, back = _maps(real.covariance, fake.covariance)
    moved = np.square(x).sum(1) - ((x @ there) * x).sum(1) + 2 * x @ delta
    moved += np.square(y).sum(1) - ((y @ back) * y).sum(1) - 2 * y @ delta
    count = min(real.count, fake.count)
    return _estimate(value, float(moved.std(ddof=1) / np.sqrt(count)), count, least=0.0)


def _maps(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Optimal linear maps between centred Gaussians of these covariances, there and back."""
    root, inverse = _roots(first)
    middle, middle_inverse = _roots(root @ second @ root)
    return inverse @ middle @ inverse, root @ middle_inverse @ root


def _roots(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The root of a positive matrix and its pseudo-inverse."""
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    known = values > len(values) * np.finfo(np.float64).eps * values[-1]
    root, vectors = np.sqrt(values[known]), vectors[:, known]
    return (vectors * root) @ vectors.T, (vectors / root) @ vectors.T


def _kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    dot = a @ b.T / a.shape[1] + 1
    return dot * dot * dot  # a power would take most of the time


def mmd2(x: np.ndarray, y: np.ndarray) -> float:
    """Unbiased squared MMD of (N, D) and (M, D) under the kernel (x.y / D + 1)^3.

    Binkowski et al., "Demystifying MMD GANs", 2018. Raises TooFewSamples below two rows.
    """
    x, y = (_finite(v, 2, 'a kernel distance') for v in (x, y))

    def within(a: np.ndarray) -> float:
        k = _kernel(a, a)
        return float((k.sum() - np.trace(k)) / (len(a) * (len(a) - 1)))

    return within(x) + within(y) - 2 * float(_kernel(x, y).mean())


def kid(
    real: Any, fake: Any, *, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Kernel distance: mean and standard deviation of `mmd2` over random subsets of both.

    Raises TooFewSamples where a set is smaller than a subset.
    """
    real, fake = (_finite(v, subset_size, f'KID of {subset_size}') for v in (real, fake))
    rng = np.random.default_rng(seed)
    values = [
        mmd2(
            real[rng.choice(len(real), subset_size, replace=False)],
            fake[rng.choice(len(fake), subset_size, replace=False)],
        )
        for _ in range(subsets)
    ]
    return float(np.mean(values)), float(np.std(values))


def kid_estimate(
    real: Any, fake: Any, *, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> Estimate:
    """`kid` of pairs (N, D) with an interval; that of the subsets' spread would be another one.

    `mmd2` without each pair in turn (jackknife, in closed form), and the error of the subsets.
    Raises TooFewSamples, and ValueError where the numbers differ.
    """
    value, deviation = kid(real, fake, subsets=subsets, subset_size=subset_size, seed=seed)
    x, y = _pairs(real, fake, 3, 'an interval')
    count, x, y = len(x), x[:_MOST], y[:_MOST]
    n = len(x)
    within = _kernel(x, x) + _kernel(y, y)
    np.fill_diagonal(within, 0)
    across = _kernel(x, y)
    of_pair = across.sum(0) + across.sum(1) - across.diagonal()
    without = (within.sum() - 2 * within.sum(1)) / ((n - 1) * (n - 2))
    without -= 2 * (across.sum() - of_pair) / (n - 1) ** 2
    variance = (n - 1) * np.var(without) * n / count + deviation**2 / subsets
    return _estimate(value, float(np.sqrt(variance)), count)


def _pairs(real: Any, fake: Any, least: int, what: str) -> tuple[np.ndarray, np.ndarray]:
    real, fake = (_finite(v, least, what) for v in (real, fake))
    if real.shape != fake.shape:
        raise ValueError(f'{len(real)} real and {len(fake)} fake images: {what} takes pairs')
    return real, fake


_ROWS = 1024  # of a distance matrix at a time


def _squares(a: np.ndarray, b: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Squared distances of a few rows of a at a time to all of b."""
    norms = np.square(b).sum(axis=1)
    for start in range(0, len(a), _ROWS):
        rows = slice(start, start + _ROWS)
        square = np.square(a[rows]).sum(axis=1)[:, None] + norms - 2 * a[rows] @ b.T
        yield rows, np.maximum(square, 0)


def _radii(x: np.ndarray, nearest: int) -> np.ndarray:
    """Squared distance of each row to its k-th neighbour among the others."""
    radii = np.empty(len(x))
    for rows, square in _squares(x, x):
        square[np.arange(len(square)), np.arange(len(x))[rows]] = 0
        radii[rows] = np.partition(square, nearest, axis=1)[:, nearest]
    return radii


def precision_recall(real: Any, fake: Any, *, nearest: int = 3) -> tuple[float, float]:
    """Share of fakes among the reals' neighbourhoods, and of reals among the fakes'.

    Kynkaanniemi et al., "Improved precision and recall metric", 2019. Raises TooFewSamples.
    """
    real, fake = (_finite(v, nearest + 1, 'precision and recall') for v in (real, fake))

    def covered(a: np.ndarray, b: np.ndarray) -> float:
        """Share of a inside the neighbourhood of any of b."""
        radii = _radii(b, nearest)
        return float(np.mean(np.concatenate([(s <= radii).any(axis=1) for _, s in _squares(a, b)])))

    return covered(fake, real), covered(real, fake)


def density_coverage(real: Any, fake: Any, *, nearest: int = 5) -> tuple[float, float]:
    """How many reals' neighbourhoods a fake lies in, and the share of reals with a fake in theirs.

    Naeem et al., "Reliable fidelity and diversity metrics", 2020. Raises TooFewSamples.
    """
    real, fake = (_finite(v, nearest + 1, 'density and coverage') for v in (real, fake))
    radii = _radii(real, nearest)
    inside, nearest_fake = 0, np.full(len(real), np.inf)
    for _, square in _squares(fake, real):
        inside += int((square < radii).sum())
        nearest_fake = np.minimum(nearest_fake, square.min(axis=0))
    return inside / (nearest * len(fake)), float(np.mean(nearest_fake < radii))


def neighbour_estimates(
    real: Any, fake: Any, *, halves: int = 30, seed: int = 0
) -> tuple[Estimate, Estimate, Estimate, Estimate]:
    """Precision, recall, density and coverage of pairs (N, D), with intervals.

    By the spread over random halves of at most 1000 pairs: a half of n without the other spreads as
    n do (Politis and Romano, 1994). Raises TooFewSamples, and ValueError where the numbers differ.
    """
    real, fake = _pairs(real, fake, 12, 'an interval')
    values = (*precision_recall(real, fake), *density_coverage(real, fake))
    x, y = (v[:_MOST] for v in (real, fake))
    xx, yy, xy = (
        np.concatenate([square for _, square in _squares(a, b)])
        for a, b in ((x, x), (y, y), (x, y))
    )
    for own in (xx, yy):
        np.fill_diagonal(own, 0)

    def scores(rows: np.ndarray) -> tuple[float, float, float, float]:
        at = np.ix_(rows, rows)
        of_real, of_fake = (np.partition(own[at], (3, 5), axis=1) for own in (xx, yy))
        inside, near = xy[at], xy[at] < of_real[:, 5:6]
        return (
            float((inside <= of_real[:, 3:4]).any(0).mean()),
            float((inside <= of_fake[:, 3]).any(1).mean()),
            float(near.sum(0).mean() / 5),
            float(near.any(1).mean()),
        )

    rng = np.random.default_rng(seed)
    n, half = len(x), len(x) // 2
    drawn = [scores(rng.choice(n, half, replace=False)) for _ in range(halves)]
    deviations = np.std(drawn, axis=0, ddof=1) * np.sqrt(half / (n - half) * n / len(real))
    precision, recall, density, coverage = zip(values, deviations.tolist(), strict=True)
    return (
        _share(*precision, len(real)),
        _share(*recall, len(real)),
        _estimate(*density, len(real), least=0.0),
        _share(*coverage, len(real)),
    )


def _separate(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Weights of the linear SVM with squared hinge loss, C = 1, by Newton's method.

    x (N, D) with a last column of ones, y (N,) of -1 and 1. Lin, Weng and Keerthi, 2008.
    """
    w = np.zeros(x.shape[1])

    def value(w: np.ndarray) -> float:
        return 0.5 * w @ w + np.square(np.maximum(0, 1 - y * (x @ w))).sum()

    for _ in range(100):
        slack = 1 - y * (x @ w)
        active = slack > 0
        gradient = w - 2 * x[active].T @ (y[active] * slack[active])
        if np.linalg.norm(gradient) < 1e-9 * max(1.0, len(x)):
            break
        inside = x[active]
        hessian = np.eye(len(w)) + 2 * inside.T @ inside
        step = np.linalg.solve(hessian, gradient)
        size, before = 1.0, value(w)
        while value(w - size * step) > before - 1e-4 * size * gradient @ step and size > 1e-8:
            size /= 2
        w = w - size * step
    return w


def _fooled(real: Any, fake: Any) -> np.ndarray:
    """Of each pair, whether the fake looks more real, and the share of the two taken for wrong."""
    real, fake = _pairs(real, fake, 2, 'P-IDS')
    rows = np.concatenate([real, fake])
    x = np.concatenate([rows, np.ones((len(rows), 1))], axis=1)
    decision = x @ _separate(x, np.repeat([1.0, -1.0], len(real)))
    of_real, of_fake = decision[: len(real)], decision[len(real) :]
    wrong = ((of_real <= 0).astype(float) + (of_fake > 0)) / 2
    return np.stack([of_fake > of_real, wrong])


def pids_uids(real: Any, fake: Any) -> tuple[float, float]:
    """Paired and unpaired inception discriminative score: how often a linear SVM is fooled.

    P-IDS: share of pairs (real i, fake i) where the fake looks more real; U-IDS: the SVM's error.
    Zhao et al., "Large scale image completion via co-modulated GANs", 2021, named there for the
    Inception features. Raises TooFewSamples below two rows, ValueError where the numbers differ.
    """
    paired_score, unpaired_score = _fooled(real, fake).mean(axis=1).tolist()
    return paired_score, unpaired_score


def pids_uids_estimates(real: Any, fake: Any) -> tuple[Estimate, Estimate]:
    """`pids_uids` with intervals of the pairs' scores under the one SVM, which is not fit anew."""
    scores = _fooled(real, fake)
    count = scores.shape[1]
    stderr = scores.std(axis=1, ddof=1) / np.sqrt(count)
    one, other = zip(scores.mean(axis=1).tolist(), stderr.tolist(), strict=True)
    return _share(*one, count), _share(*other, count)
