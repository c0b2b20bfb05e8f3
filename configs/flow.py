"""Flow matching conditioned on keypoints: the system to use.

python -m fi_jax.main --config=configs/flow.py:size=small,res=64 --config.data.source=zip \
    --config.data.path=FACES.zip --config.data.landmarks=POINTS.npz --workdir=runs/flow
python -m fi_jax.main --config=configs/flow.py:size=small,res=64,stage=distill (the same data) \
    --config.warm_start=runs/flow --workdir=runs/few
"""

from __future__ import annotations

from ml_collections import ConfigDict

from fi_jax.config import make

SETTINGS = {
    'guidance': 1.5,
    'batch_size': 32,
    'optim.name': 'adamw',
    'optim.lr': 6e-4,
    'optim.b1': 0.9,
    'optim.b2': 0.99,
    'optim.weight_decay': 1e-3,
    'optim.clip': 1.0,
    'optim.warmup_steps': 200,
    'optim.decay_share': 0.3,
    'optim.ema_halflife_images': 10_000.0,
    'data.augment.expression_warp': 0.25,
    'checkpoint.best': 'psnr_hole/best',
}
TINY = {'optim.name': 'adamw'}


def get_config(arg: str | None = None) -> ConfigDict:
    """Arguments: tiny, size=small|base|large, res=64|128|256, stage=flow|distill, ablate=NAME."""
    return make(arg, 'flow', SETTINGS, TINY)
