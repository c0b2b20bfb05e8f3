"""DE-GAN: which loss moves which net, faces without landmarks, the authors' sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import degan
from fi_jax import features, steps
from fi_jax.methods import make_method
from fi_jax.optim import make_optimizers
from fi_jax.state import bind, example_batch, init_state
from tests.methods.parameters import count

RES = 32
AUTHORS = {
    'encoder_face': 19.57e6,
    'encoder_landmarks': 19.57e6,
    'unet': 7.85e6,
    'decoder_landmark': 0.175e6,
    'decoder_mask': 0.177e6,
    'decoder_part': 0.177e6,
    'critic_patch': 0.69e6,
    'critic_global': 2.8e6,
    'critic_face': 49_537,
    'critic_landmarks': 49_537,
    'critic_both': 82_305,
}
ENCODERS = {'encoder_face', 'encoder_landmarks'}


@pytest.fixture(scope='module')
def made():
    config = degan.get_config('tiny')
    method = make_method(config)
    optimizers = make_optimizers(config, method.nets)
    state = jax.jit(lambda: init_state(method, optimizers, RES, 0))()
    rng = np.random.default_rng(0)
    batch = example_batch(RES, 4)
    batch['image'] = rng.integers(256, size=batch['image'].shape, dtype=np.uint8)
    batch['face_mask'][:, 4:28, 4:28] = 1
    batch['landmark_map'] = rng.integers(2, size=batch['landmark_map'].shape, dtype=np.uint8)
    batch['hole'][:, 8:24, 8:24] = 1
    batch['has_landmarks'][:2] = 1
    return config, method, optimizers, state, batch


def test_the_nets_have_the_authors_sizes_at_their_256_pixels():
    found = count(make_method(degan.get_config('size=paper,res=256')), 256)
    assert found == {name: pytest.approx(size, rel=0.01) for name, size in AUTHORS.items()}


def test_each_term_moves_the_nets_it_is_meant_for(made):
    _, method, _, state, batch = made
    critics, generator = method.stages['degan']
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

    found = moved(
        generator,
        ('image', 'part', 'landmark', 'adversarial/critic_face', 'adversarial/critic_patch'),
    )
    assert found['image'] == found['adversarial/critic_patch'] == ENCODERS | {'unet'}
    assert found['part'] == ENCODERS | {'decoder_part'}
    assert found['landmark'] == {'encoder_landmarks', 'decoder_landmark'}
    assert found['adversarial/critic_face'] == {'encoder_face'}
    # The critics' own phase moves them alone, whatever their losses could reach.
    assert set(critics.nets) == {name for name in state.nets if name.startswith('critic')}
    assert not set(critics.nets) & set(generator.nets)


def test_a_step_trains_all_nets_and_samples_differ(made):
    config, method, optimizers, state, batch = made
    step = jax.jit(steps.make_train_step(method, 'degan', optimizers, config))
    after, metrics = step(state, batch)
    assert float(metrics['skipped/critics']) == float(metrics['skipped/generator']) == 0
    for name, net in after.nets.items():
        apart = jax.tree.map(lambda a, b: np.abs(a - b).max(), net.params, state.nets[name].params)
        assert max(jax.tree.leaves(apart)) > 0, name
    moved = after.nets['decoder_mask'].stats, state.nets['decoder_mask'].stats
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a != b).any()), *moved)))
    drawn = steps.Sampler(method, 0, 3)(after.nets, batch)
    assert np.ptp(np.asarray(drawn['composite'], int), axis=1).max() > 0
    assert drawn['finite'].all()
    assert drawn['landmark_map'].shape == (4, 1, RES, RES, 1)


def test_faces_without_landmarks_teach_the_image_alone(made):
    _, method, _, state, batch = made
    _, generator = method.stages['degan']
    names = ('part', 'mask', 'landmark', 'image')

    @jax.jit
    def terms(batch):
        nets = bind(method, state.nets)
        _, found = generator.loss(nets, features.prepare(batch), jax.random.key(0), jnp.int32(0))
        return jnp.stack([found[name] for name in names])

    plain = terms(batch)
    changed = {**batch, 'landmark_map': batch['landmark_map'].copy()}
    changed['landmark_map'][2:] ^= 1  # of those whose landmarks are not known
    np.testing.assert_array_equal(terms(changed), plain)
    changed['landmark_map'][:2] ^= 1
    assert terms(changed)[2] != plain[2]
    none = terms({**batch, 'has_landmarks': np.zeros(4, np.float32)})
    np.testing.assert_array_equal(none[:3], 0)
    assert none[3] == plain[3]
