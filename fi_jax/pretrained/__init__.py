"""Trained networks opened for use: by name, from a file, or from a run folder.

What sampling needs is loaded, and nothing else: no critics, no optimizers, averages where a run
kept them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from absl import logging
from jax.sharding import Mesh
from ml_collections import ConfigDict

from fi_jax import sharding
from fi_jax.config import renamed
from fi_jax.methods import Method, make_method
from fi_jax.pretrained import files, shipped
from fi_jax.run import checkpoint, settings
from fi_jax.run.checkpoint import Checkpointer, mismatches
from fi_jax.state import NetState, TrainState, init_state

SCALE = 'scale/'  # before the name of an array of whole numbers: what they are multiplied by


@dataclass(frozen=True)
class Weights:
    """Trained networks and how they are used.

    config is the run's own, but for what this call set; method is made of it, and
    it is not joined to a predictor yet (`methods/predicted_landmarks.py`). nets hold float32 arrays
    on the host, for `fi_jax.state.bind_ema`, `fi_jax.steps.draw_samples` and the like. predictor:
    the landmark predictor inside the same file. about: name, kind (run or file), step, sha256 of a
    file, and of a file terms, data and figures.
    """

    config: ConfigDict
    method: Method
    nets: dict[str, NetState]
    predictor: Weights | None
    about: dict[str, Any]


def open_weights(
    place: str | Path, asked: Any = None, given: Any = None, field: str = '--checkpoint'
) -> Weights:
    """The weights of a run folder, of a file of `fi-jax export`, or of a name in `fi-jax weights`.

    asked, given: as in `fi_jax.run.settings.opened`. Raises FileNotFoundError where nothing is
    there, ValueError where it is damaged or of another method than it says; both name the field.
    """
    place = find(place, field)
    if place.is_dir():
        return _of_run(place, asked, given)
    tensors, about, sha256 = files.read(place, shipped.sha256_of(place))
    try:
        return _of_file(tensors, about, asked, given, place, sha256)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f'{field}={place}: its config is incomplete ({error!r})') from error


def find(place: str | Path, field: str = '--checkpoint') -> Path:
    """The run folder or file that a name, file or folder stands for; FileNotFoundError if none."""
    path = Path(place)
    if path.is_file() or (path / 'config.json').is_file():
        return path
    if (known := shipped.path_of(str(place))) is not None:
        return known
    names = f', or one of {", ".join(shipped.SHIPPED)}' if shipped.SHIPPED else ''
    raise FileNotFoundError(
        f'{field}={place}: no run folder (with config.json) and no file of weights; give one{names}'
    )


def own_about(place: str | Path, field: str = '--checkpoint') -> dict[str, Any]:
    """What a file says of itself beside its arrays, with its config; of a run, its config alone."""
    place = find(place, field)
    if place.is_dir():
        try:
            return {'config': json.loads((place / 'config.json').read_text())}
        except ValueError as error:
            raise ValueError(
                f'{place / "config.json"}: damaged, no JSON ({error}); restore it from a copy'
            ) from None
    return files.read_about(place)


def own_settings(place: str | Path, field: str = '--checkpoint') -> dict[str, Any]:
    """The settings that a run, file or name was trained with, as plain values."""
    return renamed(own_about(place, field)['config'])


def _of_run(run: Path, asked: Any, given: Any) -> Weights:
    if not (run / 'checkpoints').is_dir():
        raise FileNotFoundError(f'{run}: no checkpoints there; train this run first')
    config = settings.opened(own_settings(run), asked, given)
    method = method_of(config, run)
    replicated = sharding.replicated(sharding.make_mesh())
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated),
        shapes_of(method, config.res),
    )
    with Checkpointer(run) as checkpointer:
        nets, step, meta = checkpointer.restore_nets(like)
    about = {'name': run.resolve().name, 'kind': 'run', 'step': step, 'data': meta.get('data', {})}
    return Weights(config, method, jax.device_get(nets), None, about)


def _of_file(
    tensors: files.Tensors,
    saved: Mapping[str, Any],
    asked: Any,
    given: Any,
    path: Path,
    sha256: str,
) -> Weights:
    inside = None
    if predictor := saved.get('predictor'):
        part = {
            k.removeprefix('predictor/'): x for k, x in tensors.items() if k[:10] == 'predictor/'
        }
        inside = _of_file(part, predictor, None, None, path, sha256)
    config = settings.opened(saved['config'], asked, given)
    method = method_of(config, path)
    like = shapes_of(method, config.res)
    wanted = {f'nets/{name}': x for name, x in _leaves(like).items()}
    there = {name: x.shape for name, x in tensors.items() if name.startswith('nets/')}
    if problems := mismatches({f'nets/{k}': x for k, x in _shapes(like).items()}, there):
        raise ValueError(
            f'{path}: its arrays are not those of its config ({config.method}): '
            f'{"; ".join(problems)}; export it again, or use the version that wrote it'
        )
    treedef = jax.tree.structure(like)
    leaves = [tensors[name].astype(x.dtype) for name, x in wanted.items()]
    scales = [tensors.get(f'{SCALE}{name}') for name in wanted]
    leaves = [x if by is None else x * by for x, by in zip(leaves, scales, strict=True)]
    about = {'name': path.stem, 'kind': 'file', 'sha256': sha256, **saved}
    del about['config']
    return Weights(config, method, jax.tree.unflatten(treedef, leaves), inside, about)


def warm_start(state: TrainState, place: str | Path, method: Method | None = None) -> TrainState:
    """A fresh state with the weights and averages of another run, or of a file.

    A run must have the same nets; a file has those of sampling, and the others begin fresh. Of a
    method whose nets begin from others, or from another resolution, a run gives what a file would.
    Raises FileNotFoundError or ValueError, naming config.warm_start, where they do not fit.
    """
    place = find(place, 'config.warm_start')
    begins, resize = (method.begins, method.resize) if method else ({}, {})
    if place.is_dir() and not begins and not resize:
        return checkpoint.warm_start(state, place)
    weights = open_weights(place, field='config.warm_start')
    sources = {name: begins.get(name, name) for name in state.nets}
    sources = {name: source for name, source in sources.items() if source in weights.nets}
    logging.info('warm start of %s from %s', list(sources), place)
    if fresh := sorted(set(state.nets) - set(sources)):
        logging.warning('%s holds no %s: they begin from fresh weights', place, ', '.join(fresh))
    nets = dict(state.nets)
    for name, source in sources.items():
        old, new = nets[name], weights.nets[source]
        if name in resize:
            new = new.replace(params=resize[name](new.params, old.params))
        like = NetState(old.params, old.stats, {}, {})
        if problems := mismatches(_shapes({name: like}), _shapes({name: new})):
            raise ValueError(f'config.warm_start={place} does not fit: {"; ".join(problems)}')
        place_as = partial(jax.tree.map, lambda like, x: jax.device_put(x, like.sharding))
        params = place_as(old.params, new.params)
        # A copy, for a buffer that stands twice in a donated state is destroyed.
        ema = place_as(old.ema, new.params) if old.ema else {}
        nets[name] = old.replace(params=params, stats=place_as(old.stats, new.stats), ema=ema)
    return state.replace(nets=nets)


def method_of(config: Any, place: str | Path) -> Method:
    """The method of a run's config; ValueError where it lacks what today's code needs."""
    try:
        return make_method(config)
    except (AttributeError, KeyError) as error:
        raise ValueError(
            f'{place}: its config lacks a field ({error}), so an earlier version of fi_jax wrote '
            'it; train it again'
        ) from error


def shapes_of(method: Method, res: int) -> dict[str, NetState]:
    """Shapes of the nets that sampling needs: params and stats alone."""
    fixed = {name: optax.identity() for name in method.nets}
    state = jax.eval_shape(lambda: init_state(method, fixed, res, 0))
    names = method.sampling or tuple(method.nets)
    return {n: NetState(state.nets[n].params, state.nets[n].stats, {}, {}) for n in names}


def tensors_of(nets: Mapping[str, NetState], dtype: Any = None) -> files.Tensors:
    """Arrays by name, nets/<net>/{params,stats}/...; matrices and kernels in dtype, if given.

    Vectors (biases, scales of norms) stay as they are: they are few, and add up. int8: each output
    channel is a whole number from -127 to 127 times scale/nets/... of it.
    """
    tensors: files.Tensors = {}
    for leaf, x in _leaves(nets).items():
        name, array = f'nets/{leaf}', np.asarray(x)
        if dtype is None or array.ndim < 2:
            tensors[name] = array
        elif np.dtype(dtype) == np.int8:
            largest = np.abs(array).max(axis=tuple(range(array.ndim - 1)), keepdims=True)
            scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
            tensors[name] = np.rint(array / scale).astype(np.int8)
            tensors[f'{SCALE}{name}'] = scale
        else:
            tensors[name] = array.astype(dtype)
    return tensors


def _leaves(nets: Mapping[str, NetState]) -> dict[str, Any]:
    found, _ = jax.tree_util.tree_flatten_with_path(dict(nets))

    def name(path: tuple[Any, ...]) -> str:
        return '/'.join(str(getattr(p, 'name', getattr(p, 'key', p))) for p in path)

    return {name(path): leaf for path, leaf in found}


def _shapes(nets: Mapping[str, NetState]) -> dict[str, tuple[int, ...]]:
    return {name: leaf.shape for name, leaf in _leaves(nets).items()}


def placed(nets: Mapping[str, NetState], mesh: Mesh) -> dict[str, NetState]:
    """The nets on every device of a mesh."""
    return jax.device_put(dict(nets), sharding.replicated(mesh))
