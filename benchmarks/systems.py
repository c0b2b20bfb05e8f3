"""Parameters and cost of each system, by network and as a whole.

    python -m benchmarks.systems
    python -m benchmarks.systems picnet:size=paper,res=256

GFLOP count the multiplications and additions of convolutions and products: of one completion drawn,
and of a training step for each photo of its batch, the last stage, phases by how often they run.
Nothing is computed: shapes are traced.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from benchmarks.step_vs_torch import count_flops
from benchmarks.timing import table
from fi_jax import features
from fi_jax.methods import Method, make_method
from fi_jax.optim import make_optimizers
from fi_jax.state import TrainState, bind_ema, example_batch, init_state
from fi_jax.steps import make_train_step

SYSTEMS = (
    'stage2',
    'stage2:preset=seed',
    'flow',
    'bicyclegan',
    'bicyclegan:size=paper,res=256',
    'piigan',
    'piigan:size=paper,res=128',
    'degan',
    'degan:size=paper,res=256',
    'picnet',
    'picnet:size=paper,res=256',
    'stargan',
    'stargan:size=paper,res=256',
    'pdgan',
    'pdgan:size=paper,res=256',
)


def config_of(name: str) -> Any:
    """The config of a name as after --config=."""
    module, _, arg = name.partition(':')
    return importlib.import_module(f'configs.{module}').get_config(arg)


def shapes_of(config: Any) -> tuple[Method, TrainState]:
    """The method of a config and the shapes of its state."""
    method = make_method(config)
    optimizers = make_optimizers(config, method.nets)
    return method, jax.eval_shape(lambda: init_state(method, optimizers, config.res, 0))


def parameters(state: TrainState) -> dict[str, int]:
    """How many numbers each network learns."""
    return {
        name: sum(int(np.prod(x.shape, dtype=np.int64)) for x in jax.tree.leaves(net.params))
        for name, net in state.nets.items()
    }


def gflops(config: Any, method: Method, state: TrainState) -> tuple[float, float]:
    """Of one completion, and of a step of the last stage for each photo of its batch."""
    rows = config.batch_size
    batch = example_batch(config.res, rows)
    key = jax.random.key(0)

    def draw(nets: Any, batch: Any, key: jax.Array) -> Any:
        assert method.sample is not None
        bound, batch, keys = (
            bind_ema(method, nets),
            features.prepare(batch),
            jax.random.split(key, rows),
        )
        if method.condition is not None:
            batch = method.condition(bound, batch, keys)
        return method.sample(bound, batch, keys)

    drawn = count_flops(jax.make_jaxpr(draw)(state.nets, batch, key).jaxpr, max)
    (*_, stage) = [name for name in method.stages if config.steps[name]]
    optimizers = make_optimizers(config, method.nets)
    step = make_train_step(method, stage, optimizers, config)
    jaxpr = jax.make_jaxpr(step)(state, batch, method.constants()).jaxpr
    idle, full = (count_flops(jaxpr, branch) for branch in (min, max))
    every = max(phase.every for phase in method.stages[stage])
    return drawn / rows / 1e9, (idle + (full - idle) / every) / rows / 1e9


def main(names: Sequence[str]) -> None:
    """Print a row for each system."""
    rows, networks = [], []
    for name in names or SYSTEMS:
        config = config_of(name)
        method, state = shapes_of(config)
        counts = parameters(state)
        drawn, step = gflops(config, method, state)
        drawing = sum(counts[net] for net in method.sampling or counts) / 1e6
        numbers = (drawing, sum(counts.values()) / 1e6, drawn, step)
        rows.append((name, str(config.res), *(f'{x:.2f}' for x in numbers)))
        parts = ', '.join(f'{net} {count / 1e6:.2f} M' for net, count in counts.items())
        networks.append(f'{name}: {parts}')
    heads = ('system', 'px', 'M that draw', 'M in all', 'GFLOP a sample', 'GFLOP a photo')
    print(table(heads, rows), *networks, sep='\n')


if __name__ == '__main__':
    main(sys.argv[1:])
