"""The two tasks of a method, completing images or predicting points: one class each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging

from fi_jax import pictures, sharding, steps
from fi_jax.evaluation import points, protocol
from fi_jax.methods import Method
from fi_jax.run.folder import load_run


@dataclass(frozen=True)
class Task:
    """How answers are drawn, shown and scored.

    drawer(method, seed, num_samples, placement) gives draw(state.nets, batch) -> the batch with
    answers; sheet(method, drawn) draws a page (H,W,3) of them on the host. mean_scores, for use in
    training, evaluate_split and as_text as in `fi_jax.evaluation.protocol`.
    """

    drawer: Callable[[Method, int, int, Any], Callable[..., dict[str, Any]]]
    sheet: Callable[[Method, Mapping[str, np.ndarray]], np.ndarray]
    mean_scores: Callable[..., Callable[..., dict[str, float]]]
    evaluate_split: Callable[..., Any]
    as_text: Callable[[Any], str]


def _predict(method: Method, seed: int, num_samples: int, placement: Any) -> Callable[..., Any]:
    step = steps.make_predict_step(method, seed, num_samples)
    return jax.jit(step, out_shardings=placement)


def _points_sheet(method: Method, drawn: Mapping[str, np.ndarray]) -> np.ndarray:
    assert method.predictor is not None
    return method.predictor.sheet(drawn)


COMPLETES_IMAGES = Task(
    steps.Sampler,
    lambda _, drawn: pictures.sheet(drawn, drawn),
    protocol.mean_scores,
    protocol.evaluate_split,
    protocol.as_text,
)
PREDICTS_POINTS = Task(
    _predict, _points_sheet, points.mean_scores, points.evaluate_split, points.as_text
)


def task_of(method: Method) -> Task:
    """The task of a method."""
    return PREDICTS_POINTS if method.predictor else COMPLETES_IMAGES


def evaluate_run(config: Any, workdir: str | Path, out: str | Path = '') -> Any:
    """Mode eval: a run folder's newest checkpoint, or a file of weights, scored and printed.

    Results go to the run folder itself, or to out.
    """
    mesh = sharding.make_mesh()
    run = load_run(config, workdir, mesh)
    task, step = task_of(run.method), run.about['step']
    found = task.evaluate_split(run.method, run.nets, run.config, workdir, mesh, step, out)
    logging.info('evaluation of %s at step %d\n%s', workdir, step, task.as_text(found))
    return found
