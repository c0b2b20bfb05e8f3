"""The embedded default data set: procedural faces whose 68 landmarks are exact by construction.

One person is drawn from (seed, index) as a table of traits; the landmarks of a head in three
dimensions follow from the traits, and every contour painted goes through the projected landmarks.
"""

import math
from types import SimpleNamespace

import cv2
import numpy as np

from fi_jax.input_pipeline.procedural import person, portrait, textures
from fi_jax.input_pipeline.records import Record


def _render(
    t: SimpleNamespace, rng: np.random.Generator, size: int
) -> tuple[np.ndarray, np.ndarray]:
    side = size * max(2, math.ceil(textures.CANVAS / size))
    painter = portrait.Portrait(t, rng, side)
    pixels = painter.paint()
    if t.blur * side > 0.5:
        pixels = np.stack([cv2.GaussianBlur(plane, (0, 0), t.blur * side) for plane in pixels])
    pixels = textures.resize(pixels, size, cv2.INTER_AREA).transpose(1, 2, 0)
    pixels = ((pixels - 118) * np.float32(t.contrast) + 118) * t.gain
    pixels = pixels + rng.standard_normal(pixels.shape, np.float32) * np.float32(t.noise)
    image = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
    return image, (painter.marks * size - 0.5).astype(np.float32)


def face(seed: int, index: int, size: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Render a face: (size, size, 3) uint8 RGB and its exact landmarks (68, 2) float32 in pixels.

    Pure in its arguments. Sizes differ in sampling only: landmarks scale as (p + 0.5) * s - 0.5.
    """
    rng = np.random.default_rng([seed, index])
    return _render(person.traits(rng), rng, size)


class ProceduralFaces:
    """A source of `length` procedural faces, always the same for one seed. Raises IndexError."""

    def __init__(self, length: int = 20_000, size: int = 64, seed: int = 0):
        self.length, self.size, self.seed = length, size, seed

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < self.length:
            raise IndexError(
                f'ProceduralFaces[{index}]: out of range; expected an index in [0, {self.length})'
            )
        rng = np.random.default_rng([self.seed, index])
        t = person.traits(rng)
        image, landmarks = _render(t, rng, self.size)
        attributes = {
            'bald': t.style == 'bald',
            'beard': t.beard,
            'closed_eyes': t.closed,
            'curly_hair': t.style == 'curly',
            'earrings': t.earrings,
            'fringe': t.fringe,
            'glasses': t.glasses,
            'long_hair': t.style == 'long',
            'mouth_open': t.open > 0.03,
            'moustache': t.moustache,
            'smile': t.smile > 0.3,
            'sunglasses': t.sunglasses,
        }
        return Record(
            image=image,
            name=f'procedural_{self.seed}_{index:06d}',
            landmarks=landmarks,
            attributes={key: int(value) for key, value in attributes.items()},
        )
