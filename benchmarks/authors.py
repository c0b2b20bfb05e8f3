"""A training step of the authors' own PyTorch code against our step of the same system.

    FI_JAX_BICYCLEGAN=FOLDER FI_JAX_PICNET=FOLDER FI_JAX_STARGAN=FOLDER python -m benchmarks.authors
    FI_JAX_PICNET=FOLDER python -m benchmarks.authors --only=picnet --batch=4 --repeats=3

A variable names the folder of the authors' code, as for the parity tests; a system without one is
skipped. Ours is `size=paper`. Both run on the CPU, in float32, on the same photos, with as many
threads; each side is a process of its own, and they take turns, as in step_vs_torch.

Theirs is their model's `optimize_parameters`, with the options that their training has by default;
PICNet's file of them was not at hand, but rates and schedules do not change what a step costs.
StarGAN's authors train in one long function: its iteration is written anew here, around their
networks. There the generator learns in one step of five, on both sides; the mean goes by that.

Ours begins with the loader's bytes, keeps an average of the weights, and looks whether all is
finite; theirs does not. What else differs is printed. GFLOP are those of convolutions and matrix
products for each photo: theirs as they are run, ours as traced, where what is computed twice from
the same numbers counts twice, though XLA computes it once. Compiling, without a cache, is our first
step less the median one.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import statistics
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from benchmarks import timing
from benchmarks.step_vs_torch import JaxStep, Worker

# Nothing heavy above: each worker process reads this file anew and imports its own side alone.

Step = Callable[[bool], None]  # is told whether to run the phase that not every step has


@dataclass(frozen=True)
class System:
    """A system: its name, module of the authors, how a step of theirs starts, what differs."""

    name: str
    module: str
    start: Callable[..., Step]
    note: str

    @property
    def variable(self) -> str:
        """The variable of the environment that names the authors' folder."""
        return f'FI_JAX_{self.name.upper()}'

    @property
    def folder(self) -> str:
        """That folder, '' where it is not given."""
        return os.environ.get(self.variable, '')

    @property
    def file(self) -> Path:
        """The file of the authors' module."""
        return Path(self.folder, *self.module.split('.')).with_suffix('.py')


# Their side: photos (B,3,R,R) in [-1,1], holes (B,1,R,R) and labels (B,K) in {0,1} -> a step


def load(system: System) -> ModuleType:
    """The authors' module, in a process that imports no other authors' code."""
    sys.path.insert(0, system.folder)
    sys.dont_write_bytecode = True  # the folder stays as it is
    for name in ('imageio', 'torchvision', 'torchvision.transforms'):  # no step needs them
        sys.modules[name] = ModuleType(name)
    module = ModuleType(system.module)
    module.__package__ = system.module.rpartition('.')[0]
    # PICNet's own: since Python 3.7 a syntax error, and PyTorch's argument has another name.
    source = system.file.read_text().replace('async=True', 'non_blocking=True')
    exec(compile(source, system.file, 'exec'), vars(module))
    return module


def bicyclegan(module: Any, photo: Any, hole: Any, labels: Any) -> Step:
    """Their step, from our U-Net's input, masked photo and hole, to the photo."""
    import torch

    side = photo.shape[-1]
    options = {
        **dict(isTrain=True, gpu_ids=[], batch_size=len(photo), direction='AtoB'),
        **dict(checkpoints_dir='', name='', preprocess='resize_and_crop'),
        **dict(input_nc=4, output_nc=3, nz=8, ngf=64, nef=64, ndf=64, num_Ds=2),
        **dict(netG=f'unet_{side}', netE=f'resnet_{side}'),
        **dict.fromkeys(('netD', 'netD2'), f'basic_{side}_multi'),
        **dict(norm='instance', nl='relu', upsample='basic', where_add='all', use_dropout=False),
        **dict(init_type='xavier', init_gain=0.02, conditional_D=False, use_same_D=False),
        **dict(gan_mode='lsgan', lr=2e-4, beta1=0.5),
        **dict(lambda_L1=10.0, lambda_GAN=1.0, lambda_GAN2=1.0, lambda_z=0.5, lambda_kl=0.01),
    }
    model = module.BiCycleGANModel(SimpleNamespace(**options))
    seen = torch.cat([photo * (1 - hole), hole], 1)
    return optimize(model, {'A': seen, 'B': photo, 'A_paths': ''})


def picnet(module: Any, photo: Any, hole: Any, labels: Any) -> Step:
    """Their step."""
    options = {
        **dict(isTrain=True, gpu_ids=[], checkpoints_dir='', name='', continue_train=False),
        **dict(output_scale=4, train_paths='two', gan_mode='lsgan', lr=1e-4),
        **dict(lr_policy='lambda', iter_count=1, niter=5_000_000, niter_decay=0),
        **dict(lambda_rec=20.0, lambda_kl=20.0, lambda_g=1.0),
    }
    model = module.Pluralistic(SimpleNamespace(**options))
    visible = (1 - hole).repeat(1, 3, 1, 1)
    return optimize(model, {'img': (photo + 1) / 2, 'mask': visible, 'img_path': ''})


def optimize(model: Any, given: Mapping[str, Any]) -> Step:
    """The step of a model of theirs on what its loader would give."""

    def step(_: bool) -> None:
        model.set_input(given)
        model.optimize_parameters()

    return step


def stargan(module: Any, photo: Any, hole: Any, labels: Any) -> Step:
    """An iteration of their training around their networks, on masked photos with their hole."""
    import torch

    count = labels.shape[1]
    generator = module.Generator(64, count + 1, 6)  # to its sizes the hole is a label more
    critic = module.Discriminator(photo.shape[-1], 64, count, 6)
    optimizers = [
        torch.optim.Adam(net.parameters(), 1e-4, (0.5, 0.999)) for net in (critic, generator)
    ]

    def complete(image: Any, wanted: Any) -> Any:
        return generator(torch.cat([image * (1 - hole), hole], 1), wanted)

    def entropy(logits: Any, wanted: Any) -> Any:
        loss = torch.nn.functional.binary_cross_entropy_with_logits
        return loss(logits, wanted, reduction='sum') / len(wanted)

    def update(optimizer: Any, loss: Any) -> None:
        for each in optimizers:  # the critic gathers gradients in the generator's turn too
            each.zero_grad()
        loss.backward()
        optimizer.step()

    def step(generator_too: bool) -> None:
        wanted = labels[torch.randperm(len(labels))]
        real, read = critic(photo)
        fake = complete(photo, wanted).detach()
        share = torch.rand(len(photo), 1, 1, 1)
        mixed = (share * photo + (1 - share) * fake).requires_grad_()
        (slope,) = torch.autograd.grad(critic(mixed)[0].sum(), mixed, create_graph=True)
        penalty = (slope.flatten(1).norm(dim=1) - 1).square().mean()
        wasserstein = critic(fake)[0].mean() - real.mean()
        update(optimizers[0], wasserstein + entropy(read, labels) + 10 * penalty)
        if generator_too:
            fake = complete(photo, wanted)
            score, read = critic(fake)
            cycle = (complete(fake, labels) - photo).abs().mean()
            update(optimizers[1], entropy(read, wanted) - score.mean() + 10 * cycle)

    return step


SYSTEMS = (
    System(
        'BicycleGAN',
        'models.bicycle_gan_model',
        bicyclegan,
        'theirs completes half of the photos twice and shows the others to a critic, ours completes'
        ' each once; their encoder sees the photo, ours its hidden pixels and the hole',
    ),
    System(
        'PICNet',
        'model.pluralistic_model',
        picnet,
        'theirs judges completions once more for the generator, after the update of the critics; '
        'ours updates all from the same scores',
    ),
    System(
        'StarGAN',
        'model',
        stargan,
        'theirs completes its completion under the own labels, ours the photo; their generator '
        'step computes gradients of the critic too; ours reads labels off the photo in it',
    ),
)


# Workers


def _serve_theirs(pipe: Any, system: System, batch: Mapping[str, np.ndarray]) -> None:
    import torch

    from benchmarks.torch_keypoint import Flops

    torch.set_num_threads(timing.cores())
    torch.manual_seed(0)
    tensors = {name: torch.from_numpy(x).float() for name, x in batch.items()}
    photo, hole = (tensors[name].movedim(-1, 1).contiguous() for name in ('image', 'hole'))
    with contextlib.redirect_stdout(io.StringIO()):  # they print their networks
        step = system.start(load(system), photo / 127.5 - 1, hole, tensors.get('attributes'))

    def timed(full: bool) -> float:
        return timing.stopwatch(lambda: step(full))()

    def flops() -> tuple[float, float]:
        counts = []
        for full in (False, True):
            with Flops() as counter:
                step(full)
            counts.append(counter.total)
        return counts[0], counts[1]

    _serve(pipe, {'time': timed, 'flops': flops})


def _serve_ours(pipe: Any, config: Any, stage: str, batch: Mapping[str, np.ndarray]) -> None:
    system = JaxStep(config, stage, batch)

    def timed(full: bool) -> float:
        system.set_step(0 if full else 1)
        return timing.stopwatch(lambda: system.run(1))()

    _serve(pipe, {'time': timed, 'flops': system.flops})


def _serve(pipe: Any, answers: Mapping[str, Callable[..., Any]]) -> None:
    pipe.send('ready')
    while (order := pipe.recv()) is not None:
        name, *args = order
        pipe.send(answers[name](*args))


# The measurement


def make_batch(config: Any) -> dict[str, np.ndarray]:
    """Noise for photos, each with a hole of a quarter in its middle, and labels if it has any."""
    from fi_jax.batch import label_names
    from fi_jax.state import example_batch

    rng = np.random.default_rng(0)
    rows, res = config.batch_size, config.res
    batch = example_batch(res, rows)
    batch['image'] = rng.integers(256, size=batch['image'].shape, dtype=np.uint8)
    batch['hole'][:, res // 4 : res * 3 // 4, res // 4 : res * 3 // 4] = 1
    if labels := label_names(config):
        batch['attributes'] = rng.integers(2, size=(rows, len(labels))).astype(np.float32)
        batch['has_attributes'] = np.ones_like(batch['attributes'])
    return batch


def measure(system: System, args: argparse.Namespace) -> list[tuple[str, ...]]:
    """The rows of a system: one, or each kind of step and their mean by the schedule."""
    from benchmarks.systems import config_of
    from fi_jax.methods import make_method

    name = system.name
    config = config_of(f'{name.lower()}:size=paper,res={args.res}')
    config.batch_size, config.compile_cache = args.batch, ''
    ((stage, phases),) = make_method(config).stages.items()
    every = max(phase.every for phase in phases)
    kinds = {name: {True: 1.0}}
    if every > 1:
        kinds = {
            f'{name}, critic alone': {False: 1.0},
            f'{name}, generator too': {True: 1.0},
            f'{name}, mean': {False: 1 - 1 / every, True: 1 / every},
        }
    (*_, schedule) = kinds.values()

    batch = make_batch(config)
    workers = {
        'ours': Worker(_serve_ours, config, stage, batch),
        'theirs': Worker(_serve_theirs, system, batch),
    }
    first = {side: worker.ask('time', True) for side, worker in workers.items()}
    counts = {side: worker.ask('flops') for side, worker in workers.items()}
    turns = {
        (side, full): partial(worker.ask, 'time', full)
        for full in schedule
        for side, worker in workers.items()
    }
    seconds = timing.interleave(turns, args.repeats)
    for worker in workers.values():
        worker.close()
    middle = {turn: statistics.median(values) for turn, values in seconds.items()}
    compiling = first['ours'] - middle['ours', True]
    rows: list[tuple[str, ...]] = []
    for kind, shares in kinds.items():
        ours, theirs = (sum(middle[side, k] * x for k, x in shares.items()) for side in workers)
        gflop = [sum(counts[side][k] * x for k, x in shares.items()) / 1e9 for side in workers]
        numbers = [f'{x:.0f}' for x in (ours * 1e3, theirs * 1e3)] + [f'{theirs / ours:.2f}']
        numbers += [f'{x / args.batch:.1f}' for x in gflop]
        rows.append((kind, *numbers, '' if rows else f'{compiling:.0f}'))
    return rows


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    names = [system.name.lower() for system in SYSTEMS]
    add('--only', choices=names, help='one system (default: all whose folder is given)')
    add('--batch', type=int, default=2, help='photos a step, pairs of them (default %(default)s)')
    add('--res', type=int, choices=(128, 256), default=256, help='image side (default %(default)s)')
    add('--repeats', type=int, default=5, help='turns of each side (default %(default)s)')
    args = parser.parse_args()
    if args.batch % 2:
        parser.error(f'--batch={args.batch}: an even number, for BicycleGAN takes pairs')

    wanted = [s for s in SYSTEMS if args.only in (None, s.name.lower())]
    if not any(system.folder for system in wanted):
        variables = ', '.join(system.variable for system in wanted)
        sys.exit(f"no folder of authors' code: name one in {variables}")
    for system in wanted:
        if system.folder and not system.file.is_file():
            sys.exit(
                f"{system.variable}={system.folder}: set it to the folder of the authors' code"
            )
    os.environ['JAX_PLATFORMS'] = 'cpu'
    print(timing.hardware('jax', 'jaxlib', 'torch'))
    print(f'{timing.cores()} threads each; {args.res} px, batch {args.batch}, float32', flush=True)
    head = (
        *('training step', 'ours, ms', 'theirs, ms', 'theirs / ours'),
        *('GFLOP, ours', 'GFLOP, theirs', 'compiling, s'),
    )
    for system in wanted:
        if system.folder:
            table = timing.table(head, measure(system, args))
            print(f'\n{table}\n{system.note}', flush=True)
        else:
            print(f'\n{system.name}: skipped, {system.variable} names no folder', flush=True)


if __name__ == '__main__':
    main()
