"""The metrics of an evaluation by name: of each example, and of a whole set of examples.

`image` needs nothing; the others need published weights, and are noted as skipped without them.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fi_jax.metrics import distribution, diversity, identity, image, perceptual
from fi_jax.metrics.distribution import Gaussian, Sample

# (weights, samples (B,N,H,W,3), batch) -> name -> (B,). The batch has image (B,H,W,3), hole
# (B,H,W,1) and, where they are known, landmarks (B,68,2) and has_landmarks (B,); images 0..255.
Batch = Mapping[str, jax.Array]
Score = Callable[[Any, jax.Array, Batch], dict[str, jax.Array]]
EXAMPLE_NAMES: tuple[str, ...] = ('image', 'seam', 'ms_ssim', 'identity', *perceptual.NAMES)
NAMES: tuple[str, ...] = (*EXAMPLE_NAMES, *distribution.NAMES)


def chosen(wanted: str) -> tuple[str, ...]:
    """The names of 'all', or of a list with commas; ValueError where one is unknown."""
    names = NAMES if wanted == 'all' else tuple(filter(None, wanted.replace(' ', '').split(',')))
    if unknown := sorted(set(names) - set(NAMES)):
        raise ValueError(
            f'eval.metrics: {", ".join(unknown)} unknown; expected all, or some of '
            f'{", ".join(NAMES)}'
        )
    return names


def example_metrics(
    wanted: str, side: int, landmarks: bool, skipped: dict[str, str]
) -> dict[str, tuple[Score, Any]]:
    """Name -> (score, weights) of the metrics of single examples; `image` is always there.

    side: of the images, pixels; landmarks: whether any are known. What cannot be had is noted in
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
        elif name == 'identity' and not landmarks:
            skipped[name] = 'no landmarks are known for these images; they say where the face is'
        elif name in EXAMPLE_NAMES[3:]:
            try:
                if name == 'identity':
                    found[name] = _identity, distribution.make_features('dlib_face')
                else:
                    found[name] = _perceptual, perceptual.make_distance(name)
            except LookupError as error:
                skipped[name] = str(error)
    return found


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


def _identity(
    features: distribution.Features, samples: jax.Array, batch: Batch
) -> dict[str, jax.Array]:
    """Likeness of the face, and the diversity of the samples that are still the person's.

    Both are cut out by the photo's landmarks; NaN where those are not known.
    """

    def describe(images: jax.Array) -> jax.Array:
        return features(identity.chips(images, batch['landmarks']))

    each = jnp.moveaxis(jax.lax.map(describe, jnp.moveaxis(samples, 1, 0)), 0, 1)  # (B,N,D)
    truth = describe(batch['image'])
    found = identity.score(each, truth)
    passed = diversity.gate(face_distance=identity.distance(each, truth[:, None]))
    found['identity_passed'] = passed.mean(axis=1)
    if samples.shape[1] > 1:
        first, second = diversity.pairs(samples.shape[1]).T

        def apart(ij: jax.Array) -> jax.Array:
            return image.l1_hole(samples[:, ij[0]], samples[:, ij[1]], batch['hole']) / 127.5

        of_pairs = jax.lax.map(apart, jnp.stack([first, second], axis=1)).T
        found['pair_distance_hole_passed'] = diversity.at_quality(of_pairs, passed)
    known = batch['has_landmarks'] > 0
    return {name: jnp.where(known, values, jnp.nan) for name, values in found.items()}


@dataclasses.dataclass
class Gathered:
    """What is kept of the features of one set, however many images pass."""

    gaussian: Gaussian
    sample: Sample


class SetMetric:
    """Distances of sets of completions to the set of the originals, by one feature network.

    The first sample of each image stands for it, so that both sets are equally large.
    """

    def __init__(self, features: distribution.Features):
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

    def compute(self, which: str, skipped: dict[str, str]) -> dict[str, float]:
        """Metric -> value for a set; what the set is too small for is noted in skipped."""
        real, fake = self._sets[''], self._sets[which]
        count = min(real.gaussian.count, fake.gaussian.count)
        subset = min(1000, count // 2)
        name = self.features.frechet_name
        short = name.removeprefix('FD-')
        a, b = real.sample.rows, fake.sample.rows
        wanted: dict[tuple[str, ...], Callable[[], Any]] = {
            (name,): lambda: [distribution.frechet(real.gaussian, fake.gaussian)],
            (name.replace('FID', 'KID').replace('FD-', 'KD-'),): lambda: [
                distribution.kid(a, b, subset_size=max(subset, 2))[0]
            ],
            (f'precision {short}', f'recall {short}'): lambda: distribution.precision_recall(a, b),
            (f'density {short}', f'coverage {short}'): lambda: distribution.density_coverage(a, b),
            (f'P-IDS {short}', f'U-IDS {short}'): lambda: distribution.pids_uids(a, b),
        }
        if not self.features.arrays:
            # Pixels are no unit for a polynomial kernel: its values would be without meaning.
            wanted = {names: f for names, f in wanted.items() if not names[0].startswith('KD-')}
        found: dict[str, float] = {}
        for names, compute in wanted.items():
            titles = [f'{title}, N = {count}' for title in names]
            try:
                found |= dict(zip(titles, map(float, compute()), strict=True))
            except ValueError as error:
                skipped[' and '.join(titles)] = str(error)
        return found


def set_metrics(wanted: str, skipped: dict[str, str]) -> dict[str, SetMetric]:
    """Name -> metrics of whole sets, of the feature networks whose weights are there."""
    found = {}
    for name in chosen(wanted):
        if name in distribution.NAMES:
            try:
                found[name] = SetMetric(distribution.make_features(name))
            except LookupError as error:
                skipped[name] = str(error)
    return found
