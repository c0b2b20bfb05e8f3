"""Quickstart: stage 1, then stage 2, on drawn faces; minutes on two CPU cores, no data needed.

python -m fi_jax.main --config=configs/quickstart.py --workdir=runs/quickstart
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    """Arguments: tiny, res=64|128|256, preset=modern|seed, ablate=NAME[+NAME]."""
    config = common.make(arg)
    if config.res > 32:
        config.steps.stage1, config.steps.stage2 = 700, 200
        config.data.length = 6_000
        config.checkpoint.every = config.pictures_every = 300
        config.optim.lr, config.optim.b1 = 5e-4, 0.5
        config.optim.ema_halflife_images = 500.0
        config.eval.limit = 128
    else:
        config.steps.stage1 = config.steps.stage2 = 2
    return config
