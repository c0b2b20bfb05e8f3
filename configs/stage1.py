"""Stage 1: reconstruct the original (path R alone).

python -m fi_jax.main --config=configs/stage1.py:res=64 --config.data.source=zip \
    --config.data.path=FACES.zip --workdir=runs/s1
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    """Arguments: tiny, res=64|128|256, preset=modern|seed, ablate=NAME[+NAME]."""
    config = common.make(arg)
    config.steps.stage1 = 4 if config.res == 32 else 4_000
    if config.preset == 'modern':
        config.optim.lr, config.optim.b1 = 5e-4, 0.9  # no critic here to chase
    return config
