"""Stage 2: from a run of stage 1, paths R and S in each step, with the critics.

python -m fi_jax.main --config=configs/stage2.py:res=64 --config.data.source=zip \
    --config.data.path=FACES.zip --config.warm_start=runs/s1 --workdir=runs/s2
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    """Arguments: tiny, res=64|128|256, preset=modern|seed, ablate=NAME[+NAME]."""
    config = common.make(arg)
    config.steps.stage2 = 4 if config.res == 32 else 4_000
    return config
