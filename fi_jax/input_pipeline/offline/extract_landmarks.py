"""Finds the 68 landmarks of every face of a source, once, offline, into landmark shards.

    fi-jax landmarks --source=zip --path=FACES.zip \\
        --detector=mediapipe --out=DIR --num_workers=2 --npz=points.npz

Stop it whenever you like, even by kill -9: the same command goes on where it stopped, and gives
the same bytes. An image that cannot be read costs one record and is listed in DIR/bad.jsonl. When
all is done DIR holds landmarks.json (for data.landmarks=DIR), summary.json and page/index.html
with pictures to check them by. Several machines share the work with --shards=0:64, --shards=64:128
... on a common folder, or with --runner=beam.

Detectors: mediapipe (the Face Landmarker, 478 vertices, taken to 68 by --map; the model file is
fetched once and checked by its sha256), dlib (pip install 'fi_jax[dlib]'), import (points that
exist already: --points=FILE.npz, a folder of shards or .pts files, or CelebA's five points).

--map=learned, the default, is better by a third, but was fitted to annotations that are for
research only; --map=fixed has no such terms. Exit codes: 0 done, 1 refused or failed, 2 too many
bad images.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import cv2

from fi_jax.input_pipeline import landmark_shards, records, sources
from fi_jax.input_pipeline.landmark_shards import LandmarkRow
from fi_jax.input_pipeline.offline import (
    detectors,
    landmark_pages,
    mediapipe_faces,
    search,
    shard_pool,
    vertex_map,
)
from fi_jax.input_pipeline.offline.detectors import Detector

JOB = 'job.json'
IMAGES_A_SHARD, MAX_SHARDS = 256, 1024


@dataclasses.dataclass(frozen=True)
class DetectorSpec:
    """What makes a detector, in any process."""

    kind: str = 'mediapipe'
    model: str = ''
    map: str = 'learned'
    points: str = ''

    def terms(self) -> str:
        """What the use of its points is subject to."""
        if self.kind == 'mediapipe':
            return vertex_map.load(self.map).terms
        if self.kind == 'dlib':
            return 'The predictor was trained on iBUG 300-W, whose terms exclude commercial use.'
        return 'Those of the points given.'


_made: dict[DetectorSpec, Detector] = {}


def make_detector(spec: DetectorSpec) -> Detector:
    """The detector of a specification, one a process."""
    if spec not in _made:
        _made[spec] = _make(spec)
    return _made[spec]


def close_detectors() -> None:
    """Frees them all: MediaPipe fails, noisily, if it is left to the end of Python."""
    while _made:
        detector = _made.popitem()[1]
        if isinstance(detector, mediapipe_faces.MediaPipe):
            detector.close()


def _make(spec: DetectorSpec) -> Detector:
    if spec.kind == 'mediapipe':
        return mediapipe_faces.MediaPipe(spec.model, spec.map)
    if spec.kind == 'dlib':
        return detectors.Dlib(spec.model)
    if spec.kind == 'import':
        return detectors.Import(spec.points)
    raise ValueError(f'--detector={spec.kind}: expected mediapipe, dlib or import')


# --------------------------------------------------------------------------------- the job


@dataclasses.dataclass(frozen=True)
class Job:
    """A whole extraction; calling it does one shard. Equal jobs write equal bytes."""

    source: records.Source
    spec: DetectorSpec
    out: str
    num_shards: int
    max_pixels: int = records.MAX_PIXELS

    def bounds(self, shard: int) -> tuple[int, int]:
        """First and last + 1 record of a shard."""
        n = len(self.source)
        return shard * n // self.num_shards, (shard + 1) * n // self.num_shards

    def path(self, shard: int) -> str:
        return os.path.join(self.out, landmark_shards.shard_name(shard, self.num_shards))

    def count_done(self, shard: int) -> int:
        """Records of a shard if it is there, else 0: files appear whole."""
        start, stop = self.bounds(shard)
        return stop - start if os.path.exists(self.path(shard)) else 0

    def __call__(self, shard: int, report: shard_pool.Report = lambda done, index: None) -> None:
        path, (start, stop) = self.path(shard), self.bounds(shard)
        if os.path.exists(path):
            return
        cv2.setNumThreads(0)  # one core a worker
        detector = make_detector(self.spec)
        tmp = f'{path}.tmp-{os.getpid()}'
        writer = landmark_shards.open_writer(tmp)
        try:
            for i in range(start, stop):
                report(i - start, i)
                row = search.extract(self.source, i, detector, self.max_pixels)
                writer.write(landmark_shards.encode_row(row))
            writer.close()
            with open(tmp, 'rb') as file:
                os.fsync(file.fileno())
            os.replace(tmp, path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.remove(tmp)
        report(stop - start, stop - 1)

    def describe(self) -> dict[str, Any]:
        """What must be equal for a job to go on in a folder."""
        names = getattr(self.source, 'names', None)
        digest = hashlib.sha256('\n'.join(names).encode()).hexdigest() if names else None
        detector = make_detector(self.spec)
        return {
            'images': len(self.source),
            'names_sha256': digest,
            'detector': detector.name,
            'detector_version': detector.version,
            'num_shards': self.num_shards,
            'max_pixels': self.max_pixels,
            'views': hashlib.sha256(repr(detector.views).encode()).hexdigest()[:12],
            'terms': self.spec.terms(),
        }

    def open_folder(self) -> None:
        """Makes the folder of the job or goes on in it; FileExistsError if it is another's."""
        wanted, path = self.describe(), os.path.join(self.out, JOB)
        if os.path.exists(path):
            with open(path, encoding='utf-8') as file:
                there = json.load(file)
            for key, value in wanted.items():
                if there.get(key) != value:
                    raise FileExistsError(
                        f'--out={self.out}: holds a job with {key}={there.get(key)!r}, this one '
                        f'has {value!r}; choose another folder or remove it'
                    )
            return
        if os.path.exists(self.out) and os.listdir(self.out):
            raise FileExistsError(
                f'--out={self.out}: holds something that is no such job; choose another folder'
            )
        os.makedirs(self.out, exist_ok=True)
        _write_text(path, json.dumps(wanted, indent=2, ensure_ascii=False) + '\n')

    def rows(self) -> Iterator[tuple[str, LandmarkRow]]:
        """(shard, row) of all shards, in the order of the source."""
        for shard in range(self.num_shards):
            start, stop = self.bounds(shard)
            name = landmark_shards.shard_name(shard, self.num_shards)
            for row in landmark_shards.read_shard(
                self.path(shard), stop - start, f'--out={self.out}: {name}'
            ):
                yield name, row

    def close_folder(self) -> dict[str, Any]:
        """Writes the index, bad.jsonl and summary.json of a complete job; the summary."""
        files = [landmark_shards.shard_name(s, self.num_shards) for s in range(self.num_shards)]
        tally, bad = landmark_shards.Tally(files), []
        reasons: collections.Counter[str] = collections.Counter()
        doubtful: collections.Counter[str] = collections.Counter()
        found = to_look_at = 0
        for file, row in self.rows():
            tally.add(row, file)
            found += row.found
            doubtful.update(row.doubts)
            to_look_at += bool(set(row.doubts) - {'many faces'})
            if not row.found:
                reasons[row.reason.partition(':')[0]] += 1
                if row.reason != 'no face':
                    bad.append({'name': row.name, 'reason': row.reason})
        lines = [json.dumps(entry, ensure_ascii=False) + '\n' for entry in bad]
        _write_text(os.path.join(self.out, 'bad.jsonl'), ''.join(lines))
        summary = {
            'images': len(self.source),
            'found': found,
            'not_found': dict(sorted(reasons.items())),
            'drop_rate': round(1 - found / len(self.source), 6),
            'many_faces': doubtful.pop('many faces', 0),
            'doubtful': to_look_at,
            'doubts': dict(sorted(doubtful.items())),
            'terms': self.spec.terms(),
        }
        _write_text(
            os.path.join(self.out, 'summary.json'),
            json.dumps(summary, indent=2, ensure_ascii=False) + '\n',
        )
        tally.save(self.out, terms=self.spec.terms())
        return summary


def _write_text(path: str, text: str) -> None:
    handle, tmp = tempfile.mkstemp(dir=os.path.dirname(path) or '.', suffix='.tmp')
    with open(handle, 'w', encoding='utf-8') as file:
        file.write(text)
    os.chmod(tmp, 0o644)
    os.replace(tmp, path)


# ------------------------------------------------------------------------------ command line


def parser() -> argparse.ArgumentParser:
    """The flags."""
    made = argparse.ArgumentParser(
        prog='fi-jax landmarks',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    sources.add_flags(made)
    group = made.add_argument_group('detector')
    add = group.add_argument
    add('--detector', default='mediapipe', choices=('mediapipe', 'dlib', 'import'))
    add(
        '--model',
        default='',
        help=f'model file (else ${mediapipe_faces.MODEL} or ${detectors.DLIB_MODEL})',
    )
    add('--map', default='learned', choices=vertex_map.MAPS,
        help='478 vertices -> 68 points; learned is for research only')  # fmt: skip
    add('--points', default='', help='import: .npz, folder of shards or .pts, or five-point list')
    add('--max_pixels', type=int, default=records.MAX_PIXELS,
        help='larger images are refused undecoded (%(default)s)')  # fmt: skip
    group = made.add_argument_group('output')
    add = group.add_argument
    add('--out', required=True, help='folder of shards, pages and lists; resumed if it is there')
    add('--npz', help='also one flat file: name, points, detected, score, box')
    add('--export_features', metavar='DIR', help='also PNGs: landmarks, mask and part of each face')
    add('--hull', default='face68', choices=('face68', 'extended'), help='extended: with forehead')
    add('--export_limit', type=int, default=100, help='faces to export, 0 = all (%(default)s)')
    add('--pages', action=argparse.BooleanOptionalAction, default=True, help='the page of pictures')
    add('--max_bad', type=float, default=0.01, help='exit code 2 above this share of bad images')
    group = made.add_argument_group('scale')
    add = group.add_argument
    add('--num_workers', type=int, default=os.cpu_count() or 1, help='processes; 0 = this one')
    add('--num_shards', type=int, default=0,
        help=f'default: one for {IMAGES_A_SHARD} images, at most {MAX_SHARDS}')  # fmt: skip
    add('--shards', default='', metavar='FIRST:END', help="this machine's part, such as 0:64")
    add('--runner', default='pool', choices=('pool', 'beam'))
    add('--beam_options', default='',
        help="flags of Beam in one string: '--runner=FlinkRunner --flink_master=HOST:8081'; "
        'without it, the direct runner')  # fmt: skip
    add('--patience', type=float, default=300, help='seconds without progress that end the job')
    return made


def main(argv: list[str] | None = None) -> int:
    """The command line; see the module's head for exit codes."""
    args = parser().parse_args(argv)
    try:
        return _run(args)
    except KeyboardInterrupt:
        print('stopped; the same command goes on from here', file=sys.stderr)
        return 130
    except (ValueError, OSError, ModuleNotFoundError, shard_pool.WorkerFailed) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    finally:
        close_detectors()


def _run(args: argparse.Namespace) -> int:
    source = sources.make_source(sources.from_flags(args), 'all')
    n = len(source)
    num_shards = args.num_shards or min(-(-n // IMAGES_A_SHARD), MAX_SHARDS)
    if not 1 <= num_shards <= n:
        raise ValueError(f'--num_shards={args.num_shards}: expected 1 to {n}, one image a shard')
    spec = DetectorSpec(
        args.detector,
        args.model and os.path.abspath(args.model),
        args.map,
        args.points and os.path.abspath(args.points),
    )
    job = Job(source, spec, os.path.abspath(args.out), num_shards, args.max_pixels)
    mine = _part(args.shards, num_shards)
    job.open_folder()
    print(f'{args.out}: {n:,} images, {num_shards} shards. Terms: {spec.terms()}')
    todo = [shard for shard in mine if not job.count_done(shard)]
    if len(todo) < len(mine):
        print(f'{len(mine) - len(todo)} shards are there already.')
    for name in os.listdir(job.out):
        shard, _, rest = name.partition('.array_record.tmp-')
        if rest and shard + '.array_record' in {os.path.basename(job.path(s)) for s in todo}:
            os.remove(os.path.join(job.out, name))  # of a job that was killed
    total = sum(stop - start for start, stop in map(job.bounds, todo))
    progress = shard_pool.progress_bar('landmarks', total)
    if todo and args.runner == 'beam':
        shard_pool.run_beam(
            job, todo, args.num_workers, args.beam_options.split(), args.patience,
            job.count_done, progress,
        )  # fmt: skip
    elif todo:
        shard_pool.run(job, todo, args.num_workers, progress, args.patience)
    progress.close()
    missing = [shard for shard in range(num_shards) if not job.count_done(shard)]
    if missing:
        print(f'{len(missing)} of {num_shards} shards are still to be made by other machines; '
              'run any of them again to finish the folder.')  # fmt: skip
        return 0
    summary = job.close_folder()
    if args.npz:
        landmark_shards.write_npz((row for _, row in job.rows()), args.npz)
    if args.pages:
        landmark_pages.write_page(source, [row for _, row in job.rows()], summary, job.out)
    if args.export_features:
        table = landmark_shards.read_table(job.out)
        landmark_pages.export_features(
            source, table, args.export_features, args.hull, args.export_limit
        )
    print(landmark_pages.describe(summary))
    bad = sum(count for reason, count in summary['not_found'].items() if reason != 'no face')
    if bad > args.max_bad * n:
        print(f'error: {bad} of {n} images are bad, above --max_bad={args.max_bad}; see '
              f'{os.path.join(args.out, "bad.jsonl")}', file=sys.stderr)  # fmt: skip
        return 2
    return 0


def _part(text: str, num_shards: int) -> list[int]:
    if not text:
        return list(range(num_shards))
    first, colon, end = text.partition(':')
    if not (colon and first.isdecimal() and end.isdecimal() and int(first) < int(end)):
        raise ValueError(f'--shards={text}: expected FIRST:END, such as 0:64')
    return list(range(num_shards))[int(first) : int(end)]


if __name__ == '__main__':
    # Under its own name, so that workers can unpickle what this process pickles.
    from fi_jax.input_pipeline.offline import extract_landmarks

    sys.exit(extract_landmarks.main())
