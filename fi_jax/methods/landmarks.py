"""The landmark predictor: a damaged face -> 68 points, how sure each is, and whole shapes drawn.

Points and scales come from a net under a Laplace likelihood. The shapes come from heads that read
the net's features and model what it leaves open, the residuals, all points together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from fi_jax import pictures, rng
from fi_jax.features import Batch
from fi_jax.landmarks import MEAN_SHAPE
from fi_jax.methods import Changes, Method, Nets, Phase, Predictor, Settings
from fi_jax.metrics.landmarks import inside
from fi_jax.nets.landmark_predictor import LandmarkPredictor, MobileNetPredictor
from fi_jax.nets.shapes import DIM, Flow, LowRankMixture

PREDICTORS: dict[int, tuple[int, ...]] = {
    32: (8, 16, 24),
    64: (16, 32, 64, 96),
    128: (16, 32, 64, 128, 192),
    256: (16, 32, 64, 128, 192, 256),
}

# As the paper of LaFIn trains (Yang et al., 2019).
PRESETS: dict[str, Changes] = {
    'modern': {},
    'lafin': {'landmarks.net': 'lafin', 'landmarks.loss': 'l2norm', 'optim.lr': 5e-4},
}


def defaults(res: int) -> dict[str, Any]:
    """The fields of this method alone."""
    section = dict(
        net='small',  # 'lafin': MobileNetV2 with a three-scale head
        widths=PREDICTORS[res],
        hidden=32 if res == 32 else 256,
        loss='laplace',  # 'l2norm': the norm of the whole error, as LaFIn
        # Distributions of whole shapes to fit: gaussian, mixture, flow; the first one is drawn.
        shapes=('flow',),
        components=4,
        basis=48,
        rank=24,
        unseen_share=0.06,  # of training faces made unrecognisable
    )
    return dict(steps=dict(landmarks=0), landmarks=section)


SETTINGS = Settings(defaults, choices=lambda res: {'preset': PRESETS}, fixed=('landmarks',))

NETS = ('small', 'lafin')
LOSSES = ('laplace', 'l2norm')
SHAPES = ('gaussian', 'mixture', 'flow')
LEVELS = (50, 80, 95)
EYES = (36, 45)  # outer corners: their distance is the unit of NME
_BLANK_BLOCKS = 8


class Faces(NamedTuple):
    """What the net says of a batch, in sides of the frame: points (B,68,2), scale (B,68)."""

    points: jax.Array
    scale: jax.Array
    context: jax.Array


def to_pixels(points: jax.Array, res: int) -> jax.Array:
    """Points in sides of the frame -> pixels, whose centres lie at whole numbers."""
    return points * res - 0.5


def shuffled_blocks(image: jax.Array, key: jax.Array) -> jax.Array:
    """Each image (B,H,W,3) cut into 8x8 blocks that change places: tones of a face, and no face."""
    b, h, w, c = image.shape
    n = _BLANK_BLOCKS
    blocks = image.reshape(b, n, h // n, n, w // n, c).swapaxes(2, 3)
    order = jax.random.permutation(key, n * n)
    blocks = blocks.reshape(b, n * n, h // n, w // n, c)[:, order]
    return blocks.reshape(b, n, n, h // n, w // n, c).swapaxes(2, 3).reshape(image.shape)


@dataclass(frozen=True)
class Landmarks:
    """The losses and answers of the predictor under one config; it holds no other state."""

    config: Any

    def nets(self) -> dict[str, Any]:
        """The predictor, and one head a distribution of shapes."""
        options, dtype = self.config.landmarks, jnp.dtype(self.config.dtype)
        predictor: Any = MobileNetPredictor(dtype)
        if options.net == 'small':
            predictor = LandmarkPredictor(tuple(options.widths), options.hidden, dtype)
        heads: dict[str, Any] = {
            'gaussian': LowRankMixture(1, options.basis, options.rank),
            'mixture': LowRankMixture(options.components, options.basis, options.rank),
            'flow': Flow(),
        }
        return {'predictor': predictor, **{head(k): heads[k] for k in options.shapes}}

    def inputs(self, batch: Batch) -> dict[str, tuple[jax.Array, ...]]:
        """Example arguments of each network."""
        b = len(batch['image'])
        features = 320 if self.config.landmarks.net == 'lafin' else self.config.landmarks.hidden
        context = jnp.zeros((b, features + DIM + DIM // 2))
        heads = {head(k): (context, jnp.zeros((b, DIM))) for k in self.config.landmarks.shapes}
        return {'predictor': (batch['masked'], batch['hole']), **heads}

    # ------------------------------------------------------------------------------- answers

    def faces(self, nets: Nets, batch: Batch, train: bool = False) -> Faces:
        """What the net says of a prepared batch; of finer images than its own, of their means."""
        masked, hole = batch['masked'], batch['hole']
        if (more := hole.shape[1] // self.config.res) > 1:
            windows = (more, more)
            hole = nn.max_pool(hole, windows, windows)
            masked = nn.avg_pool(masked, windows, windows) * (1.0 - hole)
        estimate = nets['predictor'](masked, hole, train=train)
        log_scale = estimate.log_scale
        seen = [estimate.features, estimate.offset.reshape(-1, DIM) * 4.0, log_scale + 4.0]
        # The heads explain the net; they must not shape it.
        context = jax.lax.stop_gradient(jnp.concatenate(seen, axis=-1))
        return Faces(jnp.asarray(MEAN_SHAPE)[None] + estimate.offset, jnp.exp(log_scale), context)

    def predict(self, nets: Nets, batch: Batch, keys: jax.Array) -> dict[str, jax.Array]:
        """Points (B,68,2), sigma (B,68) and samples (B,N,68,2) in pixels; keys (B,N).

        sigma is the standard deviation of x, and of y, under the point's own Laplace likelihood.
        The samples are whole shapes, of the first of config.landmarks.shapes.
        """
        faces = self.faces(nets, batch)
        b, n = keys.shape
        # For one shape, enough numbers for each head.
        noise_dim = LowRankMixture.noise_dim(self.config.landmarks.rank)
        noise = rng.normal(keys.reshape(-1), (noise_dim,)).reshape(b, n, noise_dim)
        chosen = nets[head(self.config.landmarks.shapes[0])]
        u = chosen(faces.context, noise, sample=True).reshape(b, n, -1, 2)
        samples = faces.points[:, None] + u * faces.scale[:, None, :, None]
        res = batch['image'].shape[1]
        return {
            'points': to_pixels(faces.points, res),
            'sigma': faces.scale * (math.sqrt(2.0) * res),
            'samples': to_pixels(samples, res),
        }

    # -------------------------------------------------------------------------------- losses

    def damage(self, batch: Batch, key: jax.Array) -> Batch:
        """Some examples made to show no face at all, so that the net learns to say 'unknown'.

        A share of the holes is grown over the whole frame, a share of the photos is shuffled.
        """
        share = self.config.landmarks.unseen_share / 2
        key_u, key_s = jax.random.split(key)
        u = jax.random.uniform(key_u, (len(batch['image']), 1, 1, 1))
        image = jnp.where(u > 1 - share, shuffled_blocks(batch['image'], key_s), batch['image'])
        hole = jnp.where(u < share, 1.0, batch['hole'])
        return {**batch, 'image': image, 'hole': hole, 'masked': image * (1.0 - hole)}

    def truth(self, batch: Batch) -> jax.Array:
        """The batch's landmarks in sides of the frame."""
        return (batch['landmarks'] + 0.5) / batch['image'].shape[1]

    def point_loss(self, faces: Faces, truth: jax.Array) -> jax.Array:
        """(B,) mean over points of (|dx|+|dy|)/s + 2 log s: Laplace, with the point's own scale s.

        'l2norm' moves the points by the norm of the whole error instead, as LaFIn does.
        """
        error = jnp.abs(faces.points - truth)
        log_scale = jnp.log(faces.scale)
        if self.config.landmarks.loss == 'l2norm':
            norm = jnp.sqrt((error**2).sum((1, 2)) + 1e-8)
            # The scales learn from errors that they do not move.
            error = jax.lax.stop_gradient(error)
            return 10.0 * norm + (error.sum(-1) / faces.scale + 2 * log_scale).mean(-1)
        return (error.sum(-1) / faces.scale + 2 * log_scale).mean(-1)

    def shape_losses(self, nets: Nets, faces: Faces, truth: jax.Array) -> dict[str, jax.Array]:
        """Negative log-density (B,) of the truth a coordinate, in nats, by head.

        Of positions in sides of the frame, so that different nets compare; 'independent' is the
        predictor's own likelihood, point by point.
        """
        scale = jax.lax.stop_gradient(faces.scale)[..., None]
        u = (truth - jax.lax.stop_gradient(faces.points)) / scale
        u = u.reshape(-1, DIM)
        log_scale = 2 * jnp.log(scale).sum((1, 2))
        out = {'independent': jnp.abs(u).sum(-1) + DIM * math.log(2.0) + log_scale}
        for kind in self.config.landmarks.shapes:
            out[kind] = log_scale - nets[head(kind)](faces.context, u)
        return {name: x / DIM for name, x in out.items()}

    def loss(
        self, nets: Nets, batch: Batch, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Points and shapes together, over the faces whose landmarks are known."""
        known, truth = batch['has_landmarks'], self.truth(batch)
        faces = self.faces(nets, self.damage(batch, key), train=True)

        def mean(x: jax.Array) -> jax.Array:
            return (x * known).sum() / jnp.maximum(known.sum(), 1.0)

        points = mean(self.point_loss(faces, truth))
        shapes = {k: mean(x) for k, x in self.shape_losses(nets, faces, truth).items()}
        total = points + sum(x for k, x in shapes.items() if k != 'independent')
        error = jnp.linalg.norm(faces.points - truth, axis=-1).mean(-1)
        nll = {f'nll/{k}': x for k, x in shapes.items()}
        return total, {'points': points, 'error_px': mean(error) * batch['image'].shape[1], **nll}

    def stages(self) -> dict[str, tuple[Phase, ...]]:
        """All at once."""
        return {'landmarks': (Phase('points', tuple(self.nets()), self.loss),)}

    # ------------------------------------------------------------------------------- judging

    def score(
        self, nets: Nets, batch: Batch, predicted: dict[str, jax.Array]
    ) -> dict[str, jax.Array]:
        """(B,) each; NaN where there is nothing to measure.

        nme: mean distance over the eyes' distance, in per cent, of all, hidden and visible points.
        inside50 and so on: share of points within that region of the drawn shapes. nll/*: nats a
        coordinate. spread: deviation of the drawn shapes over the eyes' distance, in per cent.
        """
        truth, hidden = batch['landmarks'], inside(batch['landmarks'], batch['hole'])
        known = batch['has_landmarks'] > 0
        groups = {'': jnp.ones_like(hidden), '_hidden': hidden, '_visible': 1 - hidden}
        eyes = jnp.linalg.norm(truth[:, EYES[0]] - truth[:, EYES[1]], axis=-1)
        unit = jnp.where(known, 100.0 / jnp.maximum(eyes, 1e-3), jnp.nan)[:, None]
        error = jnp.linalg.norm(predicted['points'] - truth, axis=-1) * unit
        spread = jnp.sqrt(predicted['samples'].var(1).mean(-1)) * unit
        each = {'nme': error, 'spread': spread}
        if predicted['samples'].shape[1] >= 20:
            outer = quantile_of(truth, predicted['samples'])
            for level in LEVELS:
                within = jnp.where(known[:, None], outer <= level / 100, jnp.nan)
                each[f'inside{level}'] = 100 * within
        out = {}
        for name, values in each.items():
            for group, members in groups.items():
                count = members.sum(-1)
                total = jnp.where(members > 0, values, 0.0).sum(-1)
                out[name + group] = jnp.where(count > 0, total / jnp.maximum(count, 1), jnp.nan)
        faces = self.faces(nets, batch)
        for name, nll in self.shape_losses(nets, faces, self.truth(batch)).items():
            out[f'nll/{name}'] = jnp.where(known, nll, jnp.nan)
        return out

    def watch(self, nets: Nets, batch: Batch, key: jax.Array) -> dict[str, jax.Array]:
        """How sure the net is, in pixels, where it sees and where it does not."""
        faces = self.faces(nets, batch)
        res = batch['image'].shape[1]
        hidden = inside(to_pixels(faces.points, res), batch['hole'])
        sigma = faces.scale * (math.sqrt(2.0) * res)
        mean = {
            'hidden': (sigma * hidden).sum() / jnp.maximum(hidden.sum(), 1.0),
            'visible': (sigma * (1 - hidden)).sum() / jnp.maximum((1 - hidden).sum(), 1.0),
        }
        return {f'sigma_px/{name}': value for name, value in mean.items()} | {
            'sigma_px_by_point': sigma.mean(0)
        }


def quantile_of(truth: jax.Array, samples: jax.Array) -> jax.Array:
    """(B,68) share of the drawn points that lie nearer to their centre than the truth does.

    Distances by the covariance of the draws (Mahalanobis). Where the draws are right, the shares
    are uniform on [0,1]: a p % region holds the truth in p % of the cases. truth (B,68,2),
    samples (B,N,68,2).
    """
    mean = samples.mean(1, keepdims=True)
    away = jnp.concatenate([samples, truth[:, None]], axis=1) - mean
    x, y = away[..., 0], away[..., 1]
    drawn_x, drawn_y = x[:, :-1], y[:, :-1]
    xx, yy = (drawn_x**2).mean(1, keepdims=True), (drawn_y**2).mean(1, keepdims=True)
    xy = (drawn_x * drawn_y).mean(1, keepdims=True)
    det = jnp.maximum(xx * yy - xy**2, 1e-12)
    distance = (yy * x**2 - 2 * xy * x * y + xx * y**2) / det
    return (distance[:, :-1] < distance[:, -1:]).mean(1)


def head(kind: str) -> str:
    """The name of the net that models shapes so."""
    return f'shape_{kind}'


# ---------------------------------------------------------------------------------- pictures

_GREEN, _BLUE = (60, 220, 60), (70, 130, 255)
_TILE = 192


def draw_regions(image: np.ndarray, points: np.ndarray, samples: np.ndarray) -> np.ndarray:
    """The points of an image with the ellipses that hold 80 % of the drawn points (N,68,2)."""
    out, scale = pictures.with_face(image, points, _BLUE, _TILE), _TILE / image.shape[0]
    radius = math.sqrt(-2 * math.log(0.2))  # of a Gaussian in the plane
    for i in range(points.shape[0]):
        values, axes = np.linalg.eigh(np.cov(samples[:, i].T) + 1e-6 * np.eye(2))
        centre = (samples[:, i].mean(0) + 0.5) * scale - 0.5
        long, short = radius * scale * np.sqrt(values[::-1])
        angle = math.degrees(math.atan2(axes[1, 1], axes[0, 1]))
        box = (tuple(map(float, centre)), (2 * float(long), 2 * float(short)), angle)
        cv2.ellipse(out, box, pictures.RED, 1, cv2.LINE_AA)
    return out


def sheet(drawn: Mapping[str, np.ndarray]) -> np.ndarray:
    """One row a face: with hole; points and their regions; three shapes drawn; the truth."""
    damaged = pictures.with_hole(drawn['image'], drawn['hole'])
    rows = range(len(damaged))
    columns = {
        'input': [pictures.enlarged(damaged[i], _TILE) for i in rows],
        'points, 80 % regions': [
            draw_regions(damaged[i], drawn['points'][i], drawn['samples'][i]) for i in rows
        ],
    }
    for k in range(min(3, drawn['samples'].shape[1])):
        columns[f'shape {k}'] = [
            pictures.with_face(damaged[i], drawn['samples'][i, k], pictures.RED, _TILE)
            for i in rows
        ]
    columns['truth'] = [
        pictures.with_face(drawn['image'][i], drawn['landmarks'][i], _GREEN, _TILE)
        if drawn['has_landmarks'][i]
        else pictures.enlarged(drawn['image'][i], _TILE)
        for i in rows
    ]
    return pictures.grid(list(columns), [np.stack(c) for c in columns.values()], _TILE)


def make(config: Any) -> Method:
    """The method of a config; raises ValueError on an unknown switch."""
    options = config.landmarks
    for name, values, known in (
        ('net', [options.net], NETS),
        ('loss', [options.loss], LOSSES),
        ('shapes', list(options.shapes) or [()], SHAPES),
    ):
        if set(values) - set(known) or len(set(values)) < len(values):
            raise ValueError(f'config.landmarks.{name}={options[name]!r}: choose of {list(known)}')
    system = Landmarks(config)
    return Method(
        nets=system.nets(),
        inputs=system.inputs,
        stages=system.stages(),
        watch=system.watch,
        ema=tuple(system.nets()) if config.optim.ema_halflife_images > 0 else (),
        predictor=Predictor(system.predict, system.score, sheet),
    )
