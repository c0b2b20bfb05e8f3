"""Neighbours of a batch: two examples of one device that are drawn and compared together.

Methods that use them say Method.group = 2, so that no pair is split.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp


def interleaved(a: jax.Array, b: jax.Array) -> jax.Array:
    """(B,...) of each -> (2B,...); an example's two rows are neighbours."""
    return jnp.stack([a, b], axis=1).reshape(-1, *a.shape[1:])


def split(tree: Any) -> tuple[Any, Any]:
    """The first and the second of each pair, for each array of a tree; undoes `interleaved`."""
    pairs = jax.tree.map(lambda x: x.reshape(-1, 2, *x.shape[1:]), tree)
    return jax.tree.map(lambda x: x[:, 0], pairs), jax.tree.map(lambda x: x[:, 1], pairs)


def doubled(tree: Any) -> Any:
    """The first of each pair twice: two completions of one input can be compared."""

    def double(x: jax.Array) -> jax.Array:
        first = x.reshape(-1, 2, *x.shape[1:])[:, :1]
        return jnp.broadcast_to(first, (len(first), 2, *x.shape[1:])).reshape(x.shape)

    return jax.tree.map(double, tree)


def partner(x: jax.Array) -> jax.Array:
    """Each example (B,...) in the place of its neighbour."""
    return jnp.flip(x.reshape(-1, 2, *x.shape[1:]), axis=1).reshape(x.shape)
