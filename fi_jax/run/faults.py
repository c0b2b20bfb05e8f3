"""Faults from outside, and how a program ends: preemption, hosts that die or hang, exit codes."""

from __future__ import annotations

import contextlib
import enum
import json
import logging as std_logging
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from absl import logging
from jax.experimental import multihost_utils


class Exit(enum.IntEnum):
    """Exit codes. After 69 and 75 the same command, given again, goes on."""

    DONE = 0
    USER_ERROR = 1
    PARTIAL = 2
    NON_FINITE = 3
    HOST_LOST = 69  # nothing was saved since the last checkpoint
    PREEMPTED = 75  # all was saved


class SomeFailed(RuntimeError):
    """Some of many inputs could not be used; what could be done with the others is done."""


class NonFinite(RuntimeError):
    """Too many steps in a row whose loss or gradient was not finite."""


class Preempted(RuntimeError):
    """The run was asked to end, and has saved its state."""


class HostLost(RuntimeError):
    """Another process of the run died, or was never there."""


def join_hosts(
    coordinator: str | None, num_processes: int | None, process_id: int | None, timeout: int
) -> None:
    """Join the other processes: by addresses, or as a TPU slice or SLURM tells.

    Raises ValueError where only some of the three are given or they cannot be read off the
    machine, HostLost where not all have joined after timeout seconds.
    """
    given = [x is not None for x in (coordinator, num_processes, process_id)]
    if any(given) and not all(given):
        raise ValueError(
            f'--coordinator={coordinator} --num_processes={num_processes} '
            f'--process_id={process_id}: give all three, or --multihost alone'
        )
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            initialization_timeout=timeout,
            # Later than HostWatch, whose message names the host.
            heartbeat_timeout_seconds=max(100, 2 * timeout),
            shutdown_timeout_seconds=timeout,
        )
    except jax.errors.JaxRuntimeError as error:
        raise HostLost(
            f'--num_processes={num_processes}: not all processes joined at {coordinator} in '
            f'{timeout} s (config.mesh.timeout): {first_line(error)}'
        ) from error
    except RuntimeError as error:
        raise ValueError(f'--multihost: {first_line(error)}') from error


def joined() -> bool:
    """Whether this process has joined others."""
    return jax.distributed.is_initialized()


@contextlib.contextmanager
def contact() -> Iterator[None]:
    """A failed collective of several processes becomes HostLost: the other end is gone."""
    try:
        yield
    except Exception as error:
        lost: BaseException | None = error
        # A checkpoint that waited for the other in vain says only that it could not be written.
        while lost and not _broken_contact(lost):
            lost = lost.__cause__ or lost.__context__
        if lost is None or not joined():
            raise
        raise HostLost(
            f'lost contact with another process: {first_line(lost)}; start all hosts again, the '
            'run resumes'
        ) from error


def _broken_contact(error: BaseException) -> bool:
    # A fetched array brings the same failure as a ValueError that begins with its status.
    status = re.match(r'(ABORTED|DEADLINE_EXCEEDED|INTERNAL|UNAVAILABLE|UNKNOWN): ', str(error))
    return isinstance(error, jax.errors.JaxRuntimeError) or status is not None


def first_line(error: BaseException) -> str:
    """The first words of an error, at most 300 letters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else repr(error))[:300]


def leave(code: Exit, message: str) -> None:
    """End this process now, from any thread, whatever the others are doing."""
    print(f'error: {message}', file=sys.stderr)
    std_logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class Preemption:
    """SIGTERM, made a question that the loop asks between two steps.

    While `saved` is true nothing would be lost, and the process ends within a second: Python runs
    no handler during a long compilation, hence a thread. Among several processes JAX agrees on the
    step to save. Use as a context, in the main thread (elsewhere signals are left alone).
    """

    def __init__(self) -> None:
        self._asked = threading.Event()
        self._saved = True
        self._alone = jax.process_count() == 1
        self._pipe: tuple[int, int] | None = None

    def __enter__(self) -> Preemption:
        if self._alone and threading.current_thread() is threading.main_thread():
            self._pipe = os.pipe()
            os.set_blocking(self._pipe[1], False)
            self._old_fd = signal.set_wakeup_fd(self._pipe[1])
            self._old = signal.signal(signal.SIGTERM, lambda *_: None)
            threading.Thread(target=self._listen, args=self._pipe[:1], daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._pipe:
            signal.set_wakeup_fd(self._old_fd)
            signal.signal(signal.SIGTERM, self._old)
            os.close(self._pipe[1])  # the listener reads an end of file, and ends
            self._pipe = None

    @property
    def saved(self) -> bool:
        """Whether all that was computed is on disk."""
        return self._saved

    @saved.setter
    def saved(self, value: bool) -> None:
        self._saved = value
        if value and self._asked.is_set():
            self._leave()

    def reached(self, step: int) -> bool:
        """Whether to save and stop at this step; ask at each."""
        if self._alone:
            return self._asked.is_set()
        return multihost_utils.reached_preemption_sync_point(step)

    def _listen(self, pipe: int) -> None:
        while data := os.read(pipe, 1):
            if data[0] == signal.SIGTERM:
                logging.warning('SIGTERM: saving at the next step, then ending')
                self._asked.set()
                if self._saved:
                    self._leave()
        os.close(pipe)

    def _leave(self) -> None:
        message = 'preempted; nothing was unsaved: the same command resumes'
        logging.error('%s', message)  # for the run's log.txt
        leave(Exit.PREEMPTED, message)


class HostWatch:
    """Ends this process when another host died, hangs or failed, and names it.

    Each host keeps <folder>/<index>.json: `mark` counts what its main loop has passed, `heartbeat`
    that the process lives. A host is lost when its heartbeat does not change for `timeout` seconds,
    or its mark does not while another's is ahead (ten times as long before its second step): who
    waits for it in a collective cannot advance either, so the lowest mark is to blame. Times are of
    this host's clock. With one process it does nothing. Use as a context; an exception that passes
    through is passed on to the others.
    """

    def __init__(self, folder: str | Path, timeout: float):
        self._folder, self._timeout = Path(folder), timeout
        self._index, self._count = jax.process_index(), jax.process_count()
        self._mark, self._heartbeat = 0, 0
        self._closed = threading.Event()
        self._seen: dict[int, tuple[dict[str, Any], float, float]] = {}

    def __enter__(self) -> HostWatch:
        if self._count > 1:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._write()
            # What an earlier start of this run left is now overwritten, on each host.
            multihost_utils.sync_global_devices('hosts')
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, *_: object) -> None:
        if self._count > 1:
            self._closed.set()
            self._thread.join()
            # A preempted host ends with the others, at one step: that is no loss.
            fine = error is None or isinstance(error, Preempted)
            self._write(ended='' if fine else f'{type(error).__name__}: {error}'[:300])

    def mark(self) -> None:
        """The main loop has come one point further; call at the same points on each host."""
        self._mark += 1

    def _write(self, **more: Any) -> None:
        self._heartbeat += 1
        path = self._folder / f'{self._index}.json'
        part = path.with_suffix('.part')
        said = {'host': socket.gethostname(), 'pid': os.getpid()}
        part.write_text(
            json.dumps(said | {'mark': self._mark, 'heartbeat': self._heartbeat} | more)
        )
        part.replace(path)

    def _run(self) -> None:
        begin = time.monotonic()
        before = {i: self._read(i) for i in range(self._count)}
        while not self._closed.wait(min(5.0, self._timeout / 5)):
            with contextlib.suppress(OSError):  # a full disk is the checkpointer's to tell
                self._write()
            now = time.monotonic()
            for i in range(self._count):
                said = self._read(i)
                last, heartbeat_at, mark_at = self._seen.get(i, (before[i], begin, begin))
                heartbeat_at = (
                    now if said.get('heartbeat') != last.get('heartbeat') else heartbeat_at
                )
                mark_at = now if said.get('mark') != last.get('mark') else mark_at
                self._seen[i] = said, heartbeat_at, mark_at
            if (problem := self._problem(now)) and not self._closed.is_set():
                message = f'{problem}; start all hosts again, the run resumes'
                logging.error('%s', message)
                leave(Exit.HOST_LOST, message)

    def _read(self, index: int) -> dict[str, Any]:
        try:
            return json.loads((self._folder / f'{index}.json').read_text())
        except (OSError, ValueError):
            return {}

    def _problem(self, now: float) -> str | None:
        ahead = max(said.get('mark', 0) for said, _, _ in self._seen.values())
        for i, (said, heartbeat_at, mark_at) in self._seen.items():
            name = f'process {i} (pid {said.get("pid")} on {said.get("host")})'
            if said.get('ended'):
                return f'{name} failed: {said["ended"]}'
            if 'ended' in said:
                continue
            if now - heartbeat_at > self._timeout:
                return f'{name} is dead: no sign of life for {now - heartbeat_at:.0f} s'
            alive = now - heartbeat_at < self._timeout / 2
            mark = said.get('mark', 0)
            # Hosts start apart, and compile: the first step may take ten times as long. Who is to
            # blame leaves last: the others, whose contact then breaks, have named it before.
            patience = self._timeout * (1 if mark > 2 else 10) * (1.5 if i == self._index else 1)
            if alive and mark < ahead and now - mark_at > patience:
                return (
                    f'{name} hangs: another passed point {ahead} and it stands at {mark} '
                    f'for {now - mark_at:.0f} s'
                )
        return None
