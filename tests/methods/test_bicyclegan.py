"""BicycleGAN: what moves which net, and that a code is used."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import bicyclegan
from fi_jax import features, steps
from fi_jax.methods import make_method, pairs
from fi_jax.optim import make_optimizers
from fi_jax.state import bind, example_batch, init_state

RES = 32


@pytest.fixture(scope='module')
def made():
    config = bicyclegan.get_config('tiny')
    method = make_method(config)
    optimizers = make_optimizers(config, method.nets)
    state = jax.jit(lambda: init_state(method, optimizers, RES, 0))()
    rng = np.random.default_rng(0)
    batch = example_batch(RES, 4)
    batch['image'] = rng.integers(256, size=batch['image'].shape, dtype=np.uint8)
    batch['hole'][:, 8:24, 8:24] = 1
    return config, method, optimizers, state, batch


def test_each_term_moves_the_nets_it_is_meant_for(made):
    _, method, _, state, batch = made
    (phase,) = method.stages['bicycle']
    names = ('z', 'kl', 'adversarial/critic_lr', 'critic/critic_lr')

    @jax.jit
    def gradients(params):
        def terms(params):
            nets = bind(method, state.nets, params)
            key = jax.random.key(0)
            _, terms = phase.loss(nets, features.prepare(batch), key, jnp.int32(0))
            return jnp.stack([terms[name] for name in names])

        return jax.jacrev(terms)(params)

    found = gradients({name: net.params for name, net in state.nets.items()})
    moved = {
        name: {net for net, g in found.items() if any(np.any(x[i]) for x in jax.tree.leaves(g))}
        for i, name in enumerate(names)
    }
    assert moved['z'] == {'unet'}  # read back by a frozen encoder
    assert moved['kl'] == {'encoder'}
    assert moved['adversarial/critic_lr'] == {'unet'}
    assert moved['critic/critic_lr'] == {'critic_lr'}


def test_a_step_trains_all_nets_and_samples_differ(made):
    config, method, optimizers, state, batch = made
    step = jax.jit(steps.make_train_step(method, 'bicycle', optimizers, config))
    after, metrics = step(state, batch)
    assert float(metrics['skipped/all']) == 0
    for name, net in after.nets.items():
        apart = jax.tree.map(lambda a, b: np.abs(a - b).max(), net.params, state.nets[name].params)
        assert max(jax.tree.leaves(apart)) > 0, name
    drawn = steps.Sampler(method, 0, 3)(after.nets, batch)
    assert np.ptp(np.asarray(drawn['composite'], int), axis=1).max() > 0
    assert drawn['finite'].all()


def test_pairs_come_apart_and_together():
    x = jnp.arange(6)
    np.testing.assert_array_equal(pairs.interleaved(*pairs.split(x)), x)
    np.testing.assert_array_equal(pairs.doubled(x), [0, 0, 2, 2, 4, 4])
    np.testing.assert_array_equal(pairs.partner(x), [1, 0, 3, 2, 5, 4])
