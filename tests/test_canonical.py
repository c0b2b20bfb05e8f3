"""Convolutions as a CPU is quick at them: the same values, in branches, loops and penalties too."""

import functools
import re

import jax
import jax.numpy as jnp
import pytest

from fi_jax.canonical import canonical_convolutions

QUICK = 'b01f_01io->b01f'
FORMS = {
    'plain': {},
    'strided': {'window_strides': (2, 2)},
    'dilated': {'rhs_dilation': (2, 2)},
    'transposed': {'lhs_dilation': (2, 2), 'padding': ((1, 2), (1, 2))},
    'grouped': {'feature_group_count': 4},
}


def convolve(x, kernel, window_strides=(1, 1), padding='SAME', **how):
    return jax.lax.conv_general_dilated(
        x, kernel, window_strides, padding, dimension_numbers=('NHWC', 'HWIO', 'NHWC'), **how
    )


def inputs(form):
    x = jax.random.normal(jax.random.key(0), (2, 12, 12, 8))
    grouped = FORMS[form].get('feature_group_count', 1)
    return x, jax.random.normal(jax.random.key(1), (3, 3, 8 // grouped, 8))


def orders(function, *args):
    """How the compiled program's convolutions name their axes."""
    return set(
        re.findall(r'dim_labels=(\S+?),', jax.jit(function).lower(*args).compile().as_text())
    )


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('remat', [False, True])
def test_gradients_and_their_gradients_are_the_same(form, remat):
    call = functools.partial(convolve, **FORMS[form])
    call = jax.checkpoint(call) if remat else call

    def loss(x, kernel):
        return (jax.nn.silu(call(x, kernel)) ** 2).sum()

    def penalty(x, kernel):
        return (jax.grad(loss)(x, kernel) ** 2).sum()

    args = inputs(form)
    for function in (jax.value_and_grad(loss, (0, 1)), jax.grad(penalty, 1)):
        found = jax.jit(canonical_convolutions(function))(*args)
        for one, other in zip(
            jax.tree.leaves(found), jax.tree.leaves(jax.jit(function)(*args)), strict=True
        ):
            gap = jnp.abs(one - other).max() / jnp.abs(other).max()
            assert gap <= (1e-6 if form in ('strided', 'transposed') else 0)


@pytest.mark.parametrize('remat', [False, True])
def test_inside_a_branch_or_a_loop_each_is_in_the_quick_order(remat):
    args = inputs('plain')
    shift = jnp.arange(8.0).reshape(1, 1, 1, 8)  # a constant of the inner program
    call = jax.jit(lambda x, kernel: convolve(x, kernel) + shift)
    call = jax.checkpoint(call) if remat else call

    def gradient(x, kernel):
        return jax.grad(lambda x, kernel: (call(x, kernel) ** 2).sum(), (0, 1))(x, kernel)

    def in_a_branch(function):
        return lambda x, kernel: jax.lax.cond(
            x.sum() > 0, lambda: function(x, kernel), lambda: (x, kernel)
        )

    def in_a_loop(function):
        return lambda x, kernel: jax.lax.fori_loop(
            0, jnp.int32(x.sum()), lambda _, both: function(*both), (x, kernel)
        )

    for inside in (in_a_branch, in_a_loop):
        assert orders(inside(canonical_convolutions(gradient)), *args) == {QUICK}
        # What it is for. Where this fails, XLA has mended it, and the module can go.
        assert orders(inside(gradient), *args) > {QUICK}


def test_no_window_of_a_penalty_runs_backwards():
    def penalty(x, kernel):
        def loss(x):
            return (convolve(x, kernel, (2, 2)) ** 2).sum()

        return (jax.grad(loss)(x) ** 2).sum()

    def text(function):
        return jax.jit(function).lower(*inputs('strided')).compile().as_text()

    gradient = jax.grad(penalty, 1)
    assert 'rhs_reversal' not in text(canonical_convolutions(gradient))
    assert 'rhs_reversal' in text(gradient)  # where this fails, XLA has mended it


def test_trees_and_numbers_pass_through():
    def function(tree, key, scale):
        return {'noise': jax.random.normal(key, (3,)) * scale, 'sum': tree['a'] + tree['b']}

    args = ({'a': 1.0, 'b': jnp.arange(3)}, jax.random.key(3), 2)
    found, asked = canonical_convolutions(function)(*args), function(*args)
    assert jax.tree.structure(found) == jax.tree.structure(asked)
    assert all(jnp.array_equal(found[name], asked[name]) for name in asked)
