"""The compiled functions: one training step for each stage, sampling, and watching."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from fi_jax import features, rng, sharding
from fi_jax.canonical import canonical_convolutions
from fi_jax.methods import Method, Phase
from fi_jax.optim import ema_decay, rate_scale
from fi_jax.state import NetState, TrainState, bind, bind_ema

Metrics = dict[str, jax.Array]
VARY = ('both', 'structure', 'appearance')
OF_EACH = ('composite', 'finite', 'condition_landmarks')  # what is returned of every sample
OF_FIRST = ('landmark_map', 'face_mask', 'face_part')  # of the first alone


def make_train_step(
    method: Method,
    stage: str,
    optimizers: Mapping[str, optax.GradientTransformation],
    config: Any,
    mesh: Mesh | None = None,
) -> Callable[..., tuple[TrainState, Metrics]]:
    """step(state, batch, method.constants) -> (state, metrics): all phases, then the averages.

    A phase whose loss, gradient or update is not finite moves nothing, and is counted in
    `skipped/<phase>` and in state.skips. The step also takes `moment`, how far the stage is where
    it lasts a time, and `first`, the state's step at which it began (0). On a mesh with an 'fsdp'
    axis, weights are gathered before a phase and its gradients scattered after. config.accumulate
    runs a phase on microbatches in turn; config.remat computes each network's activations again on
    the way back. Raises ValueError where they do not divide the batch.
    """
    phases = method.stages[stage]
    num_steps, parts = config.steps[stage], config.accumulate
    if config.batch_size % (parts * (mesh.size if mesh else 1)):
        raise ValueError(
            f'config.batch_size={config.batch_size} does not divide into config.accumulate={parts} '
            f'microbatches on each of {mesh.size if mesh else 1} devices'
        )

    def replicate(tree: Any) -> Any:
        if mesh is None or mesh.shape['fsdp'] == 1:
            return tree
        return jax.lax.with_sharding_constraint(tree, sharding.replicated(mesh))

    def shard(tree: Any) -> Any:
        if mesh is None or mesh.shape['fsdp'] == 1:
            return tree
        placement = sharding.place_state(tree, mesh, config.mesh.fsdp_min_size)
        return jax.lax.with_sharding_constraint(tree, placement)

    def gradients(nets: Any, batch: Any, phase: Phase, key: Any, step: Any, constants: Any):
        """((loss, metrics), gradients, statistics) of a phase."""
        weights = {name: replicate(net.params) for name, net in nets.items()}
        nets = {name: net.replace(params=weights[name]) for name, net in nets.items()}

        def loss_fn(params: Any, stats: Any, batch: Any, key: jax.Array) -> Any:
            bound = bind(
                method,
                {name: net.replace(stats=stats[name]) for name, net in nets.items()},
                params,
                config.remat,
            )
            loss, metrics = phase.loss({**bound, **constants}, batch, key, step)
            return loss, (metrics, {name: net.stats for name, net in bound.items()})

        grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
        if sharding.on_cpu(mesh):
            grad_fn = canonical_convolutions(grad_fn)
        params = {name: weights[name] for name in phase.nets}
        stats = {name: net.stats for name, net in nets.items()}
        if parts == 1:
            (loss, (metrics, stats)), grads = grad_fn(params, stats, batch, key)
            return (loss, metrics), shard(grads), stats

        def one(carry: Any, part: Any) -> Any:
            total, stats = carry
            (loss, (metrics, stats)), grads = grad_fn(params, stats, *part)
            return (shard(jax.tree.map(jnp.add, total, grads)), stats), (loss, metrics)

        zeros = shard(jax.tree.map(jnp.zeros_like, params))
        (total, stats), logs = jax.lax.scan(
            one,
            (zeros, stats),
            (microbatches(batch, parts, method.group), jax.random.split(key, parts)),
        )
        grads = jax.tree.map(lambda x: x / parts, total)
        return jax.tree.map(lambda x: x.mean(0), logs), grads, stats

    def run_phase(state: Any, batch: Any, phase: Phase, key: Any, at: Any, constants: Any):
        step, moment = at
        (loss, metrics), grads, stats = gradients(state.nets, batch, phase, key, moment, constants)
        scale = rate_scale(step, num_steps, config.optim, moment)
        moved, norms, sizes = {}, {}, []
        for name in phase.nets:
            net = state.nets[name]
            updates, opt_state = optimizers[name].update(grads[name], net.opt_state, net.params)
            updates = jax.tree.map(lambda u: u * scale, updates)
            norms[name] = optax.tree.norm(grads[name])
            sizes += [norms[name], optax.tree.norm(updates)]
            moved[name] = net.replace(
                params=optax.apply_updates(net.params, updates),
                opt_state=opt_state,
                stats=stats[name],
            )
        finite = jnp.isfinite(loss) & jnp.isfinite(jnp.stack(sizes)).all()
        nets = dict(state.nets)
        for name in phase.nets:
            nets[name] = jax.tree.map(
                lambda new, old: jnp.where(finite, new, old), moved[name], nets[name]
            )

        logs = dict(metrics)
        logs |= {f'loss/{phase.name}': loss, f'skipped/{phase.name}': 1.0 - finite}
        logs |= {f'grad_norm/{phase.name}/{name}': norm for name, norm in norms.items()}
        return state.replace(nets=nets), logs

    def run_lazily(state: Any, batch: Any, phase: Phase, key: Any, at: Any, constants: Any):
        shapes = jax.eval_shape(lambda: run_phase(state, batch, phase, key, at, constants)[1])
        # NaN on the idle steps: the log averages over the steps where there is a value.
        idle = jax.tree.map(lambda s: jnp.full(s.shape, jnp.nan, s.dtype), shapes)
        idle[f'skipped/{phase.name}'] = jnp.zeros(())
        return jax.lax.cond(
            at[0] % phase.every == 0,
            lambda: run_phase(state, batch, phase, key, at, constants),
            lambda: (state, idle),
        )

    def run_repeats(state: Any, batch: Any, phase: Phase, at: Any, constants: Any):
        """The phase as often as a step has it; what it logs is the last's, but for the skips."""
        run = run_phase if phase.every == 1 else run_lazily
        names = [f'train/{stage}/{phase.name}/{repeat}' for repeat in range(phase.repeats)]
        keys = [rng.key(config.seed, name, state.step) for name in names]
        if phase.repeats == 1:
            return run(state, batch, phase, keys[0], at, constants)
        state, logs = jax.lax.scan(
            lambda state, key: run(state, batch, phase, key, at, constants),
            state,
            jnp.stack(keys),
        )
        skipped = f'skipped/{phase.name}'
        return state, {k: x.sum() if k == skipped else x[-1] for k, x in logs.items()}

    def train_step(
        state: TrainState,
        batch: features.Batch,
        constants: Mapping[str, Any] | None = None,
        moment: jax.Array | None = None,
        first: jax.Array | int = 0,
    ) -> tuple[TrainState, Metrics]:
        constants = constants or {}
        step = state.step - first
        at = step, step if moment is None else moment
        size = batch['image'].shape[0]
        batch = features.prepare(batch)
        metrics: Metrics = {}
        skipped = jnp.zeros(())
        for phase in phases:
            state, logs = run_repeats(state, batch, phase, at, constants)
            metrics |= logs
            skipped += logs[f'skipped/{phase.name}']

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


def microbatches(batch: features.Batch, count: int, group: int = 1) -> dict[str, jax.Array]:
    """(B,...) arrays -> (count,B/count,...), each from every device's own rows.

    Neighbours stay together in groups of that size, where the microbatches are large enough.
    """

    def split(x: jax.Array) -> jax.Array:
        size = group if len(x) % (group * count) == 0 else 1
        grouped = x.reshape(-1, count, size, *x.shape[1:])
        return jnp.moveaxis(grouped, 1, 0).reshape(count, -1, *x.shape[1:])

    return {name: split(x) for name, x in batch.items()}


def draw_samples(
    method: Method,
    nets: Mapping[str, NetState],
    batch: features.Batch,
    seed: int | jax.Array,
    num_samples: int,
    first: int | jax.Array = 0,
    vary: str = 'both',
    variant: str = '',
) -> dict[str, jax.Array]:
    """Completions first, first + 1, ... of each image of a prepared batch, from averaged weights.

    Returns the method's outputs, each (B,num_samples,...), `composite`, uint8, whose visible pixels
    are the image's own, and `finite` (B,num_samples). Sample k of image i depends on (seed, i, k)
    alone. vary: 'structure' lets drawn landmarks alone vary over the samples, 'appearance' all
    else. variant: one of the method's own. All are drawn at once; see `Sampler`.
    """
    b = batch['image'].shape[0]
    bound = bind_ema(method, nets)
    # Samples are neighbours on the batch axis, so that no image leaves its device.
    many: features.Batch = {name: jnp.repeat(x, num_samples, axis=0) for name, x in batch.items()}
    drawn = _sample_keys(batch['index'], seed, num_samples, first)
    fixed = _sample_keys(batch['index'], seed, 1, 0)
    keys, of_structure = (
        jnp.broadcast_to(fixed if vary == other else drawn, drawn.shape).reshape(-1)
        for other in ('structure', 'appearance')
    )
    if method.condition is not None:
        many = method.condition(bound, many, rng.named(of_structure, 'structure'))
    sample = method.variants[variant] if variant else method.sample
    assert sample is not None
    out = dict(sample(bound, many, keys))
    out['composite'] = features.composite(
        features.to_uint8(out['image']), features.to_uint8(many['image']), many['hole']
    )
    # Rounding to bytes would hide a NaN as a black pixel.
    out['finite'] = jnp.isfinite(out['image']).all(axis=(1, 2, 3))
    return {name: x.reshape(b, num_samples, *x.shape[1:]) for name, x in out.items()}


def _sample_keys(
    index: jax.Array, seed: int | jax.Array, num_samples: int, first: int | jax.Array
) -> jax.Array:
    """(B,N) keys; that of sample k of image i depends on (seed, i, k) alone."""
    numbers = first + jnp.arange(num_samples)
    return jax.vmap(lambda k: rng.sample_keys(seed, index, k), out_axes=1)(numbers)


class Sampler:
    """sampler(state.nets, batch) -> a pipeline's batch with num_samples completions of each image.

    They are drawn a few at a time by one compiled step, so that memory grows with their number only
    by what is returned: of every sample `OF_EACH`, of the first `OF_FIRST`, (B,1,...), where the
    method has them. The batch passes through, so that inputs and outputs, of one sharding, can be
    shown together. vary and variant as in `draw_samples`. Raises ValueError for a method that draws
    no image, or no landmarks to vary.
    """

    AT_ONCE = 64  # images on a device

    def __init__(
        self,
        method: Method,
        seed: int,
        num_samples: int,
        placement: Any = None,
        vary: str = 'both',
        variant: str = '',
    ):
        if method.sample is None:
            raise ValueError('this method draws no image; use --mode=predict')
        if vary not in VARY or (vary == 'structure' and not method.draws_structure):
            raise ValueError(
                f'config.sample.vary={vary!r}: choose one of {list(VARY)}; structure varies under '
                '--config.landmark_source=predictor_sample alone'
            )
        self.num_samples = num_samples

        def draw(nets: Any, batch: features.Batch, first: jax.Array, count: int) -> Any:
            prepared = features.prepare(batch)
            drawn = draw_samples(method, nets, prepared, seed, count, first, vary, variant)
            return {name: x for name, x in drawn.items() if name in OF_EACH + OF_FIRST}

        def join(batch: features.Batch, parts: Sequence[dict[str, jax.Array]]) -> Any:
            # The input's own maps have the names of outputs.
            out = {name: x for name, x in batch.items() if name not in OF_EACH + OF_FIRST}
            out |= {n: x[:, :1] for n, x in parts[0].items() if n in OF_FIRST}
            for name in set(OF_EACH) & parts[0].keys():
                every = jnp.concatenate([part[name] for part in parts], axis=1)
                out[name] = every[:, :num_samples]
            return out

        out = {} if placement is None else {'out_shardings': placement}
        options = sharding.compiler_options()
        self._draw = jax.jit(draw, static_argnums=3, compiler_options=options, **out)
        self._join = jax.jit(join, **out)

    def __call__(self, nets: Mapping[str, NetState], batch: features.Batch) -> dict[str, jax.Array]:
        image = batch['image']
        devices = len(image.sharding.device_set) if isinstance(image, jax.Array) else 1
        parts = -(-self.num_samples * image.shape[0] // (devices * self.AT_ONCE))
        count = -(-self.num_samples // min(parts, self.num_samples))
        drawn = [
            self._draw(nets, batch, np.int32(first), count)
            for first in range(0, self.num_samples, count)
        ]
        return self._join(batch, drawn)


def make_predict_step(
    method: Method, seed: int, num_samples: int
) -> Callable[[Mapping[str, NetState], features.Batch], dict[str, Any]]:
    """predict(state.nets, batch) -> a batch of the pipeline with what was predicted for it.

    Its `scores` are the method's own, {name: (B,)}. Averaged weights; num_samples shapes an image.
    Raises ValueError for a method that predicts no points.
    """
    predictor = method.predictor
    if predictor is None:
        raise ValueError('this method predicts no points; use --mode=sample')

    def predict(nets: Mapping[str, NetState], batch: features.Batch) -> dict[str, Any]:
        bound, prepared = bind_ema(method, nets), features.prepare(batch)
        keys = _sample_keys(batch['index'], seed, num_samples, 0)
        drawn = predictor.predict(bound, prepared, keys)
        return {**batch, **drawn, 'scores': predictor.score(bound, prepared, drawn)}

    return predict


def make_watch_step(
    method: Method, seed: int
) -> Callable[[Mapping[str, NetState], features.Batch], Metrics]:
    """watch(state.nets, batch) -> the method's monitors on a fixed batch with fixed draws."""

    def watch(nets: Mapping[str, NetState], batch: features.Batch) -> Metrics:
        if method.watch is None:
            return {}
        return method.watch(bind_ema(method, nets), features.prepare(batch), rng.key(seed, 'watch'))

    return watch
