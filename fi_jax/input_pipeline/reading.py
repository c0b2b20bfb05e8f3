"""Batches of training by step, as a host reads them: decoded and cropped, by numpy and cv2."""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from absl import logging

from fi_jax import landmarks as lm
from fi_jax.batch import READ, label_names, zeros
from fi_jax.input_pipeline.records import BadImage, Record, Source, decode

Example = dict[str, Any]  # of arrays and numpy scalars
LABELS = ('attributes', 'has_attributes')


class SkipBadImages:
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
                    self.note(at, str(error))
        raise BadImage(f'none of {len(self)} images can be decoded; the first: {self.bad[0]}')

    def note(self, index: int, message: str) -> None:
        """Count a bad image, and name it where it is a new one."""
        with self._lock:
            if index not in self.bad:
                self.bad[index] = message
                logging.warning('bad image %d: %s', len(self.bad), message)
            if len(self.bad) > self._allowed:
                raise BadImage(
                    f'{message}. That makes {len(self.bad)} bad of {len(self)} images and '
                    f'{self._allowed} are allowed; remove them or raise data.max_bad_share'
                )

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != '_lock'}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()


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


def margin_of(config: Any) -> int:
    """Pixels around the square of config.res that config.data.augment may move into the frame."""
    amounts = config.data.augment
    angle = math.radians(min(amounts.rotate, 45.0))
    reach = (0.5 * (math.cos(angle) + math.sin(angle)) + amounts.shift) * (1 + amounts.scale) - 0.5
    return math.ceil(max(reach, 0.0) * config.res)


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
    labels = tuple(label_names(config))
    if labels:
        places = np.linspace(0, len(source) - 1, min(256, len(source))).astype(int)
        found = {label for i in places.tolist() for label in source[i].attributes or ()}
        if missing := [label for label in labels if label not in found]:
            raise ValueError(
                f'config.data.labels={config.data.labels}: no image has {missing[0]!r}; there are '
                f'{sorted(found) or "none: set config.data.attributes"}'
            )
    return labels


class Steps:
    """The batches of a training by step, of one host: random access, nothing remembered.

    The global batch of a step is the same for any number of hosts, and a host's part a block of it,
    as `sharding.shard_batch` lays it. Raises ValueError where the batch does not divide by hosts.
    """

    def __init__(
        self, source: SkipBadImages, config: Any, process_index: int = 0, process_count: int = 1
    ):
        self.source = source
        self._batch_size, self._seed, self._res = config.batch_size, config.seed, config.res
        self._margin = margin_of(config)
        self._labels = labels_of(source.records, config)
        self._rows = rows_of(config.batch_size, 'batch_size', process_count)
        self._first = process_index * self._rows

    def __len__(self) -> int:
        return 1 << 40  # without end

    def __getitem__(self, step: int) -> Example:
        rows, side = self._rows, self._res + 2 * self._margin
        batch = zeros(READ, B=rows, S=side, K=len(self._labels))
        for row in range(rows):
            epoch, at = divmod(step * self._batch_size + self._first + row, len(self.source))
            index = int(_order(self._seed, epoch, len(self.source))[at])
            _, record, pixels = self.source[index]
            frame = self._frame(record, pixels.shape[:2], epoch, index)
            batch['image'][row], points = square(pixels, record.landmarks, side, frame)
            if points is not None:
                batch['landmarks'][row], batch['has_landmarks'][row] = points, 1
            batch['index'][row], batch['epoch'][row] = index, epoch
            for name, values in attributes_of(record, self._labels).items():
                batch[name][row] = values
        if not np.isfinite(batch['landmarks']).all():
            for points in batch['landmarks']:
                lm.validate(points)
        return batch

    def _frame(
        self, record: Record, size: tuple[int, ...], epoch: int, index: int
    ) -> tuple[int, int, int] | None:
        rng = None
        if record.frame is not None and record.frame.ndim > 1:
            rng = np.random.default_rng([self._seed, epoch, index])
        elif record.frame is None and not self._margin:
            return None
        left, top, side = frame_of(size, record.frame, rng)
        more = round(side * self._margin / self._res)
        return left - more, top - more, side + 2 * more


@functools.lru_cache(4)
def _order(seed: int, epoch: int, length: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(length)


def rows_of(batch_size: int, field: str, process_count: int) -> int:
    """A host's part of a batch; ValueError where the batch does not divide."""
    if batch_size % process_count:
        raise ValueError(
            f'config.{field}={batch_size} does not divide by {process_count} hosts; '
            'choose a multiple'
        )
    return batch_size // process_count
