"""Seconds from the start of the process to the first finished training step, cache cold and warm.

    python -m benchmarks.first_step --stages stage1 stage2

Runs the real command, python -m fi_jax.main, with a compilation cache and a run folder of its own,
both thrown away, and stops it once it logs step 1. What a person waits for is in it: imports, data,
parameters, the first pictures, compilation of all of them. The first run of a stage finds the cache
empty, the later ones find it as the first left it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import timing

ROOT = Path(__file__).resolve().parent.parent


def command(stage: str, argument: str, workdir: str, cache: str) -> list[str]:
    """The command line of a run that logs each step and does no more than it must."""
    settings = {
        f'steps.{stage}': 1000,
        'log_every': 1,
        'compile_cache': cache,
        'eval.at_end': False,
    }
    return [
        *(sys.executable, '-m', 'fi_jax.main', '--mode=train'),
        f'--config=configs/{stage}.py:{argument}',
        f'--workdir={workdir}',
        *(f'--config.{name}={value}' for name, value in settings.items()),
    ]


def until_first_step(arguments: Sequence[str]) -> float:
    """Start a command, wait for its line on step 1, stop it; seconds. RuntimeError if it ends."""
    env = os.environ | {'PYTHONPATH': str(ROOT)}
    start = time.perf_counter()
    process = subprocess.Popen(
        arguments, cwd=ROOT, env=env, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    assert process.stderr is not None
    lines: list[str] = []
    try:
        for line in process.stderr:
            lines.append(line)
            if ' step 1/' in line:
                return time.perf_counter() - start
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
    raise RuntimeError('the run ended before its first step:\n' + ''.join(lines[-20:]))


def measure(stage: str, argument: str, warm_runs: int) -> tuple[float, list[float]]:
    """Seconds of the run with an empty cache, and of those after it."""
    with tempfile.TemporaryDirectory() as cache:
        seconds = []
        for _ in range(1 + warm_runs):
            with tempfile.TemporaryDirectory() as workdir:
                seconds.append(until_first_step(command(stage, argument, workdir, cache)))
    return seconds[0], seconds[1:]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('--stages', nargs='+', choices=('stage1', 'stage2'), default=['stage1', 'stage2'])
    add('--res', type=int, default=64, help='image side (default %(default)s)')
    add('--tiny', action='store_true', help='the tiny networks at 32 px, to try the command')
    add('--warm', type=int, default=2, help='runs with a warm cache (default %(default)s)')
    args = parser.parse_args()

    print(timing.hardware('jax', 'jaxlib'), end='\n\n')
    rows = []
    for stage in args.stages:
        cold, warm = measure(stage, 'tiny' if args.tiny else f'res={args.res}', args.warm)
        middle = statistics.median(warm)
        rows.append(
            (stage, f'{cold:.1f}', f'{min(warm):.1f}', f'{middle:.1f}', f'{cold / middle:.1f}')
        )
    head = ('seconds to the first step', 'cold', 'warm, min', 'warm, median', 'cold / warm')
    print(timing.table(head, rows))


if __name__ == '__main__':
    main()
