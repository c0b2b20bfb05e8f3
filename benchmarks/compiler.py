"""A training step of any system under three ways of XLA's CPU compiler to use YNNPACK.

    python -m benchmarks.compiler piigan:res=64 flow:size=small,res=64 --batch 16

As the trainer compiles (`sharding.compiler_options`), as XLA does by itself, and without YNNPACK,
in turns in one process; the step is one without the phases that not every step has. Faces are drawn
ones. For quiet figures nothing else may run.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from typing import Any

import jax

from benchmarks import timing
from benchmarks.step_vs_torch import NO_YNN, make_batch
from fi_jax import sharding, steps
from fi_jax.methods import make_method
from fi_jax.optim import make_optimizers
from fi_jax.state import init_state


def ways() -> dict[str, dict[str, str] | None]:
    """Compiler options by name, the trainer's first."""
    return {'as trained': sharding.compiler_options(), 'XLA alone': None, 'no YNNPACK': NO_YNN}


def contestants(config: Any) -> dict[str, Callable[[], None]]:
    """Compiled steps of the config's first stage, each from the same state, by their options."""
    method = make_method(config)
    stage = next(stage for stage, count in config.steps.items() if count)
    optimizers = make_optimizers(config, method.nets)
    state = jax.jit(lambda: init_state(method, optimizers, config.res, config.seed))()
    state = state.replace(step=state.step + 1)  # lazy phases run at multiples
    batch, constants = jax.device_put((make_batch(config), dict(method.constants())))
    traced = steps.make_train_step(method, stage, optimizers, config)

    def compiled(options: dict[str, str] | None) -> Callable[[], None]:
        step = jax.jit(traced, compiler_options=options)

        def run() -> None:
            jax.block_until_ready(step(state, batch, constants))

        return run

    return {name: compiled(options) for name, options in ways().items()}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('configs', nargs='+', help='as after --config=')
    parser.add_argument('--batch', type=int, default=16, help='images (default %(default)s)')
    parser.add_argument('--rounds', type=int, default=3, help='turns (default %(default)s)')
    args = parser.parse_args()

    rows = []
    for argument in args.configs:
        name, _, of_config = argument.partition(':')
        config = importlib.import_module(f'configs.{name}').get_config(of_config)
        config.batch_size, config.dtype = args.batch, 'float32'
        runs = contestants(config)
        for run in runs.values():
            run()  # compiles
        turns = {name: timing.stopwatch(run, 1) for name, run in runs.items()}
        best = [min(of) for of in timing.interleave(turns, args.rounds).values()]
        rows.append((argument, *(f'{x:.2f}' for x in best), f'{args.batch / best[0]:.0f}'))
    heads = ('config', *(f'{name}, s' for name in ways()), 'images a second')
    print(timing.hardware('jax', 'jaxlib'))
    print(f'a step of batch {args.batch}, float32, the best of {args.rounds}\n')
    print(timing.table(heads, rows))


if __name__ == '__main__':
    main()
