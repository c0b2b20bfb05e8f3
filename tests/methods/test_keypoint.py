"""The keypoint system's perceptual term, and what `size=base` widens."""

import jax
import numpy as np
import pytest

from configs import stage1, stage2
from fi_jax import features
from fi_jax.methods import make_method
from fi_jax.methods.keypoint import Keypoint
from fi_jax.methods.keypoint_settings import WIDTHS
from fi_jax.metrics import trunks, weights
from tests.methods import moves
from tests.methods.test_systems import batch_of


@pytest.fixture
def random_trunk(monkeypatch):
    monkeypatch.setattr(weights, 'load', trunks.random_weights)


@pytest.mark.parametrize('module', [stage1, stage2])
def test_the_perceptual_term_is_of_path_r_alone(module, random_trunk):
    config = module.get_config('tiny,trunk=efficientnet_lite0')
    method = make_method(config)
    stage = list(method.stages)[module is stage2]
    moved = moves.nets(moves.moved(config, method, method.stages[stage][0], batch_of(config, 4)))
    assert moved['r/perceptual'] == {'extractor', 'embedding', 'generator'} <= moved['r/l1_hole']
    assert 's/perceptual' not in moved
    plain = make_method(module.get_config('tiny'))
    without = moves.moved(config, plain, plain.stages[stage][0], batch_of(config, 4))
    assert 'r/perceptual' not in without


def test_it_sees_the_hole_alone(random_trunk):
    config = stage1.get_config('tiny,trunk=efficientnet_lite0')
    system, method = Keypoint(config), make_method(config)
    batch = features.prepare(batch_of(config, 4))
    image, hole = batch['image'], batch['hole']

    @jax.jit
    def term(guess):
        return system.perceptual_term(method.constants(), guess, batch)

    noise = jax.random.normal(jax.random.key(0), image.shape)
    assert float(term(image + (1 - hole) * noise)) == pytest.approx(0.0, abs=1e-6)
    assert float(term(image + hole * noise)) > 0.01


def test_the_trunk_is_needed_for_training_alone(monkeypatch, tmp_path):
    monkeypatch.setenv('FI_JAX_WEIGHTS', str(tmp_path))
    method = make_method(stage2.get_config('tiny,trunk=efficientnet_lite0'))
    assert method.sample is not None
    with pytest.raises(weights.MissingWeights, match='efficientnet_lite0'):
        method.constants()


def test_base_is_twice_as_wide():
    small, base = (stage2.get_config(f'res=128,size={size}').nets for size in ('small', 'base'))
    assert {name for name in small if small[name] != base[name]} == set(WIDTHS)
    for name in WIDTHS:
        np.testing.assert_array_equal(base[name], 2 * np.asarray(small[name]))
