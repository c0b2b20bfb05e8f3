"""The head of a drawn face: points in head space, and the projection of all that is painted."""

import math
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np

from fi_jax.input_pipeline.procedural import curves

# Head space: x right, y down, z towards the viewer, origin between the eyes; one unit is half the
# distance between the outer eye corners. Image space: fractions of the side of the square picture.

SKULL = np.array([0.0, -0.5, -0.9])  # the centre of the skull, which the head turns about
MIRROR = np.array([-1.0, 1.0, 1.0])
DOWN = np.array([0.0, 1.0, 0.0])


def points(t: SimpleNamespace) -> np.ndarray:
    """The 68 landmarks in head space: (68, 3). Right halves run outwards in x and are mirrored."""
    grin = max(t.smile, 0.0)

    # Jaw, from the ear to the chin.
    x = np.array([1.59, 1.56, 1.485, 1.38, 1.19, 0.93, 0.63, 0.31, 0.0])
    y = np.array([0.08, 0.49, 0.90, 1.29, 1.66, 1.98, 2.24, 2.41, 2.46])
    z = np.array([-0.75, -0.73, -0.68, -0.56, -0.36, -0.12, 0.15, 0.36, 0.44])
    low, end = np.clip((y - 0.5) / 1.2, 0, 1), np.clip((y - 1.6) / 0.8, 0, 1)
    x = x * t.face_width * (1 + (t.jaw_width - 1) * low) * (1 + (t.chin_width - 1) * 0.6 * end)
    x = x * (1 + 0.025 * grin * low * (1 - end))
    y = y + (t.chin + 0.75 * t.open) * end
    side = np.stack([x, y, z], 1)
    jaw = np.concatenate([side * MIRROR, side[-2::-1]])

    # Brow, from the outer end to the inner.
    x = np.array([1.24, 1.04, 0.80, 0.53, 0.27])
    y = -0.38 - t.brow_height - t.brow_raise + t.brow_tilt * (x - 0.75)
    y = y - (0.12 + t.brow_arch) * np.array([0.0, 0.75, 1.0, 0.7, 0.15])
    brow = np.stack([x, y, [0.02, 0.17, 0.28, 0.34, 0.36]], 1)

    # Nose: the bridge, the wing, the foot.
    y = -0.04 + (0.84 + t.nose_length) * np.linspace(0.0, 1.0, 4)
    z = 0.36 + t.nose_depth * np.array([0.0, 0.19, 0.40, 0.58])
    bridge = np.stack([np.zeros(4), y, z], 1)
    foot = 1.12 + t.nose_length - 0.03 * grin
    x = np.array([0.345, 0.175]) * t.nose_width * (1 + 0.06 * grin)
    wing = np.stack([x, [foot - 0.11, foot - 0.035], [0.40, 0.58]], 1)
    nose = np.concatenate([bridge, wing * MIRROR, [[0.0, foot, 0.64]], wing[::-1]])

    # Eye, from the outer corner over the upper lid to the inner corner and back under it.
    w, h = t.eye_width, t.eye_height * (1 - t.squint)
    x = w * np.array([1.0, 0.36, -0.38, -1.0, -0.36, 0.36])
    y = h * np.array([0, t.eye_round / 2 - 1, -t.eye_round / 2 - 1, 0, 0.59, 0.68])
    y[4:] *= 1 - 0.4 * t.squint
    if t.closed:
        y += np.array([0.0, 0.08, 0.08, 0.0, 0.08, 0.08])
    y += t.eye_tilt * x
    eye = np.stack([x + 0.71 + t.eye_gap, y, [0.0, 0.12, 0.17, 0.12, 0.16, 0.11]], 1)

    # Mouth: the outer ring from its right corner, then the inner ring.
    wide = t.mouth_width * (1 + 0.17 * grin - 0.25 * max(0.0, t.open - 0.2))
    thin, gap = 1 - 0.22 * grin, t.open
    x = np.array([-1, -0.60, -0.22, 0, 0.22, 0.60, 1, 0.62, 0.27, 0, -0.27, -0.62])
    x = wide * np.append(x, [-0.88, -0.36, 0, 0.36, 0.88, 0.36, 0, -0.36])
    y = np.zeros(20)
    y[1:6] = -t.lip_upper * thin * np.array([0.88, 1.45, 1.22, 1.45, 0.88]) - 0.25 * gap
    y[3] += t.cupid
    y[7:12] = t.lip_lower * thin * np.array([0.80, 1.32, 1.42, 1.32, 0.80])
    y[7:12] += gap * np.array([0.62, 0.93, 1.0, 0.93, 0.62])
    y[13:16] = np.array([-0.004, 0.008, -0.004]) - 0.25 * gap
    y[17:20] = np.array([0.012, 0.018, 0.012]) + gap * np.array([0.9, 1.0, 0.9])
    bend = (x / wide) ** 2
    y += 1.585 + 0.7 * t.nose_length - 0.05 * grin - 0.13 * t.smile * bend
    mouth = np.stack([x, y, 0.60 - 0.34 * bend], 1)

    eyes = [eye * MIRROR, eye[[3, 2, 1, 0, 5, 4]]]
    return np.concatenate([jaw, brow * MIRROR, brow[::-1], nose, *eyes, mouth])


class Pose:
    """The camera of one face: head space to image space."""

    def __init__(self, t: SimpleNamespace, points: np.ndarray):
        cy, sy = math.cos(t.yaw), math.sin(t.yaw)
        cp, sp = math.cos(t.pitch), math.sin(t.pitch)
        cr, sr = math.cos(t.roll), math.sin(t.roll)
        nod = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
        self._turn = (nod @ np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])).T
        self.tilt = np.array([[cr, sr], [-sr, cr]])  # for rows of offsets, hence transposed
        self.unit = t.unit
        self.right, self.down = self.unit * self.tilt
        self._origin = np.zeros(2)
        # Photographs are framed on the inner features, wherever the head turns.
        eyes, mouth = self(points[36:48]).mean(0), self(points[48:60]).mean(0)
        self._origin = t.centre - (0.62 * eyes + 0.38 * mouth - 0.61 * self.down)

    def __call__(self, points: Sequence | np.ndarray) -> np.ndarray:
        """Project (N, 3) head-space points, with a slight perspective: (N, 2) image fractions."""
        p = (np.asarray(points, np.float64) - SKULL) @ self._turn + SKULL
        return self._origin + (p[:, :2] * (self.unit / (1 - p[:, 2:] / 14))) @ self.tilt

    def card(self, offsets: Sequence | np.ndarray, at: Sequence[float] | np.ndarray) -> np.ndarray:
        """Place (N, 2) offsets, in units, on a card at a head-space point that faces the viewer."""
        return self([at])[0] + self.unit * (np.asarray(offsets, np.float64) @ self.tilt)

    def local(self, side: int, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The coordinates of each cell of a field on the card at a point: x, y (side, side)."""
        origin = self([at])[0]
        dx, dy = ((curves.grid(side) - np.float32(o)) / np.float32(self.unit) for o in origin)
        (c, s), _ = self.tilt.astype(np.float32)
        return c * dx + (s * dy)[:, None], (c * dy)[:, None] - s * dx
