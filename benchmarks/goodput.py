"""Where the seconds of one short real run go: goodput, and each kind of time, of a fresh process.

    python -m benchmarks.goodput -- --config=configs/quickstart.py --workdir=runs/goodput
    python -m benchmarks.goodput --twice -- --config=configs/stage1.py --workdir=runs/goodput

What stands behind `--` is a command of `fi_jax.main`; its run folder must not be there yet. --twice
runs it again in another folder, with the compilations of the first in the cache. --json FILE adds a
line of results to a file.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import timing


def run_training(flags: list[str], workdir: Path, cache: str) -> dict[str, Any]:
    """The line of starts.jsonl of one run, with the seconds of its whole process."""
    command = [sys.executable, '-m', 'fi_jax.main', *flags, f'--workdir={workdir}']
    start = time.perf_counter()
    done = subprocess.run(
        [*command, f'--config.compile_cache={cache}'], capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(f'{" ".join(command)} ended with {done.returncode}:\n{done.stderr}')
    (line,) = (workdir / 'starts.jsonl').read_text().splitlines()
    rates = [json.loads(x) for x in (workdir / 'metrics.jsonl').read_text().splitlines()]
    speed = [x['time/images_per_s'] for x in rates if 'time/images_per_s' in x]
    waits = [x['time/data_wait_share'] for x in rates if 'time/data_wait_share' in x]
    return json.loads(line) | {
        'process_seconds': seconds,
        'images_per_s': speed[-1] if speed else None,
        'data_wait_share': waits[-1] if waits else None,
    }


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--twice', action='store_true', help='again, with a warm cache')
    parser.add_argument('--json', default='', help='file to add a line of results to')
    parser.add_argument('flags', nargs='+', help='of fi_jax.main, behind --')
    args = parser.parse_args()
    given = [f for f in args.flags if not f.startswith('--workdir=')]
    (workdir,) = [Path(f.partition('=')[2]) for f in args.flags if f.startswith('--workdir=')]
    if workdir.exists():
        sys.exit(f'--workdir={workdir} is there already; name a new folder')
    hardware = timing.hardware('jax', 'jaxlib')
    print(hardware, flush=True)
    runs = {}
    with tempfile.TemporaryDirectory() as cache:
        runs['cold'] = run_training(given, workdir, cache)
        if args.twice:
            runs['cached'] = run_training(given, workdir.with_name(f'{workdir.name}_cached'), cache)
    kinds = list(dict.fromkeys(k for run in runs.values() for k in run['shares']))
    lines = [
        (kind, *(f'{r["shares"].get(kind, 0.0) * r["seconds"]:.1f}' for r in runs.values()))
        for kind in kinds
    ]
    lines.append(('all', *(f'{r["seconds"]:.1f}' for r in runs.values())))
    lines.append(('goodput, %', *(f'{100 * r["goodput"]:.1f}' for r in runs.values())))
    print(timing.table(('seconds', *runs), lines))
    for name, r in runs.items():
        if r['images_per_s']:
            print(f'{name}: {r["images_per_s"]:.0f} images/s, data wait {r["data_wait_share"]:.1%}')
    if args.json:
        line = {'benchmark': 'goodput', 'hardware': hardware, 'flags': given, 'runs': runs}
        with open(args.json, 'a') as file:
            file.write(json.dumps(line) + '\n')


if __name__ == '__main__':
    main()
