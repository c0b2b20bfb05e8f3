"""One step, however it is laid out: one device, eight, cut state, parts of a batch, recomputed."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from fi_jax import losses, sharding, steps
from fi_jax.input_pipeline.loader import EvalExamples, eval_batches
from fi_jax.input_pipeline.procedural.faces import ProceduralFaces
from fi_jax.methods import Phase, make_method
from fi_jax.optim import make_optimizers
from fi_jax.run import aot
from fi_jax.state import init_state
from tests import tiny_run

BATCH = 16


def layout(devices=8, **changes):
    """A config of the tiny run, wide enough to be cut, with some fields changed."""
    config = tiny_run.get_config()
    config.nets.width, config.batch_size, config.mesh.fsdp_min_size = 32, BATCH, 64
    config.update_from_flattened_dict(changes)
    return config, devices


LAYOUTS = {
    'one device': layout(1),
    'replicated': layout(),
    'fsdp': layout(**{'mesh.fsdp': 0}),
    'hybrid': layout(**{'mesh.fsdp': 4}),
    'remat': layout(remat=True),
}


@pytest.fixture(scope='module')
def batch():
    config, _ = layout()
    examples = EvalExamples(ProceduralFaces(BATCH, config.res), config, 'mixture', 0, BATCH)
    return dict(next(iter(eval_batches(examples, config, BATCH))))


def without_noise(method):
    """The method with a loss that draws nothing, so that parts of a batch sum to the whole."""

    def loss(nets, batch, key, step):
        noise = jnp.zeros((batch['image'].shape[0], 4))
        out = nets['autoencoder'](batch['masked'], batch['hole'], noise)
        error = losses.image_mean(jnp.abs(out - batch['image'])).mean()
        return error, {'l1': error}

    return dataclasses.replace(method, stages={'train': (Phase('r', ('autoencoder',), loss),)})


def build(config, devices, stage, method=None):
    """(mesh, shapes, placement, jitted init, jitted step)."""
    method = method or make_method(config)
    mesh = sharding.make_mesh(config.mesh.fsdp, jax.devices()[:devices])
    optimizers = make_optimizers(config, method.nets)

    def init():
        return init_state(method, optimizers, config.res, config.seed)

    shapes = jax.eval_shape(init)
    placement = sharding.place_state(shapes, mesh, config.mesh.fsdp_min_size)
    step = jax.jit(
        steps.make_train_step(method, stage, optimizers, config, mesh=mesh),
        donate_argnums=0,
        out_shardings=(placement, sharding.replicated(mesh)),
    )
    return mesh, shapes, placement, jax.jit(init, out_shardings=placement), step


def run_steps(config, devices, batch, stage='train', method=None, times=3):
    mesh, _, placement, init, step = build(config, devices, stage, method)
    state, metrics = init(), {}
    for _ in range(times):
        state, metrics = step(state, sharding.shard_batch(batch, mesh))
    assert step._cache_size() == 1
    for leaf, place in zip(jax.tree.leaves(state), jax.tree.leaves(placement), strict=True):
        assert leaf.sharding.is_equivalent_to(place, leaf.ndim)
    return jax.tree.map(np.array, (state, metrics))


@pytest.fixture(scope='module')
def alone(batch):
    return run_steps(*LAYOUTS['one device'], batch)


def assert_close(a, b, rtol=1e-4, atol=1e-5):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=atol)


@pytest.mark.parametrize('name', [name for name in LAYOUTS if name != 'one device'])
def test_every_layout_takes_the_steps_of_one_device(name, batch, alone):
    assert_close(run_steps(*LAYOUTS[name], batch), alone)


@pytest.mark.parametrize('fsdp', [1, 0])
def test_parts_of_a_batch_make_the_gradient_of_the_whole(fsdp, batch):
    whole, parted = layout(), layout(accumulate=2, **{'mesh.fsdp': fsdp})
    method = without_noise(make_method(whole[0]))
    one, two = (run_steps(*x, batch, method=method, times=1) for x in (whole, parted))
    assert_close(one, two)


def test_parts_come_from_every_device_and_keep_pairs_together():
    x = {'x': jnp.arange(16)}
    parts = np.asarray(steps.microbatches(x, 2, 2)['x'])
    assert sorted(parts.ravel()) == list(range(16))
    for part in parts:
        assert {int(row) // 4 for row in part} == {0, 1, 2, 3}  # four devices hold four rows each
        assert (part[1::2] == part[::2] + 1).all()


def test_what_does_not_divide_is_refused():
    with pytest.raises(ValueError, match=r'config.mesh.fsdp=3 does not divide the 8 devices'):
        sharding.make_mesh(3)
    config, devices = layout(accumulate=3)
    with pytest.raises(ValueError, match=r'config.accumulate=3 microbatches'):
        build(config, devices, 'train')


def test_the_largest_dimension_that_divides_is_cut():
    mesh = sharding.make_mesh(4)
    shapes = {
        'kernel': (3, 3, 64, 32), 'square': (32, 32), 'odd': (33, 35), 'small': (8,), 'step': ()
    }  # fmt: skip
    tree = {name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in shapes.items()}
    specs = {k: v.spec for k, v in sharding.place_state(tree, mesh, min_size=64).items()}
    assert specs == {
        'kernel': PartitionSpec(None, None, 'fsdp', None), 'square': PartitionSpec(None, 'fsdp'),
        'odd': PartitionSpec(), 'small': PartitionSpec(), 'step': PartitionSpec(),
    }  # fmt: skip
    whole = sharding.place_state(tree, sharding.make_mesh(1), 64)
    assert all(place.spec == PartitionSpec() for place in whole.values())


def test_the_table_adds_up_to_the_bytes_on_a_device():
    config, _ = LAYOUTS['fsdp']
    mesh, shapes, placement, init, _ = build(config, 8, 'train')
    (row,) = sharding.table(shapes.nets, placement.nets)
    leaves = jax.tree.leaves(init().nets)
    here = sum(x.addressable_shards[0].data.nbytes for x in leaves)
    assert row.bytes_device == here and row.bytes_whole == sum(x.nbytes for x in leaves)
    assert 0 < row.sharded < row.arrays and here < row.bytes_whole / 4
    assert f'{here / 1e6:.2f}' in sharding.as_text([row], mesh)


# ---------------------------------------------------------------------- what the devices say


def traffic(config, devices, stage, batch):
    """(bytes by collective, bytes of each net's weights) of a compiled step."""
    mesh, shapes, placement, _, step = build(config, devices, stage)
    state = jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes, placement
    )
    compiled = step.lower(state, sharding.shard_batch(batch, mesh)).compile()
    sizes = {
        name: sum(x.size * 4 for x in jax.tree.leaves(net.params))
        for name, net in shapes.nets.items()
    }
    return aot.collective_bytes(compiled.as_text()), sizes


def test_devices_exchange_the_gradients_and_no_more(batch):
    sent, sizes = traffic(*LAYOUTS['replicated'], 'train', batch)
    assert set(sent) == {'all-reduce'}
    assert 1.0 <= sent['all-reduce'] / sum(sizes.values()) < 1.05


def test_a_cut_state_adds_one_gathering_of_the_weights(batch):
    sent, sizes = traffic(*LAYOUTS['fsdp'], 'train', batch)
    total = sum(sizes.values())
    assert set(sent) <= {'all-reduce', 'reduce-scatter', 'all-gather'}
    assert sent['all-gather'] <= 1.05 * total
    assert sent.get('all-reduce', 0) + sent.get('reduce-scatter', 0) <= 1.05 * total


@pytest.mark.slow
@pytest.mark.parametrize('fsdp', [1, 0])
@pytest.mark.parametrize('stage', ['stage1', 'stage2'])
def test_the_real_steps_exchange_gradients_and_no_more(tiny_config, stage, fsdp, batch):
    config = tiny_config(stage)
    config.batch_size, config.mesh.fsdp, config.mesh.fsdp_min_size = BATCH, fsdp, 2**10
    sent, sizes = traffic(config, 8, stage, batch)
    phases = make_method(config).stages[stage]
    gradients = sum(sizes[net] for phase in phases for net in phase.nets)
    gathers = len(phases) * sum(sizes.values()) if fsdp == 0 else 0
    assert set(sent) <= {'all-reduce', 'reduce-scatter', 'all-gather'}
    assert sent.get('all-gather', 0) <= 1.05 * gathers
    # The kernels of upsampling and of the dense parts are summed in the larger form in which a
    # layer multiplies by them, before that is folded back onto the weights.
    assert sent.get('all-reduce', 0) + sent.get('reduce-scatter', 0) <= 1.1 * gradients


@pytest.mark.slow
@pytest.mark.parametrize('changes', [{'mesh.fsdp': 0}, {'mesh.fsdp': 4}, {'remat': True}])
def test_the_real_step_of_stage_2_is_the_same_in_every_layout(tiny_config, changes, batch):
    config = tiny_config('stage2')
    config.batch_size, config.mesh.fsdp_min_size = BATCH, 2**10
    plain = run_steps(config, 8, batch, 'stage2', times=1)[1]
    config.update_from_flattened_dict(changes)
    other = run_steps(config, 8, batch, 'stage2', times=1)[1]
    for name in plain:
        np.testing.assert_allclose(other[name], plain[name], rtol=2e-3, atol=1e-5, err_msg=name)
