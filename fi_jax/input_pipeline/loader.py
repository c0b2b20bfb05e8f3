"""From records to batches: read, decode, crop; grain for threads, processes and shared memory.

A batch is a dict of numpy arrays: of training `READ`, of an evaluation `BATCH`, both listed and
checked in `fi_jax.batch`. The rest of a training batch is drawn on the devices, by
`fi_jax.augmentation`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import cv2
import grain
import numpy as np

from fi_jax import landmarks as lm
from fi_jax.input_pipeline import holes, workers
from fi_jax.input_pipeline.reading import (
    Example,
    SkipBadImages,
    Steps,
    attributes_of,
    frame_of,
    labels_of,
    rows_of,
    square,
)
from fi_jax.input_pipeline.records import Source


def unsquare(points: np.ndarray, frame: np.ndarray, res: int) -> np.ndarray:
    """Points (...,2) of the crop back in pixels of the stored image; frame as of `frame_of`."""
    left, top, side = (float(v) for v in frame)
    corner = np.array([left, top], np.float32)
    return ((points + 0.5) * (side / res) - 0.5 + corner).astype(np.float32)


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
        self._data = SkipBadImages(source, share)
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


class TrainBatches(Iterator[Example]):
    """Endless batches, read ahead by `threads` of this process or by `processes` of their own.

    The position is one number, equal to the step, whatever reads: `get_state`, `set_state`.
    Reading begins with `start`, or with the first batch asked for.
    """

    def __init__(self, steps: Steps, threads: int, processes: int = 0):
        self._steps, self._threads, self._processes = steps, threads, processes
        self._next = 0
        self._ahead: Any = None

    def start(self) -> None:
        """Begin to read at the position."""
        if self._ahead is None and self._processes:
            self._ahead = workers.Workers(_WithBad(self._steps), self._next, self._processes)
        elif self._ahead is None:
            dataset = grain.MapDataset.source(_WithBad(self._steps, self._next))
            self._ahead = iter(dataset.to_iter_dataset(_read_options(self._threads)))

    def __next__(self) -> Example:
        self.start()
        batch, bad = next(self._ahead)
        for index, message in bad.items():
            self._steps.source.note(index, message)
        self._next += 1
        return batch

    def get_state(self) -> dict[str, int]:
        """The position: the number of batches taken."""
        return {'next_index': self._next}

    def set_state(self, state: Mapping[str, int]) -> None:
        """Go on from a position."""
        self.close()
        self._next = int(state['next_index'])

    def close(self) -> None:
        """End all that reads."""
        if self._ahead is not None:
            self._ahead.close()
        self._ahead = None


class _WithBad:
    """The batches from a step on, each with the bad images met so far where it was read."""

    def __init__(self, steps: Steps, first: int = 0):
        self._steps, self._first = steps, first

    def __len__(self) -> int:
        return len(self._steps)

    def __getitem__(self, number: int) -> tuple[Example, dict[int, str]]:
        batch = self._steps[self._first + number]
        return batch, dict(self._steps.source.bad)


def train_iterator(
    source: SkipBadImages,
    config: Any,
    process_index: int = 0,
    process_count: int = 1,
    processes: int = 0,
) -> TrainBatches:
    """Endless batches of this host's share: see `Steps` and `TrainBatches`."""
    cv2.setNumThreads(0)  # the threads are grain's; cv2's own would take turns with XLA's
    steps = Steps(source, config, process_index, process_count)
    return TrainBatches(steps, config.data.num_threads, processes)


def eval_batches(
    examples: EvalExamples,
    config: Any,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Example]:
    """This host's share of an evaluation, in order, in equal batches; batch_size is global."""
    cv2.setNumThreads(0)
    rows = rows_of(batch_size, 'eval.batch_size', process_count)
    dataset = grain.MapDataset.source(examples).batch(rows)[process_index::process_count]
    iterator = iter(dataset.to_iter_dataset(_read_options(config.data.num_threads)))
    try:
        yield from iterator
    finally:
        iterator.close()


def _read_options(threads: int) -> grain.ReadOptions:
    return grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(threads, 4))
