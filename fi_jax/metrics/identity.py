"""Whose face it is: the 128 numbers of dlib's face network, and how near two of them are.

A measure of completions against their own photo; never a means to find out who someone is. The
network was trained to put faces of one person within .6 of each other (`distance`).
"""

import jax
import jax.numpy as jnp
import numpy as np

CHIP = 150  # pixels
SAME_PERSON = 0.6  # of `distance`, the threshold of the network's author

_PADDING = 0.25
# dlib's mean face: the points 27..54 and 60..64 by which it aligns, as fractions of the face box.
# fmt: off
_ALIGNED = np.array([*range(27, 55), *range(60, 65)])
_MEAN_X = np.array([
    0.490127, 0.490127, 0.490127, 0.490127, 0.366880, 0.426036, 0.490127, 0.554217, 0.613373,
    0.121737, 0.187122, 0.265825, 0.334606, 0.260918, 0.182743, 0.645647, 0.714428, 0.793132,
    0.858516, 0.797510, 0.719335, 0.254149, 0.340985, 0.428858, 0.490127, 0.551395, 0.639268,
    0.726104, 0.290379, 0.428096, 0.490127, 0.552157, 0.689874,
])
_MEAN_Y = np.array([
    0.203352, 0.307009, 0.409805, 0.515625, 0.587326, 0.609345, 0.628106, 0.609345, 0.587326,
    0.216423, 0.178758, 0.179852, 0.231733, 0.245099, 0.244077, 0.231733, 0.179852, 0.178758,
    0.216423, 0.244077, 0.245099, 0.780233, 0.745405, 0.727388, 0.742578, 0.727388, 0.745405,
    0.780233, 0.784792, 0.778746, 0.785343, 0.778746, 0.784792,
])
# fmt: on


def chips(images: jax.Array, landmarks: jax.Array) -> jax.Array:
    """Faces turned upright and cut out as dlib does: (B, H, W, 3), (B, 68, 2) -> (B, 150, 150, 3).

    Values 0..255 stay so, rounded down to whole ones; black outside the frame. Give a completion
    the points of its photo, so that both are cut alike. Faces above 300 pixels should be made
    smaller before.
    """
    mean = (_PADDING + np.stack([_MEAN_X, _MEAN_Y], -1)) / (2 * _PADDING + 1) * CHIP
    centre = mean.mean(0)
    shape = (mean - centre).astype(np.float32)  # (33, 2)
    points = jnp.asarray(landmarks, jnp.float32)[:, _ALIGNED]
    middle = jnp.mean(points, axis=1)
    moved = points - middle[:, None]
    # The similarity that fits best: a rotation and scale as one complex number, cos + i sin.
    size = np.square(shape).sum()
    along = jnp.sum(moved * shape[None], axis=(1, 2)) / size
    across = (
        jnp.sum(moved[..., 1] * shape[None, :, 0] - moved[..., 0] * shape[None, :, 1], 1) / size
    )
    scale = jnp.sqrt(along**2 + across**2)

    def turn(x: jax.Array | float, y: jax.Array | float) -> tuple[jax.Array, jax.Array]:
        return along * x - across * y, across * x + along * y

    x0, y0 = (m + t for m, t in zip(middle.T, turn(*(CHIP / 2 - centre)), strict=True))
    # dlib fits the centres of the outer pixels to the box, whose sides are CHIP * scale - 1.
    step = ((CHIP * scale - 1) / ((CHIP - 1) * scale))[:, None, None]
    grid = jnp.arange(CHIP, dtype=jnp.float32) - (CHIP - 1) / 2
    column, row = grid[None, None, :] * step, grid[None, :, None] * step
    along, across = along[:, None, None], across[:, None, None]
    x = x0[:, None, None] + along * column - across * row
    y = y0[:, None, None] + across * column + along * row

    def sample(image: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
        def channel(plane: jax.Array) -> jax.Array:
            return jax.scipy.ndimage.map_coordinates(plane, [y, x], order=1)

        return jax.vmap(channel, in_axes=-1, out_axes=-1)(image)

    # dlib rounds down; what float32 puts just below a whole number is that number.
    return jnp.floor(jax.vmap(sample)(jnp.asarray(images, jnp.float32), x, y) + 1e-3)


def cosine(a: jax.Array, b: jax.Array) -> jax.Array:
    """Cosine of the angle between descriptors (..., D): -> (...)."""
    norms = jnp.linalg.norm(a, axis=-1) * jnp.linalg.norm(b, axis=-1)
    return jnp.sum(a * b, axis=-1) / jnp.maximum(norms, 1e-12)


def distance(a: jax.Array, b: jax.Array) -> jax.Array:
    """Euclidean distance of descriptors (..., D), the measure of SAME_PERSON: -> (...)."""
    return jnp.linalg.norm(a - b, axis=-1)


def score(samples: jax.Array, truth: jax.Array) -> dict[str, jax.Array]:
    """Descriptors of samples (B, N, D) and of their photo (B, D) -> SCORES, each (B,).

    Between samples: mean over the N(N-1)/2 pairs, NaN for N = 1.
    """
    to_truth = cosine(samples, truth[:, None])
    first, second = np.triu_indices(samples.shape[1], 1)
    between = cosine(samples[:, first], samples[:, second])
    return {
        'identity_gt/mean': jnp.mean(to_truth, axis=1),
        'identity_gt/best': jnp.max(to_truth, axis=1),
        'identity_gt_distance': jnp.mean(distance(samples, truth[:, None]), axis=1),
        'identity_div': 1 - jnp.mean(between, axis=1),
    }


SCORES: tuple[str, ...] = (
    'identity_gt/mean',
    'identity_gt/best',
    'identity_gt_distance',
    'identity_div',
)


def nearest(queries: jax.Array, reference: jax.Array) -> jax.Array:
    """Distance of each descriptor (B,D) to the nearest of a reference set (M,D): -> (B,); jittable.

    For memorisation: a sample nearer to a training face than photos of other people are is a copy.
    Raises ValueError for an empty reference set.
    """
    if not len(reference):
        raise ValueError('reference_set: no faces; give the descriptors of the training set')
    # Differences themselves: by products, in float32, a face would be .001 away from itself.
    return jax.lax.map(lambda query: distance(reference, query[None]).min(), queries)
