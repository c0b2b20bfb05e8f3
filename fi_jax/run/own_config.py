"""The config of a run folder or file of weights itself, where a command line gives no --config."""

from __future__ import annotations

from ml_collections import ConfigDict

from fi_jax.pretrained import own_settings
from fi_jax.run import settings


def get_config(place: str) -> ConfigDict:
    """The settings of a run, file or name, over today's defaults; of this machine, the defaults."""
    own = own_settings(place)
    return settings.opened(own, ConfigDict(settings.defaults(own) or own), ())
