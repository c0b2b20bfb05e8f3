"""PiiGAN: which loss moves which net, where z lives, what the penalty sees."""

import jax
import jax.numpy as jnp
import numpy as np

from configs import piigan
from fi_jax import features, losses
from fi_jax.methods import make_method
from fi_jax.optim import make_optimizers
from fi_jax.state import bind, init_state
from tests.methods import moves
from tests.methods.test_systems import batch_of


def test_each_term_moves_the_nets_it_is_meant_for():
    config = piigan.get_config('tiny')
    method, batch = make_method(config), batch_of(config, 2)
    critics, generator = method.stages['piigan']
    found = moves.nets(moves.moved(config, method, critics, batch))
    assert found['critic/critic_local'] == found['penalty/critic_local'] == {'critic_local'}
    assert found['critic/critic_global'] == found['penalty/critic_global'] == {'critic_global'}
    found = moves.nets(moves.moved(config, method, generator, batch))
    assert all('inpainter' in nets for term, nets in found.items() if term != 'kl')
    assert not {net for nets in found.values() for net in nets} & set(critics.nets)


def test_the_extractor_learns_from_its_own_z_alone():
    config = piigan.get_config('tiny')
    method, batch = make_method(config), batch_of(config, 2)
    *_, generator = method.stages['piigan']
    optimizers = make_optimizers(config, method.nets)
    rng = np.random.default_rng(1)
    # Both paths are rows of one batch: numbers tell them apart, where a trace of shapes cannot.
    state = jax.tree.map(
        lambda x: jnp.asarray(rng.normal(size=x.shape) / 8, x.dtype),
        jax.eval_shape(lambda: init_state(method, optimizers, config.res, 0)).nets,
    )

    @jax.jit
    def along(params):
        def terms(params):
            nets = bind(method, state, {'extractor': params})
            return generator.loss(nets, features.prepare(batch), jax.random.key(0), jnp.int32(0))[1]

        return jax.jvp(terms, (params,), (params,))[1]

    slopes = along(state['extractor'].params)
    moved = {term for term, slope in slopes.items() if slope != 0}
    assert moved == {'hole', 'hole_coarse', 'visible', 'kl'}


def test_a_drawn_z_reaches_the_hole_of_the_window_alone():
    config = piigan.get_config('tiny')
    method, batch = make_method(config), features.prepare(batch_of(config, 1))

    def nets(seen):
        def inpainter(masked, hole, z):
            seen.append(z * hole)
            return masked, masked

        return {'inpainter': inpainter}

    seen = []
    method.sample(nets(seen), batch, jax.random.split(jax.random.key(0), 1))
    assert ((seen[0] != 0) == (batch['hole'] > 0)).all()  # a hole as large as its window


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
