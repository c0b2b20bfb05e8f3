"""The config of the cheapest whole run: the made-up method of tests/masked_autoencoder.py."""

from __future__ import annotations

from ml_collections import ConfigDict

from tests import masked_autoencoder


def get_config(arg: str | None = None) -> ConfigDict:
    """As masked_autoencoder's, without evaluation, and few pictures."""
    config = masked_autoencoder.get_config(arg or 'tiny')
    config.eval.at_end = False
    config.pictures_every = 1_000_000
    config.checkpoint.every = 10
    config.validate.limit = 4
    return config
