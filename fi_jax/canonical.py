"""Convolutions that XLA's CPU compiler keeps fast: in branches, loops and gradient penalties."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

CONVOLUTION = 'conv_general_dilated'
CALLS = ('jit', 'closed_call', 'eval_jaxpr', 'custom_jvp_call', 'custom_vjp_call')
REMAT = 'remat2'  # of jax.checkpoint


def canonical_convolutions(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with each convolution as one of NHWC by HWIO, between transpositions.

    The same values, to the bit but where operands are swapped. XLA's CPU compiler is fast in that
    order alone: it brings others into it in a program's main computation, and leaves those in
    branches and loops as they are, up to a hundred times slower; gradients by kernels have another
    order. What it would turn into a window that runs backwards is turned around beforehand
    (`_swapped`). Convolutions in branches and loops of the function itself stay as they are. Not to
    be differentiated.
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
    x, kernel = x.transpose(features_last(of_x)), kernel.transpose(*sides, inputs, outputs)
    plain = (
        how['feature_group_count'] == how['batch_group_count'] == max(how['window_strides']) == 1
    )
    if plain and math.prod(kernel.shape[:-2]) > math.prod(x.shape[1:-1]):
        y = _swapped(x, kernel, **how)
    else:
        y = _nhwc(x, kernel, **how)
    order = features_last(of_out)
    return y.transpose([order.index(axis) for axis in range(x.ndim)])


def _nhwc(x: jax.Array, kernel: jax.Array, **how: Any) -> jax.Array:
    last = x.ndim - 1
    nhwc = (0, last, *range(1, last))
    hwio = (last, last - 1, *range(last - 1))
    numbers = jax.lax.ConvDimensionNumbers(nhwc, hwio, nhwc)
    return jax.lax.conv_general_dilated_p.bind(x, kernel, dimension_numbers=numbers, **how)


def _swapped(
    x: jax.Array, kernel: jax.Array, padding: Any, lhs_dilation: Any, rhs_dilation: Any, **how: Any
) -> jax.Array:
    """A convolution by more pixels than it has: x moved over the kernel, the result turned around.

    XLA does the same by a window that runs backwards, for which it has nothing quick. Gradients of
    penalties on gradients have such.
    """

    def spread(sides: Sequence[int], dilation: Sequence[int]) -> list[int]:
        return [(side - 1) * step + 1 for side, step in zip(sides, dilation, strict=True)]

    of_x, of_kernel = spread(x.shape[1:-1], lhs_dilation), spread(kernel.shape[:-2], rhs_dilation)
    around = [
        (n + high - m, low + n - m)
        for n, m, (low, high) in zip(of_x, of_kernel, padding, strict=True)
    ]
    y = _nhwc(
        jnp.moveaxis(kernel, -1, 0),
        jnp.moveaxis(x, 0, -1),
        padding=tuple(around),
        lhs_dilation=rhs_dilation,
        rhs_dilation=lhs_dilation,
        **how,
    )
    for axis in range(1, y.ndim - 1):  # XLA would fold a `rev` into the convolution again
        rows = [jax.lax.slice_in_dim(y, i, i + 1, axis=axis) for i in range(y.shape[axis])]
        y = jax.lax.concatenate(rows[::-1], axis)
    return jnp.swapaxes(y, 0, -1)
