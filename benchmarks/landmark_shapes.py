"""Distributions of whole face shapes compared by held-back likelihood, on one run's predictor.

    python -m benchmarks.landmark_shapes --run runs/lm --path FACES.zip --landmarks POINTS.npz

The heads are fitted anew, all to the same residuals of the same frozen predictor, on augmented
training faces with holes, then scored on the validation faces under the mixture of holes. Nats a
coordinate of a position in sides of the frame, lower is better.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from configs import landmarks
from fi_jax import features, sharding
from fi_jax.augmentation import make_augment
from fi_jax.input_pipeline.loader import EvalExamples, SkipBadImages, eval_batches, train_iterator
from fi_jax.input_pipeline.sources import make_source
from fi_jax.methods.landmarks import Landmarks
from fi_jax.nets.shapes import DIM, Flow, LowRankMixture
from fi_jax.run.folder import load_predictor
from fi_jax.state import bind_ema

HEADS = {
    'gaussian, rank 24': LowRankMixture(1),
    'mixture of 4, rank 24': LowRankMixture(4),
    'flow, 8 couplings': Flow(),
}


def residuals(run: str, batches: Iterable[Any]) -> tuple[np.ndarray, ...]:
    """Context (N,C), residual u (N,136) and log of the scales' product (N,) of faces with truth."""
    predictor = load_predictor(run, '--run')
    system = Landmarks(predictor.config)

    @jax.jit
    def look(nets: Any, batch: Any) -> tuple[jax.Array, ...]:
        batch = features.prepare(batch)
        faces = system.faces(bind_ema(predictor.method, nets), batch)
        u = (system.truth(batch) - faces.points) / faces.scale[..., None]
        return faces.context, u.reshape(-1, DIM), 2 * jnp.log(faces.scale).sum(-1)

    parts = []
    for batch in batches:
        keep = (batch['has_landmarks'] > 0) & (batch['weight'] > 0)
        parts.append([np.asarray(x)[keep] for x in look(predictor.nets, batch)])
    return tuple(np.concatenate(x) for x in zip(*parts, strict=True))


def fit(head: Any, train: Any, held_back: Any, steps: int) -> tuple[float, float]:
    """Held-back negative log-likelihood of u (nats a face) and its standard error over faces."""
    context, u, _ = train
    params = head.init(jax.random.key(0), context[:2], u[:2])
    tx = optax.chain(
        optax.clip_by_global_norm(10.0), optax.adam(optax.cosine_decay_schedule(1e-3, steps))
    )
    opt = tx.init(params)

    def nll(params: Any, c: jax.Array, u: jax.Array) -> jax.Array:
        return -head.apply(params, c, u)

    @jax.jit
    def step(params: Any, opt: Any, c: jax.Array, u: jax.Array) -> tuple[Any, Any]:
        grad = jax.grad(lambda p: nll(p, c, u).mean())(params)
        updates, opt = tx.update(grad, opt)
        return optax.apply_updates(params, updates), opt

    rng = np.random.default_rng(0)
    for _ in range(steps):
        rows = rng.integers(len(u), size=128)
        params, opt = step(params, opt, context[rows], u[rows])
    scores = np.asarray(jax.jit(nll)(params, held_back[0], held_back[1]))
    return float(scores.mean()), float(scores.std() / math.sqrt(len(scores)))


def main() -> None:
    """Parse the arguments, fit the heads and print a line each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ('run', 'path', 'landmarks', 'identities'):
        parser.add_argument(f'--{name}', default='')
    parser.add_argument('--batches', type=int, default=300)
    parser.add_argument('--steps', type=int, default=1000)
    args = parser.parse_args()
    config = landmarks.get_config()
    config.data.source, config.data.path = 'zip', args.path
    config.data.landmarks, config.data.identities = args.landmarks, args.identities
    source = SkipBadImages(make_source(config.data, 'train'), 0.001)
    iterator, mesh = train_iterator(source, config), sharding.make_mesh()
    augment = make_augment(config, mesh)
    drawn = (augment(sharding.shard_batch(next(iterator), mesh)) for _ in range(args.batches))
    train = residuals(args.run, map(jax.device_get, drawn))
    examples = EvalExamples(make_source(config.data, 'val'), config, 'mixture', 0, 50)
    held_back = residuals(args.run, eval_batches(examples, config, 50))
    print(f'{len(train[1])} training draws, {len(held_back[1])} faces held back', flush=True)
    # Of positions in sides of the frame, so that predictors can be compared.
    unit = held_back[2].mean()
    alone = (np.abs(held_back[1]).sum(1) + DIM * math.log(2)).mean()
    print(f'{"independent Laplace":24s} {(alone + unit) / DIM:8.3f}', flush=True)
    for name, head in HEADS.items():
        begin = time.perf_counter()
        mean, error = fit(head, train, held_back, args.steps)
        took = time.perf_counter() - begin
        print(
            f'{name:24s} {(mean + unit) / DIM:8.3f} +- {error / DIM:.3f}  {took:.0f} s', flush=True
        )


if __name__ == '__main__':
    main()
