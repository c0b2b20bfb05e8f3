"""Mode predict: the landmarks of a source's faces, as a file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging

from fi_jax import sharding
from fi_jax.evaluation.points import predictions
from fi_jax.input_pipeline import holes
from fi_jax.input_pipeline.loader import EvalExamples, unsquare
from fi_jax.run.files import atomic_write
from fi_jax.run.folder import load_run, open_split, results_of, stop_if_some_failed
from fi_jax.run.writers import save_png


def predict_run(config: Any, workdir: str | Path, out: str | Path = '') -> Path:
    """Mode predict: the landmarks of a source's faces under a kind of hole -> an npz.

    name (N,), points (N,68,2) and samples (N,S,68,2) in pixels of the stored image, sigma (N,68)
    the standard deviation of x and of y in those pixels, hole_kind (N,); and a page of pictures
    beside it. The file is config.predict.out, else points.npz in out, else in the run folder.
    Returns its path. Raises SomeFailed, after all others are written, where images cannot be
    decoded.
    """
    mesh = sharding.make_mesh()
    weights = load_run(config, workdir, mesh)
    config, method = weights.config, weights.method
    options, data = config.predict, config.data
    if data.path and data.source == 'procedural':
        data.source = 'folder' if os.path.isdir(data.path) else 'zip'
    if method.predictor is None:
        raise ValueError(f'config.method={config.method}: predicts no points; use --mode=sample')
    _, source = open_split(config, workdir, options.split)
    examples = EvalExamples(
        source, config, options.holes, options.limit, options.batch_size, frames=True,
        max_bad_share=1.0,
    )  # fmt: skip
    out = Path(options.out or Path(out or results_of(workdir)) / 'points.npz')
    run = predictions(method, examples, config, mesh, options.num_samples, options.batch_size)
    found: dict[str, list[np.ndarray]] = {}
    for number, filled in enumerate(run(weights.nets)):
        real = filled['weight'] > 0  # the last batch is filled up, and some cannot be decoded
        batch = jax.tree.map(lambda x: x[real], filled)  # noqa: B023
        if number == 0 and real.any() and jax.process_index() == 0:
            save_png(out.with_suffix('.png'), method.predictor.sheet(batch))
        for row in range(len(batch['weight'])):
            frame = batch['frame'][row]
            answer = {
                'name': np.array(source[int(batch['index'][row])].name),
                'points': unsquare(batch['points'][row], frame, config.res),
                'sigma': (batch['sigma'][row] * (frame[2] / config.res)).astype(np.float32),
                'samples': unsquare(batch['samples'][row], frame, config.res),
                'hole_kind': np.array(holes.KINDS[batch['hole_kind'][row]]),
            }
            for name, value in answer.items():
                found.setdefault(name, []).append(value)
    if jax.process_index() == 0:
        with atomic_write(out) as part, open(part, 'wb') as file:
            np.savez_compressed(file, **{name: np.stack(x) for name, x in found.items()})  # type: ignore[arg-type]
    logging.info('wrote the landmarks of %d faces to %s', len(found['name']), out)
    stop_if_some_failed(examples, out)
    return out
