"""PICNet: what moves what, what each path sees, the spread that a hole allows; its authors' net."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import picnet
from fi_jax.methods import make_method
from fi_jax.methods.picnet import hole_spread
from fi_jax.nets.picnet import Critic, Encoder, Generator
from tests import authors
from tests.methods import moves
from tests.methods.test_systems import batch_of


def test_each_term_moves_the_parts_it_is_meant_for():
    config = picnet.get_config('tiny')
    method = make_method(config)
    moved = moves.moved(config, method, *method.stages['picnet'], batch_of(config, 2))
    nets = moves.nets(moved)
    assert nets['kl_rec'] == nets['kl_gen'] == {'encoder'}
    assert nets['critic/critic'] == {'critic'} and nets['critic/critic_rec'] == {'critic_rec'}
    for term in ('l1_rec', 'l1_gen', 'adversarial/rec', 'adversarial/gen'):
        assert nets[term] == {'encoder', 'generator'}
    # The prior follows the posterior, not the other way round.
    assert ('encoder', 'posterior') in moved['kl_rec'] - moved['kl_gen']
    assert ('encoder', 'prior') in moved['kl_gen'] - moved['kl_rec']


def test_the_generating_path_sees_nothing_of_the_hole():
    rng = np.random.default_rng(0)
    masked, one, other = jnp.asarray(rng.uniform(-1, 1, (3, 2, 16, 16, 3)), jnp.float32)
    encoder = Encoder((4, 4), 3, 1)

    @jax.jit
    def read(*complements):
        variables = encoder.init(jax.random.key(0), masked)
        return [encoder.apply(variables, masked, hidden) for hidden in complements]

    here, there = read(one, other)
    for a, b in zip(jax.tree.leaves(here[1:]), jax.tree.leaves(there[1:]), strict=True):
        np.testing.assert_array_equal(a, b)  # the prior, and the maps that the generator sees
    assert np.abs(here[0].mean - there[0].mean).max() > 1e-4


def test_a_larger_hole_allows_more_spread():
    hole = np.zeros((5, 16, 16, 1), np.float32)
    for row, share in enumerate((0, 1, 4, 8, 16)):
        hole[row, :, :share] = 1
    spread = np.asarray(hole_spread(jnp.asarray(hole)))
    visible = 1 - hole.mean((1, 2, 3))
    np.testing.assert_allclose(spread, 1 / (1 + np.exp(8 * (visible - 0.8))), rtol=1e-5)
    assert (np.diff(spread) > 0).all() and 0.55 < spread[2] < 0.65 and spread[-1] > 0.99


def test_an_unknown_spread_is_named():
    config = picnet.get_config('tiny')
    config.picnet.spread = 'face'
    with pytest.raises(ValueError, match=r"picnet\.spread='face': choose one of \['hole', 'unit'"):
        make_method(config)


# ------------------------------------------------------------------- the authors' network


RENAMED = {'attn1': 'attention', 'attn2': 'attention', 'query_conv': 'query', 'model': 'join'}


def converted(theirs, variables):
    """Our variables with the weights of a network of theirs."""
    known, arrays = [name for name, _ in authors.paths(variables)], {}
    for name, tensor in theirs.named_parameters():
        words = name.replace('.module.', '.').split('.')
        if words[0].startswith('decoder') and words[1] == 'model':  # 0 and 3 are its norms
            norm = {'0': 'norm1', '3': 'norm2'}[words[2]]
            place = f'params/{words[0]}/{norm}/{ {"weight": "scale", "bias": "bias"}[words[3]] }'
            arrays[place] = tensor.detach().numpy()
            continue
        *heads, last = (RENAMED.get(word, word) for word in words)
        heads = heads[:1] if heads[0].startswith('out') else heads
        if last == 'weight_v':
            continue
        if last == 'weight_u':
            stem, end = '/'.join(['batch_stats', *heads[:-1]]), f'/{heads[-1]}/kernel/u'
            depth = stem.count('/') + 4
            found = [
                n for n in known if n.startswith(stem) and n.endswith(end) and n.count('/') == depth
            ]
            for place in found:
                arrays[place] = tensor.detach().numpy()[None]
            assert found or 'join' in heads, name  # of the critic's attention, never called
            continue
        weight = last in ('weight', 'weight_bar')
        place = '/'.join(['params', *heads, 'kernel' if weight else last])
        if place in known or not ('join' in place or 'alpha' in place):
            arrays[place] = authors.kernel(tensor) if weight else tensor.detach().numpy()
    return authors.filled(variables, arrays)


@pytest.mark.parity
def test_the_authors_networks_with_the_same_weights_give_the_same():
    torch, network = authors.modules('FI_JAX_PICNET', 'model.network')
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    theirs = {
        'encoder': network.ResEncoder(3, 32, 128, 128, 6, 5, 'none', 'LeakyReLU'),
        'generator': network.ResGenerator(
            3, 32, 128, 128, 0, 5, 'instance', 'LeakyReLU', output_scale=4
        ),
        'critic': network.ResDiscriminator(3, 32, 128, 5, 'none', 'LeakyReLU'),
    }
    with torch.no_grad():
        for net in theirs.values():  # what begins at 0 or 1 shall count
            for name, tensor in net.named_parameters():
                if name.endswith(('gamma', 'alpha')) or 'model.0' in name or 'model.3' in name:
                    tensor.copy_(0.5 + torch.rand_like(tensor))
    widths = (32, 64, 128, 128, 128)
    ours = {
        'encoder': Encoder(widths, 128, 6),
        'generator': Generator(widths[::-1]),
        'critic': Critic(widths),
    }

    def tensor(x):
        return authors.channels_first(torch, x)

    def run(name, call, *arguments):
        init = jax.eval_shape(ours[name].init, jax.random.key(0), *arguments)
        variables = converted(theirs[name], init)
        return jax.jit(ours[name].apply)(variables, *call)

    image = rng.uniform(-1, 1, (2, 64, 64, 3)).astype(np.float32)
    hole = np.zeros((2, 64, 64, 1), np.float32)
    hole[:, 16:48, 16:48] = 1
    masked, hidden = image * (1 - hole), image * hole
    # Our variables first: a forward pass of theirs moves the estimates of the norms.
    posterior, prior, maps = run('encoder', (masked, hidden), masked)
    z = rng.normal(size=(2, 2, 2, 128)).astype(np.float32)
    images = run('generator', (z, maps, 1 - hole), z, maps, 1 - hole)
    large = np.tile(image, (1, 2, 2, 1))
    scores = run('critic', (large,), large)
    with torch.no_grad():
        (distribution,), features_ = theirs['encoder'](tensor(masked), tensor(hidden))
        for found, wanted in zip(
            (posterior.mean, jnp.exp(posterior.logvar / 2), prior.mean, jnp.exp(prior.logvar / 2)),
            distribution,
            strict=True,
        ):
            authors.compare(found, wanted)
        for found, wanted in zip(maps, features_, strict=True):
            authors.compare(found, wanted[:2])
        drawn, _ = theirs['generator'](
            tensor(z), features_[-1][:2], features_[2][:2], tensor(1 - hole[:, ::8, ::8])
        )
        for found, wanted in zip(images, drawn, strict=True):
            authors.compare(found, wanted)
        authors.compare(scores, theirs['critic'](tensor(large)))
