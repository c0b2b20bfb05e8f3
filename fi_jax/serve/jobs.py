"""A queue with a bound and one worker: the device completes one photo at a time."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Literal

State = Literal['queued', 'running', 'done', 'failed', 'cancelled']


class Full(Exception):
    """The queue holds as many jobs as it may; `retry_after` seconds may free a place."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f'the queue is full; try again in {retry_after} s')
        self.retry_after = retry_after


class Cancelled(Exception):
    """Raised inside a job whose result nobody wants any more."""


class Job:
    """One piece of work: state is queued, running, done, failed or cancelled.

    result where it is done, error where it failed; `finished` is set at its end.
    """

    def __init__(self, work: Callable[[Job], Any]) -> None:
        self.id = secrets.token_urlsafe(16)
        self.work: Callable[[Job], Any] | None = work
        self.state: State = 'queued'
        self.error = ''
        self.result: Any = None
        self.done, self.total = 0, 0
        self.finished = threading.Event()
        self._cancelled = threading.Event()

    def progress(self, done: int, total: int) -> None:
        """Tell how far the work is; raises Cancelled where it is to end."""
        if self._cancelled.is_set():
            raise Cancelled
        self.done, self.total = done, total

    def cancel(self) -> None:
        """End the job: at once where it waits, at its next progress where it runs."""
        self._cancelled.set()

    def _end(self, state: State, result: Any = None, error: str = '') -> None:
        self.state, self.result, self.error, self.work = state, result, error, None
        self.finished.set()


class Queue:
    """Runs jobs in their order in one thread, and keeps the newest finished ones.

    bound: the jobs that may wait. keep, keep_bytes: how many finished jobs, and how much of their
    results (`nbytes`), are kept; the newest stays in any case.
    """

    def __init__(self, bound: int, keep: int = 8, keep_bytes: int = 1 << 29) -> None:
        self.bound, self.keep, self.keep_bytes = bound, keep, keep_bytes
        self._waiting: deque[Job] = deque()
        self._running: Job | None = None
        self._kept: dict[str, Job] = {}
        self._seconds = 1.0  # of a job, smoothed
        self._open = True
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name='jobs', daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[Job], Any]) -> Job:
        """Queue work(job); Full where the queue is."""
        with self._changed:
            if len(self._waiting) >= self.bound or not self._open:
                raise Full(max(1, round(self._seconds * (1 + len(self._waiting) / 2))))
            job = Job(work)
            self._waiting.append(job)
            self._changed.notify()
        return job

    def get(self, name: str) -> Job | None:
        """A job that waits, runs or is kept."""
        with self._changed:
            live = (*self._waiting, *((self._running,) if self._running else ()))
            return next((job for job in live if job.id == name), self._kept.get(name))

    def ahead(self, job: Job) -> int:
        """How many jobs come before this one."""
        with self._changed:
            if job not in self._waiting:
                return 0
            return self._waiting.index(job) + (self._running is not None)

    def remove(self, job: Job) -> None:
        """Cancel a job, or forget its result."""
        with self._changed:
            job.cancel()
            if job in self._waiting:
                self._waiting.remove(job)
                job._end('cancelled')
            self._kept.pop(job.id, None)

    def close(self) -> None:
        """Cancel all and let the thread end."""
        with self._changed:
            self._open = False
            for job in (*self._waiting, *((self._running,) if self._running else ())):
                job.cancel()
            while self._waiting:
                self._waiting.popleft()._end('cancelled')
            self._changed.notify()
        self._thread.join(timeout=10)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._running = None
                while not self._waiting:
                    if not self._open:
                        return
                    self._changed.wait()
                job = self._running = self._waiting.popleft()
                job.state = 'running'
            start = time.monotonic()
            self._do(job)
            self._seconds += 0.3 * (time.monotonic() - start - self._seconds)

    def _do(self, job: Job) -> None:
        assert job.work is not None
        ended: tuple[State, Any, str]
        try:
            job.progress(0, 0)
            ended = 'done', job.work(job), ''
            job.progress(job.total, job.total)
        except Cancelled:
            ended = 'cancelled', None, ''
        except ValueError as error:  # what was asked cannot be done, and the message says why
            ended = 'failed', None, str(error)
        except Exception:
            logging.getLogger(__name__).exception('job %s', job.id)
            ended = 'failed', None, 'an error of the server; its log tells more'
        with self._changed:
            job._end(*ended)
            if job.state != 'cancelled':
                self._kept[job.id] = job
            sizes = [getattr(kept.result, 'nbytes', 0) for kept in self._kept.values()]
            while len(sizes) > max(1, self.keep) or (
                len(sizes) > 1 and sum(sizes) > self.keep_bytes
            ):
                sizes.pop(0)
                del self._kept[next(iter(self._kept))]
