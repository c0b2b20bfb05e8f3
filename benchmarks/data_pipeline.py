"""The training loader against raw JPEG decoding, in images a second, and where its time goes.

    python -m benchmarks.data_pipeline
    python -m benchmarks.data_pipeline --path FACES.zip --landmarks LANDMARKS.npz

Without --path the faces are procedural: the loader then draws each face where it would otherwise
read and decode one, and the raw decoding is of the same faces as JPEG files in memory. The loader
is the trainer's own, from `train_iterator`; a turn begins with a fresh iterator and skips what its
threads have read ahead. The table of parts is of one thread, without grain; 'grain and batching' is
what the loader of one thread takes beyond them.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np

from benchmarks import timing
from configs import stage1
from fi_jax.input_pipeline import holes, loader
from fi_jax.input_pipeline.records import Source, decode
from fi_jax.input_pipeline.sources import make_source

READ_AHEAD = 8  # batches; at least what grain keeps ready
PARTS = ('read', 'decode', 'crop and flip', 'hole', 'face maps')


def make_config(args: argparse.Namespace) -> Any:
    """The config of stage 1 with the data that the flags name."""
    config = stage1.get_config(f'res={args.res}')
    config.batch_size = args.batch
    if args.path:
        config.data.source, config.data.path = 'zip', args.path
        config.data.landmarks = args.landmarks
    return config


def jpegs(source: Source, count: int) -> list[bytes]:
    """The files of the first images; drawn faces become JPEG of quality 95."""
    files = []
    for i in range(min(count, len(source))):
        image = source[i].image
        if isinstance(image, np.ndarray):
            image = cv2.imencode('.jpg', image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[
                1
            ].tobytes()
        files.append(image)
    return files


def raw_decode(files: list[bytes], threads: int, images: int) -> Callable[[], float]:
    """Seconds an image of cv2.imdecode alone, over threads."""
    chosen = [np.frombuffer(f, np.uint8) for f in itertools.islice(itertools.cycle(files), images)]

    def work(part: list[np.ndarray]) -> None:
        for data in part:
            cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)

    def measure() -> float:
        with ThreadPoolExecutor(threads) as pool:
            start = time.perf_counter()
            list(pool.map(work, [chosen[i::threads] for i in range(threads)]))
            return (time.perf_counter() - start) / len(chosen)

    return measure


def loading(source: Source, config: Any, threads: int, images: int) -> Callable[[], float]:
    """Seconds an image of the training loader with a number of threads."""
    config = config.copy_and_resolve_references()
    config.data.num_threads = threads
    batches = -(-images // config.batch_size)

    def measure() -> float:
        tolerant = loader.Tolerant(source, config.data.max_bad_share)
        iterator = loader.train_iterator(tolerant, config)
        for _ in range(READ_AHEAD):
            next(iterator)
        start = time.perf_counter()
        for _ in range(batches):
            next(iterator)
        seconds = time.perf_counter() - start
        iterator.close()
        return seconds / (batches * config.batch_size)

    return measure


def parts(source: Source, config: Any, images: int) -> dict[str, float]:
    """Seconds an image that each part of an example takes, one thread, in the order of PARTS."""
    rng = np.random.default_rng(0)
    weights = config.data.holes.to_dict()
    clock = [0.0] * len(PARTS)
    order = rng.integers(len(source), size=images)
    for index in order:
        ticks = [time.perf_counter()]
        record = source[int(index)]
        ticks.append(time.perf_counter())
        pixels = decode(record.image, record.name)
        ticks.append(time.perf_counter())
        image, points = loader.square(pixels, record.landmarks, config.res)
        if rng.random() < 0.5:
            image, points = loader.mirror(image, points)
        ticks.append(time.perf_counter())
        holes.draw_mixture(weights, rng, image.shape[:2], points)
        ticks.append(time.perf_counter())
        loader.face_maps(points, config.res, config.data.hull)
        ticks.append(time.perf_counter())
        for i, (before, after) in enumerate(itertools.pairwise(ticks)):
            clock[i] += (after - before) / images
    return dict(zip(PARTS, clock, strict=True))


def rates(seconds: Mapping[str, list[float]], base: str) -> str:
    """Table of images a second: the best turn, the median, and the median over the base's."""
    middle = {name: 1 / statistics.median(values) for name, values in seconds.items()}
    rows = [
        (
            name,
            f'{1 / min(values):.0f}',
            f'{middle[name]:.0f}',
            f'{middle[name] / middle[base]:.2f}',
        )
        for name, values in seconds.items()
    ]
    return timing.table(('images a second', 'best', 'median', 'ratio'), rows)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('--path', default='', help='a zip of photographs (default: procedural faces)')
    add('--landmarks', default='', help='its landmarks: a folder of shards, or an .npz')
    add('--res', type=int, default=64, help='side of the examples (default %(default)s)')
    add('--batch', type=int, default=16, help='images a batch (default %(default)s)')
    add('--threads', type=int, nargs='+', default=[1, 2], help='numbers of threads to try')
    add('--images', type=int, default=800, help='images a turn (default %(default)s)')
    add('--rounds', type=int, default=5, help='turns of each (default %(default)s)')
    args = parser.parse_args()

    cv2.setNumThreads(0)
    config = make_config(args)
    source = make_source(config.data, 'train')
    files = jpegs(source, 500)
    print(timing.hardware('grain', 'numpy', 'opencv-python-headless'))
    kind = f'{len(source)} images of {args.path}' if args.path else 'procedural faces'
    size = statistics.mean(map(len, files)) / 1024
    print(f'{kind}, JPEG of {size:.1f} KiB on average; examples of {args.res} px\n')

    turns: dict[str, Callable[[], float]] = {}
    for n in args.threads:
        turns[f'JPEG decoding, {n} threads'] = raw_decode(files, n, args.images)
    for n in args.threads:
        turns[f'loader, {n} threads'] = loading(source, config, n, args.images)
    seconds = timing.interleave(turns, args.rounds)
    print(rates(seconds, next(iter(turns))), end='\n\n')

    took = parts(source, config, args.images)
    if f'loader, {1} threads' in seconds:
        took['grain and batching'] = statistics.median(seconds['loader, 1 threads']) - sum(
            took.values()
        )
    total = sum(took.values())
    rows = [(name, f'{t * 1e3:.3f}', f'{t / total:.0%}') for name, t in took.items()]
    print(timing.table(('part of an example, one thread', 'ms', 'share'), rows))


if __name__ == '__main__':
    main()
