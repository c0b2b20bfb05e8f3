"""Runs and files of weights, opened by their own config; exports, and what is wrong with them."""

import json

import jax
import numpy as np
import pytest

from configs import landmarks
from fi_jax import sharding, steps
from fi_jax.pretrained import open_weights
from fi_jax.run import settings
from fi_jax.run.folder import load_run
from fi_jax.state import example_batch
from fi_jax.train import train_and_evaluate
from tests.states import state_of


def quick(config, **changes):
    """A config that trains one step or two, and judges nothing."""
    config.batch_size = config.eval.batch_size = config.sample.batch_size = 8
    config.eval.at_end, config.pictures_every, config.validate.limit = False, 1_000, 8
    config.data.num_threads = 1
    for name, value in changes.items():
        config[name] = value
    return config


@pytest.fixture(scope='session')
def normal_run(tiny_config, tmp_path_factory):
    """Stage 1 with the prior N(0,I): (config, run folder)."""
    workdir = tmp_path_factory.mktemp('normal')
    config = quick(tiny_config('stage1', 'normal_prior'))
    config.steps.stage1 = 2
    train_and_evaluate(config, workdir)
    return config, workdir


@pytest.fixture(scope='session')
def predictor_run(tmp_path_factory):
    """A landmark predictor: (config, run folder)."""
    workdir = tmp_path_factory.mktemp('lm')
    config = quick(landmarks.get_config('tiny'), seed=3)
    config.steps.landmarks = 2
    train_and_evaluate(config, workdir)
    return config, workdir


def drawn(weights):
    """Two completions of faces with a hole in one half."""
    batch = example_batch(weights.config.res, 8)
    batch['image'] += np.arange(8, dtype=np.uint8)[:, None, None, None] * 16
    batch['hole'][:, :, 16:] = 1
    draw = steps.Sampler(weights.method, 0, 2)
    return np.asarray(draw(weights.nets, batch)['composite'])


def test_a_run_is_opened_by_its_own_config(normal_run, tiny_config):
    config, workdir = normal_run
    mesh = sharding.make_mesh()
    # The states of the two have the same shapes: nothing but the config tells them apart.
    other = quick(tiny_config('stage1', 'sigma_by_hole'))
    own, asked = load_run(config, workdir, mesh), load_run(other, workdir, mesh)
    assert asked.config.prior == 'normal'
    np.testing.assert_array_equal(drawn(own), drawn(asked))
    plain = load_run(quick(tiny_config('stage2')), workdir, mesh)
    np.testing.assert_array_equal(drawn(own), drawn(plain))


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
    assert (weights.config.guidance, weights.config.landmark_source) == (1.0, 'fen')
    assert weights.config.prior == 'normal' and 'gallery' in weights.config.eval
    np.testing.assert_array_equal(drawn(weights), drawn(open_weights(workdir)))


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
