"""The marks of charts as SVG: axes, lines, dots and words. Places are in units of the drawing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from html import escape

import numpy as np
from markupsafe import Markup

WIDTH, HEIGHT = 440.0, 300.0
LEFT, RIGHT, TOP, BOTTOM = 52.0, 14.0, 14.0, 46.0
Scale = Callable[[float], float]
Box = tuple[float, float, float, float]  # left, top, right, bottom
Place = tuple[float, float, str]  # x, y, anchor of a text
LETTER = 6.2  # pixels of the mean letter of a label


def axes(
    x: tuple[float, float],
    y: tuple[float, float],
    x_title: str,
    y_title: str,
    percent: bool = False,
) -> tuple[Scale, Scale, str]:
    """Scales from data to the drawing, and the grid with its numbers."""
    across = scale(x, LEFT, WIDTH - RIGHT)
    up, body = levels(y)
    for tick in ticks(*x):
        label = f'{100 * tick:.0f} %' if percent else short(tick)
        body += line(across(tick), HEIGHT - BOTTOM, across(tick), HEIGHT - BOTTOM + 4)
        body += text(across(tick), HEIGHT - BOTTOM + 17, label, 'middle', 'tick')
    return across, up, body + titles(x_title, y_title, HEIGHT - 8)


def scale(bounds: tuple[float, float], start: float, end: float) -> Scale:
    """From data to a drawing, linearly."""
    low, high = bounds
    return lambda value: start + (value - low) / (high - low) * (end - start)


def levels(y: tuple[float, float]) -> tuple[Scale, str]:
    """The upward scale, and its lines across with their numbers."""
    up = scale(y, HEIGHT - BOTTOM, TOP)
    body = ''
    for tick in ticks(*y):
        body += line(LEFT, up(tick), WIDTH - RIGHT, up(tick))
        body += text(LEFT - 7, up(tick) + 4, short(tick), 'end', 'tick')
    return up, body


def columns(
    x: tuple[float, float], left: float, right: float, top: float, bottom: float
) -> tuple[Scale, str]:
    """The scale across of a chart with a line of text each, and its lines down with numbers."""
    across = scale(x, left, right)
    body = ''
    for tick in ticks(*x):
        body += line(across(tick), top, across(tick), bottom)
        body += text(across(tick), bottom + 15, short(tick), 'middle', 'tick')
    return across, body


def titles(x_title: str, y_title: str, x_title_at: float) -> str:
    """The axis at the bottom and the titles of both."""
    return (
        line(LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT, HEIGHT - BOTTOM, 'class="axis"')
        + text((LEFT + WIDTH - RIGHT) / 2, x_title_at, x_title)
        + f'<text transform="translate(13 {(HEIGHT - BOTTOM + TOP) / 2:.0f}) rotate(-90)" '
        f'text-anchor="middle">{escape(y_title)}</text>'
    )


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers between two bounds."""
    span = max(high - low, 1e-9)
    step = 10 ** math.floor(math.log10(span / count))
    step *= next(k for k in (1, 2, 5, 10) if span / (step * k) <= count)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def padded(values: Iterable[float], zero: bool = False) -> tuple[float, float]:
    """Bounds of finite values with some room; zero: from 0 on."""
    known = [v for v in values if math.isfinite(v)] or [0.0, 1.0]
    low, high = min(known), max(known)
    margin = 0.08 * (high - low) or 0.1 * abs(high) or 0.1
    return (0.0 if zero else low - margin), high + margin


def spread_out(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places near the wanted ones, at least gap apart, inside the bounds where there is room."""
    order = np.argsort(wanted, kind='stable')
    places = np.array(wanted, float)[order]
    for i in range(1, len(places)):
        places[i] = max(places[i], places[i - 1] + gap)
    places -= max(0.0, places[-1] - high) if len(places) else 0.0
    for i in range(len(places) - 1, 0, -1):
        places[i - 1] = min(places[i - 1], places[i] - gap)
    out = np.empty(len(places))
    out[order] = np.maximum(places, low - gap)
    return out.tolist()


def extent(x: float, y: float, text: str, anchor: str) -> Box:
    """About what `text` covers."""
    wide = LETTER * len(text)
    left = {'start': x, 'middle': x - wide / 2, 'end': x - wide}[anchor]
    return left, y - 10, left + wide, y + 3


def freest(places: Iterable[Place], text: str, taken: Sequence[Box]) -> Place:
    """The place (x, y, anchor) where a label covers least of what is taken; the first of equals.

    What would lie outside the chart counts as covered.
    """

    def covered(place: Place) -> float:
        left, top, right, bottom = extent(place[0], place[1], text, place[2])
        beside = max(0.0, LEFT - left) + max(0.0, right - WIDTH)
        beyond = max(0.0, 2 - top) + max(0.0, bottom - (HEIGHT - BOTTOM))
        outside = beside * (bottom - top) + beyond * (right - left)
        return outside + sum(
            max(0.0, min(right, r) - max(left, x)) * max(0.0, min(bottom, b) - max(top, y))
            for x, y, r, b in taken
        )

    return min(places, key=covered)


def drawing(body: str, label: str, height: float = HEIGHT) -> Markup:
    """A drawing of its marks; label is for who cannot see it."""
    box = f'0 0 {WIDTH:.0f} {height:.0f}'
    return Markup(f'<svg viewBox="{box}" role="img" aria-label="{escape(label)}">{body}</svg>')


def short(value: float) -> str:
    """Three digits, with a true minus."""
    return f'{value:.3g}'.replace('-', '\N{MINUS SIGN}')


def text(x: float, y: float, text: str, anchor: str = 'middle', kind: str = '') -> str:
    """Words at a place."""
    style = f' class="{kind}"' if kind else ''
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{style}>{escape(text)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, style: str = 'class="grid"') -> str:
    """A straight line."""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" {style}/>'


def whisker(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    """An interval; '' where an end is not finite."""
    if not all(map(math.isfinite, (x1, y1, x2, y2))):
        return ''
    return line(x1, y1, x2, y2, f'class="whisker" style="stroke:{colour}"')


def curve(
    places: Iterable[tuple[float, float]], colour: str, kind: str = 'curve', dashed: bool = False
) -> str:
    """A line through finite places."""
    points = ' '.join(f'{x:.1f},{y:.1f}' for x, y in places if math.isfinite(x + y))
    dash = ' stroke-dasharray="5 4"' if dashed else ''
    return f'<polyline points="{points}" class="{kind}" style="stroke:{colour}"{dash}/>'


def circle(x: float, y: float, r: float, style: str) -> str:
    """A circle of a style."""
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r}" {style}/>'


def dot(x: float, y: float, r: float, colour: str, hint: str, ring: bool = False) -> str:
    """A circle with a tooltip: filled, or a ring."""
    style = f'class="open" style="stroke:{colour}"' if ring else f'style="fill:{colour}"'
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r}" {style}><title>{escape(hint)}</title></circle>'
    )
