"""Single layers, forward and backward, each in several forms that compute the same function.

    python -m benchmarks.layers --devices 1 --only upsample_conv

Shows what the comments of fi_jax/nets/layers.py claim, on this machine: which way of writing a
layer XLA's CPU backend runs fast. Shapes are those of the 64 px networks at batch 16, cut by the
number of devices, since each device runs its own part. The forms of a layer take turns; the first
is the one in use, and all are checked against it before they are timed. The last table has the
gradient of a convolution in a program's main computation and inside a branch (`fi_jax.canonical`).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import timing
from fi_jax import sharding
from fi_jax.canonical import canonical_convolutions
from fi_jax.nets import layers

Form = Callable[[jax.Array, jax.Array], jax.Array]


def conv(x: jax.Array, kernel: jax.Array, stride: int = 1, padding: Any = 'SAME') -> jax.Array:
    """XLA's own convolution, NHWC."""
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )


def upsampled(x: jax.Array) -> jax.Array:
    """Nearest upsampling by 2, by broadcast and reshape."""
    b, h, w, c = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None, :], (b, h, 2, w, 2, c))
    return x.reshape(b, 2 * h, 2 * w, c)


def resized(x: jax.Array) -> jax.Array:
    """Nearest upsampling by 2, by jax.image."""
    b, h, w, c = x.shape
    return jax.image.resize(x, (b, 2 * h, 2 * w, c), 'nearest')


def phases_of(kernel: jax.Array) -> jax.Array:
    """The kernels of the four output phases, (2,2,I,2,2,O), as layers.upsample_conv has them."""
    taps = jnp.asarray(layers._PHASE_TAPS, kernel.dtype)
    return jnp.einsum('aik,bjl,klco->ijcabo', taps, taps, kernel)


def phases_as_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """layers.upsample_conv with its 2x2 windows as a convolution instead of a product."""
    b, h, w, _ = x.shape
    o = kernel.shape[-1]
    phases = phases_of(kernel)
    y = conv(x, phases.reshape(2, 2, -1, 4 * o), padding=((1, 1), (1, 1)))
    y = y.reshape(b, h + 1, w + 1, 2, 2, o)
    rows = [jnp.stack([y[:, a : a + h, c : c + w, a, c] for c in (0, 1)], axis=3) for a in (0, 1)]
    return jnp.stack(rows, axis=2).reshape(b, 2 * h, 2 * w, o)


def columns(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """A 'SAME' convolution as one product over columns."""
    k, h, w = kernel.shape[0], x.shape[1], x.shape[2]
    pad = (k // 2, k // 2)
    x = jnp.pad(x, ((0, 0), pad, pad, (0, 0)))
    cut = [x[:, i : i + h, j : j + w] for i in range(k) for j in range(k)]
    return jnp.concatenate(cut, axis=-1) @ kernel.reshape(-1, kernel.shape[-1])


def down(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """layers.DownConv."""
    module = layers.DownConv(kernel.shape[-1], kernel.shape[0])
    params = {'kernel': kernel, 'bias': jnp.zeros(kernel.shape[-1])}
    return jnp.asarray(module.apply({'params': params}, x))


def norm_by_sums(x: jax.Array) -> jax.Array:
    """Group normalisation from sums and sums of squares of each channel."""
    b, h, w, c = x.shape
    sums = jnp.stack([x.sum((1, 2)), (x * x).sum((1, 2))])
    mean, square = sums.reshape(2, b, 8, c // 8).sum(-1) / (h * w * c / 8)
    scale = jax.lax.rsqrt(square - mean**2 + 1e-6)
    mean, scale = (jnp.repeat(v, c // 8, axis=1)[:, None, None, :] for v in (mean, scale))
    return (x - mean) * scale


def norm_two_pass(x: jax.Array) -> jax.Array:
    """Group normalisation with the mean taken off before squaring."""
    groups = x.reshape(*x.shape[:3], 8, -1)
    mean = groups.mean((1, 2, 4), keepdims=True)
    centred = groups - mean
    scale = jax.lax.rsqrt((centred**2).mean((1, 2, 4), keepdims=True) + 1e-6)
    return (centred * scale).reshape(x.shape)


def norm_of_flax(x: jax.Array) -> jax.Array:
    """Group normalisation of Flax, which reduces within the groups at once."""
    return jnp.asarray(nn.GroupNorm(8, use_bias=False, use_scale=False).apply({}, x))


def without_kernel(norm: Callable[[jax.Array], Any]) -> Form:
    """A form that uses one number of the kernel: normalisations have none."""
    return lambda x, kernel: norm(x) * kernel[0, 0, 0, 0]


UPS: dict[str, Form] = {
    'layers.upsample_conv': layers.upsample_conv,
    'windows, then product': lambda x, k: layers.windows_then_product(x, phases_of(k)),
    'product, then windows': lambda x, k: layers.product_then_windows(x, phases_of(k)),
    'windows as a convolution': phases_as_conv,
    'broadcast + convolution': lambda x, kernel: conv(upsampled(x), kernel),
    'image.resize + convolution': lambda x, kernel: conv(resized(x), kernel),
}
DOWNS: dict[str, Form] = {
    'layers.DownConv': down,
    'strided convolution': layers.strided_conv,
    'columns, then product': layers.columns_then_product,
}
SAMES: dict[str, Form] = {
    'lax convolution': conv,
    'product over columns': columns,
}
NORMS: dict[str, Form] = {
    'layers.group_norm': without_kernel(lambda x: layers.group_norm(x, jnp.float32)),
    'flax.linen.GroupNorm': without_kernel(norm_of_flax),
    'from sums': without_kernel(norm_by_sums),
    'two passes': without_kernel(norm_two_pass),
}

# layer -> its forms and cases (side of x, channels in, kernel size, channels out).
CASES: dict[str, tuple[Mapping[str, Form], tuple[tuple[int, int, int, int], ...]]] = {
    'upsample_conv': (UPS, ((8, 64, 3, 64), (16, 64, 3, 32), (32, 32, 3, 3), (32, 32, 3, 16))),
    'DownConv': (
        DOWNS,
        (
            (64, 8, 5, 32),
            (32, 32, 5, 64),
            (16, 64, 5, 128),
            (8, 128, 5, 128),
            (64, 4, 4, 16),
            (32, 16, 4, 32),
            (16, 32, 4, 64),
            (8, 64, 4, 128),
        ),
    ),
    'Conv': (SAMES, ((64, 20, 3, 16), (64, 16, 3, 3), (32, 64, 3, 32), (8, 128, 3, 128))),
    'group_norm': (NORMS, ((64, 16, 1, 1), (32, 32, 1, 1), (16, 64, 1, 1))),
}


def gradient(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Of a sum over a convolution, by both arguments."""
    return jax.grad(lambda x, kernel: (conv(x, kernel) ** 2).sum(), (0, 1))(x, kernel)


def in_a_branch(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function where a number is positive, else its arguments."""
    return lambda x, kernel: jax.lax.cond(
        kernel[0, 0, 0, 0] ** 2 >= 0, lambda: function(x, kernel), lambda: (x, kernel)
    )


BRANCHES: dict[str, Callable[..., Any]] = {
    'main computation': gradient,
    'branch': in_a_branch(gradient),
    'branch, canonical': in_a_branch(canonical_convolutions(gradient)),
}


def arrays(case: tuple[int, int, int, int], rows: int) -> tuple[jax.Array, jax.Array]:
    """Images and a kernel of a case."""
    side, channels, size, features = case
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(rows, side, side, channels)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(size, size, channels, features)), jnp.float32)
    return x, kernel


def time_branches(case: tuple[int, int, int, int], rows: int, args: Any) -> list[tuple[str, ...]]:
    """Rows of the table for the gradient of one convolution."""
    x, kernel = arrays(case, rows)
    runs = {}
    for name, function in BRANCHES.items():
        run = jax.jit(function, compiler_options=options_of(args))
        jax.block_until_ready(run(x, kernel))
        call = lambda run=run: jax.block_until_ready(run(x, kernel))  # noqa: E731
        runs[name] = timing.stopwatch(call, 1)
    seconds = timing.interleave(runs, args.rounds)
    base = np.median(seconds['main computation'])
    return [
        (name, f'{np.median(of) * 1e3:.2f}', f'{np.median(of) / base:.1f}')
        for name, of in seconds.items()
    ]


def options_of(args: Any) -> dict[str, str] | None:
    """Compiler options: those of the trainer, or none."""
    return None if args.ynn else sharding.compiler_options()


def agree(forms: Mapping[str, Form], x: jax.Array, kernel: jax.Array) -> None:
    """Raise AssertionError where a form computes another function than the first."""
    outputs = {name: np.asarray(form(x, kernel)) for name, form in forms.items()}
    first = next(iter(outputs.values()))
    for name, y in outputs.items():
        error = np.abs(y - first).max() / np.abs(first).max()
        assert error < 1e-5, f'{name}: differs by {error:.1e}'


def compiled(form: Form, backward: bool, options: Any) -> Callable[[jax.Array, jax.Array], Any]:
    """The form alone, or with its gradient by both arguments."""

    def loss(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return (form(x, kernel) ** 2).sum()

    return jax.jit(jax.grad(loss, (0, 1)) if backward else form, compiler_options=options)


def time_case(
    forms: Mapping[str, Form], case: tuple[int, int, int, int], rows: int, args: Any
) -> list[tuple[str, ...]]:
    """Rows of the table for one layer and one shape."""
    x, kernel = arrays(case, rows)
    agree(forms, x, kernel)
    options = options_of(args)
    seconds = {}
    for backward in (False, True):
        runs = {}
        for name, form in forms.items():
            run = compiled(form, backward, options)
            jax.block_until_ready(run(x, kernel))
            call = lambda run=run: jax.block_until_ready(run(x, kernel))  # noqa: E731
            runs[name] = timing.stopwatch(call, args.repeats)
        seconds[backward] = timing.interleave(runs, args.rounds)
    first = next(iter(forms))
    base = np.median(seconds[True][first])
    return [
        (
            name,
            f'{np.median(seconds[False][name]) * 1e3:.2f}',
            f'{min(seconds[True][name]) * 1e3:.2f}',
            f'{np.median(seconds[True][name]) * 1e3:.2f}',
            f'{np.median(seconds[True][name]) / base:.2f}',
        )
        for name in forms
    ]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    names = (*CASES, 'branch')
    add('--only', choices=names, nargs='+', default=names, help='these layers alone')
    add('--batch', type=int, default=16, help='images on all devices (default %(default)s)')
    add('--devices', type=int, default=timing.cores(), metavar='N',
        help='time one device of N, with its share of the batch (default: one a core)')  # fmt: skip
    add('--ynn', action='store_true', help='as XLA compiles by itself, with all of YNNPACK')
    add('--rounds', type=int, default=7, help='turns of each form (default %(default)s)')
    add('--repeats', type=int, default=3, help='calls a turn (default %(default)s)')
    args = parser.parse_args()

    rows = args.batch // args.devices
    print(timing.hardware('jax', 'jaxlib'))
    print(f'batch {rows} on a device; ratio: forward and backward, to the form in use\n')
    for layer in args.only:
        if layer == 'branch':
            case = (32, 64, 3, 64)
            columns_of = ('gradient: 32 px, 64 channels -> 64, 3x3', 'median', 'ratio')
            print(timing.table(columns_of, time_branches(case, rows, args)), flush=True)
            continue
        forms, cases = CASES[layer]
        for case in cases:
            side, channels, size, features = case
            shape = f'{side} px, {channels} channels'
            if layer != 'group_norm':
                shape += f' -> {features}, {size}x{size}'
            head = (f'{layer}: {shape}', 'forward', 'f+b min', 'f+b median', 'ratio')
            print(timing.table(head, time_case(forms, case, rows, args)), end='\n\n', flush=True)


if __name__ == '__main__':
    main()
