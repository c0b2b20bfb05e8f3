"""The metrics of an evaluation by name: of each example, and of a whole set of examples.

`image` and `seam` need nothing; the others need published weights, a landmark detector or the
training faces, and are noted as skipped without them.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from fi_jax.metrics import (
    distribution,
    diversity,
    feature_networks,
    identity,
    image,
    landmarks,
    perceptual,
)
from fi_jax.metrics.bootstrap import Estimate
from fi_jax.metrics.distribution import Gaussian, Sample

# (weights, samples (B,N,H,W,3), batch) -> name -> (B,). The batch has image (B,H,W,3), hole
# (B,H,W,1) and, where they are known, landmarks (B,68,2) and has_landmarks (B,); images 0..255.
Batch = Mapping[str, jax.Array]
Score = Callable[[Any, jax.Array, Batch], dict[str, jax.Array]]
CUT_OUT = 'dlib_face'  # of the features, those that see aligned faces
FACE_NAMES = ('landmarks', 'identity', 'memorisation')
EXAMPLE_NAMES: tuple[str, ...] = ('image', 'seam', 'ms_ssim', *FACE_NAMES, *perceptual.NAMES)
NAMES: tuple[str, ...] = (*EXAMPLE_NAMES, *feature_networks.NAMES)


def chosen(wanted: str) -> tuple[str, ...]:
    """The names of 'all', or of a list with commas; ValueError where one is unknown."""
    names = NAMES if wanted == 'all' else tuple(filter(None, wanted.replace(' ', '').split(',')))
    if unknown := sorted(set(names) - set(NAMES)):
        raise ValueError(
            f'eval.metrics: {", ".join(unknown)} unknown; expected all, or some of '
            f'{", ".join(NAMES)}'
        )
    return names


@flax.struct.dataclass(eq=False)  # hashed as it is, for jit
class LandmarkDetector:
    """A frozen landmark detector: images (B,H,W,3) in 0..255 -> points (B,68,2); a pytree.

    Points are in pixels of the images. find(weights, x) sees the centred square, resized to
    (B,res,res,3) where it has another size, and answers in pixels of that.
    """

    weights: Any
    find: Callable[[Any, jax.Array], jax.Array] = flax.struct.field(pytree_node=False)
    res: int = flax.struct.field(pytree_node=False)

    def __call__(self, images: jax.Array) -> jax.Array:
        height, width = images.shape[1:3]
        side = min(height, width)
        left, top = (width - side) // 2, (height - side) // 2
        square = jnp.asarray(images, jnp.float32)[:, top : top + side, left : left + side]
        if side != self.res:
            shape = (len(square), self.res, self.res, square.shape[-1])
            square = jnp.clip(jax.image.resize(square, shape, 'cubic'), 0, 255)
        points = (self.find(self.weights, square) + 0.5) * (side / self.res) - 0.5
        return points + jnp.array([left, top], jnp.float32)[None, None]


@flax.struct.dataclass(eq=False)
class ReferenceSet:
    """Faces of the training set as features see them, rows (M,D); a pytree."""

    features: feature_networks.Features
    rows: jax.Array


def describe(
    features: feature_networks.Features, images: jax.Array, points: jax.Array
) -> jax.Array:
    """Features of faces (B,H,W,3) -> (B,D); CUT_OUT sees them cut out by their points (B,68,2)."""
    return features(identity.chips(images, points) if features.name == CUT_OUT else images)


def face_evaluators(
    wanted: str,
    located: bool,
    skipped: dict[str, str],
    landmark_detector: LandmarkDetector | None = None,
    reference: ReferenceSet | None = None,
) -> dict[str, Any]:
    """What sees faces, by the metric of FACE_NAMES: a detector, dlib's features, a reference set.

    located: whether landmarks are known. What cannot be had is noted in skipped, with the reason.
    """
    found: dict[str, Any] = {
        'landmarks': landmark_detector,
        'identity': None,
        'memorisation': reference,
    }
    if 'identity' in chosen(wanted):
        if located or landmark_detector is not None:
            try:
                found['identity'] = feature_networks.make_features(CUT_OUT)
            except LookupError as error:
                skipped['identity'] = str(error)
        else:
            skipped['identity'] = (
                'no landmarks are known for these images, and they say where the face is; name '
                'them in config.data.landmarks, or a detector in config.eval.landmark_detector'
            )
    return {k: x for k, x in found.items() if k in chosen(wanted) and x is not None}


def of_photos(evaluators: Mapping[str, Any], batch: Batch) -> dict[str, jax.Array]:
    """The batch with what the evaluators of faces see of its originals, once for all rows.

    `landmarks` as the detector finds them, where the batch has none, and `descriptor` (B,D).
    """
    out = dict(batch)
    if 'landmarks' not in batch and 'landmarks' in evaluators:
        out['landmarks'] = evaluators['landmarks'](batch['image'])
        out['has_landmarks'] = jnp.ones(len(batch['image']))
    if (features := _cut_out(evaluators)) is not None:
        out['descriptor'] = describe(features, batch['image'], out['landmarks'])
    return out


def _cut_out(evaluators: Mapping[str, Any]) -> feature_networks.Features | None:
    reference = evaluators.get('memorisation')
    features = None if reference is None else reference.features
    aligned = features if features is not None and features.name == CUT_OUT else None
    return evaluators.get('identity', aligned)


def example_metrics(
    wanted: str, side: int, skipped: dict[str, str], evaluators: Mapping[str, Any] | None = None
) -> dict[str, tuple[Score, Any]]:
    """Name -> (score, weights) of the metrics of single examples; `image` is always there.

    side: of the images, pixels. The evaluators of faces are one score under their joint name, as
    they share what they see; they need batches of `of_photos`. What cannot be had is noted in
    skipped, with the reason. Raises ValueError on an unknown name.
    """
    found: dict[str, tuple[Score, Any]] = {'image': (_image, None)}
    for name in chosen(wanted):
        if name == 'seam':
            found[name] = _seam, None
        elif name == 'ms_ssim':
            if side >= image.MS_SSIM_SIDE:
                found[name] = _ms_ssim, None
            elif wanted != 'all':
                skipped[name] = f'needs sides of {image.MS_SSIM_SIDE} pixels; these have {side}'
        elif name in perceptual.NAMES:
            try:
                found[name] = _perceptual, perceptual.make_distance(name)
            except LookupError as error:
                skipped[name] = str(error)
    return found | ({', '.join(evaluators): (_faces, dict(evaluators))} if evaluators else {})


def _image(_: None, samples: jax.Array, batch: Batch) -> dict[str, jax.Array]:
    return image.score(samples, batch['image'], batch['hole'])


def _seam(_: None, samples: jax.Array, batch: Batch) -> dict[str, jax.Array]:
    each = jax.lax.map(lambda x: image.seam(x, batch['hole']), jnp.moveaxis(samples, 1, 0))
    return {'seam': each.mean(axis=0)}


def _ms_ssim(_: None, samples: jax.Array, batch: Batch) -> dict[str, jax.Array]:
    each = jax.lax.map(lambda x: image.ms_ssim(x, batch['image']), jnp.moveaxis(samples, 1, 0))
    return {'ms_ssim/mean': each.mean(axis=0), 'ms_ssim/best': each.max(axis=0)}


def _perceptual(
    distance: perceptual.Distance, samples: jax.Array, batch: Batch
) -> dict[str, jax.Array]:
    return diversity.score(distance, samples, batch['image'], batch['hole'])


def _faces(evaluators: Mapping[str, Any], samples: jax.Array, batch: Batch) -> dict[str, jax.Array]:
    """Structure, likeness, the diversity of samples that keep both, and the nearest training face.

    Faces are cut out by the photo's landmarks; NaN where those are not known.
    """
    of_samples = jnp.moveaxis(samples, 1, 0)
    known = batch['has_landmarks'] > 0
    found: dict[str, jax.Array] = {}
    error = away = each = None
    if 'landmarks' in evaluators:
        at = jnp.moveaxis(jax.lax.map(evaluators['landmarks'], of_samples), 0, 1)  # (B,N,68,2)
        found |= landmarks.score(at, batch['landmarks'], batch['hole'])
        error = landmarks.error(at, batch['landmarks'][:, None])
        found['landmark_passed'] = diversity.gate(error).mean(axis=1)
    if 'identity' in evaluators:

        def described(images: jax.Array) -> jax.Array:
            return describe(evaluators['identity'], images, batch['landmarks'])

        each = jnp.moveaxis(jax.lax.map(described, of_samples), 0, 1)  # (B,N,D)
        found |= identity.score(each, batch['descriptor'])
        away = identity.distance(each, batch['descriptor'][:, None])
        found['identity_passed'] = diversity.gate(face_distance=away).mean(axis=1)
    if error is not None or away is not None:
        passed = diversity.gate(error, away)
        found['passed'] = passed.mean(axis=1)
        if samples.shape[1] > 1:
            first, second = diversity.pairs(samples.shape[1]).T

            def apart(ij: jax.Array) -> jax.Array:
                a, b = samples[:, ij[0]], samples[:, ij[1]]
                return image.l1_hole(a, b, batch['hole']) / 127.5

            of_pairs = jax.lax.map(apart, jnp.stack([first, second], axis=1)).T
            found['pair_distance_hole_passed'] = diversity.at_quality(of_pairs, passed)
    if 'memorisation' in evaluators:
        reference = evaluators['memorisation']
        see = reference.features
        name = train_distance(see.name)
        if see.name != CUT_OUT:  # features of the whole frame, which need no landmarks
            seen = {name: see(samples[:, 0]), _photo(name): see(batch['image'])}
            near = {key: identity.nearest(x, reference.rows) for key, x in seen.items()}
            return {k: jnp.where(known, x, jnp.nan) for k, x in found.items()} | near
        first_one = describe(see, samples[:, 0], batch['landmarks'])
        found[name] = identity.nearest(first_one if each is None else each[:, 0], reference.rows)
        found[_photo(name)] = identity.nearest(batch['descriptor'], reference.rows)
    return {name: jnp.where(known, values, jnp.nan) for name, values in found.items()}


def _photo(name: str) -> str:
    return f'{name}/photo'


def train_distance(features: str) -> str:
    """The name of the distance to the nearest training face; with '/photo' that of the original."""
    return f'train_distance_{features}'


@dataclasses.dataclass
class Gathered:
    """What is kept of the features of one set, however many images pass."""

    gaussian: Gaussian
    sample: Sample


class SetMetric:
    """Distances of sets of completions to the set of the originals, by one feature network.

    The first sample of each image stands for it, so that both sets are equally large.
    """

    def __init__(self, features: feature_networks.Features):
        self.features = features
        self._sets: dict[str, Gathered] = {}

    def add(self, which: str, features: Any, index: np.ndarray, weight: np.ndarray) -> None:
        """A batch (B,D) of the set `which`; '' is the set of originals."""
        if which not in self._sets:
            dimension = self.features.dimension
            self._sets[which] = Gathered(Gaussian.init(dimension), Sample.init(dimension))
        kept = self._sets[which]
        kept.gaussian = kept.gaussian.update(features, weight)
        kept.sample = kept.sample.update(features, index, weight)

    def compute(self, which: str, skipped: dict[str, str]) -> dict[str, Estimate]:
        """Metric -> value of a set, with interval; what it is too small for is put in skipped."""
        real, fake = self._sets[''], self._sets[which]
        count = min(real.gaussian.count, fake.gaussian.count)
        subset = min(1000, count // 2)
        name = self.features.frechet_name
        short = name.removeprefix('FD-')
        a, b = distribution.paired(real.sample, fake.sample)
        wanted: dict[tuple[str, ...], Callable[[], Any]] = {
            (name,): lambda: [distribution.frechet_estimate(real.gaussian, fake.gaussian, a, b)],
            (name.replace('FID', 'KID').replace('FD-', 'KD-'),): lambda: [
                distribution.kid_estimate(a, b, subset_size=max(subset, 2))
            ],
            tuple(f'{kind} {short}' for kind in ('precision', 'recall', 'density', 'coverage')): (
                lambda: distribution.neighbour_estimates(a, b)
            ),
            (f'P-IDS {short}', f'U-IDS {short}'): lambda: distribution.pids_uids_estimates(a, b),
        }
        if not self.features.arrays:
            # Pixels are no unit for a polynomial kernel: its values would be without meaning.
            wanted = {names: f for names, f in wanted.items() if not names[0].startswith('KD-')}
        found: dict[str, Estimate] = {}
        for names, compute in wanted.items():
            titles = [f'{title}, N = {count}' for title in names]
            try:
                found |= dict(zip(titles, compute(), strict=True))
            except ValueError as error:
                skipped[' and '.join(titles)] = str(error)
        return found


def set_metrics(wanted: str, skipped: dict[str, str]) -> dict[str, SetMetric]:
    """Name -> metrics of whole sets, of the feature networks whose weights are there."""
    found = {}
    for name in chosen(wanted):
        if name in feature_networks.NAMES:
            try:
                found[name] = SetMetric(feature_networks.make_features(name))
            except LookupError as error:
                skipped[name] = str(error)
    return found
