"""Programs that are compiled before they are needed, beside what a run does meanwhile."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from fi_jax import sharding
from fi_jax.batch import BATCH, label_names, shapes
from fi_jax.state import TrainState


class Ahead:
    """Compiles jitted functions in a thread, one after the other; their first call finds it done.

    A call finds it where its arguments have the shapes, types and shardings that were told; else it
    compiles as ever. Use as a context.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, 'compile')
        self._begun: dict[Any, Future[Any]] = {}

    def __enter__(self) -> Ahead:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def begin(self, program: Any, *args: Any) -> None:
        """Compile a jitted function for such arguments: arrays, or their shapes and shardings."""
        like = jax.tree.map(_like, args)
        self._begun[program] = self._pool.submit(lambda: program.lower(*like).compile())

    def wait(self, program: Any) -> None:
        """Wait until it is compiled, if that was begun; an error is left to its own call."""
        if program in self._begun:
            self._begun.pop(program).exception()


def _like(x: Any) -> Any:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)


def step_arguments(
    config: Any, fresh: TrainState, placement: TrainState, constants: Mapping[str, Any]
) -> tuple[Any, ...]:
    """What a training step is called with: shapes and shardings; fresh: those of the state."""
    mesh = jax.tree.leaves(placement)[0].mesh
    one, many = sharding.replicated(mesh), sharding.by_example(mesh)
    state = jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), fresh, placement
    )
    sizes = {'B': config.batch_size, 'R': config.res, 'K': len(label_names(config))}
    batch = {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=many)
        for name, (shape, dtype) in shapes(BATCH, **sizes).items()
    }
    constants = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=one), dict(constants)
    )
    moment = jax.ShapeDtypeStruct((), np.float32, sharding=one) if config.minutes else None
    return state, batch, constants, moment, jax.ShapeDtypeStruct((), np.int32, sharding=one)
