"""Between a photo and the square that the network sees: cut it out, lay the completion back in.

A transform is (2,3) and takes pixels x,y of the square to pixels of the photo, as in `alignment`.
"""

from __future__ import annotations

import cv2
import numpy as np

from fi_jax.input_pipeline import alignment

Box = tuple[slice, slice]  # rows, columns

_SWEEPS = 12


def cut(
    pixels: np.ndarray, missing: np.ndarray, to_photo: np.ndarray, res: int
) -> tuple[np.ndarray, np.ndarray]:
    """The square that a transform lays on a photo: (res,res,3) uint8 and its hole (res,res) bool.

    Each pixel is the mean over its area; one with any missing pixel in it is missing. Beyond its
    border the photo goes on as its last pixels do.
    """
    scale = float(np.hypot(*to_photo[:, 0]))
    times = max(1, round(scale))  # samples a side of a pixel of the square
    fine = res * times
    centre = np.array([[1 / times, 0, 0.5 / times - 0.5], [0, 1 / times, 0.5 / times - 0.5]])
    to_fine = alignment.invert(alignment.compose(to_photo, centre))

    def look(image: np.ndarray) -> np.ndarray:
        fine_image = cv2.warpAffine(
            image, to_fine, (fine, fine), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        return cv2.resize(fine_image, (res, res), interpolation=cv2.INTER_AREA)

    covered = look(missing.astype(np.float32)) > 1e-3
    return look(pixels), covered


def within(missing: np.ndarray, to_photo: np.ndarray, res: int) -> int:
    """How many missing pixels of a photo lie in the square."""
    y, x = np.nonzero(missing)
    at = alignment.apply(alignment.invert(to_photo), np.stack([x, y], -1))
    return int(((at > -0.5) & (at < res - 0.5)).all(-1).sum())


def lay(image: np.ndarray, size: tuple[int, ...], to_photo: np.ndarray) -> np.ndarray:
    """An image of the square, (r,r) or (r,r,C), enlarged onto a photo of a size (H,W)."""
    shrunk = 1 / float(np.hypot(*to_photo[:, 0]))
    if shrunk > 1.2:  # smoothed, lest it alias
        image = cv2.GaussianBlur(image, (0, 0), 0.5 * np.sqrt(shrunk**2 - 1))
    return cv2.warpAffine(
        image, to_photo, size[1::-1], flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
    )


def paste(
    completed: np.ndarray,
    pixels: np.ndarray,
    part: np.ndarray,
    missing: np.ndarray,
    to_photo: np.ndarray,
) -> None:
    """Lays a completion (res,res,3) uint8 into a part of the missing pixels, without a seam.

    The square is enlarged, then moved by the smooth field (the membrane of Perez et al., 2003) that
    makes it meet the photo's own pixels all around the hole; where missing pixels lie beyond the
    square, the field alone fills them. All other pixels stay, bit for bit. pixels (H,W,3) uint8 is
    changed in place; part and missing (H,W) bool.
    """
    rows, columns = around(part, 2)
    photo, hole, own = pixels[rows, columns], missing[rows, columns], part[rows, columns]
    shift = np.array([[1, 0, -columns.start], [0, 1, -rows.start]], np.float64)
    drawn = lay(completed.astype(np.float32), hole.shape, alignment.compose(shift, to_photo))
    drawn += membrane(photo - drawn, hole)
    photo[own] = np.clip(np.rint(drawn[own]), 0, 255).astype(np.uint8)


def smooth(pixels: np.ndarray, part: np.ndarray, missing: np.ndarray) -> None:
    """Fills a part of the missing pixels from around, smoothly, in place; as `paste`."""
    rows, columns = around(part, 2)
    photo, hole, own = pixels[rows, columns], missing[rows, columns], part[rows, columns]
    photo[own] = np.rint(membrane(photo.astype(np.float32), hole)[own]).astype(np.uint8)


def around(missing: np.ndarray, margin: int) -> Box:
    """The box of the missing pixels, with a margin."""
    ends = []
    for axis, length in enumerate(missing.shape):
        at = np.flatnonzero(missing.any(1 - axis))
        ends.append(slice(max(0, int(at[0]) - margin), min(length, int(at[-1]) + 1 + margin)))
    return ends[0], ends[1]


def membrane(values: np.ndarray, unknown: np.ndarray) -> np.ndarray:
    """Values (h,w,C) float32 with the smoothest field in their unknown pixels (h,w) bool.

    Laplace's equation, by sweeps from coarse to fine.
    """
    h, w = unknown.shape
    known = (~unknown).astype(np.float32)
    if min(h, w) > 4 and unknown.any():
        half = ((w + 1) // 2, (h + 1) // 2)
        weight = cv2.resize(known, half, interpolation=cv2.INTER_AREA)
        total = cv2.resize(values * known[..., None], half, interpolation=cv2.INTER_AREA)
        small = total / np.maximum(weight, 1e-6)[..., None]
        coarse = membrane(small, weight < 1e-6)
        start = cv2.resize(coarse, (w, h), interpolation=cv2.INTER_LINEAR)
    else:
        mean = (values * known[..., None]).sum((0, 1)) / max(float(known.sum()), 1.0)
        start = np.broadcast_to(mean, values.shape)
    field = np.where(unknown[..., None], start, values).astype(np.float32)
    cross = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], np.float32) / 4
    for _ in range(_SWEEPS):
        moved = cv2.filter2D(field, -1, cross, borderType=cv2.BORDER_REPLICATE)
        field[unknown] = moved[unknown]
    return field
