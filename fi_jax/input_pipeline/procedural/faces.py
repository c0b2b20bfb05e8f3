"""The embedded default data set: procedural faces whose 68 landmarks are exact by construction.

One person is drawn from (seed, index) as a table of traits; the landmarks of a head in three
dimensions follow from the traits, and every contour painted goes through the projected landmarks.
"""

import functools
import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import NamedTuple

import cv2
import numpy as np

from fi_jax.input_pipeline.records import Record

# Head space: x right, y down, z towards the viewer, origin between the eyes; one unit is half the
# distance between the outer eye corners. Image space: fractions of the side of the square picture.
# Pictures and fields are planar while they are painted, (3, H, W) float32 of 0..255.

_FIELD = 64  # side of the smooth fields (skin, light, background) that are enlarged to the canvas
_HAIR_FIELD = 96
_CANVAS = 192  # the least side of the canvas; always a multiple of the picture's side
_SKULL = np.array([0.0, -0.5, -0.9])  # the centre of the skull, which the head turns about
_RED_SHADOWS = np.array([0.17, -0.05, -0.16], np.float32)  # light scattered under dim skin
_MIRROR = np.array([-1.0, 1.0, 1.0])
_DOWN = np.array([0.0, 1.0, 0.0])


def _palette(codes: str) -> np.ndarray:
    return np.array([list(bytes.fromhex(code)) for code in codes.split()], np.float32)


_SKINS = _palette('fadac8 f2c9ae e4b494 cc9673 a87452 82563e 5f4031')
_HAIRS = _palette('1c1818 342720 563c2a 7e5b3c a58258 c6a87c 8c442a a09e9c')
_IRISES = _palette('3a2418 5c3a22 785c30 56704c 547c9e 74828a')
_CLOTHES = _palette('eeece8 24262c 2c3a5c 782028 5c6e58 c4aa84 6c96be c06a62 78787e 46646e')
_WALLS = _palette(
    'e4e0d8 b9b4ac 8a8f96 5f6a74 34383e c9b79a 8c6f58 6d7c5c 4d6a74 a9bcc8 7a4a48 181a1e'
)
_FRAMES = _palette('181616 2c2420 4a2c1c 8a8a8e 5a5c62 8c6c3c 243050')
_STYLES = ('bald', 'buzz', 'short', 'swept', 'fringe', 'bob', 'long', 'curly', 'bun')
_MEN = (0.10, 0.14, 0.32, 0.24, 0.07, 0.01, 0.03, 0.08, 0.01)
_WOMEN = (0.00, 0.01, 0.05, 0.06, 0.14, 0.22, 0.32, 0.10, 0.10)

# --- The person: every trait is drawn before anything is painted, so no size changes who it is. ---


def _traits(rng: np.random.Generator) -> SimpleNamespace:
    """Draw one person, their expression, their pose and their light."""
    t = SimpleNamespace()

    def normal(scale: float) -> float:
        return scale * min(max(float(rng.standard_normal()), -2.2), 2.2)

    def between(low: float, high: float) -> float:
        return low + (high - low) * float(rng.random())

    def chance(p: float) -> bool:
        return float(rng.random()) < p

    def pick(weights: Sequence[float]) -> int:
        total = np.cumsum(weights)
        return int(np.searchsorted(total, rng.random() * total[-1], side='right'))

    def vary(colour: np.ndarray, brightness: float, hue: float) -> np.ndarray:
        factor = 1 + normal(brightness) + hue * rng.standard_normal(3, np.float32)
        return np.clip(colour * factor, 4, 252).astype(np.float32)

    feminine, age = between(0, 1), between(0, 1)
    t.age, woman = age, feminine > 0.5

    t.yaw, t.pitch, t.roll = normal(0.17), normal(0.09), normal(0.06)
    t.unit = 0.149 + normal(0.006)
    t.centre = np.array([0.5 + normal(0.012), 0.478 + normal(0.010)])

    # The shape of the face, in units or as factors.
    t.face_width = 1.0 - 0.03 * feminine + normal(0.035)
    t.jaw_width = 1.0 - 0.08 * feminine + normal(0.055)
    t.chin = normal(0.08) - 0.07 * feminine
    t.chin_width = 1.02 - 0.15 * feminine + normal(0.13)
    t.eye_height = 0.128 + 0.025 * feminine + normal(0.018)
    t.eye_width = 0.292 + normal(0.012)
    t.eye_gap = normal(0.02)
    t.eye_tilt = normal(0.07) - 0.03 * feminine
    t.eye_round = normal(0.12)
    t.brow_height = 0.05 * feminine + normal(0.04)
    t.brow_arch = 0.02 + 0.06 * feminine + normal(0.03)
    t.brow_tilt = normal(0.05)
    t.brow_thickness = max(0.06, 0.165 - 0.07 * feminine + normal(0.022))
    t.nose_length = normal(0.06)
    t.nose_width = 1.0 - 0.1 * feminine + normal(0.1)
    t.nose_depth = 1.0 - 0.15 * feminine + normal(0.13)
    t.mouth_width = 0.61 + normal(0.04)
    t.lip_upper = 0.085 + 0.02 * feminine + normal(0.02)
    t.lip_lower = 0.13 + 0.03 * feminine + normal(0.025)
    t.cupid = 0.025 + normal(0.008)

    # Expression.
    mood = between(0, 1)
    t.smile = between(0.45, 1.0) if mood < 0.5 else between(-0.3, 0.25)
    t.open = 0.0
    if mood < 0.34:
        t.open = between(0.07, 0.2)
    elif mood > 0.86:
        t.open = between(0.05, 0.34)
    t.squint = 0.22 * max(t.smile, 0.0) + (between(0.0, 0.3) if chance(0.3) else 0.0)
    t.closed = chance(0.025)
    if t.closed:
        t.squint = 0.88
    t.brow_raise = max(0.0, normal(0.05)) + 0.2 * max(0.0, t.open - 0.2)
    t.gaze = np.array([normal(0.045) - 0.10 * t.yaw, normal(0.02) + 0.06 * t.pitch])

    # Colours.
    tone = between(0, len(_SKINS) - 1.01)
    low = int(tone)
    t.tone = tone / (len(_SKINS) - 1)
    t.skin = vary(_SKINS[low] + (tone - low) * (_SKINS[low + 1] - _SKINS[low]), 0.03, 0.012)
    shade = pick((0.17, 0.2, 0.19, 0.13, 0.13, 0.06, 0.07, 0.05))
    if tone > 3.2:
        shade = pick((0.7, 0.22, 0.08))
    elif age > 0.78 and chance(0.55):
        shade = 7
    t.hair = vary(_HAIRS[shade], 0.12, 0.03)
    if chance(0.015):
        t.hair = rng.uniform(40, 200, 3).astype(np.float32)
    dark_eyed = tone > 3.2 or shade == 0
    t.iris = vary(_IRISES[rng.integers(2 if dark_eyed else 6)], 0.12, 0.04)
    makeup = woman and chance(0.6)
    rouge = vary(_palette('b43e48')[0] * (1 - 0.25 * t.tone), 0.1, 0.08)
    t.lip = t.skin * np.array([0.88, 0.64, 0.63], np.float32)
    t.lip += (between(0.25, 0.75) if makeup else between(0.0, 0.12)) * (rouge - t.lip)
    t.lashes = 0.055 + (0.035 if makeup else 0.0) + 0.015 * feminine
    t.eyeshadow = between(0.15, 0.45) if makeup else 0.0
    t.blush = between(0.3, 1.0)
    t.freckles = tone < 2 and chance(0.12)

    # Hair, beard and things worn.
    t.style = _STYLES[pick(_WOMEN if woman else _MEN)]
    t.hair_volume = between(0.12, 0.34)
    t.hairline = normal(0.09) + (0.0 if woman else 0.14 * age)
    t.part = between(-0.75, 0.75)
    t.curtain = between(0.0, 1.0)
    t.hair_end = between(2.2, 4.4) if t.style == 'long' else between(1.1, 2.1)
    t.hair_flare = between(-0.05, 0.5)
    t.wave = between(0.02, 0.10) if chance(0.5) else 0.0
    t.fringe = t.style == 'fringe' or (t.style in ('bob', 'long') and chance(0.3))
    t.fringe_height = -0.72 + normal(0.09)
    t.fringe_slope = normal(0.12)
    t.stubble = between(0.1, 0.8) if feminine < 0.45 and chance(0.65) else 0.0
    t.beard = feminine < 0.4 and chance(0.22)
    t.moustache = t.beard or (feminine < 0.4 and chance(0.1))
    t.glasses = chance(0.15)
    t.sunglasses = t.glasses and chance(0.15)
    t.frame = vary(_FRAMES[rng.integers(len(_FRAMES))], 0.15, 0.06)
    t.lens_round = between(2.0, 4.0)
    t.rim = between(0.045, 0.085)
    t.earrings = woman and chance(0.35)
    t.clothes = vary(_CLOTHES[rng.integers(len(_CLOTHES))], 0.08, 0.05)
    t.shirt = vary(_CLOTHES[rng.integers(len(_CLOTHES))], 0.05, 0.03)
    t.collar = ('crew', 'vee', 'collar', 'jacket')[rng.integers(4)]
    t.neck = 0.94 - 0.16 * feminine + normal(0.04)

    # Light and camera.
    around = between(-1.1, 1.1)
    lamp = np.array([math.sin(around), between(-0.8, -0.15), between(0.75, 1.2)])
    t.light = [float(v) for v in lamp / np.linalg.norm(lamp)]
    t.ambient = between(0.44, 0.68)
    t.gain = between(0.94, 1.1) * (1 + 0.018 * rng.standard_normal(3, np.float32))
    t.contrast = between(0.92, 1.1)
    t.blur = between(0.0, 0.005)
    t.noise = between(0.5, 3.5)
    return t


# --- The head: points in head space, and the projection that everything painted goes through. ---


def _points(t: SimpleNamespace) -> np.ndarray:
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
    jaw = np.concatenate([side * _MIRROR, side[-2::-1]])

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
    nose = np.concatenate([bridge, wing * _MIRROR, [[0.0, foot, 0.64]], wing[::-1]])

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

    eyes = [eye * _MIRROR, eye[[3, 2, 1, 0, 5, 4]]]
    return np.concatenate([jaw, brow * _MIRROR, brow[::-1], nose, *eyes, mouth])


class _Pose:
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
        p = (np.asarray(points, np.float64) - _SKULL) @ self._turn + _SKULL
        return self._origin + (p[:, :2] * (self.unit / (1 - p[:, 2:] / 14))) @ self.tilt

    def card(self, offsets: Sequence | np.ndarray, at: Sequence[float] | np.ndarray) -> np.ndarray:
        """Place (N, 2) offsets, in units, on a card at a head-space point that faces the viewer."""
        return self([at])[0] + self.unit * (np.asarray(offsets, np.float64) @ self.tilt)

    def local(self, side: int, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The coordinates of each cell of a field on the card at a point: x, y (side, side)."""
        origin = self([at])[0]
        dx, dy = ((_grid(side) - np.float32(o)) / np.float32(self.unit) for o in origin)
        (c, s), _ = self.tilt.astype(np.float32)
        return c * dx + (s * dy)[:, None], (c * dy)[:, None] - s * dx


# --- Curves and fields. ---


@functools.lru_cache(maxsize=64)
def _spline(count: int, closed: bool, steps: int) -> np.ndarray:
    """The Catmull-Rom curve through `count` points as a matrix: (samples, count)."""
    segments = count if closed else count - 1
    segment, f = np.divmod(np.arange(segments * steps + (not closed)) / steps, 1)
    weights = 0.5 * np.stack(
        [-f + 2 * f**2 - f**3, 2 - 5 * f**2 + 3 * f**3, f + 4 * f**2 - 3 * f**3, f**3 - f**2]
    )
    # Past an open end the curve goes on straight, p[-1] = 2 p[0] - p[1].
    identity = np.eye(count)
    before, after = identity[-1:], identity[:2]
    if not closed:
        before, after = 2 * identity[:1] - identity[1:2], 2 * identity[-1:] - identity[-2:-1]
    extended = np.concatenate([before, identity, after, after])
    near = np.stack([extended[segment.astype(int) + k] for k in range(4)])
    return (weights[:, :, None] * near).sum(0)


def _curve(points: np.ndarray, closed: bool = False, steps: int = 6) -> np.ndarray:
    return _spline(len(points), closed, steps) @ points


@functools.lru_cache(maxsize=64)
def _steps(count: int) -> np.ndarray:
    return np.linspace(0, 1, count)


def _ribbon(line: np.ndarray, widths: float | Sequence[float] | np.ndarray) -> np.ndarray:
    """The outline of a stroke along (N, 2) `line` whose width passes through `widths`."""
    along = np.empty_like(line)
    along[1:-1] = line[2:] - line[:-2]
    along[0], along[-1] = line[1] - line[0], line[-1] - line[-2]
    half = 0.5 / np.sqrt((along * along).sum(1) + 1e-18)
    if isinstance(widths, float):
        half *= widths
    else:
        half *= np.interp(_steps(len(line)), _steps(len(widths)), widths)
    across = np.stack([-along[:, 1] * half, along[:, 0] * half], 1)
    return np.concatenate([line + across, (line - across)[::-1]])


def _inset(polygon: np.ndarray, by: float) -> np.ndarray:
    """A smooth closed polygon moved inwards."""
    ahead, behind = np.roll(polygon, -1, 0), np.roll(polygon, 1, 0)
    along = ahead - behind
    turn = np.sum(polygon[:, 0] * ahead[:, 1] - polygon[:, 1] * ahead[:, 0])
    inward = np.stack([-along[:, 1], along[:, 0]], 1) * np.sign(turn)
    return polygon + by * inward / (np.linalg.norm(along, axis=1, keepdims=True) + 1e-9)


@functools.lru_cache(maxsize=8)
def _circle(steps: int = 32) -> np.ndarray:
    a = np.arange(steps) * (2 * math.pi / steps)
    return np.stack([np.cos(a), np.sin(a)], 1)


@functools.lru_cache(maxsize=8)
def _grid(side: int) -> np.ndarray:
    return ((np.arange(side) + 0.5) / side).astype(np.float32)


def _splats(centres: np.ndarray, sigmas: np.ndarray, amounts: np.ndarray) -> np.ndarray:
    """The sum of Gaussians: centres (K, 2), sigmas (K, 2), amounts (K, C) -> (C, n, n)."""
    away = (_grid(_FIELD)[:, None, None] - centres.astype(np.float32)) / sigmas.astype(np.float32)
    gx, gy = np.moveaxis(np.exp(-0.5 * away * away), 2, 0)
    return (gy * amounts.T.astype(np.float32)[:, None]) @ gx.T


def _resize(planes: np.ndarray, side: int, how: int = cv2.INTER_LINEAR) -> np.ndarray:
    resized = np.empty((len(planes), side, side), np.float32)
    for plane, out in zip(planes, resized, strict=True):
        cv2.resize(plane, (side, side), dst=out, interpolation=how)
    return resized


def _noise(rng: np.random.Generator, *cells: int) -> np.ndarray:
    """Smooth noise, the mean of octaves with so many cells across: (n, n), about N(0, 1)."""
    size = (_FIELD, _FIELD)
    total = np.zeros(size, np.float32)
    for n in cells:
        octave = rng.standard_normal((n, n), np.float32)
        total += cv2.resize(octave, size, interpolation=cv2.INTER_CUBIC)
    return total / len(cells)


def _background(rng: np.random.Generator) -> np.ndarray:
    """A studio sweep, a wall, a room, blurred lights or a garden: (3, n, n)."""
    kind = rng.integers(6)
    first, second = _WALLS[rng.integers(len(_WALLS), size=2)]
    first = first * rng.uniform(0.85, 1.1) + rng.normal(size=3) * 8
    second = second if rng.random() < 0.3 else first * rng.uniform(0.45, 0.9)
    second = second + rng.normal(size=3) * 9
    x, y = _grid(_FIELD)[None], _grid(_FIELD)[:, None]
    angle = rng.uniform(0, 2 * math.pi)
    ramp = (x - 0.5) * np.float32(math.cos(angle)) + (y - 0.5) * np.float32(math.sin(angle)) + 0.5
    if kind == 1:
        cx, cy = rng.uniform(0.2, 0.8, 2)
        ramp = np.hypot(x - cx, y - cy) * 1.3
    elif kind == 2:
        ramp = 0.5 + 0.28 * _noise(rng, 3, 7, 15)
    elif kind == 3:
        edges, levels = np.sort(rng.random(4)), rng.uniform(-0.1, 1.1, 5)
        ramp = np.tile(levels[np.searchsorted(edges, x)], (_FIELD, 1))
        if rng.random() < 0.35:
            ramp = 0.5 * ramp + 0.5 * levels[::-1][np.searchsorted(edges, y)]
        ramp[:] = cv2.GaussianBlur(ramp, (0, 0), rng.uniform(0.6, 2.5))
    ramp = np.clip(ramp, 0, 1)
    field = first[:, None, None] + (second - first)[:, None, None] * ramp
    if kind == 4:
        lights = rng.normal(size=(14, 3)) * 14 + rng.normal(size=(14, 1)) * 45
        size = rng.uniform(0.03, 0.12, (14, 1)).repeat(2, 1)
        field = field + _splats(rng.random((14, 2)), size, lights)
    elif kind == 5:
        ground = np.array([84, 98, 62]) * rng.uniform(0.5, 1.3) + rng.normal(size=3) * 10
        ground = ground[:, None, None] * (1 + 0.22 * _noise(rng, 9, 18, 36))
        edge = (y - rng.uniform(0.25, 0.9)) * 9 + 0.4 * _noise(rng, 6, 12)
        field = field + (ground - field) * np.clip(edge, 0, 1)
    return np.clip(field, 6, 250).astype(np.float32)


def _gather(pose: _Pose, spots: list[tuple]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The arguments of `_splats` from (head-space points, sigma x, sigma y, amount) in units."""
    count = [len(s[0]) for s in spots]
    sigmas = np.array([(s[1] * pose.unit, s[2] * pose.unit) for s in spots]).repeat(count, 0)
    amounts = np.array([np.atleast_1d(s[3]) for s in spots]).repeat(count, 0)
    return pose(np.concatenate([s[0] for s in spots])), sigmas, amounts


def _skin(
    t: SimpleNamespace, pose: _Pose, points: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """The skin, a relief of bumps on a dome lit by one lamp: (3, n, n)."""
    x, y = pose.local(_FIELD, np.array([0.0, 0.35, -0.3]))
    dome = np.sqrt(np.maximum(0.02, 1 - (x / 1.95) ** 2 - (y / 2.95) ** 2)) * 1.6
    eyes = np.stack([points[36:42].mean(0), points[42:48].mean(0)])
    cheeks = np.array([[-0.88, 0.92, 0.15], [0.88, 0.92, 0.15]])
    folds = 0.55 * points[[31, 35]] + 0.45 * points[[48, 54]] + [[-0.14, 0, 0], [0.14, 0, 0]]
    under_lip = points[57:58] + 0.13 * _DOWN
    grin, d = max(t.smile, 0.0), t.nose_depth
    relief = [
        (points[27:28], 0.15, 0.22, 0.08),
        (points[28:29], 0.16, 0.22, 0.12 * d),
        (points[29:30], 0.17, 0.20, 0.16 * d),
        (points[30:31] + 0.05 * _DOWN, 0.20, 0.16, 0.33 * d),
        (points[[31, 35]] + [[0.03, -0.05, 0], [-0.03, -0.05, 0]], 0.12, 0.11, 0.17),
        (eyes, 0.36, 0.24, -0.20),
        (eyes, 0.22, 0.14, 0.12),
        (points[18:26] + 0.1 * _DOWN, 0.20, 0.13, 0.05),
        (cheeks, 0.44, 0.38, 0.12 + 0.10 * grin),
        (folds, 0.12, 0.18, -0.03 - 0.05 * grin - 0.04 * t.age),
        (points[50:53], 0.16, 0.07, 0.03),
        (points[56:59] - 0.08 * _DOWN, 0.18, 0.08, 0.05),
        (under_lip, 0.30, 0.08, -0.07),
        (0.35 * points[57:58] + 0.65 * points[8:9], 0.34, 0.22, 0.14),
        (points[[48, 54]], 0.10, 0.10, -0.06),
    ]
    height = (dome + _splats(*_gather(pose, relief))[0]) * np.float32(t.unit * _FIELD)
    hx = cv2.Sobel(height, cv2.CV_32F, 1, 0, scale=1 / 8)
    hy = cv2.Sobel(height, cv2.CV_32F, 0, 1, scale=1 / 8)
    facing = 1 / np.sqrt(1 + hx * hx + hy * hy)
    lx, ly, lz = t.light
    light = t.ambient + (1.06 - t.ambient) * np.maximum(0, (lz - lx * hx - ly * hy) * facing)
    gloss = (lz + 1 - lx * hx - ly * hy) * facing * np.float32(1 / math.sqrt(2 + 2 * lz))
    for _ in range(4):
        gloss = gloss * gloss

    # Amounts of red, green and blue added to the skin.
    blush, grey = t.blush * (1 - 0.65 * t.tone), np.ones(3)
    tint = [
        (cheeks - 0.05 * _DOWN, 0.36, 0.30, blush * np.array([6, -17, -13])),
        (points[30:31], 0.22, 0.16, blush * np.array([3, -14, -11])),
        (points[8:9] - 0.15 * _DOWN, 0.3, 0.2, blush * np.array([2, -7, -5])),
        (eyes - 0.02 * _DOWN, 0.34, 0.22, np.array([-13, -15, -12])),
        (eyes + 0.22 * _DOWN, 0.24, 0.09, -(4 + 9 * t.age) * grey),
        (points[33:34] + 0.02 * _DOWN, 0.24, 0.09, -34 * grey),
        (under_lip, 0.34, 0.09, -19 * grey),
        (folds, 0.10, 0.16, -(4 + 10 * grin + 8 * t.age) * grey),
    ]
    if t.stubble:
        shadow = t.stubble * (1 - 0.5 * t.tone) * np.array([-25, -21, -15])
        jaw = points[3:14] * [0.93, 1, 1] - 0.06 * _DOWN
        tint.append((jaw, 0.30, 0.26, 0.4 * shadow))
        tint.append((points[[50, 52]] - 0.12 * _DOWN, 0.25, 0.10, shadow))
        tint.append((points[57:58] + 0.32 * _DOWN, 0.42, 0.22, shadow))
    albedo = t.skin[:, None, None] + _splats(*_gather(pose, tint)) * (1 - 0.45 * t.tone)
    albedo = np.maximum(albedo + 2.0 * _noise(rng, 12, 30), 0)
    lit = albedo * (light + _RED_SHADOWS[:, None, None] * (light - light * light)) + 20 * gloss
    return np.clip(lit, 0, 255).astype(np.float32)


def _hair(
    t: SimpleNamespace, pose: _Pose, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The lit hair (3, n, n), as if everywhere, and its strands (1, n, n), about N(0, 1)."""
    n = _HAIR_FIELD
    x, y = pose.local(n, _SKULL)
    fine = rng.standard_normal((48, 160), np.float32)
    if t.style == 'curly':
        columns, rows, length = x * 11 + 2 * np.sin(5 * y), y * 11 + 2 * np.sin(5 * x), 1
    else:
        across = x - np.float32(0.5 * t.part) + np.float32(t.wave) * np.sin(4.5 * y + 2 * x)
        columns, rows, length = 28 * across / (np.maximum(y, -1.9) + 3.4), 3 * y, 5
    coarse = cv2.blur(fine, (7, length)) * 2.6
    locks = 0.7 * math.sqrt(length) * (cv2.blur(fine, (1, length)) + coarse)
    strands = cv2.remap(
        locks, columns + 80, rows + 16, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
    )
    lx, ly, lz = t.light
    rx, ry = x / 2.0, np.clip(y / 2.3, -1, 0.5)
    nz = np.sqrt(np.maximum(0.08, 1 - rx * rx - ry * ry))
    lambert = np.maximum(0, (lx * rx + ly * ry + lz * nz) / np.sqrt(rx * rx + ry * ry + nz * nz))
    light = (0.45 + 0.65 * lambert) * np.clip(1 + 0.2 * strands, 0.35, 1.8)
    band = np.hypot(x - np.float32(0.7 * lx), y - np.float32(0.2))
    sheen = np.exp(-(((band - 1.45) / 0.28) ** 2)) * np.clip(0.55 + 0.45 * strands, 0, 2)
    gloss = (0.28 - 0.21 * float(t.hair.mean()) / 255) * (0.3 if t.style == 'curly' else 1)
    shine = (t.hair * 0.35 + _palette('827b75')[0]) * np.float32(gloss)
    lit = t.hair[:, None, None] * light + shine[:, None, None] * sheen
    return np.clip(lit, 0, 255), strands[None]


# --- Paint. ---


class _Cover(NamedTuple):
    """How much of each pixel is covered, 0..1, in a window of the canvas."""

    alpha: np.ndarray
    rows: slice
    columns: slice

    def within(self, other: '_Cover') -> '_Cover':
        rows = slice(max(self.rows.start, other.rows.start), min(self.rows.stop, other.rows.stop))
        columns = slice(
            max(self.columns.start, other.columns.start),
            min(self.columns.stop, other.columns.stop),
        )
        if rows.start >= rows.stop or columns.start >= columns.stop:
            return _Cover(np.zeros((0, 0), np.float32), slice(0, 0), slice(0, 0))
        mine, theirs = (
            cover.alpha[
                rows.start - cover.rows.start : rows.stop - cover.rows.start,
                columns.start - cover.columns.start : columns.stop - cover.columns.start,
            ]
            for cover in (self, other)
        )
        return _Cover(mine * theirs, rows, columns)


class _Portrait:
    """One picture being painted, from the back to the front: `pixels` (3, side, side)."""

    def __init__(self, t: SimpleNamespace, rng: np.random.Generator, side: int):
        self.t, self.side = t, side
        self.points = _points(t)
        self.pose = _Pose(t, self.points)
        self.marks = self.pose(self.points)
        self.unit, self.right, self.down = t.unit, self.pose.right, self.pose.down
        swell = {'bald': 0.0, 'buzz': 0.04, 'bun': 0.12, 'curly': 0.2 + 1.5 * t.hair_volume}
        self.swell = swell.get(t.style, t.hair_volume)
        self.flowing = t.style in ('bob', 'long')
        self.pixels = _resize(_background(rng), side)
        self.skin = _resize(_skin(t, self.pose, self.points, rng), side)
        hair, strands = _hair(t, self.pose, rng)
        self.hair = _resize(hair, side)
        self.strands = _resize(0.2 * np.clip(strands, -1.3, 1.3), side)[0]

    def cover(self, polygons: Sequence[np.ndarray], blur: float = 0.0) -> _Cover:
        """The part of the canvas within any of the polygons, its edge softened by `blur` units."""
        sigma = blur * self.unit * self.side
        # A wide blur is as good on a small grid.
        k = max(1, int(sigma / 1.6))
        side, sigma = self.side / k, sigma / k
        joined = polygons[0] if len(polygons) == 1 else np.concatenate(polygons)
        corners = joined * side
        reach = 2 + 2.5 * sigma
        limit = math.ceil(side)
        x0, y0 = (min(max(int(v - reach), 0), limit - 1) for v in corners.min(0))
        x1, y1 = (min(max(int(v + reach) + 1, 1), limit) for v in corners.max(0))
        grey: np.ndarray = np.zeros((max(y1 - y0, 1), max(x1 - x0, 1)), np.uint8)
        fixed = np.rint((corners - (x0 + 0.5, y0 + 0.5)) * 16).astype(np.int32)
        start = 0
        for p in polygons:  # not in one call, which leaves holes where two overlap
            cv2.fillPoly(grey, [fixed[start : start + len(p)]], 255, cv2.LINE_AA, 4)
            start += len(p)
        if sigma > 0.9:
            width = 2 * math.ceil(2 * sigma) + 1
            grey = cv2.GaussianBlur(grey, (width, width), sigma, borderType=cv2.BORDER_REPLICATE)
        if k > 1:
            grey = cv2.resize(grey, None, fx=k, fy=k)
        alpha = grey[: self.side - k * y0, : self.side - k * x0] * np.float32(1 / 255)
        h, w = alpha.shape
        return _Cover(alpha, slice(k * y0, k * y0 + h), slice(k * x0, k * x0 + w))

    def blend(self, colour: np.ndarray, cover: _Cover, amount: float = 1.0) -> None:
        """Lay a colour (3,), or a field (3, side, side), over what is covered."""
        alpha, rows, columns = cover
        view = self.pixels[:, rows, columns]
        field = colour[:, rows, columns] if colour.ndim == 3 else colour[:, None, None]
        change = field.astype(np.float32, copy=False) - view
        change *= alpha if amount == 1 else alpha * np.float32(amount)
        view += change

    def exact(self, polygons: Sequence[np.ndarray], blur: float = 0.0) -> _Cover:
        """`cover` for the contours that landmarks mark, as cv2 draws 0.6 pixels outside an edge."""
        return self.cover([_inset(p, 0.6 / self.side) for p in polygons], blur)

    def fill(
        self,
        polygons: Sequence[np.ndarray],
        colour: np.ndarray,
        amount: float = 1.0,
        blur: float = 0.0,
        within: _Cover | None = None,
    ) -> None:
        """Paint polygons, only `within` another cover if there is one."""
        cover = self.cover(polygons, blur)
        if within is not None:
            cover = cover.within(within)
        self.blend(colour, cover, amount)

    def lay_hair(self, polygons: Sequence[np.ndarray], light: float, blur: float) -> None:
        """Paint hair whose edge is broken into locks."""
        alpha, rows, columns = self.cover(polygons, blur)
        alpha = (alpha - 0.5 + self.strands[rows, columns]) * 2.4 + 0.5
        view = self.pixels[:, rows, columns]
        change = self.hair[:, rows, columns] * np.float32(light) - view
        change *= np.clip(alpha, 0, 1)
        view += change

    def pair(self, polygon: np.ndarray, x: float) -> list[np.ndarray]:
        """An upright polygon and its mirror image about a vertical line."""
        return [polygon, polygon * [-1, 1] + [2 * x, 0]]

    def dab(self, centre: np.ndarray, width: float, height: float) -> np.ndarray:
        """An ellipse, by its half axes in units."""
        return centre + _circle(20) @ np.stack([width * self.right, height * self.down])

    def skin_tone(self, red: float, green: float, blue: float) -> np.ndarray:
        return self.t.skin * np.array([red, green, blue], np.float32)

    # From the back to the front.

    def paint(self) -> np.ndarray:
        self.back_hair()
        self.body()
        self.skull()
        self.face()
        self.nose()
        self.mouth()
        self.eyes()
        self.beard()
        self.brows()
        self.front_hair()
        self.glasses()
        return self.pixels

    def silhouette(self, end: float) -> np.ndarray:
        """The outside of the hair, from its right end over the crown to its left end."""
        t = self.t
        rx, ry = (1.58 + 0.5 * self.swell) * t.face_width, 1.80 + self.swell
        a = np.linspace(math.pi, 2 * math.pi, 13)
        drop = np.linspace(end + 0.5, 0.0, 6)[:-1]
        fall = drop / (end + 0.5)
        spread = rx + t.hair_flare * np.sin(2.2 * fall) - 0.16 * fall**4
        if end < 0:
            a, drop, spread = np.linspace(math.pi * 0.97, math.pi * 2.03, 15), drop[:0], spread[:0]
        x = np.concatenate([-spread, rx * np.cos(a), spread[::-1]])
        y = np.concatenate([drop, ry * np.sin(a), drop[::-1]])
        return _curve(self.pose.card(np.stack([x, y], 1), _SKULL), steps=3)

    def hairline(self, end: float) -> np.ndarray:
        """The inside of the hair, from its left end over the forehead to its right end."""
        t = self.t
        x = np.linspace(1.40, -1.40, 13)
        away = np.abs(x) / 1.40
        high = -1.42 - t.hairline
        if t.fringe:
            y = t.fringe_height + t.fringe_slope * x + 0.12 * away**2
            y += 0.03 * np.sin(17 * x + 9 * t.part)
        elif t.style in ('swept', 'bob', 'long'):
            far = np.abs(x - t.part)
            y = high - 0.3 + (0.35 + 0.75 * t.curtain) * far**1.2 + 0.4 * away**6
        else:
            y = high + 0.85 * away**4 - 0.10 * np.exp(-(((away - 0.62) / 0.2) ** 2))
        y = np.minimum(y, -0.45)
        front = np.stack([x, y, 0.10 - 0.75 * away**2], 1)
        if end > 0.6:
            y = np.linspace(end, 0.0, 6)
            drape = 1.47 - 0.17 * np.sin(np.clip(y / 2.4, 0, 1.2) * 2.4)
            side = np.stack([drape, y, np.full(6, -0.66)], 1)
        else:
            side = np.array([(1.56, end, -0.85), (1.47, 0.4 * end - 0.1, -0.72)])
        line = np.concatenate([side, front, side[::-1] * _MIRROR])
        return _curve(self.pose(line * [t.face_width, 1, 1]), steps=4)

    def back_hair(self) -> None:
        t = self.t
        if t.style == 'bun':
            knot = self.pose.card(_circle() * [0.62, 0.5] + [0.3 * t.part, -2.2], _SKULL)
            self.lay_hair([knot], 1.0, 0.05)
        if self.flowing:
            self.lay_hair([self.silhouette(t.hair_end)], 0.5, 0.08)

    def body(self) -> None:
        t, n = self.t, self.t.neck
        middle = self.pose([(0.0, 2.46, -1.0)])[0]
        middle[0] = 0.8 * middle[0] + 0.1

        def at(*offsets: tuple[float, float]) -> np.ndarray:
            return middle + self.unit * np.array(offsets)

        def from_dark(*offsets: tuple[float, float]) -> np.ndarray:
            return middle + self.unit * np.array(offsets) * [1 if t.light[0] > 0 else -1, 1]

        tone = self.skin_tone(0.80, 0.73, 0.71) * np.float32(0.6 + 0.5 * t.light[2])
        edge = at((n, -1.4), (n, 0.1), (n * 1.06, 0.5), (n * 1.5, 0.75), (2.6, 1.3), (2.8, 3.0))
        edge = _curve(edge)
        neck = self.cover([np.concatenate([edge, self.pair(edge, middle[0])[1][::-1]])])
        self.blend(tone, neck)
        lit = from_dark((0.25, 0.0), (n * 1.2, 0.0), (n * 1.2, 2.0), (0.5, 2.0))
        self.fill([lit], tone * 1.16, 0.6, 0.25, neck)
        shade = self.marks[2:15] + self.unit * np.array([-0.18 * t.light[0], 0.32])
        self.fill([shade], tone * 0.52, 0.75, 0.14, neck)

        cloth = t.clothes * np.float32(0.72 + 0.3 * t.light[2])
        dip = {'crew': 0.75, 'vee': 1.25, 'collar': 1.05, 'jacket': 1.6}[t.collar]
        fall = 0.42 + 0.6 * (dip - 0.42)
        left, knee = n * 1.02, n * 0.72
        line = at((-left, 0.42), (-knee, fall), (0, dip), (knee, fall), (left, 0.42))
        if t.collar == 'crew':
            line = _curve(line)
        if t.collar == 'jacket':
            shirt = at((-n, 0.4), (0, 0.95), (n, 0.4), (1.6, 3.0), (-1.6, 3.0))
            self.fill([shirt], t.shirt * 0.92)
        slope = _curve(at((n * 1.02, 0.42), (n * 1.5, 0.62), (2.4, 0.98), (3.3, 1.5), (3.9, 2.6)))
        other = self.pair(slope, middle[0])[1]
        garment = self.cover([np.concatenate([other[::-1], line, slope])])
        self.blend(cloth, garment)
        far = from_dark((-0.4, 0.2), (-4.0, 0.2), (-4.0, 3.0), (-1.0, 3.0))
        self.fill([far], cloth * 0.62, 0.6, 0.5, garment)
        self.fill([_ribbon(line, 0.12 * self.unit)], cloth * 0.6, 0.6, 0.02, garment)
        if t.collar in ('collar', 'jacket'):
            low = (0.05, dip - 0.08)
            flap = at((n, 0.22), (n * 1.25, 0.62), (0.62, 1.35), low, (n * 0.8, 0.62))
            flaps = self.pair(flap, middle[0])
            self.fill(flaps, cloth * 0.55, 0.5, 0.06)
            self.fill(flaps, np.minimum(cloth * 1.12, 250))

    def skull(self) -> None:
        """The back of the head, and the ears unless hair hangs over them."""
        t = self.t
        size = [(1.58 + 0.5 * self.swell) * t.face_width, 1.80 + self.swell]
        dome = self.pose.card(_circle() * size, _SKULL)
        if t.style == 'bald':
            self.blend(self.skin, self.cover([dome], 0.04))
        else:
            self.lay_hair([dome], 0.7, 0.05)
        if self.flowing:
            return
        x = np.array([-0.10, 0.12, 0.25, 0.22, 0.12, -0.02, -0.12])
        rim = np.stack([x, [-0.40, -0.50, -0.34, 0.0, 0.32, 0.46, 0.30]], 1)
        for sign in (-1, 1):
            at = (sign * 1.58 * t.face_width, 0.22, -1.2)
            lit = 0.82 + 0.16 * sign * t.light[0]
            outline = _curve(self.pose.card(rim * [sign, 1], at), closed=True)
            self.fill([outline], self.skin_tone(0.98, 0.88, 0.86) * lit)
            hollow = (rim * 0.55 + [0.03, -0.03]) * [sign, 1]
            hollow = _curve(self.pose.card(hollow, at), closed=True)
            self.fill([hollow], self.skin_tone(0.68, 0.55, 0.52) * lit, 0.7, 0.04)
            if t.earrings:
                drop = [_circle() * 0.075 + [sign * 0.02, 0.5], _circle(12) * 0.03 + [0, 0.48]]
                self.fill([self.pose.card(drop[0], at)], _palette('e0cc96')[0])
                self.fill([self.pose.card(drop[1], at)], _palette('fffaf0')[0])

    def face(self) -> None:
        t, w = self.t, self.t.face_width
        x = w * np.array([1.55, 1.48, 1.2, 0.7, 0.0])
        y = np.array([-0.4, -1.0, -1.6, -2.0, -2.12])
        top = np.stack([x, y, [-0.72, -0.6, -0.4, -0.25, -0.2]], 1)
        brow = self.pose(np.concatenate([top, top[-2::-1] * _MIRROR]))
        outline = _curve(np.concatenate([self.marks[:17], brow]), closed=True)
        self.fill([outline], t.skin * 0.4, 0.35, 0.06)
        self.front = self.exact([outline], 0.02)
        self.blend(self.skin, self.front)
        if t.freckles:
            a = np.arange(16)
            x = np.where(a % 2, 1, -1) * (0.35 + 0.75 * (a * 0.618 % 1))
            y = 0.5 + 0.55 * (a * 0.414 % 1)
            spots = self.pose(np.stack([x, y, np.full(16, 0.3)], 1))
            self.fill([self.dab(p, 0.022, 0.022) for p in spots], t.skin * 0.66, 0.45)
        if t.age > 0.6:
            lines = []
            for height in (-0.95, -1.15):
                x = np.linspace(-0.75, 0.75, 5)
                line = np.stack([x, height - 0.08 * np.cos(3 * x), 0.3 - 0.3 * x * x], 1)
                lines.append(_ribbon(_curve(self.pose(line)), [0.0, 0.05 * t.unit, 0.0]))
            self.fill(lines, t.skin * 0.55, 0.6 * (t.age - 0.5), 0.02)
        folds = max(t.smile, 0.0) * 0.35 + 0.35 * max(t.age - 0.4, 0)
        if folds > 0.1:
            lines = []
            for wing, corner, sign in ((31, 48, -1), (35, 54, 1)):
                a, b = self.marks[wing] - 0.06 * self.down, self.marks[corner]
                out = sign * self.right
                line = np.stack([a + 0.08 * out, 0.5 * (a + b) + 0.16 * out, b + 0.14 * out])
                lines.append(_ribbon(_curve(line), [0.0, 0.06 * t.unit, 0.01 * t.unit]))
            self.fill(lines, self.skin_tone(0.5, 0.36, 0.34), folds, 0.025)

    def nose(self) -> None:
        deep = self.skin_tone(0.36, 0.22, 0.20)
        marks, u = self.marks, self.unit
        holes = []
        for a, b, c in ((31, 32, 33), (35, 34, 33)):
            middle = 0.28 * marks[a] + 0.52 * marks[b] + 0.20 * marks[c] - 0.035 * self.down
            axes = np.stack([0.27 * (marks[c] - marks[a]), 0.054 * self.down])
            holes.append(middle + _circle(16) @ axes)
        self.fill(holes, deep * 0.8, 0.9)
        lines = [_ribbon(_curve(marks[31:36]), u * np.array([0.02, 0.05, 0.06, 0.05, 0.02]))]
        for wing, sign in ((31, -1), (35, 1)):
            offsets = np.array([(0.0, -0.22), (0.09, -0.10), (0.03, 0.0)]) * [sign, 1]
            crease = marks[wing] + offsets @ np.stack([self.right, self.down])
            lines.append(_ribbon(_curve(crease), u * np.array([0.01, 0.05, 0.02])))
        self.fill(lines, deep, 0.45, 0.02)

    def mouth(self) -> None:
        t, marks, u, down = self.t, self.marks, self.unit, self.down
        top, bottom = _curve(marks[48:55]), _curve(marks[[54, 55, 56, 57, 58, 59, 48]])
        inner_top, inner_bottom = _curve(marks[60:65]), _curve(marks[[64, 65, 66, 67, 60]])
        upper = np.concatenate([top, inner_top[::-1]])
        whole = np.concatenate([top, bottom[1:-1]])
        width = marks[54] - marks[48]
        lip = t.lip * np.float32(0.84 + 0.14 * t.light[2])
        stencil = self.exact([whole])
        self.blend(lip, stencil, 0.92)
        self.fill([upper], lip * np.array([0.86, 0.80, 0.80], np.float32), 0.85, within=stencil)
        shine = marks[56:59].mean(0) * 0.6 + marks[65:68].mean(0) * 0.4
        spot = shine + _circle(16) @ np.stack([0.26 * width, 0.045 * down])
        self.fill([spot], np.minimum(lip * 1.25 + 30, 255), 0.6, 0.04, stencil)
        self.fill([_ribbon(bottom - 0.02 * down, 0.05 * u)], lip * 0.62, 0.45, 0.03, stencil)

        if t.open > 0.03:
            hollow = self.exact([np.concatenate([inner_top, inner_bottom[1:-1]])])
            self.blend(_palette('421616')[0], hollow)
            if t.open > 0.2:
                tongue = marks[66] + _circle(20) @ np.stack([0.2 * width, 0.10 * down])
                self.fill([tongue], _palette('a85252')[0], 0.8, 0.03, hollow)
            white = _palette('eae4d8')[0] * np.float32(0.84 + 0.12 * t.light[2])
            long = 0.20 - 0.15 * np.linspace(-1, 1, len(inner_top))[:, None] ** 2
            teeth = [inner_top - 0.05 * down, (inner_top + long * down)[::-1]]
            self.fill([np.concatenate(teeth)], white, 1.0, 0.01, hollow)
            places = np.array([-0.42, -0.27, -0.13, 0.0, 0.13, 0.27, 0.42])
            roots = marks[62] + places[:, None] * (marks[64] - marks[60])
            gaps = [np.stack([p - 0.15 * down, p + 0.2 * down]) for p in roots]
            self.fill([_ribbon(g, 0.02 * u) for g in gaps], white * 0.66, 0.5, 0.0, hollow)
            corners = [self.dab(marks[i], 0.13, 0.13) for i in (60, 64)]
            self.fill(corners, _palette('461c1c')[0], 0.75, 0.06, hollow)
            shade = _ribbon(inner_top + 0.01 * down, 0.07 * u)
            self.fill([shade], _palette('502824')[0], 0.55, 0.02, hollow)
        else:
            line = 0.5 * (inner_top + inner_bottom[::-1])
            line = np.concatenate([marks[48:49], line, marks[54:55]])
            stroke = _ribbon(line, u * np.array([0.03, 0.05, 0.055, 0.05, 0.03]))
            self.fill([stroke], lip * np.array([0.36, 0.26, 0.26], np.float32), 0.85, 0.01)
        corners = [self.dab(marks[i], 0.055, 0.055) for i in (48, 54)]
        self.fill(corners, self.skin_tone(0.42, 0.28, 0.26), 0.5, 0.04)

    def eyes(self) -> None:
        t, marks, u, up = self.t, self.marks, self.unit, -self.down
        uppers = [_curve(marks[36:40]), _curve(marks[42:46])]
        lowers = [_curve(marks[[39, 40, 41, 36]]), _curve(marks[[45, 46, 47, 42]])]
        lids = [np.concatenate([a, b[1:-1]]) for a, b in zip(uppers, lowers, strict=True)]
        if t.eyeshadow:
            shadow = [np.concatenate([a, a[::-1] + 0.20 * up]) for a in uppers]
            self.fill(shadow, self.skin_tone(0.5, 0.42, 0.42), t.eyeshadow, 0.05)
        widths = u * np.array([0.02, 0.055, 0.05, 0.03])
        crease = [_ribbon(a + (0.10 + 0.2 * t.eye_height) * up, widths) for a in uppers]
        self.fill(crease, self.skin_tone(0.48, 0.38, 0.36), 0.55, 0.018)

        stencil = self.exact(lids)
        self.blend(_palette('e6e0dc')[0] * np.float32(0.80 + 0.16 * t.light[2]), stencil)
        corners = [self.dab(marks[i], 0.09, 0.09) for i in (36, 39, 42, 45)]
        self.fill(corners, _palette('9a6a60')[0], 0.7, 0.03, stencil)

        look = np.array([t.gaze[0], t.gaze[1] - 0.015, 0.16])
        sights = [self.points[i : i + 6].mean(0) * [1, 1, 0] + look for i in (36, 42)]

        def discs(radius: float, dx: float = 0.0, dy: float = 0.0) -> list[np.ndarray]:
            return [self.pose.card(_circle(24) * radius + [dx, dy], s) for s in sights]

        self.fill(discs(0.162), t.iris * 0.42, within=stencil)
        self.fill(discs(0.128), t.iris, 1.0, 0.014, stencil)
        self.fill(discs(0.075, 0.0, 0.05), np.minimum(t.iris * 1.5 + 14, 255), 0.6, within=stencil)
        self.fill(discs(0.068), _palette('0c0909')[0], within=stencil)
        lid = [_ribbon(a - 0.035 * up, 0.13 * u) for a in uppers]
        self.fill(lid, _palette('281a18')[0], 0.55, 0.03, stencil)
        side = 0.055 if t.light[0] > 0 else -0.055
        self.fill(discs(0.042, side, -0.058), _palette('fffdfa')[0], 0.95, 0.0, stencil)

        dark = np.minimum(0.35 * t.hair + _palette('0e0806')[0], 70)
        lash = u * t.lashes * np.array([1.0, 1.15, 1.0, 0.5])
        raised = [a + 0.25 * t.lashes * up for a in uppers]
        self.fill([_ribbon(raised[0], lash), _ribbon(raised[1], lash[::-1])], dark, 0.92)
        rim = [_ribbon(a - 0.01 * up, 0.03 * u) for a in lowers]
        self.fill(rim, self.skin_tone(0.5, 0.36, 0.34), 0.6, 0.012)

    def brows(self) -> None:
        t = self.t
        colour = np.minimum(t.hair * 0.72, t.skin * 0.62)
        if t.hair.mean() > 130:
            colour = 0.45 * t.hair + 0.25 * t.skin
        width = t.brow_thickness * self.unit * np.array([0.35, 0.72, 0.95, 1.05, 0.8])
        lines = [_curve(self.marks[17:22]), _curve(self.marks[22:27][::-1])]
        self.fill([_ribbon(line, width) for line in lines], colour * 0.95, 0.85, 0.04)

    def beard(self) -> None:
        t, marks, down, u = self.t, self.marks, self.down, self.unit
        if t.beard:
            edges = []
            for ear, mouth in ((range(3, -1, -1), 48), (range(13, 17), 54)):
                corner = marks[mouth]
                high, low = marks[ear[2]], marks[ear[0]]
                side = [0.92 * high + 0.08 * corner, 0.7 * marks[ear[1]] + 0.3 * corner]
                side += [0.75 * corner + 0.25 * low - 0.05 * down, corner + 0.03 * down]
                edges.append(np.stack(side))
            lip = marks[[59, 57, 55]] + np.array([[0.05], [0.09], [0.05]]) * down
            inner = np.concatenate([edges[0], lip, edges[1][::-1]])
            outer = marks[2:15] + 0.05 * down
            shape = np.concatenate([_curve(inner), _curve(outer[::-1])])
            self.lay_hair([shape], 0.8, 0.10)
        if t.moustache:
            foot, lip = marks[[31, 33, 35]], marks[[49, 51, 53]]
            line = 0.42 * foot + 0.58 * lip
            ends = marks[[48, 54]] + 0.03 * down
            near = 0.6 * ends + 0.4 * line[[0, 2]]
            line = np.stack([ends[0], near[0], *line, near[1], ends[1]])
            widths = u * np.array([0.05, 0.13, 0.20, 0.17, 0.20, 0.13, 0.05])
            self.lay_hair([_ribbon(_curve(line), widths)], 0.8, 0.04)

    def front_hair(self) -> None:
        t = self.t
        if t.style == 'bald':
            return
        end = t.hair_end if self.flowing else 0.2
        cap = np.concatenate([self.silhouette(end if self.flowing else -0.3), self.hairline(end)])
        if t.style == 'buzz':
            self.blend(0.55 * self.hair + 0.2 * self.skin, self.cover([cap], 0.09), 0.85)
            return
        shadow = cap + 0.10 * self.down - 0.06 * t.light[0] * self.right
        self.fill([shadow], t.skin * 0.3, 0.45, 0.09, self.front)
        self.lay_hair([cap], 1.0, 0.06)

    def glasses(self) -> None:
        t, u = self.t, self.unit
        if not t.glasses:
            return
        circle = _circle(40)
        lens = np.sign(circle) * np.abs(circle) ** (2 / t.lens_round) * [0.50, 0.37]
        panes = []
        for sign in (-1, 1):
            z = 0.42 - 0.36 * sign * lens[:, 0]
            panes.append(self.pose(np.stack([lens[:, 0] + sign * 0.70, lens[:, 1] + 0.06, z], 1)))
        rims = [_ribbon(np.concatenate([p, p[:2]]), t.rim * u) for p in panes]
        if t.sunglasses:
            self.fill(panes, _palette('1e1a1a')[0], 0.93)
        glare = [p * 0.45 + p.mean(0) * 0.55 - 0.1 * self.right - 0.12 * self.down for p in panes]
        self.fill(glare, _palette('dce0e6')[0], 0.16, 0.07)
        self.fill([r + 0.05 * self.down for r in rims], t.skin * 0.35, 0.3, 0.03)
        self.fill(rims, t.frame)
        bridge = _curve(self.pose([(-0.22, 0.0, 0.55), (0.0, -0.05, 0.62), (0.22, 0.0, 0.55)]))
        arms = [[(s * 1.18, -0.03, 0.25), (s * 1.58 * t.face_width, 0.0, -0.8)] for s in (-1, 1)]
        strokes = [_ribbon(line, t.rim * u) for line in (bridge, *map(self.pose, arms))]
        self.fill(strokes, t.frame)


def _render(
    t: SimpleNamespace, rng: np.random.Generator, size: int
) -> tuple[np.ndarray, np.ndarray]:
    side = size * max(2, math.ceil(_CANVAS / size))
    portrait = _Portrait(t, rng, side)
    pixels = portrait.paint()
    if t.blur * side > 0.5:
        pixels = np.stack([cv2.GaussianBlur(plane, (0, 0), t.blur * side) for plane in pixels])
    pixels = _resize(pixels, size, cv2.INTER_AREA).transpose(1, 2, 0)
    pixels = ((pixels - 118) * np.float32(t.contrast) + 118) * t.gain
    pixels = pixels + rng.standard_normal(pixels.shape, np.float32) * np.float32(t.noise)
    image = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
    return image, (portrait.marks * size - 0.5).astype(np.float32)


def face(seed: int, index: int, size: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Render a face: (size, size, 3) uint8 RGB and its exact landmarks (68, 2) float32 in pixels.

    Pure in its arguments. Sizes differ in sampling only: landmarks scale as (p + 0.5) * s - 0.5.
    """
    rng = np.random.default_rng([seed, index])
    return _render(_traits(rng), rng, size)


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
        t = _traits(rng)
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
