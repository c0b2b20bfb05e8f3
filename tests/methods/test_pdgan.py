"""PD-GAN: what moves which net, how far the first guess leads, and what it cannot see."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import pdgan
from fi_jax.methods import make_method, perceptual
from fi_jax.metrics import trunks
from fi_jax.nets.pdgan import Prior, SPDNorm, hard_map
from tests.methods import moves
from tests.methods.test_systems import batch_of


def test_each_term_moves_the_net_it_is_meant_for():
    config = pdgan.get_config('tiny')
    method, batch = make_method(config), batch_of(config, 2)
    ((prior,), (both,)) = (method.stages[name] for name in ('prior', 'pdgan'))
    first = moves.nets(moves.moved(config, method, prior, batch))
    assert set(first) == {'l1_hole', 'l1_visible', 'variation'}
    assert all(nets == {'prior'} for nets in first.values())
    second = moves.nets(moves.moved(config, method, both, batch))
    assert second.pop('critic') == {'critic'}
    assert set(second) == {'adversarial', 'matching', 'variation', 'apart', 'diversity'}
    assert all(nets == {'generator'} for nets in second.values())  # never the first guess


def test_the_hard_map_falls_ring_by_ring():
    visible = np.ones((1, 11, 11, 1), np.float32)
    visible[:, 2:9, 2:9] = 0
    share = np.asarray(hard_map(jnp.asarray(visible), rings=2))[0, 5, :, 0]
    e = np.exp(-1.0)
    np.testing.assert_allclose(share, [1, 1, e, e**2, e**2, e**2, e**2, e**2, e, 1, 1], rtol=1e-6)
    wide = np.asarray(hard_map(jnp.asarray(visible), rings=2, size=5))[0, 5, :, 0]
    np.testing.assert_allclose(wide[1:6], [1, e, e, e**2, e**2], rtol=1e-6)


def test_where_nothing_is_shared_the_norm_knows_no_guess():
    rng = np.random.default_rng(0)
    x, guess, other = (jnp.asarray(rng.normal(size=(1, 4, 4, c)), jnp.float32) for c in (6, 3, 3))
    share = jnp.zeros((1, 4, 4, 1)).at[:, :, 2:].set(1.0)
    norm = SPDNorm(8)
    variables = norm.init(jax.random.key(0), x, guess, share)
    variables = jax.tree.map(lambda p: p * 50, variables)
    a, b = (norm.apply(variables, x, g, share) for g in (guess, other))
    np.testing.assert_array_equal(a[:, :, :2], b[:, :, :2])
    assert (np.abs(a - b)[:, :, 2:].max(-1) > 1e-3).all()
    free = (x - x.mean(-1, keepdims=True)) / np.sqrt(np.var(x, -1, ddof=1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(a[:, :, :2], free[:, :, :2], rtol=1e-4, atol=1e-5)


def test_the_first_guess_does_not_see_into_the_hole():
    rng = np.random.default_rng(0)
    image = jnp.asarray(rng.uniform(-1, 1, (1, 16, 16, 3)), jnp.float32)
    visible = jnp.ones((1, 16, 16, 1)).at[:, 4:12, 4:12].set(0.0)
    prior = Prior((4, 8), 1)
    variables = prior.init(jax.random.key(0), image, visible)
    guess = jax.jit(prior.apply)
    there = guess(variables, jnp.where(visible > 0, image, 9.0), visible)
    np.testing.assert_array_equal(guess(variables, image, visible), there)
    assert np.isfinite(guess(variables, image, 0 * visible)).all()  # nothing is visible


def test_perceptual_maps_have_a_gradient_where_they_see_nothing():
    rng = np.random.default_rng(0)
    weights = trunks.random_weights('efficientnet_lite0')

    @jax.jit
    def distance(a, b):
        def looks(image):
            return perceptual.maps('efficientnet_lite0', weights, image)

        both = looks(jnp.concatenate([a, b]))  # in one: compiled apart, they differ by rounding
        found = perceptual.distances([x[:1] for x in both], [x[1:] for x in both])
        return jnp.stack(found).mean(), jnp.stack(found)

    grad = jax.jit(jax.value_and_grad(distance, has_aux=True))
    black, drawn = jnp.zeros((1, 32, 32, 3)), jnp.asarray(rng.normal(size=(1, 32, 32, 3)))
    (_, same), gradient = grad(black, black)
    assert same.shape == (4, 1) and not same.any() and np.isfinite(gradient).all()
    (_, apart), gradient = grad(drawn, black)
    assert (apart > 0.01).all() and np.isfinite(gradient).all() and gradient.any()


def test_an_unknown_trunk_is_named():
    with pytest.raises(ValueError, match=r"config argument trunk=vgg19: choose from .*'none'"):
        pdgan.get_config('tiny,trunk=vgg19')
    config = pdgan.get_config('tiny')
    config.trunk = 'vgg19'
    with pytest.raises(ValueError, match=r"config\.trunk='vgg19': choose one of \['none'"):
        make_method(config)
