"""Faces of a photo, with or without a hole in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fi_jax import landmarks as lm
from fi_jax.input_pipeline import alignment
from fi_jax.photo import blending

# Crops (N,res,res,3) and their holes (N,res,res) -> landmarks (N,68,2) and deviations (N,68).
Predict = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
Box = tuple[float, float, float, float]  # left, top, right, bottom

ROUNDS = 3


class NoFaceFound(ValueError):
    """No face was found where one is needed."""


@dataclass(frozen=True)
class Face:
    """A face: its box and landmarks (68,2) in photo pixels; score in [0,1], 1 = surely one."""

    box: Box
    landmarks: np.ndarray
    score: float


def box_of(points: np.ndarray) -> Box:
    """The box of landmarks."""
    (left, top), (right, bottom) = points.min(0), points.max(0)
    return float(left), float(top), float(right), float(bottom)


def mean_face(box: Box) -> np.ndarray:
    """The mean face laid into a box, (68,2); ValueError where the box is none."""
    left, top, right, bottom = box
    if not (right > left and bottom > top and np.isfinite(box).all()):
        raise ValueError(f'face={box}: expected left, top, right, bottom in photo pixels')
    low, high = lm.MEAN_SHAPE.min(0), lm.MEAN_SHAPE.max(0)
    scale = ((right - left) / (high[0] - low[0]) * (bottom - top) / (high[1] - low[1])) ** 0.5
    centre = np.array([left + right, top + bottom]) / 2
    return ((lm.MEAN_SHAPE - (low + high) / 2) * scale + centre).astype(np.float32)


def settle(
    pixels: np.ndarray, missing: np.ndarray, start: np.ndarray, predict: Predict, res: int
) -> Face:
    """The face nearest to a first guess of its landmarks (68,2) in photo pixels.

    Cut by the guess, read, cut anew by what was read, until the frame is the face's own.
    """
    points = start
    for _ in range(ROUNDS):
        to_photo = alignment.invert(alignment.to_canonical(points, res))
        crop, hole = blending.cut(pixels, missing, to_photo, res)
        read, sigma = predict(crop[None], hole[None])
        points = alignment.apply(to_photo, read[0])
    eyes = float(np.linalg.norm(read[0][45] - read[0][36]))
    return Face(box_of(points), points, float(np.exp(-np.median(sigma) / max(eyes, 1e-3) / 0.1)))


def find(pixels: np.ndarray, missing: np.ndarray, predict: Predict, res: int) -> list[Face]:
    """Faces, those that the hole is of first, then the larger ones."""
    height, width = missing.shape
    side = min(height, width)
    centre = (width / 2, height / 2)
    box = (centre[0] - side / 4, centre[1] - side / 4, centre[0] + side / 4, centre[1] + side / 4)
    return [settle(pixels, missing, mean_face(box), predict, res)]
