"""Whole training states, fresh or of a run folder, for tests that compare states."""

import functools

import jax

from fi_jax import sharding
from fi_jax.methods import make_method
from fi_jax.optim import make_optimizers
from fi_jax.run.checkpoint import Checkpointer
from fi_jax.state import init_state


@functools.cache
def fresh(config, seed=0):
    """(method, optimizers, first state) of a frozen config, whose arrays must not be donated."""
    method = make_method(config)
    optimizers = make_optimizers(config, method.nets)
    # Compiled as one: op by op it takes three times as long.
    return method, optimizers, jax.jit(lambda: init_state(method, optimizers, config.res, seed))()


def state_of(config, workdir):
    """The state of its newest checkpoint, on the host."""
    method = make_method(config)
    shapes = jax.eval_shape(
        lambda: init_state(method, make_optimizers(config, method.nets), config.res, config.seed)
    )
    replicated = sharding.replicated(sharding.make_mesh())
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated), shapes
    )
    with Checkpointer(workdir) as checkpointer:
        return jax.device_get(checkpointer.restore(like)[0])
