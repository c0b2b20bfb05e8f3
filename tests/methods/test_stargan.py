"""StarGAN on holes: what moves what, which labels are drawn, that they are needed; its authors."""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import stargan
from fi_jax import features
from fi_jax.methods import make_method
from fi_jax.nets.stargan import Critic, Generator, Labels
from fi_jax.optim import make_optimizers
from fi_jax.state import bind, init_state
from tests import authors
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


def test_weights_begin_as_pytorch_begins():
    """Uniform, up to one over the root of what a number reads (transposed: of what it writes)."""
    x, labels = jnp.zeros((1, 32, 32, 4)), jnp.zeros((1, 2))
    nets = {Generator(8, 1): (x, labels), Critic((16, 32), 2): (x[..., :3],)}
    for net, args in nets.items():
        for path, kernel in jax.tree_util.tree_leaves_with_path(net.init(jax.random.key(0), *args)):
            if kernel.ndim > 1:
                bound = 1 / np.sqrt(kernel.size / kernel.shape[-1])
                largest = np.abs(kernel).max()
                assert 0.9 * bound < largest <= bound, jax.tree_util.keystr(path)


def test_without_labels_it_is_refused():
    config = stargan.get_config('tiny')
    config.data.labels = ''
    with pytest.raises(ValueError, match=r"config\.data\.labels='': name the attributes"):
        make_method(config)


# ------------------------------------------------------------------- the authors' network


def converted(theirs, variables):
    """Our variables with the weights of a network of theirs, kind by kind in the order of calls."""
    arrays, count = {}, Counter()
    for name, layer in theirs.named_modules():
        if not list(layer.parameters(recurse=False)):
            continue
        kind = {'InstanceNorm2d': 'InstanceNorm', 'ConvTranspose2d': 'TransposedConv'}.get(
            type(layer).__name__, 'Conv'
        )
        if name == 'conv2':  # it covers the last map: a linear layer of ours
            kind = 'Dense'
        elif kind == 'Conv' and layer.stride == (2, 2):
            kind = 'DownConv'
        place = f'params/{kind}_{count[kind]}'
        count[kind] += 1
        weight = layer.weight.detach().numpy()
        if kind == 'InstanceNorm':
            arrays[f'{place}/scale'] = weight
        else:
            weight = authors.kernel(layer.weight)
            weight = weight.reshape(-1, weight.shape[-1]) if kind == 'Dense' else weight
            arrays[f'{place}/kernel'] = weight
        if layer.bias is not None:
            arrays[f'{place}/bias'] = layer.bias.detach().numpy()
    return authors.filled(variables, arrays)


@pytest.mark.parity
def test_the_authors_networks_with_the_same_weights_give_the_same():
    torch, model = authors.modules('FI_JAX_STARGAN', 'model')
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    image = rng.uniform(-1, 1, (2, 64, 64, 4)).astype(np.float32)  # the fourth is the hole
    image[..., 3] = image[..., 3] > 0.5
    labels = np.asarray([[1, 0, 0, 1, 1], [0, 1, 0, 0, 1]], np.float32)
    # Of the photo they see three channels, we the hole besides: to their sizes it is a label more.
    generator = model.Generator(24, labels.shape[1] + 1, 6)
    critic = model.Discriminator(64, 24, labels.shape[1], 5)
    with torch.no_grad():
        for layer in generator.modules():  # what begins at 0 or 1 shall count
            if isinstance(layer, torch.nn.InstanceNorm2d):
                layer.weight.copy_(0.5 + torch.rand_like(layer.weight))
                layer.bias.copy_(torch.randn_like(layer.bias))

    def run(ours, theirs, *arguments):
        init = jax.eval_shape(ours.init, jax.random.key(0), *arguments)
        return jax.jit(ours.apply)(converted(theirs, init), *arguments)

    with torch.no_grad():  # training mode, which their sampling keeps: else norms are running means
        seen = authors.channels_first(torch, image)
        wanted = generator.train()(seen, torch.from_numpy(labels))
        authors.compare(run(Generator(24), generator, image, labels), wanted)
        wide = critic(seen[:, :3])
        found = run(Critic((24, 48, 96, 192, 384), labels.shape[1]), critic, image[..., :3])
        for ours, wanted in zip(found, wide, strict=True):
            authors.compare(ours, wanted)
