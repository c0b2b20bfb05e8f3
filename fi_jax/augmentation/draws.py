"""The random numbers of one example."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

NUMBERS = 256


class Draws:
    """Numbers taken in turn from one draw, which costs a device less than a draw each.

    `apart` sets numbers aside for several branches, of which one is taken.
    """

    def __init__(self, numbers: jax.Array):
        self._numbers, self._taken = numbers, 0

    @classmethod
    def of(cls, key: jax.Array) -> Draws:
        """All numbers of a key; within (0,1), so that no quantile is infinite."""
        return cls(jax.random.uniform(key, (NUMBERS,)) + 2**-25)

    def apart(self, count: int) -> jax.Array:
        """The next `count` numbers, for a `Draws` of their own."""
        return self.uniform(shape=(count,))

    def uniform(self, low: float = 0.0, high: float = 1.0, shape: tuple[int, ...] = ()):
        """Uniform over (low, high)."""
        first, self._taken = self._taken, self._taken + math.prod(shape)
        assert self._taken <= self._numbers.size, 'too few numbers'
        return low + (high - low) * self._numbers[first : self._taken].reshape(shape)

    def integers(self, low: int, high: int, shape: tuple[int, ...] = ()) -> jax.Array:
        """Whole numbers from low to high - 1."""
        return low + jnp.floor(self.uniform(0, high - low, shape)).astype(jnp.int32)

    def normal(self, deviation: float, shape: tuple[int, ...] = ()) -> jax.Array:
        """Normal around 0."""
        return deviation * jax.scipy.special.ndtri(self.uniform(shape=shape))

    def chance(self, share: float) -> jax.Array:
        """True in this share of the cases."""
        return self.uniform() < share
