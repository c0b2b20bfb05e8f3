"""Devices, mesh, and where state and batches lie; the one place that chooses by backend."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

PyTree = Any
BATCH_AXES = ('data', 'fsdp')


def configure_backend(config: Any) -> None:
    """Settings that must stand before JAX meets its devices. Call once, first, in a program.

    On a CPU: one device for two cores, in a number that divides the batch (a device for each core
    was measured no faster in stage 2 and slower in stage 1: their gradients must be summed); and
    patience where devices wait for one another on a busy machine.
    Everywhere: the persistent compilation cache.
    """
    flags = os.environ.get('XLA_FLAGS', '')
    if 'terminate_timeout' not in flags:
        os.environ['XLA_FLAGS'] = (
            f'{flags} --xla_cpu_collective_call_warn_stuck_timeout_seconds=120'
            ' --xla_cpu_collective_call_terminate_timeout_seconds=600'
        ).strip()
    if 'device_count' not in flags:
        wanted = config.mesh.cpu_devices or max(1, _cores() // 2)
        jax.config.update('jax_num_cpu_devices', _largest_divisor(config.batch_size, wanted))
    keep_compiled(config.compile_cache)


@functools.cache
def compiler_options() -> dict[str, str] | None:
    """Compiler options under which networks are quicker on a CPU; None elsewhere.

    YNNPACK sums and takes maxima, where XLA's own loops are slow, but leaves convolutions to Eigen,
    whose gradients by kernels are two to five times as quick and use all cores. None where another
    release of XLA knows no such option. docs/operations.md has what it is worth.
    """
    options = {'xla_cpu_experimental_ynn_fusion_type': 'LIBRARY_FUSION_TYPE_REDUCE'}
    if jax.default_backend() != 'cpu':
        return None
    try:
        jax.jit(lambda: 0, compiler_options=options)()
    except jax.errors.JaxRuntimeError:
        return None
    return options


def on_cpu(mesh: Mesh | None) -> bool:
    """Whether a program of that mesh, or of JAX's own devices, runs on CPUs."""
    devices = jax.devices() if mesh is None else mesh.devices.flat
    return devices[0].platform == 'cpu'


def keep_compiled(folder: str) -> None:
    """Compiled programs are kept in a folder for the next start; '' keeps none.

    What JAX's own variables of the environment say, JAX_COMPILATION_CACHE_DIR first, goes before.
    """
    if not folder:
        return
    settings = {
        'jax_compilation_cache_dir': str(Path(folder).expanduser()),
        'jax_persistent_cache_min_compile_time_secs': 2.0,
    }
    for name, value in settings.items():
        if name.upper() not in os.environ:
            jax.config.update(name, value)


def _largest_divisor(number: int, limit: int) -> int:
    return max(k for k in range(1, min(number, limit) + 1) if number % k == 0)


def make_mesh(fsdp: int = 1, devices: Sequence[Any] | None = None) -> Mesh:
    """All devices of all hosts on two axes, 'data' and 'fsdp'; a batch is sharded over both.

    fsdp: devices over which the state is sharded; 1 replicates it, 0 shards it over all, the
    number of a host's devices cuts within a host and copies between hosts. Slices of TPUs joined by
    a data-centre network are joined on 'data'. Raises ValueError where fsdp does not divide.
    """
    devices = jax.devices() if devices is None else devices
    fsdp = fsdp or len(devices)
    if fsdp < 0 or len(devices) % fsdp:
        raise ValueError(
            f'config.mesh.fsdp={fsdp} does not divide the {len(devices)} devices; choose a divisor,'
            ' or 0 for all'
        )
    shape = (len(devices) // fsdp, fsdp)
    slices = len({getattr(d, 'slice_index', 0) for d in devices})
    if slices > 1 and shape[0] % slices == 0:
        grid = mesh_utils.create_hybrid_device_mesh(
            (shape[0] // slices, fsdp), (slices, 1), devices=list(devices)
        )
    else:
        grid = mesh_utils.create_device_mesh(shape, list(devices))
    # Auto axes: the default of jax.make_mesh, Explicit, refuses a sharded kernel in a convolution.
    return Mesh(grid, BATCH_AXES, axis_types=(AxisType.Auto,) * 2)


def data_workers(wanted: int, mesh: Mesh) -> int:
    """How many processes read training data: `wanted`, or, where that is -1, as the cores allow.

    Threads of one interpreter decode for a CPU that trains; an accelerator waits for them, and two
    cores are left to feed it.
    """
    if wanted >= 0:
        return wanted
    if mesh.devices.flat[0].platform == 'cpu':
        return 0
    return min(max(_cores() - 2, 0), 16)


def _cores() -> int:
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def replicated(mesh: Mesh) -> NamedSharding:
    """The same value on each device."""
    return NamedSharding(mesh, PartitionSpec())


def by_example(mesh: Mesh) -> NamedSharding:
    """The leading axis sharded over the devices."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def place_state(tree: PyTree, mesh: Mesh, min_size: int) -> PyTree:
    """A sharding for each array of a state (or its shapes).

    An array of at least min_size numbers is sharded over 'fsdp' along its largest dimension that
    divides; the last of equals, for the output channels are whole tiles. The rest is replicated.
    """
    width = mesh.shape['fsdp']

    def place(x: Any) -> NamedSharding:
        fits = [(size, axis) for axis, size in enumerate(x.shape) if size % width == 0]
        if width == 1 or math.prod(x.shape) < min_size or not fits:
            return replicated(mesh)
        spec: list[str | None] = [None] * len(x.shape)
        spec[max(fits)[1]] = 'fsdp'
        return NamedSharding(mesh, PartitionSpec(*spec))

    return jax.tree.map(place, tree)


def shard_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This host's part of a batch -> global arrays, sharded by example.

    Raises ValueError where the global batch does not divide by the number of devices.
    """
    rows = len(next(iter(batch.values()))) * jax.process_count()
    if rows % mesh.size:
        raise ValueError(
            f'config.batch_size={rows} does not divide by the {mesh.size} devices; '
            'choose a multiple of them, or fewer devices with config.mesh.cpu_devices on a CPU'
        )
    sharding = by_example(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, x) for name, x in batch.items()}


class Row(NamedTuple):
    """One line of the sharding table; bytes are of one device's part."""

    name: str
    arrays: int
    sharded: int
    bytes_whole: int
    bytes_device: int


def table(nets: Mapping[str, PyTree], placement: Mapping[str, PyTree]) -> list[Row]:
    """For each network, weights, statistics, moments and averages together: what is sharded."""
    rows = []
    for name, net in nets.items():
        leaves, places = jax.tree.leaves(net), jax.tree.leaves(placement[name])
        whole = [x.size * x.dtype.itemsize for x in leaves]
        part = [
            math.prod(place.shard_shape(x.shape)) * x.dtype.itemsize
            for x, place in zip(leaves, places, strict=True)
        ]
        sharded = sum(a != b for a, b in zip(whole, part, strict=True))
        rows.append(Row(name, len(leaves), sharded, sum(whole), sum(part)))
    return rows


def as_text(rows: Sequence[Row], mesh: Mesh) -> str:
    """The sharding table as lines for a log."""
    total = Row('all', *(sum(column) for column in list(zip(*rows, strict=True))[1:]))
    lines = [f'mesh {dict(mesh.shape)}: a batch is sharded over both axes, the state over fsdp']
    lines.append(f'{"network":<12}{"arrays":>8}{"sharded":>9}{"MB":>10}{"MB a device":>14}')
    lines += [
        f'{r.name:<12}{r.arrays:>8}{r.sharded:>9}{r.bytes_whole / 1e6:>10.2f}'
        f'{r.bytes_device / 1e6:>14.2f}'
        for r in [*rows, total]
    ]
    return '\n'.join(lines)
