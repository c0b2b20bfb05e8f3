"""From a config file to a config: what all methods share, then a method's own settings.

A config is `base`, under the defaults of its method, the settings of its file, and its arguments.
Durations are in steps, shares are of 1, sizes in pixels.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from fi_jax.methods import Changes, settings_of

_INSIDE = Path(__file__).parent / 'configs'  # of an installed package
FOLDER = _INSIDE if _INSIDE.is_dir() else Path(__file__).parents[1] / 'configs'

RENAMED = {  # fields and sections of earlier versions
    'guide_dropout': 'condition_dropout',
    'eval.reader': 'eval.landmark_detector',
    'eval.fills': 'eval.baselines',
    'data.augment.bend': 'data.augment.expression_warp',
    'data.augment.still': 'data.augment.unmoved',
    'data.bent_holes': 'data.warped_holes',
}
RENAMED_ABLATIONS = {'no_guide': 'no_condition'}
GENERAL: dict[str, Changes] = {  # ablations of any method
    'no_ema': {'optim.ema_halflife_images': 0.0},
    'bf16': {'dtype': 'bfloat16'},
}


def base(method: str, res: int) -> ConfigDict:
    """The defaults of a method for images of side res; 32 is the size of tests."""
    c, tiny = ConfigDict(), res == 32
    c.method = method
    c.seed = 0
    c.res = res
    c.dtype = 'float32'  # 'bfloat16': convolutions in bfloat16, parameters and losses in float32
    c.batch_size = 16  # global: over all hosts and devices
    c.accumulate = 1  # microbatches of a batch, one after another, where it does not fit at once
    c.remat = False  # compute each network's activations again for its gradient: less memory
    c.warm_start = ''  # a run folder; its newest checkpoint gives weights and averages
    c.compile_cache = '~/.cache/fi_jax/xla'

    # Steps of each stage, in the method's order; 0 leaves a stage out.
    c.steps = ConfigDict()
    # Wall time to train for, in place of the steps, whose ratio then shares it out; 0: by steps.
    c.minutes = 0.0
    c.condition_dropout = 0.4  # share of training examples without their landmarks
    # The landmarks that condition a completion: none; 'user', those of data.landmarks; 'predictor',
    # the points that a run of configs/landmarks.py finds; 'predictor_sample', a shape that it draws
    # for each sample.
    c.landmark_source = 'none'
    c.predictor = ''  # that run's folder
    # Scale of classifier-free guidance by the landmarks at sampling. 1: none; above, further away
    # from the unconditional completion, for twice the time.
    c.guidance = 1.0

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
            size=res,  # procedural: side of the drawn faces
            seed=0,  # procedural: which faces
            flip=True,
            hull='face68',  # face_mask; 'extended' adds the forehead
            max_bad_share=0.001,  # undecodable images allowed, each replaced by its neighbour
            num_threads=2,  # that read, where no processes do
            # Processes that do; -1: by the cores where an accelerator trains, none on a CPU.
            num_workers=-1,
            # Of training faces; see fi_jax/augmentation for the units.
            augment=dict(
                rotate=0.0,
                scale=0.0,
                shift=0.0,
                unmoved=0.0,
                expression_warp=0.0,
                colour=0.0,
                blur=0.0,
                noise=0.0,
                occlusion=0.0,
            ),
            # Over warped faces: they hide the new expression, which then only the landmarks tell.
            warped_holes=dict(centre=1.0, eyes=1.0, mouth=1.0, lower_half=1.0, whole_face=1.0),
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
            fsdp=1,  # devices over which the state is sharded; 1: none, 0: all
            fsdp_min_size=2**14,  # numbers; smaller arrays are replicated
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
            baselines=True,  # rows for mean face, Telea, Navier-Stokes and others, same holes
            metrics='all',  # or names, with commas between; those without weights are skipped
            landmark_detector='',  # a run of configs/landmarks.py that finds points on completions
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
    c.update(ConfigDict(settings_of(method).defaults(res)))
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


def flat(config: Mapping[str, Any] | ConfigDict, head: str = '') -> dict[str, Any]:
    """Each leaf of a config by its dotted path."""
    out: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping | ConfigDict) and len(value):
            out |= flat(value, f'{head}{name}.')
        else:
            out[head + name] = value
    return out


def make(
    arg: str | None, method: str, settings: Changes, tiny_settings: Changes | None = None
) -> ConfigDict:
    """A method's config under a file's own settings, then under the arguments of the command line.

    settings: dotted path -> value; tiny_settings take their place under the argument `tiny`. What
    the method lets choose and ablations come last, so that no setting undoes them.
    """
    own = settings_of(method)
    first = {name: next(iter(known)) for name, known in own.choices(64).items()}
    args = parse_arg(arg, tiny=False, res=64, ablate='', **first)
    if args.tiny and args.res != 64:
        raise ValueError(f'config argument res={args.res}: tiny is 32 px; leave one of them out')
    if args.res not in (64, 128, 256):
        raise ValueError(f'config argument res={args.res}: choose 64, 128 or 256 (or tiny)')
    res = 32 if args.tiny else args.res
    config = base(method, res)
    patch(config, (tiny_settings or {}) if args.tiny else settings, 'settings of the config file')
    for name, known in own.choices(res).items():
        if args[name] not in known:
            raise ValueError(f'config argument {name}={args[name]}: choose from {sorted(known)}')
        config[name] = args[name]
        patch(config, known[args[name]], f'{name} {args[name]}')
    for name in filter(None, args.ablate.split('+')):
        ablate(config, name, {**own.ablations, **GENERAL})
    return config


def ablate(config: ConfigDict, name: str, known: Mapping[str, Changes]) -> None:
    """Apply one ablation; raises ValueError where it is unknown or changes nothing."""
    if name in RENAMED_ABLATIONS:
        raise ValueError(f'ablation {name!r} is {RENAMED_ABLATIONS[name]!r} now')
    if name not in known:
        raise ValueError(
            f'ablation {name!r} is unknown to {config.method}; there are {sorted(known)}'
        )
    before = flat(config)
    patch(config, known[name], f'ablation {name}')
    if flat(config) == before:
        raise ValueError(f'ablation {name!r} changes nothing under these arguments')


def renamed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Plain settings, of whatever version, under today's names."""
    out = copy.deepcopy(dict(settings))
    for old, new in RENAMED.items():
        *heads, last = old.split('.')
        node: Any = out
        for head in heads:
            node = node.get(head) or {}
        if last in node:
            node[new.rpartition('.')[2]] = node.pop(last)
    if out.get('landmark_source') == 'fen':
        out['landmark_source'] = 'none'
    return out


def renamed_path(path: str) -> str:
    """A dotted path, of whatever version, under today's name; others stay as they are."""
    for old, new in RENAMED.items():
        if f'{path}.'.startswith(f'{old}.'):
            return new + path[len(old) :]
    return path


def find(name: str) -> Path:
    """The config file of a path, or of a name as 'stage2'; FileNotFoundError where there is none.

    Names are those of configs/: of the source tree, or inside an installed package.
    """
    path = Path(name)
    if path.is_file():
        return path
    known = {file.stem: file for file in sorted(FOLDER.glob('*.py')) if file.stem != '__init__'}
    if path.parent in (Path('.'), Path('configs')) and path.stem in known:
        return known[path.stem]
    raise FileNotFoundError(f'--config={name}: no such file; give one, or of {", ".join(known)}')
