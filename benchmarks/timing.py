"""Timing side by side, and the tables that show it.

On a shared machine a time means little and a ratio much: the contestants take turns, a few calls
each, round after round, so that whatever slows the machine slows all of them.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

BUSY_LOAD = 0.5


def stopwatch(run: Callable[[], object], repeats: int = 1) -> Callable[[], float]:
    """A function that calls run `repeats` times and returns the seconds of one call."""

    def measure() -> float:
        start = time.perf_counter()
        for _ in range(repeats):
            run()
        return (time.perf_counter() - start) / repeats

    return measure


def interleave(
    contestants: Mapping[Any, Callable[[], float]], rounds: int
) -> dict[Any, list[float]]:
    """Call the contestants in turn, `rounds` times; each returns its seconds. All are kept."""
    names = list(contestants)
    seconds: dict[Any, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        # Back and forth: whoever follows the largest is not always the same.
        for name in names[:: 1 if turn % 2 == 0 else -1]:
            seconds[name].append(contestants[name]())
    return seconds


def compare(title: str, seconds: Mapping[str, Sequence[float]], base: str = '') -> str:
    """A table: name, min and median in ms, and the median over that of the base (the first)."""
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    unit = middle[base or next(iter(seconds))]
    rows = [
        (
            name,
            f'{min(values) * 1e3:.2f}',
            f'{middle[name] * 1e3:.2f}',
            f'{middle[name] / unit:.2f}',
        )
        for name, values in seconds.items()
    ]
    return table((title, 'min', 'median', 'ratio'), rows)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Aligned text: the first column to the left, numbers to the right."""
    lines = [tuple(head), *(tuple(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]

    def text(line: Sequence[str]) -> str:
        cells = [line[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        return '  '.join(cells).rstrip()

    rule = '-' * (sum(widths) + 2 * len(widths) - 2)
    return '\n'.join([text(lines[0]), rule, *map(text, lines[1:])])


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def hardware(*packages: str) -> str:
    """The line under each result: CPU, cores, load, versions, date; and a warning where busy."""
    versions = ', '.join(f'{name} {importlib.metadata.version(name)}' for name in packages)
    load = os.getloadavg()[0] if hasattr(os, 'getloadavg') else 0.0
    line = (
        f'{_cpu_model()}, {cores()} cores, load average {load:.2f}, '
        f'Python {platform.python_version()}, {versions}, {datetime.date.today()}'
    )
    if load > BUSY_LOAD:
        line += f'\nmachine is busy (load average {load:.2f} > {BUSY_LOAD}): ratios only'
    return line


def _cpu_model() -> str:
    path = Path('/proc/cpuinfo')
    if path.exists():
        for line in path.read_text().splitlines():
            if line.startswith('model name'):
                return line.partition(':')[2].strip()
    return platform.processor() or platform.machine()
