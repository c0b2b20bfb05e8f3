"""A run folder opened again: its method and newest state, and the faces it is asked about."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from fi_jax import guidance, sharding
from fi_jax.checkpoint import Checkpointer
from fi_jax.input_pipeline.loader import EvalExamples
from fi_jax.input_pipeline.records import Source
from fi_jax.input_pipeline.sources import make_source
from fi_jax.methods import Method, make_method
from fi_jax.optim import make_optimizers
from fi_jax.state import NetState, TrainState, init_state


def load_run(config: Any, workdir: str | Path, mesh: Mesh) -> tuple[Method, TrainState]:
    """The method of a config, led as config.landmark_source says, and the newest state of a run.

    Raises FileNotFoundError where the run has none, ValueError where it does not fit the config.
    """
    if not (Path(workdir) / 'checkpoints').is_dir():
        raise FileNotFoundError(f'--workdir={workdir}: no checkpoints there; train this run first')
    method = _method_of(config, workdir)
    optimizers = make_optimizers(config, method.nets)

    def init() -> TrainState:
        return init_state(method, optimizers, config.res, config.seed)

    replicated = sharding.replicated(mesh)
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated), jax.eval_shape(init)
    )
    with Checkpointer(workdir) as checkpointer:
        state = checkpointer.restore(like)[0]
    if config.get('landmark_source') in guidance.PREDICTED:
        saved, predictor, nets, _ = load_predictor(config.predictor, 'config.predictor', mesh)
        if saved.res != config.res:
            raise ValueError(
                f'config.predictor={config.predictor!r} sees {saved.res} px, this run '
                f'{config.res}; name a predictor of the same size'
            )
        method = guidance.led(method, predictor, nets, config.landmark_source)
    return method, state


def load_predictor(
    run: str, field: str, mesh: Mesh
) -> tuple[Any, Method, Mapping[str, NetState], int]:
    """Config, method, networks and step of a run of configs/landmarks.py.

    Raises FileNotFoundError or ValueError, naming the field, where run is none.
    """
    if not run or not (Path(run) / 'config.json').is_file():
        raise FileNotFoundError(
            f'{field}={run!r}: not a run folder; name one of configs/landmarks.py'
        )
    saved = saved_config(run)
    if _method_of(saved, run).predictor is None:
        raise ValueError(
            f'{field}={run!r}: a run of {saved.method}, which predicts no points; name one of '
            'configs/landmarks.py'
        )
    method, state = load_run(saved, run, mesh)
    return saved, method, jax.device_get(state.nets), int(state.step)


def saved_config(run: str | Path) -> ConfigDict:
    """The config that a run was trained with."""
    return ConfigDict(json.loads((Path(run) / 'config.json').read_text()))


def _method_of(config: Any, run: str | Path) -> Method:
    try:
        return make_method(config)
    except (AttributeError, KeyError) as error:
        raise ValueError(
            f'{run}: its config lacks a field ({error}), so an earlier version of fi_jax wrote it; '
            'train it again'
        ) from error


def examples_of(config: Any, workdir: str | Path) -> tuple[str, Source, EvalExamples]:
    """The split that config.eval asks for, its source, and its faces under their holes."""
    options = config.eval
    split = resolve_split(config, workdir, options.split)
    source = make_source(config.data, split)
    examples = EvalExamples(source, config, options.holes, options.limit, options.batch_size)
    return split, source, examples


def resolve_split(config: Any, workdir: str | Path, split: str) -> str:
    """'auto' -> 'test' where the data are those of the run's config.json, else 'all'."""
    if split != 'auto':
        return split
    trained_on = saved_config(workdir).data
    same = all(trained_on[k] == config.data[k] for k in ('source', 'name', 'seed'))
    same &= Path(trained_on['path']).resolve() == Path(config.data.path).resolve()
    return 'test' if same else 'all'


def protocol_of(config: Any, split: str, step: int) -> dict[str, Any]:
    """What is asked of a run at a step, for the file of its evaluation."""
    options = config.eval
    return {
        'method': config.method,
        'step': step,
        'data': data_name(config.data),
        'split': split,
        'holes': options.holes,
        'num_samples': options.num_samples,
        'seed': config.seed,
        'res': config.res,
    }


def data_name(data: Any) -> str:
    """How config.data are called: by their file or folder, else their set, else their source."""
    return Path(data.path or data.name or data.source).name
