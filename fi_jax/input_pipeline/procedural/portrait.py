"""The painting of a drawn face, layer over layer."""

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import NamedTuple

import cv2
import numpy as np

from fi_jax.input_pipeline.procedural import curves, head, person, textures


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


class Portrait:
    """One picture being painted, from the back to the front: `pixels` (3, side, side)."""

    def __init__(self, t: SimpleNamespace, rng: np.random.Generator, side: int):
        self.t, self.side = t, side
        self.points = head.points(t)
        self.pose = head.Pose(t, self.points)
        self.marks = self.pose(self.points)
        self.unit, self.right, self.down = t.unit, self.pose.right, self.pose.down
        swell = {'bald': 0.0, 'buzz': 0.04, 'bun': 0.12, 'curly': 0.2 + 1.5 * t.hair_volume}
        self.swell = swell.get(t.style, t.hair_volume)
        self.flowing = t.style in ('bob', 'long')
        self.pixels = textures.resize(textures.background(rng), side)
        self.skin = textures.resize(textures.skin(t, self.pose, self.points, rng), side)
        hair, strands = textures.hair(t, self.pose, rng)
        self.hair = textures.resize(hair, side)
        self.strands = textures.resize(0.2 * np.clip(strands, -1.3, 1.3), side)[0]

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
        return self.cover([curves.inset(p, 0.6 / self.side) for p in polygons], blur)

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
        return centre + curves.circle(20) @ np.stack([width * self.right, height * self.down])

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
        return curves.curve(self.pose.card(np.stack([x, y], 1), head.SKULL), steps=3)

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
        line = np.concatenate([side, front, side[::-1] * head.MIRROR])
        return curves.curve(self.pose(line * [t.face_width, 1, 1]), steps=4)

    def back_hair(self) -> None:
        t = self.t
        if t.style == 'bun':
            knot = self.pose.card(curves.circle() * [0.62, 0.5] + [0.3 * t.part, -2.2], head.SKULL)
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
        edge = curves.curve(edge)
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
            line = curves.curve(line)
        if t.collar == 'jacket':
            shirt = at((-n, 0.4), (0, 0.95), (n, 0.4), (1.6, 3.0), (-1.6, 3.0))
            self.fill([shirt], t.shirt * 0.92)
        slope = curves.curve(
            at((n * 1.02, 0.42), (n * 1.5, 0.62), (2.4, 0.98), (3.3, 1.5), (3.9, 2.6))
        )
        other = self.pair(slope, middle[0])[1]
        garment = self.cover([np.concatenate([other[::-1], line, slope])])
        self.blend(cloth, garment)
        far = from_dark((-0.4, 0.2), (-4.0, 0.2), (-4.0, 3.0), (-1.0, 3.0))
        self.fill([far], cloth * 0.62, 0.6, 0.5, garment)
        self.fill([curves.ribbon(line, 0.12 * self.unit)], cloth * 0.6, 0.6, 0.02, garment)
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
        dome = self.pose.card(curves.circle() * size, head.SKULL)
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
            outline = curves.curve(self.pose.card(rim * [sign, 1], at), closed=True)
            self.fill([outline], self.skin_tone(0.98, 0.88, 0.86) * lit)
            hollow = (rim * 0.55 + [0.03, -0.03]) * [sign, 1]
            hollow = curves.curve(self.pose.card(hollow, at), closed=True)
            self.fill([hollow], self.skin_tone(0.68, 0.55, 0.52) * lit, 0.7, 0.04)
            if t.earrings:
                drop = [
                    curves.circle() * 0.075 + [sign * 0.02, 0.5],
                    curves.circle(12) * 0.03 + [0, 0.48],
                ]
                self.fill([self.pose.card(drop[0], at)], person.palette('e0cc96')[0])
                self.fill([self.pose.card(drop[1], at)], person.palette('fffaf0')[0])

    def face(self) -> None:
        t, w = self.t, self.t.face_width
        x = w * np.array([1.55, 1.48, 1.2, 0.7, 0.0])
        y = np.array([-0.4, -1.0, -1.6, -2.0, -2.12])
        top = np.stack([x, y, [-0.72, -0.6, -0.4, -0.25, -0.2]], 1)
        brow = self.pose(np.concatenate([top, top[-2::-1] * head.MIRROR]))
        outline = curves.curve(np.concatenate([self.marks[:17], brow]), closed=True)
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
                lines.append(
                    curves.ribbon(curves.curve(self.pose(line)), [0.0, 0.05 * t.unit, 0.0])
                )
            self.fill(lines, t.skin * 0.55, 0.6 * (t.age - 0.5), 0.02)
        folds = max(t.smile, 0.0) * 0.35 + 0.35 * max(t.age - 0.4, 0)
        if folds > 0.1:
            lines = []
            for wing, corner, sign in ((31, 48, -1), (35, 54, 1)):
                a, b = self.marks[wing] - 0.06 * self.down, self.marks[corner]
                out = sign * self.right
                line = np.stack([a + 0.08 * out, 0.5 * (a + b) + 0.16 * out, b + 0.14 * out])
                lines.append(curves.ribbon(curves.curve(line), [0.0, 0.06 * t.unit, 0.01 * t.unit]))
            self.fill(lines, self.skin_tone(0.5, 0.36, 0.34), folds, 0.025)

    def nose(self) -> None:
        deep = self.skin_tone(0.36, 0.22, 0.20)
        marks, u = self.marks, self.unit
        holes = []
        for a, b, c in ((31, 32, 33), (35, 34, 33)):
            middle = 0.28 * marks[a] + 0.52 * marks[b] + 0.20 * marks[c] - 0.035 * self.down
            axes = np.stack([0.27 * (marks[c] - marks[a]), 0.054 * self.down])
            holes.append(middle + curves.circle(16) @ axes)
        self.fill(holes, deep * 0.8, 0.9)
        lines = [
            curves.ribbon(curves.curve(marks[31:36]), u * np.array([0.02, 0.05, 0.06, 0.05, 0.02]))
        ]
        for wing, sign in ((31, -1), (35, 1)):
            offsets = np.array([(0.0, -0.22), (0.09, -0.10), (0.03, 0.0)]) * [sign, 1]
            crease = marks[wing] + offsets @ np.stack([self.right, self.down])
            lines.append(curves.ribbon(curves.curve(crease), u * np.array([0.01, 0.05, 0.02])))
        self.fill(lines, deep, 0.45, 0.02)

    def mouth(self) -> None:
        t, marks, u, down = self.t, self.marks, self.unit, self.down
        top, bottom = curves.curve(marks[48:55]), curves.curve(marks[[54, 55, 56, 57, 58, 59, 48]])
        inner_top, inner_bottom = (
            curves.curve(marks[60:65]),
            curves.curve(marks[[64, 65, 66, 67, 60]]),
        )
        upper = np.concatenate([top, inner_top[::-1]])
        whole = np.concatenate([top, bottom[1:-1]])
        width = marks[54] - marks[48]
        lip = t.lip * np.float32(0.84 + 0.14 * t.light[2])
        stencil = self.exact([whole])
        self.blend(lip, stencil, 0.92)
        self.fill([upper], lip * np.array([0.86, 0.80, 0.80], np.float32), 0.85, within=stencil)
        shine = marks[56:59].mean(0) * 0.6 + marks[65:68].mean(0) * 0.4
        spot = shine + curves.circle(16) @ np.stack([0.26 * width, 0.045 * down])
        self.fill([spot], np.minimum(lip * 1.25 + 30, 255), 0.6, 0.04, stencil)
        self.fill([curves.ribbon(bottom - 0.02 * down, 0.05 * u)], lip * 0.62, 0.45, 0.03, stencil)

        if t.open > 0.03:
            hollow = self.exact([np.concatenate([inner_top, inner_bottom[1:-1]])])
            self.blend(person.palette('421616')[0], hollow)
            if t.open > 0.2:
                tongue = marks[66] + curves.circle(20) @ np.stack([0.2 * width, 0.10 * down])
                self.fill([tongue], person.palette('a85252')[0], 0.8, 0.03, hollow)
            white = person.palette('eae4d8')[0] * np.float32(0.84 + 0.12 * t.light[2])
            long = 0.20 - 0.15 * np.linspace(-1, 1, len(inner_top))[:, None] ** 2
            teeth = [inner_top - 0.05 * down, (inner_top + long * down)[::-1]]
            self.fill([np.concatenate(teeth)], white, 1.0, 0.01, hollow)
            places = np.array([-0.42, -0.27, -0.13, 0.0, 0.13, 0.27, 0.42])
            roots = marks[62] + places[:, None] * (marks[64] - marks[60])
            gaps = [np.stack([p - 0.15 * down, p + 0.2 * down]) for p in roots]
            self.fill([curves.ribbon(g, 0.02 * u) for g in gaps], white * 0.66, 0.5, 0.0, hollow)
            corners = [self.dab(marks[i], 0.13, 0.13) for i in (60, 64)]
            self.fill(corners, person.palette('461c1c')[0], 0.75, 0.06, hollow)
            shade = curves.ribbon(inner_top + 0.01 * down, 0.07 * u)
            self.fill([shade], person.palette('502824')[0], 0.55, 0.02, hollow)
        else:
            line = 0.5 * (inner_top + inner_bottom[::-1])
            line = np.concatenate([marks[48:49], line, marks[54:55]])
            stroke = curves.ribbon(line, u * np.array([0.03, 0.05, 0.055, 0.05, 0.03]))
            self.fill([stroke], lip * np.array([0.36, 0.26, 0.26], np.float32), 0.85, 0.01)
        corners = [self.dab(marks[i], 0.055, 0.055) for i in (48, 54)]
        self.fill(corners, self.skin_tone(0.42, 0.28, 0.26), 0.5, 0.04)

    def eyes(self) -> None:
        t, marks, u, up = self.t, self.marks, self.unit, -self.down
        uppers = [curves.curve(marks[36:40]), curves.curve(marks[42:46])]
        lowers = [curves.curve(marks[[39, 40, 41, 36]]), curves.curve(marks[[45, 46, 47, 42]])]
        lids = [np.concatenate([a, b[1:-1]]) for a, b in zip(uppers, lowers, strict=True)]
        if t.eyeshadow:
            shadow = [np.concatenate([a, a[::-1] + 0.20 * up]) for a in uppers]
            self.fill(shadow, self.skin_tone(0.5, 0.42, 0.42), t.eyeshadow, 0.05)
        widths = u * np.array([0.02, 0.055, 0.05, 0.03])
        crease = [curves.ribbon(a + (0.10 + 0.2 * t.eye_height) * up, widths) for a in uppers]
        self.fill(crease, self.skin_tone(0.48, 0.38, 0.36), 0.55, 0.018)

        stencil = self.exact(lids)
        self.blend(person.palette('e6e0dc')[0] * np.float32(0.80 + 0.16 * t.light[2]), stencil)
        corners = [self.dab(marks[i], 0.09, 0.09) for i in (36, 39, 42, 45)]
        self.fill(corners, person.palette('9a6a60')[0], 0.7, 0.03, stencil)

        look = np.array([t.gaze[0], t.gaze[1] - 0.015, 0.16])
        sights = [self.points[i : i + 6].mean(0) * [1, 1, 0] + look for i in (36, 42)]

        def discs(radius: float, dx: float = 0.0, dy: float = 0.0) -> list[np.ndarray]:
            return [self.pose.card(curves.circle(24) * radius + [dx, dy], s) for s in sights]

        self.fill(discs(0.162), t.iris * 0.42, within=stencil)
        self.fill(discs(0.128), t.iris, 1.0, 0.014, stencil)
        self.fill(discs(0.075, 0.0, 0.05), np.minimum(t.iris * 1.5 + 14, 255), 0.6, within=stencil)
        self.fill(discs(0.068), person.palette('0c0909')[0], within=stencil)
        lid = [curves.ribbon(a - 0.035 * up, 0.13 * u) for a in uppers]
        self.fill(lid, person.palette('281a18')[0], 0.55, 0.03, stencil)
        side = 0.055 if t.light[0] > 0 else -0.055
        self.fill(discs(0.042, side, -0.058), person.palette('fffdfa')[0], 0.95, 0.0, stencil)

        dark = np.minimum(0.35 * t.hair + person.palette('0e0806')[0], 70)
        lash = u * t.lashes * np.array([1.0, 1.15, 1.0, 0.5])
        raised = [a + 0.25 * t.lashes * up for a in uppers]
        self.fill(
            [curves.ribbon(raised[0], lash), curves.ribbon(raised[1], lash[::-1])], dark, 0.92
        )
        rim = [curves.ribbon(a - 0.01 * up, 0.03 * u) for a in lowers]
        self.fill(rim, self.skin_tone(0.5, 0.36, 0.34), 0.6, 0.012)

    def brows(self) -> None:
        t = self.t
        colour = np.minimum(t.hair * 0.72, t.skin * 0.62)
        if t.hair.mean() > 130:
            colour = 0.45 * t.hair + 0.25 * t.skin
        width = t.brow_thickness * self.unit * np.array([0.35, 0.72, 0.95, 1.05, 0.8])
        lines = [curves.curve(self.marks[17:22]), curves.curve(self.marks[22:27][::-1])]
        self.fill([curves.ribbon(line, width) for line in lines], colour * 0.95, 0.85, 0.04)

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
            shape = np.concatenate([curves.curve(inner), curves.curve(outer[::-1])])
            self.lay_hair([shape], 0.8, 0.10)
        if t.moustache:
            foot, lip = marks[[31, 33, 35]], marks[[49, 51, 53]]
            line = 0.42 * foot + 0.58 * lip
            ends = marks[[48, 54]] + 0.03 * down
            near = 0.6 * ends + 0.4 * line[[0, 2]]
            line = np.stack([ends[0], near[0], *line, near[1], ends[1]])
            widths = u * np.array([0.05, 0.13, 0.20, 0.17, 0.20, 0.13, 0.05])
            self.lay_hair([curves.ribbon(curves.curve(line), widths)], 0.8, 0.04)

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
        circle = curves.circle(40)
        lens = np.sign(circle) * np.abs(circle) ** (2 / t.lens_round) * [0.50, 0.37]
        panes = []
        for sign in (-1, 1):
            z = 0.42 - 0.36 * sign * lens[:, 0]
            panes.append(self.pose(np.stack([lens[:, 0] + sign * 0.70, lens[:, 1] + 0.06, z], 1)))
        rims = [curves.ribbon(np.concatenate([p, p[:2]]), t.rim * u) for p in panes]
        if t.sunglasses:
            self.fill(panes, person.palette('1e1a1a')[0], 0.93)
        glare = [p * 0.45 + p.mean(0) * 0.55 - 0.1 * self.right - 0.12 * self.down for p in panes]
        self.fill(glare, person.palette('dce0e6')[0], 0.16, 0.07)
        self.fill([r + 0.05 * self.down for r in rims], t.skin * 0.35, 0.3, 0.03)
        self.fill(rims, t.frame)
        bridge = curves.curve(
            self.pose([(-0.22, 0.0, 0.55), (0.0, -0.05, 0.62), (0.22, 0.0, 0.55)])
        )
        arms = [[(s * 1.18, -0.03, 0.25), (s * 1.58 * t.face_width, 0.0, -0.8)] for s in (-1, 1)]
        strokes = [curves.ribbon(line, t.rim * u) for line in (bridge, *map(self.pose, arms))]
        self.fill(strokes, t.frame)
