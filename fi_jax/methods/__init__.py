"""What a method is: one file a system, found by name; the trainer knows none of them.

A method answers four questions. Which nets: `nets`, `inputs`, `ema`, `constants`. What moves which:
`stages`, a table of phases. What a sample is: `sample`, from random keys. What to watch: `watch`.
One that draws no image but predicts points says in `predictor` how, and how that is scored and
shown.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from fi_jax.features import Batch
from fi_jax.rng import Keys

Nets = Mapping[str, Any]  # name -> fi_jax.state.Net: call it, or call its .frozen
Sample = Callable[[Nets, Batch, Keys], dict[str, jax.Array]]
Changes = Mapping[str, Any]  # dotted path of a config's field -> value
Loss = Callable[[Nets, Batch, jax.Array, jax.Array], tuple[jax.Array, dict[str, jax.Array]]]


@dataclass(frozen=True)
class Phase:
    """One move of a training step: the gradient of a loss, applied to some nets.

    loss(nets, batch, key, step) -> (scalar, {name: scalar to log}); step counts from the start of
    the stage (by config.minutes: the share of its time, in steps). Each net in `nets` moves by its
    own optimizer. `every` runs the phase on each k-th step only (lazy regularisation); `repeats`
    runs it k times on a batch, each with its own key.
    """

    name: str
    nets: tuple[str, ...]
    loss: Loss
    every: int = 1
    repeats: int = 1


@dataclass(frozen=True)
class Predictor:
    """What a method that draws no image answers, how it is scored, and how it is shown.

    predict(nets, batch, keys) with N keys of each example (B,N) gives points (B,68,2), sigma (B,68)
    and samples (B,N,68,2), pixels of the crop; points and sigma depend on no key. score(nets,
    batch, predicted) gives {name: (B,)}, NaN where nothing can be measured. sheet(arrays) draws a
    page (H,W,3) uint8 of a batch of the pipeline with what was predicted for it, on the host.
    """

    predict: Callable[[Nets, Batch, jax.Array], dict[str, jax.Array]]
    score: Callable[[Nets, Batch, dict[str, jax.Array]], dict[str, jax.Array]]
    sheet: Callable[[Mapping[str, np.ndarray]], np.ndarray]


@dataclass(frozen=True)
class Method:
    """One system; see the module's head.

    nets, inputs: modules by name, and inputs(batch) -> each net's example arguments.
    constants: a function that loads arrays by name which losses find in their nets, for trainings
    alone; never trained, saved or averaged.
    ema: the nets whose average is kept and evaluated. sampling: those that a sample needs, which an
    export keeps; empty: all.
    sample(nets, batch, keys) with keys (B,) gives {'image': (B,H,W,3) in [-1,1]} and any of
    landmark_map, face_mask, face_part, and condition_landmarks (B,68,2), those it was conditioned
    on, in pixels, NaN where on none. A batch may hold guidance (B,), the scale of guidance, in
    place of the config's, and steps (), how many where a sample takes steps. Of `sample` and
    `predictor` a method has one.
    variants: other samples without chance, by name, each a row of an evaluation.
    condition(nets, batch, keys), if given, puts the landmarks to condition on into the batch
    before `sample`; where draws_structure, other keys give others.
    watch(nets, batch, key), if given, gives scalars and vectors to follow in training.
    begins: net -> the net of another run whose weights it takes in a warm start; itself, if absent.
    resize: net -> a function of (weights, this config's weights) that brings weights of another
    resolution to this one's shapes in a warm start.
    group: so many neighbours of a batch stay together in microbatches.
    All see prepared batches (`fi_jax.features.prepare`).
    """

    nets: Mapping[str, Any]
    inputs: Callable[[Batch], Mapping[str, tuple[jax.Array, ...]]]
    stages: Mapping[str, tuple[Phase, ...]]
    ema: tuple[str, ...] = ()
    sample: Sample | None = None
    predictor: Predictor | None = None
    watch: Callable[[Nets, Batch, jax.Array], dict[str, jax.Array]] | None = None
    variants: Mapping[str, Sample] = field(default_factory=dict)
    condition: Callable[[Nets, Batch, Keys], Batch] | None = None
    draws_structure: bool = False
    sampling: tuple[str, ...] = ()
    constants: Callable[[], Mapping[str, Any]] = dict
    begins: Mapping[str, str] = field(default_factory=dict)
    resize: Mapping[str, Callable[[Any, Any], Any]] = field(default_factory=dict)
    group: int = 1


@dataclass(frozen=True)
class Settings:
    """What a method adds to a config; its module has one as SETTINGS.

    defaults(res) gives fields and sections, nested. choices(res) gives arguments of a config file,
    as {'size': {'small': changes, 'base': changes}}: the first of each is the default. ablations
    are changes by name. fixed: paths of fields and sections that make another run where they
    differ.
    """

    defaults: Callable[[int], Mapping[str, Any]] = lambda res: {}
    choices: Callable[[int], Mapping[str, Mapping[str, Changes]]] = lambda res: {}
    ablations: Mapping[str, Changes] = field(default_factory=dict)
    fixed: tuple[str, ...] = ()


def settings_of(name: str) -> Settings:
    """The settings of the method that a name or path stands for; errors as in `make_method`."""
    return getattr(_module(name), 'SETTINGS', Settings())


def make_method(config: Any) -> Method:
    """The method that config.method names: a file of this folder, or a dotted module path.

    Raises ValueError where there is no such module or it has no make(config).
    """
    return _module(config.method).make(config)


def _module(name: str) -> Any:
    path = name if '.' in name else f'fi_jax.methods.{name}'
    try:
        module: Any = importlib.import_module(path)
    except ModuleNotFoundError as error:
        if not f'{path}.'.startswith(f'{error.name}.'):
            raise
        module = None
    if not hasattr(module, 'make'):
        raise ValueError(
            f'config.method={name!r}: {path} is no module with make(config); give the '
            'name of a file in fi_jax/methods/ or a dotted path'
        )
    return module
