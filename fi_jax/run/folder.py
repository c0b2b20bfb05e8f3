"""A run folder opened again: its method and newest state, and the faces it is asked about."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from jax.sharding import Mesh
from ml_collections import ConfigDict

from fi_jax.input_pipeline.loader import EvalExamples
from fi_jax.input_pipeline.records import Source
from fi_jax.input_pipeline.sources import make_source
from fi_jax.methods import guidance
from fi_jax.pretrained import Weights, open_weights, own_settings, placed


def load_run(config: Any, place: str | Path, mesh: Mesh) -> Weights:
    """A run, file or name of weights opened by its own config, its nets on every device.

    Of config the sections `settings.ASKED` count. The method is led as landmark_source says: by the
    run that config.predictor names, else by the predictor inside the file. Errors as in
    `open_weights`.
    """
    weights = open_weights(place, config)
    config, method, nets = weights.config, weights.method, weights.nets
    if config.get('landmark_source') in guidance.PREDICTED:
        predictor = weights.predictor
        if config.predictor or predictor is None:
            predictor = load_predictor(config.predictor, 'config.predictor')
        if predictor.config.res != config.res:
            raise ValueError(
                f'config.predictor={config.predictor!r} sees {predictor.config.res} px, this run '
                f'{config.res}; name a predictor of the same size'
            )
        method = guidance.led(method, predictor.method, config.landmark_source)
        nets = guidance.with_nets(nets, predictor.nets)
    return dataclasses.replace(weights, method=method, nets=placed(nets, mesh))


def load_predictor(place: str, field: str) -> Weights:
    """A landmark predictor: a run of configs/landmarks.py, a file of one, or one inside a file.

    Raises FileNotFoundError or ValueError, naming the field, where it is none.
    """
    if not place:
        raise FileNotFoundError(
            f'{field}={place!r}: names no landmark predictor; give a run of configs/landmarks.py '
            'or its exported file'
        )
    weights = open_weights(place, field=field)
    if weights.method.predictor is None and weights.predictor is not None:
        weights = weights.predictor
    if weights.method.predictor is None:
        raise ValueError(
            f'{field}={place!r}: a run of {weights.config.method}, which predicts no points; name '
            'one of configs/landmarks.py'
        )
    return weights


def saved_config(run: str | Path) -> ConfigDict:
    """The config that a run, or a file of weights, was trained with."""
    return ConfigDict(own_settings(run))


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
    for field in ('path', 'sets'):
        places = (Path(data.get(field, '')).resolve() for data in (trained_on, config.data))
        same &= len(set(places)) == 1
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
    return Path(data.path or data.get('sets') or data.name or data.source).name
