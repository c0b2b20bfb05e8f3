"""Whole runs, small: resume, two stages in one run, a sixth method, sampling, faults."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import jax
import numpy as np
import pytest

from configs import quickstart, stage1
from fi_jax.run.faults import SomeFailed
from fi_jax.run.folder import open_split
from fi_jax.sample import sample_run
from fi_jax.train import NonFinite, picture_rows, train_and_evaluate
from tests import masked_autoencoder, tiny_run
from tests.compilation import QUICK
from tests.states import state_of

ROOT = Path(__file__).parents[1]


def run_main(*flags: str, wait: bool = True) -> subprocess.Popen:
    """python -m fi_jax.main with flags, on two devices whatever the machine has."""
    env = dict(os.environ, JAX_PLATFORMS='cpu')
    # Two real devices, and quick compilation: these runs are a few steps long.
    env['XLA_FLAGS'] = QUICK
    command = [sys.executable, '-m', 'fi_jax.main', *flags, '--config.mesh.cpu_devices=2']
    process = subprocess.Popen(
        command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    if wait:
        process.out, process.err = process.communicate(timeout=600)
    return process


@pytest.fixture(scope='module')
def quick_run(tmp_path_factory):
    """Both stages on drawn faces, a few steps each: (config, run folder)."""
    workdir = tmp_path_factory.mktemp('quick')
    config = quickstart.get_config('tiny')
    config.batch_size = 8
    config.eval.batch_size = config.sample.batch_size = 8
    config.eval.metrics = 'image,seam'
    train_and_evaluate(config, workdir)
    return config, workdir


@pytest.mark.slow  # tests/run/test_faults.py has it of a cheaper method
def test_killed_and_resumed_run_equals_an_unbroken_one(tmp_path):
    config = stage1.get_config('tiny')
    flags = [
        '--config=configs/stage1.py:tiny', '--config.steps.stage1=40', '--config.eval.at_end=False',
        '--config.checkpoint.every=10', '--config.pictures_every=100',
    ]  # fmt: skip
    whole, broken = tmp_path / 'whole', tmp_path / 'broken'
    unbroken = run_main(*flags, f'--workdir={whole}')
    assert unbroken.returncode == 0, unbroken.err

    process = run_main(*flags, f'--workdir={broken}', wait=False)
    deadline = time.time() + 500
    while not (broken / 'checkpoints' / '10').is_dir() and time.time() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (broken / 'checkpoints' / '40').exists(), 'killed too late to prove anything'

    resumed = run_main(*flags, f'--workdir={broken}')
    assert resumed.returncode == 0, resumed.err
    assert 'resumed' in resumed.err

    config.steps.stage1 = 40
    for a, b in zip(
        jax.tree.leaves(state_of(config, whole)), jax.tree.leaves(state_of(config, broken)),
        strict=True,
    ):  # fmt: skip
        np.testing.assert_array_equal(a, b)

    def last_losses(workdir):
        lines = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
        return {x['step']: x['loss/reconstruct'] for x in lines if 'loss/reconstruct' in x}

    assert last_losses(whole) == last_losses(broken)


def test_quickstart_plays_both_stages_and_leaves_a_readable_folder(quick_run):
    config, workdir = quick_run
    lines = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    names = set().union(*lines)
    assert {'loss/reconstruct', 'loss/all', 'loss/r1', 'watch/latent_ratio'} <= names
    assert {'watch/v_share_of_z', 'watch/pair_distance_hole', 'val/psnr_hole/mean'} <= names
    assert (workdir / 'samples' / 'faces_0000000.png').exists()
    assert (workdir / 'config.json').exists() and (workdir / 'versions.json').exists()
    rows = json.loads((workdir / 'eval' / 'test_mixture.json').read_text())['rows']
    assert set(rows) == {
        'samples',
        'z=0',
        'mean_face',
        'telea',
        'navier_stokes',
        'biharmonic',
        'truth',
    }
    assert rows['truth']['all']['ssim/mean']['mean'] == pytest.approx(1.0, abs=1e-6)
    assert rows['samples']['all']['pair_distance_hole']['mean'] > 0
    state = state_of(config, workdir)
    assert state.step == config.steps.stage1 + config.steps.stage2


@pytest.mark.parametrize(
    ('wanted', 'devices', 'group', 'rows'),
    [(8, 1, 1, 8), (1, 1, 2, 2), (3, 2, 2, 4), (5, 4, 2, 8), (5, 3, 2, 6)],
)
def test_pictures_are_of_whole_groups_on_every_device(wanted, devices, group, rows):
    assert picture_rows(wanted, devices, group) == rows


def test_samples_keep_every_visible_pixel_and_differ_inside_the_hole(quick_run, tmp_path):
    config, workdir = quick_run
    config = config.copy_and_resolve_references()
    config.sample.limit, config.sample.num_samples = 3, 3
    config.sample.out = str(tmp_path / 'out')
    faces = [p for p in sample_run(config, workdir).iterdir() if p.is_dir()]
    assert len(faces) == 3
    sheet = cv2.imread(str(tmp_path / 'out' / 'sheet_0000.png'))
    assert (sheet.shape[0] - 16) // 98 == 3  # no row for what fills the batch
    for face in faces:
        truth, hole = (cv2.imread(str(face / f'{n}.png')) for n in ('truth', 'hole'))
        samples = [cv2.imread(str(face / f'sample_{k:02d}.png')) for k in range(3)]
        assert set(np.unique(hole)) == {0, 255}
        for sample in samples:
            np.testing.assert_array_equal(sample[hole == 0], truth[hole == 0])
        assert (samples[0] != samples[1]).any() and (samples[1] != samples[2]).any()


def write_photos(folder, names):
    folder.mkdir()
    for i, name in enumerate(names):
        photo = np.random.default_rng(i).integers(0, 256, (40, 32, 3), np.uint8)
        cv2.imwrite(str(folder / f'{name}.png'), photo)
    return folder


@pytest.mark.parametrize('names', ['a', 'abcde'])
def test_a_few_photos_train_are_evaluated_and_sampled(names, tmp_path):
    """So few that none is held back for validation or test."""
    config = masked_autoencoder.get_config('tiny')
    config.data.source, config.data.path = 'folder', str(write_photos(tmp_path / 'few', names))
    config.data.val_share = config.data.test_share = 0.05
    config.batch_size = config.eval.batch_size = config.sample.batch_size = 8
    state = train_and_evaluate(config, tmp_path / 'run')
    assert int(state.step) == 6
    lines = [json.loads(x) for x in (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()]
    assert [x['val/failures'] for x in lines if 'val/failures' in x] == [0, 0, 0]
    saved = json.loads((tmp_path / 'run' / 'eval' / 'all_mixture.json').read_text())
    assert saved['rows']['samples']['all']['psnr/mean']['count'] == len(names)

    # And a corrupt one among those to be completed is left out, and named.
    (tmp_path / 'few' / 'bad.png').write_bytes((tmp_path / 'few' / 'a.png').read_bytes()[:900])
    config.sample.out, config.sample.num_samples = str(tmp_path / 'out'), 2
    left_out = rf'1 of {len(names) + 1} images were left out: bad\.png: damaged'
    with pytest.raises(SomeFailed, match=left_out):
        sample_run(config, tmp_path / 'run')
    faces = {p.name: p for p in (tmp_path / 'out').iterdir() if p.is_dir()}
    assert sorted(faces) == list(names)
    for name, face in faces.items():
        stored = cv2.imread(str(tmp_path / 'few' / f'{name}.png'))[4:36]
        np.testing.assert_array_equal(cv2.imread(str(face / 'truth.png')), stored)
        assert len(list(face.glob('sample_*.png'))) == 2


def test_other_data_are_taken_whole(quick_run, tmp_path):
    config, workdir = quick_run
    config = config.copy_and_resolve_references()
    assert open_split(config, workdir, 'auto')[0] == 'test'
    config.data.source = 'folder'
    config.data.path = str(write_photos(tmp_path / 'other', 'abc'))
    split, source = open_split(config, workdir, 'auto')
    assert split == 'all' and len(source) == 3


def test_warm_start_takes_the_weights_and_a_fresh_step(tmp_path):
    config = tiny_run.get_config()
    config.batch_size = config.eval.batch_size = 8
    before = train_and_evaluate(config, tmp_path / 'first')
    second = config.copy_and_resolve_references()
    second.warm_start = str(tmp_path / 'first')
    second.steps.train, second.optim.lr = 1, 0.0
    after = train_and_evaluate(second, tmp_path / 'second')
    assert int(after.step) == 1
    for name, net in before.nets.items():
        jax.tree.map(
            np.testing.assert_array_equal,
            jax.device_get(net.params),
            jax.device_get(after.nets[name].params),
        )


def test_a_restore_that_does_not_fit_names_the_leaves(quick_run):
    config, workdir = quick_run
    config = config.copy_and_resolve_references()
    config.nets.z_dim = 24
    with pytest.raises(ValueError, match=r'nets/embedding/params/.* there and .* here'):
        state_of(config, workdir)


def test_a_sixth_method_is_one_file_and_a_config(tmp_path):
    config = masked_autoencoder.get_config('tiny')
    config.batch_size = config.eval.batch_size = 8
    state = train_and_evaluate(config, tmp_path)
    assert int(state.step) == 6
    losses = [
        json.loads(line)['l1']
        for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()
        if 'l1"' in line and 'loss/' in line
    ]
    assert losses[-1] < losses[0]
    assert (tmp_path / 'samples' / 'faces_0000006.png').exists()
    assert (tmp_path / 'eval' / 'test_mixture.json').exists()


def test_a_run_that_diverges_stops_and_keeps_its_last_good_checkpoint(tmp_path):
    config = masked_autoencoder.get_config('tiny')
    config.batch_size = config.eval.batch_size = 8
    config.steps.train, config.max_skips, config.optim.lr = 20, 3, float('inf')
    with pytest.raises(NonFinite, match='3 steps in a row'):
        train_and_evaluate(config, tmp_path)
    restored = state_of(config, tmp_path)
    assert int(restored.step) > 0


@pytest.mark.parametrize(
    ('flags', 'words'),
    [
        (['--config=configs/stage1.py:tinny'], ["'tinny' is unknown", "did you mean 'tiny'"]),
        (['--config=configs/stage1.py:res=100'], ['res=100', '64, 128 or 256']),
        (['--config=configs/stage1.py:tiny', '--config.los.part=1'], ['Did you mean "loss"']),
        (['--config=configs/absent.py'], ['configs/absent.py', 'no such file']),
        (
            ['--config=configs/stage1.py:tiny', '--config.data.source=zip',
             '--config.data.path=absent.zip'],
            ['data.path=absent.zip', 'no such file'],
        ),
        (
            ['--config=configs/stage2.py:tiny', '--config.warm_start=nowhere'],
            ['config.warm_start=nowhere', 'no run'],
        ),
        (['--config=configs/stage1.py:tiny', '--mode=eval'], ['no run folder']),
    ],
)  # fmt: skip
def test_bad_input_ends_with_one_clear_line(flags, words, tmp_path):
    process = run_main(*flags, f'--workdir={tmp_path / "run"}')
    assert process.returncode == 1
    assert 'Traceback' not in process.err
    for word in words:
        assert word in process.err
