"""The training state, a plain pytree, and the binding of networks to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from flax.core import tracers

from fi_jax import batch, features, rng
from fi_jax.methods import Method

PyTree = Any


class NetState(struct.PyTreeNode):
    """All that training keeps of one network; ema is {} where none is kept."""

    params: PyTree
    stats: PyTree
    opt_state: PyTree
    ema: PyTree


class TrainState(struct.PyTreeNode):
    """step counts finished steps over all stages; skips counts non-finite steps in a row."""

    step: jax.Array
    skips: jax.Array
    nets: dict[str, NetState]


class Net:
    """A network with its parameters, for the length of one trace.

    Calling it applies it; `frozen` applies it with no gradient to its parameters (its inputs keep
    theirs). Where a call moves running statistics they are found in `stats` afterwards; those of a
    call inside another transformation (a gradient penalty, a scan) end with it. remat keeps a
    call's inputs alone for the way back, and draws the rest again.
    """

    def __init__(self, module: Any, params: PyTree, stats: PyTree, remat: bool = False):
        self._module, self._params, self.stats = module, params, stats
        self._remat = remat
        self._trace = tracers.current_trace()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._apply(self._params, args, kwargs)

    def frozen(self, *args: Any, **kwargs: Any) -> Any:
        return self._apply(jax.lax.stop_gradient(self._params), args, kwargs)

    def _apply(self, params: PyTree, args: tuple, kwargs: dict) -> Any:
        def call(variables: PyTree, *args: Any) -> Any:
            return self._module.apply(variables, *args, mutable=list(self.stats), **kwargs)

        call = jax.checkpoint(call) if self._remat else call
        out, stats = call({'params': params, **self.stats}, *args)
        if tracers.current_trace() == self._trace:
            self.stats = stats
        return out


def bind(
    method: Method,
    nets: Mapping[str, NetState],
    params: Mapping[str, PyTree] | None = None,
    remat: bool = False,
) -> dict[str, Net]:
    """The method's networks with the state's parameters, or with those given instead.

    Where the state has only some of them, only those.
    """
    params = params or {}
    return {
        name: Net(module, params.get(name, nets[name].params), nets[name].stats, remat)
        for name, module in method.nets.items()
        if name in nets
    }


def bind_ema(method: Method, nets: Mapping[str, NetState]) -> dict[str, Net]:
    """The method's networks as they are evaluated: averaged where an average is kept."""
    return bind(method, nets, {name: net.ema for name, net in nets.items() if net.ema})


def example_batch(res: int, batch_size: int = 1) -> dict[str, np.ndarray]:
    """Zeros, each of weight 1, in the shapes and types of `fi_jax.batch.BATCH`."""
    empty = batch.zeros(batch.BATCH, B=batch_size, R=res)
    return empty | {'weight': np.ones_like(empty['weight'])}


def init_state(
    method: Method,
    optimizers: Mapping[str, optax.GradientTransformation],
    res: int,
    seed: int,
) -> TrainState:
    """A fresh state. Jit it, so that the averages are buffers of their own, fit for donation."""
    inputs = method.inputs(features.prepare(example_batch(res)))
    nets = {}
    for name, module in method.nets.items():
        variables = dict(module.init(rng.key(seed, f'init/{name}'), *inputs[name]))
        params = variables.pop('params', {})
        ema = jax.tree.map(jnp.copy, params) if name in method.ema else {}
        nets[name] = NetState(params, variables, optimizers[name].init(params), ema)
    zero = jnp.zeros((), jnp.int32)
    return TrainState(step=zero, skips=zero, nets=nets)
