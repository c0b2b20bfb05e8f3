"""Which examples belong together in a table: all, by hole area, by hole kind; on the host."""

import itertools
from collections.abc import Sequence

import numpy as np

# Fractions of the frame; a bin holds its upper edge, the first one also holds zero.
AREA_BINS: tuple[float, ...] = (0.0, 0.01, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 1.0)
AREA_NAMES: tuple[str, ...] = tuple(
    f'{round(100 * low)}-{round(100 * high)}%' for low, high in itertools.pairwise(AREA_BINS)
)


def groups_of(
    area: np.ndarray, kind: np.ndarray, pixels: int, kinds: Sequence[str]
) -> dict[str, np.ndarray]:
    """Group name -> members (n,) bool: 'all', the area bins, the kinds; groups may be empty.

    area (n,) missing pixels of each example, kind (n,) index into kinds (outside: in no kind's
    group), pixels of a frame.
    """
    area, kind = np.asarray(area), np.asarray(kind)
    # Whole pixels on both sides, so that an area on an edge falls the same way everywhere.
    edges = np.floor(np.array(AREA_BINS) * pixels + 1e-6)
    edges[0] = -1
    groups = {'all': np.ones(len(area), bool)}
    for name, low, high in zip(AREA_NAMES, edges[:-1], edges[1:], strict=True):
        groups[name] = (area > low) & (area <= high)
    return groups | {name: kind == i for i, name in enumerate(kinds)}
