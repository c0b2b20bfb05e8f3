"""Similarity alignment of faces to a canonical frame, and the way back into the photo.

A transform is a (2,3) float64 array that takes pixel coordinates x,y of one image to another's.
The canonical frame is that of `landmarks.MEAN_SHAPE`: a square with the mean face upright in it.
"""

from __future__ import annotations

import functools

import cv2
import numpy as np

from fi_jax import landmarks as lm

_MOUTH = (48, 54)


def anchors(points: np.ndarray) -> np.ndarray:
    """What alignment holds on to: centres of both eyes and the mouth, (68,2) -> (3,2)."""
    eyes = [points[lm.REGIONS[eye]].mean(0) for eye in ('right_eye', 'left_eye')]
    return np.stack([*eyes, points[list(_MOUTH)].mean(0)]).astype(np.float64)


def similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The similarity nearest to taking (N,2) points to (N,2) others, least squares, no mirroring.

    Umeyama, TPAMI 1991, in the plane, where it is one complex division.
    """
    a, b = source.mean(0), target.mean(0)
    p = (source - a) @ np.array([1, 1j])
    q = (target - b) @ np.array([1, 1j])
    turn = np.vdot(p, q) / max(np.vdot(p, p).real, 1e-12)
    matrix = np.array([[turn.real, -turn.imag], [turn.imag, turn.real]])
    return np.concatenate([matrix, (b - matrix @ a)[:, None]], 1)


def to_canonical(points: np.ndarray, size: int) -> np.ndarray:
    """The transform that takes a face (68,2) to the canonical square of `size` pixels."""
    return similarity(anchors(points), _canonical_anchors(size))


@functools.cache
def _canonical_anchors(size: int) -> np.ndarray:
    return anchors(lm.mean_landmarks((size, size)))


def oddness(points: np.ndarray) -> float:
    """Distance from the mean face, laid on: root mean square over that of the outer eye corners."""
    mean = lm.MEAN_SHAPE
    laid = apply(similarity(mean, points), mean)
    eyes = max(float(np.hypot(*(laid[36] - laid[45]))), 1e-6)
    return float(np.sqrt(np.square(points - laid).sum(1).mean()) / eyes)


def square_crop(height: int, width: int, size: int) -> np.ndarray:
    """The transform of the centred square of an image, resized to `size` pixels."""
    side = min(height, width)
    left, top = (width - side) // 2, (height - side) // 2
    scale = size / side
    shift = 0.5 * scale - 0.5
    return np.array([[scale, 0, shift - left * scale], [0, scale, shift - top * scale]])


def apply(transform: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points (N,2) -> (N,2) float32."""
    return (points @ transform[:, :2].T + transform[:, 2]).astype(np.float32)


def compose(after: np.ndarray, before: np.ndarray) -> np.ndarray:
    """The transform that applies `before`, then `after`."""
    shift = after[:, :2] @ before[:, 2] + after[:, 2]
    return np.concatenate([after[:, :2] @ before[:, :2], shift[:, None]], 1)


def invert(transform: np.ndarray) -> np.ndarray:
    """The way back."""
    return cv2.invertAffineTransform(np.asarray(transform, np.float64))


def warp(
    image: np.ndarray, transform: np.ndarray, size: tuple[int, int], fill: int | None = None
) -> np.ndarray:
    """An image (H,W,3) uint8 through a transform, in a frame (h,w).

    Beyond its border it is mirrored, or grey of the value `fill`.

    Smoothed first where it shrinks, so that nothing aliases.
    """
    scale = float(np.sqrt(abs(np.linalg.det(transform[:, :2]))))
    if scale < 1:
        sigma = 0.5 * np.sqrt(1 / scale**2 - 1)
        image = cv2.GaussianBlur(image, (0, 0), sigma) if sigma > 0.2 else image
    how = cv2.INTER_LINEAR if scale < 1 else cv2.INTER_CUBIC
    beyond = cv2.BORDER_REFLECT_101 if fill is None else cv2.BORDER_CONSTANT
    value = (fill or 0,) * 3
    return cv2.warpAffine(
        image, transform, size[::-1], flags=how, borderMode=beyond, borderValue=value
    )


def paste_back(
    crop: np.ndarray, photo: np.ndarray, to_photo: np.ndarray, hole: np.ndarray
) -> np.ndarray:
    """A completed crop put back into its photo; every pixel outside the hole stays bit for bit.

    crop (h,w,3) uint8; photo (H,W,3) uint8; to_photo the stored transform from crop to photo; hole
    (h,w,1), 1 = missing. -> (H,W,3) uint8.
    """
    size = photo.shape[:2]
    back = warp(crop, to_photo, size)
    covered = cv2.warpAffine(
        hole[..., 0].astype(np.uint8), to_photo, size[::-1], flags=cv2.INTER_NEAREST
    )
    return np.where(covered[..., None] > 0, back, photo)
