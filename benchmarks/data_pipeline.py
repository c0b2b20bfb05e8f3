"""What a host reads, decodes and crops: sources x readers, and what an image costs a core.

    python -m benchmarks.data_pipeline
    python -m benchmarks.data_pipeline --path FACES.zip --processes 0 1 2 4

Rates are of the trainer's own batches: 0 processes are --threads threads of this one. The rows of a
decoded set are of the same faces, written by `fi_jax.input_pipeline.decoded` to a folder that is
removed. Without --path the faces are drawn, and kept as JPEG files in memory. The table of parts is
of one thread: microseconds of the processor an image. 'data wait' is what a consumer of --consume
images a second would wait. `--json FILE` adds a line to a file.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks import timing
from fi_jax.input_pipeline import decoded, reading
from fi_jax.input_pipeline.loader import train_iterator
from fi_jax.input_pipeline.records import Record, Source, decode
from fi_jax.input_pipeline.sources import make_source


class Files(list):
    """Records in memory, a source."""


def sources(args: argparse.Namespace, folder: Path) -> tuple[Any, dict[str, Source]]:
    """The config of stage 1, and the same faces as JPEG files and as a decoded set."""
    from configs import stage1

    config = stage1.get_config(f'res={args.res}')
    config.batch_size = args.batch
    if args.path:
        config.data.source, config.data.path = 'zip', args.path
        config.data.landmarks = args.landmarks
        files: Source = make_source(config.data, 'train')
    else:
        config.data.length = 600
        drawn = make_source(config.data, 'train')
        files = Files(_as_jpeg(drawn[i]) for i in range(len(drawn)))
    count = min(len(files), args.decoded)
    decoded.write(
        files, {'train': range(count)}, folder / 'set', res=args.res, margin=0,
        about={'terms': '', 'split_rule': ''},
    )  # fmt: skip
    return config, {'JPEG': files, 'decoded': decoded.Decoded(folder / 'set')}


def _as_jpeg(record: Record) -> Record:
    assert isinstance(record.image, np.ndarray), 'drawn'
    _, data = cv2.imencode('.jpg', record.image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
    return dataclasses.replace(record, image=data.tobytes())


def parts(source: Source, config: Any, images: int) -> dict[str, float]:
    """Microseconds an image of this thread's processor: raw decoding, each part, a whole batch."""
    chosen = np.random.default_rng(0).integers(len(source), size=images).tolist()
    records = [source[i] for i in chosen]
    pixels = [decode(r.image, r.name) for r in records]
    steps = reading.Steps(reading.SkipBadImages(source, 0.0), config)
    batches = range(1, 1 + -(-images // config.batch_size))
    steps[0]

    def spent(run: Callable[[Any], object], over: Any, each: int = 1) -> float:
        start = time.thread_time()
        for x in over:
            run(x)
        return (time.thread_time() - start) / (len(over) * each) * 1e6

    out = {}
    if isinstance(records[0].image, bytes):
        raw = [np.frombuffer(r.image, np.uint8) for r in records]
        out['imdecode alone'] = spent(lambda x: cv2.imdecode(x, cv2.IMREAD_COLOR_RGB), raw)
    out['read'] = spent(source.__getitem__, chosen)
    out['decode'] = spent(lambda r: decode(r.image, r.name), records)
    out['crop'] = spent(lambda x: reading.square(x, None, config.res), pixels)
    out['a batch, all'] = spent(steps.__getitem__, batches, config.batch_size)
    return out


def rate(source: Source, config: Any, threads: int, processes: int, seconds: float) -> float:
    """Images a second of the trainer's batches, warm."""
    config = config.copy_and_resolve_references()
    config.data.num_threads = threads
    iterator = train_iterator(reading.SkipBadImages(source, 0.0), config, 0, 1, processes)
    with contextlib.closing(iterator):
        for _ in range(4 + 4 * processes):  # started, and what was read ahead is gone
            next(iterator)
        start, count = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            next(iterator)
            count += config.batch_size
        return count / (time.perf_counter() - start)


def waiting(source: Source, config: Any, processes: int, consume: float, seconds: float) -> float:
    """The share of its time that a consumer of so many images a second waits for them."""
    iterator = train_iterator(reading.SkipBadImages(source, 0.0), config, 0, 1, processes)
    busy, waited = config.batch_size / consume, 0.0
    with contextlib.closing(iterator):
        for _ in range(1 + processes):
            next(iterator)
        start = time.perf_counter()
        while (now := time.perf_counter()) - start < seconds:
            next(iterator)
            waited += time.perf_counter() - now
            time.sleep(busy)
        return waited / (time.perf_counter() - start)


def rows(args: argparse.Namespace, config: Any, given: dict[str, Source]) -> Iterator[dict]:
    """One row a source and number of processes, as they are measured."""
    for name, source in given.items():
        for processes in args.processes:
            for threads in args.threads if processes == 0 else [1]:
                found = rate(source, config, threads, processes, args.seconds)
                wait = waiting(source, config, processes, args.consume, args.seconds)
                yield {
                    'source': name, 'px': args.res, 'batch': args.batch, 'processes': processes,
                    'threads': threads, 'images_per_s': found, 'consumer': args.consume,
                    'wait_share': wait,
                }  # fmt: skip


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('--path', default='', help='a zip of photographs (default: drawn faces as JPEG)')
    add('--landmarks', default='', help='its landmarks: a folder of shards, or an .npz')
    add('--res', type=int, default=64, help='side of the examples (default %(default)s)')
    add('--batch', type=int, default=64, help='images a batch (default %(default)s)')
    add('--threads', type=int, nargs='+', default=[1, 2], help='threads of this process to try')
    add('--processes', type=int, nargs='+', default=[0, 1, 2], help='numbers of processes to try')
    add('--seconds', type=float, default=3.0, help='of each measurement (default %(default)s)')
    add('--images', type=int, default=640, help='behind the costs (default %(default)s)')
    add('--decoded', type=int, default=4000, help='images of the decoded set (default %(default)s)')
    add('--consume', type=float, default=9300, help='images a second asked for (%(default)s)')
    add('--json', default='', help='file to add a line of results to')
    args = parser.parse_args()

    cv2.setNumThreads(0)
    hardware = timing.hardware('numpy', 'opencv-python-headless')
    print(hardware)
    with tempfile.TemporaryDirectory() as folder:
        config, given = sources(args, Path(folder))
        costs = {name: parts(source, config, args.images) for name, source in given.items()}
        for name, cost in costs.items():
            lines = [(part, f'{us:.0f}', f'{1e6 / us:,.0f}') for part, us in cost.items()]
            print(timing.table((f'{name}, {args.res} px', 'us', 'images/s of a core'), lines))
            print(flush=True)
        found = list(rows(args, config, given))
    head = ('source', 'processes', 'threads', 'images/s', f'wait at {args.consume:.0f}/s')
    cells = [
        (r['source'], str(r['processes']), str(r['threads']), f'{r["images_per_s"]:,.0f}',
         f'{r["wait_share"]:.1%}')
        for r in found
    ]  # fmt: skip
    print(timing.table(head, cells))
    if args.json:
        line = {'benchmark': 'data_pipeline', 'hardware': hardware, 'cost_us': costs, 'rows': found}
        with open(args.json, 'a') as file:
            file.write(json.dumps(line) + '\n')


if __name__ == '__main__':
    main()
