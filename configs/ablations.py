"""Ablations: a name and the fields it changes. Used as `configs/stage2.py:ablate=NAME[+NAME]`."""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

from configs import common

ABLATIONS: dict[str, dict[str, Any]] = {
    'wgan_gp': {'gan': 'wgan_gp', 'critic_steps': 5},
    'hinge_sn': {'gan': 'hinge_sn'},
    'no_gan': {'loss.adv_global': 0.0, 'loss.adv_local': 0.0},
    'z_concat': {'nets.z_inject': 'concat'},
    'z4': {'nets.z_dim': 4},
    'z128': {'nets.z_dim': 128},
    'z512': {'nets.z_dim': 512},
    'latent0': {'loss.latent': 0.0},
    'latent_through_all': {'latent_through': 'all'},
    'anchor0': {'loss.anchor': 0.0},
    'diversity0': {'loss.diversity': 0.0},
    'diversity_strong': {'loss.diversity': 1.0, 'loss.diversity_floor': 0.3},
    'normal_prior': {'prior': 'normal'},
    'sigma_by_hole': {'prior': 'sigma_by_hole'},
    'chain': {'nets.hvae': 'chain'},
    'extractor_features': {'extractor_input': 'features'},
    'sequential': {'schedule': 'sequential'},
    'no_ema': {'optim.ema_halflife_images': 0.0},
    'no_free_bits': {'loss.free_bits': 0.0},
    'batch_spread': {'nets.batch_spread': True},
    'no_maps': {'loss.part': 0.0, 'loss.mask': 0.0, 'loss.landmark': 0.0},
    'no_features': {'loss.l1_features': 0.0},
    'no_mismatch': {'loss.mismatch': 0.0},
    'no_guide': {'guide_dropout': 1.0, 'loss.mismatch': 0.0},
    'no_landmarks': {
        'guide_dropout': 1.0,
        'loss.l1_features': 0.0,
        'loss.mismatch': 0.0,
        'loss.part': 0.0,
        'loss.mask': 0.0,
        'loss.landmark': 0.0,
    },
    'bf16': {'dtype': 'bfloat16'},
}


def apply(config: ConfigDict, name: str) -> None:
    """Apply one ablation; raises ValueError where it is unknown or changes nothing."""
    if name not in ABLATIONS:
        raise ValueError(f'ablation {name!r} is unknown; there are {sorted(ABLATIONS)}')
    before = common.flat(config)
    common.patch(config, ABLATIONS[name], f'ablation {name}')
    if common.flat(config) == before:
        raise ValueError(f'ablation {name!r} changes nothing under these arguments')
