"""A made-up sixth system, to prove that one file and a config add one: a masked autoencoder."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from fi_jax import losses, rng
from fi_jax.config import make as make_config
from fi_jax.features import Batch
from fi_jax.methods import Method, Nets, Phase, Settings
from fi_jax.rng import Keys


class Autoencoder(nn.Module):
    width: int

    @nn.compact
    def __call__(self, masked: jax.Array, hole: jax.Array, noise: jax.Array) -> jax.Array:
        x = jnp.concatenate([masked, hole], axis=-1)
        x = nn.relu(nn.Conv(self.width, (3, 3))(x) + nn.Dense(self.width)(noise)[:, None, None, :])
        return jnp.tanh(nn.Conv(3, (3, 3))(x))


def make(config: Any) -> Method:
    def loss(nets: Nets, batch: Batch, key: jax.Array, step: jax.Array):
        noise = jax.random.normal(key, (batch['image'].shape[0], 4))
        out = nets['autoencoder'](batch['masked'], batch['hole'], noise)
        error = losses.image_mean(jnp.abs(out - batch['image'])).mean()
        return error, {'l1': error}

    def inputs(batch: Batch):
        noise = jnp.zeros((batch['image'].shape[0], 4))
        return {'autoencoder': (batch['masked'], batch['hole'], noise)}

    def sample(nets: Nets, batch: Batch, keys: Keys):
        noise = rng.normal(keys, (4,))
        return {'image': nets['autoencoder'](batch['masked'], batch['hole'], noise)}

    return Method(
        nets={'autoencoder': Autoencoder(config.nets.width)},
        inputs=inputs,
        stages={'train': (Phase('reconstruct', ('autoencoder',), loss),)},
        sample=sample,
        ema=('autoencoder',),
    )


SETTINGS = Settings(lambda res: {'steps': {'train': 0}, 'nets': {'width': 8}}, fixed=('nets',))


def get_config(arg: str | None = None) -> ConfigDict:
    steps = {'steps.train': 6, 'eval.metrics': 'image,seam'}
    return make_config(arg, 'tests.masked_autoencoder', steps, steps)
