"""Images of a folder or a zip, read in place."""

from __future__ import annotations

import collections
import itertools
import os
import stat
import struct
import weakref
import zipfile
import zlib
from typing import Any

import numpy as np
from absl import logging

from fi_jax.input_pipeline.records import BadImage, Record

EXTENSIONS = (
    '.jpg', '.jpeg', '.jpe', '.jfif', '.png', '.webp', '.bmp', '.tif', '.tiff', '.gif', '.ppm',
    '.pgm',
)  # fmt: skip
# Of pictures that are not read: these are counted, and named in the log.
OTHER_EXTENSIONS = (
    '.heic', '.heif', '.avif', '.jp2', '.jxl', '.psd', '.svg', '.pdf', '.dng', '.cr2', '.cr3',
    '.nef', '.arw', '.raf', '.orf', '.rw2', '.raw', '.tga', '.exr', '.hdr', '.ico', '.pcx', '.sgi',
)  # fmt: skip
MAX_FILE_BYTES = 1 << 28


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


class FileAt:
    """A file read at any place, by any thread; opened anew where it is unpickled."""

    def __init__(self, path: str | os.PathLike[str]):
        self._path = path
        self._fd = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._fd)

    def __reduce__(self) -> Any:
        return FileAt, (self._path,)

    def read(self, size: int, offset: int) -> bytes:
        """At most size bytes from an offset; fewer at the end of the file."""
        return os.pread(self._fd, size, offset)


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
                infos = archive.infolist()
        except zipfile.BadZipFile as error:
            raise ValueError(
                f'data.path={self._path}: not a readable zip ({error}); pack the images again'
            ) from error
        self.names: tuple[str, ...] = _checked([m.filename for m in infos], self._path, 'members')
        images = set(self.names)
        members = [m for m in infos if m.filename in images]
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
        self._file = FileAt(self._path)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Record:
        name = self.names[index]
        offset, packed, size, crc, compression = self._index[index].tolist()
        where = f'{self._path}: {name}'
        _check_bytes(max(packed, size), where)
        header = self._file.read(30, offset)
        if len(header) < 30 or header[:4] != b'PK\x03\x04':
            raise BadImage(f'{where}: damaged zip member (no header); pack the images again')
        name_length, extra_length = struct.unpack('<HH', header[26:30])
        data = self._file.read(packed, offset + 30 + name_length + extra_length)
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
                elif entry.is_file():
                    names.append(name)
    return names


def _is_image(name: str, extensions: tuple[str, ...] = EXTENSIONS) -> bool:
    if not name.lower().endswith(extensions):
        return False
    parts = set(name.split('/')) - {'.', '..'}
    return not any(part.startswith('.') or part == '__MACOSX' for part in parts)


def _checked(found: list[str], path: str, what: str) -> tuple[str, ...]:
    """The images among the names found, sorted; says what pictures are left out."""
    names = [name for name in found if _is_image(name)]
    others = collections.Counter(
        os.path.splitext(name)[1].lower() for name in found if _is_image(name, OTHER_EXTENSIONS)
    )
    left = ', '.join(f'{count} {ending}' for ending, count in others.most_common())
    if not names:
        left = f'; there are {left}, to be converted to .jpg or .png' if left else ''
        raise ValueError(f'data.path={path}: no images found; expected {", ".join(EXTENSIONS)} '
                         f'{what} (hidden ones and linked folders are not read){left}')  # fmt: skip
    if left:
        logging.warning(
            'data.path=%s: %d of %d pictures are left out by their type (%s); convert them to .jpg '
            'or .png', path, others.total(), others.total() + len(names), left,
        )  # fmt: skip
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
