"""DE-GAN: which loss moves which net, and faces without landmarks."""

import jax
import jax.numpy as jnp
import numpy as np

from configs import degan
from fi_jax import features
from fi_jax.methods import make_method
from fi_jax.optim import make_optimizers
from fi_jax.state import bind, init_state
from tests.methods import moves
from tests.methods.test_systems import batch_of

ENCODERS = {'encoder_face', 'encoder_landmarks'}


def test_each_term_moves_the_nets_it_is_meant_for():
    config = degan.get_config('tiny')
    method = make_method(config)
    critics, generator = method.stages['degan']
    found = moves.nets(moves.moved(config, method, generator, batch_of(config, 2)))
    assert found['image'] == found['adversarial/critic_patch'] == ENCODERS | {'unet'}
    assert found['part'] == ENCODERS | {'decoder_part'}
    assert found['landmark'] == {'encoder_landmarks', 'decoder_landmark'}
    assert found['adversarial/critic_face'] == {'encoder_face'}
    # The critics' own phase moves them alone, whatever their losses could reach.
    assert set(critics.nets) == {name for name in method.nets if name.startswith('critic')}
    assert not set(critics.nets) & set(generator.nets)


def test_faces_without_landmarks_teach_the_image_alone():
    config = degan.get_config('tiny')
    method, batch = make_method(config), batch_of(config)
    optimizers = make_optimizers(config, method.nets)
    _, generator = method.stages['degan']
    names = ('part', 'mask', 'landmark', 'image')
    batch['face_mask'][:, 4:28, 4:28] = 1
    batch['has_landmarks'][:2] = 1

    @jax.jit
    def terms(batch):
        nets = bind(method, init_state(method, optimizers, config.res, 0).nets)
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
