"""Do completions obey their landmark condition? Points are moved, and found again by a detector.

    python -m benchmarks.obedience --workdir=runs/s2 --model=face_landmarker.task --holes=centre
    python -m benchmarks.obedience --workdir=flow128 --model=... --data source=zip path=faces.zip

Takes test faces of the run's own data (of a file of weights, --data) with known landmarks,
completes each as it is and with each edit of `fi_jax.landmarks.EDITS`, all at the prior's mean or,
where a method has none, from the same noise, and lets MediaPipe find the points of the
results, which it has not seen before; with --landmark_detector=RUN a frozen run of
configs/landmarks.py as well, which always answers, but leans towards likely faces and sees less of
a move. Prints, for the points inside the hole: the error against what was wanted, in inter-ocular
distances, and how far the points went along with the edit. Beside it the same of the photo itself,
warped to the edited points: what the detector sees of a move that was really made. Writes a sheet
of the first faces.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Callable
from typing import Any

import cv2
import jax
import numpy as np

from fi_jax import features, pictures, rng, sharding
from fi_jax import landmarks as lm
from fi_jax.augmentation.places import warp
from fi_jax.evaluation.protocol import load_landmark_detector
from fi_jax.input_pipeline.loader import EvalExamples, eval_batches
from fi_jax.input_pipeline.offline import extract_landmarks, search
from fi_jax.input_pipeline.sources import make_source
from fi_jax.metrics.landmarks import inside
from fi_jax.run.folder import load_run, results_of, saved_config
from fi_jax.run.writers import save_png
from fi_jax.sample import edited
from fi_jax.state import bind_ema

_TILE = 112
# Images (B,H,W,3) uint8 -> the points (68,2) of each, None where no face was found.
Finder = Callable[[np.ndarray], list[np.ndarray | None]]


def mediapipe(model: str) -> Finder:
    """The independent detector."""
    spec = extract_landmarks.DetectorSpec('mediapipe', model=model)
    detector = extract_landmarks.make_detector(spec)

    def one(image: np.ndarray) -> np.ndarray | None:
        faces, _ = search.search(image, 'completion', detector)
        return search.main_face(faces, image.shape[:2]).points if faces else None

    return lambda images: [one(image) for image in images]


def measure(
    found: dict[str, list[np.ndarray | None]], targets: dict[str, list[np.ndarray]], holes: Any
) -> dict[str, dict[str, float]]:
    """edit -> error of hidden points, share detected, and how they followed their displacement."""
    out = {}
    for edit in targets:
        errors, wanted, got, detected = [], [], [], 0
        for i, points in enumerate(targets[edit]):
            here, before = found[edit][i], found['none'][i]
            if here is None:
                continue
            detected += 1
            where = np.asarray(inside(jax.numpy.asarray(points), jax.numpy.asarray(holes[i]))) > 0
            scale = np.linalg.norm(targets['none'][i][45] - targets['none'][i][36])
            errors += list(np.linalg.norm(here - points, axis=1)[where] / scale)
            if before is not None and edit != 'none':
                move = points - targets['none'][i]
                where &= np.linalg.norm(move, axis=1) > 0.01 * scale
                wanted.append((move[where] / scale).ravel())
                got.append(((here - before)[where] / scale).ravel())
        row = {'detected': detected / len(targets[edit]), 'nme': float(np.mean(errors))}
        w, g = (np.concatenate([*x, np.zeros(0)]) for x in (wanted, got))
        if len(w):
            row |= {'slope': float(w @ g / (w @ w)), 'correlation': float(np.corrcoef(w, g)[0, 1])}
        out[edit] = row
    return out


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument('--workdir', required=True, help='a run, a file or a name of weights')
    parser.add_argument('--data', nargs='*', default=[], metavar='NAME=VALUE', help='other faces')
    parser.add_argument('--model', default='', help='face_landmarker.task')
    parser.add_argument('--landmark_detector', default='', help='a run of configs/landmarks.py')
    parser.add_argument('--holes', default='centre')
    parser.add_argument('--limit', type=int, default=100)
    parser.add_argument('--strength', type=float, default=1.0)
    parser.add_argument('--guidance', type=float, default=1.0, help='config.guidance')
    parser.add_argument(
        '--blur', type=float, default=0.0, help='of the warped photos, sigma, pixels'
    )
    if any(arg.startswith('--reader') for arg in sys.argv):
        parser.error('--reader is --landmark_detector now')
    args = parser.parse_args()

    config = saved_config(args.workdir)
    config.landmark_source, config.guidance = 'user', args.guidance
    for name, _, value in (pair.partition('=') for pair in args.data):
        if name not in config.data:
            parser.error(f'--data {name}={value}: there is no config.data.{name}')
        text = isinstance(config.data[name], str)
        config.data[name] = value if text else json.loads(value)
    mesh = sharding.make_mesh()
    run = load_run(config, args.workdir, mesh)
    method = run.method
    source = make_source(config.data, 'test')
    examples = EvalExamples(source, config, args.holes, args.limit, 16)
    finders = {'MediaPipe': mediapipe(args.model)}
    if args.landmark_detector:
        detector, _ = load_landmark_detector(args.landmark_detector, mesh, '--landmark_detector')
        finders['detector'] = lambda images: list(np.asarray(detector(jax.numpy.asarray(images))))

    @functools.partial(jax.jit, compiler_options=sharding.compiler_options())
    def complete(nets: Any, batch: features.Batch) -> jax.Array:
        prepared = features.prepare(batch)
        assert method.sample is not None
        sample = method.variants.get('z=0', method.sample)
        out = sample(bind_ema(method, nets), prepared, rng.sample_keys(0, batch['index'], 0))
        image = features.to_uint8(out['image'])
        return features.composite(image, batch['image'], batch['hole'])

    warp_one = jax.jit(warp)
    edits = ('none', *lm.EDITS)
    wanted: dict[str, list[np.ndarray]] = {e: [] for e in edits}
    completed: dict[str, list[np.ndarray]] = {e: [] for e in edits}
    warped: dict[str, list[np.ndarray]] = {e: [] for e in edits}
    went: dict[str, list[np.ndarray]] = {e: [] for e in edits}
    holes: list[np.ndarray] = []
    columns = [name for e in edits for name in (f'condition: {e}', e)]
    sheet: dict[str, list[np.ndarray]] = {name: [] for name in (*columns, 'truth')}
    for batch in eval_batches(examples, config, 16, 0, 1):
        known = np.flatnonzero(batch['has_landmarks'] * batch['weight'])
        holes += [batch['hole'][i] for i in known]
        damaged = pictures.with_hole(batch['image'], batch['hole'])[known]
        sheet['truth'] += list(batch['image'][known])
        for edit in edits:
            moved = batch if edit == 'none' else edited(batch, edit, args.strength)
            images = np.asarray(complete(run.nets, moved))[known]
            wanted[edit] += [moved['landmarks'][i] for i in known]
            completed[edit] += list(images)
            for i in known:
                points = batch['landmarks'][i]
                move = moved['landmarks'][i] - points
                photo, at = map(np.asarray, warp_one(batch['image'][i], points, move))
                if args.blur:
                    photo = cv2.GaussianBlur(photo, (0, 0), args.blur)
                warped[edit].append(photo)
                went[edit].append(at)
            sheet[edit] += list(images)
            pairs = zip(damaged, moved['landmarks'][known], strict=True)
            sheet[f'condition: {edit}'] += [
                pictures.with_face(x, p, pictures.RED, _TILE) for x, p in pairs
            ]

    print(
        f'{len(holes)} faces, holes {args.holes}, strength {args.strength}, '
        f'guidance {args.guidance}; points in the hole'
    )
    for finder, find in finders.items():
        found, photos = (
            measure({e: find(np.stack(x)) for e, x in images.items()}, points, holes)
            for images, points in ((completed, wanted), (warped, went))
        )
        print(f'{finder:20s}{"detected":>10s}{"NME":>8s}{"slope":>8s}{"correlation":>13s}')
        for name in edits:
            for title, row in ((name, found[name]), ('  the photo, warped', photos[name])):
                cells = f'{row["detected"]:10.3f}{row["nme"]:8.4f}'
                if 'slope' in row:
                    cells += f'{row["slope"]:8.2f}{row["correlation"]:13.2f}'
                elif name != 'none':
                    cells += '  the moved points leave the holes, or no face was detected'
                print(f'{title:20s}{cells}')
    page = pictures.grid(list(sheet), [np.stack(column[:10]) for column in sheet.values()], _TILE)
    path = results_of(args.workdir) / f'obedience_{args.holes}.png'
    save_png(path, page)
    print(f'sheet: {path}')


if __name__ == '__main__':
    main()
