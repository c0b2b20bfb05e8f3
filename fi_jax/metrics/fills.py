"""Completions without a network, on the host: the rows that stand in every evaluation table.

Visible pixels come back unchanged, and nothing under the hole is ever read.
"""

from collections.abc import Iterable

import cv2
import numpy as np

_RADIUS = 3  # pixels


def _composite(fill: np.ndarray, image: np.ndarray, hole: np.ndarray) -> np.ndarray:
    return np.where(hole > 0, fill, image)


def _check(image: np.ndarray, hole: np.ndarray) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
        raise ValueError(
            f'image {image.dtype}{list(image.shape)}: a fill takes one RGB image, uint8 (H, W, 3)'
        )
    if hole.shape != (*image.shape[:2], 1):
        raise ValueError(
            f'hole {list(hole.shape)}: must be (H, W, 1) of the image {list(image.shape)}'
        )


def mean_face(images: Iterable[np.ndarray]) -> np.ndarray:
    """Average of images uint8 (H, W, 3), read once -> uint8 (H, W, 3).

    Raises ValueError without images or where their sizes differ.
    """
    total, count = np.zeros(()), 0
    for image in images:
        if count and image.shape != total.shape:
            raise ValueError(
                f'image {count} {list(image.shape)}: unlike the first, {list(total.shape)}; '
                'resize all images to one size'
            )
        total = total + image.astype(np.float64)
        count += 1
    if not count:
        raise ValueError('images: none given; a mean face needs at least one')
    return np.rint(total / count).astype(np.uint8)


def fill_mean(image: np.ndarray, hole: np.ndarray, mean_image: np.ndarray) -> np.ndarray:
    """Mean image (H, W, 3) in the hole (H, W, 1) of image, all uint8 -> (H, W, 3)."""
    _check(image, hole)
    if mean_image.shape != image.shape or mean_image.dtype != np.uint8:
        raise ValueError(
            f'mean_image {mean_image.dtype}{list(mean_image.shape)}: must be uint8 '
            f'{list(image.shape)}; take mean_face over images of this size'
        )
    return _composite(mean_image, image, hole)


def _inpaint(image: np.ndarray, hole: np.ndarray, method: int) -> np.ndarray:
    _check(image, hole)
    # cv2.inpaint reads what lies under the hole, and returns it whole where nothing is visible:
    # without this the truth leaks into the baseline.
    visible = image[hole[..., 0] == 0]
    colour = np.rint(visible.mean(axis=0)) if len(visible) else np.full(3, 128.0)
    blank = _composite(colour.astype(np.uint8), image, hole)
    fill = cv2.inpaint(blank, (hole > 0).astype(np.uint8), _RADIUS, method)
    return _composite(fill, image, hole)


def fill_telea(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Fast marching fill of image uint8 (H, W, 3) in the hole (H, W, 1) -> uint8 (H, W, 3).

    Telea, "An image inpainting technique based on the fast marching method", 2004.
    """
    return _inpaint(image, hole, cv2.INPAINT_TELEA)


def fill_navier_stokes(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Fluid-dynamics fill of image uint8 (H, W, 3) in the hole (H, W, 1) -> uint8 (H, W, 3).

    Bertalmio et al., "Navier-Stokes, fluid dynamics, and image and video inpainting", 2001.
    """
    return _inpaint(image, hole, cv2.INPAINT_NS)
