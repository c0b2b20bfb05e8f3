"""The settings of the method `keypoint`: defaults by image side, presets, ablations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from fi_jax.methods import Changes, Settings, perceptual

# Widths of each network by image side. facts: one entry an octave, from half the side down to 8.
SIZES: dict[int, dict[str, Any]] = {
    32: dict(
        z_dim=16,
        prior=(8, 16),
        extractor=(16, 32),
        embedding=(16, 32),
        decoder=(32,),
        v_dim=16,
        generator=(16, 32),
        dilations=(1,),
        full_width=8,
        d_global=(16, 32),
        d_local=(16, 32),
    ),
    64: dict(
        z_dim=16,
        prior=(16, 32, 64, 128),
        extractor=(32, 64, 128, 128),
        embedding=(16, 32, 64, 128),
        decoder=(64, 32),
        v_dim=32,
        generator=(32, 64, 128),
        dilations=(1, 2, 4),
        full_width=16,
        d_global=(32, 64, 128, 128),
        d_local=(32, 64, 128),
    ),
    128: dict(
        z_dim=128,
        prior=(32, 64, 128, 256),
        extractor=(64, 128, 256, 256),
        embedding=(32, 64, 128, 256, 256),
        decoder=(256, 128, 64),
        v_dim=256,
        generator=(64, 128, 256, 512),
        dilations=(2, 4, 8),
        full_width=32,
        d_global=(64, 128, 256, 256, 256),
        d_local=(64, 128, 256, 512),
    ),
    256: dict(
        z_dim=128,
        prior=(32, 64, 128, 256, 256),
        extractor=(64, 128, 256, 256, 256),
        embedding=(32, 64, 128, 256, 256, 256),
        decoder=(256, 128, 64, 32),
        v_dim=256,
        generator=(64, 128, 256, 512, 512),
        dilations=(2, 4, 8),
        full_width=32,
        d_global=(64, 128, 256, 256, 256, 256),
        d_local=(64, 128, 256, 512, 512),
    ),
}

# What `size=base` doubles; a layer is four times as costly.
WIDTHS = (
    'prior', 'extractor', 'embedding', 'decoder', 'generator', 'full_width', 'd_global', 'd_local',
)  # fmt: skip

# What differs between the practice of 2020, which the source describes, and today's; `strong` has
# critics that pull on a completion as hard as the photo does.
PRESETS: dict[str, dict[str, Any]] = {
    'seed': {
        'gan': 'wgan_gp',
        'critic_steps': 5,
        'prior': 'normal',
        'nets.z_dim': 512,
        'loss.latent': 1.0,
        'loss.part': 1.0,
        'loss.mask': 1.0,
        'loss.adv_global': 0.001,
        'loss.adv_local': 0.001,
        'loss.l1_features': 0.0,
        'loss.anchor': 0.0,
        'loss.mismatch': 0.0,
        'loss.diversity': 0.0,
        'loss.free_bits': 0.0,
        'optim.lr': 1e-4,
        'optim.b1': 0.5,
        'optim.b2': 0.9,
        'optim.lr_scale': {},
        'optim.ema_halflife_images': 0.0,
    },
    'modern': {},
    'strong': {'loss.adv_global': 0.05, 'loss.adv_local': 0.05},
}

ABLATIONS: dict[str, Changes] = {
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
    'no_free_bits': {'loss.free_bits': 0.0},
    'batch_spread': {'nets.batch_spread': True},
    'no_maps': {'loss.part': 0.0, 'loss.mask': 0.0, 'loss.landmark': 0.0},
    'no_features': {'loss.l1_features': 0.0},
    'no_mismatch': {'loss.mismatch': 0.0},
    'no_condition': {'condition_dropout': 1.0, 'loss.mismatch': 0.0},
    'no_landmarks': {
        'condition_dropout': 1.0,
        'loss.l1_features': 0.0,
        'loss.mismatch': 0.0,
        'loss.part': 0.0,
        'loss.mask': 0.0,
        'loss.landmark': 0.0,
    },
}


def defaults(res: int) -> dict[str, Any]:
    """The fields of this method alone; durations in steps, shares of 1."""
    return dict(
        size='small',
        trunk='none',
        steps=dict(stage1=0, stage2=0),
        schedule='joint',  # stage 2 trains paths R and S; 'sequential': S alone, as read literally
        gan='ns_r1',  # ns_r1 | wgan_gp | hinge_sn
        critic_steps=1,
        r1_every=16,
        extractor_input='full',  # 'features': the three maps without the image
        latent_through='image',  # 'all': the latent L1 moves the decoded maps as well
        # Of z: 'visible', read off the visible pixels; 'normal', N(0,I); 'sigma_by_hole'.
        prior='visible',
        landmark_source='none',  # beside 'user' and the predictor's: the embedding network alone
        nets=dict(
            **SIZES[res],
            hvae='dual',  # 'chain': V_f depends on V_l
            z_inject='film',  # 'concat'
            batch_spread=False,  # minibatch standard deviation in the critics
        ),
        loss=dict(
            l1_hole=1.0,
            l1_visible=1.0,
            l1_features=1.0,  # inside the hole, near the landmarks
            part=0.5,
            mask=0.5,
            landmark=0.5,
            perceptual=1.0,  # of path R's completions, by the network `trunk`
            kl_z=1e-3,
            kl_v=1e-3,
            kl_warmup=0.1,  # share of stage 1
            free_bits=0.02,  # nats a dimension of z, V_l and V_f
            latent=0.1,
            anchor=1.0,
            anchor_zone=0.25,  # of [-1,1], free of charge
            adv_global=0.01,
            adv_local=0.01,
            mismatch=0.5,  # real images under others' landmarks, to D_local; fakes count 1
            r1=0.0006 * res**2 / 16,
            gradient_penalty=10.0,
            diversity=0.1,
            diversity_floor=0.15,  # distance inside the hole of two samples, per unit of |z - z'|
        ),
    )


def choices(res: int) -> Mapping[str, Mapping[str, Changes]]:
    """'preset'; 'size': the widths; 'trunk': the network of the perceptual term."""
    nets = SIZES[res]
    twice = {name: jax.tree.map(lambda width: 2 * width, nets[name]) for name in WIDTHS}
    sizes: Mapping[str, Changes] = {
        'small': {},
        'base': {f'nets.{name}': widths for name, widths in twice.items()},
    }
    return {
        'preset': {name: PRESETS[name] for name in ('modern', 'seed', 'strong')},
        'size': {'small': {}} if res == 32 else sizes,
        'trunk': {name: {} for name in perceptual.TRUNKS},
    }


SETTINGS = Settings(
    defaults,
    choices,
    ABLATIONS,
    fixed=('nets', 'gan', 'schedule', 'prior', 'extractor_input', 'trunk'),
)
