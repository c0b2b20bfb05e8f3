"""The base of every config, its presets, and the strict parser of config arguments.

All defaults live here. Durations are in steps, shares are of 1, sizes in pixels.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

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

# Widths of the landmark predictor: one entry an octave, down to 4 pixels.
PREDICTORS: dict[int, tuple[int, ...]] = {
    32: (8, 16, 24),
    64: (16, 32, 64, 96),
    128: (16, 32, 64, 128, 192),
    256: (16, 32, 64, 128, 192, 256),
}

# What differs between the practice of 2020, which the source describes, and today's.
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
        'optim.lr_scale': ConfigDict(),
        'optim.ema_halflife_images': 0.0,
    },
    'modern': {},
}


def base(res: int, tiny: bool) -> ConfigDict:
    """The defaults, preset 'modern', for images of side res."""
    c = ConfigDict()
    c.method = 'keypoint'
    c.preset = 'modern'
    c.seed = 0
    c.res = res
    c.dtype = 'float32'  # 'bfloat16': convolutions in bfloat16, parameters and losses in float32
    c.batch_size = 16  # global: over all hosts and devices
    c.accumulate = 1  # parts of a batch played in turn, where it does not fit at once
    c.remat = False  # draw each network's activations again for its gradient: less memory
    c.warm_start = ''  # a run folder; its newest checkpoint gives weights and averages
    c.compile_cache = '~/.cache/fi_jax/xla'

    # Steps of each stage, played in the method's order; 0 leaves a stage out.
    c.steps = ConfigDict({'stage1': 0, 'stage2': 0})
    c.schedule = 'joint'  # stage 2 plays paths R and S; 'sequential': S alone, the literal reading
    c.gan = 'ns_r1'  # ns_r1 | wgan_gp | hinge_sn
    c.critic_steps = 1
    c.r1_every = 16
    c.extractor_input = 'full'  # 'features': the three maps without the image
    c.latent_through = 'image'  # 'all': the latent L1 moves the decoded maps as well
    # Of z: 'visible', read off the visible pixels; 'normal', N(0,I); 'sigma_by_hole'.
    c.prior = 'visible'
    c.guide_dropout = 0.4  # share of training examples that are not told their landmarks
    # Who leads a completion: 'fen', the embedding network alone; 'user', those of data.landmarks;
    # 'predictor', the points that a run of configs/landmarks.py finds; 'predictor_sample', a shape
    # that it draws for each sample.
    c.landmark_source = 'fen'
    c.predictor = ''  # that run's folder
    # How hard landmarks lead at sampling. 1: as the nets draw with them; above, further away from
    # what they draw without, for twice the time.
    c.guidance = 1.0

    c.nets = ConfigDict(SIZES[32 if tiny else res])
    c.nets.hvae = 'dual'  # 'chain': V_f depends on V_l
    c.nets.z_inject = 'film'  # 'concat'
    c.nets.batch_spread = False  # minibatch standard deviation in the critics

    # The method 'landmarks', which predicts the points of faces with holes.
    c.landmarks = ConfigDict(
        dict(
            net='small',  # 'lafin': MobileNetV2 with a three-scale head
            widths=PREDICTORS[32 if tiny else res],
            hidden=32 if tiny else 256,
            loss='laplace',  # 'l2norm': the norm of the whole error, as LaFIn
            # Distributions of whole shapes to fit: gaussian, mixture, flow; the first one is drawn.
            shapes=('flow',),
            components=4,
            basis=48,
            rank=24,
            unseen_share=0.06,  # of training faces made unrecognisable
        )
    )

    c.loss = ConfigDict(
        dict(
            l1_hole=1.0,
            l1_visible=1.0,
            l1_features=1.0,  # inside the hole, near the landmarks
            part=0.5,
            mask=0.5,
            landmark=0.5,
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
        )
    )
    c.optim = ConfigDict(
        dict(
            name='adam',  # adam | adamw | muon
            lr=2e-4,
            b1=0.0,
            b2=0.99,
            weight_decay=0.0,  # of matrices and kernels, by adamw and muon
            clip=0.0,  # global norm of a net's gradient; 0: none
            warmup_steps=0,  # of each stage
            decay_share=0.0,  # of a stage's steps, at its end
            decay='linear',  # 'cosine'
            ema_halflife_images=5_000.0,
        )
    )
    c.optim.lr_scale = ConfigDict()  # net -> factor

    c.data = ConfigDict(
        dict(
            # procedural | folder | zip | tfds | celeba | celeba_hq | ffhq | mixture; docs/data.md
            source='procedural',
            path='',  # folder or zip
            name='',  # tfds: the data set
            data_dir='',  # tfds: where it was prepared
            sets='',  # mixture: a .toml file of sets
            # Lists to join by name, each a file; persons and attributes also by a pattern of the
            # image's name, re:PATTERN.
            landmarks='',  # a folder of landmark shards, an .npz, a .json
            identities='',
            attributes='',
            partition='',  # splits instead of the shares
            # Left, top, side of each image's crop, pixels or shares of its width; six numbers: in
            # training one drawn between two. (): the centred square.
            frame=(),
            labels='',  # attributes that batches carry, with commas between
            # Shares of the persons held back; these give 500 and 486 of the 8,986 CelebA faces.
            val_share=0.0556,
            test_share=0.0541,
            length=20_000,  # procedural: number of faces
            size=32 if tiny else res,  # procedural: side of the drawn faces
            seed=0,  # procedural: which faces
            flip=True,
            hull='face68',  # face_mask; 'extended' adds the forehead
            max_bad_share=0.001,  # undecodable images tolerated, each replaced by its neighbour
            num_threads=2,
            # Of training faces; see input_pipeline/augment.py for the units.
            augment=dict(
                rotate=0.0,
                scale=0.0,
                shift=0.0,
                still=0.0,
                bend=0.0,
                colour=0.0,
                blur=0.0,
                noise=0.0,
                occlusion=0.0,
            ),
            # Over faces that were bent: what hides them, so that the told points alone know of it.
            bent_holes=dict(centre=1.0, eyes=1.0, mouth=1.0, lower_half=1.0, whole_face=1.0),
            holes=dict(
                centre=0.30,
                rectangle=0.20,
                strokes=0.15,
                eyes=0.04,
                nose=0.04,
                mouth=0.04,
                lower_half=0.04,
                half_face=0.04,
                whole_face=0.02,
                scratches=0.03,
                text=0.03,
                blocks=0.05,
                none=0.02,
            ),
        )
    )
    c.mesh = ConfigDict(
        dict(
            cpu_devices=0,  # 0: one for two cores
            fsdp=1,  # devices over which the state is cut; 1: none, 0: all
            fsdp_min_size=2**14,  # numbers; smaller arrays are copied
            timeout=300,  # seconds a host may lag behind, or be silent, before the others end
        )
    )
    c.compile = ConfigDict(dict(batches=()))  # of --mode=compile; (): batch_size alone
    c.profile_steps = ''  # 'first:last': a profiler trace of these steps
    c.tracker = ''  # a module to report to as well: wandb, trackio
    c.log_every = 50
    c.pictures_every = 500
    c.num_pictures = 8
    c.num_picture_samples = 6
    c.max_skips = 20  # non-finite steps in a row before the run stops
    c.picture_holes = 'centre'
    c.validate = ConfigDict(dict(limit=64, num_samples=2))  # at each checkpoint; feeds best-k
    c.checkpoint = ConfigDict(dict(every=500, keep=2, keep_best=1, best='psnr_hole/mean'))
    c.eval = ConfigDict(
        dict(
            at_end=True,
            split='auto',  # the run's own data: test; other data: all
            name='',  # of the result, eval/<name>.json; empty: split and holes
            holes='mixture',  # 'mixture', or one kind for every image
            num_samples=6,
            limit=0,  # 0: all images
            batch_size=16,
            fills=True,  # rows for mean face, Telea, Navier-Stokes, biharmonic on the same holes
            metrics='all',  # or names, with commas between; those without weights are skipped
            reader='',  # a run of configs/landmarks.py that reads landmarks off the completions
            memorisation=2_000,  # training faces that completions are compared with; 0: none
            bootstrap=2_000,  # resamples behind each interval
            gallery=4,  # best, median, worst and first faces shown in the report, of each
        )
    )
    c.sample = ConfigDict(
        dict(
            holes='centre',
            num_samples=8,
            limit=100,
            out='',
            split='auto',
            batch_size=8,
            vary='both',  # 'structure': the drawn landmarks alone; 'appearance': all else
            edit='',  # with landmark_source='user': smile, mouth_open, eyes_closed or jaw_left
            strength=1.0,  # of the edit
        )
    )
    # Mode predict. out: empty = points.npz in the run folder; limit: 0 = all images.
    c.predict = ConfigDict(
        dict(holes='none', num_samples=8, limit=0, out='', split='all', batch_size=16)
    )
    if tiny:
        c.batch_size = 4
        c.data.length = 64
        c.data.val_share = c.data.test_share = 0.125
        c.log_every = 1
        c.pictures_every = 2
        c.num_pictures = 2
        c.num_picture_samples = 2
        c.checkpoint.every = 2
        c.eval.num_samples = 2
        c.eval.bootstrap = 100
        c.eval.memorisation = 16
        c.eval.gallery = 1
        c.validate.limit = 4
        c.eval.batch_size = 4
        c.sample.batch_size = 4
        c.predict.batch_size = 4
    return c


def parse_arg(arg: str | None, **known: Any) -> ConfigDict:
    """'tiny,res=128' -> typed values over the defaults `known`; a bare name means True.

    Raises ValueError on an unknown name or a value that is not of the default's type.
    """
    out = dict(known)
    for item in filter(None, (arg or '').split(',')):
        name, given, text = item.partition('=')
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f'; did you mean {near[0]!r}?' if near else ''
            raise ValueError(
                f'config argument {name!r} is unknown; there are {sorted(known)}{hint}'
            )
        kind = type(known[name])
        try:
            if kind is bool:
                out[name] = {'': True, 'true': True, 'false': False}[text.lower()]
            elif not given:
                raise ValueError
            else:
                out[name] = kind(text)
        except (ValueError, KeyError):
            raise ValueError(
                f'config argument {item!r}: {name} takes a value of type {kind.__name__}'
            ) from None
    return ConfigDict(out)


def patch(config: ConfigDict, changes: Mapping[str, Any], why: str) -> None:
    """Set each dotted path; raises ValueError where a path does not exist."""
    for path, value in changes.items():
        *heads, last = path.split('.')
        node = config
        for head in heads:
            node = node.get(head, ConfigDict())
        if last not in node:
            raise ValueError(f'{why}: config has no field {path!r}')
        node[last] = copy.deepcopy(value)


def flat(config: ConfigDict, head: str = '') -> dict[str, Any]:
    """Each leaf of a config by its dotted path."""
    out: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, ConfigDict) and len(value):
            out |= flat(value, f'{head}{name}.')
        else:
            out[head + name] = value
    return out


def make(
    arg: str | None,
    settings: Mapping[str, Any],
    tiny_settings: Mapping[str, Any],
    presets: Mapping[str, Mapping[str, Any]] = PRESETS,
) -> ConfigDict:
    """The base under a config's own settings, then under the arguments that all configs share.

    settings: dotted path -> value; tiny_settings take their place under the argument `tiny`. Preset
    and ablations come last, so that no setting undoes them. presets: those of another system.
    """
    from configs import ablations

    args = parse_arg(arg, tiny=False, res=64, preset='modern', ablate='')
    if args.tiny and args.res != 64:
        raise ValueError(f'config argument res={args.res}: tiny is 32 px; leave one of them out')
    if args.res not in (64, 128, 256):
        raise ValueError(f'config argument res={args.res}: choose 64, 128 or 256 (or tiny)')
    if args.preset not in presets:
        raise ValueError(f'config argument preset={args.preset}: choose from {sorted(presets)}')
    config = base(32 if args.tiny else args.res, args.tiny)
    patch(config, tiny_settings if args.tiny else settings, 'settings of the config file')
    config.preset = args.preset
    patch(config, presets[args.preset], f'preset {args.preset}')
    for name in filter(None, args.ablate.split('+')):
        ablations.apply(config, name)
    return config
