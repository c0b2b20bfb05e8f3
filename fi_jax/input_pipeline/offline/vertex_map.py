"""From MediaPipe's 478 face vertices to the 68 iBUG points: a fixed list, or a learned correction.

The fixed map takes, for each point, the mean of some vertices. The learned map adds a ridge
regression, on all vertices freed of place, size and roll, to the rest that people's annotations
show: above all the jaw, which no vertex follows. Its weights come from annotations that are for
research only; see `VertexMap.terms` and data/README.md.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import json
from collections.abc import Sequence
from importlib import resources

import numpy as np

NUM_VERTICES = 478
MAPS = ('learned', 'fixed')

_EYES = ((33, 133), (362, 263))  # corners of the right and the left eye
_FILES = {'fixed': 'mp478_to_ibug68.json', 'learned': 'mp478_to_ibug68_learned.npz'}


@dataclasses.dataclass(frozen=True)
class Correction:
    """A linear map of reduced rank from vertices in their own frame to what the list lacks."""

    mean: np.ndarray  # (956,)
    basis: np.ndarray  # (956, rank)
    weights: np.ndarray  # (rank, 136)
    bias: np.ndarray  # (136,)

    def __call__(self, shape: np.ndarray) -> np.ndarray:
        """shape (956,) of `in_own_frame` -> (68,2) in that frame."""
        return (((shape - self.mean) @ self.basis) @ self.weights + self.bias).reshape(68, 2)


@dataclasses.dataclass(frozen=True)
class VertexMap:
    """Callable (478,2) -> (68,2), in the same pixels."""

    average: np.ndarray  # (68,478), for each point the vertices whose mean stands for it
    version: str  # first digits of the sha256 of its data
    terms: str
    correction: Correction | None = None

    def __call__(self, points: np.ndarray) -> np.ndarray:
        base = self.average @ points
        if self.correction is not None:
            shape, rotation, scale = in_own_frame(points)
            base = base + self.correction(shape) @ rotation * scale
        return base.astype(np.float32)


def in_own_frame(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Vertices (478,2) less their place, size and roll.

    Returns:
        (956,) centred, of unit root mean square radius, the eyes level; the (2,2) rotation and the
        scale that lead back: `offset @ rotation * scale`.
    """
    right, left = (points[list(eye)].mean(0) for eye in _EYES)
    along = (left - right) / max(float(np.hypot(*(left - right))), 1e-6)
    rotation = np.array([[along[0], along[1]], [-along[1], along[0]]])
    centred = points - points.mean(0)
    scale = max(float(np.sqrt(np.square(centred).sum(1).mean())), 1e-6)
    return (centred @ rotation.T / scale).ravel(), rotation, scale


@functools.cache
def load(kind: str) -> VertexMap:
    """The map of that kind, one of MAPS; ValueError otherwise."""
    if kind not in MAPS:
        raise ValueError(f'--map={kind}: expected one of {", ".join(MAPS)}')
    data = resources.files('fi_jax.input_pipeline.offline') / 'data'
    raw = (data / _FILES['fixed']).read_bytes()
    listed = json.loads(raw)
    average = np.zeros((len(listed['vertices']), NUM_VERTICES))
    for row, vertices in zip(average, listed['vertices'], strict=True):
        row[vertices] = 1 / len(vertices)
    if kind == 'fixed':
        return VertexMap(average, hashlib.sha256(raw).hexdigest()[:12], listed['terms'])
    raw = (data / _FILES['learned']).read_bytes()
    with np.load(io.BytesIO(raw), allow_pickle=False) as file:
        fields = {k: file[k].astype(np.float64) for k in ('mean', 'basis', 'weights', 'bias')}
        terms = str(file['terms'])
    return VertexMap(average, hashlib.sha256(raw).hexdigest()[:12], terms, Correction(**fields))


def fit(
    vertices: Sequence[np.ndarray],
    points: Sequence[np.ndarray],
    *,
    ridge: float = 2.0,
    rank: int = 80,
    outlier: float = 0.2,
) -> Correction:
    """Ridge regression of what the fixed map lacks, after a principal component analysis.

    Args:
        vertices: N of (478,2), detected.
        points: N of (68,2), annotated, in the same pixels.
        ridge: penalty, for features of unit size.
        rank: principal components kept.
        outlier: faces where the fixed map is off by more than this share of the distance of the
            outer eye corners are left out: another face was found.
    """
    fixed = load('fixed')
    shapes, rests = [], []
    for found, truth in zip(vertices, points, strict=True):
        rest = truth - fixed(found)
        if np.hypot(*rest.T).mean() > outlier * np.hypot(*(truth[36] - truth[45])):
            continue
        shape, rotation, scale = in_own_frame(found)
        shapes.append(shape)
        rests.append((rest @ rotation.T / scale).ravel())
    x, y = np.array(shapes), np.array(rests)
    mean, bias = x.mean(0), y.mean(0)
    centred = x - mean
    square = centred if len(x) <= x.shape[1] else np.linalg.qr(centred, mode='r')
    basis = np.linalg.svd(square, full_matrices=False)[2][:rank].T
    z = centred @ basis
    weights = np.linalg.solve(z.T @ z + ridge * np.eye(z.shape[1]), z.T @ (y - bias))
    return Correction(mean, basis, weights, bias)


def save(correction: Correction, path: str, terms: str) -> None:
    """Writes the learned map and its terms; half precision loses under 0.01 % of the eyes."""
    parts = {k: v.astype(np.float16) for k, v in dataclasses.asdict(correction).items()}
    np.savez(path, **{'terms': np.array(terms), **parts})
