"""Sheets of faces for a person to look at: input, hole, predicted maps, samples, truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

HOLE_GREY = 128
_GAP, _HEAD = 2, 14
RED = (255, 60, 60)
_CHAINS = (
    (range(0, 17), False), (range(17, 22), False), (range(22, 27), False), (range(27, 31), False),
    (range(31, 36), False), (range(36, 42), True), (range(42, 48), True), (range(48, 60), True),
    (range(60, 68), True),
)  # fmt: skip


def with_hole(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """What the network is given: the image with grey in its hole; uint8 (...,H,W,3)."""
    return np.where(hole > 0, np.uint8(HOLE_GREY), image)


def _as_uint8(x: np.ndarray) -> np.ndarray:
    """A picture of a map: uint8 stays, float maps come in [0,1] with 1 channel or [-1,1] with 3."""
    if x.dtype != np.uint8:
        x = x * 255 if x.shape[-1] == 1 else (x + 1) * 127.5
        x = np.clip(np.round(x), 0, 255).astype(np.uint8)
    return np.repeat(x, 3, axis=-1) if x.shape[-1] == 1 else x


def enlarged(image: np.ndarray, side: int) -> np.ndarray:
    """A uint8 image (S,S,3) at another side, smoothly."""
    how = cv2.INTER_CUBIC if image.shape[0] < side else cv2.INTER_AREA
    return cv2.resize(image, (side, side), interpolation=how)


def with_face(
    image: np.ndarray, points: np.ndarray, colour: tuple[int, int, int], side: int
) -> np.ndarray:
    """The landmarks (68,2) of a uint8 image (S,S,3), joined by lines, on the image enlarged.

    Points that are not finite leave it bare.
    """
    out, scale = enlarged(image, side), side / image.shape[0]
    if not np.isfinite(points).all():
        return out
    at = ((points.clip(-1e4, 1e4) + 0.5) * scale - 0.5) * 16
    for chain, closed in _CHAINS:
        line = np.rint(at[list(chain)]).astype(np.int32)
        cv2.polylines(out, [line], closed, colour, 1, cv2.LINE_AA, shift=4)
    return out


def sheet(
    batch: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray], tile: int = 96
) -> np.ndarray:
    """One row a face: with hole, maps of its first sample, all samples, truth; with a headline.

    batch: image and hole, uint8 (B,H,W,C). outputs: composite (B,N,H,W,3) uint8, and where the
    method has them landmark_map, face_mask, face_part (B,N,H,W,C), and
    condition_landmarks (B,N,68,2): drawn before each sample, once where they are those of all.
    tile: side of a face, pixels.
    """
    damaged = with_hole(batch['image'], batch['hole'])
    columns: list[tuple[str, np.ndarray]] = [('input', damaged)]
    titles = {'landmark_map': 'landmarks', 'face_mask': 'face mask', 'face_part': 'face part'}
    columns += [(titles[name], outputs[name][:, 0]) for name in titles if name in outputs]
    samples = outputs['composite']
    points = outputs.get('condition_landmarks')
    many = points is not None and bool(np.nanmax(np.abs(points - points[:, :1]), initial=0) > 0)
    for k in range(samples.shape[1]):
        if points is not None and (many or k == 0):
            faces = [
                with_face(*pair, RED, tile) for pair in zip(damaged, points[:, k], strict=True)
            ]
            columns.append((f'landmarks {k}' if many else 'landmarks', np.stack(faces)))
        columns.append((f'sample {k}', samples[:, k]))
    columns.append(('truth', batch['image']))
    return grid([title for title, _ in columns], [_as_uint8(x) for _, x in columns], tile)


def grid(titles: Sequence[str], columns: Sequence[np.ndarray], tile: int) -> np.ndarray:
    """Columns of uint8 (B,H,W,3) side by side under their titles, each image enlarged to tile."""
    rows, width = len(columns[0]), len(columns) * (tile + _GAP) + _GAP
    page = np.full((_HEAD + rows * (tile + _GAP) + _GAP, width, 3), 255, np.uint8)
    for c, (title, column) in enumerate(zip(titles, columns, strict=True)):
        left = _GAP + c * (tile + _GAP)
        cv2.putText(
            page, title, (left + 1, _HEAD - 4), cv2.FONT_HERSHEY_SIMPLEX, 0.36, (40,) * 3, 1,
            cv2.LINE_AA,
        )  # fmt: skip
        for r, image in enumerate(column):
            top = _HEAD + r * (tile + _GAP)
            page[top : top + tile, left : left + tile] = enlarged(image, tile)
    return page
