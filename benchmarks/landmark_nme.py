"""Landmark error under holes: a run of configs/landmarks.py beside other ways to place 68 points.

    python -m benchmarks.landmark_nme ibug --data IBUG.json --out FOLDER
    python -m benchmarks.landmark_nme mix --run runs/lm --ibug FOLDER --out FOLDER
    python -m benchmarks.landmark_nme mediapipe --model face_landmarker.task --vertices MAP.json \
        --path FACES.zip --landmarks POINTS.npz [--identities PERSONS.csv] --out mp.npz
    python -m benchmarks.landmark_nme table --runs runs/lm [runs/lafin] --mediapipe mp.npz \
        --path FACES.zip --landmarks POINTS.npz [--identities PERSONS.csv] --out nme.json
    python -m benchmarks.landmark_nme speed --run runs/lm

`ibug` turns a list of annotated crops into landmark files, of all and of each half. `mix` packs the
training faces of a run with annotated ones. `table` scores faces under each kind of hole; a hole is
drawn from (seed, index) at the run's resolution, the same for each row. MediaPipe sees the photo at
its own resolution, enlarged, with the hole in grey. NME: mean distance over the distance of the
outer corners of the eyes (points 36 and 45) of the truth, in per cent.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fi_jax import landmarks as lm
from fi_jax.input_pipeline import holes
from fi_jax.input_pipeline.loader import EvalExamples, unsquare
from fi_jax.input_pipeline.records import decode
from fi_jax.input_pipeline.sources import make_source

KINDS = (
    'none', 'centre', 'rectangle', 'strokes', 'eyes', 'nose', 'mouth', 'lower_half', 'half_face',
    'whole_face', 'scratches', 'text', 'blocks',
)  # fmt: skip
EYES = (36, 45)
MP_SIDE = 384  # the side to which small photos are enlarged for MediaPipe


# --------------------------------------------------------------------------------------- data


def make_config(args: argparse.Namespace) -> Any:
    """The config of a run, with the data that the flags name."""
    from configs import landmarks

    config = landmarks.get_config(f'res={args.res}')
    config.data.source, config.data.path = 'zip', args.path
    config.data.landmarks, config.data.identities = args.landmarks, args.identities
    return config


def examples_of(args: argparse.Namespace, kind: str) -> tuple[Any, EvalExamples]:
    """The source and its examples under one kind of hole; faces without landmarks come along."""
    config = make_config(args)
    source = make_source(config.data, args.split)
    return source, EvalExamples(source, config, kind, args.limit, 1, frames=True)


def ibug(args: argparse.Namespace) -> None:
    """The annotations as landmark files by part, and one csv of groups as persons."""
    records = json.loads(Path(args.data).read_text())
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    groups = {g: i for i, g in enumerate(sorted({r['group'] for r in records}))}
    parts = {'all': records, 'afw': [], 'helen': []}
    for record in records:
        parts['afw' if record['file'].startswith('afw/') else 'helen'].append(record)
    for name, rows in parts.items():
        np.savez(
            out / f'{name}.npz',
            name=np.array([r['file'] for r in rows]),
            points=np.array([r['points'] for r in rows], np.float32),
            detected=np.ones(len(rows), bool),
        )
    with open(out / 'groups.csv', 'w', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(['file', 'identity'])
        writer.writerows((r['file'], groups[r['group']]) for r in records)
    images = zipfile.ZipFile(Path(args.data).with_suffix('.zip'))
    for name in ('afw', 'helen'):
        with zipfile.ZipFile(out / f'{name}.zip', 'w') as archive:
            for record in parts[name]:
                archive.writestr(record['file'], images.read(record['file']))
    print({name: len(rows) for name, rows in parts.items()}, 'to', out)


def mix(args: argparse.Namespace) -> None:
    """One zip of a run's training faces and of annotated ones, each of these `copies` times."""
    config = make_config(args)
    parts = [(make_source(config.data, 'train'), 1, 0)]
    config.data.path = str(Path(args.ibug) / 'helen.zip')
    config.data.landmarks = str(Path(args.ibug) / 'helen.npz')
    config.data.identities = str(Path(args.ibug) / 'groups.csv')
    parts.append((make_source(config.data, 'all'), args.copies, 1_000_000))
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    names, points, persons = [], [], []
    with zipfile.ZipFile(out / 'mix.zip', 'w') as archive:
        for source, copies, offset in parts:
            for record in (source[i] for i in range(len(source))):
                for copy in range(copies):
                    if record.landmarks is None or not isinstance(record.image, bytes):
                        continue
                    names.append(f'{copy}/{record.name}')
                    points.append(record.landmarks)
                    persons.append((record.identity or 0) + offset)
                    archive.writestr(names[-1], record.image)
    np.savez(
        out / 'mix.npz', name=np.array(names), points=np.stack(points),
        detected=np.ones(len(names), bool),
    )  # fmt: skip
    with open(out / 'mix.csv', 'w', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(['file', 'identity'])
        writer.writerows(zip(names, persons, strict=True))
    print(len(names), 'faces to', out)


# ---------------------------------------------------------------------------------- mediapipe


def damaged(pixels: np.ndarray, hole: np.ndarray, frame: np.ndarray, fill: int = 128) -> np.ndarray:
    """A stored photo (H,W,3) with the hole (res,res,1) of its centred square in grey."""
    left, top, side = (int(v) for v in frame)
    large = cv2.resize(hole[..., 0], (side, side), interpolation=cv2.INTER_NEAREST)[..., None]
    out = pixels.copy()
    square = out[top : top + side, left : left + side]
    square[:] = np.where(large > 0, np.uint8(fill), square)
    return out


def mediapipe(args: argparse.Namespace) -> None:
    """MediaPipe's points of each face under each kind of hole -> npz; NaN where it finds none."""
    import mediapipe as mp
    from mediapipe.tasks import python as tasks
    from mediapipe.tasks.python import vision

    table = json.loads(Path(args.vertices).read_text())
    table = table.get('map', table) if isinstance(table, dict) else table
    vertices = [table[str(i)] if isinstance(table, dict) else table[i] for i in range(68)]
    options = vision.FaceLandmarkerOptions(
        base_options=tasks.BaseOptions(model_asset_path=args.model), num_faces=1
    )
    found: dict[str, Any] = {}
    with vision.FaceLandmarker.create_from_options(options) as detector:
        for kind in args.kinds:
            source, examples = examples_of(args, kind)
            rows, begin = [], time.perf_counter()
            for i in range(examples.count):
                example, record = examples[i], source[i]
                photo = decode(record.image, record.name)
                photo = damaged(photo, example['hole'], example['frame'])
                # Its detector looks for faces that do not fill the picture, and not for small ones.
                pad = max(photo.shape[:2]) // 4
                photo = cv2.copyMakeBorder(photo, pad, pad, pad, pad, cv2.BORDER_REPLICATE)
                zoom = max(1.0, MP_SIDE / min(photo.shape[:2]))
                photo = cv2.resize(photo, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_CUBIC)
                answer = detector.detect(
                    mp.Image(image_format=mp.ImageFormat.SRGB, data=np.ascontiguousarray(photo))
                )
                points = np.full((68, 2), np.nan, np.float32)
                if answer.face_landmarks:
                    size = np.array(photo.shape[1::-1])
                    mesh = np.array([[q.x, q.y] for q in answer.face_landmarks[0]]) * size
                    mesh = (mesh - 0.5 + 0.5) / zoom - 0.5 - pad
                    points = np.stack([mesh[np.atleast_1d(v)].mean(0) for v in vertices])
                rows.append(points)
            found[kind] = np.stack(rows).astype(np.float32)
            seconds = (time.perf_counter() - begin) / max(1, examples.count)
            missed = np.isnan(found[kind]).any((1, 2)).mean()
            print(f'{kind:12s} not found {missed:6.1%}  {1e3 * seconds:.0f} ms/image', flush=True)
    np.savez_compressed(args.out, **found)


# -------------------------------------------------------------------------------------- table


def similarity(shape: np.ndarray, points: np.ndarray, use: np.ndarray) -> np.ndarray:
    """The shape (68,2) moved onto the points by least squares over those in use (68,) bool.

    Umeyama (1991): rotation, one scale, shift. With fewer than two points in use: only shifted.
    """
    a, b = shape[use], points[use]
    if not len(a):
        return shape
    centre_a, centre_b = a.mean(0), b.mean(0)
    if len(a) < 2:
        return shape - centre_a + centre_b
    a, b = a - centre_a, b - centre_b
    z, w = a[:, 0] + 1j * a[:, 1], b[:, 0] + 1j * b[:, 1]
    turn = np.vdot(z, w) / max(np.vdot(z, z).real, 1e-9)
    moved = (shape - centre_a) @ np.array([1, 1j]) * turn
    return np.stack([moved.real, moved.imag], axis=1) + centre_b


def under(points: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Which points (68,2), pixels of the crop, lie in the hole (res,res,1); (68,) bool."""
    at, res = np.rint(points).astype(int), hole.shape[0]
    framed = ((at >= 0) & (at < res)).all(1)
    x, y = at.clip(0, res - 1).T
    return framed & (hole[y, x, 0] > 0)


def predictor_rows(args: argparse.Namespace, run: str, kind: str) -> dict[str, np.ndarray]:
    """Points (N,68,2) of a run in pixels of the stored images, and its scores (N,)."""
    from fi_jax import predict, sharding
    from fi_jax.run.folder import load_predictor

    config, mesh = make_config(args), sharding.make_mesh()
    predictor = load_predictor(run, '--runs')
    source = make_source(config.data, args.split)
    examples = EvalExamples(source, config, kind, args.limit, 50, frames=True)
    out: dict[str, list[Any]] = {'points': []}
    for batch in predict.predictions(predictor.method, examples, config, mesh, 100, 50)(
        predictor.nets
    ):
        for row in np.flatnonzero(batch['weight']):
            points = unsquare(batch['points'][row], batch['frame'][row], config.res)
            out['points'].append(points)
            for name, values in batch['scores'].items():
                out.setdefault(name, []).append(values[row])
    return {name: np.stack(x) for name, x in out.items()}


def table(args: argparse.Namespace) -> None:
    """All rows on the same faces and holes; means by kind, and over all kinds but 'none'."""
    from fi_jax import sharding

    sharding.configure_backend(make_config(args))
    found = dict(np.load(args.mediapipe)) if args.mediapipe else {}
    mean = lm.MEAN_SHAPE
    errors: dict[str, dict[str, list[float]]] = {}
    scores: dict[str, dict[str, dict[str, float]]] = {}
    areas = []
    bias: dict[str, np.ndarray] = {}
    for kind in args.kinds:
        source, examples = examples_of(args, kind)
        predicted = {Path(run).name: predictor_rows(args, run, kind) for run in args.runs}
        for run, found_by in predicted.items():
            scores.setdefault(run, {})[kind] = {
                name: float(np.nanmean(x)) for name, x in found_by.items()
                if name != 'points' and np.isfinite(x).any()
            }  # fmt: skip
        truths = [source[i].landmarks for i in range(examples.count)]
        rows: dict[str, list[np.ndarray]] = {
            name: list(x['points']) for name, x in predicted.items()
        }
        if kind in found:
            rows['MediaPipe, damaged'] = list(found[kind])
            if 'none' in found:
                bias.setdefault('mp', _offset(found['none'], truths))
                rows['MediaPipe, damaged, map fitted'] = [
                    _unbias(p, bias['mp']) for p in found[kind]
                ]
        for i, truth in enumerate(truths):
            if truth is None:
                continue
            example = examples[i]
            frame, hole = example['frame'], example['hole']
            hidden = under(example['landmarks'], hole)
            answers = {name: points[i] for name, points in rows.items()}
            flat = unsquare(mean * examples_res(example) - 0.5, frame, examples_res(example))
            answers['mean shape'] = flat
            answers['mean shape fitted to true visible points'] = similarity(flat, truth, ~hidden)
            unit = 100 / np.linalg.norm(truth[EYES[0]] - truth[EYES[1]])
            seen = not np.isnan(answers.get('MediaPipe, damaged', truth)).any()
            area = float(hole.mean())
            areas.append(area)
            for name, points in answers.items():
                error = np.linalg.norm(points - truth, axis=-1) * unit
                cell = errors.setdefault(name, {})
                for part, use in (('all', hidden | True), ('hidden', hidden), ('visible', ~hidden)):
                    value = float(error[use].mean()) if use.any() else np.nan
                    cell.setdefault(f'{kind}/{part}', []).append(value)
                    cell.setdefault(f'{kind}/{part}/mp', []).append(value if seen else np.nan)
                    if kind != 'none':
                        bucket = (
                            f'area {10 * int(area * 10 - 1e-9)}-{10 * int(area * 10 - 1e-9) + 10}%'
                        )
                        for group in ('holes', bucket):
                            cell.setdefault(f'{group}/{part}', []).append(value)
                            cell.setdefault(f'{group}/{part}/mp', []).append(
                                value if seen else np.nan
                            )
        print(kind, 'done', flush=True)
    means = {
        name: {
            key: {'mean': float(np.nanmean(x)), 'count': int(np.isfinite(x).sum()), 'of': len(x)}
            for key, x in cells.items() if np.isfinite(x).any()
        }
        for name, cells in errors.items()
    }  # fmt: skip
    out = Path(args.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({'nme': means, 'scores': scores}, indent=1))
    print(
        as_text(
            means,
            [
                *args.kinds,
                'holes',
                *sorted(
                    {k.split('/')[0] for k in next(iter(means.values())) if k.startswith('area')}
                ),
            ],
        )
    )


def examples_res(example: Mapping[str, Any]) -> int:
    """The side of an example's crop."""
    return int(example['image'].shape[0])


def _offset(points: np.ndarray, truths: list[np.ndarray | None]) -> np.ndarray:
    """Mean error of a detector by point, in units of the eyes' distance; (68,2)."""
    away = [
        (p - t) / np.linalg.norm(t[EYES[0]] - t[EYES[1]])
        for p, t in zip(points, truths, strict=True)
        if t is not None and np.isfinite(p).all()
    ]
    return np.median(away, axis=0)


def _unbias(points: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Points less the detector's mean error; in its favour, on the very faces it is scored on."""
    return points - offset * np.linalg.norm(points[EYES[0]] - points[EYES[1]])


def as_text(means: Mapping[str, Any], groups: list[str]) -> str:
    """Markdown: a table for each part; in the second of each, only where MediaPipe answers."""
    lines = []
    for part in ('all', 'hidden', 'visible'):
        for suffix, words in (('', ''), ('/mp', ', where MediaPipe answers')):
            keys = [f'{g}/{part}{suffix}' for g in groups]
            keys = [k for k in keys if any(k in cells for cells in means.values())]
            heads = [k.split('/')[0].replace('_', ' ') for k in keys]
            lines += ['', f'NME % of {part} points{words}', '']
            lines += ['| | ' + ' | '.join(heads) + ' |', '|---|' + '---|' * len(keys)]
            for name, cells in means.items():
                values = [cells.get(k) for k in keys]
                shares = 'MediaPipe' in name and part == 'all' and not suffix
                shown = [_cell(v, shares) for v in values]
                lines.append(f'| {name} | ' + ' | '.join(shown) + ' |')
    return '\n'.join(lines)


def _cell(value: Mapping[str, float] | None, share: bool) -> str:
    """A mean, and the share of faces it is over."""
    if value is None:
        return '-'
    return f'{value["mean"]:.2f}' + (f' ({value["count"] / value["of"]:.0%})' if share else '')


# -------------------------------------------------------------------------------------- speed


def speed(args: argparse.Namespace) -> None:
    """Milliseconds an image of a run's net and 8 shapes on one core, median of 20 calls."""
    import jax

    from fi_jax import steps
    from fi_jax.run.folder import load_predictor
    from fi_jax.state import example_batch

    predictor = load_predictor(args.run, '--run')
    for size in (1, 16):
        batch = example_batch(predictor.config.res, size)
        run = jax.jit(steps.make_predict_step(predictor.method, 0, 8))
        jax.block_until_ready(run(predictor.nets, batch))
        taken = []
        for _ in range(20):
            begin = time.perf_counter()
            jax.block_until_ready(run(predictor.nets, batch))
            taken.append((time.perf_counter() - begin) / size)
        print(f'batch {size}: {1e3 * float(np.median(taken)):.2f} ms/image')


def main() -> None:
    """Parse the arguments and run one job."""
    jobs: dict[str, Callable[[argparse.Namespace], None]] = {
        'ibug': ibug, 'mix': mix, 'mediapipe': mediapipe, 'table': table, 'speed': speed
    }  # fmt: skip
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('job', choices=jobs)
    for name in ('data', 'path', 'landmarks', 'identities', 'model', 'vertices', 'out', 'run'):
        parser.add_argument(f'--{name}', default='')
    parser.add_argument('--ibug', default='')
    parser.add_argument('--mediapipe', default='')
    parser.add_argument('--runs', nargs='+', default=[])
    parser.add_argument('--kinds', nargs='+', default=list(KINDS), choices=holes.KINDS)
    parser.add_argument('--split', default='test')
    parser.add_argument('--limit', type=int, default=0)
    parser.add_argument('--res', type=int, default=64)
    parser.add_argument('--copies', type=int, default=3)
    args = parser.parse_args()
    jobs[args.job](args)


if __name__ == '__main__':
    main()
