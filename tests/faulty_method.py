"""The made-up method of tests/masked_autoencoder.py, with a loss term that fails on request."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from fi_jax.features import Batch
from fi_jax.methods import Method, Nets, Phase
from tests import tiny_run
from tests.masked_autoencoder import make as make_sound


def make(config: Any) -> Method:
    """config.fault: kind 'batch' | 'loss' | 'gradient' | 'huge', over steps first..last-1."""
    sound, fault = make_sound(config), config.fault
    (phase,) = sound.stages['train']

    def loss(nets: Nets, batch: Batch, key: jax.Array, step: jax.Array):
        now = (step >= fault.first) & (step < fault.last)
        if fault.kind == 'batch':
            batch = batch | {'image': jnp.where(now, jnp.nan, batch['image'])}
        total, terms = phase.loss(nets, batch, key, step)
        if fault.kind == 'batch':
            term = jnp.zeros(())
        elif fault.kind == 'loss':
            term = jnp.where(now, jnp.nan, 0.0)
        elif fault.kind == 'gradient':
            # The square root of 0: its value is finite, its gradient is not.
            term = jnp.sqrt(jnp.where(now, 0.0, 1.0) * total)
        else:
            term = total * jnp.where(now, jnp.inf, 1.0)
        return total + term, {**terms, 'bad_term': term}

    stages = {'train': (Phase('reconstruct', phase.nets, loss),)}
    return dataclasses.replace(sound, stages=stages)


def get_config(arg: str | None = None) -> ConfigDict:
    """tests/tiny_run.py's, with the section fault."""
    config = tiny_run.get_config(arg)
    config.method = 'tests.faulty_method'
    config.fault = ConfigDict(dict(kind='loss', first=3, last=4))
    return config
