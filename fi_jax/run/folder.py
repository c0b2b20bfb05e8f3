"""A run folder opened again: its method and newest state, and the faces it is asked about."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import logging
from jax.sharding import Mesh
from ml_collections import ConfigDict

from fi_jax.input_pipeline.loader import EvalExamples
from fi_jax.input_pipeline.records import Source
from fi_jax.input_pipeline.sources import NoSplit, make_source
from fi_jax.methods import predicted_landmarks
from fi_jax.pretrained import Weights, find, open_weights, own_about, own_settings, placed
from fi_jax.run.faults import SomeFailed


def load_run(config: Any, place: str | Path, mesh: Mesh) -> Weights:
    """A run, file or name of weights opened by its own config, its nets on every device.

    Of config the sections `settings.MAY_DIFFER` count. Where landmark_source asks for predicted
    landmarks, they come from the run that config.predictor names, else from the predictor inside
    the file. Errors as in `open_weights`.
    """
    weights = open_weights(place, config)
    config, method, nets = weights.config, weights.method, weights.nets
    if config.get('landmark_source') in predicted_landmarks.PREDICTED:
        predictor = weights.predictor
        if config.predictor or predictor is None:
            predictor = load_predictor(config.predictor, 'config.predictor')
        predicted_landmarks.check_size(
            f'config.predictor={config.predictor!r}', predictor.config, config.res
        )
        method = predicted_landmarks.with_predicted_landmarks(
            method, predictor.method, config.landmark_source
        )
        nets = predicted_landmarks.with_nets(nets, predictor.nets)
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


def results_of(place: str | Path) -> Path:
    """Where results go by default: the run folder itself; of a file, a folder of its name."""
    path = find(place)
    if path.is_dir():
        return path
    # A folder of a name's results may be there from before.
    return path.with_suffix('') if Path(place).is_file() else Path(place)


def examples_of(config: Any, place: str | Path) -> tuple[str, Source, EvalExamples]:
    """The split that config.eval asks for, its source, and its faces under their holes."""
    options = config.eval
    split, source = open_split(config, place, options.split)
    examples = EvalExamples(source, config, options.holes, options.limit, options.batch_size)
    return split, source, examples


def stop_if_some_failed(examples: EvalExamples, out: Path) -> None:
    """Raise SomeFailed where images could not be decoded, though all others were done."""
    if examples.bad:
        raise SomeFailed(
            f'{len(examples.bad)} of {examples.count} images were left out: '
            f'{"; ".join(examples.bad[i] for i in sorted(examples.bad)[:3])}; '
            f'the others are in {out}'
        )


def open_split(config: Any, place: str | Path, split: str) -> tuple[str, Source]:
    """A split of config.data and its faces.

    'auto' is 'test' where a run or file was trained on config.data, else, or where so few faces are
    there that none is held back, 'all'.
    """
    if split != 'auto':
        return split, make_source(config.data, split)
    if training_data(config, place) is not None:
        try:
            return 'test', make_source(config.data, 'test')
        except NoSplit as error:
            logging.warning('%s. All faces are taken, those of the training too.', error)
    return 'all', make_source(config.data, 'all')


def training_data(config: Any, place: str | Path) -> Any:
    """config.data, where a run or a file of weights was trained on them; else None.

    A run folder knows the path of its data; a file knows how many images there were, and a hash of
    their names, wherever they lie.
    """
    if not Path(place).is_dir():
        known, source = own_about(place).get('data', {}), make_source(config.data, 'train')
        return config.data if known and data_of(config.data, fingerprint(source)) == known else None
    own = saved_config(place).data
    same = all(own[k] == config.data[k] for k in ('source', 'name', 'seed'))
    for field in ('path', 'sets'):
        places = (Path(data.get(field, '')).resolve() for data in (own, config.data))
        same &= len(set(places)) == 1
    return config.data if same else None


def fingerprint(source: Source) -> dict[str, Any]:
    """What tells one data set from another without decoding it: number and names of its images."""
    names = '\n'.join(getattr(source, 'names', ()))
    return {'images': len(source), 'names': hashlib.sha256(names.encode()).hexdigest()[:16]}


def data_of(data: Any, found: Mapping[str, Any]) -> dict[str, Any]:
    """What a file of weights says of its training data, whose fingerprint is given."""
    drawn = data['source'] == 'procedural'
    return {**found, 'set': data['name'], 'drawn': [data['seed'], data['size']] if drawn else []}


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
