"""Stage 2: from a run of stage 1, paths R and S in each step, with the critics.

python -m fi_jax.main --config=configs/stage2.py:res=64 --config.data.source=zip \
    --config.data.path=FACES.zip --config.warm_start=runs/s1 --workdir=runs/s2
"""

from __future__ import annotations

from ml_collections import ConfigDict

from fi_jax.config import make

# The critics start later than the generators.
SETTINGS = {
    'steps.stage2': 2_000,
    'optim.lr_scale': ConfigDict({'d_global': 2.0, 'd_local': 2.0}),
    'data.augment.expression_warp': 0.35,
}


def get_config(arg: str | None = None) -> ConfigDict:
    """Arguments: tiny, res=64|128|256, preset=modern|seed|strong, size=base, trunk, ablate."""
    return make(arg, 'keypoint', SETTINGS, {'steps.stage2': 4})
