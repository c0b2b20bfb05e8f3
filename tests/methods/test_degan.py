"""DE-GAN: which loss moves which net, faces without landmarks; its authors' networks."""

import warnings
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import degan
from fi_jax import features
from fi_jax.methods import make_method
from fi_jax.optim import make_optimizers
from fi_jax.state import bind, init_state
from tests import authors
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


def test_two_completions_of_a_photo_are_held_apart_in_the_ablation_alone():
    config = degan.get_config('tiny,ablate=kept_apart')
    method = make_method(config)
    found = moves.moved(config, method, method.stages['degan'][1], batch_of(config, 2))
    assert moves.nets(found)['near'] == ENCODERS | {'unet'}
    nets = init_state(method, make_optimizers(config, method.nets), config.res, 0).nets
    assert 'deviation' not in nets['encoder_face'].params  # it is 1, and cannot go to 0


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


# ------------------------------------------------------------------- the authors' networks


KINDS = {
    'Conv2D': 'Conv',
    'Conv2DTranspose': 'TransposedConv',
    'BatchNormalization': 'BatchNorm',
    'Dense': 'Dense',
}
WEIGHTS = {
    'kernel': 'params/{}/kernel',
    'bias': 'params/{}/bias',
    'gamma': 'params/{}/scale',
    'beta': 'params/{}/bias',
    'moving_mean': 'batch_stats/{}/mean',
    'moving_variance': 'batch_stats/{}/var',
}


@pytest.fixture
def keras(monkeypatch, tmp_path):
    """Keras on TensorFlow, with what the authors' version of 2018 had and today's has not."""
    monkeypatch.setenv('KERAS_BACKEND', 'tensorflow')
    monkeypatch.setenv('KERAS_HOME', str(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        keras = pytest.importorskip('keras')
    layers, reshape = keras.layers, keras.layers.Reshape
    monkeypatch.setattr(layers, 'Deconv2D', layers.Conv2DTranspose, raising=False)
    monkeypatch.setattr(keras.backend, 'shape', keras.ops.shape, raising=False)
    monkeypatch.setattr(keras.backend, 'random_normal', keras.random.normal, raising=False)
    # A code of any length is laid out on their map, as the longest is.
    monkeypatch.setattr(layers, 'Reshape', lambda target_shape: reshape((*target_shape[:2], -1)))
    return keras


def converted(theirs, variables):
    """Our variables with the weights of a network of theirs: a kind's layers in the same order."""
    counts, arrays = Counter(), {}
    for layer in theirs.layers:
        kind = KINDS.get(type(layer).__name__)
        if kind is None:
            assert not layer.weights, layer.name
            continue
        kind = 'DownConv' if kind == 'Conv' and layer.strides == (2, 2) else kind
        if kind == 'TransposedConv' and layer.kernel_size == (3, 3):
            kind = 'up'
        name = f'up{counts[kind]}' if kind == 'up' else f'{kind}_{counts[kind]}'
        counts[kind] += 1
        if 'deviation' in variables['params']:
            name = {'Dense_0': 'mean', 'Dense_1': 'deviation'}.get(name, name)
        for weight in layer.weights:
            arrays[WEIGHTS[weight.name].format(name)] = weight.numpy()
    return authors.filled(variables, arrays)


@pytest.mark.parity
def test_the_authors_networks_with_the_same_weights_give_the_same(keras, monkeypatch):
    _, vae, completer, critics = authors.modules(
        'FI_JAX_DEGAN',
        'model.vae_model',
        'model.Unet_model',
        'model.discriminator_model',
        framework='keras',
    )
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    theirs = {
        'encoder_face': vae.encoder_F(),
        'encoder_landmarks': vae.encoder_L(),
        'decoder_landmark': vae.decoder_L(),
        'decoder_mask': vae.decoder_M(),
        'critic_patch': critics.discriminator_patch(),
        'critic_global': critics.discriminator_global(),
        'critic_face': critics.Code_f_discriminator(),
        'critic_landmarks': critics.Code_l_discriminator(),
        'critic_both': critics.Code_M_discriminator(),
    }

    def longer(shape):
        return keras.Input((512,) if shape == (256,) else shape)

    # Theirs are built for a code of half the length that training feeds; ours is the latter.
    for module, build, name in (
        (vae, 'decoder_F', 'decoder_part'),
        (completer, 'unet', 'unet'),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, 'Input', longer)
            theirs[name] = getattr(module, build)()
    # Their second encoder's first layer leaks 0.1; ours 0.2, as all others.
    first = next(x for x in theirs['encoder_landmarks'].layers if hasattr(x, 'negative_slope'))
    assert abs(first.negative_slope - 0.1) < 1e-6
    first.negative_slope = 0.2
    for name, net in theirs.items():
        if name.startswith(('decoder', 'critic')):  # ours answer with logits
            net.layers[-1].activation = keras.activations.linear
        for weight in net.weights:  # what begins at 0 or 1 shall count
            if len(weight.shape) == 1:
                low = 0.5 if weight.name in ('gamma', 'moving_variance') else -0.5
                weight.assign(rng.uniform(low, low + 1, weight.shape))

    method = make_method(degan.get_config('size=paper,res=256'))
    shapes = method.inputs({'image': np.zeros((2, 256, 256, 3), np.float32)})
    assert set(theirs) == set(method.nets)
    for name, net in method.nets.items():
        arguments = [rng.normal(size=x.shape).astype(np.float32) for x in shapes[name]]
        variables = jax.eval_shape(net.init, jax.random.key(0), *arguments)
        ours = converted(theirs[name], variables)
        fed = arguments if len(arguments) > 1 else arguments[0]
        found, wanted = jax.jit(net.apply)(ours, *arguments), theirs[name](fed)
        if name.startswith('encoder'):  # theirs draws its own noise, and tells it
            (mean, deviation), (wanted, noise) = found, wanted
            found = mean + deviation * noise.numpy()
        authors.compare(found, wanted.numpy())
        if name.startswith('decoder'):  # so far by the running means; training by the batch's

            @jax.jit
            def train(variables, code, net=net):
                return net.apply(variables, code, train=True, mutable=['batch_stats'])

            found, moved = train(ours, *arguments)
            authors.compare(found, theirs[name](fed, training=True).numpy())
            after = converted(theirs[name], variables)['batch_stats']
            jax.tree.map(authors.compare, moved['batch_stats'], after)
