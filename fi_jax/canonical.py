"""Convolutions that XLA's CPU compiler keeps fast inside branches and loops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend import core

CONVOLUTION = 'conv_general_dilated'
CALLS = ('jit', 'closed_call', 'eval_jaxpr', 'custom_jvp_call', 'custom_vjp_call')
REMAT = 'remat2'  # of jax.checkpoint


def canonical_convolutions(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with each convolution as one of NHWC by HWIO, between transpositions.

    The same values to the last bit. XLA's CPU compiler has fast convolutions for that order alone:
    it brings others into it in a program's main computation, but leaves those in branches and loops
    as they are, a hundred times slower; gradients by kernels have another order. Convolutions in
    branches and loops of the function itself stay as they are. Not to be differentiated.
    """

    def wrapped(*args: Any) -> Any:
        closed, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
        out = _evaluate(closed.jaxpr, closed.consts, jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(shapes), out)

    return wrapped


def _evaluate(jaxpr: Any, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
    values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *args), strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else values[atom]

    for eqn in jaxpr.eqns:
        name, params, inputs = eqn.primitive.name, eqn.params, [read(x) for x in eqn.invars]
        inner = params.get('jaxpr', params.get('call_jaxpr'))
        if name == CONVOLUTION:
            out = [_convolution(*inputs, **params)]
        elif name in CALLS:
            out = _evaluate(inner.jaxpr, inner.consts, inputs)
        else:
            if name == REMAT:
                params, more = _rewritten(params)
                inputs = [*more, *inputs]
            found = eqn.primitive.bind(*inputs, **eqn.primitive.get_bind_params(params))
            out = found if eqn.primitive.multiple_results else [found]
        values.update(zip(eqn.outvars, out, strict=True))
    return [read(x) for x in jaxpr.outvars]


def _rewritten(params: dict[str, Any]) -> tuple[dict[str, Any], Sequence[Any]]:
    """A remat with canonical convolutions, and the constants that go before its inputs."""
    jaxpr, cse = params['jaxpr'], params['prevent_cse']
    shapes = [x.aval for x in jaxpr.invars]
    closed = jax.make_jaxpr(lambda *args: _evaluate(jaxpr, [], args))(*shapes)
    consts, count = closed.consts, len(closed.consts)

    def opened(*args: Any) -> list[Any]:
        return _evaluate(closed.jaxpr, args[:count], args[count:])

    if not isinstance(cse, bool):  # one for each input
        cse = (True,) * count + tuple(cse)
    jaxpr = jax.make_jaxpr(opened)(*consts, *shapes).jaxpr
    return params | {'jaxpr': jaxpr, 'prevent_cse': cse}, consts


def _convolution(x: jax.Array, kernel: jax.Array, dimension_numbers: Any, **how: Any) -> jax.Array:
    def features_last(spec: Sequence[int]) -> tuple[int, ...]:
        return spec[0], *spec[2:], spec[1]

    of_x, of_kernel, of_out = dimension_numbers
    outputs, inputs, *sides = of_kernel
    last = x.ndim - 1
    nhwc = (0, last, *range(1, last))
    hwio = (last, last - 1, *range(last - 1))
    y = jax.lax.conv_general_dilated_p.bind(
        x.transpose(features_last(of_x)),
        kernel.transpose(*sides, inputs, outputs),
        dimension_numbers=jax.lax.ConvDimensionNumbers(nhwc, hwio, nhwc),
        **how,
    )
    order = features_last(of_out)
    return y.transpose([order.index(axis) for axis in range(x.ndim)])
