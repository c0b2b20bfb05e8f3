"""Atomic writes: a file is complete, or as it was before."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """A path to write to, which takes the place of `path` at the end; its folder is made.

    After an error the old file stands as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + '.part')
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
