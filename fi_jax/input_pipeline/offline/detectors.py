"""Detectors that need no MediaPipe: dlib's 68 points, and points that exist already.

A detector has a `name`, a `version`, `views` (how often and how to look at a picture, see
`extract_landmarks.search`) and is called with an image and its name for the faces in it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
import re
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from fi_jax import landmarks as lm
from fi_jax.input_pipeline import alignment, landmark_shards

DLIB_SHA256 = 'fbdc2cb80eb9aa7a758672cbfdda32ba6300efe9b6e6c7a299ff7e736b11b92f'
DLIB_MODEL = 'FI_JAX_DLIB68'  # environment variable
FIVE = ('lefteye', 'righteye', 'nose', 'leftmouth', 'rightmouth')  # of CelebA: in the picture

_FIVE_POINTS = (range(36, 42), range(42, 48), (30,), (48,), (54,))


@dataclasses.dataclass(frozen=True)
class View:
    """A look at a picture: a part of it, bordered, enlarged or reduced to a range of sizes."""

    border: float = 0.0  # share of the longer side, added all around by repeating the edge
    part: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)  # left, top, right, bottom
    sizes: tuple[int, int] = (256, 1280)  # limits of the longer side, pixels
    least: int = 0  # images whose longer side is below this are not looked at so


@dataclasses.dataclass(frozen=True)
class Face:
    """One face that a detector found."""

    points: np.ndarray  # (68,2)
    score: float = math.nan
    box: tuple[float, float, float, float] | None = None


class Detector(Protocol):
    """Finds all faces in an image (H,W,3) uint8."""

    name: str
    version: str

    @property
    def views(self) -> Sequence[View]: ...

    def __call__(self, image: np.ndarray, name: str) -> list[Face]: ...


def check_sha256(path: str, expected: str, what: str) -> None:
    """ValueError unless the file has that sha256; FileNotFoundError if there is none."""
    if not os.path.isfile(path):
        raise FileNotFoundError(f'{what}={path}: no such file; check the path')
    with open(path, 'rb') as file:
        found = hashlib.file_digest(file, 'sha256').hexdigest()
    if found != expected:
        raise ValueError(
            f'{what}={path}: sha256 {found[:12]}... is not the pinned {expected[:12]}...; '
            'the file is damaged or another version: get it again'
        )


class Dlib:
    """dlib's HOG detector and 68-point predictor (Kazemi and Sullivan, CVPR 2014).

    The predictor's file is named by `model` or by the variable FI_JAX_DLIB68.
    """

    name = 'dlib68'
    views: Sequence[View] = (
        View(0.25, sizes=(480, 1280)),
        View(0.0, sizes=(640, 1280)),
        View(0.5, sizes=(800, 1600)),
    )

    def __init__(self, model: str = ''):
        model = model or os.environ.get(DLIB_MODEL, '')
        if not model:
            raise ValueError(
                '--model is not set: the detector dlib needs shape_predictor_68_face_landmarks.dat '
                f'(--model=FILE or {DLIB_MODEL}=FILE)'
            )
        check_sha256(model, DLIB_SHA256, '--model')
        try:
            import dlib
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "--detector=dlib needs dlib: pip install 'fi_jax[dlib]'"
            ) from error
        self.version = f'{dlib.__version__}+{DLIB_SHA256[:8]}'
        self._find = dlib.get_frontal_face_detector()
        self._predict = dlib.shape_predictor(model)

    def __call__(self, image: np.ndarray, name: str) -> list[Face]:
        boxes, scores, _ = self._find.run(image, 0, 0.0)
        faces = []
        for box, score in zip(boxes, scores, strict=True):
            parts = self._predict(image, box).parts()
            points = np.array([(p.x, p.y) for p in parts], np.float32)
            edges = (box.left(), box.top(), box.right(), box.bottom())
            faces.append(Face(points, score, edges))
        return faces


class Import:
    """Points that exist: an .npz, a folder of shards or of .pts files, or CelebA's list of five.

    Five points are completed by the mean face, laid on them by the nearest affine map; such rows
    are of the detector 'template5'.

    Raises:
        FileNotFoundError, ValueError: naming --points.
    """

    views: Sequence[View] = ()

    def __init__(self, points: str):
        if not points:
            raise ValueError(
                '--points is not set: the detector import needs an .npz, a folder of shards or '
                "of .pts files, or CelebA's list_landmarks_align_celeba.txt"
            )
        if not os.path.exists(points):
            raise FileNotFoundError(f'--points={points}: no such file or folder; check the path')
        self.name = 'import'
        self._faces: dict[str, Face]
        self._by_stem = False
        if os.path.isdir(points) and not os.path.exists(
            os.path.join(points, landmark_shards.INDEX)
        ):
            self._faces, self.name, self._by_stem = read_pts_folder(points), 'pts', True
        elif points.endswith('.txt'):
            self._faces, self.name = read_five(points), 'template5'
        else:
            rows = landmark_shards.read_table(points).values()
            self._faces = {r.name: Face(r.points, r.score, r.box) for r in rows if r.found}
        digest = hashlib.sha256()
        for key in sorted(self._faces):
            digest.update(key.encode() + self._faces[key].points.tobytes())
        self.version = digest.hexdigest()[:12]

    def __call__(self, image: np.ndarray, name: str) -> list[Face]:
        key = os.path.splitext(name)[0] if self._by_stem else name
        face = self._faces.get(key) or self._faces.get(os.path.basename(key))
        return [face] if face else []


def read_pts_folder(folder: str) -> dict[str, Face]:
    """All .pts files (iBUG, counted from 1) of a folder: path without ending -> points from 0."""
    faces = {}
    for root, _, files in sorted(os.walk(folder)):
        for file in sorted(files):
            if file.endswith('.pts'):
                path = os.path.join(root, file)
                stem = os.path.relpath(path, folder).replace(os.sep, '/')[:-4]
                faces[stem] = Face(read_pts(path))
    if not faces:
        raise ValueError(f'--points={folder}: no .pts file and no landmarks.json in it')
    return faces


def read_pts(path: str) -> np.ndarray:
    """One .pts file of 68 points, counted from 1 -> (68,2) float32 from 0; ValueError if not so."""
    with open(path, encoding='utf-8', errors='replace') as file:
        inside = re.search(r'\{([^}]*)\}', file.read())
    try:
        numbers = np.array(inside.group(1).split() if inside else [], np.float32)
    except ValueError:
        numbers = np.zeros(0, np.float32)
    if numbers.size != 2 * lm.NUM_POINTS or not np.isfinite(numbers).all():
        raise ValueError(f'--points: {path}: no 68 points in braces; expected the .pts of iBUG')
    return numbers.reshape(68, 2) - 1


def read_five(path: str) -> dict[str, Face]:
    """CelebA's list of five points -> faces of 68, by `from_five`."""
    faces = {}
    with open(path, encoding='utf-8') as file:
        lines = file.read().splitlines()
    header = lines[1].split() if len(lines) > 1 else []
    if [h.rsplit('_', 1)[0] for h in header] != [p for p in FIVE for _ in 'xy']:
        raise ValueError(
            f'--points={path}: not a list of five points; the second line must be '
            'lefteye_x lefteye_y ... as in list_landmarks_align_celeba.txt'
        )
    for number, line in enumerate(lines[2:], 3):
        name, *values = line.split() or ['']
        try:
            five = np.array(values, np.float32).reshape(5, 2)
        except ValueError as error:
            raise ValueError(
                f'--points={path}: line {number}: expected a name and 10 numbers'
            ) from error
        faces[name] = Face(from_five(five))
    return faces


def five_of(points: np.ndarray) -> np.ndarray:
    """The five points of (68,2): centres of the eyes, tip of the nose, corners of the mouth."""
    return np.stack([points[list(p)].mean(0) for p in _FIVE_POINTS])


def from_five(five: np.ndarray) -> np.ndarray:
    """The mean face laid on five points (5,2) -> (68,2).

    The affine map is pulled towards a similarity, which five points of a turned face do not fix.
    """
    template = five_of(lm.MEAN_SHAPE)
    base = alignment.similarity(template, five)
    rest = five - alignment.apply(base, template)
    x = np.concatenate([template - template.mean(0), np.ones((5, 1))], 1)
    slope = np.linalg.solve(x.T @ x + np.diag([2e-3, 2e-3, 0]), x.T @ rest)
    y = np.concatenate([lm.MEAN_SHAPE - template.mean(0), np.ones((68, 1))], 1)
    return (alignment.apply(base, lm.MEAN_SHAPE) + y @ slope).astype(np.float32)
