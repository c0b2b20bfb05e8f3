"""The command `fi-jax inpaint`: photos and their holes -> completions, as files.

    fi-jax inpaint photo.jpg --hole hole.png
    fi-jax inpaint photos/ --hole holes/ -n 4 --out completed
    fi-jax inpaint photo.png --hole alpha --vary appearance
    fi-jax inpaint --demo

White is missing. OUT/<name>/ holds 00.png, 01.png, ... at the photo's own size, every pixel outside
the hole as it was; sheet.jpg, all of them at a glance; uncertainty.png, where they differ; and
sidecar.json, with what draws them again. OUT/report.json tells what became of each photo.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image
from tqdm import tqdm

import fi_jax
from fi_jax import pictures, sharding
from fi_jax.input_pipeline import alignment
from fi_jax.input_pipeline.archives import Folder
from fi_jax.photo import blending
from fi_jax.photo.reading import read_hole, read_photo
from fi_jax.photo.restorer import Restorer, load
from fi_jax.photo.result import Result
from fi_jax.run.files import atomic_write
from fi_jax.run.writers import save_json, save_png, write_png

_OF_HOLE = re.compile(r'(.+)[_-](?:mask|hole)[_-]?\d*')  # how the hole of a photo is named
SIDECAR, REPORT = 'sidecar.json', 'report.json'
_TILE = 180
_WRITERS = min(4, os.cpu_count() or 1)
_AT_ONCE = 16_000_000  # photo pixels in the hands of all writers; one may need 100 bytes of each


@dataclasses.dataclass(frozen=True)
class Job:
    """A photo, its hole (a path, 'alpha' or 'white'; None: missing), its name in OUT, its face."""

    photo: Path
    hole: Path | str | None
    name: str
    face: tuple[float, ...] | None = None


def main(arguments: list[str]) -> int:
    """The command line -> exit code: 0 all done, 1 refused, 2 some photos were left out."""
    options = _parser().parse_args(arguments)
    try:
        jobs = [_demo(options.out)] if options.demo else []
        if options.photo or not options.demo:
            jobs += jobs_of(options.photo, options.hole)
        restorer = load(options.weights, options.predictor)
        if not jax.config.values['jax_compilation_cache_dir']:
            sharding.keep_compiled(restorer.config.get('compile_cache', ''))
        box = _box(options.face, jobs)
    except (ValueError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    rows = []
    with tqdm(total=len(jobs), unit='photo', disable=options.quiet) as bar:
        for job in jobs:
            bar.set_postfix_str(job.photo.name)
            try:
                rows.append(complete(restorer, job, options, box, bar))
            except (ValueError, OSError) as error:  # a photo's own fault ends that photo alone
                rows.append({'photo': str(job.photo), 'status': 'failed', 'why': str(error)})
                bar.write(f'{job.photo}: {error}', file=sys.stderr)
            bar.update(1)
    save_json(options.out / REPORT, {'weights': known(restorer), 'photos': rows})
    counts = {s: sum(r['status'] == s for r in rows) for s in ('done', 'kept', 'failed')}
    if not options.quiet:
        print(
            f'{counts["done"]} completed, {counts["kept"]} kept as they were, {counts["failed"]} '
            f'left out: {options.out}/'
        )
    return 2 if counts['failed'] else 0


def complete(
    restorer: Restorer,
    job: Job,
    options: argparse.Namespace,
    box: Sequence[float] | None,
    bar: tqdm,
) -> dict[str, Any]:
    """One photo to its files -> its row of the report."""
    out = options.out / job.name
    if (out / SIDECAR).exists():
        if options.if_exists == 'skip':
            return {'photo': str(job.photo), 'status': 'kept', 'out': str(out)}
        if options.if_exists == 'error':
            raise FileExistsError(
                f'{out} is there already; add --if-exists=skip or --if-exists=overwrite'
            )
    if job.hole is None:
        stem = job.photo.stem
        raise FileNotFoundError(
            f'no hole for it in {options.hole}; expected {stem}.png, {stem}_mask.png or '
            f'{stem}_mask001.png'
        )
    photo = read_photo(job.photo)
    hole = read_hole(job.hole, photo, options.invert)
    result = restorer(
        photo,
        hole,
        options.num_samples,
        options.seed,
        face=box or job.face,
        structure=0.0 if options.vary == 'appearance' else 1.0,
        appearance=0.0 if options.vary == 'structure' else 1.0,
        guidance=options.guidance,
        steps=options.steps,
        on_progress=lambda done, total: bar.set_postfix_str(f'{job.photo.name} {done}/{total}'),
    )
    about = {
        'photo': job.photo.name,
        'photo_sha256': _sha256(job.photo),
        'hole': job.hole if isinstance(job.hole, str) else job.hole.name,
        'missing': round(float(hole.mean()), 6),
        'seed': options.seed,
        'num_samples': options.num_samples,
        'vary': options.vary,
        'guidance': options.guidance,
        'steps': options.steps,
        'weights': known(restorer),
        'fi_jax': fi_jax.__version__,
    }
    if not isinstance(job.hole, str):
        about['hole_sha256'] = _sha256(job.hole)
    write(result, out, about)
    for note in result.notes:
        bar.write(f'{job.photo.name}: {note}', file=sys.stderr)
    return {'photo': str(job.photo), 'status': 'done', 'out': str(out), 'notes': result.notes}


def write(result: Result, out: Path, about: dict[str, Any]) -> None:
    """The files of a result; the sidecar comes last, so that what has one is whole."""

    def one(k: int) -> np.ndarray:
        pixels = result.pixels(k)
        with atomic_write(out / f'{k:02d}.png') as part, open(part, 'wb') as file:
            told = {'fi_jax': json.dumps(about | {'sample': k})}
            write_png(file, result.photo.image(pixels, result.hole), told)
        return _tile(result, pixels)

    writers = max(1, min(_WRITERS, _AT_ONCE // result.hole.size))
    with ThreadPoolExecutor(writers) as pool:  # compression lets go of the interpreter
        tiles = list(pool.map(one, range(len(result))))
    save_png(out / 'uncertainty.png', _as_grey(result.uncertainty)[..., None])
    with atomic_write(out / 'sheet.jpg') as part, open(part, 'wb') as file:
        Image.fromarray(_sheet(result, tiles)).save(file, 'JPEG', quality=92)
    faces = [
        {
            'box': [round(x, 2) for x in part.face.box],
            'score': round(part.face.score, 4),
            'to_photo': part.crop.to_photo.round(6).tolist(),
            'photo_pixels_to_one': round(part.crop.factor, 3),
            'landmarks': part.landmarks.round(2).tolist(),
        }
        for part in result.parts
    ]
    save_json(out / SIDECAR, about | {'notes': result.notes, 'faces': faces})


def jobs_of(photos: Sequence[str], hole: str) -> Iterator[Job]:
    """Each photo with its hole; folders are read with their sub-folders, in order of name.

    Raises ValueError or FileNotFoundError where there is nothing to do, or two would share a name.
    """
    if not photos or not hole:
        raise ValueError('give photos and their holes: fi-jax inpaint PHOTO... --hole HOLE')
    found: list[tuple[Path, str]] = []
    for given in photos:
        path = Path(given)
        if path.is_dir():
            try:
                names = Folder(path).names
            except ValueError as error:
                raise ValueError(str(error).removeprefix('data.path=')) from error
            stems = {_stem(name) for name in names}
            beside = Path(hole).resolve() == path.resolve()
            for name in names:
                of = _OF_HOLE.fullmatch(_stem(name))
                if not (beside and of and of[1] in stems):
                    found.append((path / name, _stem(name)))
        elif path.is_file():
            found.append((path, path.stem))
        else:
            raise FileNotFoundError(f'{given}: no such file or folder; check the path')
    stems_seen: dict[str, Path] = {}
    for path, stem in found:
        if stem in stems_seen:
            raise ValueError(f'{stems_seen[stem]} and {path}: both are named {stem}; rename one')
        stems_seen[stem] = path
    if hole in ('alpha', 'white'):
        yield from (Job(path, hole, stem) for path, stem in found)
        return
    if Path(hole).is_dir():
        holes: dict[str, Path] = {}
        for name in reversed(Folder(hole).names):
            of = _OF_HOLE.fullmatch(_stem(name))
            holes[_stem(name)] = holes[of[1] if of else _stem(name)] = Path(hole) / name
        for path, stem in found:
            at = holes.get(stem)
            yield Job(path, None if at == path else at, stem)
        return
    if not Path(hole).is_file():
        raise FileNotFoundError(
            f"--hole={hole}: no such file or folder; or give 'alpha' or 'white'"
        )
    yield from (Job(path, Path(hole), stem) for path, stem in found)


def _stem(name: str) -> str:
    return Path(name).with_suffix('').as_posix()


def _demo(out: Path) -> Job:
    """A portrait of the public domain, with a hole over nose and mouth, in OUT."""
    from skimage import data

    astronaut = data.astronaut()
    hole = np.zeros(astronaut.shape[:2], np.uint8)
    hole[108:170, 186:252] = 255
    photo, at = out / 'demo' / 'astronaut.png', out / 'demo' / 'astronaut_hole.png'
    save_png(photo, astronaut)
    save_png(at, hole)
    return Job(photo, at, 'astronaut', (184.0, 92.0, 268.0, 173.0))


def known(restorer: Restorer) -> dict[str, Any]:
    """What names the weights."""
    return {name: restorer.about.get(name) for name in ('name', 'sha256', 'step')}


def _box(text: str, jobs: Sequence[Job]) -> tuple[float, ...] | None:
    if not text:
        return None
    try:
        left, top, right, bottom = (float(x) for x in text.split(','))
    except ValueError:
        raise ValueError(
            f'--face={text}: expected LEFT,TOP,RIGHT,BOTTOM in pixels of the photo'
        ) from None
    if len(jobs) > 1:
        raise ValueError(f'--face={text}: a box is of one photo, and there are {len(jobs)}')
    return left, top, right, bottom


def _sha256(path: Path) -> str:
    with path.open('rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


def _sheet(result: Result, drawn: Sequence[np.ndarray]) -> np.ndarray:
    """The face upright: the hole, its points, the completions drawn, and where they differ."""
    damaged = _tile(result, pictures.with_hole(result.photo.pixels, result.hole[..., None]))
    points = alignment.apply(_to_tile(result), result.landmarks.mean(0))
    columns = {
        'photo': damaged,
        'points': pictures.with_face(damaged, points, pictures.RED, _TILE),
        **{f'{k:02d}': tile for k, tile in enumerate(drawn)},
        'differ': np.stack([_tile(result, _as_grey(result.uncertainty))] * 3, -1),
    }
    return pictures.grid(list(columns), [x[None] for x in columns.values()], _TILE)


def _to_tile(result: Result) -> np.ndarray:
    return alignment.to_canonical(result.face.landmarks, _TILE)


def _tile(result: Result, pixels: np.ndarray) -> np.ndarray:
    """The face of a photo, upright, small."""
    return blending.cut(pixels, result.hole, alignment.invert(_to_tile(result)), _TILE)[0]


def _as_grey(uncertainty: np.ndarray) -> np.ndarray:
    """Grey levels of deviation, four times as bright."""
    return np.clip(uncertainty * 4, 0, 255).astype(np.uint8)


def _parser() -> argparse.ArgumentParser:
    assert __doc__ is not None
    head, _, rest = __doc__.partition('\n')
    parser = argparse.ArgumentParser(
        prog='fi-jax inpaint',
        description=head,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add('photo', nargs='*', help='photos, or folders of them')
    add(
        '--hole',
        default='',
        help='white where pixels are missing: a picture; a folder of them, paired by name '
        "(NAME.png, NAME_mask.png, NAME_mask001.png); 'alpha': transparent pixels; 'white': pure "
        'white ones',
    )
    add('--demo', action='store_true', help='complete a portrait that comes with scikit-image')
    add('--invert', action='store_true', help='black is missing')
    add('-n', '--num-samples', type=int, default=8, help='completions of a photo (8)')
    add('--seed', type=int, default=0, help='of the draws (0)')
    add(
        '--vary',
        choices=('both', 'structure', 'appearance'),
        default='both',
        help='what differs between completions: landmarks, all else, or both',
    )
    add('--weights', default='', help='a name, file or run (the first of `fi-jax weights`)')
    add('--predictor', default='', help='a landmark predictor; needed where the weights have none')
    add('--face', default='', metavar='L,T,R,B', help='box of the face, brow to chin, ear to ear')
    add('--guidance', type=float, help="how hard the landmarks pull (as the weights' config)")
    add('--steps', type=int, help="steps from noise to face (as the weights' config)")
    add('-o', '--out', type=Path, default=Path('completed'), help='folder to write to (completed)')
    add('--if-exists', choices=('error', 'skip', 'overwrite'), default='error')
    add('--quiet', action='store_true', help='no progress bar')
    return parser
