"""Monitors of a code: a code that is used and one that is not have other numbers."""

import jax.numpy as jnp
import numpy as np

from fi_jax.methods import monitors

Z = np.random.default_rng(0).normal(size=(4, 8, 5)).astype(np.float32)


def test_a_code_that_is_read_exactly_and_one_that_is_not():
    exact = monitors.read_back('latent', jnp.asarray(Z), jnp.asarray(Z))
    assert set(exact) == {'latent', 'latent_ratio', 'latent_correlation'}
    assert exact['latent'] == 0 and abs(exact['latent_correlation'] - 1) < 1e-5
    # The same answer for all samples of an input: no better for its own z than for another's.
    blind = monitors.read_back('latent', jnp.asarray(np.zeros_like(Z) + Z.mean(0)), jnp.asarray(Z))
    assert abs(blind['latent_ratio'] - 1) < 1e-5 and abs(blind['latent_correlation']) < 0.7


def test_variance_between_samples_is_a_share():
    inputs = np.random.default_rng(1).normal(size=(1, 8, 5)).astype(np.float32)
    assert monitors.share_of_samples(jnp.asarray(np.repeat(inputs, 4, 0))) < 1e-6
    assert monitors.share_of_samples(jnp.asarray(np.repeat(Z[:, :1], 8, 1))) > 0.99


def test_only_the_hole_counts_in_the_distance_of_samples():
    a, hole = np.zeros((2, 8, 8, 3), np.float32), np.zeros((2, 8, 8, 1), np.float32)
    hole[:, :4] = 1
    b = a + 0.5 * hole
    outside = a + (1 - hole)
    assert abs(monitors.pair_distance([a, b], hole) - 0.5) < 1e-6
    assert monitors.pair_distance([a, outside], hole) == 0
    # Three samples, of which two are alike: two pairs of three are apart.
    assert abs(monitors.pair_distance([a, b, b], hole) - 1 / 3) < 1e-6


def test_a_pull_is_the_norm_of_the_gradient_of_one_example():
    image = jnp.zeros((3, 4, 4, 1))
    pull = monitors.pull(lambda y: 2.0 * y.mean(axis=(1, 2, 3)).mean(), image)
    assert abs(pull - 2.0 / 4) < 1e-6  # 2/16 at each of 16 pixels
    assert monitors.active(jnp.array([0.0, 0.01, 0.5, 2.0])) == 2
