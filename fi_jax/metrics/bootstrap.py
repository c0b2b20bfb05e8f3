"""Means of per-example scores with bootstrap intervals over the examples, on the host."""

import dataclasses
from collections.abc import Mapping

import numpy as np

_BLOCK = 4_000_000  # resampled counts held at once


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean over count examples and its interval; NaN where there are too few."""

    mean: float
    low: float
    high: float
    stderr: float
    count: int


def resampled_means(
    values: np.ndarray, member: np.ndarray, resamples: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means (M,G), counts (M,G) and means of bootstrap resamples (R,M,G) of values by group.

    values (M,n) of M metrics, where what is not finite is left out of that metric alone; member
    (G,n) bool. All metrics and groups see the same resamples of the n examples, and all calls of
    one n and seed do, so that differences of results are paired. A resample that misses a group
    gives the group's mean. Efron, "Bootstrap methods: another look at the jackknife", 1979.
    """
    values = np.asarray(values, np.float64)
    finite = np.isfinite(values)
    known = np.where(finite, values, 0.0)
    n, shape = values.shape[1], (len(values), len(member))
    inside = finite[:, None] & member[None].astype(bool)  # (M,G,n)
    count = inside.sum(-1)
    # About the mean of all: sums of large numbers would lose the digits that differ.
    centre = known.sum(1) / np.maximum(finite.sum(1), 1)
    terms = (inside * (known - centre[:, None])[:, None]).reshape(-1, n).T
    weight = inside.reshape(-1, n).T.astype(np.float64)
    with np.errstate(invalid='ignore', divide='ignore'):
        mean = centre[:, None] + terms.sum(0).reshape(shape) / count
        rng = np.random.default_rng([seed, n])
        blocks = []
        rows = max(1, _BLOCK // max(n, 1))
        for start in range(0, resamples, rows):
            size = min(rows, resamples - start)
            drawn = rng.integers(n, size=(size, n)) + n * np.arange(size)[:, None]
            times = np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n).astype(float)
            block = (times @ terms) / (times @ weight)
            blocks.append(centre[:, None] + block.reshape(size, *shape))
    draws = np.concatenate(blocks)
    return mean, count, np.where(np.isfinite(draws), draws, mean)


def estimate(mean: float, draws: np.ndarray, count: int, level: float = 0.95) -> Estimate:
    """The percentile interval of one resampled mean (R,); NaN bounds for fewer than two."""
    if count < 2:
        return Estimate(float(mean), np.nan, np.nan, np.nan, int(count))
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(float(mean), float(low), float(high), float(np.std(draws)), int(count))


def estimates(
    values: Mapping[str, np.ndarray],
    groups: Mapping[str, np.ndarray],
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, dict[str, Estimate]]:
    """Group -> metric -> Estimate, of metrics (n,) and groups (n,) bool; empty groups left out."""
    names, member = list(values), {g: m for g, m in groups.items() if np.any(m)}
    if not names or not member:
        return {}
    stacked = np.stack([np.asarray(values[name], np.float64) for name in names])
    mean, count, draws = resampled_means(stacked, np.stack(list(member.values())), resamples, seed)
    return {
        group: {
            name: estimate(mean[m, g], draws[:, m, g], count[m, g]) for m, name in enumerate(names)
        }
        for g, group in enumerate(member)
    }
