"""Work cut into numbered shards, done by processes of this machine or by Apache Beam.

A task is picklable and called as task(shard, report); `report(done, index)` says how many records
are done and which is in hand. Shards are independent, and a task does nothing for one that is done:
that alone makes a job resumable, whatever kills it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing import connection
from typing import Any

from tqdm import tqdm

Report = Callable[[int, int], None]
Task = Callable[[int, Report], Any]

_START = 120.0  # seconds that a process may take to begin


class WorkerFailed(RuntimeError):
    """A process died, raised or stood still; the message says what it had in hand."""


def progress_bar(label: str, total: int) -> tqdm:
    """A line on stderr with count, rate and time left; elsewhere than on a terminal each 10 s."""
    every = 0.5 if sys.stderr.isatty() else 10.0
    return tqdm(
        total=total, desc=label, unit=' images', mininterval=every, maxinterval=every,
        dynamic_ncols=True,
    )  # fmt: skip


def _move(bar: tqdm | None, done: int) -> None:
    if bar is not None:
        bar.update(done - bar.n)


def run(
    task: Task,
    shards: Sequence[int],
    num_workers: int,
    progress: tqdm | None = None,
    patience: float = 300.0,
) -> None:
    """Does all shards in `num_workers` fresh processes; 0 = in this one.

    Raises:
        WorkerFailed: a process died or raised, or no record was done for `patience` seconds. The
            others are stopped; shards that are done stay done.
    """
    if num_workers == 0:
        before = 0
        for shard in shards:
            done = 0

            def report(now: int, index: int, before: int = before) -> None:
                nonlocal done
                done = now
                _move(progress, before + now)

            task(shard, report)
            before += done
        return
    context = multiprocessing.get_context('spawn')
    turn = context.Value('q', 0)
    workers = []
    try:
        for _ in range(min(num_workers, len(shards))):
            board = context.Array('q', [0, -1, -1], lock=False)  # done, record in hand, shard
            here, there = context.Pipe(duplex=False)
            process = context.Process(
                target=_work, args=(task, list(shards), turn, board, there), daemon=True
            )
            process.start()
            there.close()
            workers.append((process, board, here))
        _watch(workers, progress, patience)
    finally:
        for process, _, _ in workers:
            if process.is_alive():
                process.kill()
            process.join()


def _watch(workers: list[Any], progress: tqdm | None, patience: float) -> None:
    running, moved, last = list(workers), time.monotonic(), -1
    while running:
        connection.wait([process.sentinel for process, _, _ in running], timeout=0.2)
        done = sum(board[0] for _, board, _ in workers)
        _move(progress, done)
        if done != last:
            moved, last = time.monotonic(), done
        begun = all(board[2] >= 0 for _, board, _ in running)
        allowed = patience if begun else max(patience, _START)
        for process, board, pipe in list(running):
            if process.exitcode is None:
                continue
            if process.exitcode:
                how = _said(pipe) or (
                    f'ended by signal {-process.exitcode} '
                    f'({signal.Signals(-process.exitcode).name}; memory short, or a crash in the '
                    'detector)'
                    if process.exitcode < 0
                    else f'ended with exit code {process.exitcode}'
                )
                raise WorkerFailed(
                    f'a worker {how}, at record {board[1]} of shard {board[2]}. Finished shards '
                    'are kept: the same command goes on from there'
                )
            running.remove((process, board, pipe))
        if running and time.monotonic() - moved > allowed:
            held = ', '.join(f'record {board[1]} of shard {board[2]}' for _, board, _ in running)
            raise WorkerFailed(
                f'no image was done in {allowed:.0f} s (in hand: {held}); remove that image, or '
                'raise --patience. Finished shards are kept'
            )


def _said(pipe: Any) -> str:
    """The last words of a process, '' if it had none."""
    try:
        return pipe.recv()
    except EOFError:
        return ''


def _work(task: Task, shards: list[int], turn: Any, board: Any, pipe: Any) -> None:
    """A worker: takes the next shard until none is left."""
    _die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent answers Ctrl-C
    try:
        while True:
            with turn.get_lock():
                position, turn.value = turn.value, turn.value + 1
            if position >= len(shards):
                return
            board[2], before = shards[position], board[0]

            def report(done: int, index: int, before: int = before) -> None:
                board[0], board[1] = before + done, index

            task(shards[position], report)
    except BaseException as error:
        pipe.send(f'failed: {type(error).__name__}: {error}')
        raise SystemExit(1) from None


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def run_beam(
    task: Task,
    shards: Sequence[int],
    num_workers: int,
    options: Sequence[str] = (),
    patience: float = 900.0,
    is_done: Callable[[int], int] | None = None,
    progress: tqdm | None = None,
) -> None:
    """Does all shards as elements of an Apache Beam pipeline.

    options: Beam's own flags, such as ['--runner=FlinkRunner', '--flink_master=HOST:8081']; none =
    the direct runner with `num_workers` processes of this machine. is_done(shard) gives the records
    of a finished shard, for the progress line and for the watch: Beam's local runner hangs when a
    worker dies, so the pipeline runs in a process group that is ended after `patience` seconds
    without a shard.

    Raises:
        ModuleNotFoundError: apache_beam is not installed.
        WorkerFailed: the pipeline failed or stood still.
    """
    try:
        import apache_beam  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "--runner=beam needs Apache Beam: pip install 'fi_jax[beam]'"
        ) from error
    local = not any('runner' in option for option in options)
    if local:
        options = [
            '--runner=DirectRunner',
            f'--direct_num_workers={max(num_workers, 1)}',
            f'--direct_running_mode={"multi_processing" if num_workers > 1 else "in_memory"}',
            *options,
        ]
    context = multiprocessing.get_context('spawn')
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_beam, args=(task, list(shards), list(options), there))
    process.start()
    there.close()
    moved, last = time.monotonic(), -1
    try:
        while process.exitcode is None:
            process.join(1.0)
            done = sum(is_done(shard) for shard in shards) if is_done else 0
            if progress:
                _move(progress, done)
            if done != last:
                moved, last = time.monotonic(), done
            if local and process.exitcode is None and time.monotonic() - moved > patience:
                raise WorkerFailed(
                    f'Beam finished no shard in {patience:.0f} s: a worker died, or raise '
                    '--patience. Finished shards are kept'
                )
        if process.exitcode:
            how = _said(here) or f'exit code {process.exitcode}'
            raise WorkerFailed(f'Beam failed: {how}. Finished shards are kept')
    finally:
        if process.exitcode is None:
            os.killpg(process.pid or 0, signal.SIGKILL)
            process.join()


def _beam(task: Task, shards: list[int], options: list[str], pipe: Any) -> None:
    os.setpgid(0, 0)  # the local runner's workers are ended with this process
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    try:
        with beam.Pipeline(options=PipelineOptions(options)) as pipeline:
            _ = (
                pipeline
                | 'shards' >> beam.Create(shards)
                | 'spread' >> beam.Reshuffle()
                | 'extract' >> beam.Map(task, _no_report)
            )
    except Exception as error:
        pipe.send(f'{type(error).__name__}: {str(error)[-2000:]}')
        raise SystemExit(1) from None


def _no_report(done: int, index: int) -> None:
    """Beam's workers share no board."""
