"""The face of one image: looked for in several views, chosen, and marked where it is doubtful."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from fi_jax import landmarks as lm
from fi_jax.input_pipeline import alignment, records
from fi_jax.input_pipeline.landmark_shards import LandmarkRow
from fi_jax.input_pipeline.offline.detectors import Detector, Face, View

# Whether a face is worth a second look: farther than this from the mean face, as a share of the
# distance of the outer eye corners; smaller than so many pixels between them; more of it cut off.
ODD_SHAPE, SMALL, CUT_OFF = 0.25, 12.0, 0.15

_EMPTY = np.zeros((lm.NUM_POINTS, 2), np.float32)


def show(image: np.ndarray, view: View) -> tuple[np.ndarray, np.ndarray]:
    """What a detector sees in a view, and the transform (2,3) from there to the image's pixels."""
    height, width = image.shape[:2]
    left, top, right, bottom = (
        round(share * side) for share, side in zip(view.part, (width, height) * 2, strict=True)
    )
    seen = image[top : max(bottom, top + 1), left : max(right, left + 1)]
    border = round(view.border * max(seen.shape[:2]))
    if border:
        seen = cv2.copyMakeBorder(seen, border, border, border, border, cv2.BORDER_REPLICATE)
    height, width = seen.shape[:2]
    low, high = view.sizes
    scale = min(max(1.0, low / max(height, width)), high / max(height, width))
    x = y = 1.0
    if scale != 1:
        size = max(round(width * scale), 1), max(round(height * scale), 1)
        how = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA
        seen = cv2.resize(seen, size, interpolation=how)
        x, y = width / size[0], height / size[1]
    # Centres at whole numbers: (p + 0.5) * x - 0.5.
    shift = (left - border + 0.5 * x - 0.5, top - border + 0.5 * y - 0.5)
    return seen, np.array([[x, 0.0, shift[0]], [0.0, y, shift[1]]])


def search(image: np.ndarray, name: str, detector: Detector) -> tuple[list[Face], int]:
    """All faces of the first view that has any, in pixels of the image, and the view's number."""
    for number, view in enumerate(detector.views):
        if max(image.shape[:2]) < view.least:
            continue
        seen, back = show(image, view)
        if faces := detector(seen, name):
            return [_moved(face, back) for face in faces], number
    return ([], len(detector.views)) if detector.views else (detector(image, name), 0)


def _moved(face: Face, transform: np.ndarray) -> Face:
    points = alignment.apply(transform, face.points)
    if face.box is None:
        return Face(points, face.score)
    corners = alignment.apply(transform, np.array(face.box, np.float32).reshape(2, 2))
    left, top, right, bottom = corners.ravel().tolist()
    return Face(points, face.score, (left, top, right, bottom))


def main_face(faces: Sequence[Face], size: tuple[int, int]) -> Face:
    """The face a photo is of: large and near the middle."""
    centre = np.array([size[1] - 1, size[0] - 1]) / 2

    def weight(face: Face) -> float:
        away = np.hypot(*(face.points.mean(0) - centre)) / max(size)
        return float(np.sqrt(np.ptp(face.points, axis=0).prod()) * np.exp(-4 * away**2))

    return max(faces, key=weight)


def extract(
    source: records.Source, index: int, detector: Detector, max_pixels: int = records.MAX_PIXELS
) -> LandmarkRow:
    """The row of one image; whatever is wrong with it, its reason stands in the row."""
    names = getattr(source, 'names', None)
    name = names[index] if names is not None else f'#{index}'
    about: dict[str, Any] = {
        'detector': detector.name, 'detector_version': detector.version,
    }  # fmt: skip
    try:
        record = source[index]
        name = record.name
        image = records.decode(record.image, name, max_pixels=max_pixels)
    except records.BadImage as error:
        return LandmarkRow(name, _EMPTY, found=False, reason=f'bad image: {error}', **about)
    size = image.shape[0], image.shape[1]
    try:
        faces, number = search(image, name, detector)
    except Exception as error:  # of the detector's own kinds; the image is at fault, not the job
        reason = f'detector failed: {type(error).__name__}: {error}'
        return LandmarkRow(name, _EMPTY, found=False, reason=reason, size=size, **about)
    faces = [face for face in faces if np.isfinite(face.points).all()]
    if not faces:
        return LandmarkRow(name, _EMPTY, found=False, reason='no face', size=size, **about)
    face = main_face(faces, size)
    points = face.points.astype(np.float32)
    left, top, right, bottom = face.box or (*points.min(0).tolist(), *points.max(0).tolist())
    return LandmarkRow(
        name,
        points,
        score=face.score,
        box=(left, top, right, bottom),
        size=size,
        doubts=doubts(points, size, len(faces), number),
        align=tuple(alignment.to_canonical(points, 1).ravel().tolist()),
        **about,
    )


def doubts(points: np.ndarray, size: tuple[int, int], faces: int, view: int) -> tuple[str, ...]:
    """Reasons to look twice at a face (68,2) in an image of a size (H, W)."""
    outside = (points < -0.5) | (points > np.array([size[1], size[0]]) - 0.5)
    reasons = {
        'many faces': faces > 1,
        'second look': view > 0,
        'odd shape': alignment.oddness(points) > ODD_SHAPE,
        'small': float(np.hypot(*(points[36] - points[45]))) < SMALL,
        'cut off': float(outside.any(1).mean()) > CUT_OFF,
    }
    return tuple(reason for reason, so in reasons.items() if so)
