"""DE-GAN (Zhang et al., 2020), of the table of systems: conditioned on an embedding of the face.

python -m fi_jax.main --config=configs/degan.py:res=64 --config.data.source=zip \
    --config.data.path=FACES.zip --config.data.landmarks=POINTS.npz --workdir=runs/degan
"""

from __future__ import annotations

from ml_collections import ConfigDict

from fi_jax.config import make

SETTINGS = {
    'steps.degan': 20_000,
    'optim.lr': 2e-4,
    'optim.b1': 0.5,
    'optim.b2': 0.999,
}


def get_config(arg: str | None = None) -> ConfigDict:
    """Arguments: tiny, size=small|paper, res=64|128|256, ablate=NAME[+NAME]."""
    return make(arg, 'degan', SETTINGS, {'steps.degan': 2})
