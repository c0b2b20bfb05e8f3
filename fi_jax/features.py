"""The image algebra of the project, on device: ranges, composite, face part, feature stack, crop.

The pipeline delivers bytes (uint8); here they become the float arrays of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fi_jax.batch import BATCH, check
from fi_jax.landmarks import FOREHEAD, REGIONS

Batch = Mapping[str, Any]  # of arrays; its keys: fi_jax/batch.py
_BYTES = ('image', 'hole', 'face_mask', 'landmark_map')

# The lips twice, for an open mouth is the distance between their lines.
_MOUTH = REGIONS['mouth']
CONDITION_REGIONS = (
    *(r for name, r in REGIONS.items() if name != 'mouth'),
    _MOUTH[:12],
    _MOUTH[12:],
)
CONDITION_CHANNELS = len(CONDITION_REGIONS) + 1


def to_float(image: jax.Array) -> jax.Array:
    """uint8 [0,255] -> float32 [-1,1], any shape."""
    # Rounded once, so that compilers which fuse a product and a sum give the same.
    return (image.astype(jnp.float32) - 127.5) / 127.5


def to_uint8(image: jax.Array) -> jax.Array:
    """float [-1,1] -> uint8 [0,255], rounded to nearest and clipped; the inverse of `to_float`."""
    return jnp.clip(jnp.round((image + 1.0) * 127.5), 0, 255).astype(jnp.uint8)


def prepare(batch: Batch) -> dict[str, jax.Array]:
    """A batch of the pipeline in the ranges of the vocabulary, with face_part and masked added.

    image, hole, face_mask, landmark_map come as uint8; image goes to [-1,1], the maps to {0,1}.
    masked is the image with 0 inside the hole; face_part is the image with -1 outside face_mask:
    `fi_jax.batch.BATCH` becomes PREPARED. Raises ValueError where a key is not as it is there.
    """
    check(batch, BATCH, required=_BYTES)
    out = dict(batch)
    image = out['image'] = to_float(batch['image'])
    for name in _BYTES[1:]:
        out[name] = batch[name].astype(jnp.float32)
    out['masked'] = image * (1.0 - out['hole'])
    out['face_part'] = image * out['face_mask'] - (1.0 - out['face_mask'])
    return out


def composite(output: jax.Array, image: jax.Array, hole: jax.Array) -> jax.Array:
    """The output inside the hole (1 = missing), the image elsewhere, bit-exact; any dtype."""
    return jnp.where(hole > 0, output, image)


def stack(
    image: jax.Array, landmark_map: jax.Array, face_mask: jax.Array, face_part: jax.Array
) -> jax.Array:
    """The Extractor's 8 channels in [-1,1]: image 3, landmark_map 1, face_mask 1, face_part 3."""
    return jnp.concatenate([image, 2 * landmark_map - 1, 2 * face_mask - 1, face_part], axis=-1)


def draw_landmarks(landmarks: jax.Array, size: tuple[int, int]) -> jax.Array:
    """`fi_jax.landmarks.draw_points` on device: (B,68,2) pixels -> (B,H,W,1) in {0,1}."""
    height, width = size
    squared = max(1.0, height / 128) ** 2 + 1e-4
    x = jnp.square(landmarks[:, :, 0, None] - jnp.arange(width)[None, None])  # (B,68,W)
    y = jnp.square(landmarks[:, :, 1, None] - jnp.arange(height)[None, None])
    # Point by point, which compilers fuse into one pass; a reduction over the points they do not.
    near = jnp.zeros((len(landmarks), height, width), bool)
    for point in range(landmarks.shape[1]):
        near |= y[:, point, :, None] + x[:, point, None, :] <= squared
    return near.astype(jnp.float32)[..., None]


# Directions in which the hull of a face is measured: between two it bulges by 1/800 of its radius.
_ANGLES = np.arange(64) * 2 * np.pi / 64
# How far beyond the hull cv2 fills: pixels that a side only touches; less where a disc is added.
_EDGE, _EDGE_GROWN = 0.4, 0.12
_X, _Y = (np.round(f(_ANGLES), 12).astype(np.float32) for f in (np.cos, np.sin))


def draw_hull(
    points: jax.Array,
    size: tuple[int, int],
    *,
    chosen: jax.Array | bool = True,
    extended: jax.Array | bool = False,
    dilate: jax.Array | int | None = None,
    grow: jax.Array | float = 0.0,
) -> jax.Array:
    """`fi_jax.landmarks.draw_hull` and `draw_region` on device, but for pixels at the edge.

    points (68,2) of one face, in pixels; chosen (68,) those whose hull is filled; extended adds the
    forehead; dilate as there, grow by a disc of that radius -> (H,W) bool. A row of a convex shape
    is one run of pixels, whose ends follow from how far the points reach in each direction.
    """
    height, width = size
    square = max(1, round(height / 64)) if dilate is None else (dilate - 1) / 2
    along = points[16] - points[0]
    normal = jnp.stack([-along[1], along[0]]) / jnp.maximum(jnp.hypot(*along), 1e-6)
    depth = ((points[:17] - points[:1]) * normal[None]).sum(-1, keepdims=True)
    forehead = points[:17] - (1 + FOREHEAD) * depth * normal[None]
    everything = jnp.concatenate([points, forehead])
    counts = jnp.concatenate(
        [jnp.broadcast_to(chosen, (len(points),)), jnp.broadcast_to(extended, (17,))]
    )
    reach = everything[None, :, 0] * _X[:, None] + everything[None, :, 1] * _Y[:, None]
    reach = jnp.where(counts[None], reach, -jnp.inf).max(1)
    reach += jnp.where(grow >= 1, grow + _EDGE_GROWN, _EDGE)
    reach += square * (np.abs(_X) + np.abs(_Y))

    rows = jnp.arange(height, dtype=jnp.float32)[:, None]
    right, left, level = _X > 0, _X < 0, _X == 0
    ends = (reach[None] - rows * _Y[None]) / np.where(level, 1, _X)[None]
    stop = jnp.where(right[None], ends, jnp.inf).min(1)
    start = jnp.where(left[None], ends, -jnp.inf).max(1)
    within = jnp.where(level[None], rows * _Y[None] <= reach[None], True).all(1)
    at = jnp.arange(width)[None]
    return (at >= start[:, None]) & (at <= stop[:, None]) & within[:, None]


def sample_at(image: jax.Array, at: jax.Array) -> jax.Array:
    """An image (H,W,C) uint8 read between its pixels, linearly, at (h,w,2) places x, y; uint8.

    Beyond the image its edge is repeated. Whole places give the pixels themselves.
    """
    height, width, channels = image.shape
    x, y = (at[..., axis].clip(0, n - 1) for axis, n in enumerate((width, height)))
    left, top = jnp.floor(x).astype(jnp.int32), jnp.floor(y).astype(jnp.int32)
    x, y = (x - left)[..., None], (y - top)[..., None]
    flat = image.reshape(-1, channels)

    def pixel(dx: int, dy: int) -> jax.Array:
        rows, columns = jnp.minimum(top + dy, height - 1), jnp.minimum(left + dx, width - 1)
        return flat[rows * width + columns].astype(jnp.float32)

    upper = pixel(0, 0) * (1 - x) + pixel(1, 0) * x
    lower = pixel(0, 1) * (1 - x) + pixel(1, 1) * x
    return jnp.round(upper * (1 - y) + lower * y).astype(jnp.uint8)


def _bumps(points: jax.Array, size: tuple[int, int], radius: float) -> tuple[jax.Array, jax.Array]:
    """Rows (B,H,68) and columns (B,W,68) whose products are Gaussian bumps at the points."""

    def along(places: jax.Array, length: int) -> jax.Array:
        away = (places[:, None, :] - jnp.arange(length)[None, :, None]) / radius
        return jnp.exp(-jnp.square(away))

    return along(points[..., 1], size[0]), along(points[..., 0], size[1])


def condition_maps(landmarks: jax.Array, given: jax.Array, size: tuple[int, int]) -> jax.Array:
    """The landmark condition of a completion: a soft map for each region, and a flag.

    landmarks (B,68,2) pixels, given (B,) -> (B,H,W,CONDITION_CHANNELS) in [0,1], 0 where given is.
    A point is a bump about a pixel wide at 64 pixels, so that its place between pixels shows; apart
    in a channel each, regions do not run together.
    """
    points = jnp.where(given[:, None, None] > 0, landmarks, 0.0)
    y, x = _bumps(points, size, max(1.0, size[0] / 128))
    maps = [jnp.einsum('bhp,bwp->bhw', y[..., r], x[..., r]) for r in CONDITION_REGIONS]
    soft = jnp.minimum(jnp.stack(maps, axis=-1), 1.0)
    both = jnp.concatenate([soft, jnp.ones_like(soft[..., :1])], axis=-1)
    return both * given[:, None, None, None]


def near_landmarks(landmarks: jax.Array, size: tuple[int, int]) -> jax.Array:
    """How near each pixel is to the landmarks (B,68,2), in pixels; (B,H,W,1) in [0,1].

    1 at a point, 1/e at a twentieth of the side from it: brows, eyes, nose, lips and outline.
    """
    y, x = _bumps(landmarks, size, size[0] / 20)
    return jnp.minimum(jnp.einsum('bhp,bwp->bhw', y, x), 1.0)[..., None]


def hole_centre(hole: jax.Array) -> jax.Array:
    """Centroid (y, x) of each hole in pixels, the frame's centre where there is none; (B,2)."""
    _, h, w, _ = hole.shape
    area = hole.sum(axis=(1, 2, 3))
    y = (hole.sum(axis=(2, 3)) * jnp.arange(h)[None, :]).sum(axis=1)
    x = (hole.sum(axis=(1, 3)) * jnp.arange(w)[None, :]).sum(axis=1)
    centre = jnp.stack([y, x], axis=1) / jnp.maximum(area, 1.0)[:, None]
    frame = jnp.array([[(h - 1) / 2, (w - 1) / 2]], jnp.float32)
    return jnp.where((area > 0)[:, None], centre, frame)


def crop_at(x: jax.Array, centre: jax.Array, size: int) -> jax.Array:
    """The size x size window of each image around its centre, moved to lie inside the frame.

    x (B,H,W,C), centre (B,2) as (y, x) -> (B,size,size,C). Written as two products with 0/1
    matrices, which shard over the batch and have a cheap gradient, where a gather has neither.
    """
    rows, columns = (_select(centre[:, i], x.shape[1 + i], size, x.dtype) for i in (0, 1))
    x = jnp.einsum('bsh,bhwc->bswc', rows, x, precision=_EXACT)
    return jnp.einsum('btw,bswc->bstc', columns, x, precision=_EXACT)


def paste_at(x: jax.Array, centre: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Windows (B,s,s,C) back where `crop_at` took them, 0 around them; (B,H,W,C) of that size."""
    rows, columns = (_select(centre[:, i], size[i], x.shape[1], x.dtype) for i in (0, 1))
    x = jnp.einsum('bsh,bstc->bhtc', rows, x, precision=_EXACT)
    return jnp.einsum('btw,bhtc->bhwc', columns, x, precision=_EXACT)


_EXACT = jax.lax.Precision.HIGHEST  # else a TPU rounds the pixels to bfloat16


def _select(centre: jax.Array, length: int, size: int, dtype: Any) -> jax.Array:
    """(B,size,length) of 0 and 1: which pixel of the side each pixel of the window is."""
    start = jnp.clip(jnp.round(centre) - size // 2, 0, length - size)
    places = start[:, None, None] + jnp.arange(size)[None, :, None]
    return (places == jnp.arange(length)[None, None, :]).astype(dtype)
