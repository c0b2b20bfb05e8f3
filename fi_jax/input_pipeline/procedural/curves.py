"""Curves through points: splines, ribbons, outlines."""

import functools
import math
from collections.abc import Sequence

import numpy as np


@functools.lru_cache(maxsize=64)
def _spline(count: int, closed: bool, steps: int) -> np.ndarray:
    """The Catmull-Rom curve through `count` points as a matrix: (samples, count)."""
    segments = count if closed else count - 1
    segment, f = np.divmod(np.arange(segments * steps + (not closed)) / steps, 1)
    weights = 0.5 * np.stack(
        [-f + 2 * f**2 - f**3, 2 - 5 * f**2 + 3 * f**3, f + 4 * f**2 - 3 * f**3, f**3 - f**2]
    )
    # Past an open end the curve goes on straight, p[-1] = 2 p[0] - p[1].
    identity = np.eye(count)
    before, after = identity[-1:], identity[:2]
    if not closed:
        before, after = 2 * identity[:1] - identity[1:2], 2 * identity[-1:] - identity[-2:-1]
    extended = np.concatenate([before, identity, after, after])
    near = np.stack([extended[segment.astype(int) + k] for k in range(4)])
    return (weights[:, :, None] * near).sum(0)


def curve(points: np.ndarray, closed: bool = False, steps: int = 6) -> np.ndarray:
    return _spline(len(points), closed, steps) @ points


@functools.lru_cache(maxsize=64)
def _steps(count: int) -> np.ndarray:
    return np.linspace(0, 1, count)


def ribbon(line: np.ndarray, widths: float | Sequence[float] | np.ndarray) -> np.ndarray:
    """The outline of a stroke along (N, 2) `line` whose width passes through `widths`."""
    along = np.empty_like(line)
    along[1:-1] = line[2:] - line[:-2]
    along[0], along[-1] = line[1] - line[0], line[-1] - line[-2]
    half = 0.5 / np.sqrt((along * along).sum(1) + 1e-18)
    if isinstance(widths, float):
        half *= widths
    else:
        half *= np.interp(_steps(len(line)), _steps(len(widths)), widths)
    across = np.stack([-along[:, 1] * half, along[:, 0] * half], 1)
    return np.concatenate([line + across, (line - across)[::-1]])


def inset(polygon: np.ndarray, by: float) -> np.ndarray:
    """A smooth closed polygon moved inwards."""
    ahead, behind = np.roll(polygon, -1, 0), np.roll(polygon, 1, 0)
    along = ahead - behind
    turn = np.sum(polygon[:, 0] * ahead[:, 1] - polygon[:, 1] * ahead[:, 0])
    inward = np.stack([-along[:, 1], along[:, 0]], 1) * np.sign(turn)
    return polygon + by * inward / (np.linalg.norm(along, axis=1, keepdims=True) + 1e-9)


@functools.lru_cache(maxsize=8)
def circle(steps: int = 32) -> np.ndarray:
    a = np.arange(steps) * (2 * math.pi / steps)
    return np.stack([np.cos(a), np.sin(a)], 1)


@functools.lru_cache(maxsize=8)
def grid(side: int) -> np.ndarray:
    return ((np.arange(side) + 0.5) / side).astype(np.float32)
