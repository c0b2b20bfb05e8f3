"""Every fault is injected for real: signals and kills to real processes, NaN in real gradients."""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from fi_jax import sharding
from fi_jax.evaluate import load_run
from fi_jax.faults import Exit, NonFinite
from fi_jax.input_pipeline.sources import make_source
from fi_jax.methods import make_method
from fi_jax.train import check_resume, fingerprint, fixed_settings, stage_plan, train_and_evaluate
from tests import faulty_method, tiny_run
from tests.processes import Program

TINY = '--config=tests/tiny_run.py'


def state_of(workdir, config=None):
    config = config or tiny_run.get_config()
    return jax.device_get(load_run(config, workdir, sharding.make_mesh())[1])


def assert_same_state(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def losses(workdir):
    lines = map(json.loads, (workdir / 'metrics.jsonl').read_text().splitlines())
    return [(x['step'], x['loss/reconstruct']) for x in lines if 'loss/reconstruct' in x]


STEPS = 60


@pytest.fixture(scope='module')
def unbroken(tmp_path_factory):
    """A run of STEPS steps that nothing disturbed."""
    workdir = tmp_path_factory.mktemp('unbroken')
    flags = (TINY, f'--config.steps.train={STEPS}', f'--workdir={workdir}')
    code, out = Program(workdir, *flags).finish()
    assert code == Exit.DONE, out
    return workdir


# ------------------------------------------------------------------------------ kills and signals


def kill_and_resume(unbroken, workdir, kills, seed):
    """SIGKILL at random moments after the first checkpoint; the end must be the unbroken one's."""
    rng = random.Random(seed)
    flags = (TINY, f'--config.steps.train={STEPS}', f'--workdir={workdir}')
    for kill in range(kills):
        process = Program(workdir, *flags)
        target = 1 + (STEPS - 2) * (kill + rng.random()) / kills
        words = f'"step": {max(1, int(target))},'
        process.wait_for(workdir / 'metrics.jsonl', words)
        time.sleep(rng.random() * 0.2)
        process.send(signal.SIGKILL)
        assert process.finish()[0] == -signal.SIGKILL, 'it ended before the kill'
    code, out = Program(workdir, *flags).finish()
    assert code == Exit.DONE and 'resumed' in out, out
    assert_same_state(state_of(unbroken), state_of(workdir))
    assert losses(workdir) == losses(unbroken)  # each step once, bit for bit


def test_three_sigkills_end_bit_equal_to_an_unbroken_run(unbroken, tmp_path):
    kill_and_resume(unbroken, tmp_path, 3, seed=0)


@pytest.mark.slow
def test_twenty_sigkills_end_bit_equal_to_an_unbroken_run(unbroken, tmp_path):
    kill_and_resume(unbroken, tmp_path, 20, seed=1)


def test_sigterm_while_steps_run_saves_and_ends_with_75(unbroken, tmp_path):
    flags = (TINY, f'--config.steps.train={STEPS}', f'--workdir={tmp_path}')
    process = Program(tmp_path, *flags)
    process.wait_for(tmp_path / 'metrics.jsonl', '"step": 13,')
    process.send(signal.SIGTERM)
    code, out = process.finish()
    assert code == Exit.PREEMPTED, out
    saved = int(re.search(r'step (\d+) is saved', out)[1])
    assert (tmp_path / 'checkpoints' / str(saved)).is_dir()
    assert losses(tmp_path)[-1][0] == saved  # nothing is lost
    assert Program(tmp_path, *flags).finish()[0] == Exit.DONE
    assert_same_state(state_of(unbroken), state_of(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize('moment', ['compile', 'save', 'eval'])
def test_sigterm_elsewhere_ends_with_75_as_well(moment, tmp_path):
    flags = ['--config=configs/stage1.py:tiny', '--config.steps.stage1=4', f'--workdir={tmp_path}']
    log = tmp_path / 'log.txt'
    process = Program(tmp_path, *flags, '--config.pictures_every=1000')
    if moment == 'compile':
        process.wait_for(log, 'parameters of')
        time.sleep(5)
    elif moment == 'save':
        process.wait_for(tmp_path / 'metrics.jsonl', 'val/psnr')
    else:
        process.wait_for(tmp_path / 'checkpoints' / '4')
        time.sleep(2)
    begin = time.monotonic()
    process.send(signal.SIGTERM)
    code, out = process.finish()
    assert code == Exit.PREEMPTED, out
    if moment != 'save':
        assert time.monotonic() - begin < 30
    assert Program(tmp_path, *flags).finish()[0] == Exit.DONE


def test_a_full_disk_in_the_middle_of_a_run_ends_it_with_one_line(tmp_path):
    """A limit on the size of files stands for the disk: exit 1, and the step before it whole."""
    workdir = tmp_path / 'run'
    flags = (TINY, f'--workdir={workdir}', '--config.nets.width=2048')
    code, out = Program(tmp_path, *flags, '--config.steps.train=10').finish()
    assert code == Exit.DONE, out
    more = '--config.steps.train=40'
    code, out = Program(tmp_path, *flags, more, file_limit=200_000).finish()
    assert code == Exit.USER_ERROR, out
    last = out.strip().splitlines()[-1]
    assert last.startswith('error:') and str(workdir / 'checkpoints') in last and 'MB free' in last
    code, out = Program(tmp_path, *flags, '--config.steps.train=20').finish()
    assert code == Exit.DONE and re.search(r'resumed .* at step [12]0', out), out


def test_a_folder_that_cannot_be_written_ends_with_one_line(tmp_path):
    code, out = Program(tmp_path, TINY, '--workdir=/proc/fi_jax_run').finish()
    assert code == Exit.USER_ERROR
    assert 'Traceback' not in out and '/proc/fi_jax_run' in out


# ------------------------------------------------------------------------------------------ NaN


def faulty(kind, first, last, steps=8):
    config = faulty_method.get_config()
    config.batch_size = config.eval.batch_size = 8
    config.fault.kind, config.fault.first, config.fault.last = kind, first, last
    config.steps.train, config.checkpoint.every = steps, 100
    return config


@pytest.mark.parametrize(
    ('kind', 'named'), [('loss', 'bad_term'), ('gradient', 'grad_norm/reconstruct/autoencoder')]
)
def test_a_step_that_is_not_finite_is_skipped_counted_and_named(kind, named, tmp_path, caplog):
    state = train_and_evaluate(faulty(kind, 3, 4), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
    skipped = {x['step']: x['skipped/reconstruct'] for x in lines if 'skipped/reconstruct' in x}
    assert skipped == {step: float(step == 4) for step in range(1, 9)}
    assert 'step 4: reconstruct skipped, not finite:' in caplog.text and named in caplog.text
    assert int(state.skips) == 0 and int(state.step) == 8
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(jax.device_get(state)))


def test_too_many_in_a_row_end_the_run_with_the_last_good_state(tmp_path):
    config = faulty('loss', 4, 100, steps=30)
    config.max_skips, config.checkpoint.every = 3, 4
    with pytest.raises(NonFinite, match=r"3 steps in a row .* step 7: .*'bad_term'"):
        train_and_evaluate(config, tmp_path)
    state = state_of(tmp_path, config)
    assert int(state.step) == 4 and all(np.isfinite(x).all() for x in jax.tree.leaves(state))
    ended = json.loads((tmp_path / 'starts.jsonl').read_text().splitlines()[-1])
    assert ended['ended'] == 'NonFinite' and ended['last_step'] == 7


# --------------------------------------------------------------------------- is it the same run


def resume(change, meta_change=lambda meta: None, step=5):
    """check_resume of a run of 'tests/tiny_run.py' at a step, after a change of its config."""
    config = tiny_run.get_config()
    faces = make_source(config.data, 'train')
    meta = {
        'stage': 'train', 'settings': fixed_settings(config), 'steps': config.steps.to_dict(),
        'data': fingerprint(faces),
    }  # fmt: skip
    meta = json.loads(json.dumps(meta))
    change(config)
    meta_change(meta)
    plan = stage_plan(make_method(config), config)
    data = fingerprint(make_source(config.data, 'train'))
    check_resume(config, plan, step, meta, data, Path('/nowhere'))


@pytest.mark.parametrize(
    ('path', 'value', 'words'),
    [
        ('res', 64, 'res: 32 -> 64'),
        ('seed', 1, 'seed: 0 -> 1'),
        ('batch_size', 8, 'batch_size: 4 -> 8'),
        ('nets.width', 9, 'nets.width: 8 -> 9'),
        ('data.flip', False, 'data.flip: True -> False'),
        ('data.length', 65, 'data set, images: '),
    ],
)
def test_a_resume_that_would_be_another_run_is_refused(path, value, words):
    def change(config):
        with config.unlocked():
            config.update_from_flattened_dict({path: value})

    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        resume(change)
    assert '--config.warm_start=/nowhere' in str(caught.value)


def test_a_checkpoint_of_another_stage_is_refused():
    def began_elsewhere(meta):
        meta['steps'], meta['stage'] = {'stage0': 3, 'train': 6}, 'train'

    with pytest.raises(ValueError, match='first step of stage0: 0 -> None'):
        resume(lambda config: None, began_elsewhere)


def test_what_may_change_does():
    def change(config):
        config.optim.lr, config.log_every, config.steps.train = 1e-5, 7, 50

    resume(change)
    resume(lambda config: None)


def test_a_changed_rate_is_told_and_kept_in_the_folder(unbroken, tmp_path):
    workdir = shutil.copytree(unbroken, tmp_path / 'run')
    flags = (TINY, f'--config.steps.train={STEPS + 2}', f'--workdir={workdir}')
    code, out = Program(tmp_path, *flags, '--config.optim.lr=1e-5').finish()
    assert code == Exit.DONE
    assert 'resumed with a changed config: optim.lr: 0.0002 -> 1e-05' in out
    assert json.loads((workdir / 'config.json').read_text())['optim']['lr'] == 1e-5
    code, out = Program(tmp_path, *flags, '--config.seed=1').finish()
    assert code == Exit.USER_ERROR and 'seed: 0 -> 1' in out
    assert json.loads((workdir / 'config.json').read_text())['seed'] == 0
