"""Where things lie: flips, moves of the frame and warps to other expressions, in one resampling."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fi_jax import landmarks as lm
from fi_jax.augmentation.draws import Draws
from fi_jax.features import sample_at

# In distances of the outer corners of the eyes: how far a move reaches around a point, and the
# deviation of each region's own move.
_REACH, _STRAY = 0.15, 0.03
_EXACT = jax.lax.Precision.HIGHEST
_REGION = np.zeros((68, len(lm.REGIONS)), np.float32)
for _column, _points in enumerate(lm.REGIONS.values()):
    _REGION[_points, _column] = 1
# An edit is linear in the points: what it does to each coordinate alone is all that it does.
_UNITS = np.eye(136, dtype=np.float32).reshape(136, 68, 2)
_EDITS = np.stack([[lm.edit(unit, name) - unit for unit in _UNITS] for name in lm.EDITS])


def placed(
    image: jax.Array,
    points: jax.Array,
    known: jax.Array,
    flip: bool,
    amounts: Any,
    res: int,
    draws: Draws,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """One face flipped, moved and warped by chance; and whether it was warped.

    image (S,S,3) uint8, the square of res pixels with a margin on each side that moves may show;
    points (68,2) in its pixels -> (res,res,3) uint8, (68,2) in its pixels. A face that is neither
    moved nor warped keeps its pixels; beyond the image its edge is repeated.
    """
    side = image.shape[0]
    margin = (side - res) // 2
    flips = draws.chance(0.5) if flip else jnp.zeros((), bool)
    image = jnp.where(flips, image[:, ::-1], image)
    mirrored = points[lm.FLIP]
    mirrored = jnp.stack([side - 1 - mirrored[:, 0], mirrored[:, 1]], 1)
    points = jnp.where(flips, mirrored, points)

    turn, offset = jnp.eye(2), jnp.full((2,), -margin, jnp.float32)
    moved = warped = jnp.zeros((), bool)
    if amounts.rotate or amounts.scale or amounts.shift:
        moved = ~draws.chance(amounts.unmoved)
        angle = jnp.deg2rad(draws.uniform(-1, 1) * amounts.rotate)
        zoom = (1 + amounts.scale) ** draws.uniform(-1, 1)
        shift = draws.uniform(-1, 1, (2,)) * amounts.shift * res
        cos, sin = jnp.cos(angle), jnp.sin(angle)
        turned = zoom * jnp.stack([jnp.stack([cos, -sin]), jnp.stack([sin, cos])])
        centred = (res - 1) / 2 + shift - turned.sum(1) * (side - 1) / 2
        turn, offset = jnp.where(moved, turned, turn), jnp.where(moved, centred, offset)
    points = _times(turn, points) + offset[None]

    move = jnp.zeros_like(points)
    if amounts.expression_warp:
        warped = known & draws.chance(amounts.expression_warp)
        wanted = expression(points, draws)
        move = jnp.where(warped, wanted, 0.0)

    def resampled(image: jax.Array) -> jax.Array:
        at = _source_places(points, move, res)
        inverse = turn.T / (turn[0, 0] ** 2 + turn[1, 0] ** 2)
        return sample_at(image, _times(inverse, at - offset[None, None]))

    def kept(image: jax.Array) -> jax.Array:
        return image[margin : margin + res, margin : margin + res]

    if amounts.expression_warp or margin or amounts.rotate or amounts.scale or amounts.shift:
        image = jax.lax.cond(moved | warped, resampled, kept, image)
    if amounts.expression_warp:
        points = jax.lax.cond(warped, lambda: _followed(points, move), lambda: points)
    # Fine enough, and how a sum was rounded does not show.
    return image, jnp.where(moved | warped, jnp.round(points * 256) / 256, points), warped


def expression(points: jax.Array, draws: Draws) -> jax.Array:
    """How the points (68,2) of a face move towards another expression, in pixels.

    Each of `landmarks.EDITS` comes by a coin, at a strength of up to 1.2 both ways, and each region
    strays a little.
    """
    stray = jnp.matmul(_REGION, draws.normal(_STRAY, (len(lm.REGIONS), 2)), precision=_EXACT)
    number = len(lm.EDITS)
    strengths = draws.uniform(-1.2, 1.2, (number,)) * (draws.uniform(shape=(number,)) < 0.5)
    edits = jnp.einsum('e,ekpc,k->pc', strengths, _EDITS, points.reshape(-1), precision=_EXACT)
    return stray * jnp.linalg.norm(points[45] - points[36]) + edits


def warp(image: jax.Array, points: jax.Array, move: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The photo warped so that its landmarks move, nearly as wanted, and its landmarks then.

    Faces warped at random part shape from looks: what the rest of a face tells of its mouth is no
    longer enough. image (H,H,3) uint8, points and move (68,2) in its pixels.
    """
    return sample_at(image, _source_places(points, move, len(image))), _followed(points, move)


def _source_places(points: jax.Array, move: jax.Array, res: int) -> jax.Array:
    """(res,res,2): where each pixel of a warped face lay before."""
    at = jnp.stack(jnp.meshgrid(jnp.arange(res), jnp.arange(res)), -1).astype(jnp.float32)
    return at - _away(points, move, res)


def _near(x: jax.Array, y: jax.Array, points: jax.Array, reach: jax.Array) -> tuple:
    """How near each column and each row is to each point; their product is Gaussian."""
    return tuple(
        jnp.exp(-jnp.square((at[:, None] - points[None, :, axis]) / reach))
        for axis, at in enumerate((x, y))
    )


def _reach(points: jax.Array) -> jax.Array:
    return _REACH * jnp.maximum(jnp.linalg.norm(points[45] - points[36]), 1.0)


def _away(points: jax.Array, move: jax.Array, res: int) -> jax.Array:
    """(res,res,2): the move of the points around each pixel, fading away from all of them."""
    line = jnp.arange(res, dtype=jnp.float32)
    column, row = _near(line, line, points, _reach(points))
    return _faded(jnp.einsum('yp,xp,pm->yxm', row, column, _weights(move), precision=_EXACT))


def _weights(move: jax.Array) -> jax.Array:
    return jnp.concatenate([move, jnp.ones_like(move[:, :1])], 1)


def _faded(total: jax.Array) -> jax.Array:
    return total[..., :2] / jnp.maximum(total[..., 2:], 0.3)


def _followed(points: jax.Array, move: jax.Array) -> jax.Array:
    """The landmarks of the warped face: where a place shows what lay its own move away."""
    at, reach = points, _reach(points)
    for _ in range(6):
        apart = jnp.square(at[:, None] - points[None]).sum(-1)
        near = jnp.exp(-apart / reach**2)
        at = points + _faded(jnp.matmul(near, _weights(move), precision=_EXACT))
    return at


def _times(matrix: jax.Array, vectors: jax.Array) -> jax.Array:
    """The matrix (2,2) times each vector of the last axis."""
    return jnp.einsum('ij,...j->...i', matrix, vectors, precision=_EXACT)
