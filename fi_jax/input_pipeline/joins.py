"""What belongs to an image beside its file: landmarks and persons by name, splits by person.

Nothing depends on the order of the files: joins go by name, splits by a hash of the person (else of
the name).
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import logging

from fi_jax.input_pipeline.records import Record, Source

if TYPE_CHECKING:
    from fi_jax.input_pipeline.landmark_shards import LandmarkRow

SPLITS = ('train', 'val', 'test')


class _Completed:
    """A source whose records are completed as they are read."""

    def __init__(self, source: Source, complete: Callable[[Record], Record]):
        self._source, self._complete = source, complete
        for known in ('names', 'splits', 'terms', 'split_rule'):
            if hasattr(source, known):
                setattr(self, known, getattr(source, known))

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Record:
        return self._complete(self._source[index])


class _Subset:
    """Some records of a source, in the order of the indices."""

    def __init__(self, source: Source, indices: Sequence[int] | np.ndarray):
        self._source = source
        self._indices = np.asarray(indices, np.int64)
        names = getattr(source, 'names', None)
        if names is not None:
            self.names: tuple[str, ...] = tuple(names[i] for i in self._indices)

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Record:
        return self._source[int(self._indices[index])]


def with_landmarks(
    source: Source, table: Mapping[str, LandmarkRow], *, field: str = 'data.landmarks'
) -> Source:
    """Joins landmarks by name; records without a row, or whose face was not found, get None.

    Args:
        source: any source.
        table: name -> row, as `landmark_shards.read_table` gives.
        field: what to call the table in messages.

    Raises:
        ValueError: no name is in both.
    """
    table = for_source(source, table, field)
    names = getattr(source, 'names', None)
    if names is not None:
        rows = [table[name].found for name in names if name in table]
        logging.info(
            '%s: %d of %d images have landmarks; %d face not found, %d without a row.',
            field, sum(rows), len(names), len(rows) - sum(rows), len(names) - len(rows),
        )  # fmt: skip
    return _Completed(source, functools.partial(_with_points, table))


def with_values(source: Source, values: Mapping[str, Any], field: str, *, where: str) -> Source:
    """Joins one field of `Record` by name; records that are not in the mapping get None.

    Args:
        source: any source.
        values: name -> value of the field.
        field: 'identity' or 'attributes'.
        where: what to call the mapping in messages.

    Raises:
        ValueError: no name is in both.
    """
    values = for_source(source, values, where)
    names = getattr(source, 'names', None)
    if names is not None:
        known = sum(1 for name in names if name in values)
        logging.info('%s: known of %d of %d images.', where, known, len(names))
    return _Completed(source, functools.partial(_with_value, values, field))


def with_frame(source: Source, frame: Sequence[float]) -> Source:
    """Each image gets the frame, or the two, of 3 or 6 numbers; see `Record.frame`.

    Raises ValueError on other numbers.
    """
    frames = np.array(frame, np.float64)
    sides = frames[2::3]
    if len(frames) not in (3, 6) or not np.isfinite(frames).all() or min(sides) <= 0:
        raise ValueError(
            f'data.frame={tuple(frame)}: expected left, top and side of a square, or of two'
        )
    if min(sides) <= 1 < max(sides):
        raise ValueError(f'data.frame={tuple(frame)}: mixes pixels and shares; give one kind')
    frames = frames.reshape(-1, 3) if len(frames) == 6 else frames
    return _Completed(source, functools.partial(dataclasses.replace, frame=frames))


def _with_points(table: Mapping[str, LandmarkRow], record: Record) -> Record:
    row = table.get(record.name)
    points = row.points if row is not None and row.found else None
    return dataclasses.replace(record, landmarks=points)


def _with_value(values: Mapping[str, Any], field: str, record: Record) -> Record:
    value: Any = values.get(record.name)
    return dataclasses.replace(record, **{field: value})


class _Renamed(Mapping[str, Any]):
    """A table under other names."""

    def __init__(self, table: Mapping[str, Any], keys: Mapping[str, str]):
        self._table, self._keys = table, keys

    def __getitem__(self, name: str) -> Any:
        return self._table[self._keys[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


def for_source(source: Source, table: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """A table by the names of a source, which may have other folders and endings.

    A list names 000001.jpg what a zip has as img_align_celeba_png/000001.png: where no name is in
    both, they are matched without folders and endings, as long as that is unique.

    Raises ValueError where no image has a row even so; `where` begins the message.
    """
    names = getattr(source, 'names', None)
    if names is None:
        # Reading every record to learn its name may take minutes, so a sample only warns.
        sample = [source[i].name for i in range(min(64, len(source)))]
        if sample and not any(name in table for name in sample):
            logging.warning(
                '%s: none of the first %d images is in it, such as %r.', where, len(sample),
                sample[0],
            )  # fmt: skip
        return table
    if any(name in table for name in names):
        return table
    by_stem = {_stem(key): key for key in table}
    keys = {name: by_stem[_stem(name)] for name in names if _stem(name) in by_stem}
    unique = len(by_stem) == len(table) and len(set(keys.values())) == len(keys)
    if not keys or not unique:
        like = f', rows like {next(iter(table))!r}' if table else ''
        raise ValueError(
            f'{where}: no image has a row: images are named like {next(iter(names), None)!r}'
            f'{like}; name the rows as the images, folders included'
        )
    logging.info('%s: matched by file names without folders and endings.', where)
    return _Renamed(table, keys)


def _stem(name: str) -> str:
    return os.path.splitext(name.rpartition('/')[2])[0]


def subset(source: Source, indices: Sequence[int] | np.ndarray) -> Source:
    """The records of `source` at `indices`, in that order."""
    return _Subset(source, indices)


def split_indices(
    names: Sequence[str],
    identities: Sequence[int | None] | None,
    val_share: float,
    test_share: float,
) -> dict[str, np.ndarray]:
    """Cuts images into train, val and test by a hash of the person (else of the name).

    A person is never in two splits, the cut does not depend on the order of the images, and test
    does not depend on val_share. Test, then val, take whole persons in the order of the hash as
    long as they fit into round(share * N).

    Args:
        names: unique keys of the N images.
        identities: N person numbers, None where unknown; or None.
        val_share: share of the images, in [0, 1).
        test_share: likewise; the two together stay below 1.

    Returns:
        {'train', 'val', 'test'} -> sorted indices, int64.

    Raises:
        ValueError: shares out of range, or lengths that differ.
    """
    for field, share in (('val_share', val_share), ('test_share', test_share)):
        if not 0 <= share < 1:
            raise ValueError(f'data.{field}={share}: expected a share in [0, 1)')
    if val_share + test_share >= 1:
        raise ValueError(
            f'data.val_share={val_share} and data.test_share={test_share} leave nothing to train on'
        )
    if identities is not None and len(identities) != len(names):
        raise ValueError(f'{len(identities)} identities for {len(names)} names')
    groups: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        identity = None if identities is None else identities[i]
        groups.setdefault(f'name {name}' if identity is None else f'id {identity}', []).append(i)
    room = {'test': round(test_share * len(names)), 'val': round(val_share * len(names))}
    cut: dict[str, list[int]] = {split: [] for split in SPLITS}
    for key in sorted(groups, key=lambda key: (hashlib.sha256(key.encode()).digest(), key)):
        members = groups[key]
        split = next((s for s, left in room.items() if len(members) <= left), 'train')
        if split != 'train':
            room[split] -= len(members)
        cut[split] += members
    return {split: np.array(sorted(indices), np.int64) for split, indices in cut.items()}


def names_and_identities(source: Source) -> tuple[tuple[str, ...], list[int | None]]:
    """Reads every record for its name and identity: slow on a large TFDS data set."""
    records = (source[i] for i in range(len(source)))
    pairs = [(record.name, record.identity) for record in records]
    return tuple(name for name, _ in pairs), [identity for _, identity in pairs]
