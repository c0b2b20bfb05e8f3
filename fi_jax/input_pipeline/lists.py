"""Lists of what is known of images, in the forms in which people have them.

A list is a CSV file with the image's name in its first column, with or without a line of titles; or
a text file with spaces, as CelebA's are distributed: a line with the number of images and one of
titles may come first. `re:PATTERN` in place of a file reads what is known off the image's own name.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

PATTERN = 're:'  # what a pattern begins with

_TITLES = ('file', 'filename', 'file_name', 'image', 'image_id', 'img', 'name')
_PARTITIONS = {
    '0': 'train', '1': 'val', '2': 'test', 'train': 'train', 'val': 'val', 'valid': 'val',
    'validation': 'val', 'test': 'test',
}  # fmt: skip


class Table(NamedTuple):
    """A list as it was read."""

    titles: tuple[str, ...] | None  # of the values
    rows: list[tuple[int, str, list[str]]]  # line, name, values


class Attributes(Mapping[str, Mapping[str, int]]):
    """Name of an image -> attribute -> value; kept as one array, since sets have millions."""

    def __init__(self, titles: Sequence[str], names: Sequence[str], values: np.ndarray):
        self.titles = tuple(titles)
        self._rows = dict(zip(names, range(len(names)), strict=True))
        self._values = values

    def __getitem__(self, name: str) -> Mapping[str, int]:
        return dict(zip(self.titles, self._values[self._rows[name]].tolist(), strict=True))

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


class FromName(Mapping[str, Any]):
    """What a pattern reads off the names of images; a name that it does not match has nothing.

    kind 'identities': the person is the group `person`, else the first one. kind 'attributes': each
    named group is a whole number. Picklable; it cannot be iterated, as it has no end.
    """

    def __init__(self, pattern: str, kind: str, where: str):
        try:
            self._pattern = re.compile(pattern)
        except re.error as error:
            raise ValueError(f'{where}: no regular expression ({error}); mend it') from error
        groups = self._pattern.groupindex
        if kind == 'attributes' and not groups:
            raise ValueError(
                f'{where}: no named group; expected one for each attribute, such as '
                r're:(?P<age>\d+)_(?P<female>\d)_'
            )
        if not self._pattern.groups:
            raise ValueError(rf'{where}: no group; expected one around the person, as re:(.+)_\d+')
        self._person = 'person' if 'person' in groups else 1
        self._kind, self._where = kind, where

    def __getitem__(self, name: str) -> Any:
        match = self._pattern.search(name)
        if match is None:
            raise KeyError(name)
        if self._kind == 'identities':
            return number_of(match[self._person])
        try:
            return {key: int(value) for key, value in match.groupdict().items()}
        except (TypeError, ValueError) as error:
            raise ValueError(
                f'{self._where}: {name}: {match.groupdict()} are not all whole numbers'
            ) from error

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


def number_of(person: str) -> int:
    """A number for the name of a person, the same whatever other names there are."""
    return int.from_bytes(hashlib.sha256(person.encode()).digest()[:6], 'big')


def read_identities(spec: str | os.PathLike[str]) -> Mapping[str, int]:
    """Image name -> number of the person, from 0 up.

    spec: a list with one number an image, or a column `identity`; a .json list of records with
    `file` and `identity`, or `group` as HELEN's have; or a pattern, as for LFW
    re:(.+)_[0-9]+[.]jpg.

    Raises:
        FileNotFoundError: absent.
        ValueError: none of these, a number that is none, or one file with two persons.
    """
    where = f'data.identities={os.fspath(spec)}'
    if os.fspath(spec).startswith(PATTERN):
        return FromName(os.fspath(spec)[len(PATTERN) :], 'identities', where)
    if os.fspath(spec).endswith('.json'):
        rows = (
            (i, name, number_of(str(value)) if key == 'group' else value)
            for i, name, key, value in _persons(spec, where)
        )
    else:
        table = read_list(spec, where)
        column = _column(table, 'identity', where)
        rows = ((line, name, values[column]) for line, name, values in table.rows)
    identities: dict[str, int] = {}
    for line, name, value in rows:
        if not str(value).isdecimal():
            raise ValueError(
                f'{where}: line {line}: {name!r},{value!r}; expected a file name and a whole '
                'number from 0 up'
            )
        identity = int(value)
        if identities.setdefault(name, identity) != identity:
            raise ValueError(
                f'{where}: line {line}: {name} has two identities, {identities[name]} and '
                f'{identity}; keep one'
            )
    return identities


def read_attributes(spec: str | os.PathLike[str]) -> Mapping[str, Mapping[str, int]]:
    """Image name -> attribute -> whole number; a column of 1 and -1 alone becomes 1 and 0.

    spec: a list with titles; or a pattern, as for UTKFace
    re:(?P<age>[0-9]+)_(?P<female>[01])_(?P<race>[0-4])_.

    Raises FileNotFoundError or ValueError as `read_identities`.
    """
    where = f'data.attributes={os.fspath(spec)}'
    if os.fspath(spec).startswith(PATTERN):
        return FromName(os.fspath(spec)[len(PATTERN) :], 'attributes', where)
    table = read_list(spec, where)
    if table.titles is None:
        raise ValueError(f"{where}: no line of titles; expected file,Smiling,... or CelebA's own")
    values = np.zeros((len(table.rows), len(table.titles)), np.int32)
    for i, (line, name, row) in enumerate(table.rows):
        try:
            values[i] = [int(value) for value in row]
        except ValueError as error:
            raise ValueError(f'{where}: line {line}: {name}: {error}') from error
    signs = (np.abs(values) == 1).all(0)
    values = np.where(signs, values > 0, values).astype(np.int32)
    return Attributes(table.titles, [name for _, name, _ in table.rows], values)


def read_partition(path: str | os.PathLike[str]) -> dict[str, str]:
    """Image name -> 'train', 'val' or 'test', of a list of 0, 1, 2 or of these words.

    Raises FileNotFoundError or ValueError as `read_identities`.
    """
    where = f'data.partition={os.fspath(path)}'
    table = read_list(path, where)
    column = _column(table, 'partition', where)
    parts: dict[str, str] = {}
    for line, name, values in table.rows:
        split = _PARTITIONS.get(values[column].lower())
        if split is None or parts.setdefault(name, split) != split:
            raise ValueError(
                f'{where}: line {line}: {name!r},{values[column]!r}; expected each file once, with '
                '0, 1, 2 or train, val, test'
            )
    return parts


def read_list(path: str | os.PathLike[str], where: str) -> Table:
    """A list of any of the forms; `where` begins the messages.

    Raises FileNotFoundError where it is absent, ValueError where it is no such list.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f'{where}: no such file; check the path')
    try:
        with open(path, newline='', encoding='utf-8-sig') as file:
            text = file.read()
        lines = [(i, line) for i, line in enumerate(text.splitlines(), 1) if line.strip()]
        if lines and lines[0][1].strip().isdecimal():
            del lines[0]  # CelebA's count of images
        commas = bool(lines) and ',' in lines[0][1]
        texts = (line for _, line in lines)
        fields = csv.reader(texts) if commas else map(str.split, texts)
        cells = list(zip((i for i, _ in lines), fields, strict=False))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f'{where}: not a CSV or text file ({error})') from error
    titles = None
    if cells and cells[0][1][0].strip().lower() in _TITLES:
        titles = tuple(cells.pop(0)[1][1:])
    elif len(cells) > 1 and len(cells[0][1]) == len(cells[1][1]) - 1:
        titles = tuple(cells.pop(0)[1])  # CelebA's own: the names have no title
    if not cells:
        raise ValueError(f'{where}: no rows; expected a name and what is known of it in each line')
    width = len(cells[0][1]) - 1 if commas else 1
    count = width if titles is None else len(titles)
    rows = []
    for line, row in cells:
        # Names may hold spaces: values are counted from the end.
        name = row[0] if commas else ' '.join(row[: len(row) - count])
        if not name or (commas and len(row) != count + 1):
            raise ValueError(
                f'{where}: line {line}: {row}; expected a name and {count} values, '
                f'{"with commas" if commas else "with spaces"} between'
            )
        rows.append((line, name, [value.strip() for value in row[len(row) - count :]]))
    return Table(titles, rows)


def read_json(path: str | os.PathLike[str], where: str, *fields: str) -> list[dict[str, Any]]:
    """A .json list of records that all have `file` and at least one of the fields.

    Raises FileNotFoundError where it is absent, ValueError where it is no such list.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f'{where}: no such file; check the path')
    try:
        with open(path, encoding='utf-8') as file:
            records = json.load(file)
    except ValueError as error:
        raise ValueError(f'{where}: not a readable .json file ({error})') from error
    for i, record in enumerate(records if isinstance(records, list) else [None]):
        known = isinstance(record, dict) and isinstance(record.get('file'), str)
        if not known or not set(fields) & set(record):
            raise ValueError(
                f'{where}: record {i}: expected a list of records with file and '
                f'{" or ".join(fields)}'
            )
    return records


def _persons(path: str | os.PathLike[str], where: str) -> Iterator[tuple[int, str, str, Any]]:
    for i, record in enumerate(read_json(path, where, 'identity', 'group')):
        key = 'identity' if 'identity' in record else 'group'
        yield i, record['file'], key, record[key]


def _column(table: Table, title: str, where: str) -> int:
    titles = table.titles
    width = len(table.rows[0][2]) if titles is None else len(titles)
    if titles is not None and title in titles:
        return titles.index(title)
    if width == 1:
        return 0
    raise ValueError(
        f'{where}: columns {titles or width}; expected file,{title}, or one value an image'
    )
