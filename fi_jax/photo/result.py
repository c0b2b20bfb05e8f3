"""What completions of a photo are: the faces they were drawn for, pictures of its own size."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from PIL import Image

from fi_jax.input_pipeline import alignment
from fi_jax.photo import blending
from fi_jax.photo.finding import Face
from fi_jax.photo.reading import Photo


@dataclass(frozen=True)
class Crop:
    """Where the network looked: a square of `res` pixels, laid on the photo by a similarity.

    to_photo (2,3) takes its pixels to the photo's. corners (4,2): of the square, in photo pixels,
    clockwise from the face's upper left; side: photo pixels; angle: degrees, clockwise.
    """

    to_photo: np.ndarray
    res: int

    @property
    def to_crop(self) -> np.ndarray:
        return alignment.invert(self.to_photo)

    @property
    def corners(self) -> np.ndarray:
        low, high = -0.5, self.res - 0.5
        square = np.array([[low, low], [high, low], [high, high], [low, high]])
        return alignment.apply(self.to_photo, square)

    @property
    def side(self) -> float:
        return self.res * self.factor

    @property
    def factor(self) -> float:
        """Photo pixels to one of the network's: above 1, what is drawn is softer than the photo."""
        return float(np.hypot(*self.to_photo[:, 0]))

    @property
    def angle(self) -> float:
        return float(np.degrees(np.arctan2(self.to_photo[1, 0], self.to_photo[0, 0])))


@dataclass(frozen=True)
class Part:
    """One face of a photo, and what was drawn for the missing pixels that are its own.

    hole (H,W) bool; landmarks (N,68,2) float32, the points each sample is conditioned on, in photo
    pixels; completed (N,res,res,3) uint8, what the network drew in its square.
    """

    face: Face
    crop: Crop
    hole: np.ndarray
    landmarks: np.ndarray
    completed: np.ndarray


@dataclass(frozen=True)
class Result:
    """Completions of one photo.

    images: N PIL pictures of the photo's own size and mode. uncertainty (H,W) float32: how far they
    differ, the standard deviation over them in grey levels, 0 outside the hole. parts: the faces
    that were completed, the one with most of the hole first; face, crop and landmarks (N,68,2) are
    of that one. seed: with the same photo, hole and settings it draws the same again. notes: what a
    person should know, in sentences.
    """

    photo: Photo
    hole: np.ndarray
    seed: int
    parts: tuple[Part, ...]
    notes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.parts[0].completed)

    @property
    def face(self) -> Face:
        return self.parts[0].face

    @property
    def crop(self) -> Crop:
        return self.parts[0].crop

    @property
    def landmarks(self) -> np.ndarray:
        return self.parts[0].landmarks

    def pixels(self, k: int) -> np.ndarray:
        """Completion k in the photo, (H,W,3) uint8."""
        out = self._base.copy()
        for part in self.parts:
            blending.paste(part.completed[k], out, part.hole, self.hole, part.crop.to_photo)
        return out

    def image(self, k: int) -> Image.Image:
        """Completion k as a picture; drawn anew at each call, which spares memory."""
        return self.photo.image(self.pixels(k), self.hole)

    @functools.cached_property
    def images(self) -> list[Image.Image]:
        return [self.image(k) for k in range(len(self))]

    @functools.cached_property
    def uncertainty(self) -> np.ndarray:
        out = np.zeros(self.hole.shape, np.float32)
        for part in self.parts:
            spread = part.completed.astype(np.float32).std(0).mean(-1)
            laid = blending.lay(spread, out.shape, part.crop.to_photo)
            out[part.hole] = np.maximum(laid[part.hole], 0)
        return out

    @functools.cached_property
    def _base(self) -> np.ndarray:
        """The photo, with what of the hole is no face's filled from around."""
        rest = self.hole & ~np.logical_or.reduce([part.hole for part in self.parts])
        out = self.photo.pixels
        if rest.any():
            blending.smooth(out := out.copy(), rest, self.hole)
        return out


def notes_of(missing: np.ndarray, parts: list[Part]) -> list[str]:
    """What a person should know of a completion."""
    notes = []
    if (softest := max(part.crop.factor for part in parts)) > 1.5:
        crop = next(part.crop for part in parts if part.crop.factor == softest)
        notes.append(
            f'the network draws {crop.res} pixels across {crop.side:.0f} of the photo: inside the '
            f'hole the photo is {softest:.1f} times coarser than around it'
        )
    total = int(missing.sum())
    beyond = total - sum(int(blending.within(p.hole, p.crop.to_photo, p.crop.res)) for p in parts)
    if beyond > 0.02 * total:
        notes.append(
            f'{beyond / total:.0%} of the hole lies beyond what the network sees of a face; that '
            'is filled from around, smoothly'
        )
    if total > 0.6 * missing.size:
        notes.append(f'{total / missing.size:.0%} of the photo is missing; is the hole inverted?')
    return notes
