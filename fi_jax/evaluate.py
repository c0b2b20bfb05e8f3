"""Evaluation over a split: a jitted, masked, streaming loop; scores by hole area and kind."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.sharding import Mesh

from fi_jax import features, sharding
from fi_jax.checkpoint import Checkpointer
from fi_jax.input_pipeline import holes
from fi_jax.input_pipeline.loader import EvalExamples, eval_batches
from fi_jax.input_pipeline.sources import Source, make_source
from fi_jax.methods import Method, make_method
from fi_jax.metrics import fills, image, streaming
from fi_jax.optim import make_optimizers
from fi_jax.state import NetState, TrainState, init_state
from fi_jax.steps import draw_samples
from fi_jax.writers import save_json

Scores = dict[str, dict[str, dict[str, float]]]  # group -> metric -> mean, stderr, count


def score_batch(acc: Any, samples: jax.Array, batch: features.Batch) -> Any:
    """The accumulator with one batch more; samples (B,N,H,W,3) uint8, batch of the pipeline."""
    hole = batch['hole'].astype(jnp.float32)
    values = image.score(samples, batch['image'], hole)
    groups = streaming.groups_of(hole, batch['hole_kind'], len(holes.KINDS))
    return streaming.update(acc, values, groups, batch['weight'])


def evaluate(
    method: Method,
    nets: Mapping[str, NetState],
    examples: EvalExamples,
    config: Any,
    mesh: Mesh,
    num_samples: int,
    batch_size: int,
    zero: bool = False,
) -> Scores:
    """Scores of num_samples completions of each example; zero takes z = 0 instead of draws."""
    replicated = sharding.replicated(mesh)

    def step(acc: Any, nets: Any, batch: features.Batch) -> Any:
        prepared = features.prepare(batch)
        drawn = draw_samples(method, nets, prepared, config.seed, num_samples, zero)
        return score_batch(acc, drawn['composite'], batch)

    update = jax.jit(step, donate_argnums=0, out_shardings=replicated)
    acc = jax.device_put(_init(), replicated)
    for batch in _batches(examples, config, batch_size):
        acc = update(acc, nets, sharding.shard_batch(batch, mesh))
    return _table(acc)


def evaluate_fills(
    examples: EvalExamples, config: Any, mesh: Mesh, batch_size: int, mean_face: np.ndarray
) -> dict[str, Scores]:
    """The rows that always stand, on the same holes: mean face, Telea, Navier-Stokes, the truth."""
    rows: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
        'mean_face': lambda x, hole: fills.fill_mean(x, hole, mean_face),
        'telea': fills.fill_telea,
        'navier_stokes': fills.fill_navier_stokes,
        'truth': lambda x, hole: x,
    }
    replicated = sharding.replicated(mesh)
    update = jax.jit(score_batch, donate_argnums=0, out_shardings=replicated)
    accs = {name: jax.device_put(_init(), replicated) for name in rows}
    for batch in _batches(examples, config, batch_size):
        placed = sharding.shard_batch(batch, mesh)
        for name, fill in rows.items():
            filled = np.stack(
                [fill(x, h) for x, h in zip(batch['image'], batch['hole'], strict=True)]
            )
            samples = sharding.shard_batch({'x': filled[:, None]}, mesh)['x']
            accs[name] = update(accs[name], samples, placed)
    return {name: _table(acc) for name, acc in accs.items()}


def evaluate_split(
    method: Method, nets: Mapping[str, NetState], config: Any, workdir: str | Path, mesh: Mesh
) -> dict[str, Scores]:
    """All rows of the protocol on a split -> eval/<name>.json, with the protocol beside them.

    The split is config.eval.split; 'auto' takes test of the data the run was trained on, and all
    of any other data.
    """
    options = config.eval
    split = resolve_split(config, workdir, options.split)
    source = make_source(config.data, split)
    size = options.batch_size
    examples = EvalExamples(source, config, options.holes, options.limit, size)
    rows = {
        'samples': evaluate(method, nets, examples, config, mesh, options.num_samples, size),
        'z=0': evaluate(method, nets, examples, config, mesh, 1, size, zero=True),
    }
    if options.fills:
        # The mean is of training faces where they are at hand, else of the faces themselves.
        average = mean_face(make_source(config.data, 'train' if split == 'test' else split), config)
        rows |= evaluate_fills(examples, config, mesh, size, average)
    if jax.process_index() == 0:
        protocol = {
            'method': config.method,
            'data': config.data.path or config.data.name or config.data.source,
            'split': split,
            'num_images': examples.count,
            'num_samples': options.num_samples,
            'holes': options.holes,
            'seed': config.seed,
            'res': config.res,
            'units': 'composites rounded to 8 bits; PSNR in dB; l1 in grey levels of 255; '
            'pair_distance on [-1,1]; stderr over images',
        }
        name = options.name or f'{split}_{options.holes}'
        save_json(Path(workdir) / 'eval' / f'{name}.json', {'protocol': protocol, 'rows': rows})
    return rows


def resolve_split(config: Any, workdir: str | Path, split: str) -> str:
    """'auto' -> 'test' where the data are those of the run's config.json, else 'all'."""
    if split != 'auto':
        return split
    trained_on = json.loads((Path(workdir) / 'config.json').read_text())['data']
    same = all(trained_on[k] == config.data[k] for k in ('source', 'path', 'name', 'seed'))
    return 'test' if same else 'all'


def load_run(config: Any, workdir: str | Path, mesh: Mesh) -> tuple[Method, TrainState]:
    """The method of a config and the newest state of a run.

    Raises FileNotFoundError where the run has none, ValueError where it does not fit the config.
    """
    if not (Path(workdir) / 'checkpoints').is_dir():
        raise FileNotFoundError(f'--workdir={workdir}: no checkpoints there; train this run first')
    method = make_method(config)
    optimizers = make_optimizers(config, method.nets)

    def init() -> TrainState:
        return init_state(method, optimizers, config.res, config.seed)

    replicated = sharding.replicated(mesh)
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated), jax.eval_shape(init)
    )
    with Checkpointer(workdir) as checkpointer:
        return method, checkpointer.restore(like)[0]


def evaluate_run(config: Any, workdir: str | Path) -> dict[str, Scores]:
    """Mode eval: `evaluate_split` on the newest checkpoint of a run folder, printed."""
    mesh = sharding.make_mesh()
    method, state = load_run(config, workdir, mesh)
    rows = evaluate_split(method, state.nets, config, workdir, mesh)
    logging.info('evaluation of %s at step %d\n%s', workdir, int(state.step), as_text(rows))
    return rows


def mean_face(source: Source, config: Any, limit: int = 1000) -> np.ndarray:
    """The average of a source's first images, as the pipeline frames them; (res,res,3) uint8."""
    examples = EvalExamples(source, config, 'none', limit, 1)
    return fills.mean_face(examples[i]['image'] for i in range(examples.count))


def _batches(examples: EvalExamples, config: Any, batch_size: int) -> Any:
    return eval_batches(examples, config, batch_size, jax.process_index(), jax.process_count())


def _init() -> Any:
    names = streaming.group_names(holes.KINDS)
    return streaming.init(image.SCORES, len(names))


def _table(acc: Any) -> Scores:
    summaries = streaming.compute(jax.device_get(acc), streaming.group_names(holes.KINDS))
    return {
        group: {
            name: {'mean': s.mean, 'stderr': s.stderr, 'count': s.count}
            for name, s in metrics.items()
        }
        for group, metrics in summaries.items()
        if next(iter(metrics.values())).count
    }


HEADLINE = ('psnr_hole/mean', 'psnr_hole/best', 'psnr/mean', 'ssim/mean', 'ssim_hole/mean',
            'l1_hole/mean', 'pair_distance_hole')  # fmt: skip


def as_text(rows: Mapping[str, Scores], group: str = 'all') -> str:
    """A table of the headline scores, one line a row (method), for a group of examples."""
    lines = [f'{"":16s}' + ''.join(f'{name:>20s}' for name in HEADLINE)]
    for row, scores in rows.items():
        cells = scores.get(group, {})
        means = [cells.get(name, {}).get('mean', float('nan')) for name in HEADLINE]
        lines.append(f'{row:16s}' + ''.join(f'{mean:20.4f}' for mean in means))
    return '\n'.join(lines)
