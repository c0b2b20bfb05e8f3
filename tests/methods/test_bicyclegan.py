"""BicycleGAN: what moves which net, that a code is used; its authors' networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import bicyclegan
from fi_jax import features, steps
from fi_jax.methods import make_method, pairs
from fi_jax.nets.bicyclegan import Encoder, PatchCritic, UNet
from fi_jax.optim import make_optimizers
from fi_jax.state import bind, example_batch, init_state
from tests import authors

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


@pytest.mark.parametrize('sees', ['hole', 'photo'])
def test_the_code_is_read_off_what_the_hole_hides_or_off_all(made, sees):
    batch = made[-1]
    config = bicyclegan.get_config('tiny,size=paper')
    config.bicyclegan.encoder_sees = sees
    method = make_method(config)
    (phase,) = method.stages['bicycle']
    optimizers = make_optimizers(config, method.nets)
    nets = jax.jit(lambda: init_state(method, optimizers, RES, 0))().nets

    @jax.jit
    def terms(batch):
        bound, key = bind(method, nets), jax.random.key(0)
        total, terms = phase.loss(bound, features.prepare(batch), key, jnp.int32(0))
        return total, terms['kl'], terms['l1']

    other = np.where(batch['hole'] > 0, batch['image'], 255 - batch['image'])
    one, two = terms(batch), terms({**batch, 'image': other})
    assert np.isfinite(one).all() and one[2] != two[2]
    assert (one[1] == two[1]) == (sees == 'hole')


def test_an_unknown_view_of_the_encoder_is_named():
    config = bicyclegan.get_config('tiny')
    config.bicyclegan.encoder_sees = 'face'
    with pytest.raises(ValueError, match="encoder_sees='face': choose hole or photo"):
        make_method(config)


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


@pytest.mark.parametrize('transposed', [False, True])
def test_weights_begin_as_the_authors_do(transposed):
    """Xavier's normal with a gain of .02: an untrained completion is grey."""
    x, z = jnp.ones((2, 32, 32, 7)), jnp.ones((2, 8))
    nets = {UNet((32, 64, 64), transposed): (x, z), Encoder((32, 64), 8): (x,)}
    nets[PatchCritic((32, 64), more=64)] = (x[..., :3],)
    for net, args in nets.items():
        params = net.init(jax.random.key(0), *args)['params']
        found = jax.tree_util.tree_leaves_with_path(params)
        kernels = {jax.tree_util.keystr(path): k for path, k in found if k.ndim > 1}
        for name, kernel in kernels.items():
            if 'logvar' in name or kernel.size < 500:
                continue
            places = kernel.size / kernel.shape[-1] / kernel.shape[-2]
            fans = places * (kernel.shape[-1] + kernel.shape[-2])
            assert kernel.std() == pytest.approx(0.02 * np.sqrt(2 / fans), rel=0.15), name
    net = UNet((32, 64, 64), transposed)
    image = net.apply(net.init(jax.random.key(0), x, z), x, z)
    assert np.abs(image).max() < 0.1


def test_pairs_come_apart_and_together():
    x = jnp.arange(6)
    np.testing.assert_array_equal(pairs.interleaved(*pairs.split(x)), x)
    np.testing.assert_array_equal(pairs.doubled(x), [0, 0, 2, 2, 4, 4])
    np.testing.assert_array_equal(pairs.partner(x), [1, 0, 3, 2, 5, 4])


def ours_of(name, widths):
    """The path of ours for a weight of theirs."""
    *words, last = name.split('.')
    if words[0] == 'model':  # their U-Net, a level inside the other
        level = words.count('submodule')
        way = {'down': f'DownConv_{level}', 'up': f'TransposedConv_{len(widths) - 1 - level}'}
        layer = way[words[-2]]
    elif words[0].startswith('model_'):  # critics: 0, 2, 5 have a stride, 8 and 11 have none
        view, place = int(words[0][-1]), {'0': 0, '2': 1, '5': 2, '8': 3, '11': 4}[words[1]]
        layer = f'DownConv_{3 * view + place}' if place < 3 else f'Conv_{2 * view + place - 3}'
    elif words[0].startswith('fc'):
        layer = 'GaussianHead_0/' + {'fc': 'mean', 'fcVar': 'logvar'}[words[0]]
    elif words == ['conv', '0']:
        layer = 'DownConv_0'
    else:  # a block of the encoder
        place = 2 if words[2] == 'shortcut' else {'2': 0, '5': 1}[words[3]]
        layer = f'Conv_{3 * int(words[1]) - 3 + place}'
    return f'params/{layer}/{"kernel" if last == "weight" else last}'


@pytest.mark.parity
def test_the_authors_networks_with_the_same_weights_give_the_same():
    torch, networks = authors.modules('FI_JAX_BICYCLEGAN', 'models.networks')
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    norm, leaky = networks.get_norm_layer('instance'), networks.get_non_linearity('lrelu')
    relu, widths = networks.get_non_linearity('relu'), (8, 16, 32, 64, 64, 64, 64)
    theirs = {
        'unet': networks.G_Unet_add_all(4, 3, 5, 7, 8, norm, relu),
        'encoder': networks.E_ResNet(3, 5, 8, 4, norm, leaky, vaeLike=True),
        'critic': networks.D_NLayersMulti(3, 8, 3, norm, 2),
    }
    ours = {
        'unet': UNet(widths, transposed=True),
        'encoder': Encoder((8, 16, 24, 32), 5),
        'critic': PatchCritic((8, 16, 32), 64, half=True),
    }
    image = rng.uniform(-1, 1, (2, 128, 128, 4)).astype(np.float32)
    z = rng.normal(size=(2, 5)).astype(np.float32)
    inputs = {'unet': (image, z), 'encoder': (image[..., :3],), 'critic': (image[..., :3],)}
    for name, arguments in inputs.items():
        variables = jax.eval_shape(ours[name].init, jax.random.key(0), *arguments)
        weights = {
            ours_of(weight, widths): authors.kernel(value)
            for weight, value in theirs[name].named_parameters()
        }
        found = jax.jit(ours[name].apply)(authors.filled(variables, weights), *arguments)
        with torch.no_grad():
            wanted = theirs[name](
                *(authors.channels_first(torch, x) if x.ndim == 4 else torch.from_numpy(x)
                  for x in arguments)
            )  # fmt: skip
        if name == 'unet':
            found, wanted = [found], [wanted]
        for a, b in zip(found, wanted, strict=True):
            authors.compare(a, b)
