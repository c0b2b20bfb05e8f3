"""PD-GAN: what moves what, how far the first guess leads, what it cannot see; its authors' nets."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import pdgan
from fi_jax.methods import make_method, perceptual
from fi_jax.metrics import trunks
from fi_jax.nets.pdgan import Critic, Generator, Prior, SPDNorm, hard_map
from tests import authors
from tests.methods import moves
from tests.methods.test_systems import batch_of


def test_each_term_moves_the_net_it_is_meant_for():
    config = pdgan.get_config('tiny')
    method, batch = make_method(config), batch_of(config, 2)
    ((prior,), (both,)) = (method.stages[name] for name in ('prior', 'pdgan'))
    first = moves.nets(moves.moved(config, method, prior, batch))
    assert set(first) == {'l1_hole', 'l1_visible', 'variation'}
    assert all(nets == {'prior'} for nets in first.values())
    second = moves.nets(moves.moved(config, method, both, batch))
    assert second.pop('critic') == {'critic'}
    assert set(second) == {'adversarial', 'matching', 'variation', 'apart', 'diversity'}
    assert all(nets == {'generator'} for nets in second.values())  # never the first guess


def test_the_hard_map_falls_ring_by_ring():
    visible = np.ones((1, 11, 11, 1), np.float32)
    visible[:, 2:9, 2:9] = 0
    share = np.asarray(hard_map(jnp.asarray(visible), rings=2))[0, 5, :, 0]
    e = np.exp(-1.0)
    np.testing.assert_allclose(share, [1, 1, e, e**2, e**2, e**2, e**2, e**2, e, 1, 1], rtol=1e-6)
    wide = np.asarray(hard_map(jnp.asarray(visible), rings=2, size=5))[0, 5, :, 0]
    np.testing.assert_allclose(wide[1:6], [1, e, e, e**2, e**2], rtol=1e-6)


def test_where_nothing_is_shared_the_norm_knows_no_guess():
    rng = np.random.default_rng(0)
    x, guess, other = (jnp.asarray(rng.normal(size=(1, 4, 4, c)), jnp.float32) for c in (6, 3, 3))
    share = jnp.zeros((1, 4, 4, 1)).at[:, :, 2:].set(1.0)
    norm = SPDNorm(8)
    variables = norm.init(jax.random.key(0), x, guess, share)
    variables = jax.tree.map(lambda p: p * 50, variables)
    a, b = (norm.apply(variables, x, g, share) for g in (guess, other))
    np.testing.assert_array_equal(a[:, :, :2], b[:, :, :2])
    assert (np.abs(a - b)[:, :, 2:].max(-1) > 1e-3).all()
    free = (x - x.mean(-1, keepdims=True)) / np.sqrt(np.var(x, -1, ddof=1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(a[:, :, :2], free[:, :, :2], rtol=1e-4, atol=1e-5)


def test_the_first_guess_does_not_see_into_the_hole():
    rng = np.random.default_rng(0)
    image = jnp.asarray(rng.uniform(-1, 1, (1, 16, 16, 3)), jnp.float32)
    visible = jnp.ones((1, 16, 16, 1)).at[:, 4:12, 4:12].set(0.0)
    prior = Prior((4, 8), 1)
    variables = prior.init(jax.random.key(0), image, visible)
    guess = jax.jit(prior.apply)
    there = guess(variables, jnp.where(visible > 0, image, 9.0), visible)
    np.testing.assert_array_equal(guess(variables, image, visible), there)
    assert np.isfinite(guess(variables, image, 0 * visible)).all()  # nothing is visible


def test_perceptual_maps_have_a_gradient_where_they_see_nothing():
    rng = np.random.default_rng(0)
    weights = trunks.random_weights('efficientnet_lite0')

    @jax.jit
    def distance(a, b):
        def looks(image):
            return perceptual.maps('efficientnet_lite0', weights, image)

        both = looks(jnp.concatenate([a, b]))  # in one: compiled apart, they differ by rounding
        found = perceptual.distances([x[:1] for x in both], [x[1:] for x in both])
        return jnp.stack(found).mean(), jnp.stack(found)

    grad = jax.jit(jax.value_and_grad(distance, has_aux=True))
    black, drawn = jnp.zeros((1, 32, 32, 3)), jnp.asarray(rng.normal(size=(1, 32, 32, 3)))
    (_, same), gradient = grad(black, black)
    assert same.shape == (4, 1) and not same.any() and np.isfinite(gradient).all()
    (_, apart), gradient = grad(drawn, black)
    assert (apart > 0.01).all() and np.isfinite(gradient).all() and gradient.any()


def test_an_unknown_trunk_is_named():
    with pytest.raises(ValueError, match=r"config argument trunk=vgg19: choose from .*'none'"):
        pdgan.get_config('tiny,trunk=vgg19')
    config = pdgan.get_config('tiny')
    config.trunk = 'vgg19'
    with pytest.raises(ValueError, match=r"config\.trunk='vgg19': choose one of \['none'"):
        make_method(config)


# ------------------------------------------------------------------- the authors' networks


def generator_places():
    """Where a layer of their generator stands in ours."""
    unit = {
        'block.conv_to_f.0': 'Conv_0',
        'block.conv_to_f.3': 'Conv_1',
        'block.attention.0': 'Conv_2',
        'block.conv_s': 'Conv_3',
        'block.conv_0': 'Conv_4',
        'block.conv_1': 'Conv_5',
        'up': 'TransposedConv_0',
    }
    for order, norm in enumerate(('norm_s', 'norm_0', 'norm_1')):
        unit[f'block.{norm}.mlp_activate.0'] = f'SPDNorm_{order}/Conv_0'
        unit[f'block.{norm}.mlp_gamma'] = f'SPDNorm_{order}/Conv_1'  # one layer of ours
        unit[f'block.{norm}.mlp_beta'] = f'SPDNorm_{order}/Conv_1'
    places = {'fc': 'Dense_0', 'conv_img': 'Conv_0'}
    for level in range(6):
        places |= {f'generated.{level}.{a}': f'Block_{level}/{b}' for a, b in unit.items()}
    return places


def prior_places():
    """Where a layer of their encoder (0) and decoder (1) stands in our first stage."""
    places = {}
    for level in range(6):
        places[f'0.Encoder_{level + 1}.conv.input_conv'] = f'PartialConv_{level}/DownConv_0'
        places[f'1.Decoder_{level + 1}.model.1'] = f'TransposedConv_{level}'
        if 0 < level < 5:
            places[f'0.Encoder_{level + 1}.norm'] = f'InstanceNorm_{level - 1}'
        if level < 5:
            places[f'1.Decoder_{level + 1}.model.2'] = f'InstanceNorm_{level + 4}'
    for layer in range(8):
        name = f'0.middle.{layer // 2}.conv_{layer % 2 + 1}.input_conv'
        places[name] = f'PartialConv_{layer + 6}/Conv_0'
    return places


def critic_places():
    """Where a layer of their critics stands in ours."""
    places = {}
    for view in range(2):
        name = f'discriminator_{view}.model'
        places |= {f'{name}{i}.0{".0" * (i > 0)}': f'DownConv_{3 * view + i}' for i in range(3)}
        places |= {f'{name}3.0.0': f'Conv_{2 * view}', f'{name}4.0': f'Conv_{2 * view + 1}'}
    return places


def converted(theirs, variables, places):
    """Our variables with the weights of a network of theirs, and its estimates of singular values.

    places: by the names of their layers the paths of ours.
    """
    arrays, estimates = {}, {}
    for path, _ in authors.paths(variables):
        if path.endswith('/u'):  # batch_stats/.../SpectralNorm_0/Conv_3/kernel/u
            words = path.split('/')
            estimates['/'.join([*words[1:-4], words[-3]])] = path
    for name, place in places.items():
        layer = theirs.get_submodule(name)
        if hasattr(layer, 'weight_u'):
            arrays[estimates.pop(place)] = layer.weight_u.numpy()[None].copy()
        found = {'bias': layer.bias}
        if type(layer).__name__ == 'InstanceNorm2d':
            found['scale'] = layer.weight
        else:
            weight = layer.weight_orig if hasattr(layer, 'weight_orig') else layer.weight
            found['kernel'] = authors.kernel(weight)
        for key, value in found.items():
            if value is None:
                continue
            value = value if key == 'kernel' else value.detach().numpy()
            path = f'params/{place}/{key}'
            if place == 'Dense_0':  # to 4x4 places of channels, theirs to channels of 4x4 places
                split = value.reshape(*value.shape[:-1], -1, 4, 4)
                value = np.moveaxis(split, -3, -1).reshape(value.shape)
            elif 'PartialConv' in place:  # theirs divides by all numbers it sees, ours by the share
                value = value / np.prod(value.shape[:3]).astype(np.float32)
            elif value.ndim == 4 and value.shape[2] == 6:  # three channels of the hole are our one
                value = np.concatenate([value[:, :, :3].sum(2, keepdims=True), value[:, :, 3:]], 2)
            if path in arrays:
                value = np.concatenate([arrays[path], value], axis=-1)
            arrays[path] = value
    assert not estimates
    left = {name.rpartition('.')[0] for name, _ in theirs.named_parameters()} - set(places)
    # Theirs alone: windows of ones, and a number in each block that nothing reads.
    assert all('mask_conv' in name or name.endswith('.block') for name in left), left
    return authors.filled(variables, arrays)


def on_our_grid(torch, critic):
    """Their critic with our margins (theirs: 2 all round) and our half-size view (theirs: 3x3)."""
    critic.downsample = lambda x: torch.nn.functional.avg_pool2d(x, 2)
    for layer in critic.modules():
        if isinstance(layer, torch.nn.Conv2d):
            if layer.stride == (2, 2):
                layer.padding = (1, 1)
            else:
                layer.register_forward_hook(lambda layer, inputs, out: out[:, :, 1:, 1:])
    return critic


@pytest.mark.parity
def test_the_authors_networks_with_the_same_weights_give_the_same(monkeypatch):
    torch, first_stage, second_stage, critics = authors.modules(
        'FI_JAX_PDGAN',
        'models.network.pconv',
        'models.network.pdgan',
        'models.network.Discriminator',
    )
    monkeypatch.setattr(torch.Tensor, 'cuda', lambda tensor: tensor)  # they ask for a GPU
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    z = rng.normal(size=(2, 32)).astype(np.float32)
    image = rng.uniform(-1, 1, (2, 256, 256, 3)).astype(np.float32)
    hole = np.zeros((2, 256, 256, 1), np.float32)
    hole[:, 50:210, 70:240] = 1
    hole[1] = np.maximum(hole[1], rng.uniform(size=hole[1].shape) > 0.9)

    settings = SimpleNamespace(
        **dict(ngf=8, latent_sw=4, latent_sh=4, z_dim=32, norm_G='spectral'),
        **dict(ndf=32, num_D=2, n_layers_D=4, input_nc_D=6, norm_D='spectralinstance'),
        no_ganFeat_loss=False,
    )
    generator = second_stage.SPDNormGenerator(settings)
    generator.conv_img = torch.nn.Conv2d(8, 3, 3, padding=1)  # theirs has 64, whatever the width
    critic = on_our_grid(torch, critics.MultiscaleDiscriminator(settings))
    parts = first_stage.Encoder(3, 8), first_stage.Decoder(3, 8, norm_layer='instance')
    prior = torch.nn.ModuleList(parts)
    with torch.no_grad():
        for layer in prior.modules():  # what begins at 0 or 1 shall count
            if isinstance(layer, torch.nn.InstanceNorm2d) and layer.affine:
                layer.weight.copy_(0.5 + torch.rand_like(layer.weight))
                layer.bias.copy_(torch.randn_like(layer.bias))

    def run(ours, theirs, places, *arguments):
        init = jax.eval_shape(ours.init, jax.random.key(0), *arguments)
        return jax.jit(ours.apply)(converted(theirs, init, places()), *arguments)

    # Ours first: a pass of theirs moves its estimates, by the step that a pass of ours takes.
    guess = run(Prior((8, 16, 32, 64, 64, 64), 4), prior, prior_places, image, 1 - hole)
    widths = (128, 128, 64, 32, 16, 8)
    drawn = run(Generator(widths, 128), generator, generator_places, z, image, 1 - hole)
    judged = np.concatenate([hole, image], axis=-1)[:, 30:94, 30:94]
    scores = run(Critic((32, 64, 128, 256)), critic, critic_places, judged)
    with torch.no_grad():
        photo, visible = (authors.channels_first(torch, x) for x in (image, 1 - hole))
        visible = visible.repeat(1, 3, 1, 1)
        *deep, shallow = parts[0]([photo * visible, visible])
        authors.compare(guess, parts[1](shallow, *deep[:0:-1], deep[0]))
        authors.compare(drawn, generator(torch.from_numpy(z), photo, visible))
        wanted = critic(torch.cat([1 - visible, photo], 1)[:, :, 30:94, 30:94])
        for ours, maps in zip(scores, wanted, strict=True):
            for found, theirs in zip(ours, maps, strict=True):
                authors.compare(found, theirs)
