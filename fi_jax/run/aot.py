"""Mode compile: the real train steps, compiled ahead of time for chips this machine lacks.

TPU topologies need `libtpu` (pip install '.[tpu]') and no TPU. 'cpu:8' compiles for eight of this
machine's own devices: FLOPs and collectives as XLA sees them, for hosts without libtpu.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging
from jax.experimental import topologies
from jax.sharding import Mesh

from fi_jax import sharding, steps
from fi_jax.methods import make_method
from fi_jax.optim import make_optimizers
from fi_jax.run.ahead import step_arguments
from fi_jax.run.writers import save_json
from fi_jax.state import TrainState, init_state

CELEBA_TRAIN = 162_770  # faces in the training split of CelebA (Liu et al., 2015)
EPOCHS = 100
ATTAINED = 0.4  # share of the bound that a well-tuned convolutional step reaches, a guess


class Chip(NamedTuple):
    """What a maker's data sheet says of one chip: bytes, bfloat16 FLOP/s, bytes/s, bytes/s."""

    hbm: float
    flops: float
    hbm_rate: float
    link_rate: float


CHIPS = {
    'v4': Chip(32 * 2**30, 275e12, 1228e9, 300e9),
    'v5e': Chip(16 * 2**30, 197e12, 819e9, 200e9),
    'v5p': Chip(95 * 2**30, 459e12, 2765e9, 600e9),
    'v6e': Chip(32 * 2**30, 918e12, 1640e9, 448e9),
    'a100': Chip(80 * 2**30, 312e12, 2039e9, 300e9),
    'h100': Chip(80 * 2**30, 989e12, 3350e9, 450e9),
}
# One device a chip: without it the compiler of a v4 sees two cores, and refuses.
TOPOLOGY_OPTIONS: dict[str, dict[str, Any]] = {
    'v4': dict(chip_config_name='megacore', chips_per_host_bounds=(2, 2, 1), num_slices=1,
               wrap=(False, False, False)),
}  # fmt: skip


class TooLarge(RuntimeError):
    """No step of the table fits the chip's memory."""


class SomeTooLarge(RuntimeError):
    """Some steps of the table fit the chip's memory and some do not."""


def compile_run(config: Any, workdir: str | Path, topology: str) -> list[dict[str, Any]]:
    """Compile each stage that has steps for a topology ('v5e:4x4', 'v4:2x2x1', 'cpu:8').

    One row for each stage and each batch of config.compile.batches (default: config.batch_size).
    Rows join those of earlier calls in <workdir>/compile.json, and the table is logged. Raises
    ValueError on an unknown topology, TooLarge or SomeTooLarge where memory does not suffice.
    """
    kind, devices = describe(topology)
    path = Path(workdir) / 'compile.json'
    rows = json.loads(path.read_text()) if path.exists() else []
    batches = tuple(config.compile.batches) or (config.batch_size,)
    stages = [stage for stage in make_method(config).stages if config.steps.get(stage, 0)]
    new = []
    for stage, batch in itertools.product(stages, batches):
        sized = config.copy_and_resolve_references()
        sized.batch_size = batch
        row = {'topology': topology, 'chips': len(devices), **measure(sized, stage, devices, kind)}
        new.append(row)
        rows = [r for r in rows if key_of(r) != key_of(row)] + [row]
        save_json(path, rows)
        logging.info('%s', as_text([row]))
    logging.info('%s\n%s', path, as_text(rows))
    if kind in CHIPS and not all(row['fits'] for row in new):
        large = [f'{r["stage"]} at batch {r["batch"]}' for r in new if not r['fits']]
        message = (
            f'{topology}: {", ".join(large)} ({config.res} px) does not fit the '
            f'{CHIPS[kind].hbm / 2**30:.0f} GiB of a chip; lower config.batch_size, or set '
            'config.accumulate, config.remat or config.mesh.fsdp'
        )
        raise (SomeTooLarge if any(row['fits'] for row in new) else TooLarge)(message)
    return new


def key_of(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What tells one row of the table from another."""
    names = ('topology', 'stage', 'res', 'batch', 'dtype', 'fsdp', 'accumulate', 'remat', 'level')
    return tuple(row.get(name) for name in names)


def describe(topology: str) -> tuple[str, Sequence[Any]]:
    """(chip, devices) of a topology; raises ValueError where it is unknown or has no compiler."""
    kind, _, shape = topology.partition(':')
    if kind == 'cpu' and shape.isdigit():
        devices = jax.devices('cpu')
        if len(devices) < int(shape):
            raise ValueError(
                f'--topology={topology}: this process has {len(devices)} CPU devices; add '
                f'--config.mesh.cpu_devices={shape}'
            )
        return kind, devices[: int(shape)]
    if kind not in CHIPS or not re.fullmatch(r'\d+(x\d+){1,2}', shape) or kind in ('a100', 'h100'):
        raise ValueError(
            f'--topology={topology!r}: write chip and shape, as v5e:4x4, v6e:2x2, v5p:2x2x1, '
            'v4:2x2x1 or cpu:8'
        )
    # libtpu would look for a TPU machine's metadata server, and wait.
    os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')
    os.environ.setdefault('TPU_ACCELERATOR_TYPE', 'v5litepod-4')
    os.environ.setdefault('TPU_WORKER_HOSTNAMES', 'localhost')
    os.environ.setdefault('TPU_WORKER_ID', '0')
    # It would also let one process of a machine in alone, which compilers need not be.
    os.environ.setdefault('ALLOW_MULTIPLE_LIBTPU_LOAD', '1')
    try:
        found = topologies.get_topology_desc(
            topology, platform='tpu', **TOPOLOGY_OPTIONS.get(kind, {})
        )
    except Exception as error:  # whatever the plugin raises, down to AssertionError
        raise ValueError(
            f"--topology={topology}: no compiler for it here; pip install '.[tpu]' brings libtpu. "
            f'It said: {error}'
        ) from error
    return kind, found.devices


def abstract_step(
    config: Any, stage: str, devices: Sequence[Any]
) -> tuple[Any, tuple[TrainState, Any, Any], Mesh]:
    """(jitted step, (state, batch, constants), mesh) of a stage; shapes with their shardings."""
    method = make_method(config)
    optimizers = make_optimizers(config, method.nets)
    mesh = sharding.make_mesh(config.mesh.fsdp, devices)
    state = jax.eval_shape(lambda: init_state(method, optimizers, config.res, config.seed))
    placement = sharding.place_state(state, mesh, config.mesh.fsdp_min_size)
    step = jax.jit(
        steps.make_train_step(method, stage, optimizers, config, mesh=mesh),
        donate_argnums=0,
        out_shardings=(placement, sharding.replicated(mesh)),
    )
    arguments = step_arguments(config, state, placement, method.constants())
    return step, arguments[:3], mesh


def measure(config: Any, stage: str, devices: Sequence[Any], kind: str) -> dict[str, Any]:
    """One row of the table: what the compiler says of one chip's part of a step, and bounds."""
    step, arguments, mesh = abstract_step(config, stage, devices)
    lazy = max(phase.every for phase in make_method(config).stages[stage])
    traced = step.trace(*arguments)
    flops = matmul_flops(traced.jaxpr.jaxpr)
    mean = matmul_flops(traced.jaxpr.jaxpr, cond=1.0 / lazy)
    row: dict[str, Any] = {
        'stage': stage, 'res': config.res, 'batch': config.batch_size, 'dtype': config.dtype,
        'fsdp': mesh.shape['fsdp'], 'accumulate': config.accumulate, 'remat': config.remat,
        'level': jax.config.values['jax_optimization_level'],
        'matmul_flops': flops / mesh.size, 'matmul_flops_mean': mean / mesh.size,
        'state_bytes': sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(arguments[0])),
    }  # fmt: skip
    begin = time.perf_counter()
    try:
        compiled = traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        if 'RESOURCE_EXHAUSTED' not in str(error):
            raise
        row |= {'fits': False, 'compile_s': time.perf_counter() - begin}
        # 'Used 20.5G of 15.75G hbm', or '... temporaries (20.00G) exceeds available HBM'.
        if said := re.search(r'(?:Used |\()([\d.]+)([KMGT])\b', str(error)):
            row['hbm_bytes'] = float(said[1]) * 1024 ** ('KMGT'.index(said[2]) + 1)
        return row
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    used = (
        memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes + memory.generated_code_size_in_bytes
    )  # fmt: skip
    row |= {
        'compile_s': time.perf_counter() - begin,
        'hbm_bytes': used,
        'temp_bytes': memory.temp_size_in_bytes,
        'alias_bytes': memory.alias_size_in_bytes,
        'output_bytes': memory.output_size_in_bytes,
        'flops': cost['flops'],
        'bytes': cost['bytes accessed'],
        'collectives': collective_bytes(compiled.as_text()),
        'fits': kind not in CHIPS or used <= CHIPS[kind].hbm,
    }
    if kind in CHIPS:
        row |= roofline(row, CHIPS[kind])
    return row


def roofline(row: Mapping[str, Any], chip: Chip) -> dict[str, Any]:
    """Lower bound of a step's seconds: the largest of arithmetic, memory and links.

    The share of lazy phases is taken out by their matrix products. hours are of EPOCHS passes over
    CelebA at the bound.
    """
    bounds = {
        'arithmetic': row['flops'] / chip.flops,
        'memory': row['bytes'] / chip.hbm_rate,
        'links': sum(row['collectives'].values()) / chip.link_rate,
    }
    limit = max(bounds, key=lambda name: bounds[name])
    seconds = bounds[limit] * row['matmul_flops_mean'] / row['matmul_flops']
    hours = EPOCHS * CELEBA_TRAIN / row['batch'] * seconds / 3600
    return {'bound_s': seconds, 'bound_by': limit, 'hours': hours}


def as_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table, a row a compiled step, numbers of one chip."""
    columns: list[tuple[str, int, Callable[[Mapping[str, Any]], str]]] = [
        ('topology', 10, lambda r: r['topology']),
        ('stage', 7, lambda r: r['stage']),
        ('px', 4, lambda r: str(r['res'])),
        ('batch', 6, lambda r: str(r['batch'])),
        ('dtype', 9, lambda r: r['dtype']),
        ('fsdp', 5, lambda r: str(r['fsdp'])),
        ('parts', 6, lambda r: str(r['accumulate'])),
        ('remat', 6, lambda r: 'yes' if r['remat'] else 'no'),
        ('GiB', 7, lambda r: f'{r["hbm_bytes"] / 2**30:.2f}'),
        ('fits', 5, lambda r: 'yes' if r['fits'] else 'NO'),
        ('GFLOP', 8, lambda r: f'{r["flops"] / 1e9:.1f}'),
        ('of nets', 8, lambda r: f'{r["flops"] / r["matmul_flops"]:.3f}'),
        ('GB', 7, lambda r: f'{r["bytes"] / 1e9:.2f}'),
        ('sent MB', 8, lambda r: f'{sum(r["collectives"].values()) / 1e6:.1f}'),
        ('aliased', 8, lambda r: f'{r["alias_bytes"] / max(r["output_bytes"], 1):.3f}'),
        ('bound ms', 9, lambda r: f'{1e3 * r["bound_s"]:.2f} {r["bound_by"][0]}'),
        ('days', 7, lambda r: f'{r["hours"] / 24 / ATTAINED:.2f}'),
        ('compile s', 10, lambda r: f'{r["compile_s"]:.0f}'),
        ('level', 7, lambda r: 'full' if r['level'] == 'UNKNOWN' else r['level']),
    ]

    def cell(row: Mapping[str, Any], show: Callable[[Mapping[str, Any]], str]) -> str:
        try:
            return show(row)
        except KeyError:
            return '-'

    head = ' '.join(f'{name:>{width}}' for name, width, _ in columns)
    body = [' '.join(f'{cell(r, show):>{w}}' for _, w, show in columns) for r in rows]
    note = (
        f'days: {EPOCHS} passes over CelebA at {ATTAINED:.0%} of the bound (a arithmetic, m memory,'
        ' l links); of nets: compiled FLOPs over those of the products of the step as written;'
        ' level: JAX_OPTIMIZATION_LEVEL, of which O0 compiles quickly and keeps more in memory'
    )
    return '\n'.join([head, *body, note])


# ------------------------------------------------------------------------------ reading programs

_BYTES = {'pred': 1, 's8': 1, 'u8': 1, 'bf16': 2, 'f16': 2, 's16': 2, 'u16': 2, 's32': 4, 'u32': 4,
          'f32': 4, 's64': 8, 'u64': 8, 'f64': 8}  # fmt: skip
_COLLECTIVE = re.compile(
    r' = (?P<shape>.*?) (?P<op>all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)'
    r'(?P<start>-start)?\('
)
_ARRAY = re.compile(r'(?P<type>[a-z]+\d*)\[(?P<dims>[\d,]*)\]')


def collective_bytes(hlo: str) -> dict[str, int]:
    """Bytes of the results of each kind of collective in a compiled program, per device.

    A loop's body counts once, and so does each branch.
    """
    total: dict[str, int] = {}
    for line in hlo.splitlines():
        if found := _COLLECTIVE.search(line):
            arrays = _ARRAY.findall(found['shape'])
            sizes = [_BYTES[t] * math.prod(int(d) for d in dims.split(',') if d)
                     for t, dims in arrays if t in _BYTES]  # fmt: skip
            if found['start'] and found['op'] in ('all-gather', 'collective-permute'):
                sizes = sizes[1:2]  # an asynchronous start returns its operand as well
            total[found['op']] = total.get(found['op'], 0) + sum(sizes)
    return total


def matmul_flops(jaxpr: Any, cond: float = 1.0) -> float:
    """FLOPs of the convolutions and matrix products of a jaxpr, 2 for a multiplication and sum.

    Products with padding or with the holes of a dilation are not counted, for a compiler leaves
    them out. Of a conditional the dearest branch counts in the share `cond` and the cheapest in
    the rest; a loop of unknown length counts once.
    """
    total = 0.0
    for eqn in jaxpr.eqns:
        name, params = eqn.primitive.name, eqn.params
        if name == 'dot_general':
            (contract, _), _ = params['dimension_numbers']
            lhs = eqn.invars[0].aval.shape
            total += 2.0 * math.prod(eqn.outvars[0].aval.shape) * math.prod(
                lhs[axis] for axis in contract
            )  # fmt: skip
        elif name == 'conv_general_dilated':
            total += _conv_flops(eqn)
        elif name == 'cond':
            costs = [matmul_flops(branch.jaxpr, cond) for branch in params['branches']]
            total += cond * max(costs) + (1 - cond) * min(costs)
        else:
            times = params.get('length', 1) if name == 'scan' else 1
            total += times * sum(matmul_flops(sub, cond) for sub in _inner(params))
    return total


def _inner(params: Mapping[str, Any]) -> Iterator[Any]:
    for value in params.values():
        for sub in value if isinstance(value, list | tuple) else (value,):
            sub = getattr(sub, 'jaxpr', sub)
            if hasattr(sub, 'eqns'):
                yield sub


def _conv_flops(eqn: Any) -> float:
    p, (lhs, rhs) = eqn.params, (x.aval.shape for x in eqn.invars)
    out, numbers = eqn.outvars[0].aval.shape, p['dimension_numbers']
    pairs = 1
    for i in range(len(p['window_strides'])):
        n, k = lhs[numbers.lhs_spec[2 + i]], rhs[numbers.rhs_spec[2 + i]]
        at = (
            np.arange(out[numbers.out_spec[2 + i]])[:, None] * p['window_strides'][i]
            + np.arange(k)[None, :] * p['rhs_dilation'][i]
            - p['padding'][i][0]
        )
        hole = p['lhs_dilation'][i]
        pairs *= int(((at >= 0) & (at <= (n - 1) * hole) & (at % hole == 0)).sum())
    rows, channels = (out[numbers.out_spec[i]] for i in (0, 1))
    depth = rhs[numbers.rhs_spec[1]]
    return 2.0 * rows * channels * depth * pairs / p['batch_group_count']
