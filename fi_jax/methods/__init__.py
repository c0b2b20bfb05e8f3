"""What a method is: one file a system, found by name; the trainer knows none of them.

A method answers four questions. Which nets: `nets`, `inputs`, `ema`. Who plays: `stages`, a table
of phases. What a sample is: `sample`, from a standard normal vector. What to watch: `watch`. One
that draws no image but predicts points says in `predictor` how, and how that is judged and shown.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from fi_jax.features import Batch

Nets = Mapping[str, Any]  # name -> fi_jax.state.Net: call it, or call its .frozen
Loss = Callable[[Nets, Batch, jax.Array, jax.Array], tuple[jax.Array, dict[str, jax.Array]]]


@dataclass(frozen=True)
class Phase:
    """One move of a training step: the gradient of a loss, applied to some nets.

    loss(nets, batch, key, step) -> (scalar, {name: scalar to log}); step counts from the start of
    the stage. Each net in `nets` moves by its own optimizer. `every` plays the phase on each k-th
    step only (lazy regularisation); `repeats` plays it k times on a batch, each with its own key.
    """

    name: str
    nets: tuple[str, ...]
    loss: Loss
    every: int = 1
    repeats: int = 1


@dataclass(frozen=True)
class Predictor:
    """What a method that draws no image answers, how it is scored, and how it is shown.

    predict(nets, batch, noise) with noise (B,N,noise_dim) gives points (B,68,2), sigma (B,68) and
    samples (B,N,68,2), pixels of the crop. score(nets, batch, predicted) gives {name: (B,)}, NaN
    where nothing can be measured. sheet(arrays) draws a page (H,W,3) uint8 of a batch of the
    pipeline with what was predicted for it, on the host.
    """

    predict: Callable[[Nets, Batch, jax.Array], dict[str, jax.Array]]
    score: Callable[[Nets, Batch, dict[str, jax.Array]], dict[str, jax.Array]]
    sheet: Callable[[Mapping[str, np.ndarray]], np.ndarray]


@dataclass(frozen=True)
class Method:
    """One system; see the module's head.

    inputs(batch) gives each net's example arguments, for initialisation. sample(nets, batch,
    noise) with noise (B, noise_dim) gives {'image': (B,H,W,3) in [-1,1]} and any of landmark_map,
    face_mask, face_part, and told (B,68,2), the landmarks that led, in pixels, NaN where none did.
    watch(nets, batch, key) gives scalars and vectors that say whether z is used. The last
    structure_dim numbers of the noise choose the landmarks, all others the rest. They and the
    losses see prepared batches (`fi_jax.features.prepare`). Of `sample` and `predictor` a method
    has one. sampling: the nets that it needs, which an export keeps; empty: all.
    """

    nets: Mapping[str, Any]
    inputs: Callable[[Batch], Mapping[str, tuple[jax.Array, ...]]]
    stages: Mapping[str, tuple[Phase, ...]]
    noise_dim: int
    watch: Callable[[Nets, Batch, jax.Array], dict[str, jax.Array]]
    ema: tuple[str, ...]
    sample: Callable[[Nets, Batch, jax.Array], dict[str, jax.Array]] | None = None
    structure_dim: int = 0
    predictor: Predictor | None = None
    sampling: tuple[str, ...] = ()


def make_method(config: Any) -> Method:
    """The method that config.method names: a file of this folder, or a dotted module path.

    Raises ValueError where there is no such module or it has no make(config).
    """
    path = config.method if '.' in config.method else f'fi_jax.methods.{config.method}'
    try:
        module: Any = importlib.import_module(path)
    except ModuleNotFoundError as error:
        if not f'{path}.'.startswith(f'{error.name}.'):
            raise
        module = None
    make = getattr(module, 'make', None)
    if make is None:
        raise ValueError(
            f'config.method={config.method!r}: {path} is no module with make(config); give the '
            'name of a file in fi_jax/methods/ or a dotted path'
        )
    return make(config)
