"""Which parameters a loss trains, read off its traced derivative: nothing is computed."""

import jax
import jax.numpy as jnp

from fi_jax import features
from fi_jax.optim import make_optimizers
from fi_jax.state import bind, init_state


def moved(config, method, phase, batch):
    """{term of the phase: {(net, part)}} of the parameters that it has a gradient by."""
    optimizers = make_optimizers(config, method.nets)
    state = jax.eval_shape(lambda: init_state(method, optimizers, config.res, 0))
    params = {name: net.params for name, net in state.nets.items()}
    paths = [
        tuple(key.key for key in path[:2])
        for path, _ in jax.tree_util.tree_leaves_with_path(params)
    ]

    def tangents(moves, nets):
        def terms(params):
            bound = {**bind(method, nets, params), **method.constants()}
            return phase.loss(bound, features.prepare(batch), jax.random.key(0), jnp.int32(0))[1]

        return jax.jvp(terms, ({name: net.params for name, net in nets.items()},), (moves,))[1]

    traced, out = jax.make_jaxpr(tangents, return_shape=True)(params, state.nets)
    rest = [set()] * (len(traced.jaxpr.invars) - len(paths))
    outputs = _sources(traced.jaxpr, [{path} for path in paths] + rest)
    return dict(zip(out, outputs, strict=True))


def _sources(jaxpr, inputs):
    """Which of the inputs' sources each output stems from."""
    known = dict(zip(jaxpr.invars, inputs, strict=True))

    def of(variables):
        return [set() if hasattr(v, 'val') else known.get(v, set()) for v in variables]

    for eqn in jaxpr.eqns:
        found = of(eqn.invars)
        if eqn.primitive.name == 'jit':  # else values would stem from what their tangents do
            outputs = _sources(eqn.params['jaxpr'].jaxpr, found)
        else:
            outputs = [set().union(*found)] * len(eqn.outvars)
        known |= zip(eqn.outvars, outputs, strict=True)
    return of(jaxpr.outvars)


def nets(parts):
    """The nets alone, of each term."""
    return {term: {net for net, _ in found} for term, found in parts.items()}
