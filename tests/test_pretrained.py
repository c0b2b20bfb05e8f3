"""Runs and files of weights, opened by their own config; exports, and what is wrong with them."""

import dataclasses
import hashlib
import json
import pickle

import jax
import numpy as np
import pytest
import safetensors.numpy

from configs import landmarks
from fi_jax import sharding, steps
from fi_jax.input_pipeline.sources import make_source
from fi_jax.methods import make_method
from fi_jax.optim import make_optimizers
from fi_jax.pretrained import files, find, listing, open_weights, own_settings, shipped, warm_start
from fi_jax.pretrained.export import export_run
from fi_jax.run import settings
from fi_jax.run.checkpoint import Checkpointer
from fi_jax.run.folder import (
    fingerprint,
    load_predictor,
    load_run,
    open_split,
    results_of,
)
from fi_jax.state import example_batch, init_state
from fi_jax.train import record_run
from tests.processes import Program
from tests.states import state_of


def run_of(config, workdir):
    """A run folder as a training leaves it, with the first weights and averages unlike them."""
    config.batch_size = config.eval.batch_size = config.sample.batch_size = 8
    method = make_method(config)
    optimizers = make_optimizers(config, method.nets)

    def begin():
        state = init_state(method, optimizers, config.res, config.seed)
        nets = {
            name: net.replace(ema=jax.tree.map(lambda x: 1.1 * x, net.ema))
            for name, net in state.nets.items()
        }
        return state.replace(step=state.step + 2, nets=nets)

    record_run(config, workdir)
    meta = {'stage': '', 'data': fingerprint(make_source(config.data, 'train'))}
    with Checkpointer(workdir, config.checkpoint) as checkpointer:
        checkpointer.save(2, jax.jit(begin)(), {}, meta, {})
    return config, workdir


@pytest.fixture(scope='session')
def normal_run(tiny_config, tmp_path_factory):
    """Stage 1 with the prior N(0,I): (config, run folder)."""
    return run_of(tiny_config('stage1', 'normal_prior'), tmp_path_factory.mktemp('normal'))


@pytest.fixture(scope='session')
def predictor_run(tmp_path_factory):
    """A landmark predictor: (config, run folder)."""
    config = landmarks.get_config('tiny')
    config.seed = 3
    return run_of(config, tmp_path_factory.mktemp('lm'))


@pytest.fixture(scope='session')
def own_draws(normal_run):
    return drawn(open_weights(normal_run[1]))


def drawn(weights):
    """Two completions of faces with a hole in one half."""
    batch = example_batch(weights.config.res, 8)
    batch['image'] += np.arange(8, dtype=np.uint8)[:, None, None, None] * 16
    batch['hole'][:, :, 16:] = 1
    draw = steps.Sampler(weights.method, 0, 2)
    return np.asarray(draw(weights.nets, batch)['composite'])


def test_a_run_is_opened_by_its_own_config(normal_run, own_draws, tiny_config):
    _, workdir = normal_run
    mesh = sharding.make_mesh()
    # The states of the two have the same shapes: nothing but the config tells them apart.
    other = tiny_config('stage1', 'sigma_by_hole')
    for asked in (other, tiny_config('stage2')):
        run = load_run(asked, workdir, mesh)
        assert run.config.prior == 'normal'
        np.testing.assert_array_equal(drawn(run), own_draws)


def test_sampling_restores_its_nets_alone(normal_run):
    config, workdir = normal_run
    weights, state = open_weights(workdir), state_of(config, workdir)
    assert set(weights.nets) == {'embedding', 'generator'}
    for name, net in weights.nets.items():
        assert not net.opt_state and not net.ema
        jax.tree.map(np.testing.assert_array_equal, net.params, state.nets[name].ema)


def test_a_run_older_than_a_field_opens_with_its_default(normal_run, tmp_path):
    _, workdir = normal_run
    old = tmp_path / 'old'
    old.mkdir()
    (old / 'checkpoints').symlink_to(workdir / 'checkpoints')
    own = json.loads((workdir / 'config.json').read_text())
    del own['guidance'], own['eval']['gallery'], own['landmark_source']
    (old / 'config.json').write_text(json.dumps(own))
    weights = open_weights(old)
    assert (weights.config.guidance, weights.config.landmark_source) == (1.0, 'none')
    assert weights.config.prior == 'normal' and 'gallery' in weights.config.eval


def test_a_damaged_config_is_named(tmp_path):
    (tmp_path / 'config.json').write_text('{"method": ')
    with pytest.raises(ValueError, match=r'config.json: damaged, no JSON'):
        own_settings(tmp_path)


def test_flags_change_what_is_asked_and_a_data_set_is_taken_whole(tiny_config):
    own = settings.settings_of(tiny_config('stage1', 'normal_prior'))
    own['data'] |= {'source': 'zip', 'path': 'A.zip', 'landmarks': 'A.npz', 'test_share': 0.3}
    own['eval']['num_samples'], own['seed'] = 5, 7
    asked = tiny_config('stage1')

    def opened(*given, **fields):
        config = asked.copy_and_resolve_references()
        config.update_from_flattened_dict(fields)
        return settings.opened(own, config, given)

    # Nothing given: all is the run's own, but the seed, which tells runs apart by nothing.
    config = opened()
    assert (config.data.path, config.eval.num_samples, config.prior) == ('A.zip', 5, 'normal')
    assert config.seed == 0
    # A set is named: its landmarks are not those of the run's; how photos are seen stays.
    config = opened('data.path', 'eval.limit', **{'data.path': 'B.zip', 'eval.limit': 3})
    assert (config.data.path, config.data.landmarks) == ('B.zip', '')
    assert (config.data.test_share, config.eval.limit, config.eval.num_samples) == (0.3, 3, 5)
    # Other landmarks of the same set.
    config = opened('data.landmarks', **{'data.landmarks': 'P.npz'})
    assert (config.data.path, config.data.landmarks) == ('A.zip', 'P.npz')


def test_what_cannot_be_asked_of_a_run_is_refused_by_name(tiny_config):
    own = settings.settings_of(tiny_config('stage1', 'normal_prior'))
    settings.refuse(own, {'prior': 'normal', 'eval.limit': 3, 'nets.decoder': (32,)}, 'runs/a')
    with pytest.raises(ValueError, match=r"runs/a .*config.prior='visible' \(there: 'normal'\)"):
        settings.refuse(own, {'prior': 'visible'}, 'runs/a')


# ---------------------------------------------------------------------------------- files


@pytest.fixture(scope='session')
def exported(normal_run, predictor_run, tmp_path_factory):
    """The file of the run, with the predictor inside."""
    path = tmp_path_factory.mktemp('exported') / 'normal.safetensors'
    export_run(normal_run[1], path, predictor=str(predictor_run[1]))
    return path


def test_a_file_draws_what_its_run_draws(own_draws, exported):
    weights = open_weights(exported)
    np.testing.assert_array_equal(drawn(weights), own_draws)
    assert set(weights.nets) == {'embedding', 'generator'} and weights.config.prior == 'normal'
    assert weights.about['step'] == 2 and weights.about['images'] == 16


def test_the_predictor_inside_leads(normal_run, predictor_run, exported):
    config, workdir = normal_run
    mesh, led = sharding.make_mesh(), config.copy_and_resolve_references()
    led.landmark_source = 'predictor_sample'
    inside = load_run(led, exported, mesh)
    assert inside.predictor.about['data'] == inside.about['data']
    led.predictor = str(predictor_run[1])
    np.testing.assert_array_equal(drawn(inside), drawn(load_run(led, workdir, mesh)))
    assert load_predictor(str(exported), 'config.eval.landmark_detector').method.predictor


@pytest.mark.parametrize('predictor', ['', 'of the file'])
def test_a_file_is_exported_again_with_the_predictor_inside(exported, tmp_path, predictor):
    again = tmp_path / 'again.safetensors'
    export_run(exported, again, predictor=str(exported) if predictor else '')
    old, new = open_weights(exported), open_weights(again)
    np.testing.assert_array_equal(drawn(new), drawn(old))
    assert new.predictor.config.method == 'landmarks' and new.predictor.about['name'] == 'again'
    jax.tree.map(np.testing.assert_array_equal, new.predictor.nets, old.predictor.nets)


def test_a_file_tells_no_place_and_is_the_same_each_time(normal_run, exported, tmp_path):
    _, workdir = normal_run
    a, b = (export_run(workdir, tmp_path / f'{n}.safetensors') for n in 'ab')
    assert a == b
    about = json.dumps(files.read_about(exported))
    assert str(workdir) not in about and '~' not in about
    card = exported.with_suffix('.md').read_text()
    assert hashlib.sha256(exported.read_bytes()).hexdigest() in card and 'drawn faces' in card


@pytest.mark.parametrize(('dtype', 'share'), [('bfloat16', 0.7), ('int8', 0.5)])
def test_fewer_bits_make_a_file_small_and_change_little(
    normal_run, own_draws, tmp_path, dtype, share
):
    _, workdir = normal_run
    for bits in ('float32', dtype):
        export_run(workdir, tmp_path / f'{bits}.safetensors', bits)
    full, small = (tmp_path / f'{bits}.safetensors' for bits in ('float32', dtype))
    assert small.stat().st_size < share * full.stat().st_size
    weights = open_weights(small)
    assert 0 < np.abs(drawn(weights).astype(int) - own_draws).mean() < 1
    assert all(x.dtype == np.float32 for x in jax.tree.leaves(weights.nets))
    again = tmp_path / 'again.safetensors'
    export_run(small, again, dtype)
    np.testing.assert_array_equal(drawn(open_weights(again)), drawn(weights))


def test_a_file_too_large_is_not_written(normal_run, tmp_path):
    out = tmp_path / 'a.safetensors'
    with pytest.raises(ValueError, match=r'--max_bytes=1,000: the file would have .*bfloat16'):
        export_run(normal_run[1], out, max_bytes=1000)
    assert not list(tmp_path.iterdir())


def cut(n):
    return lambda data: data[:n]


def flipped(at):
    def flip(data):
        i = at if at >= 0 else len(data) + at
        return data[:i] + bytes([data[i] ^ 1]) + data[i + 1 :]

    return flip


def changed_word(data):
    """Another prior in the header, of the same length."""
    assert b'normal' in data
    return data.replace(b'\\"prior\\": \\"normal\\"', b'\\"prior\\": \\"NORMAL\\"')


FAULTS = {
    'empty': (cut(0), 'no safetensors file'),
    'cut_in_its_header': (cut(500), 'cut off'),
    'cut_in_its_arrays': (cut(-1), 'cut off'),
    'longer': (lambda data: data + b'x', 'cut off or changed'),
    'flipped_bit_of_an_array': (flipped(-3), 'damaged'),
    'another_word_in_its_header': (changed_word, 'damaged'),
    'header_of_an_exabyte': (lambda data: b'\xff' * 8 + data[8:], 'header would have'),
    'a_pickle': (lambda _: pickle.dumps({'a': np.zeros(9)}), 'no safetensors file|header would'),
    'a_zip_of_torch': (lambda _: b'PK\x03\x04' + bytes(500), 'no safetensors file|header would'),
    'of_another_program': (lambda _: safetensors.numpy.save({'a': np.zeros(9)}), 'no config'),
}


@pytest.mark.parametrize('fault', FAULTS)
def test_a_damaged_file_is_refused_in_one_sentence(exported, tmp_path, fault):
    change, message = FAULTS[fault]
    path = tmp_path / 'bad.safetensors'
    path.write_bytes(change(exported.read_bytes()))
    with pytest.raises(ValueError, match=message) as caught:
        open_weights(path)
    assert str(path) in str(caught.value) and len(str(caught.value)) < 250


@pytest.mark.parametrize('shape', [(), (1,), (0, 3), (2, 3)])
def test_arrays_come_back_in_their_own_shape(tmp_path, shape):
    path, array = tmp_path / 'x.safetensors', np.arange(np.prod(shape, dtype=int)).reshape(shape)
    tensors = {'x': array.astype(np.int32), 'turned': array.astype(np.float32).T}
    path.write_bytes(files.encode(tensors, {'config': {}}))
    read = files.read(path)[0]
    for name, value in tensors.items():
        assert read[name].shape == value.shape
        np.testing.assert_array_equal(read[name], value)


def test_arrays_of_another_method_are_named(exported, predictor_run, tmp_path):
    tensors, about, _ = files.read(exported)
    about['config'] = settings.settings_of(predictor_run[0])
    path = tmp_path / 'other.safetensors'
    path.write_bytes(files.encode(tensors, about))
    with pytest.raises(ValueError, match=r'config \(landmarks\): nets/predictor/.* missing there'):
        open_weights(path)
    data = files.encode(tensors, about).replace(b'\\"schema\\": 1', b'\\"schema\\": 2')
    path.write_bytes(data)
    with pytest.raises(ValueError, match='schema 2, and this version of fi_jax reads 1'):
        open_weights(path)


def test_weights_are_found_by_name_and_checked(exported, tmp_path, monkeypatch):
    sha256 = hashlib.sha256(exported.read_bytes()).hexdigest()
    monkeypatch.setattr(shipped, 'FOLDER', exported.parent)
    entry = shipped.Shipped(exported.name, sha256, 'research only', 'a test')
    monkeypatch.setattr(shipped, 'SHIPPED', {'tiny': entry})
    assert open_weights('tiny').about['sha256'] == sha256
    assert find('tiny') == exported and results_of(exported) == exported.with_suffix('')
    monkeypatch.chdir(tmp_path)
    for _ in range(2):  # also beside what an earlier call left there
        assert str(results_of('tiny')) == 'tiny'
        (tmp_path / 'tiny').mkdir(exist_ok=True)
    wrong = dataclasses.replace(entry, sha256='0' * 64)
    monkeypatch.setattr(shipped, 'SHIPPED', {'tiny': wrong})
    with pytest.raises(ValueError, match=f'its SHA-256 is {sha256}, not 000'):
        open_weights('tiny')
    with pytest.raises(FileNotFoundError, match=r'--checkpoint=tinny: no run .* one of tiny'):
        open_weights('tinny')


def test_an_export_into_the_package_is_listed_with_its_terms(normal_run, tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, 'FOLDER', tmp_path)
    monkeypatch.setattr(shipped, 'SHIPPED', {})
    out = tmp_path / 'tiny32.safetensors'
    with pytest.raises(ValueError, match='say under which --terms'):
        export_run(normal_run[1], out)
    sha256 = export_run(normal_run[1], out, terms='research only')
    assert json.loads((tmp_path / 'shipped.json').read_text())['tiny32']['sha256'] == sha256
    assert find('tiny32') == out
    listing.show()
    export_run(out, tmp_path / 'again.safetensors', terms='for a friend')
    assert list(json.loads((tmp_path / 'shipped.json').read_text())) == ['tiny32', 'again']
    assert open_weights('again').about['terms'] == 'for a friend'


def test_the_shipped_files_are_whole_and_small():
    paths = {name: shipped.path_of(name) for name in shipped.SHIPPED}
    for name, path in paths.items():
        tensors, _, _ = files.read(path, shipped.SHIPPED[name].sha256)
        assert tensors and path.with_suffix('.md').is_file() and shipped.SHIPPED[name].terms
    listed = set(paths.values())
    assert listed == set(shipped.FOLDER.glob('*.safetensors'))
    assert sum(path.stat().st_size for path in listed) < shipped.LIMIT


def test_a_training_begins_from_a_file(exported, normal_run):
    config, workdir = normal_run
    method, before = make_method(config), open_weights(workdir)
    optimizers = make_optimizers(config, method.nets)
    fresh = jax.jit(lambda: init_state(method, optimizers, config.res, 5))()
    state = warm_start(fresh, exported)
    for name, net in before.nets.items():
        jax.tree.map(np.testing.assert_array_equal, net.params, state.nets[name].params)
        jax.tree.map(np.testing.assert_array_equal, net.params, state.nets[name].ema)
        assert state.nets[name].opt_state is fresh.nets[name].opt_state
    assert state.nets['d_local'] is fresh.nets['d_local']  # the file has none
    with pytest.raises(FileNotFoundError, match=r'config.warm_start=nowhere: no run folder'):
        warm_start(fresh, 'nowhere')


def test_auto_is_the_test_split_of_the_data_a_file_was_trained_on(exported, normal_run):
    config = normal_run[0].copy_and_resolve_references()
    assert open_split(config, exported, 'auto')[0] == 'test'
    config.data.seed = 5
    assert open_split(config, exported, 'auto')[0] == 'all'


@pytest.mark.slow
def test_modes_open_a_file_from_the_command_line(exported, tmp_path):
    flags = [f'--checkpoint={exported}', '--mode=sample', '--config.sample.limit=2']
    code, out = Program(tmp_path, *flags, '--config.prior=visible').finish()
    assert code == 1 and "config.prior='visible' (there: 'normal')" in out
    code, out = Program(tmp_path, '--config=configs/stage1.py:tiny,ablate=z4', *flags).finish()
    assert code == 1 and 'config.nets.z_dim=4' in out
    code, out = Program(tmp_path, *flags, '--config.sample.num_samples=2').finish()
    assert code == 0, out
    assert len(list(exported.with_suffix('').glob('samples_centre/*/sample_01.png'))) == 2
