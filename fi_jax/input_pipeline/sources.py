"""Where images come from: random-access records from folders, zips, TFDS and drawn faces.

A source is a sequence of `Record`s. Landmarks and identities are joined to it by name, and splits
are cut by a hash of the identity (or name), so that neither depends on the order of the files.
"""

import argparse
import contextlib
import csv
import dataclasses
import hashlib
import io
import itertools
import os
import stat
import struct
import warnings
import weakref
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import cv2
import numpy as np
from absl import logging
from PIL import Image

if TYPE_CHECKING:
    from fi_jax.input_pipeline.landmark_shards import LandmarkRow

SOURCES = ('procedural', 'folder', 'zip', 'tfds', 'celeba', 'celeba_hq', 'ffhq')
SPLITS = ('train', 'val', 'test')
EXTENSIONS = ('.jpg', '.jpeg', '.png', '.webp', '.bmp')
MAX_PIXELS = 64_000_000
MAX_FILE_BYTES = 1 << 28

_FORMATS = ('JPEG', 'PNG', 'WEBP', 'BMP')
_CELEB_A_COUNTS = {'train': 162_770, 'validation': 19_867, 'test': 19_962}


class BadImage(ValueError):
    """An image that cannot be read or decoded; the message names the record."""


@dataclasses.dataclass(frozen=True)
class Record:
    """One stored image and what is known of it."""

    image: bytes | np.ndarray  # encoded file, or (H,W,3) uint8 RGB
    name: str  # key of the image within the source, unique
    landmarks: np.ndarray | None = None  # (68,2) float32, pixels of the decoded image
    identity: int | None = None
    attributes: Mapping[str, int] | None = None
    to_source: np.ndarray | None = None  # (2,3), pixels of a crop -> of the photo it was cut from


class Source(Protocol):
    """Random access to records.

    `names` (tuple of str) is there when it costs no decoding, `splits` (our name -> indices) when
    the set is cut already.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Record: ...


# ---------------------------------------------------------------------------------- decoding


def decode(image: bytes | np.ndarray, name: str, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decodes one image, upright by its EXIF orientation; the only decoder of the project.

    Grey and palette images are spread to RGB, CMYK and 16 bits converted, alpha is dropped.

    Args:
        image: encoded JPEG, PNG, WebP or BMP, or an array (H,W,3), (H,W,4), (H,W,1) or (H,W) uint8.
        name: key of the record, for messages.
        max_pixels: refused above this many, before any pixel is decoded.

    Returns:
        (H,W,3) uint8 RGB.

    Raises:
        BadImage: not an image, damaged, or too large.
    """
    if isinstance(image, np.ndarray):
        return _rgb(image, name, max_pixels)
    try:
        # cv2 has no header call and would decode a 1-gigapixel bomb, so PIL reads the size first.
        with Image.open(io.BytesIO(image), formats=_FORMATS) as header:
            width, height = header.size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadImage(f'{name}: {error}; make the image smaller') from error
    except Exception as error:  # PIL's parsers raise many kinds
        raise BadImage(f'{name}: not a readable JPEG, PNG, WebP or BMP image') from error
    _check_pixels(height, width, name, max_pixels)
    try:
        pixels = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error as error:
        raise BadImage(f'{name}: damaged image ({error})') from error
    if pixels is None:
        raise BadImage(f'{name}: damaged or truncated image; replace or remove the file')
    return pixels


def _rgb(image: np.ndarray, name: str, max_pixels: int) -> np.ndarray:
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or 0 in image.shape:
        raise BadImage(
            f'{name}: array {image.shape} {image.dtype} is no image; expected (H,W,3) uint8'
        )
    image = image[..., None] if image.ndim == 2 else image
    if image.shape[2] not in (1, 3, 4):
        raise BadImage(f'{name}: {image.shape[2]} channels; expected 3 (RGB)')
    _check_pixels(image.shape[0], image.shape[1], name, max_pixels)
    image = np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image[..., :3]
    return np.ascontiguousarray(image)


def _check_pixels(height: int, width: int, name: str, max_pixels: int) -> None:
    if height * width > max_pixels:
        raise BadImage(
            f'{name}: {width}x{height} is above the limit of {max_pixels:,} pixels; '
            'make the image smaller'
        )


# ---------------------------------------------------------------------------- folder and zip


class Folder:
    """Images of a folder and its sub-folders, sorted by name.

    Links to files are read, linked folders are not entered; hidden files are left out.

    Raises:
        FileNotFoundError: the folder is absent.
        ValueError: it is not a folder, or holds no image.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self._path = os.fspath(path)
        if not os.path.exists(self._path):
            raise FileNotFoundError(f'data.path={self._path}: no such folder; check the path')
        if not os.path.isdir(self._path):
            raise ValueError(
                f"data.path={self._path}: is a file, not a folder; for a zip set data.source='zip'"
            )
        self.names: tuple[str, ...] = _checked(_walk(self._path), self._path, 'files')

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Record:
        name = self.names[index]
        # Not blocking, lest a pipe with an image's name stop a worker for ever.
        try:
            fd = os.open(os.path.join(self._path, name), os.O_RDONLY | os.O_NONBLOCK)
        except OSError as error:
            raise BadImage(f'{self._path}: {name}: {error.strerror}') from error
        with open(fd, 'rb') as file:
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode):
                raise BadImage(f'{self._path}: {name}: not a regular file; remove it')
            _check_bytes(info.st_size, f'{self._path}: {name}')
            return Record(image=file.read(MAX_FILE_BYTES), name=name)


class Zip:
    """Images in a zip, sorted by name, read in place: nothing is extracted.

    Safe to share between threads (positional reads, no seek) and to pickle. Every member's CRC-32
    is checked as it is read.

    Raises:
        FileNotFoundError: the file is absent.
        ValueError: not a zip, no image in it, or members that are encrypted or packed otherwise
            than stored or deflated.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self._path = os.fspath(path)
        if not os.path.exists(self._path):
            raise FileNotFoundError(f'data.path={self._path}: no such file; check the path')
        if os.path.isdir(self._path):
            raise ValueError(
                f"data.path={self._path}: is a folder, not a zip; set data.source='folder'"
            )
        try:
            with zipfile.ZipFile(self._path) as archive:
                members = [m for m in archive.infolist() if _is_image(m.filename)]
        except zipfile.BadZipFile as error:
            raise ValueError(
                f'data.path={self._path}: not a readable zip ({error}); pack the images again'
            ) from error
        self.names: tuple[str, ...] = _checked([m.filename for m in members], self._path, 'members')
        for m in members:
            # Outputs may be named after a record, so a name must stay inside any folder.
            if '..' in m.filename.split('/') or m.filename[0] == '/' or '\\' in m.filename:
                raise ValueError(
                    f'data.path={self._path}: member {m.filename} names a place outside the zip; '
                    'pack the images again'
                )
            if m.flag_bits & 1 or m.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(
                    f'data.path={self._path}: member {m.filename} is encrypted or packed in an '
                    'unusual way; pack the images again, stored or deflated'
                )
        members.sort(key=lambda m: m.filename)
        # header offset, packed size, size, CRC-32, compression
        self._index = np.array(
            [(m.header_offset, m.compress_size, m.file_size, m.CRC, m.compress_type)
             for m in members], np.int64,
        )  # fmt: skip
        self._open()

    def _open(self) -> None:
        self._fd = os.open(self._path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._fd)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != '_fd'}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Record:
        name = self.names[index]
        offset, packed, size, crc, compression = (int(v) for v in self._index[index])
        where = f'{self._path}: {name}'
        _check_bytes(max(packed, size), where)
        header = os.pread(self._fd, 30, offset)
        if len(header) < 30 or header[:4] != b'PK\x03\x04':
            raise BadImage(f'{where}: damaged zip member (no header); pack the images again')
        name_length, extra_length = struct.unpack('<HH', header[26:30])
        data = os.pread(self._fd, packed, offset + 30 + name_length + extra_length)
        if compression == zipfile.ZIP_DEFLATED:
            try:
                data = zlib.decompressobj(-15).decompress(data, size + 1)
            except zlib.error as error:
                raise BadImage(f'{where}: damaged zip member ({error})') from error
        if len(data) != size or zlib.crc32(data) != crc:
            raise BadImage(f'{where}: damaged zip member (CRC-32 differs); pack the images again')
        return Record(image=data, name=name)


def _walk(root: str) -> list[str]:
    names, pending = [], ['']
    while pending:
        prefix = pending.pop()
        with os.scandir(os.path.join(root, prefix)) as entries:
            for entry in entries:
                name = prefix + entry.name
                if entry.is_dir(follow_symlinks=False):
                    if not entry.name.startswith('.'):
                        pending.append(name + '/')
                elif _is_image(name) and entry.is_file():
                    names.append(name)
    return names


def _is_image(name: str) -> bool:
    parts = set(name.split('/')) - {'.', '..'}
    hidden = any(part.startswith('.') or part == '__MACOSX' for part in parts)
    return name.lower().endswith(EXTENSIONS) and not hidden


def _checked(names: list[str], path: str, what: str) -> tuple[str, ...]:
    if not names:
        raise ValueError(f'data.path={path}: no images found; expected {", ".join(EXTENSIONS)} '
                         f'{what} (hidden ones and linked folders are not read)')  # fmt: skip
    ordered = tuple(sorted(names))
    for name, following in itertools.pairwise(ordered):
        if name == following:
            raise ValueError(f'data.path={path}: two {what} are named {name}; rename one')
    try:
        '\n'.join(ordered).encode()
    except UnicodeEncodeError as error:
        bad = error.object[max(0, error.start - 40) : error.end + 10]
        raise ValueError(
            f'data.path={path}: a file name is not valid UTF-8, near {bad!r}; rename it'
        ) from error
    return ordered


def _check_bytes(size: int, where: str) -> None:
    if size > MAX_FILE_BYTES:
        raise BadImage(f'{where}: {size:,} bytes is above the limit of {MAX_FILE_BYTES:,}')


# ------------------------------------------------------------------------------------- TFDS


class _Tfds:
    """Records of one split of a prepared TFDS data set."""

    def __init__(self, builder: Any, split: str):
        import tensorflow_datasets as tfds

        name, features = builder.info.name, builder.info.features
        images = [k for k, f in features.items() if isinstance(f, tfds.features.Image)]
        if not images:
            raise ValueError(f'data.name={name}: no image among its features {sorted(features)}')
        self._image = 'image' if 'image' in images else images[0]
        decoders = {self._image: tfds.decode.SkipDecoding()}
        try:
            self._data = builder.as_data_source(split, decoders=decoders)
        except NotImplementedError as error:
            raise ValueError(
                f'data.name={name}: {builder.data_dir} is not in ArrayRecord format; prepare it '
                'with --file_format=array_record'
            ) from error
        self._name = next((k for k in ('name', 'filename', 'file_name') if k in features), None)
        self._aligned = 'to_source' in features
        self._landmarks = 'landmarks' in features and features['landmarks'].shape == (68, 2)
        self._pickled = os.fspath(builder.data_dir), split
        self.splits: dict[str, np.ndarray]  # set by `_whole` alone

    def __reduce__(self) -> tuple[Any, ...]:
        return _tfds_reopen, self._pickled

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> Record:
        if not -len(self) <= index < len(self):
            raise IndexError(f'index {index} of {len(self)} records')
        try:
            example = self._data[int(index) % len(self)]
        except RuntimeError as error:  # ArrayRecord's own word for a damaged file
            folder, split = self._pickled
            why = ' '.join(str(error).split())[:120]
            raise BadImage(
                f'{folder}: record {index} of {split} is damaged ({why}); prepare the set again'
            ) from error
        image = example[self._image]
        if self._name is None:
            raw = image if isinstance(image, bytes) else np.ascontiguousarray(image).tobytes()
            name = hashlib.sha256(raw).hexdigest()[:16]
        else:
            name = example[self._name]
            name = name.decode() if isinstance(name, bytes) else str(name)
        landmarks = None
        if self._landmarks and example.get('has_landmarks', True):
            landmarks = np.asarray(example['landmarks'], np.float32)
        identity = example.get('identity')
        if isinstance(identity, Mapping):  # celeb_a: {'Identity_No': ...}
            identity = next(iter(identity.values()), None)
        identity = None if identity is None or int(identity) < 0 else int(identity)
        attributes = example.get('attributes')
        if isinstance(attributes, Mapping):
            attributes = {key: int(value) for key, value in attributes.items()}
        else:
            attributes = None
        to_source = np.asarray(example['to_source'], np.float64) if self._aligned else None
        return Record(image, name, landmarks, identity, attributes, to_source)


@contextlib.contextmanager
def _quiet_protobuf() -> Iterator[None]:
    """TFDS 4.9.10 reads its metadata through a call that protobuf has since deprecated."""
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', message='label', category=DeprecationWarning)
        yield


def _tfds_reopen(directory: str, split: str) -> _Tfds:
    import tensorflow_datasets as tfds

    with _quiet_protobuf():
        return _Tfds(tfds.builder_from_directory(directory), split)


def _tfds_builder(name: str, data_dir: str | None) -> Any:
    # Imported here: it takes a second, and most runs read a folder, a zip or drawn faces.
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import read_only_builder

    data_dir = os.path.expanduser(data_dir or os.path.join('~', 'tensorflow_datasets'))
    try:
        with _quiet_protobuf():
            builder = read_only_builder.builder_from_files(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        raise FileNotFoundError(
            f'data.name={name}: not prepared in data.data_dir={data_dir}; run '
            f'`tfds build {name.partition(":")[0]} --data_dir={data_dir} '
            '--file_format=array_record`, or for your own images '
            '`python -m fi_jax.input_pipeline.prepare`'
        ) from error
    counts = {split: info.num_examples for split, info in builder.info.splits.items()}
    if builder.info.name == 'celeb_a' and counts != _CELEB_A_COUNTS:
        raise ValueError(
            f'data.name=celeb_a: splits {counts} are not the official {_CELEB_A_COUNTS}; '
            f'remove {builder.data_dir} and prepare it again'
        )
    return builder


def _tfds_split(builder: Any, split: str) -> str:
    """Our name of a split -> that of the data set."""
    for name in (split, 'validation' if split == 'val' else split):
        if name in builder.info.splits:
            return name
    raise ValueError(
        f'data.name={builder.info.name}: no split {split!r}; it has {sorted(builder.info.splits)}'
    )


def _whole(builder: Any) -> _Tfds:
    """All splits of a data set, one after the other, with `splits` to tell them apart."""
    counts = {split: info.num_examples for split, info in builder.info.splits.items()}
    whole = _Tfds(builder, '+'.join(counts))
    ends = list(itertools.accumulate(counts.values()))
    whole.splits = {
        'val' if split == 'validation' else split: np.arange(end - counts[split], end)
        for split, end in zip(counts, ends, strict=True)
    }
    return whole


def tfds_source(name: str, split: str = 'train', data_dir: str | None = None) -> Source:
    """A split of a data set prepared by TFDS in ArrayRecord format, read without TensorFlow.

    A record's name is the feature 'name', 'filename' or 'file_name', else the first 16 hex digits
    of the sha256 of the encoded image. It has no `names`: see `names_and_identities`.

    Args:
        name: as in `tfds.load`: 'celeb_a', 'name/config', 'name:1.0.0'.
        split: 'train', 'val' (also finds 'validation'), 'test', 'all', or a TFDS slice.
        data_dir: folder given to TFDS; None is ~/tensorflow_datasets.

    Raises:
        FileNotFoundError: not prepared there.
        ValueError: no such split, no image feature, not ArrayRecord, or celeb_a of a wrong size.
    """
    builder = _tfds_builder(name, data_dir)
    if split != 'all' and '[' not in split and '+' not in split:
        split = _tfds_split(builder, split)
    return _Tfds(builder, split)


# --------------------------------------------------------------------------- join and split


class _Joined:
    """A source whose records are completed by name."""

    def __init__(
        self,
        source: Source,
        landmarks: 'Mapping[str, LandmarkRow] | None' = None,
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
    source: Source, table: 'Mapping[str, LandmarkRow]', *, field: str = 'data.landmarks'
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


# ---------------------------------------------------------------------------------- factory


def make_source(data: Any, split: str) -> Source:
    """Opens the source that a config names, joined and cut to a split.

    Args:
        data: attributes `source` (one of SOURCES); `path` (all but tfds and procedural); `name`,
            `data_dir` (tfds);
            `length`, `size`, `seed` (procedural); and for all, optional, `landmarks` and
            `identities` (files to join), `val_share` and `test_share`.
        split: 'train', 'val', 'test' or 'all'.

    Returns:
        The source. A published or TFDS data set that has the split is read as it is cut there;
        everything else is cut by `split_indices`.

    Raises:
        ValueError, FileNotFoundError: naming the field of `data` to mend.
    """
    if split not in (*SPLITS, 'all'):
        raise ValueError(f'split {split!r} is unknown; expected one of {(*SPLITS, "all")}')
    source, is_cut = _open(data, split)
    if path := getattr(data, 'landmarks', None):
        from fi_jax.input_pipeline import landmark_shards

        source = with_landmarks(
            source, landmark_shards.read_table(path), field=f'data.landmarks={path}'
        )
    identities: dict[str, int] = {}
    if path := getattr(data, 'identities', None):
        identities = read_identities(path)
        source = with_identities(source, identities, field=f'data.identities={path}')
    if split == 'all' or is_cut:
        return source
    persons: Iterable[int | None]
    names = getattr(source, 'names', None)
    if names is None and data.source == 'procedural':
        # A drawn face is its index: no need to draw all of them to learn their names.
        names = tuple(str(i) for i in range(len(source)))
    if names is None:
        names, persons = names_and_identities(source)
    else:
        persons = (identities.get(name) for name in names)
    val_share, test_share = getattr(data, 'val_share', 0.0), getattr(data, 'test_share', 0.0)
    indices = split_indices(names, list(persons), val_share, test_share)[split]
    if not len(indices):
        raise ValueError(
            f'split {split!r} is empty: data.val_share={val_share}, data.test_share={test_share} '
            f'of {len(names)} images; raise the share'
        )
    return subset(source, indices)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of the offline jobs that name a source; see `from_flags`."""
    add = parser.add_argument_group('source').add_argument
    add('--source', required=True, choices=SOURCES)
    add('--path', help='the folder or zip; for celeba, celeba_hq and ffhq that of official files')
    add('--set', help='tfds: name of the data set, such as celeb_a')
    add('--data_dir', help='tfds: folder of data sets (~/tensorflow_datasets)')
    add('--length', type=int, default=1000, help='procedural: faces to draw (%(default)s)')
    add('--size', type=int, default=128, help='procedural: their side in pixels (%(default)s)')
    add('--seed', type=int, default=0, help='procedural: which faces (%(default)s)')


def from_flags(args: argparse.Namespace) -> argparse.Namespace:
    """What `make_source` reads, of parsed flags."""
    return argparse.Namespace(**(vars(args) | {'name': args.set}))


def _open(data: Any, split: str) -> tuple[Source, bool]:
    """The source as stored, and whether it is already cut to the split."""
    kind = getattr(data, 'source', None)
    if kind == 'procedural':
        from fi_jax.input_pipeline.procedural import ProceduralFaces

        kwargs = {
            k: getattr(data, k) for k in ('size', 'seed') if getattr(data, k, None) is not None
        }
        return ProceduralFaces(data.length, **kwargs), False
    if kind in ('folder', 'zip'):
        path = getattr(data, 'path', None)
        if not path:
            raise ValueError(f'data.path is not set; data.source={kind} needs it')
        return (Folder if kind == 'folder' else Zip)(path), False
    if kind == 'tfds':
        name = getattr(data, 'name', None)
        if not name:
            raise ValueError('data.name is not set; data.source=tfds needs it')
        builder = _tfds_builder(name, getattr(data, 'data_dir', None))
        if len(builder.info.splits) == 1:
            return _Tfds(builder, 'all'), False
        if split == 'all':
            return _whole(builder), True
        return _Tfds(builder, _tfds_split(builder, split)), True
    if kind in SOURCES:
        from fi_jax.input_pipeline import published

        path = getattr(data, 'path', None)
        if not path:
            raise ValueError(f'data.path is not set; data.source={kind} needs it')
        whole = published.SETS[kind](os.fspath(path))
        if split not in (*whole.splits, 'all'):
            raise ValueError(
                f'data.source={kind}: no split {split!r}; it has {sorted(whole.splits)}'
            )
        return (whole if split == 'all' else subset(whole, whole.splits[split])), True
    raise ValueError(f'data.source={kind!r} is unknown; expected one of {", ".join(SOURCES)}')
