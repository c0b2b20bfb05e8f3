"""The compiled functions: one training step for each stage, sampling, and watching."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from fi_jax import features, rng, sharding
from fi_jax.methods import Method, Phase
from fi_jax.optim import ema_decay, rate_scale
from fi_jax.state import NetState, TrainState, bind, bind_ema

Metrics = dict[str, jax.Array]
VARY = ('both', 'structure', 'appearance')


def make_train_step(
    method: Method,
    stage: str,
    optimizers: Mapping[str, optax.GradientTransformation],
    config: Any,
    first_step: int = 0,
    mesh: Mesh | None = None,
) -> Callable[[TrainState, features.Batch], tuple[TrainState, Metrics]]:
    """step(state, batch) -> (state, metrics): all phases of a stage in turn, then the averages.

    A phase whose loss, gradient or update is not finite moves nothing, and is counted in
    `skipped/<phase>` and in state.skips. first_step is the state's step at which the stage begins.
    On a mesh with an 'fsdp' axis, weights are gathered before a phase and its gradients cut after.
    config.accumulate plays a phase on parts of the batch in turn; config.remat draws each network's
    activations again on the way back. Raises ValueError where the parts do not divide the batch.
    """
    phases = method.stages[stage]
    num_steps, parts = config.steps[stage], config.accumulate
    if config.batch_size % (parts * (mesh.size if mesh else 1)):
        raise ValueError(
            f'config.batch_size={config.batch_size} does not divide into config.accumulate={parts} '
            f'parts on each of {mesh.size if mesh else 1} devices'
        )

    def whole(tree: Any) -> Any:
        if mesh is None or mesh.shape['fsdp'] == 1:
            return tree
        return jax.lax.with_sharding_constraint(tree, sharding.replicated(mesh))

    def cut(tree: Any) -> Any:
        if mesh is None or mesh.shape['fsdp'] == 1:
            return tree
        placement = sharding.place_state(tree, mesh, config.mesh.fsdp_min_size)
        return jax.lax.with_sharding_constraint(tree, placement)

    def gradients(nets: Mapping[str, NetState], batch: Any, phase: Phase, key: Any, step: Any):
        """((loss, metrics), gradients, statistics) of a phase."""
        weights = {name: whole(net.params) for name, net in nets.items()}
        nets = {name: net.replace(params=weights[name]) for name, net in nets.items()}

        def loss_fn(params: Any, stats: Any, batch: Any, key: jax.Array) -> Any:
            bound = bind(
                method,
                {name: net.replace(stats=stats[name]) for name, net in nets.items()},
                params,
                config.remat,
            )
            loss, metrics = phase.loss(bound, batch, key, step)
            return loss, (metrics, {name: net.stats for name, net in bound.items()})

        grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
        params = {name: weights[name] for name in phase.nets}
        stats = {name: net.stats for name, net in nets.items()}
        if parts == 1:
            (loss, (metrics, stats)), grads = grad_fn(params, stats, batch, key)
            return (loss, metrics), cut(grads), stats

        def one(carry: Any, part: Any) -> Any:
            total, stats = carry
            (loss, (metrics, stats)), grads = grad_fn(params, stats, *part)
            return (cut(jax.tree.map(jnp.add, total, grads)), stats), (loss, metrics)

        zeros = cut(jax.tree.map(jnp.zeros_like, params))
        (total, stats), logs = jax.lax.scan(
            one, (zeros, stats), (in_parts(batch, parts), jax.random.split(key, parts))
        )
        grads = jax.tree.map(lambda x: x / parts, total)
        return jax.tree.map(lambda x: x.mean(0), logs), grads, stats

    def play(state: TrainState, batch: Any, phase: Phase, key: jax.Array, step: jax.Array):
        (loss, metrics), grads, stats = gradients(state.nets, batch, phase, key, step)
        scale = rate_scale(step, num_steps, config.optim.decay_share)
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


def in_parts(batch: features.Batch, parts: int) -> dict[str, jax.Array]:
    """(B,...) arrays -> (parts,B/parts,...), each part from every device's own rows.

    Neighbours stay together in pairs, for path S may draw them as twins.
    """

    def cut(x: jax.Array) -> jax.Array:
        pair = 2 if len(x) % (2 * parts) == 0 else 1
        grouped = x.reshape(-1, parts, pair, *x.shape[1:])
        return jnp.moveaxis(grouped, 1, 0).reshape(parts, -1, *x.shape[1:])

    return {name: cut(x) for name, x in batch.items()}


def draw_samples(
    method: Method,
    nets: Mapping[str, NetState],
    batch: features.Batch,
    seed: int,
    num_samples: int,
    zero: bool = False,
    vary: str = 'both',
) -> dict[str, jax.Array]:
    """num_samples completions of each image of a prepared batch, from the averaged weights.

    Returns the method's outputs, each (B,N,...), and `composite`, uint8, whose visible pixels
    are the image's own. Sample k of image i depends on (seed, i, k) alone; zero takes z = 0. vary:
    'structure' lets drawn landmarks alone vary over the samples, 'appearance' all else. Raises
    ValueError for a method that draws no image, or that draws no landmarks to vary.
    """
    if method.sample is None:
        raise ValueError('this method draws no image; use --mode=predict')
    if vary not in VARY or (vary == 'structure' and not method.structure_dim):
        raise ValueError(
            f'config.sample.vary={vary!r}: choose one of {list(VARY)}; structure varies under '
            '--config.landmark_source=predictor_sample alone'
        )
    b = batch['image'].shape[0]
    drawn = _noise(method, batch['index'], seed, num_samples)
    drawn = jnp.zeros_like(drawn) if zero else drawn
    if vary != 'both':
        # The numbers that choose the landmarks come last.
        of_structure = jnp.arange(method.noise_dim) >= method.noise_dim - method.structure_dim
        drawn = jnp.where(of_structure == (vary == 'structure'), drawn, drawn[:, :1])
    # Samples are neighbours on the batch axis, so that no image leaves its device.
    many = {name: jnp.repeat(x, num_samples, axis=0) for name, x in batch.items()}
    out = method.sample(bind_ema(method, nets), many, drawn.reshape(b * num_samples, -1))
    out['composite'] = features.composite(
        features.to_uint8(out['image']), features.to_uint8(many['image']), many['hole']
    )
    return {name: x.reshape(b, num_samples, *x.shape[1:]) for name, x in out.items()}


def _noise(method: Method, index: jax.Array, seed: int, num_samples: int) -> jax.Array:
    """(B,N,noise_dim) standard normal; row k of image i depends on (seed, i, k) alone."""

    def one(sample: jax.Array) -> jax.Array:
        keys = rng.sample_keys(seed, index, sample)
        return jax.vmap(lambda key: jax.random.normal(key, (method.noise_dim,)))(keys)

    return jax.vmap(one, out_axes=1)(jnp.arange(num_samples))


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
        noise = _noise(method, batch['index'], seed, num_samples)
        drawn = predictor.predict(bound, prepared, noise)
        return {**batch, **drawn, 'scores': predictor.score(bound, prepared, drawn)}

    return predict


def make_sample_step(
    method: Method, seed: int, num_samples: int, vary: str = 'both'
) -> Callable[[Mapping[str, NetState], features.Batch], dict[str, jax.Array]]:
    """sample(state.nets, batch) -> `draw_samples` of a batch of the pipeline, with that batch.

    The batch passes through so that inputs and outputs, of one sharding, can be shown together.
    """

    def sample(nets: Mapping[str, NetState], batch: features.Batch) -> dict[str, jax.Array]:
        prepared = features.prepare(batch)
        drawn = draw_samples(method, nets, prepared, seed, num_samples, vary=vary)
        keep = ('composite', 'landmark_map', 'face_mask', 'face_part', 'told')
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
