"""How much the completions of one input differ, what of it is worth having, and when it should end.

Two columns, never one: `*_div` is the distance between samples of one input (up), `*_gt` their
distance to the truth (down).
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from fi_jax.metrics.identity import SAME_PERSON
from fi_jax.metrics.perceptual import Distance

MAX_LANDMARK_ERROR = 0.1  # of the eyes, over the whole face


def pairs(num_samples: int) -> np.ndarray:
    """The N(N-1)/2 pairs of samples, (P, 2)."""
    return np.stack(np.triu_indices(num_samples, 1), -1)


def names(distance: str) -> tuple[str, ...]:
    """The keys of what `score` returns for the distance of that name."""
    return (
        *(f'{distance}_{kind}' for kind in ('div', 'div_hole')),
        *(f'{distance}_{kind}/{of}' for kind in ('gt', 'gt_hole') for of in ('mean', 'best')),
    )


def distances(
    distance: Distance, samples: jax.Array, truth: jax.Array, hole: jax.Array
) -> dict[str, jax.Array]:
    """Each distance by itself: 'div', 'div_hole' (B, P) over `pairs`, 'gt', 'gt_hole' (B, N).

    samples (B, N, H, W, 3), truth (B, H, W, 3), all 0..255; hole (B, H, W, 1). The network sees
    each image once, one input at a time, so that memory does not grow with B.
    """
    index = jnp.asarray(pairs(samples.shape[1]), jnp.int32)

    def one(arguments: tuple[jax.Array, jax.Array, jax.Array]) -> dict[str, jax.Array]:
        images, original, region = arguments
        maps = distance.features(jnp.concatenate([images, original[None]]))
        of_truth = tuple(x[-1] for x in maps)

        def compare(a: tuple[jax.Array, ...], b: tuple[jax.Array, ...]) -> jax.Array:
            return jnp.stack([distance.compare(a, b), distance.compare(a, b, region)])

        def to_truth(i: jax.Array) -> jax.Array:
            return compare(tuple(x[i] for x in maps), of_truth)

        def of_pair(ij: jax.Array) -> jax.Array:
            return compare(tuple(x[ij[0]] for x in maps), tuple(x[ij[1]] for x in maps))

        gt = jax.lax.map(to_truth, jnp.arange(images.shape[0]))
        div = jax.lax.map(of_pair, index) if len(index) else jnp.zeros((0, 2))
        return {'div': div[:, 0], 'div_hole': div[:, 1], 'gt': gt[:, 0], 'gt_hole': gt[:, 1]}

    return jax.lax.map(one, (samples, truth, hole))


def summarise(name: str, each: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Means and the best of N of what `distances` gives, under the keys of `names`, each (B,)."""
    return {
        f'{name}_div': jnp.mean(each['div'], axis=1),
        f'{name}_div_hole': jnp.mean(each['div_hole'], axis=1),
        f'{name}_gt/mean': jnp.mean(each['gt'], axis=1),
        f'{name}_gt/best': jnp.min(each['gt'], axis=1),
        f'{name}_gt_hole/mean': jnp.mean(each['gt_hole'], axis=1),
        f'{name}_gt_hole/best': jnp.min(each['gt_hole'], axis=1),
    }


def score(
    distance: Distance, samples: jax.Array, truth: jax.Array, hole: jax.Array
) -> dict[str, jax.Array]:
    """Diversity and distance to the truth, whole and in the hole, under the keys of `names`: (B,).

    Shapes as in `distances`. Diversity is NaN for N = 1, what is over an empty hole is NaN.
    """
    return summarise(distance.name, distances(distance, samples, truth, hole))


def gate(
    landmark_error: jax.Array | None = None,
    face_distance: jax.Array | None = None,
    *,
    max_error: float = MAX_LANDMARK_ERROR,
    max_distance: float = SAME_PERSON,
) -> jax.Array:
    """Which samples (B, N) are good enough to count: 0 and 1; a score that is NaN does not pass.

    landmark_error: `landmarks.error` against the truth; face_distance: `identity.distance` to it.
    Either may be left out. Raises ValueError where both are.
    """
    passes = [
        value <= most
        for value, most in ((landmark_error, max_error), (face_distance, max_distance))
        if value is not None
    ]
    if not passes:
        raise ValueError('gate: neither landmark_error nor face_distance given; give one')
    return jnp.all(jnp.stack(passes), axis=0).astype(jnp.float32)


def at_quality(pair_values: jax.Array, passed: jax.Array) -> jax.Array:
    """Mean of pair values (B, P) over the pairs of which both samples passed (B, N): -> (B,).

    NaN where fewer than two did. Report the share that passed beside it: mean of `passed`.
    """
    first, second = pairs(passed.shape[1]).T
    both = passed[:, first] * passed[:, second]
    count = jnp.sum(both, axis=1)
    total = jnp.sum(jnp.where(both > 0, pair_values, 0), axis=1)
    return jnp.where(count > 0, total / jnp.maximum(count, 1), jnp.nan)


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Diversity by hole area: bins, and whether it rises with the area from nearly nothing."""

    edges: tuple[float, ...]  # shares of the frame
    mean: tuple[float, ...]  # NaN where a bin is empty
    stderr: tuple[float, ...]
    count: tuple[int, ...]
    rank_correlation: float  # Spearman's, of diversity and area
    at_zero: float  # the line through the smaller half of the holes, at area 0


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks, ties sharing their mean."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts + 1) / 2)[inverse]


def calibration(
    area: np.ndarray,
    diversity: np.ndarray,
    edges: tuple[float, ...] = (0.0, 0.01, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 1.0),
) -> Calibration:
    """Diversity (n,) of whole images against the area (n,) of their holes, a share of the frame.

    A calibrated sampler has a rank correlation near 1 and is near 0 at area 0. Values that are not
    finite are left out; below three examples both are NaN.
    """
    area, diversity = np.asarray(area, np.float64), np.asarray(diversity, np.float64)
    keep = np.isfinite(area) & np.isfinite(diversity)
    area, diversity = area[keep], diversity[keep]
    bins = np.clip(np.searchsorted(edges, area, side='left') - 1, 0, len(edges) - 2)
    mean, stderr, count = [], [], []
    for i in range(len(edges) - 1):
        inside = diversity[bins == i]
        count.append(len(inside))
        mean.append(float(inside.mean()) if len(inside) else float('nan'))
        deviation = inside.std(ddof=1) if len(inside) > 1 else float('nan')
        stderr.append(float(deviation / np.sqrt(max(len(inside), 1))))
    correlation, at_zero = float('nan'), float('nan')
    if len(area) > 2:
        x, y = _ranks(area), _ranks(diversity)
        if x.std() > 0 and y.std() > 0:
            correlation = float(np.corrcoef(x, y)[0, 1])
        small = area <= np.median(area)
        if area[small].std() > 0:
            at_zero = float(np.polynomial.Polynomial.fit(area[small], diversity[small], 1)(0.0))
    return Calibration(tuple(edges), tuple(mean), tuple(stderr), tuple(count), correlation, at_zero)
