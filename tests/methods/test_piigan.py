"""PiiGAN: which loss moves which net, where z lives, the authors' sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import piigan
from fi_jax import features, losses, steps
from fi_jax.methods import make_method
from fi_jax.optim import make_optimizers
from fi_jax.state import bind, example_batch, init_state
from tests.methods.parameters import count

RES = 32
AUTHORS = {'inpainter': 3.604e6, 'extractor': 36.2e6, 'critic_local': 4.3e6, 'critic_global': 2.7e6}


@pytest.fixture(scope='module')
def made():
    config = piigan.get_config('tiny')
    method = make_method(config)
    optimizers = make_optimizers(config, method.nets)
    state = jax.jit(lambda: init_state(method, optimizers, RES, 0))()
    rng = np.random.default_rng(0)
    batch = example_batch(RES, 4)
    batch['image'] = rng.integers(256, size=batch['image'].shape, dtype=np.uint8)
    batch['hole'][:, 10:22, 4:16] = 1
    return config, method, optimizers, state, batch


def test_the_nets_have_the_authors_sizes_at_their_128_pixels():
    found = count(make_method(piigan.get_config('size=paper,res=128')), 128)
    assert found == {name: pytest.approx(count, rel=0.01) for name, count in AUTHORS.items()}


def test_each_term_moves_the_nets_it_is_meant_for(made):
    _, method, _, state, batch = made
    critics, generator = method.stages['piigan']
    prepared, key = features.prepare(batch), jax.random.key(0)

    def moved(phase, names):
        @jax.jit
        def gradients(params):
            def terms(params):
                nets = bind(method, state.nets, params)
                _, terms = phase.loss(nets, prepared, key, jnp.int32(0))
                return jnp.stack([terms[name] for name in names])

            return jax.jacrev(terms)(params)

        found = gradients({name: net.params for name, net in state.nets.items()})
        return {
            name: {net for net, g in found.items() if any(np.any(x[i]) for x in jax.tree.leaves(g))}
            for i, name in enumerate(names)
        }

    found = moved(generator, ('z', 'kl', 'hole', 'visible_drawn', 'adversarial/critic_local'))
    assert found['z'] == {'inpainter'}  # read back by a frozen extractor
    assert found['kl'] == {'extractor'}
    assert found['hole'] == {'inpainter', 'extractor'}
    assert found['visible_drawn'] == found['adversarial/critic_local'] == {'inpainter'}
    found = moved(critics, ('critic/critic_local', 'penalty/critic_global'))
    assert found == {
        'critic/critic_local': {'critic_local'},
        'penalty/critic_global': {'critic_global'},
    }


def test_a_step_trains_all_nets_and_samples_differ_in_the_hole_alone(made):
    config, method, optimizers, state, batch = made
    step = jax.jit(steps.make_train_step(method, 'piigan', optimizers, config))
    after, metrics = step(state, batch)
    assert float(metrics['skipped/critics']) == float(metrics['skipped/generator']) == 0
    for name, net in after.nets.items():
        apart = jax.tree.map(lambda a, b: np.abs(a - b).max(), net.params, state.nets[name].params)
        assert max(jax.tree.leaves(apart)) > 0, name
    drawn = steps.Sampler(method, 0, 3)(after.nets, batch)
    spread = np.ptp(np.asarray(drawn['composite'], int), axis=1).max(axis=-1)
    assert spread[batch['hole'][..., 0] == 1].max() > 0
    assert spread[batch['hole'][..., 0] == 0].max() == 0
    assert drawn['finite'].all()


def test_the_frozen_extractor_is_moved_by_nothing():
    method = make_method(piigan.get_config('tiny,ablate=frozen_extractor'))
    assert {net for phase in method.stages['piigan'] for net in phase.nets} == {
        'inpainter', 'critic_local', 'critic_global'
    }  # fmt: skip
    plain = make_method(piigan.get_config('tiny'))
    assert 'extractor' in {net for phase in plain.stages['piigan'] for net in phase.nets}


def test_a_window_is_pasted_where_it_was_cut():
    x = jax.random.normal(jax.random.key(0), (3, 12, 12, 2))
    centre = jnp.array([[5.0, 6.0], [0.0, 11.0], [9.0, 2.0]])
    cut = features.crop_at(x, centre, 6)
    pasted = features.paste_at(cut, centre, (12, 12))
    np.testing.assert_array_equal(features.crop_at(pasted, centre, 6), cut)
    np.testing.assert_array_equal(pasted[pasted != 0], x[pasted != 0])
    assert (np.count_nonzero(pasted, axis=(1, 2, 3)) == 6 * 6 * 2).all()


def test_the_penalty_sees_the_gradient_of_the_hole_alone():
    hole = np.zeros((1, 4, 4, 1), np.float32)
    hole[0, 1, 2] = 1
    slope = jnp.arange(16.0).reshape(1, 4, 4, 1)
    image = jnp.zeros((1, 4, 4, 1))
    found = losses.gradient_penalty(
        lambda x: (x * slope).sum((1, 2, 3)), image, image, jnp.zeros(1), jnp.asarray(hole)
    )
    np.testing.assert_allclose(found, (6 - 1) ** 2, rtol=1e-5)  # pixel (1, 2) has slope 6
