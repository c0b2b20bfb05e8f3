"""The flow: its path, what an exact network would draw, who leads, and its two stages."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import FrozenConfigDict

from configs import flow as config_file
from fi_jax import features, rng
from fi_jax.input_pipeline import holes
from fi_jax.methods import flow, make_method
from fi_jax.nets.flow import FlowUNet, depth_to_space, space_to_depth
from fi_jax.pretrained import warm_start
from fi_jax.run.checkpoint import Checkpointer
from fi_jax.run.settings import settings_of
from fi_jax.run.writers import save_json
from fi_jax.state import bind
from fi_jax.steps import make_train_step
from tests.states import fresh


def tiny(stage='flow', **changes):
    config = config_file.get_config(f'tiny,stage={stage}')
    config.update_from_flattened_dict(changes)
    return config


@pytest.fixture(scope='module')
def batch():
    rng_ = np.random.default_rng(0)
    size = (32, 32)
    points = rng_.uniform(4, 28, (4, 68, 2)).astype(np.float32)
    hole = np.stack([holes.fixed(0, i, 'centre', size, points[i])[0] for i in range(4)])
    return features.prepare(
        {
            'image': rng_.integers(0, 256, (4, *size, 3), np.uint8),
            'hole': hole,
            'face_mask': np.ones((4, *size, 1), np.uint8),
            'landmark_map': np.zeros((4, *size, 1), np.uint8),
            'landmarks': points,
            'has_landmarks': np.ones(4, np.float32),
            'index': np.arange(4, dtype=np.int32),
        }
    )


def keys(rows=4):
    return rng.sample_keys(0, jnp.arange(rows), 0)


class Exact:
    """A network that knows the answer, as a function of what a network sees."""

    def __init__(self, answer):
        self._answer = answer
        self.frozen = self

    def __call__(self, view, *args):
        return self._answer(view, *args[:1])


def test_patches_are_taken_apart_and_put_together():
    x = jnp.arange(2 * 8 * 12 * 3.0).reshape(2, 8, 12, 3)
    apart = space_to_depth(x, 4)
    assert apart.shape == (2, 2, 3, 48)
    np.testing.assert_array_equal(apart[1, 1, 2].reshape(4, 4, 3), x[1, 4:, 8:])
    np.testing.assert_array_equal(depth_to_space(apart, 4), x)


def test_the_path_begins_at_noise_ends_at_the_photo_and_never_touches_visible_pixels(batch):
    noise = jax.random.normal(jax.random.key(0), batch['image'].shape)
    inside = np.broadcast_to(batch['hole'] > 0, noise.shape)
    begin = flow.mix(batch['image'], noise, batch['hole'], jnp.zeros(4))
    np.testing.assert_array_equal(begin[inside], noise[inside])
    np.testing.assert_array_equal(
        flow.mix(batch['image'], noise, batch['hole'], jnp.ones(4)), batch['image']
    )
    middle = flow.mix(batch['image'], noise, batch['hole'], jnp.linspace(0, 1, 4))
    np.testing.assert_array_equal(middle[~inside], batch['image'][~inside])


@pytest.mark.parametrize('solver', flow.SOLVERS)
@pytest.mark.parametrize('steps', [1, 2, 5])
def test_a_network_that_knows_the_photo_draws_it_in_any_number_of_steps(batch, solver, steps):
    config = tiny(**{'sample.solver': solver, 'sample.steps': steps})
    nets = {'flow': Exact(lambda view, t: batch['image'])}
    drawn = flow.Flow(config).sample(nets, batch, keys())['image']
    np.testing.assert_allclose(drawn, batch['image'], atol=2e-5)


@pytest.mark.parametrize('solver', flow.SOLVERS)
def test_a_batch_may_say_in_how_many_steps_it_is_drawn(batch, solver):
    def drawn(steps, batch):
        system = flow.Flow(tiny(**{'sample.solver': solver, 'sample.steps': steps}))
        nets = {'flow': Exact(lambda view, t: jnp.tanh(view[..., :3] + t[:, None, None, None]))}
        return jax.jit(lambda batch: system.sample(nets, batch, keys())['image'])(batch)

    told = drawn(8, {**batch, 'steps': jnp.int32(3)})
    np.testing.assert_allclose(told, drawn(3, batch), atol=1e-6)
    assert np.abs(told - drawn(8, batch)).max() > 1e-3


def test_heun_follows_a_curved_flow_closer_than_euler(batch):
    # Images of one Gaussian pixel value: the exact prediction is linear in the state.
    mean, deviation = 0.2, 0.1

    def answer(view, t):
        t = t[:, None, None, None]
        gain = t * deviation**2 / (t**2 * deviation**2 + (1 - t) ** 2)
        return mean + gain * (view[..., :3] - t * mean)

    def ends(solver, steps):
        config = tiny(**{'sample.solver': solver, 'sample.steps': steps, 'sample.time_power': 1.0})
        drawn = flow.Flow(config).sample({'flow': Exact(answer)}, batch, keys())['image']
        return np.asarray(drawn)[np.broadcast_to(batch['hole'] > 0, drawn.shape)]

    noise = np.asarray(rng.normal(rng.named(keys(), 'noise'), batch['image'].shape[1:]))
    exact = mean + deviation * noise[np.broadcast_to(batch['hole'] > 0, noise.shape)]
    euler, heun = (np.abs(ends(solver, 16) - exact).mean() for solver in ('euler', 'heun'))
    assert heun < 0.7 * euler < 0.02


def test_steps_that_are_dense_near_noise_find_what_many_pixels_share(batch):
    # The image is one value all over the hole, so that little noise less tells it: early in time.
    deviation, hole = 0.5, batch['hole']
    pixels = hole.sum((1, 2, 3), keepdims=True)

    def answer(view, t):
        t = t[:, None, None, None]
        mean = (view[..., :3] * hole).sum((1, 2), keepdims=True) / pixels
        gain = t * deviation**2 / (t**2 * deviation**2 + (1 - t) ** 2 / pixels)
        return jnp.broadcast_to(gain * mean, view[..., :3].shape)

    noise = rng.normal(rng.named(keys(), 'noise'), batch['image'].shape[1:])
    mean = (noise * hole).sum((1, 2), keepdims=True) / pixels
    exact = deviation * mean * np.sqrt(pixels)

    def error(power):
        config = tiny(**{'sample.steps': 8, 'sample.solver': 'heun', 'sample.time_power': power})
        drawn = flow.Flow(config).sample({'flow': Exact(answer)}, batch, keys())['image']
        return float((jnp.abs(drawn - jnp.clip(exact, -1, 1)) * hole).sum())

    assert error(2.0) < 0.5 * error(1.0)


def test_the_loss_is_nothing_for_the_true_velocity_and_blind_outside_the_hole(batch):
    system = flow.Flow(tiny(**{'flow.style_dim': 0}))

    def true_but_outside(view, t):
        return jnp.where(batch['hole'] > 0, batch['image'], 99.0)

    loss, _ = system.flow_loss(
        {'flow': Exact(true_but_outside)}, batch, jax.random.key(0), jnp.zeros(())
    )
    # Near the end of time the division is held back, and with it the velocity.
    assert float(loss) < 0.02
    wrong, _ = system.flow_loss(
        {'flow': Exact(lambda view, t: batch['image'] + 0.5)},
        batch,
        jax.random.key(0),
        jnp.zeros(()),
    )
    assert float(wrong) > 0.25


@pytest.mark.parametrize('source', ['none', 'user'])
def test_landmarks_lead_only_where_they_may(batch, source):
    config = tiny(landmark_source=source)
    method, _, state = fresh(FrozenConfigDict(config))
    # The last layer begins at zero, so that every draw would be the same.
    nets = jax.tree.map(lambda x: x + 0.02, state.nets)
    draw = jax.jit(lambda batch: method.sample(bind(method, nets), batch, keys()))
    moved = {**batch, 'landmarks': batch['landmarks'] + 3.0}
    one, other = draw(batch), draw(moved)
    assert bool((one['image'] == other['image']).all()) == (source == 'none')
    assert ('condition_landmarks' in one) == (source == 'user')


def test_guidance_scales_the_lead_of_the_landmarks(batch):
    # A network whose answer is the landmark flag: led 1, free 0.
    nets = {'flow': Exact(lambda view, t: jnp.broadcast_to(view[..., -1:], view[..., :3].shape))}

    def drawn(guidance, interval=(0.0, 1.0)):
        config = tiny(
            landmark_source='user',
            **{'sample.steps': 1, 'guidance': guidance, 'sample.guidance_interval': interval},
        )
        image = flow.Flow(config).sample(nets, batch, keys())['image']
        return np.asarray(image)[np.broadcast_to(batch['hole'] > 0, image.shape)]

    np.testing.assert_allclose(drawn(0.0), 0.0, atol=1e-6)
    np.testing.assert_allclose(drawn(0.5), 0.5, atol=1e-6)
    np.testing.assert_allclose(drawn(0.5, (0.5, 1.0)), 1.0, atol=1e-6)
    batch = {**batch, 'guidance': jnp.full(len(batch['hole']), 0.25)}
    np.testing.assert_allclose(drawn(1.0), 0.25, atol=1e-6)


def test_distilling_asks_nothing_of_a_network_that_jumps_where_its_teacher_walks(batch):
    config = tiny('distill', **{'flow.style_dim': 0})
    system = flow.Flow(config)
    exact = Exact(lambda view, t: batch['image'])
    blind = Exact(lambda view: jnp.zeros(len(view)))
    nets = {'flow': exact, 'teacher': exact, 'd_global': blind, 'd_local': blind}
    _, terms = system.distill_loss(nets, batch, jax.random.key(0), jnp.zeros(()))
    assert float(terms['huber']) < 1e-6


@pytest.mark.parametrize('stage', ['flow', 'distill'])
def test_a_step_moves_what_its_stage_moves_and_no_teacher(batch, stage):
    config = tiny(stage)
    method, optimizers, state = fresh(FrozenConfigDict(config))
    raw = {k: v for k, v in batch.items() if k not in ('masked', 'face_part')}
    raw['image'] = features.to_uint8(batch['image'])
    raw |= {name: raw[name].astype(np.uint8) for name in ('hole', 'face_mask', 'landmark_map')}
    after, metrics = jax.jit(make_train_step(method, stage, optimizers, config))(state, raw)
    assert np.isfinite(float(metrics[f'loss/{stage}']))

    def moved(name):
        pairs = zip(
            jax.tree.leaves(state.nets[name].params),
            jax.tree.leaves(after.nets[name].params),
            strict=True,
        )
        return any((a != b).any() for a, b in pairs)

    trainable = {n for phase in method.stages[stage] for n in phase.nets}
    assert {name for name in method.nets if moved(name)} == trainable
    assert 'teacher' not in trainable


@pytest.mark.parametrize('size', flow.SIZES)
def test_sizes_fit_at_every_side(size):
    for res in (64, 128, 256):
        config = config_file.get_config(f'size={size},res={res}')
        f = config.flow
        net = FlowUNet(f.patch, tuple(f.widths), f.blocks, tuple(f.attention), f.embedding)
        view = jax.ShapeDtypeStruct((1, res, res, 4 + features.CONDITION_CHANNELS), jnp.float32)
        t, style = (jax.ShapeDtypeStruct(s, jnp.float32) for s in ((1,), (1, f.style_dim + 1)))
        out, _ = jax.eval_shape(net.init_with_output, jax.random.key(0), view, t, style)
        assert out.shape == (1, res, res, 3)


@pytest.mark.parametrize(
    'field', ['flow.predict', 'landmark_source', 'sample.solver', 'sample.style']
)
def test_unknown_switches_are_refused(field):
    with pytest.raises(ValueError, match=field):
        make_method(tiny(**{field: 'nonsense'}))


def test_a_teacher_begins_as_the_average_of_the_flow_it_distils(tmp_path):
    before = tiny()
    _, _, state = fresh(FrozenConfigDict(before))
    averaged = state.nets['flow'].replace(
        ema=jax.tree.map(lambda x: x + 1.0, state.nets['flow'].params)
    )
    save_json(tmp_path / 'config.json', settings_of(before))
    with Checkpointer(tmp_path, before.checkpoint) as checkpointer:
        checkpointer.save(1, state.replace(nets={**state.nets, 'flow': averaged}), {}, {}, {})
    config = tiny('distill')
    method, _, first = fresh(FrozenConfigDict(config))
    begun = warm_start(first, tmp_path, method)
    for name in ('flow', 'teacher'):
        jax.tree.map(np.testing.assert_array_equal, begun.nets[name].params, averaged.ema)
    jax.tree.map(
        np.testing.assert_array_equal,
        begun.nets['d_local'].params,
        first.nets['d_local'].params,
    )
