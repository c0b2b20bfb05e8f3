"""The compiled step: who moves, what is skipped, devices, averages; samples that can be redrawn."""

import dataclasses
import itertools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fi_jax import features, rng, sharding, steps
from fi_jax.input_pipeline.loader import EvalExamples, eval_batches
from fi_jax.input_pipeline.procedural.faces import ProceduralFaces
from fi_jax.landmarks import mean_landmarks
from fi_jax.methods import Method, Phase, make_method, pairs
from fi_jax.methods.keypoint import CRITICS, Keypoint, scores
from fi_jax.optim import ema_decay, make_optimizers
from fi_jax.state import bind, example_batch, init_state

GENERATIVE = ('extractor', 'prior', 'embedding', 'generator')
BATCH = 8
ADVERSARIAL = {'d_global': 's/adv_global', 'd_local': 's/adv_local'}


class Trained:
    """A stage of a config, compiled once: its fresh state (on the host) and its step on a mesh."""

    def __init__(self, config, stage, devices=None, state=None):
        config.batch_size = BATCH
        self.config, self.stage = config, stage
        self.method = make_method(config)
        self.optimizers = make_optimizers(config, self.method.nets)
        self.mesh = sharding.make_mesh(devices=devices)
        self.replicated = sharding.replicated(self.mesh)
        if state is None:
            state = jax.jit(
                lambda: init_state(self.method, self.optimizers, config.res, config.seed),
                out_shardings=self.replicated,
            )()
            self.on_init = state
        self.fresh = on_host(state)
        self.step = jax.jit(
            steps.make_train_step(self.method, stage, self.optimizers, config),
            donate_argnums=0,
            out_shardings=self.replicated,
        )

    def on_devices(self, state):
        # A copy, for the step destroys what it is given.
        return jax.device_put(jax.tree.map(np.array, state), self.replicated)

    def run(self, state, batch):
        """One step from a state of the host: (state, metrics), on the host."""
        return on_host(self.step(self.on_devices(state), sharding.shard_batch(batch, self.mesh)))


def on_host(tree):
    """Copies: on a CPU, device_get gives views of buffers that the next step may overwrite."""
    return jax.tree.map(np.array, tree)


def distance(a, b):
    """Largest difference of two trees of the same structure."""
    gaps = jax.tree.map(lambda x, y: np.abs(np.asarray(x) - np.asarray(y)).max(initial=0), a, b)
    return max(jax.tree.leaves(gaps), default=0.0)


def parameters(state):
    return {name: net.params for name, net in state.nets.items()}


@pytest.fixture(scope='module')
def batch(tiny_config):
    config = tiny_config('stage2')
    examples = EvalExamples(ProceduralFaces(BATCH, config.res), config, 'mixture', 0, BATCH)
    return dict(next(iter(eval_batches(examples, config, BATCH))))


@pytest.fixture(scope='module')
def stage2(tiny_config):
    config = tiny_config('stage2')
    config.r1_every = 2
    return Trained(config, 'stage2')


@pytest.fixture(scope='module')
def stage1(tiny_config, stage2):
    # The nets of both stages are the same, and so is their fresh state.
    return Trained(tiny_config('stage1'), 'stage1', state=stage2.fresh)


@pytest.fixture(scope='module')
def history(stage2, batch):
    """Three steps of stage 2 in one go: [(state, metrics)], the fresh state first."""
    out = [(stage2.fresh, {})]
    state = stage2.on_devices(stage2.fresh)
    for _ in range(3):
        state, metrics = stage2.step(state, sharding.shard_batch(batch, stage2.mesh))
        out.append(on_host((state, metrics)))
    return out


# ------------------------------------------------------------------------------ keys


def test_keys_are_told_apart_by_seed_name_and_step():
    keys = [
        jax.random.key_data(rng.key(seed, name, step))
        for seed in (0, 1)
        for name in ('train/a', 'train/b')
        for step in (0, 1)
    ]
    assert len({tuple(np.asarray(key)) for key in keys}) == 8
    again = jax.jit(lambda step: rng.key(0, 'train/a', step))(jnp.int32(1))
    np.testing.assert_array_equal(jax.random.key_data(again), keys[1])


def test_sample_keys_depend_on_seed_image_and_sample_alone():
    def data(seed, index, sample):
        return np.asarray(jax.random.key_data(rng.sample_keys(seed, jnp.array(index), sample)))

    np.testing.assert_array_equal(data(0, [5, 9], 3)[1], data(0, [9], 3)[0])
    for other in (data(1, [9], 3), data(0, [8], 3), data(0, [9], 4)):
        assert np.any(other != data(0, [9], 3))
    assert np.any(data(0, [3], 5) != data(0, [5], 3))


# ------------------------------------------------------------------------------ branches


@pytest.mark.parametrize('how', ['every', 'accumulate', 'repeats', 'remat'])
def test_on_a_cpu_convolutions_in_a_branch_or_loop_have_the_quick_order(how, stage2, batch):
    config = stage2.config.copy_and_resolve_references()
    (r1,) = (phase for phase in stage2.method.stages['stage2'] if phase.every > 1)
    if how == 'accumulate':
        config.accumulate = 2
    config.remat = how == 'remat'
    if how in ('accumulate', 'repeats'):
        r1 = dataclasses.replace(r1, every=1, repeats=2 if how == 'repeats' else 1)
    method = dataclasses.replace(stage2.method, stages={'stage2': (r1,)})
    step = steps.make_train_step(method, 'stage2', stage2.optimizers, config)
    text = jax.jit(step).lower(stage2.fresh, batch).as_text()
    orders = set(re.findall(r'stablehlo.convolution.*?dim_numbers = (.*?),\s+window', text))
    assert orders == {'[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]'}


# ------------------------------------------------------------------------------ state


def test_no_two_leaves_of_the_state_share_a_buffer(stage2):
    """A donated state that holds one buffer twice ends the process with a segmentation fault."""
    pointers = [
        (shard.device, shard.data.unsafe_buffer_pointer())
        for leaf in jax.tree.leaves(stage2.on_init)
        for shard in leaf.addressable_shards
    ]
    assert len(pointers) == len(set(pointers))


def test_a_fresh_state_begins_at_zero_with_its_averages_at_the_parameters(stage2):
    state = stage2.fresh
    assert (state.step, state.skips) == (0, 0)
    assert set(state.nets) == {*GENERATIVE, *CRITICS}
    for name, net in state.nets.items():
        if name in GENERATIVE:
            assert distance(net.ema, net.params) == 0
        else:
            assert net.ema == {}


# ------------------------------------------------------------------------------ steps


def test_stage1_moves_the_generative_nets_and_its_numbers_are_finite(stage1, batch):
    before = stage1.fresh
    after, metrics = stage1.run(before, batch)
    assert set(metrics) == {
        *(
            f'r/{name}'
            for name in ('l1_hole', 'l1_visible', 'l1_features', 'part', 'mask', 'landmark')
        ),
        *('r/kl_z', 'r/kl_v', 'r/kl_z_active'),
        *(f'grad_norm/reconstruct/{name}' for name in GENERATIVE),
        *('loss/reconstruct', 'skipped/reconstruct'),
    }
    assert all(np.isfinite(value) and np.shape(value) == () for value in metrics.values())
    assert after.step == 1
    for name in GENERATIVE:
        assert distance(after.nets[name].params, before.nets[name].params) > 1e-5
    for name in CRITICS:
        assert distance(after.nets[name], before.nets[name]) == 0


def test_stage2_moves_all_nets_and_its_numbers_are_finite(history, stage2):
    (before, _), (after, metrics) = history[0], history[1]
    critics = {f'critic/{name}{tail}' for name in CRITICS for tail in ('', '_margin')}
    assert critics <= set(metrics)
    assert {'s/latent', 's/latent_shuffled', 's/pair_distance', 's/l1_visible'} <= set(metrics)
    assert {'r/l1_hole', 'loss/all', 'loss/r1', 'skipped/all', 'skipped/r1'} <= set(metrics)
    assert {f'grad_norm/all/{name}' for name in (*GENERATIVE, *CRITICS)} <= set(metrics)
    assert {f'grad_norm/r1/{name}' for name in CRITICS} <= set(metrics)
    assert all(np.isfinite(value) and np.shape(value) == () for value in metrics.values())
    for name in stage2.method.nets:
        assert distance(after.nets[name].params, before.nets[name].params) > 1e-5


def test_three_steps_compile_once(history, stage2):
    assert [state.step for state, _ in history] == [0, 1, 2, 3]
    assert stage2.step._cache_size() == 1


def test_r1_plays_at_its_interval_and_logs_nan_elsewhere(history):
    for (_, metrics), runs in zip(history[1:], (True, False, True), strict=True):
        assert np.isfinite(metrics['loss/r1']) == runs
        assert all(np.isfinite(metrics[f'r1/{name}']) == runs for name in CRITICS)
        assert all(np.isfinite(metrics[f'grad_norm/r1/{name}']) == runs for name in CRITICS)
        assert metrics['skipped/r1'] == 0
        assert metrics['skipped/all'] == 0
    names = [set(metrics) for _, metrics in history[1:]]
    assert names[0] == names[1] == names[2]


def test_averages_follow_the_parameters(history, stage2):
    for (before, _), (after, _) in itertools.pairwise(history):
        decay = float(ema_decay(before.step, BATCH, stage2.config.optim.ema_halflife_images))
        for name in GENERATIVE:
            expected = jax.tree.map(
                lambda new, old, decay=decay: (1 - decay) * new + decay * old,
                after.nets[name].params,
                before.nets[name].ema,
            )
            assert distance(after.nets[name].ema, expected) < 1e-6
            assert distance(after.nets[name].ema, after.nets[name].params) > 0
        for name in CRITICS:
            assert after.nets[name].ema == {}


def test_a_step_is_a_function_of_state_and_batch(history, stage2, batch):
    state, metrics = stage2.run(history[1][0], batch)
    assert distance(state, history[2][0]) == 0
    assert metrics['loss/all'] == history[2][1]['loss/all']


def test_one_device_and_eight_compute_the_same_step(tiny_config, stage2, batch, history):
    assert stage2.mesh.size == 8
    config = tiny_config('stage2')
    config.r1_every = 2
    alone = Trained(config, 'stage2', jax.devices()[:1], stage2.fresh)
    # The second step of both: Adam's first is the sign of the gradient, whatever its size.
    after, metrics = alone.run(history[1][0], batch)
    expected, numbers = history[2]
    assert float(metrics['loss/all']) == pytest.approx(float(numbers['loss/all']), abs=1e-5)
    for name in metrics:
        np.testing.assert_allclose(metrics[name], numbers[name], rtol=1e-3, atol=1e-5, err_msg=name)
    assert config.optim.b1 == 0  # so that Adam's first moment is the gradient
    gradients, others = (
        {n: x.opt_state[1][0].mu for n, x in s.nets.items()} for s in (after, expected)
    )
    # By net and in the norm: a leaky ReLU at its kink may fall either way, for one pixel.
    for net, gradient in gradients.items():
        off, size = (
            np.sqrt(sum((np.asarray(x) ** 2).sum() for x in jax.tree.leaves(tree)))
            for tree in (jax.tree.map(np.subtract, gradient, others[net]), others[net])
        )
        assert off < 0.01 * size, net
    # Adam makes a gradient of rounding errors as large as any: all parameters but a few.
    moved = jax.tree.map(np.subtract, parameters(after), parameters(expected))
    moved = np.abs(np.concatenate([np.ravel(x) for x in jax.tree.leaves(moved)]))
    assert moved.max() < 10 * config.optim.lr
    assert np.mean(moved < 1e-6) > 0.98


def test_a_batch_that_does_not_divide_by_the_devices_is_refused(stage2, batch):
    six = {name: value[:6] for name, value in batch.items()}
    with pytest.raises(ValueError, match=r'config\.batch_size=6 does not divide by the 8 devices'):
        sharding.shard_batch(six, stage2.mesh)


# ------------------------------------------------------------------------------ faults


def test_a_step_that_is_not_finite_moves_nothing_and_is_counted(history, stage2, batch):
    bad = batch | {'has_landmarks': np.full_like(batch['has_landmarks'], np.nan)}
    before = history[1][0]  # on the next step R1 is idle, which does not see landmarks
    after, metrics = stage2.run(before, bad)
    assert metrics['skipped/all'] == 1
    assert not np.isfinite(metrics['loss/all'])
    assert (after.step, after.skips) == (before.step + 1, 1)
    for name, net in after.nets.items():
        assert distance(net.params, before.nets[name].params) == 0
        assert distance(net.opt_state, before.nets[name].opt_state) == 0
        assert distance(net.stats, before.nets[name].stats) == 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after))
    # Another bad step counts on, a good one starts the count anew.
    twice, _ = stage2.run(stage2.run(after, bad)[0], bad)
    assert twice.skips == 3
    good, metrics = stage2.run(twice, batch)
    assert good.skips == 0
    assert metrics['skipped/all'] == 0
    assert distance(parameters(good), parameters(twice)) > 1e-5


class Scale(nn.Module):
    """One parameter."""

    @nn.compact
    def __call__(self, x):
        return x * self.param('scale', nn.initializers.ones, ())


def toss(key):
    return jax.random.uniform(key) < 0.5


def test_every_repeat_of_a_phase_that_is_not_finite_is_counted(tiny_config):
    """A phase run four times on a batch, whose loss is NaN wherever its key tosses heads."""
    config = tiny_config('stage1')
    config.steps = {'only': 100}

    def loss(nets, batch, key, step):
        return nets['scale'](jnp.ones(())) * jnp.where(toss(key), jnp.nan, 1.0), {}

    method = Method(
        nets={'scale': Scale()},
        inputs=lambda batch: {'scale': (jnp.ones(()),)},
        stages={'only': (Phase('game', ('scale',), loss, repeats=4),)},
    )
    optimizers = make_optimizers(config, method.nets)
    state = init_state(method, optimizers, config.res, config.seed)
    step = jax.jit(steps.make_train_step(method, 'only', optimizers, config))
    expected, skips, seen = 0, 0, set()
    for number in range(12):
        keys = [rng.key(config.seed, f'train/only/game/{r}', number) for r in range(4)]
        heads = [bool(toss(key)) for key in keys]
        state, metrics = step(state, example_batch(config.res))
        expected += 4 - sum(heads)
        assert state.nets['scale'].opt_state[1][0].count == expected
        skips = skips + 1 if any(heads) else 0
        assert state.skips == skips, heads
        assert (metrics['skipped/game'] > 0) == any(heads)
        seen.add((any(heads), heads[-1]))
    assert (True, False) in seen  # a fault that a later repeat could hide


def test_faces_without_landmarks_teach_no_maps(stage1, batch):
    unknown = np.arange(BATCH) % 2 == 1
    few = batch | {'has_landmarks': np.where(unknown, 0, 1).astype(np.float32)}
    junk = few | {
        name: np.where(unknown[:, None, None, None], 1 - batch[name], batch[name])
        for name in ('landmark_map', 'face_mask')
    }
    (_, a), (_, b) = (stage1.run(stage1.fresh, x) for x in (few, junk))
    for name in ('r/part', 'r/mask', 'r/landmark'):
        assert a[name] > 0
        assert float(a[name]) == pytest.approx(float(b[name]), rel=1e-6)
    assert a['r/kl_z'] != b['r/kl_z']  # the Extractor did see them
    _, none = stage1.run(stage1.fresh, batch | {'has_landmarks': np.zeros(BATCH, np.float32)})
    assert none['r/part'] == none['r/mask'] == none['r/landmark'] == none['r/l1_features'] == 0
    assert np.isfinite(none['loss/reconstruct'])


# ------------------------------------------------------------------------------ who learns


@pytest.fixture(scope='module')
def gradients(tiny_config, stage2, batch):
    """term -> net -> norm of the term's gradient, in a stage 2 whose path R weighs nothing."""
    config = tiny_config('stage2')
    path_r = ('l1_hole', 'l1_visible', 'l1_features', 'part', 'mask', 'landmark', 'kl_z', 'kl_v')
    for name in path_r:
        config.loss[name] = 0.0
    config.loss.diversity_floor = 100.0  # so that it pulls
    method = make_method(config)
    phase = method.stages['stage2'][0]
    names = ['loss', 's/latent', *ADVERSARIAL.values(), *(f'critic/{name}' for name in CRITICS)]

    def terms(params, prepared):
        nets = bind(method, stage2.fresh.nets, params)
        loss, logs = phase.loss(nets, prepared, rng.key(0, 'test'), jnp.int32(0))
        return jnp.stack([({'loss': loss} | logs)[name] for name in names])

    prepared = features.prepare(batch)
    jacobian = jax.jit(jax.jacrev(terms))(parameters(stage2.fresh), prepared)
    norms = jax.tree.map(lambda j: (np.asarray(j).reshape(len(names), -1) ** 2).sum(1), jacobian)
    by_net = {net: np.sqrt(sum(jax.tree.leaves(tree))) for net, tree in norms.items()}
    return {name: {net: by_net[net][i] for net in by_net} for i, name in enumerate(names)}


def learners(norms):
    return {net for net, norm in norms.items() if norm > 0}


def test_path_s_moves_neither_what_reads_z_nor_where_it_is_drawn(gradients):
    assert learners(gradients['s/latent']) == {'embedding', 'generator'}
    # All that path S and the critics ask for, weighted: latent, adversarial, diversity.
    assert learners(gradients['loss']) == {'embedding', 'generator', *CRITICS}


@pytest.mark.parametrize('critic', CRITICS)
def test_generators_and_critics_learn_from_their_own_losses_alone(gradients, critic):
    assert learners(gradients[ADVERSARIAL[critic]]) == {'embedding', 'generator'}
    assert learners(gradients[f'critic/{critic}']) == {critic}


# ------------------------------------------------------------------------------ samples


@pytest.fixture(scope='module')
def draw(stage2, history):
    """draw(batch, num_samples, variant) from the weights after three steps, on one device."""
    nets = history[3][0].nets
    jitted = jax.jit(
        lambda nets, batch, n, variant: steps.draw_samples(
            stage2.method, nets, features.prepare(batch), 0, n, variant=variant
        ),
        static_argnums=(2, 3),
    )
    return lambda batch, n=3, variant='': jax.device_get(jitted(nets, batch, n, variant))


def rows(batch, *indices):
    return {name: value[list(indices)] for name, value in batch.items()}


@pytest.fixture(scope='module')
def drawn(draw, batch):
    return draw(batch)


def test_samples_have_their_shapes_and_ranges(drawn):
    assert drawn['image'].shape == drawn['face_part'].shape == (BATCH, 3, 32, 32, 3)
    assert drawn['landmark_map'].shape == drawn['face_mask'].shape == (BATCH, 3, 32, 32, 1)
    assert drawn['composite'].dtype == np.uint8
    assert np.abs(drawn['image']).max() <= 1
    assert drawn['landmark_map'].min() >= 0
    assert drawn['face_mask'].max() <= 1


def test_samples_keep_the_visible_pixels_bit_exact(drawn, batch):
    visible = np.broadcast_to(batch['hole'][:, None] == 0, drawn['composite'].shape)
    image = np.broadcast_to(batch['image'][:, None], drawn['composite'].shape)
    np.testing.assert_array_equal(drawn['composite'][visible], image[visible])
    filled = np.asarray(features.to_uint8(drawn['image']))
    np.testing.assert_array_equal(drawn['composite'][~visible], filled[~visible])


def test_a_sample_is_the_same_in_any_company(draw, drawn, batch):
    """Sample k of image i: alone, in another batch, and among fewer samples."""
    for other in (draw(rows(batch, 5), 3), draw(rows(batch, 2, 5), 3), draw(rows(batch, 5), 1)):
        samples = other['image'].shape[1]
        for name in ('image', 'landmark_map', 'face_mask', 'face_part'):
            # Not bit-equal: XLA sums products in an order that depends on the batch size.
            np.testing.assert_allclose(other[name][-1], drawn[name][5, :samples], atol=2e-5)
        steps_apart = other['composite'][-1].astype(int) - drawn['composite'][5, :samples]
        assert np.abs(steps_apart).max() <= 1
        assert np.mean(steps_apart != 0) < 0.002


def test_samples_differ_by_sample_and_by_image(drawn, draw, batch):
    assert distance(drawn['image'][:, 0], drawn['image'][:, 1]) > 1e-4
    others = draw(rows(batch, 3, 3) | {'index': np.int32([3, 4])})
    np.testing.assert_allclose(others['image'][0], drawn['image'][3], atol=2e-5)
    assert distance(others['image'][0], others['image'][1]) > 1e-4


def test_a_sampler_draws_in_chunks_what_one_draw_gives(stage2, history, drawn, batch, monkeypatch):
    monkeypatch.setattr(steps.Sampler, 'AT_ONCE', BATCH * 2)  # three samples: two and one
    out = steps.Sampler(stage2.method, 0, 3)(history[3][0].nets, batch)
    assert out['composite'].shape == (BATCH, 3, 32, 32, 3) and out['finite'].all()
    apart = np.asarray(out['composite'], int) - drawn['composite']
    assert np.abs(apart).max() <= 1 and np.mean(apart != 0) < 0.002
    np.testing.assert_allclose(out['face_part'], drawn['face_part'][:, :1], atol=2e-5)
    np.testing.assert_array_equal(out['image'], batch['image'])


def test_zero_takes_the_noise_away(draw, batch):
    still = draw(rows(batch, 0, 1), 3, 'z=0')
    assert distance(still['image'][:, 0], still['image'][:, 2]) < 1e-6


def test_samples_see_nothing_of_what_the_hole_hides(draw, drawn, batch):
    """Other pixels in the hole, other landmarks, another face mask: the same completions."""
    generator = np.random.default_rng(0)
    noise = generator.integers(0, 256, batch['image'].shape).astype(np.uint8)
    other = batch | {
        'image': np.where(batch['hole'] > 0, noise, batch['image']),
        'landmarks': batch['landmarks'] + 7,
        'landmark_map': 1 - batch['landmark_map'],
        'face_mask': 1 - batch['face_mask'],
        'has_landmarks': 1 - batch['has_landmarks'],
    }
    for name, value in draw(other).items():
        np.testing.assert_array_equal(value, drawn[name], err_msg=name)


def test_landmarks_of_the_user_lead_where_they_are_known(stage2, history, tiny_config, batch):
    config = tiny_config('stage2')
    config.landmark_source = 'user'
    method, nets = make_method(config), history[3][0].nets
    draw = jax.jit(
        lambda batch: steps.draw_samples(method, nets, features.prepare(batch), 0, 1)['image']
    )
    known = batch | {'has_landmarks': np.float32(np.arange(BATCH) % 2)}
    conditioned = draw(known)
    moved = draw(known | {'landmarks': batch['landmarks'] + 2})
    change = np.abs(conditioned - moved).max(axis=(1, 2, 3, 4))
    assert change[1::2].min() > 1e-5
    assert change[::2].max() == 0


# ------------------------------------------------------------------------------ other games


def check_one_step(config, batch):
    other = Trained(config, 'stage2')
    before = other.fresh
    after, metrics = other.run(before, batch)
    assert all(np.isfinite(value) for value in metrics.values()), metrics
    assert after.skips == 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after))
    return before, after, metrics


@pytest.mark.slow
def test_hinge_with_spectral_norm_updates_its_running_estimates(tiny_config, batch):
    before, after, _ = check_one_step(tiny_config('stage2', 'hinge_sn'), batch)
    for name in CRITICS:
        assert distance(after.nets[name].stats, before.nets[name].stats) > 1e-4
        assert distance(after.nets[name].params, before.nets[name].params) > 1e-5


@pytest.mark.slow
def test_the_seed_preset_plays_its_critics_five_times(tiny_config, batch):
    config = tiny_config('stage2', preset='seed')
    assert (config.gan, config.critic_steps) == ('wgan_gp', 5)
    before, after, metrics = check_one_step(config, batch)
    assert {f'critic/{name}_penalty' for name in CRITICS} <= set(metrics)
    moves = {name: net.opt_state[1][0].count for name, net in after.nets.items()}
    trained = [name for name in GENERATIVE if name != 'prior']  # its prior is N(0,I), no network
    assert moves == dict.fromkeys(trained, 1) | dict.fromkeys(CRITICS, 5)
    assert all(net.ema == {} for net in before.nets.values())


# ------------------------------------------------------------------------------ the condition


@pytest.fixture(scope='module')
def conditioned(tiny_config, stage2, batch):
    """The keypoint system, its bound nets, and a batch in which all faces have landmarks."""
    system = Keypoint(tiny_config('stage2'))
    prepared = features.prepare(batch) | {'has_landmarks': jnp.ones(BATCH)}
    # No two neighbours alike.
    shift = jnp.arange(BATCH)[:, None, None] * 0.5
    prepared['landmarks'] = jnp.asarray(mean_landmarks((32, 32)))[None] + shift
    return system, bind(stage2.method, stage2.fresh.nets, parameters(stage2.fresh)), prepared


def mismatch(conditioned, few):
    """The critics' term of real images under others' landmarks, where `few` keep theirs."""
    system, nets, prepared = conditioned
    condition = features.condition_maps(
        prepared['landmarks'], jnp.asarray(few, jnp.float32), (32, 32)
    )
    full = prepared | {'condition': condition}
    fake = jnp.zeros((BATCH, 32, 32, 3))
    total, terms = system.critic_terms(nets, fake, full)
    return float(total), {name: float(x) for name, x in terms.items()}


def test_only_pairs_that_both_have_landmarks_are_mismatched(conditioned):
    _, none = mismatch(conditioned, [1, 0] * (BATCH // 2))
    assert none['d_local_mismatch'] == 0
    total, all_ = mismatch(conditioned, np.ones(BATCH))
    assert all_['d_local_mismatch'] > 0
    weight = conditioned[0].config.loss.mismatch
    parts = all_['d_global'] + all_['d_local'] + weight * all_['d_local_mismatch']
    assert total == pytest.approx(parts, rel=1e-5)
    # One pair alone gives its own value, whatever those without landmarks are.
    _, first = mismatch(conditioned, [1, 1] + [0] * (BATCH - 2))
    _, last = mismatch(conditioned, [0] * (BATCH - 2) + [1, 1])
    assert first['d_local_mismatch'] != last['d_local_mismatch']


def test_the_local_critic_sees_the_landmarks_and_the_global_one_does_not(conditioned):
    _, nets, prepared = conditioned
    condition = features.condition_maps(prepared['landmarks'], jnp.ones(BATCH), (32, 32))
    a = scores(nets, prepared['image'], prepared | {'condition': condition}, frozen=False)
    b = scores(
        nets, prepared['image'], prepared | {'condition': pairs.partner(condition)}, frozen=False
    )
    np.testing.assert_array_equal(a['d_global'], b['d_global'])
    assert (np.asarray(a['d_local']) != np.asarray(b['d_local'])).all()


def test_errors_near_the_landmarks_inside_the_hole_count_and_no_others(conditioned):
    system, _, prepared = conditioned
    where = prepared | {'hole': jnp.ones_like(prepared['hole']).at[:, :, 16:].set(0.0)}
    error = jnp.ones((BATCH, 32, 32, 3))
    assert float(system.features_term(error, where)) == pytest.approx(1.0, rel=1e-5)
    assert float(system.features_term(error.at[:, :, :16].set(0.0), where)) == 0
    # The frame's corner is far from a face.
    assert float(system.features_term(error.at[:, 2:, 2:].set(0.0), where)) < 1e-3
    unknown = where | {'has_landmarks': jnp.zeros(BATCH), 'landmarks': where['landmarks'] * jnp.nan}
    assert float(system.features_term(error, unknown)) == 0


def test_guidance_goes_on_from_the_unconditional_image_through_the_conditional_one(
    conditioned, tiny_config
):
    _, nets, prepared = conditioned
    config = tiny_config('stage2')
    keys = jax.random.split(rng.key(0, 'test'), BATCH)

    def image(source, guidance):
        config.landmark_source, config.guidance = source, guidance
        return np.asarray(Keypoint(config).sample(nets, prepared, keys)['image'])

    one, two, none = (image('user', strength) for strength in (1.0, 2.0, 0.0))
    assert distance(one, none) > 1e-3
    np.testing.assert_allclose(two, np.clip(2 * one - none, -1, 1), atol=1e-5)
    np.testing.assert_array_equal(image('none', 2.0), image('none', 1.0))
    config.guidance = -1.0
    with pytest.raises(ValueError, match=r'config\.guidance=-1\.0'):
        make_method(config)
