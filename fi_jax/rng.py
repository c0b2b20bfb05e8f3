"""Random keys from (seed, name, step): nothing is threaded through the code, nothing is saved."""

from __future__ import annotations

import zlib

import jax


def key(seed: int, name: str, step: int | jax.Array = 0) -> jax.Array:
    """The key of one named stream at one step; the same on any host, device count or batch size."""
    # crc32, not hash(): Python salts the latter anew in each process.
    stream = jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))
    return jax.random.fold_in(stream, step)


def sample_keys(seed: int | jax.Array, index: jax.Array, sample: int | jax.Array) -> jax.Array:
    """Keys of the sample-th completion of images `index` (B,): (B,) keys.

    Each depends on (seed, image index, sample index) alone, so that a saved triple redraws the
    same completion, up to rounding, in whatever batch it stands.
    """
    stream = jax.random.fold_in(jax.random.key(seed), zlib.crc32(b'sample'))
    return jax.vmap(lambda i: jax.random.fold_in(jax.random.fold_in(stream, i), sample))(index)
