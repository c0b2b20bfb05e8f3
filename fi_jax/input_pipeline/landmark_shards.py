"""Landmarks on disk: one msgpack record an image, in ArrayRecord shards, read back by name.

A folder of shards holds `landmarks-00000-of-00004.array_record`, ... and `landmarks.json`, which
counts what each shard must hold. Each record is a msgpack map:

    v                 1, the schema
    name              key of the image, as `records.Record.name`
    points            544 bytes: 68 x 2 little-endian float32, x,y in pixels of the decoded image
    found             whether the detector found the face; if not, the points are a guess
    score             the detector's confidence, NaN where it gives none
    detector          e.g. 'dlib68'
    detector_version  e.g. '19.24'
    box               [left, top, right, bottom] in pixels, or nil
    size              [height, width] of the image in pixels, or nil
    reason            why the face was not found, '' if it was
    doubts            list of reasons to look twice: 'many faces', 'small', 'odd shape', ...
    align             six floats, row by row the (2,3) transform from the image's pixels to the
                      canonical frame of side 1, or nil (to_canonical(points, 1) of alignment.py)

The last three may be missing.

    python -m fi_jax.input_pipeline.landmark_shards import --npz=FILE --out=DIR --detector=dlib68
"""

import argparse
import contextlib
import dataclasses
import json
import math
import os
import shutil
import sys
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgpack
import numpy as np
from array_record.python import array_record_module

from fi_jax.input_pipeline import lists

SCHEMA = 1
INDEX = 'landmarks.json'

_POINTS = (68, 2)
_POINT_BYTES = 68 * 2 * 4


@dataclasses.dataclass(frozen=True)
class LandmarkRow:
    """Landmarks of one image; see the module's head for the fields."""

    name: str
    points: np.ndarray  # (68,2) float32
    found: bool = True
    score: float = math.nan
    detector: str = ''
    detector_version: str = ''
    box: tuple[float, float, float, float] | None = None
    size: tuple[int, int] | None = None  # height, width
    reason: str = ''
    doubts: tuple[str, ...] = ()
    align: tuple[float, ...] | None = None  # 6, image -> canonical unit square


class LandmarkTable(Mapping[str, LandmarkRow]):
    """Rows by name, held as arrays: 0.6 kB an image.

    Args:
        rows: names may come twice if the points are equal.
        where: file named in errors.

    Raises:
        ValueError: one name with different points.
    """

    def __init__(self, rows: Iterable[LandmarkRow], where: str = 'landmarks'):
        self._position: dict[str, int] = {}
        points: list[np.ndarray] = []
        self._rest: list[tuple[Any, ...]] = []
        for row in rows:
            row = _checked(row, where)
            first = self._position.setdefault(row.name, len(points))
            if first == len(points):
                points.append(row.points)
                self._rest.append(tuple(getattr(row, f.name) for f in dataclasses.fields(row)[2:]))
            elif not np.array_equal(points[first], row.points):
                raise ValueError(
                    f'{where}: {row.name} comes twice with different points; keep one row an image'
                )
        self._points = np.stack(points) if points else np.zeros((0, *_POINTS), np.float32)
        self._points.flags.writeable = False

    def __getitem__(self, name: str) -> LandmarkRow:
        i = self._position[name]
        return LandmarkRow(name, self._points[i], *self._rest[i])

    def __contains__(self, name: object) -> bool:
        return name in self._position

    def __iter__(self) -> Iterator[str]:
        return iter(self._position)

    def __len__(self) -> int:
        return len(self._position)


def _checked(row: LandmarkRow, where: str) -> LandmarkRow:
    points = np.asarray(row.points)
    if points.shape != _POINTS:
        raise ValueError(f'{where}: {row.name}: points of shape {points.shape}; expected (68, 2)')
    if row.found and not np.isfinite(points).all():
        raise ValueError(
            f'{where}: {row.name}: points are not finite; mark the row as not found or remove it'
        )
    if not row.name:
        raise ValueError(f'{where}: a row has no name; name it as its image')
    return dataclasses.replace(row, points=points.astype('<f4'))


def encode_row(row: LandmarkRow) -> bytes:
    """One row -> one msgpack record."""
    row = _checked(row, 'landmarks')
    fields = {
        'v': SCHEMA,
        'name': row.name,
        'points': row.points.tobytes(),
        'found': bool(row.found),
        'score': float(row.score),
        'detector': row.detector,
        'detector_version': row.detector_version,
        'box': None if row.box is None else [float(v) for v in row.box],
        'size': None if row.size is None else [int(v) for v in row.size],
        'reason': row.reason,
        'doubts': list(row.doubts),
        'align': None if row.align is None else [float(v) for v in row.align],
    }
    return msgpack.packb(fields)


def decode_row(record: bytes, where: str = 'landmarks') -> LandmarkRow:
    """One msgpack record -> one row.

    Raises:
        ValueError: damaged, of another schema, or a field of a wrong shape; begins with `where`.
    """
    try:
        fields = msgpack.unpackb(record)
        version = fields['v']
    except Exception as error:  # msgpack raises many kinds
        raise ValueError(f'{where}: not a landmark record; write the shards again') from error
    if version != SCHEMA:
        raise ValueError(
            f'{where}: schema {version!r}, this program reads {SCHEMA}; write the shards again'
        )
    try:
        name, points, box, size = (fields[k] for k in ('name', 'points', 'box', 'size'))
        align = fields.get('align')
        if len(points) != _POINT_BYTES:
            raise ValueError(
                f'{where}: {name}: points of {len(points)} bytes; expected {_POINT_BYTES}, '
                '68 x 2 float32'
            )
        if (box is not None and len(box) != 4) or (size is not None and len(size) != 2):
            raise ValueError(f'{where}: {name}: box {box} or size {size} is of a wrong length')
        return LandmarkRow(
            name=name,
            points=np.frombuffer(points, '<f4').reshape(_POINTS),
            found=fields['found'],
            score=fields['score'],
            detector=fields['detector'],
            detector_version=fields['detector_version'],
            box=None if box is None else tuple(box),
            size=None if size is None else tuple(size),
            reason=fields.get('reason', ''),
            doubts=tuple(fields.get('doubts', ())),
            align=None if align is None else tuple(align),
        )
    except (KeyError, TypeError) as error:
        raise ValueError(
            f'{where}: a field is missing or of a wrong type ({error}); write the shards again'
        ) from error


# ------------------------------------------------------------------------------------- write


def write_shards(
    rows: Iterable[LandmarkRow], out_dir: str | os.PathLike[str], num_shards: int = 1
) -> dict[str, Any]:
    """Writes all rows or nothing: the folder appears, complete, at the end.

    Args:
        rows: streamed; row i goes to shard i % num_shards.
        out_dir: absent or empty.
        num_shards: from 1 up; about 1 shard for 100,000 images does.

    Returns:
        What is in `landmarks.json`.

    Raises:
        FileExistsError: out_dir holds something.
        ValueError: a bad row, a name that comes twice, no rows at all.
    """
    out = os.path.abspath(os.fspath(out_dir))
    if num_shards < 1:
        raise ValueError(f'num_shards={num_shards}; expected 1 or more')
    if os.path.exists(out) and (not os.path.isdir(out) or os.listdir(out)):
        raise FileExistsError(f'--out={out}: holds something already; remove it or choose another')
    tmp = f'{out}.tmp-{os.getpid()}'
    shutil.rmtree(tmp, ignore_errors=True)
    os.makedirs(tmp)
    try:
        index = _write(rows, tmp, num_shards)
        if os.path.isdir(out):
            os.rmdir(out)
        os.rename(tmp, out)
    finally:
        shutil.rmtree(tmp, ignore_errors=True)
    return index


def shard_name(index: int, num_shards: int) -> str:
    """File name of a shard."""
    return f'landmarks-{index:05d}-of-{num_shards:05d}.array_record'


def open_writer(path: str) -> Any:
    """A writer of encoded rows; one record a group, so that damage costs, and names, one image."""
    return array_record_module.ArrayRecordWriter(path, 'group_size:1,zstd:3')


def _write(rows: Iterable[LandmarkRow], folder: str, num_shards: int) -> dict[str, Any]:
    files = [shard_name(i, num_shards) for i in range(num_shards)]
    writers = [open_writer(os.path.join(folder, file)) for file in files]
    tally = Tally(files)
    try:
        for i, row in enumerate(rows):
            tally.add(row, files[i % num_shards])
            writers[i % num_shards].write(encode_row(row))
    finally:
        for writer in writers:
            writer.close()
    return tally.save(folder)


class Tally:
    """Counts the rows of a folder of shards, and writes its index."""

    def __init__(self, files: Iterable[str]):
        self._names: set[str] = set()
        self._detectors: set[tuple[str, str]] = set()
        self._found = 0
        self._counts = dict.fromkeys(files, 0)

    def add(self, row: LandmarkRow, file: str) -> None:
        """One row of a shard; ValueError if its name was there already."""
        if row.name in self._names:
            raise ValueError(f'landmarks: {row.name} comes twice; keep one row an image')
        self._names.add(row.name)
        self._detectors.add((row.detector, row.detector_version))
        self._found += bool(row.found)
        self._counts[file] += 1

    def save(self, folder: str, **more: Any) -> dict[str, Any]:
        """Writes `landmarks.json`, with what more there is to say; ValueError without rows."""
        if not self._names:
            raise ValueError('landmarks: no rows to write')
        index = {
            'schema': SCHEMA,
            'num_rows': len(self._names),
            'num_found': self._found,
            'detectors': [
                {'detector': d, 'detector_version': v} for d, v in sorted(self._detectors)
            ],
            'shards': self._counts,
            **more,
        }
        path = os.path.join(folder, INDEX)
        with open(path + '.tmp', 'w', encoding='utf-8') as file:
            json.dump(index, file, indent=2, ensure_ascii=False)
            file.write('\n')
        os.replace(path + '.tmp', path)
        return index


def rows_of(source: Any) -> dict[str, LandmarkRow]:
    """The landmarks that the records of a source bring along, by name; reads every record."""
    records = (source[i] for i in range(len(source)))
    return {
        record.name: LandmarkRow(record.name, record.landmarks)
        for record in records
        if record.landmarks is not None
    }


def write_npz(rows: Iterable[LandmarkRow], path: str | os.PathLike[str]) -> int:
    """Writes name, points, detected, score and box of all rows as one flat file; the count."""
    kept = list(rows)
    no_box = (math.nan,) * 4
    fields = {
        'name': np.array([row.name for row in kept]),
        'points': np.stack([row.points for row in kept]).astype(np.float32),
        'detected': np.array([row.found for row in kept], bool),
        'score': np.array([row.score for row in kept], np.float32),
        'box': np.array([row.box or no_box for row in kept], np.float32),
    }
    tmp = f'{os.fspath(path)}.tmp-{os.getpid()}'
    with open(tmp, 'wb') as file:
        np.savez(file, **fields)  # type: ignore[arg-type]
    os.replace(tmp, path)
    return len(kept)


# -------------------------------------------------------------------------------------- read


def read_table(path: str | os.PathLike[str]) -> LandmarkTable:
    """Reads a folder of shards, an .npz or a .json into a mapping name -> `LandmarkRow`.

    An .npz needs `name` (N,) and `points` (N,68,2); `detected` (N,; else all are), `score` (N,) and
    `box` (N,4) are optional. It is read without pickle. A .json is a list of records with `file`
    and `points`, 68 pairs or 136 numbers.

    Raises:
        FileNotFoundError: absent, or a folder without its index.
        ValueError: damaged, of a wrong shape, or one name with different points; names the file.
    """
    where = f'data.landmarks={os.fspath(path)}'
    if not os.path.exists(path):
        raise FileNotFoundError(f'{where}: no such file or folder; check the path')
    ending = os.path.splitext(path)[1].lower()
    if os.path.isdir(path):
        rows = _read_shards(path, where)
    elif ending == '.json':
        rows = _read_json(path, where)
    elif ending in ('.txt', '.csv'):
        titles = lists.read_list(path, where).titles or ()
        raise ValueError(
            f"{where}: a list of {len(titles)} columns; CelebA's own lists have 5 points a face, "
            'and 68 are needed: make them by `fi-jax landmarks`'
        )
    else:
        rows = _read_npz(path, where)
    return LandmarkTable(rows, where)


def _read_json(path: str | os.PathLike[str], where: str) -> Iterator[LandmarkRow]:
    for i, record in enumerate(lists.read_json(path, where, 'points')):
        try:
            points = np.array(record['points'], np.float32).reshape(_POINTS)
        except (TypeError, ValueError) as error:
            raise ValueError(f'{where}: record {i}: not 68 points ({error})') from error
        yield LandmarkRow(name=record['file'], points=points, detector='json')


def _read_shards(path: str | os.PathLike[str], where: str) -> Iterator[LandmarkRow]:
    try:
        with open(os.path.join(path, INDEX), encoding='utf-8') as file:
            index = json.load(file)
        schema, shards = index['schema'], dict(index['shards'])
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f'{where}: no {INDEX}; expected a complete folder of landmark shards'
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f'{where}: damaged {INDEX} ({error}); write the shards again') from error
    if schema != SCHEMA:
        raise ValueError(f'{where}: schema {schema!r}, this program reads {SCHEMA}')
    for file_name, count in shards.items():
        full = os.path.join(path, os.path.basename(file_name))
        yield from read_shard(full, count, f'{where}: {file_name}')


def read_shard(path: str, count: int, where: str) -> Iterator[LandmarkRow]:
    """The rows of one shard that must hold `count`; errors begin with `where`."""
    if not os.path.exists(path):
        raise FileNotFoundError(f'{where}: missing; write or copy the shards again')
    for i, record in enumerate(_read_shard(path, count, where)):
        yield decode_row(record, f'{where}: record {i}')


def _read_shard(path: str, count: int, where: str) -> list[bytes]:
    reader = None
    try:
        reader = array_record_module.ArrayRecordReader(path)
        stored = reader.num_records()
        # Damage at the end may make a shard open as an empty one.
        if stored != count:
            raise ValueError(
                f'{where}: damaged shard, {stored} records where {INDEX} counts {count}; '
                'write or copy it again'
            )
        return list(reader.read_all()) if count else []
    except RuntimeError as error:
        at = '' if reader is None else f', record {_first_bad(reader, count)}'
        raise ValueError(f'{where}: damaged shard{at} ({error}); write or copy it again') from error
    finally:
        # Closing a damaged shard raises once more.
        with contextlib.suppress(RuntimeError):
            if reader is not None:
                reader.close()


def _first_bad(reader: Any, count: int) -> int | str:
    for i in range(count):
        try:
            reader.read([i])
        except RuntimeError:
            return i
    return '?'


def _read_npz(path: str | os.PathLike[str], where: str) -> Iterator[LandmarkRow]:
    fields: dict[str, np.ndarray] = {}
    try:
        with open(path, 'rb') as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError('a single array')
            with archive:
                for key in ('name', 'points', 'detected', 'score', 'box'):
                    if key in archive:
                        fields[key] = archive[key]
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f'{where}: not a readable .npz of plain arrays ({error}); expected a folder of shards '
            'or an .npz'
        ) from error
    if missing := {'name', 'points'} - set(fields):
        raise ValueError(f'{where}: no field {sorted(missing)}; expected name and points')
    n = len(np.atleast_1d(fields['name']))
    fields.setdefault('detected', np.ones(n, bool))
    shapes = {'name': (n,), 'points': (n, *_POINTS), 'detected': (n,), 'score': (n,), 'box': (n, 4)}
    for key, array in fields.items():
        if array.shape != shapes[key]:
            raise ValueError(f'{where}: {key} of shape {array.shape}; expected {shapes[key]}')
    if fields['name'].dtype.kind != 'U' or fields['points'].dtype.kind != 'f':
        raise ValueError(
            f'{where}: name {fields["name"].dtype} and points {fields["points"].dtype}; '
            'expected text and floats'
        )
    boxes = fields['box'].tolist() if 'box' in fields else []
    scores = fields['score'].tolist() if 'score' in fields else [math.nan] * n
    for i, name in enumerate(fields['name'].tolist()):
        yield LandmarkRow(
            name=name,
            points=fields['points'][i],
            found=bool(fields['detected'][i]),
            score=float(scores[i]),
            detector='npz',
            box=tuple(boxes[i]) if 'box' in fields else None,
        )


# ------------------------------------------------------------------------------------ import


def import_npz(
    npz: str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    detector: str,
    version: str = '',
    num_shards: int = 1,
) -> dict[str, Any]:
    """Turns an .npz of landmarks into shards, and says which detector made them."""
    table = read_table(npz)
    rows = (
        dataclasses.replace(row, detector=detector, detector_version=version)
        for row in table.values()
    )
    return write_shards(rows, out_dir, num_shards)


def main(argv: list[str] | None = None) -> int:
    """The command line; 0 if done, 1 if refused with one line of reason."""
    parser = argparse.ArgumentParser(
        prog='python -m fi_jax.input_pipeline.landmark_shards', description=import_npz.__doc__
    )
    command = parser.add_subparsers(dest='command', required=True).add_parser('import')
    command.add_argument('--npz', required=True, help='file with name, points, detected')
    command.add_argument('--out', required=True, help='folder to make')
    command.add_argument('--detector', required=True, help='what found the points: dlib68, ...')
    command.add_argument('--version', default='', help='its version')
    command.add_argument('--num_shards', type=int, default=1)
    args = parser.parse_args(argv)
    try:
        index = import_npz(args.npz, args.out, args.detector, args.version, args.num_shards)
    except (ValueError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    print(f'{args.out}: {index["num_rows"]} rows, {index["num_found"]} with a face found.')
    return 0


if __name__ == '__main__':
    sys.exit(main())
