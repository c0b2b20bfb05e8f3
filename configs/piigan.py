"""PiiGAN (Cai & Wei, 2020), a row of the source's table: diverse by a style that is read back.

python -m fi_jax.main --config=configs/piigan.py:res=64 --config.data.source=zip \
    --config.data.path=FACES.zip --workdir=runs/piigan
"""

from __future__ import annotations

from ml_collections import ConfigDict

from fi_jax.config import make

SETTINGS = {
    'steps.piigan': 20_000,
    'optim.lr': 1e-4,
    'optim.b1': 0.5,
    'optim.b2': 0.9,
}


def get_config(arg: str | None = None) -> ConfigDict:
    """Arguments: tiny, size=small|paper, res=64|128|256, ablate=NAME[+NAME]."""
    return make(arg, 'piigan', SETTINGS, {'steps.piigan': 2})
