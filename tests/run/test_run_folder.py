"""What a run tells of itself: where its time went, traces, trackers, lines taken back."""

import json
import os
import subprocess
import sys
import types

import numpy as np
import pytest

from fi_jax.run.meter import Clock, Profile
from fi_jax.run.writers import Writer
from fi_jax.train import train_and_evaluate
from tests import tiny_run
from tests.processes import Program

TINY = '--config=tests/tiny_run.py'


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def tracker(monkeypatch):
    """A module like wandb, that keeps what it is given."""
    module = types.ModuleType('a_tracker')
    module.calls = []
    module.init = lambda **kwargs: module.calls.append(('init', kwargs))
    module.log = lambda values, step: module.calls.append((step, values))
    module.finish = lambda: module.calls.append(('finish', None))
    monkeypatch.setitem(sys.modules, 'a_tracker', module)
    return module


@pytest.fixture(scope='module')
def config():
    config = tiny_run.get_config()
    config.batch_size = config.eval.batch_size = 8
    config.steps.train, config.checkpoint.every = 12, 5
    return config


def test_a_run_accounts_for_its_time_and_its_memory(config, tracker, tmp_path):
    config = config.copy_and_resolve_references()
    config.tracker, config.log_every = 'a_tracker', 4
    train_and_evaluate(config, tmp_path)

    (start,) = lines_of(tmp_path / 'starts.jsonl')
    assert (start['first_step'], start['last_step'], start['ended']) == (0, 12, 'done')
    assert sum(start['shares'].values()) == pytest.approx(1.0)
    assert {'compile', 'data', 'step', 'checkpoint', 'eval'} <= set(start['shares'])
    assert start['goodput'] == pytest.approx(start['shares']['data'] + start['shares']['step'])

    last = lines_of(tmp_path / 'metrics.jsonl')
    last = next(line for line in reversed(last) if 'time/steps_per_s' in line)
    assert 0 < last['time/step_p50_s'] <= last['time/step_p95_s'] <= last['time/step_max_s']
    assert 0 <= last['time/data_wait_share'] < 1 and last['memory/host_peak_gb'] > 0.01

    (first, about), *points, end = tracker.calls
    assert first == 'init' and about['config']['res'] == 32 and end[0] == 'finish'
    steps = [step for step, values in points if 'loss/reconstruct' in values]
    assert steps == [4, 8, 12]


def test_a_resumed_run_takes_back_the_lines_it_plays_again(config, tmp_path):
    config = config.copy_and_resolve_references()
    config.steps.train = 5
    # Of a start that was killed before its first checkpoint.
    (tmp_path / 'metrics.jsonl').write_text('{"step": 3, "loss/reconstruct": 0.5}\n')
    train_and_evaluate(config, tmp_path)
    with open(tmp_path / 'metrics.jsonl', 'a') as file:
        file.write('{"step": 6, "loss/reconstruct": 0.5}\n{"step": 7, "lo')
    config.steps.train = 8
    train_and_evaluate(config, tmp_path)
    lines = lines_of(tmp_path / 'metrics.jsonl')
    assert [x['step'] for x in lines if 'loss/reconstruct' in x] == list(range(1, 9))
    assert [x['first_step'] for x in lines_of(tmp_path / 'starts.jsonl')] == [0, 5]


def test_time_inside_is_of_one_kind_alone(tmp_path):
    with Clock(tmp_path) as clock, clock('eval'), clock('data'):
        np.linalg.svd(np.ones((200, 200)))
    (line,) = lines_of(tmp_path / 'starts.jsonl')
    assert line['shares']['data'] > line['shares']['eval']
    assert sum(line['shares'].values()) == pytest.approx(1.0)


def test_a_wrong_tracker_or_trace_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"config.tracker='no_such_tracker'"):
        Writer(tmp_path, 'no_such_tracker')
    for text in ('5', '8:6', 'a:b'):
        with pytest.raises(ValueError, match='--profile_steps='):
            Profile(text, tmp_path)


@pytest.mark.slow  # in a process of its own: JAX's profiler was seen to crash the one it ends in
def test_the_steps_asked_for_are_traced(tmp_path):
    run = Program(tmp_path, TINY, f'--workdir={tmp_path / "run"}', '--profile_steps=2:3')
    code, out = run.finish()
    assert code == 0, out
    assert list(tmp_path.glob('run/profile/**/*.xplane.pb'))


@pytest.mark.slow
def test_a_second_start_takes_every_program_from_the_folder_that_the_environment_names(tmp_path):
    cache = tmp_path / 'cache'
    names = {
        'JAX_COMPILATION_CACHE_DIR': str(cache),
        'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    }
    kept = []
    for run in ('one', 'two'):
        flags = (TINY, '--config.batch_size=8', '--config.steps.train=2')
        subprocess.run(
            [sys.executable, '-m', 'fi_jax.main', *flags, f'--workdir={tmp_path / run}'],
            env=os.environ | names, check=True, capture_output=True,
        )  # fmt: skip
        kept.append({path.name for path in cache.iterdir() if path.name.endswith('-cache')})
    assert kept[0] and kept[0] == kept[1]
