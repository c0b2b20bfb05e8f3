"""Do completions obey the landmarks they are told? Points are moved, and found again by a detector.

    python -m benchmarks.obedience --workdir=runs/s2 --model=face_landmarker.task --holes=centre

Takes test faces of the run's own data with known landmarks, completes each as it is and with each
edit of `fi_jax.landmarks.EDITS`, all at the prior's mean, and lets MediaPipe find the points of the
results, which it has not seen before; with --reader=RUN a frozen run of configs/landmarks.py as
well, which always answers, but leans towards likely faces and sees less of a move. Prints, for the
points inside the hole: the error against what was asked, in inter-ocular distances, and how far the
points went along with the edit. Beside it the same of the photo itself, bent to the edited points:
what the detector sees of a move that was really made. Writes a sheet of the first faces.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import jax
import numpy as np

from fi_jax import features, pictures, sharding
from fi_jax import landmarks as lm
from fi_jax.augmentation.places import bend
from fi_jax.evaluation.protocol import load_reader
from fi_jax.input_pipeline.loader import EvalExamples, eval_batches
from fi_jax.input_pipeline.offline import extract_landmarks
from fi_jax.input_pipeline.sources import make_source
from fi_jax.metrics.landmarks import inside
from fi_jax.run.folder import load_run, saved_config
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
        faces, _ = extract_landmarks.search(image, 'completion', detector)
        return extract_landmarks.main_face(faces, image.shape[:2]).points if faces else None

    return lambda images: [one(image) for image in images]


def measure(
    found: dict[str, list[np.ndarray | None]], asked: dict[str, list[np.ndarray]], holes: Any
) -> dict[str, dict[str, float]]:
    """edit -> error of hidden points, share detected, and how they followed their displacement."""
    out = {}
    for edit in asked:
        errors, wanted, got, detected = [], [], [], 0
        for i, points in enumerate(asked[edit]):
            here, before = found[edit][i], found['none'][i]
            if here is None:
                continue
            detected += 1
            where = np.asarray(inside(jax.numpy.asarray(points), jax.numpy.asarray(holes[i]))) > 0
            scale = np.linalg.norm(asked['none'][i][45] - asked['none'][i][36])
            errors += list(np.linalg.norm(here - points, axis=1)[where] / scale)
            if before is not None and edit != 'none':
                move = points - asked['none'][i]
                where &= np.linalg.norm(move, axis=1) > 0.01 * scale
                wanted.append((move[where] / scale).ravel())
                got.append(((here - before)[where] / scale).ravel())
        row = {'detected': detected / len(asked[edit]), 'nme': float(np.mean(errors))}
        w, g = (np.concatenate([*x, np.zeros(0)]) for x in (wanted, got))
        if len(w):
            row |= {'slope': float(w @ g / (w @ w)), 'correlation': float(np.corrcoef(w, g)[0, 1])}
        out[edit] = row
    return out


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument('--workdir', required=True)
    parser.add_argument('--model', default='', help='face_landmarker.task')
    parser.add_argument('--reader', default='', help='a run of configs/landmarks.py')
    parser.add_argument('--holes', default='centre')
    parser.add_argument('--limit', type=int, default=100)
    parser.add_argument('--strength', type=float, default=1.0)
    parser.add_argument('--guidance', type=float, default=1.0, help='config.guidance')
    parser.add_argument('--blur', type=float, default=0.0, help='of the bent photos, sigma, pixels')
    args = parser.parse_args()

    config = saved_config(args.workdir)
    config.landmark_source, config.guidance = 'user', args.guidance
    mesh = sharding.make_mesh()
    run = load_run(config, args.workdir, mesh)
    method = run.method
    source = make_source(config.data, 'test')
    examples = EvalExamples(source, config, args.holes, args.limit, 16)
    finders = {'MediaPipe': mediapipe(args.model)}
    if args.reader:
        judge, _ = load_reader(args.reader, mesh, '--reader')
        finders['reader'] = lambda images: list(np.asarray(judge(jax.numpy.asarray(images))))

    @jax.jit
    def complete(nets: Any, batch: features.Batch) -> jax.Array:
        prepared = features.prepare(batch)
        assert method.sample is not None
        still = method.variants['z=0']
        out = still(bind_ema(method, nets), prepared, jax.random.split(jax.random.key(0), 1))
        image = features.to_uint8(out['image'])
        return features.composite(image, batch['image'], batch['hole'])

    bend_one = jax.jit(bend)
    edits = ('none', *lm.EDITS)
    asked: dict[str, list[np.ndarray]] = {e: [] for e in edits}
    completed: dict[str, list[np.ndarray]] = {e: [] for e in edits}
    bent: dict[str, list[np.ndarray]] = {e: [] for e in edits}
    went: dict[str, list[np.ndarray]] = {e: [] for e in edits}
    holes: list[np.ndarray] = []
    columns = [name for e in edits for name in (f'told: {e}', e)]
    sheet: dict[str, list[np.ndarray]] = {name: [] for name in (*columns, 'truth')}
    for batch in eval_batches(examples, config, 16, 0, 1):
        known = np.flatnonzero(batch['has_landmarks'] * batch['weight'])
        holes += [batch['hole'][i] for i in known]
        damaged = pictures.with_hole(batch['image'], batch['hole'])[known]
        sheet['truth'] += list(batch['image'][known])
        for edit in edits:
            led = batch if edit == 'none' else edited(batch, edit, args.strength)
            images = np.asarray(complete(run.nets, led))[known]
            asked[edit] += [led['landmarks'][i] for i in known]
            completed[edit] += list(images)
            for i in known:
                points = batch['landmarks'][i]
                move = led['landmarks'][i] - points
                photo, at = map(np.asarray, bend_one(batch['image'][i], points, move))
                if args.blur:
                    photo = cv2.GaussianBlur(photo, (0, 0), args.blur)
                bent[edit].append(photo)
                went[edit].append(at)
            sheet[edit] += list(images)
            told = zip(damaged, led['landmarks'][known], strict=True)
            sheet[f'told: {edit}'] += [
                pictures.with_face(x, p, pictures.RED, _TILE) for x, p in told
            ]

    print(
        f'{len(holes)} faces, holes {args.holes}, strength {args.strength}, '
        f'guidance {args.guidance}; points in the hole'
    )
    for finder, find in finders.items():
        found, photos = (
            measure({e: find(np.stack(x)) for e, x in images.items()}, points, holes)
            for images, points in ((completed, asked), (bent, went))
        )
        print(f'{finder:20s}{"detected":>10s}{"NME":>8s}{"slope":>8s}{"correlation":>13s}')
        for name in edits:
            for title, row in ((name, found[name]), ('  the photo, bent', photos[name])):
                cells = f'{row["detected"]:10.3f}{row["nme"]:8.4f}'
                if 'slope' in row:
                    cells += f'{row["slope"]:8.2f}{row["correlation"]:13.2f}'
                print(f'{title:20s}{cells}')
    page = pictures.grid(list(sheet), [np.stack(column[:10]) for column in sheet.values()], _TILE)
    path = Path(args.workdir) / f'obedience_{args.holes}.png'
    save_png(path, page)
    print(f'sheet: {path}')


if __name__ == '__main__':
    main()
