"""Means of per-example metrics by group, gathered batch by batch on the device.

Count, mean and sum of squared deviations are kept instead of sums: float32 sums lose digits over a
test set. They combine in any order: Chan, Golub and LeVeque, "Updating formulae and a pairwise
algorithm for computing sample variances", 1979.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

# Fractions of the frame; a bin holds its upper edge, the first one also holds zero.
AREA_BINS: tuple[float, ...] = (0.0, 0.01, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 1.0)
AREA_NAMES: tuple[str, ...] = tuple(
    f'{round(100 * low)}-{round(100 * high)}%' for low, high in itertools.pairwise(AREA_BINS)
)


@flax.struct.dataclass
class Moments:
    """Count, mean and sum of squared deviations of one metric: (G,) float32 each."""

    count: jax.Array
    mean: jax.Array
    m2: jax.Array


Accumulator = dict[str, Moments]


@dataclasses.dataclass(frozen=True)
class Summary:
    """Mean, sample standard deviation and number of examples of one metric in one group."""

    mean: float
    std: float
    count: float

    @property
    def stderr(self) -> float:
        """Standard error of the mean; NaN for fewer than two examples."""
        return self.std / float(np.sqrt(self.count)) if self.count > 1 else float('nan')


def init(metric_names: Sequence[str], num_groups: int) -> Accumulator:
    """An accumulator that has seen nothing."""
    return {
        name: Moments(*(jnp.zeros((num_groups,), jnp.float32) for _ in range(3)))
        for name in metric_names
    }


def _combine(a: Moments, b: Moments) -> Moments:
    count = a.count + b.count
    share = b.count / jnp.maximum(count, 1)
    delta = b.mean - a.mean
    return Moments(
        count=count, mean=a.mean + delta * share, m2=a.m2 + b.m2 + delta**2 * a.count * share
    )


def _moments(values: jax.Array, weight: jax.Array) -> Moments:
    """Moments of values (B,) under 0/1 weights (B, G)."""
    finite = jnp.isfinite(values)
    values = jnp.where(finite, values, 0).astype(jnp.float32)[:, None]
    weight = weight * finite.astype(jnp.float32)[:, None]
    count = jnp.sum(weight, axis=0)
    # Products and sums, not a matrix product: that one runs in bfloat16 on a TPU.
    mean = jnp.sum(weight * values, axis=0) / jnp.maximum(count, 1)
    return Moments(count, mean, jnp.sum(weight * (values - mean[None]) ** 2, axis=0))


def update(
    acc: Accumulator, values: Mapping[str, jax.Array], groups: jax.Array, weight: jax.Array
) -> Accumulator:
    """Adds a batch: metrics (B,), 0/1 membership in groups (B, G), weight (B,) 0 for padding.

    A value that is not finite is left out of that metric alone. Raises ValueError where the metrics
    are not those of the accumulator.
    """
    if set(values) != set(acc):
        raise ValueError(
            f'metrics {sorted(set(values) ^ set(acc))}: in one of values and accumulator only; '
            'give init the names that update receives'
        )
    member = groups.astype(jnp.float32) * (weight > 0).astype(jnp.float32)[:, None]
    return {name: _combine(acc[name], _moments(values[name], member)) for name in acc}


def merge(a: Accumulator, b: Accumulator) -> Accumulator:
    """The accumulator of the examples of both, in whatever order."""
    if set(a) != set(b):
        raise ValueError(
            f'metrics {sorted(set(a) ^ set(b))}: in one accumulator only; merge needs the same ones'
        )
    return {name: _combine(a[name], b[name]) for name in a}


def compute(acc: Accumulator, group_names: Sequence[str]) -> dict[str, dict[str, Summary]]:
    """Group -> metric -> Summary, on the host; NaN mean and std where a group has no example."""
    host = {
        name: jax.tree.map(lambda x: np.asarray(x, np.float64), m)
        for name, m in jax.device_get(acc).items()
    }
    for name, moments in host.items():
        if len(set(group_names)) != len(group_names) or moments.count.shape != (len(group_names),):
            raise ValueError(
                f'group names {tuple(group_names)}: {name} has {moments.count.shape[0]} groups; '
                'give one distinct name for each'
            )

    def summary(m: Moments, group: int) -> Summary:
        count, mean, m2 = (float(x[group]) for x in (m.count, m.mean, m.m2))
        return Summary(
            mean=mean if count else float('nan'),
            std=float(np.sqrt(m2 / (count - 1))) if count > 1 else float('nan'),
            count=count,
        )

    return {
        group_name: {name: summary(moments, group) for name, moments in host.items()}
        for group, group_name in enumerate(group_names)
    }


def groups_of(hole: jax.Array, kind: jax.Array, num_kinds: int) -> jax.Array:
    """Membership by hole (B, H, W, 1) and kind (B,) -> (B, 1 + bins + num_kinds) of 0 and 1.

    Columns as `group_names`: everything, the area bin, the kind. A kind outside 0..num_kinds-1 is
    in no kind's group.
    """
    pixels = hole.shape[1] * hole.shape[2]
    count = jnp.sum(hole.astype(jnp.float32), axis=(1, 2, 3))
    # Whole pixels on both sides, so that an area on an edge falls the same way everywhere.
    edges = np.floor(np.array(AREA_BINS) * pixels + 1e-6).astype(np.float32)
    edges[0] = -1
    area = (count[:, None] > edges[None, :-1]) & (count[:, None] <= edges[None, 1:])
    return jnp.concatenate(
        [
            jnp.ones((hole.shape[0], 1), jnp.float32),
            area.astype(jnp.float32),
            jax.nn.one_hot(kind, num_kinds, dtype=jnp.float32),
        ],
        axis=1,
    )


def group_names(kinds: Sequence[str]) -> tuple[str, ...]:
    """Names of the columns of `groups_of`: 'all', '0-1%', ..., '60-100%', then the hole kinds."""
    return ('all', *AREA_NAMES, *kinds)
