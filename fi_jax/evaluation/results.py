"""What an evaluation leaves behind: the scores of each image, saved and loaded."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fi_jax.metrics import bootstrap
from fi_jax.metrics.groups import groups_of
from fi_jax.run.files import atomic_write

Scores = dict[str, np.ndarray]  # metric -> (n,), NaN where it is not defined
_ARRAYS = ('names', 'fingerprint', 'area', 'kind', 'holes')


@dataclasses.dataclass(frozen=True)
class Face:
    """One row of the gallery: why it is there, and pictures (H,W,3) uint8 by title."""

    why: str
    name: str
    score: float
    pictures: Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Results:
    """An evaluation: n examples, rows (a method or a baseline each) and their scores.

    fingerprint (n,) uint64 of truth and hole, area (n,) missing pixels, kind (n,) index into
    protocol['kinds'], holes (n,bytes) uint8 packed bits, attributes name -> (n,) 1, 0, or
    -1 where not known. sets holds the metrics of sets of images. skipped says what is missing and
    why.
    """

    protocol: dict[str, Any]
    names: np.ndarray
    fingerprint: np.ndarray
    area: np.ndarray
    kind: np.ndarray
    holes: np.ndarray
    attributes: dict[str, np.ndarray]
    scores: dict[str, Scores]
    sets: dict[str, dict[str, bootstrap.Estimate]]
    skipped: dict[str, str]
    gallery: tuple[Face, ...] = ()

    @property
    def primary(self) -> list[str]:
        """The rows the evaluation is about; the first is the one compared with all others."""
        return [row for row in self.protocol['primary'] if row in self.scores]

    @property
    def pixels(self) -> int:
        """Pixels of a frame."""
        height, width = self.protocol['size']
        return height * width

    def groups(self) -> dict[str, np.ndarray]:
        """Members (n,) of 'all', of each area bin and of each hole kind that has any."""
        found = groups_of(self.area, self.kind, self.pixels, self.protocol['kinds'])
        return {name: member for name, member in found.items() if member.any()}


def fingerprint(image: np.ndarray, hole: np.ndarray) -> int:
    """64 bits that tell whether two evaluations saw the same truth and the same hole."""
    shape = np.array(image.shape, np.int64).tobytes()
    digest = hashlib.sha256(shape + image.tobytes() + np.packbits(hole > 0).tobytes()).digest()
    return int.from_bytes(digest[:8], 'little')


def holes_sha256(holes: np.ndarray) -> str:
    """The hash of all holes, packed bits (n,bytes), in order."""
    return hashlib.sha256(np.ascontiguousarray(holes).tobytes()).hexdigest()


def save(results: Results, path: str | Path) -> None:
    """Write an .npz with everything of an evaluation; atomic."""
    head = {
        'protocol': results.protocol,
        'sets': {
            r: {m: dataclasses.asdict(x) for m, x in cells.items()}
            for r, cells in results.sets.items()
        },
        'skipped': results.skipped,
        'scores': {row: list(scores) for row, scores in results.scores.items()},
        'attributes': list(results.attributes),
        'gallery': [[f.why, f.name, f.score, list(f.pictures)] for f in results.gallery],
    }
    arrays = {name: getattr(results, name) for name in _ARRAYS}
    for r, scores in enumerate(results.scores.values()):
        arrays[f'scores_{r}'] = np.array(list(scores.values()), np.float64)
    if results.attributes:
        arrays['attributes'] = np.array(list(results.attributes.values()), np.int8)
    for f, face in enumerate(results.gallery):
        arrays[f'gallery_{f}'] = np.array(list(face.pictures.values()), np.uint8)
    with atomic_write(path) as part, open(part, 'wb') as file:
        np.savez_compressed(file, head=np.array(json.dumps(head)), **arrays)


def load(path: str | Path) -> Results:
    """The evaluation saved in an .npz; FileNotFoundError, or ValueError where it is another."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'{path}: no such evaluation; run python -m fi_jax.evaluate on it')
    try:
        with np.load(path, allow_pickle=False) as file:
            head = json.loads(str(file['head']))
            scores = {
                row: dict(zip(metrics, file[f'scores_{r}'], strict=True))
                for r, (row, metrics) in enumerate(head['scores'].items())
            }
            names = head['attributes']
            attributes = dict(zip(names, file['attributes'], strict=True)) if names else {}
            gallery = tuple(
                Face(why, name, score, dict(zip(titles, file[f'gallery_{f}'], strict=True)))
                for f, (why, name, score, titles) in enumerate(head['gallery'])
            )
            return Results(
                protocol=_renamed(head['protocol']),
                **{name: file[name] for name in _ARRAYS},
                attributes=attributes,
                scores=scores,
                sets={
                    row: {m: bootstrap.Estimate(**x) for m, x in cells.items()}
                    for row, cells in head['sets'].items()
                },
                skipped=head['skipped'],
                gallery=gallery,
            )
    except (KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f'{path}: is no evaluation of fi_jax ({error})') from error


def _renamed(protocol: dict[str, Any]) -> dict[str, Any]:
    """A protocol, of whatever version, under today's names."""
    out = dict(protocol)
    if 'reader' in out:
        detector = out['landmark_detector'] = dict(out.pop('reader'))
        if 'interested' in detector:
            detector['leads_completions'] = detector.pop('interested')
    if out.get('landmarks') == 'reader':
        out['landmarks'] = 'landmark_detector'
    return out
