"""Landmarks against people's annotations, against each other, and their speed.

    python -m benchmarks.landmarks nme   --faces=FACES.zip --truth=FACES.json [--dlib=FILE.dat]
    python -m benchmarks.landmarks fit   --faces=FACES.zip --truth=FACES.json --out=FILE.npz
    python -m benchmarks.landmarks agree --shards=DIR --other=POINTS.npz
    python -m benchmarks.landmarks speed --faces=FACES.zip

FACES.json is a list of records with file, group (of faces of one photo) and points (68 x,y).
NME is the mean distance of a point over that of the outer eye corners, in per cent. Faces are cut
in four by a hash of their group; the learned map is fitted on three quarters, and its error
measured on the fourth. All need a model file: see docs/landmarks.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Callable

import cv2
import numpy as np

from benchmarks import timing
from fi_jax import landmarks as lm
from fi_jax.input_pipeline import alignment, archives, landmark_shards, records
from fi_jax.input_pipeline.offline import detectors, mediapipe_faces, search, vertex_map

FOLDS, HELD_BACK = 4, 0
TERMS = (
    'Research only, no commercial use: fitted to the 68-point annotations of HELEN and AFW by iBUG '
    '(Sagonas et al., 300-W, ICCVW 2013; IMAVIS 2016). --map=fixed has no such terms.'
)
# What the map is fitted on: the crop as it is, and as the search for small, tight photos shows it.
VIEWS = (
    detectors.View(0.0),
    detectors.View(0.25),
    detectors.View(0.1, (0.125, 0.125, 0.875, 0.875), (96, 96)),
)
REGIONS = {
    'jaw': ['jaw'],
    'brows': ['right_brow', 'left_brow'],
    'nose': ['nose'],
    'eyes': ['right_eye', 'left_eye'],
    'mouth': ['mouth'],
}
TURNS = {'frontal': (0.0, 0.15), 'turned': (0.15, 0.4), 'far turned': (0.4, 9.9)}


class Faces:
    """Annotated faces: images, points and the quarter each belongs to."""

    def __init__(self, images: str, truth: str):
        self.source = archives.Zip(images)
        with open(truth, encoding='utf-8') as file:
            by_name = {r['file']: r for r in json.load(file)}
        self.index = [i for i, name in enumerate(self.source.names) if name in by_name]
        chosen = [by_name[self.source.names[i]] for i in self.index]
        self.points = np.array([r['points'] for r in chosen])
        self.fold = np.array([
            int(hashlib.sha256(r['group'].encode()).hexdigest(), 16) % FOLDS for r in chosen
        ])  # fmt: skip

    def __len__(self) -> int:
        return len(self.index)

    def image(self, i: int) -> np.ndarray:
        record = self.source[self.index[i]]
        return records.decode(record.image, record.name)

    def nearest(self, candidates: list[np.ndarray], i: int) -> np.ndarray | None:
        """Of several faces found, that of the annotation, if one is there at all."""
        truth = self.points[i]

        def away(points: np.ndarray) -> float:
            return float(np.hypot(*(points.mean(0) - truth.mean(0))) / np.ptp(truth))

        best = min(candidates, key=away, default=None)
        return best if best is not None and away(best) < 0.5 else None


def errors(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(N,68,2) twice -> (N,68), per cent of the distance of the outer eye corners of the truth."""
    eyes = np.hypot(*(truth[:, 36] - truth[:, 45]).T)
    return 100 * np.hypot(*np.moveaxis(found - truth, 2, 0)) / eyes[:, None]


def turn(points: np.ndarray) -> float:
    """How far a head is turned: (a-b)/(a+b) of the nose tip's distances to the jaw's two ends."""
    along = points[45] - points[36]
    places = (points[[0, 16, 30]] @ along) / np.hypot(*along)
    a, b = places[2] - places[0], places[1] - places[2]
    return float(abs(a - b) / max(abs(a + b), 1e-6))


def table(name: str, error: np.ndarray, found: int, total: int, turns: np.ndarray) -> list[str]:
    """A row: all, by region, by turn."""
    row = [name, f'{found}/{total}', f'{error.mean():.2f}', f'{np.median(error.mean(1)):.2f}']
    regions = [np.concatenate([lm.REGIONS[p] for p in parts]) for parts in REGIONS.values()]
    row += [f'{error[:, r].mean():.2f}' for r in regions]
    for low, high in TURNS.values():
        chosen = (turns >= low) & (turns < high)
        row.append(f'{error[chosen].mean():.2f} ({chosen.sum()})' if chosen.any() else '-')
    return row


def vertices_of(
    faces: Faces, detector: mediapipe_faces.MediaPipe, views: tuple[detectors.View, ...]
) -> list[list[np.ndarray | None]]:
    """For each face and view the vertices found, in pixels of the image."""
    result: list[list[np.ndarray | None]] = []
    for i in range(len(faces)):
        image, row = faces.image(i), []
        for view in views:
            seen, back = search.show(image, view)
            row.append(
                faces.nearest([alignment.apply(back, v) for v in detector.vertices(seen)], i)
            )
        result.append(row)
    return result


def fitted(
    faces: Faces, found: list[list[np.ndarray | None]], without: int
) -> vertex_map.VertexMap:
    """The learned map of all faces outside a quarter."""
    pairs = [
        (v, faces.points[i])
        for i, row in enumerate(found)
        for v in row
        if v is not None and faces.fold[i] != without
    ]
    correction = vertex_map.fit([v for v, _ in pairs], [p for _, p in pairs])
    fixed = vertex_map.load('fixed')
    return vertex_map.VertexMap(fixed.average, '', '', correction)


def nme(args: argparse.Namespace) -> None:
    """Tables of error by detector, region and turn."""
    faces = Faces(args.faces, args.truth)
    turns = np.array([turn(p) for p in faces.points])
    held = faces.fold == HELD_BACK
    detector = mediapipe_faces.MediaPipe(args.model)
    kept = {kind: vertex_map.load(kind) for kind in vertex_map.MAPS}
    looks = [search.search(faces.image(i), '', _Dense(detector))[0]
             for i in range(len(faces))]  # fmt: skip
    dense = [faces.nearest([f.points for f in look], i) for i, look in enumerate(looks)]

    def mapped(kind: str) -> Callable[[int], np.ndarray | None]:
        def way(i: int) -> np.ndarray | None:
            vertices = dense[i]
            return None if vertices is None else kept[kind](vertices)

        return way

    ways = {f'mediapipe, {kind}': mapped(kind) for kind in ('fixed', 'learned')}
    ways['template on 5 annotated points'] = lambda i: detectors.from_five(
        detectors.five_of(faces.points[i])
    )
    if args.dlib:
        dlib = detectors.Dlib(args.dlib)
        ways['dlib 68 (trained on these photos)'] = lambda i: faces.nearest(
            [f.points for f in search.search(faces.image(i), '', dlib)[0]], i
        )
    head = ('', 'found', 'all', 'median', *REGIONS, *TURNS)
    for title, chosen in (('held-back quarter', held), ('all faces', held | True)):
        rows = []
        for name, way in ways.items():
            if title == 'all faces' and name == 'mediapipe, learned':
                continue  # three quarters of them made it
            answers = {i: way(i) for i in np.flatnonzero(chosen).tolist()}
            got = {i: points for i, points in answers.items() if points is not None}
            error = errors(np.stack(list(got.values())), faces.points[list(got)])
            rows.append(table(name, error, len(got), len(answers), turns[list(got)]))
        print(f'\n{title}\n\n{timing.table(head, rows)}')
    flip(faces, detector, kept, held)
    detector.close()


class _Dense:
    """The detector before its map: faces whose points are the 478 vertices."""

    def __init__(self, detector: mediapipe_faces.MediaPipe):
        self.name, self.version, self.views = 'dense', '', detector.views
        self._detector = detector

    def __call__(self, image: np.ndarray, name: str) -> list[detectors.Face]:
        return [detectors.Face(v) for v in self._detector.vertices(image)]


def flip(
    faces: Faces,
    detector: mediapipe_faces.MediaPipe,
    kept: dict[str, vertex_map.VertexMap],
    chosen: np.ndarray,
) -> None:
    """How far the points of the mirror image, mirrored back, are from those of the image."""
    away: dict[str, list[float]] = {kind: [] for kind in kept}
    for i in np.flatnonzero(chosen).tolist():
        image = faces.image(i)
        mirrored = np.ascontiguousarray(image[:, ::-1])
        one = faces.nearest(detector.vertices(image), i)
        others = detector.vertices(mirrored)
        if one is None or not others:
            continue
        for kind, to68 in kept.items():
            back = [lm.flip(to68(v), image.shape[1]) for v in others]
            other = faces.nearest(back, i)
            if other is not None:
                away[kind].append(float(errors(other[None], to68(one)[None]).mean()))
    listed = '; '.join(f'{k} {np.mean(a):.2f} ({np.median(a):.2f})' for k, a in away.items())
    print(f'\nflip, held-back quarter, mean (median) in per cent of the eyes: {listed}')


def fit(args: argparse.Namespace) -> None:
    """Fits the learned map and writes it; prints the error of each quarter not seen."""
    faces = Faces(args.faces, args.truth)
    detector = mediapipe_faces.MediaPipe(args.model, 'fixed')
    found = vertices_of(faces, detector, VIEWS)
    detector.close()
    for fold in range(FOLDS):
        to68 = fitted(faces, found, fold)
        pairs = [
            (v, faces.points[i]) for i, (v, *_) in enumerate(found)
            if v is not None and faces.fold[i] == fold
        ]  # fmt: skip
        error = errors(np.stack([to68(v) for v, _ in pairs]), np.stack([p for _, p in pairs]))
        print(f'without quarter {fold}: NME {error.mean():.2f} on its {len(pairs)} faces')
    correction = fitted(faces, found, HELD_BACK).correction
    assert correction is not None
    vertex_map.save(correction, args.out, TERMS)
    print(f'{args.out}: fitted without quarter {HELD_BACK}')


def agree(args: argparse.Namespace) -> None:
    """Distance between two tables of landmarks of the same images."""
    one, other = (landmark_shards.read_table(p) for p in (args.shards, args.other))
    common = [n for n in one if n in other]
    both = [n for n in common if one[n].found and other[n].found]
    pairs = np.stack([one[n].points for n in both]), np.stack([other[n].points for n in both])
    error = errors(*pairs)
    only = [sum(t[n].found for n in common) for t in (one, other)]
    print(f'{len(common)} images; found by the first {only[0]}, by the other {only[1]}')
    turns = np.array([turn(p) for p in pairs[1]])
    head = ('', 'both', 'all', 'median', *REGIONS, *TURNS)
    rows = [table('all', error, len(both), len(common), turns)]
    sure = np.array([not set(one[n].doubts) - {'many faces'} and other[n].score > 0 for n in both])
    if sure.any():
        count = int(sure.sum())
        rows.append(table('neither in doubt', error[sure], count, len(common), turns[sure]))
    print(timing.table(head, rows))
    apart = error.mean(1)
    print('shares apart by more than ' + ', '.join(
        f'{limit} %: {(apart > limit).mean():.2%}' for limit in (5, 10, 20, 50)
    ))  # fmt: skip


def speed(args: argparse.Namespace) -> None:
    """The job's function against the bare detector, interleaved, one process."""
    source = archives.Zip(args.faces)
    detector = mediapipe_faces.MediaPipe(args.model)
    cv2.setNumThreads(0)
    step = max(len(source) // args.images, 1)
    index = list(range(0, len(source), step))[: args.images]
    seen = [
        search.show(records.decode(source[i].image, source.names[i]), detector.views[0])[0]
        for i in index
    ]
    seconds: dict[str, list[tuple[float, float]]] = {'bare detector': [], 'the job': []}
    for _ in range(args.rounds):
        for name, work in (
            ('bare detector', lambda: [detector.vertices(image) for image in seen]),
            ('the job', lambda: [
                landmark_shards.encode_row(search.extract(source, i, detector))
                for i in index
            ]),
        ):  # fmt: skip
            wall, cpu = time.perf_counter(), time.process_time()
            work()
            took = time.perf_counter() - wall, time.process_time() - cpu
            seconds[name].append((took[0] / len(index), took[1] / len(index)))
    detector.close()
    print(timing.hardware('mediapipe', 'numpy', 'opencv-python-headless'))
    middle = {name: np.median(np.array(t), axis=0) for name, t in seconds.items()}
    rows = [
        (name, f'{1e3 * t[0]:.2f}', f'{1e3 * t[1]:.2f}', f'{1 / t[0]:.1f}',
         f'{middle["bare detector"][0] / t[0]:.3f}')
        for name, t in middle.items()
    ]  # fmt: skip
    print(timing.table(('', 'ms an image', 'ms of CPU', 'images/s', 'of the bare'), rows))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog='python -m benchmarks.landmarks', description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    commands = parser.add_subparsers(dest='command', required=True)
    for work in (nme, fit, agree, speed):
        command = commands.add_parser(work.__name__, help=work.__doc__)
        command.set_defaults(work=work)
        add = command.add_argument
        if work is agree:
            add('--shards', required=True)
            add('--other', required=True)
            continue
        add('--faces', required=True, help='zip of photos')
        add('--model', default='', help='face_landmarker.task')
        if work is speed:
            add('--images', type=int, default=200)
            add('--rounds', type=int, default=5)
        else:
            add('--truth', required=True, help='JSON of annotations')
        if work is nme:
            add('--dlib', help='shape_predictor_68_face_landmarks.dat')
        if work is fit:
            add('--out', required=True, help='.npz to write')
    args = parser.parse_args()
    args.work(args)


if __name__ == '__main__':
    main()
