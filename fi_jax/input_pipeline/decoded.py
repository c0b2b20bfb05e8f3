"""Crops kept decoded: a file of raw uint8 squares beside a table of what is known of each.

    fi-jax prepare --decoded --res=64 ...     writes DIR/NAME; then
    --config.data.source=decoded --config.data.path=DIR/NAME

A core reads several times as many of them as it decodes JPEG files. images.u8 holds the squares one
after the other; table.npz their CRC-32, names, points, persons, attributes and splits; about.json
side, margin, terms, how the splits were cut, and the SHA-256 of the table.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fi_jax.input_pipeline.archives import FileAt
from fi_jax.input_pipeline.joins import SPLITS
from fi_jax.input_pipeline.reading import frame_of, square
from fi_jax.input_pipeline.records import BadImage, Record, Source, decode

VERSION = 1


class Decoded:
    """The squares of a folder as a source, with their splits; each is checked as it is read.

    Safe to share between threads (positional reads) and to pickle.

    Raises:
        FileNotFoundError: no such set.
        ValueError: of another version, or its table or size is not what was written.
    """

    def __init__(self, path: str | os.PathLike[str]):
        folder = Path(path).expanduser()
        self._path = folder / 'images.u8'
        if not (folder / 'about.json').is_file():
            raise FileNotFoundError(
                f'data.path={folder}: no decoded set (about.json is not there); '
                'fi-jax prepare --decoded makes one'
            )
        about = json.loads((folder / 'about.json').read_text())
        if about.get('version') != VERSION:
            raise ValueError(f'data.path={folder}: version {about.get("version")}; prepare it anew')
        data = (folder / 'table.npz').read_bytes()
        if hashlib.sha256(data).hexdigest() != about['table_sha256']:
            raise ValueError(f'data.path={folder}: table.npz is damaged; prepare the set again')
        self._side, self._margin = about['side'], about['margin']
        self.terms, self.split_rule = about['terms'], about['split_rule']
        with np.load(folder / 'table.npz') as table:
            columns = dict(table)
        self.names: tuple[str, ...] = tuple(columns['name'].tolist())
        self._points, self._known = columns['points'], columns['known']
        self._identities, self._crc = columns['identity'].tolist(), columns['crc32'].tolist()
        self._attributes = {k: columns[f'attribute {k}'] for k in about['attributes']}
        self.splits = {s: np.flatnonzero(columns['split'] == i) for i, s in enumerate(SPLITS)}
        self._bytes = self._side**2 * 3
        size = self._path.stat().st_size if self._path.exists() else 0
        if size != len(self.names) * self._bytes:
            raise ValueError(
                f'data.path={folder}: images.u8 has {size:,} bytes, not those of '
                f'{len(self.names)} squares of {self._side} pixels; prepare the set again'
            )
        self._file = FileAt(self._path)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Record:
        name = self.names[index]
        data = self._file.read(self._bytes, index * self._bytes)
        if len(data) != self._bytes or zlib.crc32(data) != self._crc[index]:
            raise BadImage(f'{self._path}: {name}: damaged (CRC-32 differs); prepare the set again')
        frame = None
        if self._margin:
            inner = self._side - 2 * self._margin
            frame = np.array([self._margin, self._margin, inner], np.float32)
        identity = self._identities[index]
        return Record(
            image=np.frombuffer(data, np.uint8).reshape(self._side, self._side, 3),
            name=name,
            landmarks=self._points[index] if self._known[index] else None,
            identity=None if identity < 0 else identity,
            attributes={k: int(v[index]) for k, v in self._attributes.items()} or None,
            frame=frame,
        )


def write(
    source: Source,
    cut: Mapping[str, Sequence[int]],
    folder: str | os.PathLike[str],
    *,
    res: int,
    margin: int,
    attributes: Iterable[str] = (),
    about: Mapping[str, Any],
) -> None:
    """Writes the images of each split as a decoded set, complete or not at all.

    res: side of the squares, cut as for the nets; margin: pixels more on each side, for a training
    that moves its frame. A record's first frame is the one that is cut. Raises FileExistsError.
    """
    target = Path(folder)
    if (target / 'about.json').exists():
        raise FileExistsError(f'--out: {target} is there already; remove it or choose another name')
    work = target.with_name(f'{target.name}.tmp-{os.getpid()}')
    work.mkdir(parents=True)
    try:
        _fill(source, cut, work, res, margin, tuple(attributes), about)
        target.mkdir(exist_ok=True)
        for name in ('images.u8', 'table.npz', 'about.json'):  # the last one says: complete
            os.replace(work / name, target / name)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _fill(
    source: Source,
    cut: Mapping[str, Sequence[int]],
    folder: Path,
    res: int,
    margin: int,
    attributes: tuple[str, ...],
    about: Mapping[str, Any],
) -> None:
    side = res + 2 * margin
    rows: dict[str, list[Any]] = {
        name: [] for name in ('name', 'points', 'known', 'identity', 'crc32', 'split')
    } | {f'attribute {key}': [] for key in attributes}
    with open(folder / 'images.u8', 'wb') as file:
        for split, indices in cut.items():
            for index in indices:
                record = source[int(index)]
                pixels = decode(record.image, record.name)
                left, top, inner = frame_of(pixels.shape[:2], record.frame)
                more = round(inner * margin / res)
                frame = left - more, top - more, inner + 2 * more
                image, points = square(pixels, record.landmarks, side, frame)
                data = np.ascontiguousarray(image).tobytes()
                file.write(data)
                rows['name'].append(record.name)
                rows['points'].append(np.zeros((68, 2)) if points is None else points)
                rows['known'].append(points is not None)
                rows['identity'].append(-1 if record.identity is None else record.identity)
                rows['crc32'].append(zlib.crc32(data))
                rows['split'].append(SPLITS.index(split))
                for key in attributes:
                    rows[f'attribute {key}'].append((record.attributes or {})[key])
        file.flush()
        os.fsync(file.fileno())
    types = {'points': np.float32, 'crc32': np.uint32, 'split': np.int8, 'name': np.str_}
    columns: dict[str, Any] = {k: np.array(v, types.get(k)) for k, v in rows.items()}
    np.savez(folder / 'table.npz', **columns)
    digest = hashlib.sha256((folder / 'table.npz').read_bytes()).hexdigest()
    known = {
        'version': VERSION, 'side': side, 'margin': margin, 'attributes': list(attributes),
        'table_sha256': digest,
    }  # fmt: skip
    (folder / 'about.json').write_text(json.dumps({**about, **known}, indent=1))
