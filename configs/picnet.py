"""PICNet (Zheng et al., 2019), a row of the source's table: diverse, and without landmarks.

python -m fi_jax.main --config=configs/picnet.py:res=64 --config.data.source=zip \
    --config.data.path=FACES.zip --workdir=runs/picnet
"""

from __future__ import annotations

from ml_collections import ConfigDict

from fi_jax.config import make

SETTINGS = {
    'steps.picnet': 20_000,
    'optim.lr': 1e-4,
    'optim.b1': 0.0,
    'optim.b2': 0.999,
}


def get_config(arg: str | None = None) -> ConfigDict:
    """Arguments: tiny, size=small|paper, res=64|128|256, ablate=NAME[+NAME]."""
    return make(arg, 'picnet', SETTINGS, {'steps.picnet': 2})
