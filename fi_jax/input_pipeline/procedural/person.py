"""The person of a drawn face: every trait is drawn first, so that no size changes who it is."""

import math
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np


def palette(codes: str) -> np.ndarray:
    return np.array([list(bytes.fromhex(code)) for code in codes.split()], np.float32)


_SKINS = palette('fadac8 f2c9ae e4b494 cc9673 a87452 82563e 5f4031')
_HAIRS = palette('1c1818 342720 563c2a 7e5b3c a58258 c6a87c 8c442a a09e9c')
_IRISES = palette('3a2418 5c3a22 785c30 56704c 547c9e 74828a')
_CLOTHES = palette('eeece8 24262c 2c3a5c 782028 5c6e58 c4aa84 6c96be c06a62 78787e 46646e')
WALLS = palette(
    'e4e0d8 b9b4ac 8a8f96 5f6a74 34383e c9b79a 8c6f58 6d7c5c 4d6a74 a9bcc8 7a4a48 181a1e'
)
_FRAMES = palette('181616 2c2420 4a2c1c 8a8a8e 5a5c62 8c6c3c 243050')
_STYLES = ('bald', 'buzz', 'short', 'swept', 'fringe', 'bob', 'long', 'curly', 'bun')
_MEN = (0.10, 0.14, 0.32, 0.24, 0.07, 0.01, 0.03, 0.08, 0.01)
_WOMEN = (0.00, 0.01, 0.05, 0.06, 0.14, 0.22, 0.32, 0.10, 0.10)


def traits(rng: np.random.Generator) -> SimpleNamespace:
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
    rouge = vary(palette('b43e48')[0] * (1 - 0.25 * t.tone), 0.1, 0.08)
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
