"""Networks bound to a state: their statistics, and networks without parameters."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from fi_jax import losses
from fi_jax.methods import Method, Phase
from fi_jax.optim import make_optimizers
from fi_jax.state import Net, bind, example_batch, init_state
from fi_jax.steps import make_train_step


class Normed(nn.Module):
    """A critic whose batch norm moves its statistics at every call."""

    @nn.compact
    def __call__(self, x):
        return nn.BatchNorm(use_running_average=False)(x).mean((1, 2, 3))


def a_net():
    module = Normed()
    variables = dict(module.init(jax.random.key(0), jnp.ones((2, 4, 4, 3))))
    return module, variables.pop('params'), variables


def test_statistics_of_a_call_inside_a_transformation_stay_inside():
    module, params, stats = a_net()
    x = jax.random.normal(jax.random.key(1), (2, 4, 4, 3))

    @jax.jit
    def run(params, stats):
        net = Net(module, params, stats)
        penalty = losses.r1(net, x).mean()
        total, _ = jax.lax.scan(lambda t, y: (t + net(y[None]).sum(), None), 0.0, x)
        inner = net.stats
        net(x)
        return penalty + total, inner, net.stats

    value, inner, outer = run(params, stats)  # UnexpectedTracerError where they leak
    assert np.isfinite(value)
    jax.tree.map(np.testing.assert_array_equal, inner, stats)
    mean = outer['batch_stats']['BatchNorm_0']['mean']
    np.testing.assert_allclose(mean, 0.01 * x.mean((0, 1, 2)), atol=1e-6)


class Blur(nn.Module):
    """A network with nothing to learn."""

    def __call__(self, x):
        return nn.avg_pool(x, (3, 3), padding='SAME')


class Gain(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x * self.param('gain', nn.initializers.ones, ())


def test_a_network_without_parameters_trains_beside_one_with_them(tiny_config):
    config = tiny_config('stage1')
    config.steps = {'only': 2}
    config.optim.clip = 1.0

    def loss(nets, batch, key, step):
        out = nets['gain'](nets['blur'](batch['image']))
        return jnp.square(out - batch['image'] - nets['shift']).mean(), {}

    nets = {'blur': Blur(), 'gain': Gain()}
    method = Method(
        nets=nets,
        inputs=lambda batch: dict.fromkeys(nets, (batch['image'],)),
        stages={'only': (Phase('fit', tuple(nets), loss),)},
        constants=lambda: {'shift': jnp.float32(0.25)},
    )
    optimizers = make_optimizers(config, nets)
    state = init_state(method, optimizers, config.res, 0)
    step = jax.jit(make_train_step(method, 'only', optimizers, config))
    batch = example_batch(config.res, config.batch_size)
    batch['image'][:] = 200
    after, metrics = step(state, batch, method.constants())
    assert float(metrics['skipped/fit']) == 0
    assert float(after.nets['gain'].params['gain']) != 1.0
    assert not after.nets['blur'].params and bind(method, after.nets)['blur'] is not None
    other, _ = step(state, batch, {'shift': jnp.float32(-0.25)})
    moved = [x.nets['gain'].params['gain'] for x in (after, other)]
    assert float(moved[0]) != float(moved[1])  # an argument, not baked in
    assert not any('shift' in str(p) for p, _ in jax.tree.leaves_with_path(after))
    assert float(optax.tree.norm(after.nets['blur'].params)) == 0
