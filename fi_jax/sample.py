"""Mode sample: completions of a source's faces, as files a person can look at."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

import jax
import numpy as np
from absl import logging

from fi_jax import landmarks, pictures, sharding, steps
from fi_jax.features import Batch
from fi_jax.input_pipeline.loader import EvalExamples, eval_batches
from fi_jax.run.folder import load_run, open_split, results_of, stop_if_some_failed
from fi_jax.run.writers import save_png


def sample_run(config: Any, workdir: str | Path, out: str | Path = '') -> Path:
    """Write OUT/<name>/{truth,hole,input,sample_00,...}.png for each face, and OUT/sheet_*.png.

    hole is white where pixels are missing; input shows the face with a grey hole. OUT is
    config.sample.out, else samples_<holes> in out, else in the run folder. Returns OUT. ValueError
    where landmarks are to be edited that nobody gave; SomeFailed, after all others are written,
    where images cannot be decoded.
    """
    options = config.sample
    if options.edit and config.landmark_source != 'user':
        raise ValueError(
            f'config.sample.edit={options.edit!r}: edits landmarks that you give; add '
            '--config.landmark_source=user and --config.data.landmarks=POINTS.npz, which '
            '--mode=predict can write'
        )
    mesh = sharding.make_mesh()
    run = load_run(config, workdir, mesh)
    config, options = run.config, run.config.sample
    _, source = open_split(config, workdir, options.split)
    examples = EvalExamples(
        source, config, options.holes, options.limit, options.batch_size, max_bad_share=1.0
    )
    out = Path(options.out or Path(out or results_of(workdir)) / f'samples_{options.holes}')
    draw = steps.Sampler(
        run.method, config.seed, options.num_samples, sharding.replicated(mesh), options.vary
    )
    hosts = jax.process_index(), jax.process_count()
    for number, batch in enumerate(eval_batches(examples, config, options.batch_size, *hosts)):
        if options.edit:
            batch = edited(batch, options.edit, options.strength)
        drawn = jax.device_get(draw(run.nets, sharding.shard_batch(batch, mesh)))
        if jax.process_index():
            continue
        real = drawn['weight'] > 0  # the last batch is filled up, and some cannot be decoded
        if not real.any():
            continue
        drawn = {name: x[real] for name, x in drawn.items()}
        save_png(out / f'sheet_{number:04d}.png', pictures.sheet(drawn, drawn))
        for row in range(len(drawn['index'])):
            face = out / PurePosixPath(source[int(drawn['index'][row])].name).with_suffix('')
            image, hole = drawn['image'][row], drawn['hole'][row]
            save_png(face / 'truth.png', image)
            save_png(face / 'hole.png', hole * 255)
            save_png(face / 'input.png', pictures.with_hole(image, hole))
            for k, sample in enumerate(drawn['composite'][row]):
                save_png(face / f'sample_{k:02d}.png', sample)
    logging.info(
        'wrote %d completions of each of %d faces to %s', options.num_samples,
        examples.count - len(examples.bad), out,
    )  # fmt: skip
    stop_if_some_failed(examples, out)
    return out


def edited(batch: Batch, name: str, strength: float) -> dict[str, np.ndarray]:
    """A batch of the pipeline with its landmarks, where known, edited by `landmarks.edit`."""
    points, maps = batch['landmarks'].copy(), batch['landmark_map'].copy()
    for i in np.flatnonzero(batch['has_landmarks']):
        points[i] = landmarks.edit(points[i], name, strength)
        maps[i] = landmarks.draw_points(points[i], batch['image'].shape[1:3])
    return {**batch, 'landmarks': points, 'landmark_map': maps}
