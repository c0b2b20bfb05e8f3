"""Weights that come with the package: found by name, known by their SHA-256.

`shipped.json` in this folder lists them: name -> file, sha256, terms, about; the first is taken
where none is named. An export into this folder adds its line.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

FOLDER = Path(__file__).parent
LIMIT = 25_000_000  # bytes, of all files together


@dataclass(frozen=True)
class Shipped:
    """A file that comes with the package. terms: under which it may be used."""

    file: str
    sha256: str
    terms: str
    about: str


SHIPPED: dict[str, Shipped] = {
    name: Shipped(**entry)
    for name, entry in json.loads((FOLDER / 'shipped.json').read_text()).items()
}


def add(name: str, entry: Shipped) -> None:
    """List a file of this folder under a name, in place of what that name stood for."""
    SHIPPED[name] = entry
    listed = {key: asdict(one) for key, one in SHIPPED.items()}
    (FOLDER / 'shipped.json').write_text(json.dumps(listed, indent=2) + '\n')


def path_of(name: str) -> Path | None:
    """Where the file of a name lies; None where no such name is known."""
    return FOLDER / SHIPPED[name].file if name in SHIPPED else None


def sha256_of(path: Path) -> str:
    """What the SHA-256 of a file of this folder must be; '' for any other file."""
    known = {(FOLDER / x.file).resolve(): x.sha256 for x in SHIPPED.values()}
    return known.get(path.resolve(), '')
