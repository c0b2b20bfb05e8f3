"""Faces of a photo, with or without a hole in it.

A cascade of local binary patterns (scikit-image's) proposes boxes, in the photo with its hole
filled; where that finds no face, squares around the hole are tried. What a proposal is worth says
the landmark predictor, which knows damaged faces, by how sure it is of them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from fi_jax import landmarks as lm
from fi_jax.input_pipeline import alignment
from fi_jax.photo import blending

# Crops (N,res,res,3) and their holes (N,res,res) -> landmarks (N,68,2) and deviations (N,68).
Predict = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
Box = tuple[float, float, float, float]  # left, top, right, bottom

SEARCHED = 640  # longer side of what is searched, pixels; a face of 40 is found
SURE = 0.5  # a score above this is a face
CLEAR = 0.65  # below this a better face is looked for under the hole
GUESSED = 0.4  # a score above this is a face, where it is looked for under the hole
_ROUNDS = 3
_MOST = 24  # proposals that are read, each from _STARTS
# Scales and shifts downwards, in sides of the square: a hole misleads the cascade.
_STARTS = [(scale, down) for scale in (1.0, 0.75, 1.3) for down in (0.0, -0.15, 0.15)]
# The square of the canonical frame about a box of the cascade, in its sides; measured on photos.
_SIDE, _UP = 1.71, 0.14


class NoFaceFound(ValueError):
    """No face was found where one is needed."""


@dataclass(frozen=True)
class Face:
    """A face: its box and landmarks (68,2) in photo pixels; score in [0,1], 1 = surely one."""

    box: Box
    landmarks: np.ndarray
    score: float = 1.0

    @classmethod
    def of(cls, points: np.ndarray, score: float = 1.0) -> Face:
        (left, top), (right, bottom) = points.min(0), points.max(0)
        return cls((float(left), float(top), float(right), float(bottom)), points, score)

    @functools.cached_property
    def square(self) -> tuple[float, float, float]:
        """Centre x, y and side of the square that the network sees, photo pixels."""
        to_photo = alignment.invert(alignment.to_canonical(self.landmarks, 2))
        x, y = to_photo[:, :2].sum(1) * 0.5 + to_photo[:, 2]
        return float(x), float(y), 2 * float(np.hypot(*to_photo[:, 0]))


def mean_face(box: Iterable[float]) -> np.ndarray:
    """The mean face laid into a box, (68,2); ValueError where the box is none."""
    box = tuple(map(float, box))
    left, top, right, bottom = box if len(box) == 4 else (0.0,) * 4
    if not (right > left and bottom > top and np.isfinite(box).all()):
        raise ValueError(f'face={box}: expected left, top, right, bottom in photo pixels')
    low, high = lm.MEAN_SHAPE.min(0), lm.MEAN_SHAPE.max(0)
    scale = ((right - left) / (high[0] - low[0]) * (bottom - top) / (high[1] - low[1])) ** 0.5
    centre = np.array([left + right, top + bottom]) / 2
    return ((lm.MEAN_SHAPE - (low + high) / 2) * scale + centre).astype(np.float32)


def in_square(x: float, y: float, side: float) -> np.ndarray:
    """The mean face in an upright square of a centre and side, (68,2)."""
    return ((lm.MEAN_SHAPE - 0.5) * side + (x, y)).astype(np.float32)


def settle(
    pixels: np.ndarray,
    missing: np.ndarray,
    starts: list[np.ndarray],
    predict: Predict,
    res: int,
    rounds: int = _ROUNDS,
) -> list[Face]:
    """The faces nearest to first guesses of their landmarks, (68,2) each, in photo pixels.

    Cut by the guess, read, cut anew by what was read, until the frame is the face's own.
    """
    faces = [Face.of(points) for points in starts]
    for _ in range(rounds if faces else 0):
        frames = [alignment.invert(alignment.to_canonical(f.landmarks, res)) for f in faces]
        cuts = [blending.cut(pixels, missing, frame, res) for frame in frames]
        crops, holes = (np.stack(x) for x in zip(*cuts, strict=True))
        points, sigma = predict(crops, holes)
        faces = [
            Face.of(alignment.apply(frame, p), _score(p, s, h))
            for frame, p, s, h in zip(frames, points, sigma, holes, strict=True)
        ]
    return faces


def _score(points: np.ndarray, sigma: np.ndarray, hole: np.ndarray) -> float:
    """How sure the predictor is: 1/2 where its deviation is a tenth of the eyes' distance."""
    eyes = float(np.linalg.norm(points[45] - points[36]))
    return float(2 ** -(np.median(sigma) / max(eyes, 1e-3) / 0.1))


def find(pixels: np.ndarray, missing: np.ndarray, predict: Predict, res: int) -> list[Face]:
    """Faces of a photo (H,W,3) with missing pixels (H,W) bool: those the hole is of, then by size.

    Faces that lie on their side, or upside down, are looked for where none is upright. Around a
    small hole the photo is looked at more closely, for a face that is small in the whole.
    """
    faces: list[Face] = []
    if missing.any():
        rows, columns = blending.around(missing, 0)
        extent = max(rows.stop - rows.start, columns.stop - columns.start)
        rows, columns = near = blending.around(missing, 3 * extent)
        if (
            SEARCHED
            < 2 * max(rows.stop - rows.start, columns.stop - columns.start)
            < max(missing.shape)
        ):
            corner = np.array([columns.start, rows.start], np.float32)
            faces = [
                Face.of(f.landmarks + corner, f.score)
                for f in _search(pixels[near], missing[near], predict, res, turns=1)
            ]
    if not owners(missing, faces)[1]:
        faces = _search(pixels, missing, predict, res, turns=4)
    order = owners(missing, faces)[1]
    rest = sorted(set(range(len(faces))) - set(order), key=lambda i: -faces[i].square[2])
    return [faces[i] for i in [*order, *rest]]


def _search(
    pixels: np.ndarray, missing: np.ndarray, predict: Predict, res: int, turns: int
) -> list[Face]:
    """Faces upright, else in the first of so many quarter turns that shows some; else hidden."""
    scale = min(1.0, SEARCHED / max(missing.shape))
    size = [max(1, round(n * scale)) for n in missing.shape[::-1]]
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    hole = cv2.resize(missing.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0
    filled = cv2.inpaint(small, hole.astype(np.uint8), 3, cv2.INPAINT_TELEA)
    look = functools.partial(settle, small, hole, predict=predict, res=res)
    faces: list[Face] = []
    for turn in range(turns):
        boxes = _proposals(np.rot90(filled, turn))[:_MOST]
        starts = [_turned(_moved(b, *by), turn, hole.shape) for b in boxes for by in _STARTS]
        first = sorted(look(starts, rounds=1), key=lambda f: -f.score)[:_MOST]
        faces = _distinct(f for f in look([f.landmarks for f in first]) if f.score > SURE)
        if faces:
            break
    if hole.any() and turns > 1:
        best = max((faces[i].score for i in owners(hole, faces)[1]), default=GUESSED)
        if best < CLEAR:
            faces = _distinct([*faces, *(f for f in _hidden(hole, look) if f.score > best)])
    to_photo = alignment.invert(
        np.array([[scale, 0, scale / 2 - 0.5], [0, scale, scale / 2 - 0.5]], np.float64)
    )
    return [Face.of(alignment.apply(to_photo, f.landmarks), f.score) for f in faces]


def owners(missing: np.ndarray, faces: list[Face]) -> tuple[np.ndarray, list[int]]:
    """Whose each missing pixel is, (H,W) int8, and the faces that own some, most first.

    -1 where nothing is missing, or no face is near. A connected piece of the hole goes to the
    nearest face, in sides of the faces' squares; one that reaches into several is shared out.
    """
    h, w = missing.shape
    owner = np.full((h, w), -1, np.int8)
    if not faces or not missing.any():
        return owner, []
    scale = max(1, max(h, w) // 400)
    size = (-(-w // scale), -(-h // scale))
    small = cv2.resize(missing.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0
    y, x = np.mgrid[: size[1], : size[0]].astype(np.float32)
    away = np.stack([
        np.hypot((x + 0.5) * w / size[0] - cx, (y + 0.5) * h / size[1] - cy) / side
        for cx, cy, side in (f.square for f in faces)
    ])  # fmt: skip
    nearest = away.argmin(0)
    count, pieces = cv2.connectedComponents(small.astype(np.uint8))
    of = np.full(small.shape, -1, np.int8)
    for number in range(1, count):
        piece = pieces == number
        reached = away[:, piece].min(1)
        if reached.min() > 0.5:
            continue
        inside = np.flatnonzero(reached < 0.25)
        if len(inside) > 1:
            of[piece] = inside[away[inside][:, piece].argmin(0)]
        else:
            of[piece] = nearest[piece][away.min(0)[piece].argmin()]
    owner = np.asarray(cv2.resize(of, (w, h), interpolation=cv2.INTER_NEAREST), np.int8)
    owner[~missing] = -1
    counts = np.bincount(owner[owner >= 0], minlength=len(faces))
    return owner, [int(i) for i in np.argsort(-counts, kind='stable') if counts[i]]


@functools.cache
def _cascade() -> Any:
    from skimage import data, feature  # a second, and needed only where a face is looked for

    return feature.Cascade(data.lbp_frontal_face_cascade_filename())


def _proposals(image: np.ndarray) -> list[np.ndarray]:
    """First guesses of the landmarks of upright faces in an image, the larger first."""
    longer = max(image.shape[:2])
    if longer < 24:
        return []
    times = max(1.0, 320 / longer)  # the cascade knows faces of 24 pixels and more
    image = np.ascontiguousarray(image)
    if times > 1:
        image = cv2.resize(image, None, fx=times, fy=times, interpolation=cv2.INTER_CUBIC)
    boxes = _cascade().detect_multi_scale(
        img=image, scale_factor=1.15, step_ratio=1, min_size=(32, 32),
        max_size=image.shape[:2], min_neighbor_number=2,
    )  # fmt: skip
    found = []
    for box in sorted(boxes, key=lambda b: -b['width']):
        side = box['width']
        x, y = box['c'] + side / 2, box['r'] + side / 2 - _UP * side
        found.append(in_square(x / times, y / times, _SIDE * side / times))
    return found


def _turned(points: np.ndarray, turns: int, size: tuple[int, int]) -> np.ndarray:
    """Points of np.rot90(image, turns) in the image of a size (H,W)."""
    (h, w), (x, y) = size, points.T
    ways = ((x, y), (w - 1 - y, x), (w - 1 - x, h - 1 - y), (y, h - 1 - x))
    return np.stack(ways[turns], -1).astype(np.float32)


def _moved(points: np.ndarray, scale: float, down: float) -> np.ndarray:
    """Points scaled about their middle, and moved down by shares of their square's side."""
    middle = (points.min(0) + points.max(0)) / 2
    side = np.ptp(points[:, 0]) / np.ptp(lm.MEAN_SHAPE[:, 0])
    return ((points - middle) * scale + middle + (0.0, down * side)).astype(np.float32)


def _hidden(hole: np.ndarray, look: Callable[..., list[Face]]) -> list[Face]:
    """The face that a hole hides so far that no cascade sees it: at most one, and a guess."""
    rows, columns = blending.around(hole, 0)
    x, y = (columns.start + columns.stop) / 2, (rows.start + rows.stop) / 2
    extent = max(columns.stop - columns.start, rows.stop - rows.start)
    shorter = min(hole.shape)
    sides = [s for k in range(6) if 0.15 * shorter < (s := extent * 1.2 * 1.45**k) < 1.6 * shorter]
    starts = [
        in_square(x + dx * side, y + dy * side, side)
        for side in sides or [1.5 * extent]
        for dx in (-0.25, 0.0, 0.25)
        for dy in (-0.3, -0.1, 0.1)
    ]

    def rank(face: Face) -> float:
        """Its score, less where the hole lies far from its middle or hides most of it."""
        u, v, side = face.square
        column, row = np.round(face.landmarks).astype(int).T
        inside = (row >= 0) & (row < hole.shape[0]) & (column >= 0) & (column < hole.shape[1])
        hidden = hole[row[inside], column[inside]].sum() / len(row)
        return face.score - 0.4 * float(np.hypot(u - x, v - y)) / side - 0.15 * float(hidden)

    promising = sorted(look(starts, rounds=1), key=rank, reverse=True)[:8]
    faces = [f for f in look([f.landmarks for f in promising]) if f.score > GUESSED]
    return sorted(faces, key=rank, reverse=True)[:1]


def _distinct(faces: Iterable[Face]) -> list[Face]:
    """Of faces that overlap by more than a third of a side, the surest."""
    kept: list[Face] = []
    for face in sorted(faces, key=lambda f: -f.score):
        x, y, side = face.square
        others = (other.square for other in kept)
        if all(np.hypot(x - u, y - v) > 0.35 * max(side, s) for u, v, s in others):
            kept.append(face)
    return kept
