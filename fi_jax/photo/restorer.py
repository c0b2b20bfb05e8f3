"""A person's own photo: `load` a network once, then complete the holes of any number of photos.

    import fi_jax
    restorer = fi_jax.load('runs/flow')                # a name, an exported file or a run folder
    result = restorer('photo.jpg', 'hole.png', num_samples=8, seed=0)
    result.images[0].save('completed.png')

White is missing, as in diffusers. Outside the hole every pixel of a result is the photo's own. What
is drawn inside is plausible, not the true face: it identifies nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from fi_jax import features, rng, sharding
from fi_jax import landmarks as lm
from fi_jax.input_pipeline import alignment
from fi_jax.methods import predicted_landmarks
from fi_jax.photo import blending, finding
from fi_jax.photo.reading import ImageLike, Photo, read_hole, read_photo
from fi_jax.photo.result import Crop, Part, Result, notes_of
from fi_jax.pretrained import Weights, open_weights, shipped
from fi_jax.run.folder import load_predictor
from fi_jax.state import bind_ema, example_batch

CHUNK = 4  # completions drawn at once: the one compiled size, whatever num_samples is
PREDICTED = 16  # crops whose landmarks are predicted at once
MAX_SAMPLES = 64
STREAMS = {'structure': 1, 'appearance': 2}  # of random numbers

Face = finding.Face
NoFaceFound = finding.NoFaceFound
Progress = Callable[[int, int], None]


class Restorer:
    """A network and its landmark predictor, loaded and compiled once; threads may share it.

    about: what is known of the weights (name, sha256, config, terms). res: the network's side.
    """

    def __init__(self, weights: Weights, predictor: Weights):
        name, config = weights.about['name'], weights.config
        if weights.method.sample is None:
            raise ValueError(f'weights={name}: draws no image; give one that does')
        predicted_landmarks.check_size(
            f'predictor={predictor.about["name"]}', predictor.config, config.res
        )
        self.config, self.about, self.res = config, weights.about, int(config.res)
        self._weights, self._predictor = weights, predictor
        self._points = jax.jit(self._predict)
        self._samplers = {
            guided: jax.jit(self._sample, compiler_options=sharding.compiler_options())
            for guided in (False, True)
        }

    # ------------------------------------------------------------------------------ questions

    def find(self, photo: ImageLike | Photo, hole: ImageLike | None = None) -> list[Face]:
        """The faces of a photo, the one that the hole is of first, then the larger before others.

        hole: as `__call__` takes it; None where nothing is missing. Empty where there is none.
        """
        photo = photo if isinstance(photo, Photo) else read_photo(photo)
        missing = np.zeros(photo.size, bool) if hole is None else read_hole(hole, photo)
        return finding.find(photo.pixels, missing, self.predict, self.res)

    def __call__(
        self,
        photo: ImageLike | Photo,
        hole: ImageLike,
        num_samples: int = 8,
        seed: int = 0,
        *,
        landmarks: np.ndarray | None = None,
        face: Face | Sequence[float] | None = None,
        structure: float = 1.0,
        appearance: float = 1.0,
        keep: int | None = None,
        guidance: float | None = None,
        steps: int | None = None,
        on_progress: Progress | None = None,
    ) -> Result:
        """Draws completions of the part of a photo that a hole hides.

        Sample k of a seed is the same alone or among others, bit for bit.

        Args:
            photo: PIL image, array (H,W[,C]) uint8 or uint16, or path; any size, mode and
                orientation.
            hole: the same, of the photo's size, white = missing; or 'alpha' or 'white', where the
                photo itself shows what is missing.
            num_samples: 1 to 64.
            seed: 0 to 2**32 - 1.
            landmarks: (68,2) photo pixels, the condition of all samples of one face; None:
                predicted. With a `face` of `find` as well, the crop stays that face's.
            face: one of `find`, or its box (left, top, right, bottom) in photo pixels, from brow to
                chin and ear to ear; None: the faces that the hole is of, each in turn.
            structure: how far the landmarks differ between samples; 0 all alike, 1 as drawn.
            appearance: how far all else differs; 0 all alike, 1 as drawn.
            keep: the sample of this seed that the others stay near to where structure or appearance
                is below 1; None: the most likely landmarks, and the appearance of sample 0.
            guidance: scale of classifier-free guidance; None: as the network's config says.
            steps: how many from noise to face; None: as the network's config says.
            on_progress: called with (samples done, num_samples) before the first and after each
                few; what it raises ends the call.

        Raises:
            NoFaceFound: no face near the hole; give `face` or `landmarks`.
            ValueError, TypeError, FileNotFoundError: an argument, named.
        """
        photo = photo if isinstance(photo, Photo) else read_photo(photo)
        missing = read_hole(hole, photo)
        _check(num_samples, seed, keep, structure=structure, appearance=appearance)
        self._check_settings(guidance, steps)
        faces = self._faces_of(photo, missing, landmarks, face)
        if len(faces) == 1:
            owner, order = np.where(missing, 0, -1), [0]
        else:
            owner, order = finding.owners(missing, faces)
        if guidance == self.config.guidance:
            guidance = None
        draw = self._samplers[guidance is not None]
        numbers = np.arange(num_samples, dtype=np.int32)
        # The kept sample is its own, however near the others are.
        share = np.where(numbers == (keep or 0), 1.0, appearance).astype(np.float32)
        parts: list[Part] = []
        for number, one in enumerate(order):
            crop = Crop(
                alignment.invert(alignment.to_canonical(faces[one].landmarks, self.res)), self.res
            )
            pixels, covered = blending.cut(photo.pixels, missing, crop.to_photo, self.res)
            if landmarks is None:
                points = self._shapes(pixels, covered, seed, number, num_samples, keep, structure)
            else:
                given = lm.validate(landmarks).astype(np.float32)
                points = np.stack([alignment.apply(crop.to_crop, given)] * num_samples)
            completed = []
            for first in range(0, num_samples, CHUNK):
                if on_progress:
                    on_progress(number * num_samples + first, len(order) * num_samples)
                rows = slice(first, first + CHUNK)
                batch = self._batch(
                    np.repeat(pixels[None], CHUNK, 0),
                    np.repeat(covered[None], CHUNK, 0),
                    _filled(points[rows], CHUNK),
                )
                if guidance is not None:
                    batch['guidance'] = np.full(CHUNK, guidance, np.float32)
                if 'steps' in self.config.sample:
                    batch['steps'] = np.array(steps or self.config.sample.steps, np.int32)
                which = _filled(numbers[rows], CHUNK), _filled(share[rows], CHUNK)
                stream = np.uint32(seed), np.uint32(number), np.int32(keep or 0)
                drawn = draw(self._weights.nets, batch, *stream, *which)
                completed.append(np.asarray(drawn)[: len(points[rows])])
            back = np.stack([alignment.apply(crop.to_photo, p) for p in points])
            parts.append(Part(faces[one], crop, owner == one, back, np.concatenate(completed)))
        if on_progress:
            on_progress(len(order) * num_samples, len(order) * num_samples)
        notes = notes_of(missing, parts)
        if face is None and landmarks is None and faces[0].score < finding.CLEAR:
            notes.append('where the face lies is not sure; give its box if it is another')
        return Result(photo, missing, seed, tuple(parts), (*photo.notes, *notes))

    # -------------------------------------------------------------------------------- answers

    def predict(self, images: np.ndarray, holes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Landmarks (N,68,2) and their deviations (N,68), in pixels of crops (N,res,res,3)."""
        points, sigma = [], []
        nets = self._predictor.nets
        none = np.zeros(PREDICTED, np.int32)  # the points depend on no draw
        for first in range(0, len(images), PREDICTED):
            rows = slice(first, first + PREDICTED)
            batch = self._batch(_filled(images[rows], PREDICTED), _filled(holes[rows], PREDICTED))
            out = self._points(nets, batch, np.uint32(0), np.uint32(0), none)
            points.append(np.asarray(out['points'])[: len(images[rows])])
            sigma.append(np.asarray(out['sigma'])[: len(images[rows])])
        return np.concatenate(points), np.concatenate(sigma)

    def _faces_of(
        self,
        photo: Photo,
        missing: np.ndarray,
        landmarks: np.ndarray | None,
        face: Face | Sequence[float] | None,
    ) -> list[Face]:
        """The faces to complete, by what the caller knows of them."""
        if isinstance(face, Face):
            return [_checked(face, photo)]
        if face is not None:
            start = [_checked(Face.of(finding.mean_face(face)), photo).landmarks]
            return finding.settle(photo.pixels, missing, start, self.predict, self.res)
        if landmarks is not None:
            return [_checked(Face.of(lm.validate(landmarks).astype(np.float32)), photo)]
        faces = finding.find(photo.pixels, missing, self.predict, self.res)
        if faces and not finding.owners(missing, faces)[1]:
            raise NoFaceFound(
                f'hole: it is of no face; the nearest has its box at {_rounded(faces[0].box)}. '
                'What is not of a face this network cannot draw'
            )
        if not faces:
            raise NoFaceFound(
                'photo: no face found; give its box, face=(left, top, right, bottom) in photo '
                'pixels, from brow to chin and ear to ear'
            )
        return [faces[i] for i in finding.owners(missing, faces)[1]]

    def _shapes(
        self,
        pixels: np.ndarray,
        covered: np.ndarray,
        seed: int,
        number: int,
        num_samples: int,
        keep: int | None,
        structure: float,
    ) -> np.ndarray:
        """Landmarks (N,68,2) of the crop, the condition of each sample."""
        nets = self._predictor.nets
        numbers = np.arange(num_samples, dtype=np.int32)
        numbers = numbers if keep is None else np.append(numbers, np.int32(keep))
        drawn, likely = [], np.zeros(0)
        for first in range(0, len(numbers), PREDICTED):
            rows = numbers[first : first + PREDICTED]
            batch = self._batch(
                np.repeat(pixels[None], PREDICTED, 0), np.repeat(covered[None], PREDICTED, 0)
            )
            stream = np.uint32(seed), np.uint32(number)
            out = self._points(nets, batch, *stream, _filled(rows, PREDICTED))
            drawn.append(np.asarray(out['samples'])[: len(rows), 0])
            likely = np.asarray(out['points'])[0]
        # A point that the photo shows stays where it is seen; draws are of what is hidden.
        shapes = likely + _hidden(likely, covered) * (np.concatenate(drawn) - likely)
        centre = likely if keep is None else shapes[num_samples]
        return centre + np.float32(structure) * (shapes[:num_samples] - centre)

    def _batch(
        self, images: np.ndarray, holes: np.ndarray, points: np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        """Crops as a batch of the pipeline, with landmarks where they are given."""
        batch = example_batch(self.res, len(images))
        batch |= {'image': images, 'hole': holes[..., None].astype(np.uint8)}
        if points is not None:
            batch |= {'landmarks': points.astype(np.float32), 'has_landmarks': batch['weight']}
        return batch

    def _predict(
        self, nets: Any, batch: features.Batch, seed: jax.Array, face: jax.Array, numbers: jax.Array
    ) -> dict[str, jax.Array]:
        method = self._predictor.method
        assert method.predictor is not None
        keys = _keys(seed, face, 'structure', numbers)[:, None]
        return method.predictor.predict(bind_ema(method, nets), features.prepare(batch), keys)

    def _sample(
        self, nets: Any, batch: features.Batch, seed: jax.Array, face: jax.Array,
        keep: jax.Array, numbers: jax.Array, share: jax.Array,
    ) -> jax.Array:  # fmt: skip
        """The samples of these numbers (CHUNK,), as uint8 (CHUNK,res,res,3)."""
        own = _keys(seed, face, 'appearance', numbers)
        kept = _keys(seed, face, 'appearance', jnp.full_like(numbers, keep))
        method = self._weights.method
        assert method.sample is not None
        keys = rng.Mixed(own, kept, share)
        out = method.sample(bind_ema(method, nets), features.prepare(batch), keys)
        return features.to_uint8(out['image'])

    def _check_settings(self, guidance: float | None, steps: int | None) -> None:
        if guidance is not None and not 0 <= guidance <= 10:
            raise ValueError(f'guidance={guidance}: choose 0 to 10')
        if steps is not None and not 1 <= steps <= 1000:
            raise ValueError(f'steps={steps}: choose 1 to 1000')
        if steps is not None and 'steps' not in self.config.sample:
            raise ValueError(f'steps={steps}: {self.config.method} draws in one; leave it')


def load(source: str | Path = '', predictor: str | Path = '') -> Restorer:
    """A restorer of exported weights, by their name or file, or of a run folder.

    source: '' takes the first of the weights that come with the package. predictor: the run or file
    of a landmark predictor; '' takes the one inside the file, else the one that the run's config
    names. Raises FileNotFoundError or ValueError that name what is not there or does not fit.
    """
    if not source and not shipped.SHIPPED:
        raise ValueError('weights: none come with this package; give a file of weights or a run')
    source = source or next(iter(shipped.SHIPPED))
    # Here the caller predicts the landmarks, draws their shapes and moves them.
    weights = open_weights(source, ConfigDict({'landmark_source': 'user'}), field='weights')
    reader = weights.predictor
    if predictor or reader is None:
        reader = load_predictor(str(predictor or weights.config.predictor), 'predictor')
    return Restorer(weights, reader)


def _check(num_samples: int, seed: int, keep: int | None, **amounts: float) -> None:
    """ValueError that names the argument out of its range."""
    if not 1 <= num_samples <= MAX_SAMPLES:
        raise ValueError(f'num_samples={num_samples}: choose 1 to {MAX_SAMPLES}')
    if not 0 <= seed < 2**32:
        raise ValueError(f'seed={seed}: choose 0 to {2**32 - 1}')
    if keep is not None and not 0 <= keep < MAX_SAMPLES:
        raise ValueError(f'keep={keep}: choose a sample, 0 to {MAX_SAMPLES - 1}')
    for name, value in amounts.items():
        if not 0 <= value <= 1:
            raise ValueError(f'{name}={value}: choose 0 to 1')


def _checked(face: Face, photo: Photo) -> Face:
    """The face, if its square is of a size and place that a photo can have; else ValueError."""
    x, y, side = face.square
    height, width = photo.size
    if not side > 2:
        raise ValueError('landmarks: they lie on one spot, which is no face')
    if side > 4 * max(height, width) or not (
        -side < x < width + side and -side < y < height + side
    ):
        raise ValueError(
            f'face: its square, of side {side:.0f} at {x:.0f},{y:.0f}, is beyond the photo'
        )
    return face


def _rounded(box: Sequence[float]) -> tuple[int, ...]:
    return tuple(round(x) for x in box)


def _hidden(points: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """How far each point (68,2) lies in a hole (H,W): 0 to 1, softly at its border; (68,1)."""
    soft = cv2.GaussianBlur(hole.astype(np.float32), (0, 0), max(hole.shape) / 32)
    x, y = np.round(points).astype(int).T
    return soft[y.clip(0, soft.shape[0] - 1), x.clip(0, soft.shape[1] - 1), None]


def _keys(seed: jax.Array, face: jax.Array, stream: str, numbers: jax.Array) -> jax.Array:
    """Keys (N,); each depends on (seed, which face, stream, number) alone."""
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), face), STREAMS[stream])
    return jax.vmap(lambda k: jax.random.fold_in(key, k))(numbers)


def _filled(rows: np.ndarray, length: int) -> np.ndarray:
    """Rows with the last repeated up to a length."""
    return np.concatenate([rows, np.repeat(rows[-1:], length - len(rows), 0)])
