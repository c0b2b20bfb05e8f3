"""Checkpoints on a bad disk: flipped bits, lost files, other files, no space, no right."""

import json
import resource
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from fi_jax.run.checkpoint import MANIFEST, UNSIGNED, Checkpointer, damage
from fi_jax.state import NetState, TrainState

OPTIONS = ConfigDict(dict(every=1, keep=3, keep_best=1, best='psnr'))


def make_state(step, width=32):
    kernel = jax.random.normal(jax.random.key(step), (width, width))
    net = NetState({'kernel': kernel}, {}, {'mu': kernel * 2}, {})
    return TrainState(jnp.int32(step), jnp.int32(0), {'net': net})


def write(workdir, *steps, width=32):
    with Checkpointer(workdir, OPTIONS) as checkpointer:
        for step in steps:
            meta = {'stage': 'train'}
            checkpointer.save(step, make_state(step, width), {'next_index': step}, meta, {})
    return workdir


def files_of(folder):
    return sorted(p for p in folder.rglob('*') if p.is_file() and p.name not in UNSIGNED)


@pytest.fixture(scope='module')
def written(tmp_path_factory):
    """A run folder with steps 10 and 20, never touched."""
    return write(tmp_path_factory.mktemp('written'), 10, 20)


@pytest.fixture
def run(written, tmp_path):
    return shutil.copytree(written, tmp_path / 'run')


def restored_step(run, options=OPTIONS):
    with Checkpointer(run, options) as checkpointer:
        state, data, meta = checkpointer.restore(make_state(0))
    step = int(state.step)
    np.testing.assert_array_equal(
        state.nets['net'].params['kernel'], make_state(step).nets['net'].params['kernel']
    )
    assert data == {'next_index': step}
    assert meta['stage'] == 'train'
    return step


def test_each_step_carries_the_hash_of_each_of_its_files(written):
    for step in (10, 20):
        folder = written / 'checkpoints' / str(step)
        listed = json.loads((folder / MANIFEST).read_text())['sha256']
        assert set(listed) >= {p.relative_to(folder).as_posix() for p in files_of(folder)}
        assert damage(folder) is None
    assert restored_step(written) == 20


def test_every_flipped_bit_is_seen_and_named(run):
    """Orbax alone restores most such steps without a word."""
    folder, rng = run / 'checkpoints' / '20', np.random.default_rng(0)
    files = [p for p in files_of(folder) if p.stat().st_size]
    for k in range(40):
        path = files[k % len(files)]
        whole = path.read_bytes()
        broken = bytearray(whole)
        broken[rng.integers(len(whole))] ^= 1 << rng.integers(8)
        path.write_bytes(broken)
        assert str(path) in (damage(folder) or '')
        path.write_bytes(whole)
    assert damage(folder) is None


@pytest.mark.parametrize('fault', ['flip', 'truncate', 'delete', 'manifest'])
def test_a_damaged_newest_step_is_put_aside_and_the_one_before_it_used(run, fault, caplog):
    folder = run / 'checkpoints' / '20'
    path = max(files_of(folder / 'state'), key=lambda p: p.stat().st_size)
    if fault == 'flip':
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif fault == 'truncate':
        path.write_bytes(path.read_bytes()[:-1])
    elif fault == 'delete':
        path.unlink()
    else:
        path = folder / MANIFEST
        path.write_text('{}')
    assert restored_step(run) == 10
    assert 'fell back from step 20 to step 10' in caplog.text
    assert path.name in caplog.text
    assert (run / 'damaged' / '20').is_dir()
    write(run, 20)
    assert restored_step(run) == 20


def test_a_reader_falls_back_and_leaves_the_folder_alone(run):
    path = max(files_of(run / 'checkpoints' / '20'), key=lambda p: p.stat().st_size)
    path.unlink()
    assert restored_step(run, options=None) == 10
    assert (run / 'checkpoints' / '20').is_dir()
    with Checkpointer(run) as checkpointer, pytest.raises(ValueError, match=path.name):
        checkpointer.restore(make_state(0), step=20)


def test_without_a_whole_step_nothing_is_restored(run):
    for step in ('10', '20'):
        files_of(run / 'checkpoints' / step / 'state')[0].unlink()
    with (
        Checkpointer(run) as checkpointer,
        pytest.raises(ValueError, match='all checkpoints are damaged'),
    ):
        checkpointer.restore(make_state(0))


def test_other_files_in_the_folder_are_no_steps(run, caplog):
    folder = run / 'checkpoints'
    (folder / '30').mkdir()
    (folder / '25.orbax-checkpoint-tmp').mkdir()
    (folder / 'old').mkdir()
    (folder / 'notes.txt').write_text('mine')
    assert restored_step(run, options=None) == 20
    assert restored_step(run) == 20
    assert (run / 'damaged' / '30').is_dir() and 'it holds no state' in caplog.text
    assert (folder / 'notes.txt').exists() and (folder / 'old').exists()
    write(run, 30)
    assert restored_step(run) == 30


# Orbax's own threads fail as well, and pytest hears of it.
@pytest.mark.filterwarnings('ignore::pytest.PytestUnhandledThreadExceptionWarning')
@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
def test_a_full_disk_leaves_the_steps_before_it_whole(run):
    """A limit on the size of files stands for the disk: writes fail in the same places."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.raises(OSError, match=r'could not be written \(.* free\)'):  # noqa: SIM117
        with Checkpointer(run, OPTIONS) as checkpointer:
            try:
                resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
                checkpointer.save(30, make_state(30, width=512), {}, {}, {})
                checkpointer.wait()
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert restored_step(run) == 20


def test_another_schema_or_shape_is_refused(run):
    meta = next((run / 'checkpoints' / '20' / 'meta').glob('metadata'))
    meta.write_text(meta.read_text().replace('"schema": 1', '"schema": 0'))
    (run / 'checkpoints' / '20' / MANIFEST).unlink()
    with Checkpointer(run) as checkpointer:
        with pytest.raises(ValueError, match='schema 0 is not 1'):
            checkpointer.restore(make_state(0))
        with pytest.raises(ValueError, match=r'kernel is \(32, 32\) there and \(8, 8\) h'):
            checkpointer.restore(make_state(0, width=8))
