"""What a training reports of itself: means, rates, percentiles, skips by name, goodput, memory."""

from __future__ import annotations

import contextlib
import json
import math
import resource
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging

from fi_jax.run.writers import Writer

Rows = Sequence[Mapping[str, np.ndarray]]


class Clock:
    """Where the wall time of one start of a run went: <workdir>/starts.jsonl, a line a start.

    Kinds: start, compile, data (waiting for it), step, look, eval, checkpoint (the stall: writing
    goes on in the background); goodput is the share of data and step. Use as a context.
    """

    def __init__(self, workdir: Path):
        self._path = workdir / 'starts.jsonl'
        self._since = time.perf_counter()
        self._kind = 'start'
        self.spent: dict[str, float] = {}
        self.first = self.last = 0  # steps, for the record

    def __enter__(self) -> Clock:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, *_: object) -> None:
        self._switch('end')
        total = sum(self.spent.values())
        shares = {name: seconds / total for name, seconds in self.spent.items()}
        goodput = shares.get('data', 0.0) + shares.get('step', 0.0)
        parts = ', '.join(f'{name} {share:.1%}' for name, share in shares.items())
        logging.info('goodput %.1f %% of %.0f s: %s', 100 * goodput, total, parts)
        if jax.process_index():
            return
        line = {
            'first_step': self.first,
            'last_step': self.last,
            'seconds': total,
            'goodput': goodput,
            'shares': shares,
            'ended': type(error).__name__ if error else 'done',
        }
        # The record of a run that ends because its disk is full must not hide why it ends.
        with contextlib.suppress(OSError), open(self._path, 'a') as file:
            file.write(json.dumps(line) + '\n')

    @contextlib.contextmanager
    def __call__(self, kind: str) -> Iterator[None]:
        """Time inside is of this kind, and of no kind around it."""
        outer = self._switch(kind)
        try:
            yield
        finally:
            self._switch(outer)

    def _switch(self, kind: str) -> str:
        now, outer = time.perf_counter(), self._kind
        self.spent[outer] = self.spent.get(outer, 0.0) + now - self._since
        self._kind, self._since = kind, now
        return outer

    def training(self) -> float:
        """Seconds of data and step so far."""
        return self.spent.get('data', 0.0) + self.spent.get('step', 0.0)


class Meter:
    """The numbers of a stage, written each config.log_every steps.

    The first step of a stage, with its compilation, is in no rate. last: its last step, where that
    is known.
    """

    def __init__(self, stage: str, config: Any, last: int | None, writer: Writer, clock: Clock):
        self._stage, self._last, self._writer, self._clock = stage, last, writer, clock
        self._batch_size, self._every = config.batch_size, config.log_every
        self._pending: list[dict[str, jax.Array]] = []
        self._durations: list[float] = []
        self._timed = 0
        self._begin: tuple[float, float] | None = None
        self._tick = 0.0
        self._idle: set[str] = set()
        self.trouble = ''

    def add(
        self, step: int, metrics: dict[str, jax.Array], ended: bool = False, left: float = 0.0
    ) -> bool:
        """Take a finished step's metrics; true where a line was due, and written.

        ended: the stage is over. left: its seconds, where no last step is known.
        """
        self._pending.append(metrics)
        if len(self._pending) > 2:
            # The host runs two steps ahead at most, else waiting for data could not be measured.
            jax.block_until_ready(self._pending[-3])
        self._time()
        if step % self._every and not ended:
            return False
        rows: Rows = jax.device_get(self._pending)
        for message in self._skips(step, rows):
            self.trouble = message
            logging.warning('%s', message)
        means, times = mean_metrics(rows), self._times(step)
        self._pending, self._durations = [], []
        self._writer.scalars(step, means | times | memory())
        losses = '  '.join(f'{k} {v:.4g}' for k, v in means.items() if k.startswith('loss/'))
        head = f'{self._stage} step {step}' + (f'/{self._last}' if self._last else '')
        logging.info('%s  %s%s', head, self._speed(step, times, left), losses)
        return True

    def _time(self) -> None:
        with self._clock('step'):  # switches, and so brings the sums up to now
            now = self._clock.training()
        if self._begin is None:
            self._begin = now, self._clock.spent.get('data', 0.0)
        else:
            self._durations.append(now - self._tick)
            self._timed += 1
        self._tick = now

    def _times(self, step: int) -> dict[str, float]:
        if not self._timed or self._begin is None:
            return {}
        seconds = self._tick - self._begin[0]
        waited = self._clock.spent.get('data', 0.0) - self._begin[1]
        times = {
            'steps_per_s': self._timed / seconds,
            'images_per_s': self._timed * self._batch_size / seconds,
            'data_wait_share': waited / seconds,
        }
        if self._durations:
            middle, slow = np.percentile(self._durations, [50, 95])
            times |= {'step_p50_s': float(middle), 'step_p95_s': float(slow)}
            times['step_max_s'] = max(self._durations)
        return {f'time/{name}': value for name, value in times.items()}

    def _speed(self, step: int, times: Mapping[str, float], left: float) -> str:
        if not times:
            return '(compiled)  '
        if self._last:
            left = (self._last - step) / times['time/steps_per_s']
        left = round(left)
        return (
            f'{times["time/steps_per_s"]:.2f} step/s  {times["time/images_per_s"]:.0f} image/s  '
            f'ETA {left // 60}m{left % 60:02d}s  '
            f'data wait {times["time/data_wait_share"]:.1%}  '
        )

    def _skips(self, step: int, rows: Rows) -> list[str]:
        """A sentence for each phase skipped in these rows, naming what was not finite."""
        messages = []
        for ago, row in zip(reversed(range(len(rows))), rows, strict=True):
            bad = {name for name, value in row.items() if not np.isfinite(value)}
            skipped = [n for n, v in row.items() if n.startswith('skipped/') and v > 0]
            if not skipped:
                self._idle |= bad  # of a lazy phase that did not run
            for phase in (name.removeprefix('skipped/') for name in skipped):
                others = {n for n in bad if n.startswith(('loss/', 'grad_norm/'))}
                own = {n for n in others if n.split('/')[1] == phase}
                names = sorted(own | (bad - others - self._idle)) or ['an update']
                messages.append(f'step {step - ago}: {phase} skipped, not finite: {names}')
        return messages


def mean_metrics(rows: Rows) -> dict[str, float]:
    """Means over steps; a lazy phase counts only where it ran (NaN elsewhere)."""
    means = {}
    for name in rows[-1]:
        values = np.array([row[name] for row in rows], np.float64)
        ran = values[~np.isnan(values)]
        means[name] = float(ran.mean()) if ran.size else math.nan
    return means


def memory() -> dict[str, float]:
    """Peak memory so far in GB: of this process, and of its first device where that can tell."""
    out = {'memory/host_peak_gb': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6}
    stats = jax.local_devices()[0].memory_stats() or {}
    if 'peak_bytes_in_use' in stats:
        out['memory/device_peak_gb'] = stats['peak_bytes_in_use'] / 1e9
    return out


class Profile:
    """A profiler trace of the steps 'first:last', into <workdir>/profile, for xprof to show.

    Raises ValueError where the text is not of that form; '' traces nothing.
    """

    def __init__(self, steps: str, workdir: Path):
        first, colon, last = steps.partition(':')
        if steps and not (colon and first.isdigit() and last.isdigit() and int(first) < int(last)):
            raise ValueError(f'--profile_steps={steps!r}: write first:last, as 100:103')
        self._steps = (int(first), int(last)) if steps else (-1, -1)
        self._folder, self._running = workdir / 'profile', False

    def __call__(self, step: int, state: Any) -> None:
        """Start or stop before a step; call at each."""
        if step == self._steps[0]:
            jax.profiler.start_trace(str(self._folder))
            self._running = True
        elif self._running and step >= self._steps[1]:
            jax.block_until_ready(state)
            jax.profiler.stop_trace()
            self._running = False
            logging.info('profile of steps %d to %d: %s', *self._steps, self._folder)
