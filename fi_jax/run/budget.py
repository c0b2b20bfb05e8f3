"""How long a stage lasts: a number of steps, or its share of config.minutes, alike on each host."""

from __future__ import annotations

import time
from collections.abc import Mapping

import jax
import numpy as np
from jax.experimental import multihost_utils

INTERVAL = 1.0  # seconds between two looks at the first host's clock
now = time.perf_counter


class Budget:
    """The minutes of a run, shared out over its stages by their numbers of steps.

    spent: seconds of earlier starts that led to the state at hand; begin: when this start began, as
    `now` tells. With 0 minutes it is steps that count.
    """

    def __init__(self, minutes: float, steps: Mapping[str, int], spent: float, begin: float):
        self.minutes, self._steps = minutes, steps
        self._begin = begin - spent
        total, ends = sum(steps.values()), np.cumsum(list(steps.values()))
        self._until = {stage: end / total for stage, end in zip(steps, ends, strict=True)}
        self._agreed, self._at, self._next = 0.0, -1, -1

    def seconds(self) -> float:
        """Wall time of the run so far, by this host's clock."""
        return now() - self._begin

    def left(self) -> float:
        """Seconds until the minutes are over."""
        return max(60.0 * self.minutes - self.seconds(), 0.0)

    def moment(self, stage: str, first: int, step: int) -> float:
        """How far a stage that began at step `first` is, of its number of steps: there it ends.

        By time, it is the first host's clock that counts; each host asks at every step.
        """
        count = self._steps[stage]
        if not self.minutes:
            return step - first
        until = self._until[stage]
        before = until - count / sum(self._steps.values())
        share = self._share(step)
        return count * min(max((share - before) / (until - before), 0.0), 1.0)

    def _share(self, step: int) -> float:
        """Of the minutes, on each host what the first one found at the same step."""
        here = self.seconds() / (60.0 * self.minutes)
        if jax.process_count() == 1:
            return here
        if step >= self._next:
            # The next look comes after about a second, and no later than time may be up.
            pace = max((here - self._agreed) / max(step - self._at, 1), 1e-9)
            wait = min(INTERVAL / (60.0 * self.minutes), 1.0 - here) / pace
            mine = np.array([here, max(1.0, min(wait, 100.0))], np.float32)
            self._agreed, ahead = map(float, multihost_utils.broadcast_one_to_all(mine))
            self._at, self._next = step, step + int(ahead)
        return self._agreed
