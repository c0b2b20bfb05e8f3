"""Stage 1: reconstruct the original (path R alone).

python -m fi_jax.main --config=configs/stage1.py:res=64 --config.data.source=zip \
    --config.data.path=FACES.zip --workdir=runs/s1
"""

from __future__ import annotations

from ml_collections import ConfigDict

from fi_jax.config import make

# No critic here to chase: a faster rate, and momentum. The heavy KL teaches the nets to take from
# the photo what the photo tells, tone and light, before z may carry more in stage 2.
SETTINGS = {
    'steps.stage1': 3_000,
    'optim.lr': 5e-4,
    'optim.b1': 0.9,
    'loss.kl_z': 1.5e-3,
    'data.augment.expression_warp': 0.35,
}


def get_config(arg: str | None = None) -> ConfigDict:
    """Arguments: tiny, res=64|128|256, preset=modern|seed|strong, size=base, trunk, ablate."""
    return make(arg, 'keypoint', SETTINGS, {'steps.stage1': 4})
