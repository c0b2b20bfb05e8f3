"""Holes of training faces: the kinds of `input_pipeline.holes`, drawn on the devices.

Shapes, shares and their random ranges are those of that module, whose functions say what each kind
is; pixels at the edges may differ, for there shapes are filled in fixed point.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from fi_jax import landmarks as lm
from fi_jax.augmentation.draws import Draws
from fi_jax.features import draw_hull
from fi_jax.input_pipeline import holes as host

KINDS = host.KINDS
# Drawn once by the host, for they are fonts and long curves.
BANKED = ('scratches', 'text')
BANK_SIZE = 256  # of each kind

_REGIONS = {
    'eyes': ('right_brow', 'left_brow', 'right_eye', 'left_eye'),
    'nose': ('nose',),
    'mouth': ('mouth',),
}
_GROW = {'eyes': (0.03, 0.1), 'nose': (0.04, 0.1), 'mouth': (0.03, 0.1), 'lower_half': (0.01, 0.07)}
_FACE = (*_GROW, 'half_face', 'whole_face')


def bank(kinds: Collection[str], res: int, seed: int) -> np.ndarray:
    """Holes of the kinds in BANKED, (kind,BANK_SIZE,res*res/8) packed bits; empty if unused."""
    if not set(kinds) & set(BANKED):
        return np.zeros((0,), np.uint8)
    drawn = [
        [host.fixed(seed, index, kind, (res, res))[0] for index in range(BANK_SIZE)]
        for kind in BANKED
    ]
    return np.packbits(np.array(drawn, np.uint8).reshape(len(BANKED), BANK_SIZE, -1), axis=-1)


def make_draw(
    weights: Mapping[str, float], warped_weights: Mapping[str, float], res: int
) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """draw(points (68,2), known, warped, bank, draws) -> hole (res,res) bool, index of its kind.

    weights by name of kind, warped_weights over faces that were warped. A face (nearly) outside the
    frame, or larger than it, places no hole: the mean face does, as where no points are known.
    Raises ValueError on unknown kinds or bad weights.
    """
    shares = np.stack([host.shares_of(w) for w in (weights, warped_weights)])
    edges = (np.cumsum(shares, 1) / shares.sum(1, keepdims=True)).astype(np.float32)
    families: dict[str, Callable[..., jax.Array]] = {
        'none': _none, 'box': _box, 'strokes': _strokes, 'face': _face, 'bank': _banked,
        'blocks': _blocks,
    }  # fmt: skip
    used = [kind for kind, share in zip(KINDS, shares.sum(0), strict=True) if share]
    needed = [name for name in families if any(_family(kind) == name for kind in used)]
    index_of = np.array([needed.index(f) if (f := _family(k)) in needed else 0 for k in KINDS])
    mean = lm.mean_landmarks((res, res))

    def draw(
        points: jax.Array, known: jax.Array, warped: jax.Array, bank: jax.Array, draws: Draws
    ) -> tuple[jax.Array, jax.Array]:
        table = jnp.where(warped, edges[1], edges[0])
        kind = (draws.uniform() >= table[:-1]).sum().astype(jnp.int32)
        points = jnp.where(known, points, mean)

        numbers = draws.apart(80)

        def branch(name: str) -> Callable[[], jax.Array]:
            return lambda: families[name](kind, points, bank, res, Draws(numbers))

        hole = jax.lax.switch(jnp.asarray(index_of)[kind], [branch(name) for name in needed])
        return hole, kind

    return draw


def _family(kind: str) -> str:
    if kind in _FACE:
        return 'face'
    if kind in BANKED:
        return 'bank'
    return {'centre': 'box', 'rectangle': 'box'}.get(kind, kind)


def _is(kind: jax.Array, name: str) -> jax.Array:
    return kind == KINDS.index(name)


def _none(kind: jax.Array, points: jax.Array, bank: jax.Array, res: int, draws: Draws):
    return jnp.zeros((res, res), bool)


def _box(kind: jax.Array, points: jax.Array, bank: jax.Array, res: int, draws: Draws):
    side, middle = draws.uniform(0.2, 0.6, (2,)), draws.uniform(0.38, 0.62, (2,))
    centre = _is(kind, 'centre')
    start = jnp.where(centre, (res - res // 2) // 2, jnp.round((middle - side / 2) * res))
    stop = jnp.where(centre, start + res // 2, jnp.round((middle + side / 2) * res))
    line = jnp.arange(res)
    inside = (line[None] >= start[:, None]) & (line[None] < stop[:, None])
    return inside[0][:, None] & inside[1][None, :]


def _strokes(kind: jax.Array, points: jax.Array, bank: jax.Array, res: int, draws: Draws):
    most, turns = 4, 7
    strokes = draws.integers(1, most + 1)
    point = draws.uniform(0.1, 0.9, (most, 2)) * res
    width = draws.uniform(0.05, 0.14, (most,)) * res
    heading = draws.uniform(0, 2 * jnp.pi, (most,))
    lengths = draws.integers(2, turns + 1, (most,))
    wander = draws.normal(0.5, (turns, most))
    reach = draws.uniform(0.1, 0.35, (turns, most)) * res
    starts, stops = [], []
    for turn in range(turns):
        heading = heading + np.pi * (turn % 2) + wander[turn]
        step = reach[turn][:, None] * jnp.stack([jnp.cos(heading), jnp.sin(heading)], -1)
        starts.append(point)
        point = jnp.where((turn < lengths)[:, None], (point + step).clip(0, res - 1), point)
        stops.append(point)
    start, stop = jnp.concatenate(starts), jnp.concatenate(stops)
    way = stop - start
    squared = jnp.maximum((way**2).sum(-1), 1e-6)
    drawn = jnp.tile(jnp.where(jnp.arange(most) < strokes, jnp.square(width / 2), -1.0), turns)
    line = jnp.arange(res)
    dx = line[None, None, :] - start[:, 0, None, None]
    dy = line[None, :, None] - start[:, 1, None, None]
    way = way[:, :, None, None]
    along = ((dx * way[:, 0] + dy * way[:, 1]) / squared[:, None, None]).clip(0, 1)
    away = jnp.square(dx - along * way[:, 0]) + jnp.square(dy - along * way[:, 1])
    return (away - drawn[:, None, None]).min(0) <= 0


def _blocks(kind: jax.Array, points: jax.Array, bank: jax.Array, res: int, draws: Draws):
    most, grid = 7, 8
    runs = draws.integers(2, most + 1)
    row, start = draws.integers(0, grid, (2, most))
    length = draws.integers(1, grid + 1, (most,))
    cells = np.arange(grid)
    across = (cells[None] >= start[:, None]) & (cells[None] < (start + length)[:, None])
    lost = (row[:, None] == cells[None])[:, :, None] & across[:, None, :]
    lost = (lost & (np.arange(most) < runs)[:, None, None]).any(0)
    at = np.arange(res) * grid // res
    return lost[at][:, at]


def _banked(kind: jax.Array, points: jax.Array, bank: jax.Array, res: int, draws: Draws):
    which = jnp.where(_is(kind, BANKED[0]), 0, 1)
    bits = bank[which, draws.integers(0, BANK_SIZE)]
    flat = (bits[:, None] >> np.arange(7, -1, -1, dtype=np.uint8)[None]) & 1
    return flat.reshape(res, res) > 0


def _face(kind: jax.Array, points: jax.Array, bank: jax.Array, res: int, draws: Draws):
    bridge, share, wide = draws.integers(28, 31), draws.uniform(), draws.chance(0.5)
    half, first = _is(kind, 'half_face'), draws.chance(0.5)
    whole = half | _is(kind, 'whole_face')
    line = np.arange(lm.NUM_POINTS)
    chosen = whole | (_is(kind, 'lower_half') & ((line >= 2) & (line <= 14) | (line == bridge)))
    low, high = jnp.full((), 0.01), jnp.full((), 0.05)
    for name, grow in _GROW.items():
        here = _is(kind, name)
        low, high = jnp.where(here, grow[0], low), jnp.where(here, grow[1], high)
        if name in _REGIONS:
            inside = np.isin(line, np.concatenate([lm.REGIONS[r] for r in _REGIONS[name]]))
            chosen |= here & inside

    def led_by(points: jax.Array) -> jax.Array:
        side = jnp.minimum(jnp.ptp(points, axis=0).max(), res)
        grow = (low + (high - low) * share) * side
        hole = draw_hull(
            points,
            (res, res),
            chosen=chosen,
            extended=whole & wide,
            dilate=jnp.where(whole, 1 + 2 * jnp.round(grow), 1),
            grow=jnp.where(whole, 0.0, grow),
        )
        # The midline runs from the top of the nose to the chin.
        (x, y), (along_x, along_y) = points[27], points[8] - points[27]
        at = jnp.arange(res)
        beyond = (at[None, :] - x) * along_y - (at[:, None] - y) * along_x >= 0
        return hole & (~half | (beyond == first))

    def fits(hole: jax.Array) -> jax.Array:
        return (hole.mean() >= host.MIN_SHARE) & (hole.mean() <= host.MAX_SHARE)

    hole = led_by(points)
    return jax.lax.cond(
        fits(hole), lambda: hole, lambda: led_by(jnp.asarray(lm.mean_landmarks((res, res))))
    )
