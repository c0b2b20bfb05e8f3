"""The landmark predictor: 68 points of faces with holes, and whole shapes where they are hidden.

python -m fi_jax.main --config=configs/landmarks.py:res=64 --config.data.source=zip \
    --config.data.path=FACES.zip --config.data.landmarks=LANDMARKS.npz --workdir=runs/lm
python -m fi_jax.main --config=configs/landmarks.py:res=64 --mode=predict --workdir=runs/lm \
    --config.data.path=OTHER.zip --config.predict.holes=none --config.predict.out=points.npz
"""

from __future__ import annotations

from ml_collections import ConfigDict

from fi_jax.config import make

SETTINGS = {
    'steps.landmarks': 6_000,
    'batch_size': 64,
    'optim.lr': 1e-3,
    'optim.b1': 0.9,
    'optim.b2': 0.999,
    'optim.clip': 10.0,
    'optim.decay_share': 0.6,
    'optim.ema_halflife_images': 10_000.0,
    # With the warped fifth below, nearly three of five faces have no hole.
    'data.holes.none': 0.87,
    'data.augment.rotate': 20.0,
    'data.augment.scale': 0.3,
    'data.augment.shift': 0.12,
    'data.augment.unmoved': 0.5,
    'data.augment.expression_warp': 0.2,
    # Points of a warped face are to be seen, not guessed: warps do not follow what is likely.
    'data.warped_holes': ConfigDict({'none': 1.0}),
    'data.augment.colour': 0.3,
    'data.augment.blur': 1.2,
    'data.augment.noise': 12.0,
    'data.augment.occlusion': 0.15,
    'picture_holes': 'mixture',
    'num_picture_samples': 64,
    'validate.limit': 0,
    'validate.num_samples': 50,
    'checkpoint.best': 'minus_nme',
    'eval.num_samples': 100,
    'eval.batch_size': 50,
}
TINY = {
    'steps.landmarks': 4,
    'picture_holes': 'mixture',
    'validate.num_samples': 20,
    'checkpoint.best': 'minus_nme',
    'eval.num_samples': 20,
}


def get_config(arg: str | None = None) -> ConfigDict:
    """Arguments: tiny, res=64|128|256, preset=modern|lafin."""
    return make(arg, 'landmarks', SETTINGS, TINY)
