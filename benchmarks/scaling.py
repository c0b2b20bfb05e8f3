"""What layouts cost: cut state, parts of a batch, recomputation and two processes, against one.

    python -m benchmarks.scaling

Ratios of the time of a step on the same total work, turns in alternation, medians; then the share
of time a run waits for data and is held up by its checkpoints, from its own record. On a CPU whose
cores are shared by all layouts the ratios are overheads: nothing can be gained.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import timing
from configs import stage1
from fi_jax import sharding, steps
from fi_jax.methods import make_method
from fi_jax.optim import make_optimizers
from fi_jax.state import example_batch, init_state

LAYOUTS: dict[str, tuple[int, dict[str, Any]]] = {
    'one device': (1, {}),
    'replicated, 2 devices': (2, {}),
    'fsdp over 2': (2, {'mesh.fsdp': 2}),
    'accumulate=2': (1, {'accumulate': 2}),
    'remat': (1, {'remat': True}),
}


class Layout:
    """A step of stage 1 in one layout, ready to be timed."""

    def __init__(self, args: argparse.Namespace, devices: int, changes: dict[str, Any]):
        config = stage1.get_config('tiny' if args.tiny else f'res={args.res}')
        config.batch_size = args.batch
        config.update_from_flattened_dict(changes)
        method = make_method(config)
        optimizers = make_optimizers(config, method.nets)
        mesh = sharding.make_mesh(config.mesh.fsdp, jax.devices()[:devices])
        shapes = jax.eval_shape(lambda: init_state(method, optimizers, config.res, config.seed))
        place = sharding.place_state(shapes, mesh, config.mesh.fsdp_min_size)
        self.state = jax.tree.map(filled, shapes, place)
        rows = args.batch // jax.process_count()
        self._batch = sharding.shard_batch(example_batch(config.res, rows), mesh)
        step = jax.jit(
            steps.make_train_step(method, 'stage1', optimizers, config, mesh=mesh),
            donate_argnums=0,
            out_shardings=(place, sharding.replicated(mesh)),
            compiler_options=sharding.compiler_options(),
        )
        self._step = step.lower(self.state, self._batch).compile()
        memory: Any = self._step.memory_analysis()
        self.megabytes = (memory.argument_size_in_bytes + memory.temp_size_in_bytes) / 1e6

    def seconds(self, times: int) -> float:
        """Of one step, over some in a row."""
        begin = time.perf_counter()
        for _ in range(times):
            self.state, _ = self._step(self.state, self._batch)
        jax.block_until_ready(self.state)
        return (time.perf_counter() - begin) / times


def filled(x: jax.ShapeDtypeStruct, place: jax.sharding.Sharding) -> jax.Array:
    """Any numbers do to be timed, and need no program for their drawing."""
    whole = np.full(x.shape, 0.02, x.dtype)
    return jax.make_array_from_callback(x.shape, place, lambda part: whole[part])


class Processes:
    """`Layout` over processes of one device each, joined as hosts are; which run on command."""

    def __init__(self, args: argparse.Namespace, count: int):
        with socket.socket() as probe:
            probe.bind(('localhost', 0))
            address = f'localhost:{probe.getsockname()[1]}'
        flags = [f'--res={args.res}', f'--batch={args.batch}', *['--tiny'] * args.tiny]
        command = [sys.executable, '-m', 'benchmarks.scaling', *flags]
        self._all = [
            subprocess.Popen(
                [*command, '--worker', address, str(count), str(i)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=None if args.verbose else subprocess.DEVNULL,
                text=True,
            )
            for i in range(count)
        ]
        self.megabytes = max(self._answers())

    def _answers(self) -> list[float]:
        lines = [process.stdout.readline() for process in self._all if process.stdout]
        if not all(lines):
            raise RuntimeError('a process ended; --verbose shows what it said')
        return [float(line) for line in lines]

    def seconds(self, times: int) -> float:
        """Of one step, over some in a row."""
        for process in self._all:
            print(times, file=process.stdin, flush=True)
        return max(self._answers())

    def close(self) -> None:
        """End them."""
        for process in self._all:
            if process.stdin:
                process.stdin.close()
        for process in self._all:
            process.wait(60)


def settle(devices: int) -> None:
    """Number of CPU devices, and the cache of compiled programs."""
    jax.config.update('jax_num_cpu_devices', devices)
    cache = Path(stage1.get_config('tiny').compile_cache).expanduser()
    jax.config.update('jax_compilation_cache_dir', str(cache))


def work(args: argparse.Namespace) -> None:
    """One of `Processes`: answers each number of steps on its input with seconds a step."""
    address, count, index = args.worker
    answers = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)  # what JAX prints is no answer
    settle(1)
    jax.distributed.initialize(address, int(count), int(index))
    layout = Layout(args, int(count), {})
    print(layout.megabytes, file=answers, flush=True)
    for line in sys.stdin:
        print(layout.seconds(int(line)), file=answers, flush=True)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('--res', type=int, default=64, help='side of the images (default %(default)s)')
    add('--tiny', action='store_true', help='the tiny config, 32 px')
    add('--batch', type=int, default=16, help='images a step (default %(default)s)')
    add('--steps', type=int, default=3, help='steps a turn (default %(default)s)')
    add('--rounds', type=int, default=5, help='turns of each (default %(default)s)')
    add('--runs', nargs='*', default=[], help='run folders whose record is to be read')
    add('--verbose', action='store_true', help='show what the two processes say')
    add('--worker', nargs=3, default=[], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.runs:
        print(records([Path(run) for run in args.runs]))
        return
    if args.worker:
        work(args)
        return
    settle(2)
    pair = Processes(args, 2)
    layouts: dict[str, Layout | Processes] = {
        name: Layout(args, *layout) for name, layout in LAYOUTS.items()
    }
    layouts['replicated, 2 processes'] = pair
    taken: dict[str, list[float]] = {name: [] for name in layouts}
    for turn in range(args.rounds + 1):
        for name, layout in layouts.items():
            seconds = layout.seconds(args.steps)
            if turn:  # the first warms up
                taken[name].append(seconds)
    pair.close()
    middle = {name: statistics.median(values) for name, values in taken.items()}
    rows = [
        (
            name,
            f'{1e3 * middle[name]:.0f}',
            f'{middle[name] / middle["one device"]:.2f}',
            f'{layouts[name].megabytes:.1f}',
        )
        for name in layouts
    ]
    print(timing.table(('stage 1', 'ms a step', 'ratio', 'MB a device'), rows))
    print(timing.hardware('jax'))


def records(runs: list[Path]) -> str:
    """Table of the starts of some runs: where their time went."""
    rows = []
    for run in runs:
        for line in (run / 'starts.jsonl').read_text().splitlines():
            start = json.loads(line)
            shares = start['shares']
            busy = shares.get('data', 0.0) + shares.get('step', 0.0)
            rows.append(
                (
                    run.name,
                    f'{start["first_step"]}-{start["last_step"]}',
                    start['ended'],
                    f'{start["goodput"]:.1%}',
                    f'{shares.get("data", 0.0) / busy:.1%}' if busy else '-',
                    f'{shares.get("checkpoint", 0.0) * start["seconds"]:.2f}',
                )
            )
    head = ('run', 'steps', 'ended', 'goodput', 'data wait', 's held up by saves')
    return timing.table(head, rows)


if __name__ == '__main__':
    main()
