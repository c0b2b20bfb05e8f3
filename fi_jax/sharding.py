"""Devices, mesh and batch placement; the one place that chooses by backend."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


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
        cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
        wanted = config.mesh.cpu_devices or max(1, (cores or 1) // 2)
        jax.config.update('jax_num_cpu_devices', _largest_divisor(config.batch_size, wanted))
    if config.compile_cache:
        cache = Path(config.compile_cache).expanduser()
        jax.config.update('jax_compilation_cache_dir', str(cache))
        jax.config.update('jax_persistent_cache_min_compile_time_secs', 2.0)


def _largest_divisor(number: int, limit: int) -> int:
    return max(k for k in range(1, min(number, limit) + 1) if number % k == 0)


def make_mesh() -> Mesh:
    """All devices of all hosts on one axis, 'data'."""
    # Auto axes: the default of make_mesh, Explicit, refuses a sharded kernel in a convolution.
    return jax.make_mesh((jax.device_count(),), ('data',), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same value on each device."""
    return NamedSharding(mesh, PartitionSpec())


def by_example(mesh: Mesh) -> NamedSharding:
    """The leading axis cut over the devices."""
    return NamedSharding(mesh, PartitionSpec('data'))


def shard_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This host's part of a batch -> global arrays, cut by example.

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
