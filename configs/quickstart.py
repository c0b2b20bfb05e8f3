"""Quickstart: stage 1, then stage 2, on drawn faces; minutes on two CPU cores, no data needed.

python -m fi_jax.main --config=configs/quickstart.py --workdir=runs/quickstart
"""

from __future__ import annotations

from ml_collections import ConfigDict

from fi_jax.config import make

SETTINGS = {
    # Of the minutes the stages have shares like their steps, compilation included.
    'minutes': 8.0,
    'steps.stage1': 400,
    'steps.stage2': 250,
    'data.length': 6_000,
    'checkpoint.every': 1_000,  # and at the end of each stage, with a validation
    'pictures_every': 250,
    'optim.lr': 5e-4,
    'optim.b1': 0.5,
    'loss.kl_z': 3e-3,
    'optim.ema_halflife_images': 500.0,
    'eval.limit': 64,
    'validate.limit': 32,
    'eval.metrics': 'image,seam',
}


def get_config(arg: str | None = None) -> ConfigDict:
    """Arguments: tiny, res=64|128|256, preset=modern|seed|strong, size=base, trunk, ablate."""
    return make(arg, 'keypoint', SETTINGS, {'minutes': 0.0, 'steps.stage1': 2, 'steps.stage2': 2})
