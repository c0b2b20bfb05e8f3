"""From records to batches: crop, flip, hole, face maps; grain for order, threads and position.

A batch is a dict of numpy arrays, images and maps as uint8: image (B,H,W,3) in 0..255; hole,
face_mask, landmark_map (B,H,W,1) in {0,1}; landmarks (B,68,2) in pixels of the crop; has_landmarks
(B,), hole_kind (B,) an index into `holes.KINDS`, index (B,) of the image in its split, and weight
(B,), 0 for the rows that only fill the last batch of an evaluation. Where config.data.labels asks
for K attributes: attributes (B,K) as they are listed, and has_attributes (B,K), 0 where unknown.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import grain.python as grain
import numpy as np
from absl import logging

from fi_jax import landmarks as lm
from fi_jax.input_pipeline import augment, holes
from fi_jax.input_pipeline.records import BadImage, Record, Source, decode

Example = dict[str, Any]  # of arrays and numpy scalars


class Tolerant:
    """A source whose undecodable images are replaced by their neighbour, counted and named.

    Indexing gives (index, record) with the image decoded. Raises BadImage beyond the allowed share.
    """

    def __init__(self, source: Source, max_bad_share: float):
        self.records = source
        self._allowed = int(max_bad_share * len(source))
        self._lock = threading.Lock()
        self.bad: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[int, Record, np.ndarray]:
        for shift in range(len(self)):
            at = (index + shift) % len(self)
            if at not in self.bad:
                try:
                    record = self.records[at]
                    return index, record, decode(record.image, record.name)
                except BadImage as error:
                    self._note(at, error)
        raise BadImage(f'none of {len(self)} images can be decoded; the first: {self.bad[0]}')

    def _note(self, index: int, error: BadImage) -> None:
        with self._lock:
            if index not in self.bad:
                self.bad[index] = str(error)
                logging.warning('bad image %d: %s', len(self.bad), error)
            if len(self.bad) > self._allowed:
                raise BadImage(
                    f'{error}. That makes {len(self.bad)} bad of {len(self)} images and '
                    f'{self._allowed} are allowed; remove them or raise data.max_bad_share'
                ) from error


def square(
    image: np.ndarray,
    points: np.ndarray | None,
    res: int,
    frame: tuple[int, int, int] | None = None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """A square of an image (H,W,3), resized to res, and its landmarks with it.

    frame: as of `frame_of`; beyond the image its edge is repeated.
    """
    height, width = image.shape[:2]
    left, top, side = frame or frame_of((height, width))
    beyond = max(-left, -top, left + side - width, top + side - height)
    if beyond > 0:
        image = cv2.copyMakeBorder(image, *(beyond,) * 4, cv2.BORDER_REPLICATE)
    start = max(beyond, 0)
    rows, columns = (slice(start + first, start + first + side) for first in (top, left))
    image = image[rows, columns]
    if side != res:
        how = cv2.INTER_AREA if side > res else cv2.INTER_CUBIC
        image = cv2.resize(image, (res, res), interpolation=how)
    if points is not None:
        offset = np.array([left, top], np.float32)
        points = ((points - offset + 0.5) * (res / side) - 0.5).astype(np.float32)
    return image, points


def frame_of(
    size: tuple[int, ...],
    frame: np.ndarray | None = None,
    rng: np.random.Generator | None = None,
) -> tuple[int, int, int]:
    """Left, top and side, in pixels, of the square cut of a stored image of a size (H,W).

    frame: `Record.frame`. Of two frames one between them is drawn; without rng the first stands.
    """
    height, width = size
    if frame is None:
        side = min(height, width)
        return (width - side) // 2, (height - side) // 2, side
    frames = np.atleast_2d(frame)
    chosen = frames[0]
    if rng is not None and len(frames) > 1:
        chosen = chosen + rng.random() * (frames[1] - frames[0])
    left, top, side = np.rint(chosen * (width if chosen[2] <= 1 else 1)).astype(int).tolist()
    return left, top, side


def unsquare(points: np.ndarray, frame: np.ndarray, res: int) -> np.ndarray:
    """Points (...,2) of the crop back in pixels of the stored image; frame as of `frame_of`."""
    left, top, side = (float(v) for v in frame)
    corner = np.array([left, top], np.float32)
    return ((points + 0.5) * (side / res) - 0.5 + corner).astype(np.float32)


def mirror(image: np.ndarray, points: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Image and landmarks flipped left to right, the points renumbered."""
    flipped = None if points is None else lm.flip(points, image.shape[1])
    return np.ascontiguousarray(image[:, ::-1]), flipped


def face_maps(points: np.ndarray | None, res: int, hull: str) -> Example:
    """Landmarks and the maps drawn from them; zeros where there are none."""
    if points is None:
        blank = np.zeros((res, res, 1), np.uint8)
        points, landmark_map, face_mask, known = np.zeros((68, 2), np.float32), blank, blank, False
    else:
        landmark_map = lm.draw_points(points, (res, res))
        face_mask = lm.draw_hull(points, (res, res), extended=hull == 'extended')
        known = True
    return {
        'landmarks': points,
        'has_landmarks': np.float32(known),
        'landmark_map': landmark_map,
        'face_mask': face_mask,
    }


def attributes_of(record: Record, labels: Sequence[str]) -> Example:
    """The attributes of a face that were asked for, and which of them are known; (K,) each."""
    if not labels:
        return {}
    known = record.attributes or {}
    return {
        'attributes': np.array([known.get(label, 0) for label in labels], np.float32),
        'has_attributes': np.array([label in known for label in labels], np.float32),
    }


def labels_of(source: Source, config: Any) -> tuple[str, ...]:
    """The attributes that config.data.labels asks for.

    Raises ValueError where none of a sample of images has one of them.
    """
    labels = tuple(filter(None, config.data.labels.split(',')))
    if labels:
        places = np.linspace(0, len(source) - 1, min(256, len(source))).astype(int)
        found = {label for i in places.tolist() for label in source[i].attributes or ()}
        if missing := [label for label in labels if label not in found]:
            raise ValueError(
                f'config.data.labels={config.data.labels}: no image has {missing[0]!r}; there are '
                f'{sorted(found) or "none: set config.data.attributes"}'
            )
    return labels


def _finish(
    index: int,
    image: np.ndarray,
    points: np.ndarray | None,
    hole: tuple[np.ndarray, int],
    hull: str,
    weight: float = 1.0,
) -> Example:
    return {
        'image': image,
        'hole': hole[0],
        'hole_kind': np.int32(hole[1]),
        'index': np.int32(index),
        'weight': np.float32(weight),
        **face_maps(points, image.shape[0], hull),
    }


class TrainExample:
    """(index, record, pixels) and a generator -> an example with a random flip and hole."""

    def __init__(self, config: Any, labels: Sequence[str] = ()):
        self._labels = labels
        self._res, self._flip, self._hull = config.res, config.data.flip, config.data.hull
        self._weights = config.data.holes.to_dict()
        self._bent_weights = config.data.bent_holes.to_dict()
        self._augment = augment.Augment(config.data.augment)

    def __call__(self, item: tuple[int, Record, np.ndarray], rng: np.random.Generator) -> Example:
        index, record, pixels = item
        frame = None
        if record.frame is not None:
            frame = frame_of(pixels.shape[:2], record.frame, rng)
        if self._augment.moves(rng):
            image, points = self._augment.move(pixels, record.landmarks, self._res, rng, frame)
        else:
            image, points = square(pixels, record.landmarks, self._res, frame)
        if rng.random() < 0.5 and self._flip:
            image, points = mirror(image, points)
        weights = self._weights
        if points is not None and self._augment.bends(rng):
            move = augment.expression(points, rng)
            image, points = augment.bend(image, points, move)
            weights = self._bent_weights
        hole = holes.draw_mixture(weights, rng, image.shape[:2], points)
        image = self._augment.recolour(image, rng)
        example = _finish(index, image, points, hole, self._hull)
        return example | attributes_of(record, self._labels)


class EvalExamples:
    """The examples of an evaluation: no flip, the hole fixed by (seed, index).

    kind: one of `holes.KINDS`, or 'mixture' for the weights of training. Past the end, up to
    `padded`, the first example repeats with weight 0; what stands in for an undecodable image has
    weight 0 too. With frames, an example also tells its `frame` (3,) in the stored image: see
    `frame_of`. max_bad_share: config.data.max_bad_share.
    """

    def __init__(
        self,
        source: Source,
        config: Any,
        kind: str,
        limit: int,
        multiple: int,
        frames: bool = False,
        max_bad_share: float | None = None,
    ):
        share = config.data.max_bad_share if max_bad_share is None else max_bad_share
        self._data = Tolerant(source, share)
        self._res, self._seed, self._hull = config.res, config.seed, config.data.hull
        self._labels = labels_of(source, config)
        self._kind = config.data.holes.to_dict() if kind == 'mixture' else kind
        self._frames = frames
        self.count = min(limit, len(source)) if limit else len(source)
        self._padded = -(-self.count // multiple) * multiple

    @property
    def bad(self) -> dict[int, str]:
        """Index -> reason, of the images met so far that cannot be decoded."""
        return self._data.bad

    def __len__(self) -> int:
        return self._padded

    def __getitem__(self, position: int) -> Example:
        real = position < self.count
        index, record, pixels = self._data[position if real else 0]
        real = real and index not in self.bad
        frame = frame_of(pixels.shape[:2], record.frame)
        image, points = square(pixels, record.landmarks, self._res, frame)
        hole = holes.fixed(self._seed, index, self._kind, image.shape[:2], points)
        example = _finish(index, image, points, hole, self._hull, float(real))
        example |= attributes_of(record, self._labels)
        if self._frames:
            example['frame'] = np.array(frame, np.float32)
        return example


def train_iterator(
    source: Tolerant, config: Any, process_index: int = 0, process_count: int = 1
) -> grain.DatasetIterator:
    """Endless batches of this host's share; the position is one number, equal to the step.

    Shuffle, random draws and repeat come before the cut by host, so that the global batches are
    the same for any number of hosts. Raises ValueError where the batch does not divide by it.
    """
    rows = _rows(config.batch_size, 'batch_size', process_count)
    cv2.setNumThreads(0)  # the threads are grain's; cv2's own would take turns with XLA's
    dataset = (
        grain.MapDataset.source(source)
        .seed(config.seed)
        .shuffle()
        .random_map(TrainExample(config, labels_of(source.records, config)))
        .repeat()
        # Batch, then cut: a host's part is a block of the global batch, as `shard_batch` lays it.
        .batch(rows, drop_remainder=True)[process_index::process_count]
    )
    return iter(dataset.to_iter_dataset(_read_options(config)))


def eval_batches(
    examples: EvalExamples,
    config: Any,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Example]:
    """This host's share of an evaluation, in order, in equal batches; batch_size is global."""
    cv2.setNumThreads(0)
    rows = _rows(batch_size, 'eval.batch_size', process_count)
    dataset = grain.MapDataset.source(examples).batch(rows)[process_index::process_count]
    iterator = iter(dataset.to_iter_dataset(_read_options(config)))
    try:
        yield from iterator
    finally:
        iterator.close()


def _rows(batch_size: int, field: str, process_count: int) -> int:
    if batch_size % process_count:
        raise ValueError(
            f'config.{field}={batch_size} does not divide by {process_count} hosts; '
            'choose a multiple'
        )
    return batch_size // process_count


def _read_options(config: Any) -> grain.ReadOptions:
    threads = config.data.num_threads
    return grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(threads, 4))
