"""StarGAN on holes: what moves which net, which labels are drawn, and that they are needed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import stargan
from fi_jax import features
from fi_jax.methods import make_method
from fi_jax.nets.stargan import Labels
from fi_jax.optim import make_optimizers
from fi_jax.state import bind, init_state
from tests.methods import moves
from tests.methods.test_systems import batch_of


@pytest.fixture(scope='module')
def made():
    config = stargan.get_config('tiny')
    method = make_method(config)
    optimizers = make_optimizers(config, method.nets)
    return config, method, jax.jit(lambda: init_state(method, optimizers, config.res, 0))()


def test_each_term_moves_the_net_it_is_meant_for(made):
    config, method, _ = made
    critic, generator = (
        moves.nets(moves.moved(config, method, phase, batch_of(config, 2)))
        for phase in method.stages['stargan']
    )
    assert set(critic) == {'critic', 'gradient_penalty', 'labels/real'}
    assert all(nets == {'critic'} for nets in critic.values())
    assert set(generator) == {'adversarial', 'labels/fake', 'l1'}
    assert all(nets == {'generator'} for nets in generator.values())


def test_the_critic_plays_several_steps_for_one_of_the_generator():
    critic, generator = make_method(stargan.get_config()).stages['stargan']
    assert (critic.every, generator.every) == (1, 5)


def test_drawn_labels_are_those_of_known_faces_newest_first():
    module = Labels(2, size=4)
    variables = module.init(jax.random.key(0), jnp.zeros(1))

    def see(variables, labels, known):
        labels, known = jnp.asarray(labels, jnp.float32), jnp.asarray(known, jnp.float32)
        _, stats = module.apply(
            variables, jnp.zeros(len(labels)), labels, known, mutable=['batch_stats']
        )
        return stats

    def drawn(variables, *shares):
        return np.asarray(module.apply(variables, jnp.asarray(shares))).tolist()

    variables = see(variables, [[1, 0], [1, 1]], [[1, 1], [1, 1]])
    assert drawn(variables, 0.0, 0.49, 0.5, 0.99) == [[1, 1], [1, 1], [1, 0], [1, 0]]
    variables = see(variables, [[0, 1], [1, 1]], [[1, 1], [0, 0]])  # the last is not known
    assert drawn(variables, 0.3) == [[0, 1]]
    variables = see(variables, [[0, 0]] * 2, [[0, 0]] * 2)  # none is: the oldest stay, as newest
    assert drawn(variables, 0.0, 0.3) == [[1, 1], [1, 0]]


def test_a_sample_is_a_draw_of_labels(made):
    config, method, state = made
    batch = features.prepare(batch_of(config, 2))

    @jax.jit
    def draw(seen, keys):
        stats = {'batch_stats': {'seen': seen, 'count': jnp.int32(len(seen))}}
        nets = {**state.nets, 'labels': state.nets['labels'].replace(stats=stats)}
        return method.sample(bind(method, nets), batch, keys)['image']

    ones = jnp.ones((1024, 4))
    a, b = jax.random.split(jax.random.key(0), (2, 2))
    np.testing.assert_array_equal(draw(ones, a), draw(ones, b))  # all faces alike
    assert np.abs(draw(ones, a) - draw(0 * ones, a)).max() > 1e-3


def test_without_labels_it_is_refused():
    config = stargan.get_config('tiny')
    config.data.labels = ''
    with pytest.raises(ValueError, match=r"config\.data\.labels='': name the attributes"):
        make_method(config)
