"""Processes that read batches ahead into shared memory; one that fails or is killed is named.

Why not grain's own: at a killed process it waited for ever, and each process imports JAX.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import types
from collections.abc import Iterator, Mapping
from multiprocessing import connection, util
from typing import Any, Protocol

import cv2
import numpy as np
from absl import logging

Arrays = dict[str, np.ndarray]


class Make(Protocol):
    """Random access to batches, each with a word beside it."""

    def __getitem__(self, number: int, /) -> tuple[Arrays, Any]: ...


SLOTS = 3  # batches of a process: being written, waiting, being copied


class WorkerLost(OSError):
    """A process that reads data ended before its time."""


class Workers:
    """make[first], make[first + 1], ... in order, drawn by processes in turn.

    make goes to each of them; its arrays are of the same shapes and types each time. Raises an
    error of make where its turn comes, WorkerLost where a process was lost.
    """

    def __init__(self, make: Make, first: int, count: int):
        context = multiprocessing.get_context('spawn')
        arrays, _ = make[first]  # what they look like; the first process makes it again
        self._layout = layout_of(arrays)
        count = _that_fit(count, self._layout.nbytes)
        self._first = self._next = first
        self._processes: list[Any] = []
        self._pipes: list[connection.Connection] = []
        self._slots: list[Any] = []
        # Also at the end of a program that never closed: they hear no SIGTERM.
        self._end = util.Finalize(self, _kill, args=(self._processes,), exitpriority=1)
        for worker in range(count):
            # Without a name in the file system: nothing stays behind, however the run ends.
            memory = context.RawArray('B', SLOTS * self._layout.nbytes)
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_work,
                args=(make, first + worker, count, memory, self._layout, theirs),
                name=f'data worker {worker}',
                daemon=True,
            )
            with _bare_main():
                process.start()
            theirs.close()
            self._processes.append(process)
            self._pipes.append(ours)
            self._slots.append(memory)

    def __iter__(self) -> Iterator[tuple[Arrays, Any]]:
        return self

    def __next__(self) -> tuple[Arrays, Any]:
        worker = (self._next - self._first) % len(self._processes)
        pipe = self._pipes[worker]
        try:
            slot, word, error = pipe.recv()
        except (EOFError, ConnectionError) as end:
            process = self._processes[worker]
            process.join(5)
            code = process.exitcode or 0
            how = signal.Signals(-code).name if code < 0 else f'exit code {code}'
            raise WorkerLost(
                f'data worker {worker} of {len(self._processes)} (process {process.pid}) was lost '
                f'at batch {self._next}: {how}. Was it killed for want of memory? Set fewer with '
                'config.data.num_workers'
            ) from end
        if error is not None:
            raise error
        views = self._layout.views(self._slots[worker], slot)
        arrays = {name: view.copy() for name, view in views.items()}
        with contextlib.suppress(OSError):  # it learns of it at its next turn
            pipe.send(slot)
        self._next += 1
        return arrays, word

    def close(self) -> None:
        """End all processes."""
        self._end()
        for pipe in self._pipes:
            pipe.close()


def _kill(processes: list[Any]) -> None:
    for process in processes:
        process.kill()  # it holds nothing that must be put in order
    for process in processes:
        process.join()


class Layout:
    """Where the arrays of a batch lie in a slot."""

    def __init__(self, arrays: Mapping[str, tuple[tuple[int, ...], np.dtype]]):
        self._arrays, self._offsets, at = dict(arrays), {}, 0
        for name, (shape, dtype) in arrays.items():
            self._offsets[name] = at
            at += -(-int(np.prod(shape)) * dtype.itemsize // 64) * 64
        self.nbytes = at

    def views(self, memory: Any, slot: int) -> Arrays:
        """The arrays of a slot, without a copy."""
        return {
            name: np.frombuffer(
                memory, dtype, int(np.prod(shape)), slot * self.nbytes + self._offsets[name]
            ).reshape(shape)
            for name, (shape, dtype) in self._arrays.items()
        }


def layout_of(arrays: Arrays) -> Layout:
    """The layout of batches like this one."""
    return Layout({name: (x.shape, x.dtype) for name, x in arrays.items()})


def _work(
    make: Make, first: int, stride: int, memory: Any, layout: Layout, pipe: connection.Connection
) -> None:
    # The parent sees to signals, and tells of what was found bad.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    logging.set_verbosity(logging.ERROR)
    cv2.setNumThreads(0)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    slots = [layout.views(memory, slot) for slot in range(SLOTS)]
    free = list(range(SLOTS))
    try:
        for number in itertools.count(first, stride):
            arrays, word = make[number]
            while not free or pipe.poll():
                free.append(pipe.recv())
            slot = free.pop()
            for name, view in slots[slot].items():
                view[...] = arrays[name]
            pipe.send((slot, word, None))
    except (EOFError, ConnectionError):
        return
    except Exception as error:
        try:
            pipe.send((0, None, error))
        except Exception:  # not all errors can be sent
            pipe.send((0, None, RuntimeError(f'{type(error).__name__}: {error}')))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


@contextlib.contextmanager
def _bare_main() -> Iterator[None]:
    """New processes do not import the program that starts them: it would bring in JAX."""
    main = sys.modules['__main__']
    sys.modules['__main__'] = types.ModuleType('__main__')
    try:
        yield
    finally:
        sys.modules['__main__'] = main


def _that_fit(count: int, nbytes: int) -> int:
    """As many processes as have room for their batches in the machine's shared memory."""
    if not os.path.isdir('/dev/shm'):
        return count
    fits = max(1, shutil.disk_usage('/dev/shm').free // (SLOTS * nbytes))
    if fits < count:
        logging.warning(
            'shared memory (/dev/shm) holds the batches of %d of %d data workers; give the '
            'container more (--shm-size)', fits, count,
        )  # fmt: skip
    return min(count, fits)
