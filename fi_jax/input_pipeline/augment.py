"""Augmentation of training faces: place, expression, colour, blur, noise, things in front."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from fi_jax import landmarks as lm

# In distances of the outer corners of the eyes: how far a move reaches around a point, and the
# deviation of each region's own move.
_REACH, _STRAY = 0.15, 0.03


class Augment:
    """Random changes to a training face by the amounts of config.data.augment; all 0: none.

    rotate (degrees), scale (share, both ways) and shift (share of the frame) are the largest moves,
    still the share of faces that none of them moves: where no more than the frame is known of a
    face, they alone tell where faces of this set lie in it;
    bend the share of faces that get another expression, where their landmarks are known;
    colour the largest share by which tone changes; blur the largest sigma in pixels, noise the
    largest deviation in grey levels; occlusion the share of faces with a patch in front.
    """

    def __init__(self, amounts: Any):
        self._amounts = amounts
        self._moves = bool(amounts.rotate or amounts.scale or amounts.shift)

    def moves(self, rng: np.random.Generator) -> bool:
        """Whether the next face is to be moved."""
        still = self._amounts.still
        return self._moves and not (still and rng.random() < still)

    def move(
        self,
        pixels: np.ndarray,
        points: np.ndarray | None,
        res: int,
        rng: np.random.Generator,
        frame: tuple[int, int, int] | None = None,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """A square of a stored image, turned, scaled and shifted; and its landmarks.

        pixels (H,W,3) uint8, points (68,2) in its pixels or None, frame left, top and side or None,
        the centred square -> (res,res,3) and points in pixels of the result; beyond the photo its
        edge is repeated.
        """
        amounts = self._amounts
        angle = np.deg2rad(rng.uniform(-1, 1) * amounts.rotate)
        zoom = (1 + amounts.scale) ** rng.uniform(-1, 1)
        shift = rng.uniform(-1, 1, 2) * amounts.shift * res
        size = np.array(pixels.shape[1::-1])
        side, centre = float(min(size)), (size - 1) / 2
        if frame is not None:
            side, centre = float(frame[2]), np.array(frame[:2]) + (frame[2] - 1) / 2
        # cv2.warpAffine does not average: what is much larger is shrunk first.
        shrink = min(1.0, 1.5 * res / side)
        if shrink < 1:
            small = np.maximum(1, np.rint(size * shrink).astype(int))
            pixels = cv2.resize(pixels, small.tolist(), interpolation=cv2.INTER_AREA)
            ratio = small / size
            points = None if points is None else (points + 0.5) * ratio - 0.5
            side, centre = side * ratio[size.argmin()], (centre + 0.5) * ratio - 0.5
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        linear = turn * zoom * res / side
        offset = (res - 1) / 2 + shift - linear @ centre
        image = cv2.warpAffine(
            pixels,
            np.column_stack([linear, offset]),
            (res, res),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
        if points is not None:
            points = (points @ linear.T + offset).astype(np.float32)
        return image, points

    def bends(self, rng: np.random.Generator) -> bool:
        """Whether the next face is to be bent."""
        return bool(self._amounts.bend) and rng.random() < self._amounts.bend

    def recolour(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The image (H,W,3) uint8 with patches, tone, blur and noise as drawn."""
        amounts = self._amounts
        if amounts.occlusion and rng.random() < amounts.occlusion:
            image = _patched(image, rng)
        if amounts.colour:
            image = _toned(image, amounts.colour, rng)
        if amounts.blur and rng.random() < 0.3:
            image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.2, 1) * amounts.blur)
        if amounts.noise and rng.random() < 0.3:
            grain = rng.standard_normal(image.shape, np.float32) * rng.uniform(0, amounts.noise)
            image = np.clip(image + grain, 0, 255).astype(np.uint8)
        return image


def expression(points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """How the points of a face move towards another expression, (68,2) pixels.

    Each of `landmarks.EDITS` comes by a coin, at a strength of up to 1.2 both ways, and each region
    strays a little.
    """
    eyes = np.linalg.norm(points[45] - points[36])
    moves = rng.normal(0, _STRAY, (len(lm.REGIONS), 2)) * eyes
    move = np.zeros(points.shape, np.float32)
    for region, stray in zip(lm.REGIONS.values(), moves, strict=True):
        move[region] += stray
    for name in lm.EDITS:
        strength = rng.uniform(-1.2, 1.2) * rng.integers(2)
        move += lm.edit(points, name, strength) - points
    return move


def bend(image: np.ndarray, points: np.ndarray, move: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The photo bent so that its landmarks move, nearly as asked, and the landmarks of the result.

    Faces bent at random part shape from looks: what the rest of a face tells of its mouth is no
    longer enough. image (H,W,3) uint8, points and move (68,2) in its pixels.
    """
    eyes = float(np.linalg.norm(points[45] - points[36]))
    reach = _REACH * max(eyes, 1.0)

    def near(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How near each column and each row is to each point; their product is Gaussian."""
        places = (x, points[:, 0]), (y, points[:, 1])
        column, row = (np.exp(-np.square((at[:, None] - p) / reach)) for at, p in places)
        return column, row

    def fade(total: np.ndarray, share: np.ndarray) -> np.ndarray:
        """The move of the points around a place, fading away from all of them."""
        return total / np.maximum(share, 0.3)[..., None]

    height, width = image.shape[:2]
    x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)
    column, row = near(x, y)
    away = fade(np.stack([row @ (column * m).T for m in move.T], -1), row @ column.T)
    bent = cv2.remap(
        image,
        x - away[..., 0],
        y[:, None] - away[..., 1],
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    # A place shows what lay its own move away: the landmarks come to where that is themselves.
    at = points
    for _ in range(8):
        column, row = near(at[:, 0], at[:, 1])
        at = points + fade((column * row) @ move, (column * row).sum(-1))
    return bent, at.astype(np.float32)


def _patched(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One or two ellipses in front of the face, of a colour of the photo or any other."""
    image = image.copy()
    side = image.shape[0]
    for _ in range(rng.integers(1, 3)):
        y, x = rng.integers(side, size=2)
        colour = image[y, x].astype(int) if rng.random() < 0.5 else rng.integers(256, size=3)
        centre = tuple(int(v) for v in rng.integers(side, size=2))
        axes = tuple(int(v) for v in rng.uniform(0.04, 0.2, 2) * side)
        cv2.ellipse(image, centre, axes, rng.uniform(0, 180), 0, 360, colour.tolist(), -1)
    return image


def _toned(image: np.ndarray, amount: float, rng: np.random.Generator) -> np.ndarray:
    """Brightness, contrast and the balance of colours changed; one face in ten made grey."""
    grey = rng.random() < 0.1
    contrast = (1 + amount) ** rng.uniform(-1, 1)
    gain = contrast * (1 + 0.5 * amount) ** rng.uniform(-1, 1, 3)
    bias = 128 * (1 - contrast) + rng.uniform(-1, 1) * amount * 64
    if grey:
        image = np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
        gain = np.full(3, contrast)
    table = np.arange(256)[:, None] * gain + bias
    table = np.clip(np.rint(table), 0, 255).astype(np.uint8)
    return cv2.LUT(image, table[None])
