"""Scores of methods that predict points, in validation and mode eval."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from fi_jax import sharding, steps
from fi_jax.input_pipeline import holes
from fi_jax.input_pipeline.loader import EvalExamples, eval_batches
from fi_jax.methods import Method
from fi_jax.metrics import bootstrap, groups
from fi_jax.run.folder import examples_of, protocol_of, results_of
from fi_jax.run.writers import save_json
from fi_jax.state import NetState

Scores = dict[str, dict[str, dict[str, float]]]  # group -> score -> mean, low, high, count


Predict = Callable[[Mapping[str, NetState]], Iterator[dict[str, Any]]]


def predictions(
    method: Method,
    examples: EvalExamples,
    config: Any,
    mesh: Mesh,
    num_samples: int,
    batch_size: int,
) -> Predict:
    """run(nets) -> each batch on the host, with points, sigma, samples and scores added.

    One compilation for all its runs.
    """
    predict = jax.jit(
        steps.make_predict_step(method, config.seed, num_samples),
        out_shardings=sharding.replicated(mesh),
    )
    hosts = jax.process_index(), jax.process_count()

    def run(nets: Mapping[str, NetState]) -> Iterator[dict[str, Any]]:
        for batch in eval_batches(examples, config, batch_size, *hosts):
            yield jax.device_get(predict(nets, sharding.shard_batch(batch, mesh)))

    return run


def scores_of(batches: Iterator[dict[str, Any]]) -> tuple[dict[str, np.ndarray], ...]:
    """Scores (N,) by name, NaN where undefined, and what groups them: area and kind (N,)."""
    rows: list[dict[str, np.ndarray]] = []
    meta: list[dict[str, np.ndarray]] = []
    for batch in batches:
        real = batch['weight'] > 0
        rows.append({name: x[real] for name, x in batch['scores'].items()})
        area = batch['hole'].sum((1, 2, 3), dtype=np.int64)
        meta.append({'area': area[real], 'kind': batch['hole_kind'][real]})

    def joined(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    return joined(rows), joined(meta)


def mean_scores(
    method: Method, examples: EvalExamples, config: Any, mesh: Mesh, num_samples: int
) -> Callable[[Mapping[str, NetState]], dict[str, float]]:
    """score(nets) -> the mean of each score; minus_nme is what best-k compares."""
    run = predictions(method, examples, config, mesh, num_samples, config.eval.batch_size)

    def score(nets: Mapping[str, NetState]) -> dict[str, float]:
        scores, _ = scores_of(run(nets))
        means = {k: float(np.nanmean(x)) for k, x in scores.items() if np.isfinite(x).any()}
        # To the checkpoints, best is largest.
        return means | {'minus_nme': -means.get('nme', np.inf)}

    return score


def evaluate_split(
    method: Method,
    nets: Mapping[str, NetState],
    config: Any,
    workdir: str | Path,
    mesh: Mesh,
    step: int = 0,
    out: str | Path = '',
) -> Scores:
    """The method's scores on a split, by hole area and kind -> eval/<name>.json.

    Split, name and folder as in `evaluate.evaluate_split`; means with 95 % bootstrap intervals over
    images.
    """
    options = config.eval
    split, _, examples = examples_of(config, workdir)
    run = predictions(method, examples, config, mesh, options.num_samples, options.batch_size)
    scores, meta = scores_of(run(nets))
    members = groups.groups_of(meta['area'], meta['kind'], config.res**2, holes.KINDS)
    table = {
        group: {
            name: {'mean': e.mean, 'low': e.low, 'high': e.high, 'count': e.count}
            for name, e in cells.items()
            if e.count
        }
        for group, cells in bootstrap.estimates(scores, members, 500).items()
    }
    if jax.process_index() == 0:
        protocol = protocol_of(config, split, step) | {'num_images': examples.count}
        folder = Path(out or results_of(workdir)) / 'eval'
        path = folder / f'{options.name or f"{split}_{options.holes}"}.json'
        save_json(path, {'protocol': protocol, 'scores': table})
    return table


def as_text(table: Scores) -> str:
    """A line for each group of holes, a column for each score."""
    columns = [name for name in table['all'] if not name.startswith('spread')]
    lines = [f'{"":12s}{"faces":>6s}' + ''.join(f'{name:>18s}' for name in columns)]
    for group, cells in table.items():
        means = [cells.get(name, {}).get('mean', float('nan')) for name in columns]
        count = max((int(cell['count']) for cell in cells.values()), default=0)
        lines.append(f'{group:12s}{count:6d}' + ''.join(f'{mean:18.3f}' for mean in means))
    return '\n'.join(lines)
