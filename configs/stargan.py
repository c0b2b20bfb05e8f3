"""StarGAN (Choi et al., 2018) on holes: samples are draws of attributes, without landmarks.

python -m fi_jax.main --config=configs/stargan.py:res=64 --config.data.source=zip \
    --config.data.path=FACES.zip --config.data.attributes=ATTRIBUTES.csv --workdir=runs/stargan
"""

from __future__ import annotations

from ml_collections import ConfigDict

from fi_jax.config import make

SETTINGS = {
    'steps.stargan': 20_000,
    'optim.lr': 1e-4,
    'optim.b1': 0.5,
    'optim.b2': 0.999,
    'optim.decay_share': 0.5,
    # The authors' five of CelebA's forty.
    'data.labels': 'Black_Hair,Blond_Hair,Brown_Hair,Male,Young',
}
TINY = {
    'steps.stargan': 2,
    'data.labels': 'beard,glasses,long_hair,smile',  # of the drawn faces
}


def get_config(arg: str | None = None) -> ConfigDict:
    """Arguments: tiny, size=small|paper, res=64|128|256, ablate=NAME[+NAME]."""
    return make(arg, 'stargan', SETTINGS, TINY)
