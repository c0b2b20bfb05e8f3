"""The network of a flow, and its weights at another resolution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fi_jax.nets.flow import FlowUNet, at_finer_patches


def net(patch):
    return FlowUNet(patch, (8, 16), attention=(4,), embedding=16)


def weights(patch, style, res, seed=0):
    """Of no layer at zero, so that each counts."""
    args = jnp.zeros((1, res, res, 5)), jnp.zeros(1), jnp.zeros((1, style))
    params = jax.jit(net(patch).init)(jax.random.key(seed), *args)['params']
    leaves, treedef = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
    noisy = [x + 0.1 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(treedef, noisy)


def mean_of_four(x):
    return x.reshape(len(x), 16, 2, 16, 2, -1).mean(axis=(2, 4))


@pytest.mark.parametrize('style', [3, 1])
def test_finer_patches_draw_what_the_coarser_drew_of_the_mean(style):
    coarse = weights(2, 3, 16)
    fine = at_finer_patches(coarse, weights(4, style, 32, seed=5))
    x = jax.random.normal(jax.random.key(9), (2, 32, 32, 5))
    t = jnp.array([0.2, 0.7])
    small = jax.jit(net(2).apply)({'params': coarse}, mean_of_four(x), t, jnp.zeros((2, 3)))
    large = jax.jit(net(4).apply)({'params': fine}, x, t, jnp.zeros((2, style)))
    assert float(jnp.abs(small).max()) > 0.1
    np.testing.assert_allclose(mean_of_four(large), small, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(large[:, ::2, ::2], large[:, 1::2, 1::2])


def test_patches_that_are_no_multiple_stay_as_they_are():
    coarse = weights(4, 3, 32)
    assert at_finer_patches(coarse, weights(2, 3, 16)) is coarse
