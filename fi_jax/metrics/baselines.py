"""Completions without a network, on the host: the rows that stand in every evaluation table.

Visible pixels come back unchanged, and nothing under the hole is ever read.
"""

from collections.abc import Iterable

import cv2
import numpy as np
import scipy.sparse as sparse
import scipy.sparse.linalg

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


def _blank(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """The image with its mean visible colour in the hole, so that no fill can read the truth."""
    _check(image, hole)
    visible = image[hole[..., 0] == 0]
    colour = np.rint(visible.mean(axis=0)) if len(visible) else np.full(3, 128.0)
    return _composite(colour.astype(np.uint8), image, hole)


def _inpaint(image: np.ndarray, hole: np.ndarray, method: int) -> np.ndarray:
    # cv2.inpaint reads what lies under the hole, and returns it whole where nothing is visible.
    blank = _blank(image, hole)
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


def _second_difference(length: int) -> sparse.dia_array:
    """The 1-D Laplacian (length, length) with mirrored ends."""
    centre = np.full(length, -2.0)
    centre[[0, -1]] = -1.0
    side = np.ones(length - 1)
    return sparse.diags_array([side, centre, side], offsets=[-1, 0, 1])


def fill_biharmonic(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Smooth fill of image uint8 (H, W, 3) in the hole (H, W, 1) -> uint8 (H, W, 3).

    Solves for a squared Laplacian of 0 in the hole, borders mirrored, then clips each channel to
    the visible range, as scikit-image does. Damelin and Hoang, "On surface completion and image
    inpainting by biharmonic functions: numerical aspects", 2018.
    """
    blank = _blank(image, hole)
    missing = hole.ravel() > 0
    if missing.all() or not missing.any():
        return blank
    height, width = image.shape[:2]
    laplacian = sparse.kron(sparse.eye_array(height), _second_difference(width)) + sparse.kron(
        _second_difference(height), sparse.eye_array(width)
    )
    rows = (laplacian @ laplacian).tocsr()[missing]
    pixels = blank.reshape(-1, 3).astype(np.float64)
    visible = pixels[~missing]
    solution = scipy.sparse.linalg.spsolve(rows[:, missing].tocsc(), -(rows[:, ~missing] @ visible))
    pixels[missing] = np.clip(solution, visible.min(axis=0), visible.max(axis=0))
    return np.rint(pixels).astype(np.uint8).reshape(image.shape)


def fill_patch_match(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Patches of the visible part in the hole (H, W, 1) of image uint8 (H, W, 3) -> the same shape.

    Raises ModuleNotFoundError without the optional package patchmatch-cython. Barnes et al.,
    "PatchMatch: a randomized correspondence algorithm for structural image editing", 2009.
    """
    try:
        from patchmatch_cython import inpaint_pyramid
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'patchmatch-cython is not installed; pip install patchmatch-cython'
        ) from error
    blank = _blank(image, hole)
    missing = hole[..., 0] > 0
    if missing.all() or not missing.any():
        return blank
    return _composite(inpaint_pyramid(blank, missing, seed=0), image, hole)
