"""What belongs to an image beside its file: landmarks and persons by name, splits by person.

Nothing depends on the order of the files: joins go by name, splits by a hash of the person (else of
the name).
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import logging

from fi_jax.input_pipeline.records import Record, Source

if TYPE_CHECKING:
    from fi_jax.input_pipeline.landmark_shards import LandmarkRow

SPLITS = ('train', 'val', 'test')


class _Joined:
    """A source whose records are completed by name."""

    def __init__(
        self,
        source: Source,
        landmarks: Mapping[str, LandmarkRow] | None = None,
        identities: Mapping[str, int] | None = None,
    ):
        self._source, self._landmarks, self._identities = source, landmarks, identities
        for known in ('names', 'splits', 'terms', 'split_rule'):
            if hasattr(source, known):
                setattr(self, known, getattr(source, known))

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Record:
        record = self._source[index]
        if self._landmarks is not None:
            row = self._landmarks.get(record.name)
            points = row.points if row is not None and row.found else None
            record = dataclasses.replace(record, landmarks=points)
        if self._identities is not None:
            record = dataclasses.replace(record, identity=self._identities.get(record.name))
        return record


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
    joined = _count_joined(source, table, field)
    if joined is not None:
        names = source.names  # type: ignore[attr-defined]
        found = sum(1 for n in names if n in table and table[n].found)
        logging.info(
            '%s: %d of %d images have landmarks; %d face not found, %d without a row.',
            field, found, len(names), joined - found, len(names) - joined,
        )  # fmt: skip
    return _Joined(source, landmarks=table)


def with_identities(
    source: Source, mapping: Mapping[str, int], *, field: str = 'data.identities'
) -> Source:
    """Joins person numbers by name; records that are not in the mapping get None.

    Raises:
        ValueError: no name is in both.
    """
    joined = _count_joined(source, mapping, field)
    if joined is not None:
        logging.info('%s: %d of %d images have an identity.', field, joined, len(source))
    return _Joined(source, identities=mapping)


def _count_joined(source: Source, table: Mapping[str, Any], field: str) -> int | None:
    names = getattr(source, 'names', None)
    if names is None:
        # Reading every record to learn its name may take minutes, so a sample only warns.
        sample = [source[i].name for i in range(min(64, len(source)))]
        if sample and not any(name in table for name in sample):
            logging.warning(
                '%s: none of the first %d images is in it, such as %r.', field, len(sample),
                sample[0],
            )  # fmt: skip
        return None
    joined = sum(1 for name in names if name in table)
    if not joined:
        raise ValueError(
            f'{field}: no image has a row: images are named like {next(iter(names), None)!r}, '
            f'rows like {next(iter(table), None)!r}; name the rows as the images, folders included'
        )
    return joined


def read_identities(path: str | os.PathLike[str]) -> dict[str, int]:
    """Reads a CSV file with columns file,identity: image name -> number of the person, from 0 up.

    Raises:
        FileNotFoundError: absent.
        ValueError: wrong header, a number that is none, or one file with two persons.
    """
    where = f'data.identities={os.fspath(path)}'
    if not os.path.isfile(path):
        raise FileNotFoundError(f'{where}: no such file; check the path')
    identities: dict[str, int] = {}
    with open(path, newline='', encoding='utf-8-sig') as file:
        try:
            rows = csv.DictReader(file)
            if not {'file', 'identity'} <= set(rows.fieldnames or ()):
                raise ValueError(
                    f'{where}: columns {rows.fieldnames}; the first line must be file,identity'
                )
            for row in rows:
                name, text = row['file'], row['identity']
                if not name or text is None or not text.strip().isdecimal():
                    raise ValueError(
                        f'{where}: line {rows.line_num}: {name!r},{text!r}; '
                        'expected a file name and a whole number from 0 up'
                    )
                identity = int(text)
                if identities.setdefault(name, identity) != identity:
                    raise ValueError(
                        f'{where}: line {rows.line_num}: {name} has two identities, '
                        f'{identities[name]} and {identity}; keep one'
                    )
        except (UnicodeDecodeError, csv.Error) as error:
            raise ValueError(f'{where}: not a CSV text file ({error})') from error
    return identities


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
