"""Random keys from (seed, name, step): nothing is threaded through the code, nothing is saved."""

from __future__ import annotations

import zlib

import jax
import jax.numpy as jnp
from flax import struct


class Mixed(struct.PyTreeNode):
    """Keys (B,) of draws that lie between two others: at share 0 what `kept` draws, at 1 `own`."""

    own: jax.Array
    kept: jax.Array
    share: jax.Array  # (B,) 0 to 1


Keys = jax.Array | Mixed


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


def named(keys: Keys, name: str) -> Keys:
    """The keys of another stream of each example: one for each thing that a sample draws."""
    number = zlib.crc32(name.encode())
    return jax.tree.map(
        lambda x: (
            jax.vmap(lambda k: jax.random.fold_in(k, number))(x)
            if jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
            else x
        ),
        keys,
    )


def normal(keys: Keys, shape: tuple[int, ...]) -> jax.Array:
    """Standard normals (B,*shape), each row from its own key.

    Of `Mixed` keys, points on the arc between the two draws, so that they stay as long as a draw.
    """
    if isinstance(keys, Mixed):
        angle = (keys.share * (jnp.pi / 2)).reshape(-1, *(1 for _ in shape))
        own, kept = normal(keys.own, shape), normal(keys.kept, shape)
        return jnp.cos(angle) * kept + jnp.sin(angle) * own
    return jax.vmap(lambda k: jax.random.normal(k, shape))(keys)
