"""Several real processes on this machine, joined as hosts are: together, and when one is lost."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import time

import jax
import numpy as np
import pytest

from fi_jax.pretrained import open_weights
from fi_jax.run.faults import Exit
from fi_jax.train import train_and_evaluate
from tests import states, tiny_run
from tests.processes import Program

TIMEOUT = 40  # seconds, config.mesh.timeout; a busy machine starts hosts far apart


STARTED = []


@pytest.fixture(autouse=True)
def none_left():
    """No process outlives its test."""
    yield
    for process in STARTED:
        process.kill()
    STARTED.clear()


def start_hosts(count, workdir, *flags, before='', missing=()):
    """Processes 0..count-1 of one run, one CPU device each; those of `missing` never start."""
    with socket.socket() as probe:
        probe.bind(('localhost', 0))
        port = probe.getsockname()[1]
    common = (
        '--config=tests/tiny_run.py', f'--workdir={workdir}', '--config.batch_size=8',
        '--config.eval.batch_size=8', f'--config.mesh.timeout={TIMEOUT}',
        f'--coordinator=localhost:{port}', f'--num_processes={count}', *flags,
    )  # fmt: skip
    processes = [
        Program(workdir, *common, f'--process_id={i}', before=before)
        for i in range(count)
        if i not in missing
    ]
    STARTED.extend(processes)
    return processes


def finish(processes):
    ends = [process.finish() for process in processes]
    return [code for code, _ in ends], [out for _, out in ends]


def config_of(steps):
    config = tiny_run.get_config()
    config.batch_size = config.eval.batch_size = 8
    config.steps.train = steps
    return config


def state_of(workdir):
    return states.state_of(config_of(1), workdir)


def compare(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-4)


def losses(workdir):
    lines = map(json.loads, (workdir / 'metrics.jsonl').read_text().splitlines())
    return [x['loss/reconstruct'] for x in lines if 'loss/reconstruct' in x]


@pytest.fixture(scope='module')
def one_process(tmp_path_factory):
    """Twenty steps on eight devices of one process."""
    workdir = tmp_path_factory.mktemp('one')
    train_and_evaluate(config_of(20), workdir)
    return workdir


@pytest.mark.parametrize('count', [2, pytest.param(4, marks=pytest.mark.slow)])
def test_processes_train_as_one_and_their_run_goes_on_with_another_number(
    count, one_process, tmp_path
):
    codes, outs = finish(start_hosts(count, tmp_path, '--config.steps.train=10'))
    assert codes == [Exit.DONE] * count, outs
    np.testing.assert_allclose(losses(tmp_path), losses(one_process)[:10], rtol=1e-5)
    train_and_evaluate(config_of(20), tmp_path)  # in this process, on its eight devices
    np.testing.assert_allclose(losses(tmp_path), losses(one_process), rtol=1e-5)
    compare(state_of(one_process), state_of(tmp_path))
    assert [p.name for p in tmp_path.glob('log*.txt')] == ['log.txt']


@pytest.mark.slow
def test_hosts_end_their_minutes_at_one_step(tmp_path):
    # At two steps, each would wait for the other in vain.
    flags = '--config.minutes=0.5', '--config.steps.train=100000'
    codes, outs = finish(start_hosts(2, tmp_path, *flags))
    assert codes == [Exit.DONE] * 2, outs
    step = open_weights(tmp_path / 'weights.safetensors').about['step']
    assert state_of(tmp_path).step == step > 0


@pytest.mark.slow  # waits for the timeout, and for a busy machine
def test_a_killed_host_ends_the_others_within_the_timeout(tmp_path):
    processes = start_hosts(2, tmp_path, '--config.steps.train=100000')
    processes[0].wait_for(tmp_path / 'metrics.jsonl', '"step": 60,')
    processes[1].send(signal.SIGKILL)
    begin = time.monotonic()
    codes, outs = finish(processes)
    assert codes == [Exit.HOST_LOST, -signal.SIGKILL], outs
    assert time.monotonic() - begin < 2 * TIMEOUT
    assert re.search('error: (lost contact with another process|process 1 .* is dead)', outs[0])
    assert any(path.name.isdigit() for path in (tmp_path / 'checkpoints').iterdir())


@pytest.mark.slow
@pytest.mark.parametrize('how', ['stopped', 'asleep'])
def test_a_stuck_host_is_named_and_ends_the_others(how, tmp_path):
    before = 'tests.sleeping_host:fall_asleep' if how == 'asleep' else ''
    processes = start_hosts(2, tmp_path, '--config.steps.train=100000', before=before)
    processes[0].wait_for(tmp_path / 'metrics.jsonl', '"step": 1,')
    if how == 'stopped':
        processes[1].send(signal.SIGSTOP)
    begin = time.monotonic()
    code, out = processes[0].finish()
    assert code == Exit.HOST_LOST, out
    assert time.monotonic() - begin < 3 * TIMEOUT
    words = 'is dead: no sign of life' if how == 'stopped' else 'hangs: another passed point'
    assert re.search(rf'error: process 1 \(pid {processes[1].pid} on .*\) {words}', out)


@pytest.mark.slow
def test_sigterm_to_one_host_saves_one_step_on_all(tmp_path):
    processes = start_hosts(2, tmp_path, '--config.steps.train=100000')
    processes[0].wait_for(tmp_path / 'metrics.jsonl', '"step": 3,')
    processes[1].send(signal.SIGTERM)
    codes, outs = finish(processes)
    assert codes == [Exit.PREEMPTED] * 2, outs
    saved = {re.search(r'step (\d+) is saved', out)[1] for out in outs}
    assert len(saved) == 1 and (tmp_path / 'checkpoints' / saved.pop()).is_dir()


@pytest.mark.slow
def test_a_host_that_fails_tells_the_others(tmp_path):
    """Process 1 finds another data set than the one the run began with."""
    codes, outs = finish(start_hosts(2, tmp_path, '--config.steps.train=10'))
    assert codes == [Exit.DONE] * 2, outs
    broken = shutil.copytree(tmp_path, tmp_path.parent / 'again')
    codes, outs = finish(start_hosts(2, broken, '--config.steps.train=20', '--config.seed=1'))
    assert set(codes) <= {Exit.USER_ERROR, Exit.HOST_LOST} and Exit.USER_ERROR in codes
    assert any('seed: 0 -> 1' in out for out in outs)


@pytest.mark.slow
def test_a_host_that_never_comes_is_waited_for_no_longer_than_the_timeout(tmp_path):
    begin = time.monotonic()
    codes, outs = finish(start_hosts(2, tmp_path, missing=[1]))
    assert codes[0] not in (Exit.DONE, Exit.PREEMPTED), outs
    assert time.monotonic() - begin < 10 * TIMEOUT
