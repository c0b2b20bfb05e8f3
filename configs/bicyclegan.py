"""BicycleGAN (Zhu et al., 2017), a row of the source's table: diverse, and without landmarks.

python -m fi_jax.main --config=configs/bicyclegan.py:res=64 --config.data.source=zip \
    --config.data.path=FACES.zip --workdir=runs/bicycle
"""

from __future__ import annotations

from ml_collections import ConfigDict

from fi_jax.config import make

SETTINGS = {
    'steps.bicycle': 20_000,
    'optim.lr': 2e-4,
    'optim.b1': 0.5,
    'optim.b2': 0.999,
    'optim.decay_share': 0.5,
}


def get_config(arg: str | None = None) -> ConfigDict:
    """Arguments: tiny, size=small|paper, res=64|128|256, ablate=NAME[+NAME]."""
    return make(arg, 'bicyclegan', SETTINGS, {'steps.bicycle': 2})
