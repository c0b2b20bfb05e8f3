"""Every fault is injected for real: signals and kills to real processes, NaN in real gradients."""

from __future__ import annotations

import errno
import json
import random
import re
import shutil
import signal
import time
from pathlib import Path

import cv2
import jax
import numpy as np
import pytest

from fi_jax.input_pipeline import landmark_shards, reading
from fi_jax.input_pipeline.procedural.faces import ProceduralFaces
from fi_jax.input_pipeline.sources import make_source
from fi_jax.methods import make_method
from fi_jax.run.faults import Exit, NonFinite
from fi_jax.run.folder import fingerprint
from fi_jax.run.resume import check_resume, fixed_settings, stage_plan
from fi_jax.train import train_and_evaluate
from tests import faulty_method, states, tiny_run
from tests.processes import Program

TINY = '--config=tests/tiny_run.py'


def state_of(workdir, config=None):
    return states.state_of(config or tiny_run.get_config(), workdir)


def assert_same_state(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def losses(workdir, whole=True):
    text = (workdir / 'metrics.jsonl').read_text()
    # A killed process may have written half a line.
    lines = map(json.loads, (text if whole else text[: text.rfind('\n') + 1]).splitlines())
    return [(x['step'], x['loss/reconstruct']) for x in lines if 'loss/reconstruct' in x]


STEPS, EVERY = 60, 10  # of tests/tiny_run.py: checkpoint.every


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
    """SIGKILL at random moments; the end must be the unbroken one's."""
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
        seen_steps = losses(workdir, whole=False)[-1][0]
        names = [p.name for p in (workdir / 'checkpoints').iterdir()]
        saved = max((int(name) for name in names if name.isdigit()), default=0)
        # An interval, and the steps done while the newest checkpoint was being written: the next
        # one waits for it.
        assert seen_steps - saved <= 2 * EVERY
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
    flags = (TINY, f'--workdir={workdir}', '--config.nets.width=768')
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


# ----------------------------------------------------------------------------------- the data


@pytest.fixture
def photographs(tmp_path):
    """A folder of 24 faces, and the flags that train on it."""
    folder = tmp_path / 'faces'
    folder.mkdir()
    for i, record in enumerate(ProceduralFaces(24, size=32)):
        cv2.imwrite(str(folder / f'face_{i:02d}.png'), record.image[..., ::-1])
    return folder, (TINY, '--config.data.source=folder', f'--config.data.path={folder}')


def test_a_data_set_that_changed_on_disk_is_refused(photographs, tmp_path):
    folder, flags = photographs
    flags = (*flags, f'--workdir={tmp_path / "run"}')
    assert Program(tmp_path, *flags, '--config.steps.train=4').finish()[0] == Exit.DONE
    (folder / 'face_00.png').rename(folder / 'other.png')
    # It may be of a split that training does not see: another one as well.
    (folder / 'face_01.png').rename(folder / 'another.png')
    (folder / 'face_02.png').unlink()
    code, out = Program(tmp_path, *flags, '--config.steps.train=8').finish()
    assert code == Exit.USER_ERROR, out
    assert 'data set, names: ' in out and 'Traceback' not in out


@pytest.mark.parametrize('allowed', [0.6, 0.1])
def test_images_that_are_damaged_while_the_run_reads_them(allowed, photographs, tmp_path):
    folder, flags = photographs
    flags = (*flags, f'--workdir={tmp_path / "run"}', f'--config.data.max_bad_share={allowed}')
    process = Program(tmp_path, *flags, '--config.steps.train=100000')
    process.wait_for(tmp_path / 'run' / 'metrics.jsonl', '"step": 3,')
    for path in sorted(folder.iterdir())[::2]:
        path.write_bytes(path.read_bytes()[:40])
    if allowed > 0.5:
        process.wait_for(tmp_path / 'run' / 'log.txt', 'bad image 3')
        process.send(signal.SIGTERM)
    code, out = process.finish()
    assert re.search(r'bad image 1: .*face_\d\d\.png', out), out
    assert code == (Exit.PREEMPTED if allowed > 0.5 else Exit.USER_ERROR), out
    assert allowed > 0.5 or re.search(r'^error: .*raise data\.max_bad_share', out, re.M), out


def test_a_damaged_landmark_record_is_named_before_the_first_step(photographs, tmp_path):
    """Landmarks are read whole at the start: what happens to them later changes nothing."""
    folder, flags = photographs
    points = ProceduralFaces(1, size=32)[0].landmarks
    names = sorted(path.name for path in folder.iterdir())
    shards = tmp_path / 'landmarks'
    landmark_shards.write_shards(
        (landmark_shards.LandmarkRow(name, points) for name in names), shards
    )
    flags = (*flags, f'--config.data.landmarks={shards}', '--config.steps.train=2')
    code, out = Program(tmp_path, *flags, f'--workdir={tmp_path / "good"}').finish()
    assert code == Exit.DONE, out
    (shard,) = shards.glob('*.array_record')
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    code, out = Program(tmp_path, *flags, f'--workdir={tmp_path / "bad"}').finish()
    assert code == Exit.USER_ERROR and 'Traceback' not in out, out
    assert shard.name in out.strip().splitlines()[-1]


def lose_the_disk():
    """For the program: the thirtieth image cannot be read, in a worker's thread."""
    sound, count = reading.decode, iter(range(1_000_000))

    def decode(image, name):
        if next(count) == 30:
            raise OSError(errno.EIO, 'Input/output error', name)
        return sound(image, name)

    reading.decode = decode


def test_a_data_worker_that_is_lost_ends_the_run_with_its_error(tmp_path):
    flags = (TINY, f'--workdir={tmp_path}', '--config.steps.train=100000')
    code, out = Program(tmp_path, *flags, before='tests.run.test_faults:lose_the_disk').finish()
    assert code == Exit.USER_ERROR, out
    assert 'Input/output error' in out.strip().splitlines()[-1]
    (start,) = map(json.loads, (tmp_path / 'starts.jsonl').read_text().splitlines())
    assert start['ended'] == 'OSError'


# ------------------------------------------------------------------------------------ devices


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_devices_and_threads(tmp_path):
    """Eight devices, four that cut the state, one: the losses of one device throughout."""
    common = (TINY, '--config.batch_size=8', '--config.eval.batch_size=8')
    whole, parts = (f'--workdir={tmp_path / name}' for name in ('whole', 'parts'))
    code, out = Program(tmp_path, *common, whole, '--config.steps.train=9').finish()
    assert code == Exit.DONE, out
    for end, devices, threads, fsdp in ((3, 8, 1, 1), (6, 4, 4, 0), (9, 1, 2, 1)):
        code, out = Program(
            tmp_path, *common, parts, f'--config.steps.train={end}',
            f'--config.data.num_threads={threads}', f'--config.mesh.fsdp={fsdp}',
            '--config.mesh.fsdp_min_size=64', devices=devices,
        ).finish()  # fmt: skip
        assert code == Exit.DONE, out
    steps, values = zip(*losses(tmp_path / 'parts'), strict=True)
    assert steps == tuple(range(1, 10))
    np.testing.assert_allclose(values, [v for _, v in losses(tmp_path / 'whole')], rtol=1e-5)


# ------------------------------------------------------------------------------------------ NaN


def faulty(kind, first, last, steps=8):
    config = faulty_method.get_config()
    config.batch_size = config.eval.batch_size = 8
    config.fault.kind, config.fault.first, config.fault.last = kind, first, last
    config.steps.train, config.checkpoint.every = steps, 100
    return config


@pytest.mark.parametrize(
    ('kind', 'named'),
    [
        ('batch', "'l1'"),
        ('loss', 'bad_term'),
        ('gradient', 'grad_norm/reconstruct/autoencoder'),
        ('huge', 'bad_term'),
    ],
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


def test_a_field_that_one_version_does_not_know_is_no_change():
    def older(meta):
        del meta['settings']['data.augment.unmoved']
        meta['settings']['data.augment.once_known'] = 0.5

    resume(lambda config: None, older)


def test_a_field_under_its_earlier_name_is_the_same_setting():
    def older(value):
        def rename(meta):
            settings = meta['settings']
            settings['data.augment.bend'] = value
            settings['data.bent_holes.eyes'] = settings.pop('data.warped_holes.eyes')
            del settings['data.augment.expression_warp']

        return rename

    resume(lambda config: None, older(0.0))
    with pytest.raises(ValueError, match=r'data\.augment\.expression_warp: 0\.5 -> 0\.0'):
        resume(lambda config: None, older(0.5))


def test_a_section_of_another_method_is_no_part_of_a_run():
    # Once a config had the sections of all methods.
    resume(lambda config: None, lambda meta: meta['settings'].update({'landmarks.rank': 24}))


def test_a_changed_rate_is_logged_and_kept_in_the_folder(unbroken, tmp_path):
    workdir = shutil.copytree(unbroken, tmp_path / 'run')
    flags = (TINY, f'--config.steps.train={STEPS + 2}', f'--workdir={workdir}')
    code, out = Program(tmp_path, *flags, '--config.optim.lr=1e-5').finish()
    assert code == Exit.DONE
    assert 'resumed with a changed config: optim.lr: 0.0002 -> 1e-05' in out
    assert json.loads((workdir / 'config.json').read_text())['optim']['lr'] == 1e-5
    code, out = Program(tmp_path, *flags, '--config.seed=1').finish()
    assert code == Exit.USER_ERROR and 'seed: 0 -> 1' in out
    assert json.loads((workdir / 'config.json').read_text())['seed'] == 0


def test_each_line_of_the_table_of_faults_names_its_tests():
    root = Path(__file__).parents[2]
    text = (root / 'docs' / 'operations.md').read_text()
    lines = text.partition('| fault |')[2].partition('\n\n')[0].splitlines()[2:]
    assert len(lines) > 20
    for line in lines:
        for item in line.split('|')[4].split(';'):
            file, _, words = item.strip().partition(': ')
            tests = re.findall(
                r'def (test_\w+)', next((root / 'tests').rglob(f'test_{file}.py')).read_text()
            )
            for word in words.split(', '):
                assert any(word in test for test in tests), f'test_{file}.py -k {word}'
