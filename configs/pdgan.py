"""PD-GAN (Liu et al., 2021), a row of the source's table: diverse, and without landmarks.

python -m fi_jax.main --config=configs/pdgan.py:res=64,trunk=efficientnet_lite0 \
    --config.data.source=zip --config.data.path=FACES.zip --workdir=runs/pdgan

`trunk=` names the network of the perceptual terms, which `fi-jax weights` fetches; without, there
are none, and the two completions of a photo are held apart by their pixels.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from fi_jax.config import make

SETTINGS = {
    'steps.prior': 5_000,
    'steps.pdgan': 15_000,
    'optim.lr': 5e-4,
    'optim.lr_scale': {'prior': 2.0, 'critic': 4.0},
    'optim.b1': 0.0,
    'optim.b2': 0.9,
    'optim.decay_share': 0.83,
}
TINY = {'steps.prior': 1, 'steps.pdgan': 2}


def get_config(arg: str | None = None) -> ConfigDict:
    """Arguments: tiny, size=small|paper, trunk=none|efficientnet_lite0|stlpips_vgg, res, ablate."""
    return make(arg, 'pdgan', SETTINGS, TINY)
