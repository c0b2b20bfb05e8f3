"""The compiled functions: one training step for each stage, sampling, and watching."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from fi_jax import features, rng
from fi_jax.methods import Method, Phase
from fi_jax.optim import ema_decay, rate_scale
from fi_jax.state import NetState, TrainState, bind, bind_ema

Metrics = dict[str, jax.Array]


def make_train_step(
    method: Method,
    stage: str,
    optimizers: Mapping[str, optax.GradientTransformation],
    config: Any,
    first_step: int = 0,
) -> Callable[[TrainState, features.Batch], tuple[TrainState, Metrics]]:
    """step(state, batch) -> (state, metrics): all phases of a stage in turn, then the averages.

    A phase whose loss or gradient is not finite moves nothing, and is counted in `skipped/<phase>`
    and in state.skips. first_step is the state's step at which the stage begins.
    """
    phases = method.stages[stage]
    num_steps = config.steps[stage]

    def play(state: TrainState, batch: Any, phase: Phase, key: jax.Array, step: jax.Array):
        def loss_fn(params: Any) -> Any:
            nets = bind(method, state.nets, params)
            loss, metrics = phase.loss(nets, batch, key, step)
            return loss, (metrics, {name: nets[name].stats for name in nets})

        params = {name: state.nets[name].params for name in phase.nets}
        (loss, (metrics, stats)), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
        norms = {name: optax.tree.norm(grads[name]) for name in phase.nets}
        finite = jnp.isfinite(loss) & jnp.isfinite(jnp.stack(list(norms.values()))).all()
        scale = rate_scale(step, num_steps, config.optim.decay_share)

        nets = dict(state.nets)
        for name in phase.nets:
            net = nets[name]
            updates, opt_state = optimizers[name].update(grads[name], net.opt_state, net.params)
            updates = jax.tree.map(lambda u: u * scale, updates)
            moved = net.replace(
                params=optax.apply_updates(net.params, updates),
                opt_state=opt_state,
                stats=stats[name],
            )
            nets[name] = jax.tree.map(lambda new, old: jnp.where(finite, new, old), moved, net)

        logs = dict(metrics)
        logs |= {f'loss/{phase.name}': loss, f'skipped/{phase.name}': 1.0 - finite}
        logs |= {f'grad_norm/{phase.name}/{name}': norm for name, norm in norms.items()}
        return state.replace(nets=nets), logs

    def play_lazily(state: TrainState, batch: Any, phase: Phase, key: jax.Array, step: jax.Array):
        shapes = jax.eval_shape(lambda: play(state, batch, phase, key, step)[1])
        # NaN on the idle steps: the log averages over the steps where there is a value.
        idle = jax.tree.map(lambda s: jnp.full(s.shape, jnp.nan, s.dtype), shapes)
        idle[f'skipped/{phase.name}'] = jnp.zeros(())
        return jax.lax.cond(
            step % phase.every == 0,
            lambda: play(state, batch, phase, key, step),
            lambda: (state, idle),
        )

    def train_step(state: TrainState, batch: features.Batch) -> tuple[TrainState, Metrics]:
        step = state.step - first_step
        size = batch['image'].shape[0]
        batch = features.prepare(batch)
        metrics: Metrics = {}
        skipped = jnp.zeros(())
        for phase in phases:
            for repeat in range(phase.repeats):
                key = rng.key(config.seed, f'train/{stage}/{phase.name}/{repeat}', state.step)
                run = play if phase.every == 1 else play_lazily
                state, logs = run(state, batch, phase, key, step)
                name = f'skipped/{phase.name}'
                logs[name] += metrics.get(name, 0.0)  # of repeats, each may fail
                metrics |= logs
            skipped += metrics[name]

        decay = ema_decay(state.step, size, config.optim.ema_halflife_images)

        def average(net: NetState) -> NetState:
            if not net.ema:
                return net
            return net.replace(ema=optax.incremental_update(net.params, net.ema, 1.0 - decay))

        state = state.replace(
            step=state.step + 1,
            skips=jnp.where(skipped > 0, state.skips + 1, 0),
            nets={name: average(net) for name, net in state.nets.items()},
        )
        return state, metrics

    return train_step


def draw_samples(
    method: Method,
    nets: Mapping[str, NetState],
    batch: features.Batch,
    seed: int,
    num_samples: int,
    zero: bool = False,
) -> dict[str, jax.Array]:
    """num_samples completions of each image of a prepared batch, from the averaged weights.

    Returns the method's outputs, each (B,N,H,W,C), and `composite`, uint8, whose visible pixels
    are the image's own. Sample k of image i depends on (seed, i, k) alone; zero takes z = 0.
    """
    b = batch['image'].shape[0]

    def noise(sample: jax.Array) -> jax.Array:
        keys = rng.sample_keys(seed, batch['index'], sample)
        return jax.vmap(lambda key: jax.random.normal(key, (method.noise_dim,)))(keys)

    drawn = jax.vmap(noise, out_axes=1)(jnp.arange(num_samples))  # (B,N,D)
    drawn = jnp.zeros_like(drawn) if zero else drawn
    # Samples are neighbours on the batch axis, so that no image leaves its device.
    many = {name: jnp.repeat(x, num_samples, axis=0) for name, x in batch.items()}
    out = method.sample(bind_ema(method, nets), many, drawn.reshape(b * num_samples, -1))
    out['composite'] = features.composite(
        features.to_uint8(out['image']), features.to_uint8(many['image']), many['hole']
    )
    return {name: x.reshape(b, num_samples, *x.shape[1:]) for name, x in out.items()}


def make_sample_step(
    method: Method, seed: int, num_samples: int
) -> Callable[[Mapping[str, NetState], features.Batch], dict[str, jax.Array]]:
    """sample(state.nets, batch) -> `draw_samples` of a batch of the pipeline, with that batch.

    The batch passes through so that inputs and outputs, of one sharding, can be shown together.
    """

    def sample(nets: Mapping[str, NetState], batch: features.Batch) -> dict[str, jax.Array]:
        drawn = draw_samples(method, nets, features.prepare(batch), seed, num_samples)
        keep = ('composite', 'landmark_map', 'face_mask', 'face_part')
        # The input's own maps would share these names: outputs only.
        inputs = {name: x for name, x in batch.items() if name not in keep}
        return inputs | {name: drawn[name] for name in keep if name in drawn}

    return sample


def make_watch_step(
    method: Method, seed: int
) -> Callable[[Mapping[str, NetState], features.Batch], Metrics]:
    """watch(state.nets, batch) -> the method's monitors on a fixed batch with fixed draws."""
    return lambda nets, batch: method.watch(
        bind_ema(method, nets), features.prepare(batch), rng.key(seed, 'watch')
    )
