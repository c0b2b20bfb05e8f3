"""Smooth fields and what is made of them: skin, hair, backgrounds."""

import math
from types import SimpleNamespace

import cv2
import numpy as np

from fi_jax.input_pipeline.procedural import curves, head, person

# Pictures and fields are planar while they are painted, (3, H, W) float32 of 0..255.

_FIELD = 64  # side of the smooth fields (skin, light, background) that are enlarged to the canvas
_HAIR_FIELD = 96
CANVAS = 192  # the least side of the canvas; always a multiple of the picture's side
_RED_SHADOWS = np.array([0.17, -0.05, -0.16], np.float32)  # light scattered under dim skin


def _splats(centres: np.ndarray, sigmas: np.ndarray, amounts: np.ndarray) -> np.ndarray:
    """The sum of Gaussians: centres (K, 2), sigmas (K, 2), amounts (K, C) -> (C, n, n)."""
    away = (curves.grid(_FIELD)[:, None, None] - centres.astype(np.float32)) / sigmas.astype(
        np.float32
    )
    gx, gy = np.moveaxis(np.exp(-0.5 * away * away), 2, 0)
    return (gy * amounts.T.astype(np.float32)[:, None]) @ gx.T


def resize(planes: np.ndarray, side: int, how: int = cv2.INTER_LINEAR) -> np.ndarray:
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


def background(rng: np.random.Generator) -> np.ndarray:
    """A studio sweep, a wall, a room, blurred lights or a garden: (3, n, n)."""
    kind = rng.integers(6)
    first, second = person.WALLS[rng.integers(len(person.WALLS), size=2)]
    first = first * rng.uniform(0.85, 1.1) + rng.normal(size=3) * 8
    second = second if rng.random() < 0.3 else first * rng.uniform(0.45, 0.9)
    second = second + rng.normal(size=3) * 9
    x, y = curves.grid(_FIELD)[None], curves.grid(_FIELD)[:, None]
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


def _gather(pose: head.Pose, spots: list[tuple]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The arguments of `_splats` from (head-space points, sigma x, sigma y, amount) in units."""
    count = [len(s[0]) for s in spots]
    sigmas = np.array([(s[1] * pose.unit, s[2] * pose.unit) for s in spots]).repeat(count, 0)
    amounts = np.array([np.atleast_1d(s[3]) for s in spots]).repeat(count, 0)
    return pose(np.concatenate([s[0] for s in spots])), sigmas, amounts


def skin(
    t: SimpleNamespace, pose: head.Pose, points: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """The skin, a relief of bumps on a dome lit by one lamp: (3, n, n)."""
    x, y = pose.local(_FIELD, np.array([0.0, 0.35, -0.3]))
    dome = np.sqrt(np.maximum(0.02, 1 - (x / 1.95) ** 2 - (y / 2.95) ** 2)) * 1.6
    eyes = np.stack([points[36:42].mean(0), points[42:48].mean(0)])
    cheeks = np.array([[-0.88, 0.92, 0.15], [0.88, 0.92, 0.15]])
    folds = 0.55 * points[[31, 35]] + 0.45 * points[[48, 54]] + [[-0.14, 0, 0], [0.14, 0, 0]]
    under_lip = points[57:58] + 0.13 * head.DOWN
    grin, d = max(t.smile, 0.0), t.nose_depth
    relief = [
        (points[27:28], 0.15, 0.22, 0.08),
        (points[28:29], 0.16, 0.22, 0.12 * d),
        (points[29:30], 0.17, 0.20, 0.16 * d),
        (points[30:31] + 0.05 * head.DOWN, 0.20, 0.16, 0.33 * d),
        (points[[31, 35]] + [[0.03, -0.05, 0], [-0.03, -0.05, 0]], 0.12, 0.11, 0.17),
        (eyes, 0.36, 0.24, -0.20),
        (eyes, 0.22, 0.14, 0.12),
        (points[18:26] + 0.1 * head.DOWN, 0.20, 0.13, 0.05),
        (cheeks, 0.44, 0.38, 0.12 + 0.10 * grin),
        (folds, 0.12, 0.18, -0.03 - 0.05 * grin - 0.04 * t.age),
        (points[50:53], 0.16, 0.07, 0.03),
        (points[56:59] - 0.08 * head.DOWN, 0.18, 0.08, 0.05),
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
        (cheeks - 0.05 * head.DOWN, 0.36, 0.30, blush * np.array([6, -17, -13])),
        (points[30:31], 0.22, 0.16, blush * np.array([3, -14, -11])),
        (points[8:9] - 0.15 * head.DOWN, 0.3, 0.2, blush * np.array([2, -7, -5])),
        (eyes - 0.02 * head.DOWN, 0.34, 0.22, np.array([-13, -15, -12])),
        (eyes + 0.22 * head.DOWN, 0.24, 0.09, -(4 + 9 * t.age) * grey),
        (points[33:34] + 0.02 * head.DOWN, 0.24, 0.09, -34 * grey),
        (under_lip, 0.34, 0.09, -19 * grey),
        (folds, 0.10, 0.16, -(4 + 10 * grin + 8 * t.age) * grey),
    ]
    if t.stubble:
        shadow = t.stubble * (1 - 0.5 * t.tone) * np.array([-25, -21, -15])
        jaw = points[3:14] * [0.93, 1, 1] - 0.06 * head.DOWN
        tint.append((jaw, 0.30, 0.26, 0.4 * shadow))
        tint.append((points[[50, 52]] - 0.12 * head.DOWN, 0.25, 0.10, shadow))
        tint.append((points[57:58] + 0.32 * head.DOWN, 0.42, 0.22, shadow))
    albedo = t.skin[:, None, None] + _splats(*_gather(pose, tint)) * (1 - 0.45 * t.tone)
    albedo = np.maximum(albedo + 2.0 * _noise(rng, 12, 30), 0)
    lit = albedo * (light + _RED_SHADOWS[:, None, None] * (light - light * light)) + 20 * gloss
    return np.clip(lit, 0, 255).astype(np.float32)


def hair(
    t: SimpleNamespace, pose: head.Pose, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The lit hair (3, n, n), as if everywhere, and its strands (1, n, n), about N(0, 1)."""
    n = _HAIR_FIELD
    x, y = pose.local(n, head.SKULL)
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
    shine = (t.hair * 0.35 + person.palette('827b75')[0]) * np.float32(gloss)
    lit = t.hair[:, None, None] * light + shine[:, None, None] * sheen
    return np.clip(lit, 0, 255), strands[None]
