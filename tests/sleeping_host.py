"""A host that stays alive and never gets its fourth batch."""

import time

import jax

from fi_jax import train


class Asleep:
    """A loader that hangs on process 1, as one does on a dead network disk."""

    def __init__(self, batches):
        self._batches, self._count = batches, 0

    def __getattr__(self, name):
        return getattr(self._batches, name)

    def __next__(self):
        self._count += 1
        if self._count > 3 and jax.process_index() == 1:
            time.sleep(10_000)
        return next(self._batches)


def fall_asleep():
    """To be called before the program."""
    sound = train.train_iterator
    train.train_iterator = lambda *args: Asleep(sound(*args))
