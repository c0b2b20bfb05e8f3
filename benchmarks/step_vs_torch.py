"""The training step of fi_jax against the same networks in PyTorch, and against its FLOPs.

    python -m benchmarks.step_vs_torch --stage stage2 --devices 1 2 --ynn --torch-subpixel

Each contestant lives in a process of its own, as a training does, with its own thread pool and all
cores; the processes take turns through pipes, and the idle ones sleep in a read. (In one process
the pools would share allocator and caches, and the number of XLA's devices is fixed for good.)
The JAX step is the trainer's own: make_train_step, on the mesh that configure_backend makes,
donated, from a uint8 batch on the host. A turn is what the loop does: a few steps are sent, the
last is waited for. The lazy R1 step is timed apart and enters the mean by its schedule. The parity
check comes first: one step of both from the same parameters, batch and noise, comparing every loss
and the gradient of each network.

On a GPU (CUDA) both run there, TF32 allowed in both; --dtype=bfloat16 is autocast in PyTorch, and
--torch-compile one more contestant, whose R1, which differentiates twice, stays eager. --json FILE
adds a line of results to a file.

On a busy machine do not read PyTorch's ratio: its threads meet at OpenMP barriers, and one that is
kept waiting holds up both, up to 80-fold, where XLA's thread pool only slows down.

FLOP time is the multiplications and additions of convolutions and matrix products in the traced
step, over the rate at which a 2048^3 float32 product ran in this very run.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from benchmarks import timing

# Nothing heavy above: each worker process reads this file anew and imports its own system alone.

# A multiple of r1_every, in the middle of the ramp of the KL, whose draws tell neighbours both.
PARITY_STEP = 192
MATMUL_SIZE = 2048
TOLERANCE = 1e-4
NO_YNN = {'xla_cpu_experimental_ynn_fusion_type': ''}
# Of gradients and what follows from them: an untrained critic's is the small difference of what
# real and fake images give, and keeps few digits.
GRADIENT_TOLERANCE = 5e-2


def tolerance(name: str) -> float:
    """The relative error allowed of a value that both versions compute."""
    after = name.startswith(('gradient/', 'parameters/', 'grad_norm/', 'r1/', 'loss/r1'))
    return GRADIENT_TOLERANCE if after else TOLERANCE


def make_config(stage: str, res: int, batch_size: int, tiny: bool = False) -> Any:
    """The config of a stage as the command line would make it, on procedural faces."""
    from configs import stage1, stage2

    module = {'stage1': stage1, 'stage2': stage2}[stage]
    config = module.get_config('tiny' if tiny else f'res={res}')
    config.batch_size = batch_size
    return config


def make_batch(config: Any) -> dict[str, np.ndarray]:
    """One batch of the real loader; its first face comes without landmarks."""
    import jax

    from fi_jax import sharding
    from fi_jax.augmentation import make_augment
    from fi_jax.input_pipeline.loader import SkipBadImages, train_iterator
    from fi_jax.input_pipeline.sources import make_source

    batches = train_iterator(SkipBadImages(make_source(config.data, 'train'), 0.0), config)
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    drawn = make_augment(config, mesh)(sharding.shard_batch(next(batches), mesh))
    batch = {name: np.array(x) for name, x in drawn.items()}
    batches.close()
    for name in ('has_landmarks', 'landmarks', 'landmark_map', 'face_mask'):
        batch[name][0] = 0
    return batch


# The JAX side


class JaxStep:
    """The trainer's compiled step and its state, on a number of devices (0: the default)."""

    def __init__(
        self, config: Any, stage: str, batch: Any, devices: int = 0, options: Any = 'as trained'
    ):
        import jax

        from fi_jax import sharding, steps
        from fi_jax.methods import make_method
        from fi_jax.optim import make_optimizers
        from fi_jax.state import init_state

        config.mesh.cpu_devices = devices
        sharding.configure_backend(config)
        self.mesh = sharding.make_mesh()
        self._stage, self._batch, self._config = stage, batch, config
        self._replicated = sharding.replicated(self.mesh)
        self.method = make_method(config)
        optimizers = make_optimizers(config, self.method.nets)
        self._traced = steps.make_train_step(self.method, stage, optimizers, config)
        self._step = jax.jit(
            self._traced,
            donate_argnums=0,
            out_shardings=self._replicated,
            compiler_options=sharding.compiler_options() if options == 'as trained' else options,
        )
        self.state = jax.jit(
            lambda: init_state(self.method, optimizers, config.res, config.seed),
            out_shardings=self._replicated,
        )()

    def set_step(self, step: int) -> None:
        """Move the state's counter, which decides on lazy phases and ramps."""
        import jax

        self.state = self.state.replace(
            step=jax.device_put(np.asarray(step, np.int32), self._replicated)
        )

    def run(self, steps: int) -> dict[str, Any]:
        """Play steps as the training loop does; the metrics of the last, finished."""
        import jax

        from fi_jax import sharding

        for _ in range(steps):
            batch = sharding.shard_batch(self._batch, self.mesh)
            self.state, metrics = self._step(self.state, batch)
        return jax.block_until_ready(metrics)

    def device(self) -> str:
        """What it runs on."""
        first = self.mesh.devices.flat[0]
        return f'{self.mesh.size} x {first.device_kind} ({first.platform})'

    def flops(self) -> tuple[float, float]:
        """FLOPs of a step without and with its lazy phases."""
        import jax

        jaxpr = jax.make_jaxpr(self._traced)(self.state, self._batch).jaxpr
        return count_flops(jaxpr, min), count_flops(jaxpr, max)

    def noise(self, step: int) -> tuple[np.ndarray, ...]:
        """What the step draws, as `TorchKeypoint.draw`: who keeps the landmarks, then noise."""
        import jax

        from fi_jax import rng

        net, rows = self._config.nets, self._config.batch_size
        names = [phase.name for phase in self.method.stages[self._stage]]
        keys = [rng.key(self._config.seed, f'train/{self._stage}/{n}/0', step) for n in names]
        (key, *_), of_condition = zip(*(jax.random.split(key) for key in keys), strict=True)
        keep = [
            jax.random.bernoulli(k, 1.0 - self._config.condition_dropout, (rows,))
            for k in of_condition
        ]
        paths = [key] if self._stage == 'stage1' else jax.random.split(key)
        sizes = (net.z_dim, 2 * net.v_dim)
        return np.stack(keep).astype(np.float32), *(
            np.asarray(jax.random.normal(k, (rows, size)))
            for path in paths
            for k, size in zip(jax.random.split(path), sizes, strict=True)
        )

    def parameters(self) -> dict[str, Any]:
        """Parameters of each network, on the host."""
        import jax

        return {name: jax.device_get(net.params) for name, net in self.state.nets.items()}

    def matmul_rate(self, tries: int = 10) -> float:
        """FLOP/s of a float32 matrix product, the best of several."""
        import jax
        import jax.numpy as jnp

        x = jnp.ones((MATMUL_SIZE, MATMUL_SIZE), jnp.float32)
        dot = jax.jit(jnp.dot)
        dot(x, x).block_until_ready()
        run = timing.stopwatch(lambda: dot(x, x).block_until_ready())
        return 2 * MATMUL_SIZE**3 / min(run() for _ in range(tries))


def count_flops(jaxpr: Any, branch: Callable[..., float]) -> float:
    """FLOPs of the convolutions and products of a jaxpr; branch chooses among those of a cond.

    Products with padding count, unlike in `run.aot.matmul_flops`, for PyTorch's counter, which
    stands beside these numbers, counts them.
    """
    total = 0.0
    for eqn in jaxpr.eqns:
        name, params = eqn.primitive.name, eqn.params
        if name == 'dot_general':
            (contract, _), _ = params['dimension_numbers']
            shape = eqn.invars[0].aval.shape
            depth = int(np.prod([shape[i] for i in contract], dtype=np.int64))
            total += 2.0 * depth * eqn.outvars[0].aval.size
        elif name == 'conv_general_dilated':
            kernel = eqn.invars[1].aval
            features = kernel.shape[params['dimension_numbers'].rhs_spec[0]]
            # Zeros put between the input's pixels are not multiplied by anyone with sense.
            zeros = int(np.prod(params['lhs_dilation']))
            total += 2.0 * eqn.outvars[0].aval.size * kernel.size / features / zeros
        elif name == 'cond':
            total += branch([count_flops(b.jaxpr, branch) for b in params['branches']])
        else:
            for value in params.values():
                inner = getattr(value, 'jaxpr', value)
                if hasattr(inner, 'eqns'):
                    times = params['length'] if name == 'scan' else 1
                    total += times * count_flops(inner, branch)
    return total


# Parity


def relative_error(ours: Any, theirs: Any) -> float:
    """|ours - theirs| / |theirs|, as vectors."""
    a, b = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    return float(np.linalg.norm(a - b)) / max(float(np.linalg.norm(b)), 1e-12)


def parity(config: Any, stage: str, batch: Any, subpixel: bool = False) -> dict[str, float]:
    """Relative errors of PyTorch against JAX on one step: each term, and each net's gradient.

    A term that is 0 in both says nothing, and is left out.
    The gradients are read from Adam's first moment: they are those the compiled step has used.
    """
    import jax
    import torch

    from benchmarks.torch_keypoint import TorchKeypoint, convert

    torch.set_num_threads(timing.cores())
    ours = JaxStep(config, stage, batch)
    ours.set_step(PARITY_STEP)
    theirs = TorchKeypoint(config, stage, subpixel)
    theirs.load(ours.parameters())
    theirs.count = PARITY_STEP
    noise = [torch.tensor(x) for x in ours.noise(PARITY_STEP)]

    terms = theirs.step(batch, noise)
    metrics = jax.device_get(ours.run(1))
    errors = {
        name: relative_error(value, metrics[name])
        for name, value in terms.items()
        if name in metrics and (value or metrics[name])
    }
    for name in theirs.moving:
        net, moments = theirs.nets[name], theirs.optimizers[name].state
        state = ours.state.nets[name]
        (adam,) = (s for s in state.opt_state[1] if hasattr(s, 'mu'))
        sides = {
            'gradient': ([moments[p]['exp_avg'] for p in net.parameters()], adam.mu),
            'parameters': (list(net.parameters()), state.params),
        }
        for what, (tensors, tree) in sides.items():
            flax = convert(jax.device_get(tree))
            expected = [flax[key] for key, _ in net.named_parameters()]
            errors[f'{what}/{name}'] = relative_error(flat(tensors), flat(expected))
    return errors


def flat(tensors: Any) -> np.ndarray:
    """All values of a list of tensors, in one vector."""
    return np.concatenate([x.detach().numpy().ravel() for x in tensors])


# Workers


def in_process(function: Callable[..., Any], *args: Any) -> Any:
    """function(*args), in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context('spawn')) as pool:
        return pool.submit(function, *args).result()


def _serve_jax(pipe: Any, config: Any, stage: str, batch: Any, devices: int, options: Any) -> None:
    system = JaxStep(config, stage, batch, devices, options)
    first = {False: 1, True: 0}  # the lazy phase runs where the counter is a multiple

    def timed(lazy: bool, steps: int) -> float:
        system.set_step(first[lazy])
        return timing.stopwatch(lambda: system.run(steps))() / steps

    _serve(
        pipe, timed, {'matmul': system.matmul_rate, 'flops': system.flops, 'device': system.device}
    )


def _serve_torch(
    pipe: Any, config: Any, stage: str, batch: Any, subpixel: bool, compiled: bool = False
) -> None:
    import torch

    from benchmarks.torch_keypoint import Flops, TorchKeypoint

    torch.set_num_threads(timing.cores())
    if torch.cuda.is_available():
        torch.set_default_device('cuda')
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    system = TorchKeypoint(config, stage, subpixel)
    if compiled:
        for net in system.nets.values():
            net.compile()

    def run() -> None:
        stance = 'force_eager' if compiled and system.count == 0 else 'default'
        with torch.compiler.set_stance(stance):
            system.step(batch)  # its losses are read, and so waited for

    def timed(lazy: bool, steps: int) -> float:
        system.count = 0 if lazy else 1
        return timing.stopwatch(run, steps)()

    def flops() -> tuple[float, float]:
        counts = []
        for system.count in (1, 0):
            with Flops() as counter:
                system.step(batch)
            counts.append(counter.total)
        return counts[0], counts[1]

    _serve(pipe, timed, {'flops': flops})


def _serve(pipe: Any, timed: Callable[[bool, int], float], others: Mapping[str, Any]) -> None:
    for lazy in (False, True):
        timed(lazy, 2)  # compile and warm up
    pipe.send('ready')
    while (order := pipe.recv()) is not None:
        name, *args = order
        pipe.send(timed(*args) if name == 'time' else others[name]())


class Worker:
    """A contestant in a process of its own; `ask` sends an order and waits for the answer."""

    def __init__(self, target: Callable[..., None], *args: Any):
        context = multiprocessing.get_context('spawn')
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=target, args=(other, *args), daemon=True)
        self._process.start()
        other.close()
        self.ask()

    def ask(self, *order: Any) -> Any:
        """The answer to an order; with none, the greeting."""
        if order:
            self._pipe.send(order)
        try:
            return self._pipe.recv()
        except EOFError:
            raise RuntimeError('a benchmark process died; its error stands above') from None

    def close(self) -> None:
        """End the process."""
        self._pipe.send(None)
        self._process.join()


def contestants(args: argparse.Namespace) -> dict[str, tuple[Any, ...]]:
    """Name -> worker function and its own arguments; the first is the base of the ratios."""
    jobs: dict[str, tuple[Any, ...]] = {}
    for devices in args.devices:
        name = f'jax, {devices} devices' if devices else 'jax, as trained'
        jobs[name] = (_serve_jax, devices, 'as trained')
        if args.ynn:
            jobs[f'{name}, all by YNNPACK'] = (_serve_jax, devices, None)
            jobs[f'{name}, nothing by YNNPACK'] = (_serve_jax, devices, NO_YNN)
    if not args.no_torch:
        jobs['torch'] = (_serve_torch, False)
    if args.torch_compile:
        jobs['torch, compiled'] = (_serve_torch, False, True)
    if args.torch_subpixel:
        jobs['torch, sub-pixel'] = (_serve_torch, True)
    return jobs


def measure(args: argparse.Namespace, config: Any, batch: Any) -> None:
    """Time all contestants in turn and print the tables."""
    from fi_jax.methods import make_method

    start = time.perf_counter()
    workers = {
        name: Worker(target, config, args.stage, batch, *rest)
        for name, (target, *rest) in contestants(args).items()
    }
    base = next(iter(workers))
    device = workers[base].ask('device') if 'jax' in base else ''
    print(device)
    print(f'all compiled in {time.perf_counter() - start:.0f} s\n', flush=True)
    every = max(phase.every for phase in make_method(config).stages[args.stage])
    shares = {'step': 1 - 1 / every, 'R1 step': 1 / every} if every > 1 else {'step': 1.0}
    orders = {'step': (False, args.steps), 'R1 step': (True, 1)}
    turns = {
        (kind, name): partial(worker.ask, 'time', *orders[kind])
        for kind in shares
        for name, worker in workers.items()
    }
    rates = []
    seconds: dict[Any, list[float]] = {key: [] for key in turns}
    for _ in range(args.rounds):
        for key, values in timing.interleave(turns, 1).items():
            seconds[key] += values
        rates.append(workers[base].ask('matmul'))

    mean = dict.fromkeys(workers, 0.0)
    for kind, share in shares.items():
        rows = {name: seconds[kind, name] for name in workers}
        print(timing.compare(f'{kind}, ms', rows, base), end='\n\n')
        for name, values in rows.items():
            mean[name] += share * statistics.median(values)
    rate = max(rates)
    print(f'float32 matrix product of {MATMUL_SIZE}^3 in JAX: {rate / 1e9:.0f} GFLOP/s')
    head = ('mean step', 'ms', 'ratio', 'GFLOP', 'FLOP time, ms', 'step / FLOP time')
    lines = [
        summary(name, mean[name], mean[base], worker.ask('flops'), every, rate)
        for name, worker in workers.items()
    ]
    print(timing.table(head, lines))
    for worker in workers.values():
        worker.close()
    if args.json:
        line = {
            'benchmark': 'step_vs_torch', 'hardware': timing.hardware('jax', 'jaxlib'),
            'device': device, 'stage': args.stage, 'px': config.res, 'batch': args.batch,
            'dtype': config.dtype, 'ms': {name: 1e3 * x for name, x in mean.items()},
            'images_per_s': {name: args.batch / x for name, x in mean.items()},
            'turns_ms': {' '.join(key): [1e3 * x for x in v] for key, v in seconds.items()},
        }  # fmt: skip
        with open(args.json, 'a') as file:
            file.write(json.dumps(line) + '\n')


def summary(
    name: str, mean: float, base: float, counts: tuple[float, float], every: int, rate: float
) -> tuple[str, ...]:
    """A row of the last table: mean step over the schedule, its ratio, its FLOPs."""
    once, with_lazy = counts
    flops = once + (with_lazy - once) / every
    bound = flops / rate
    return (
        name,
        f'{mean * 1e3:.1f}',
        f'{mean / base:.2f}',
        f'{flops / 1e9:.1f}',
        f'{bound * 1e3:.1f}',
        f'{mean / bound:.2f}',
    )


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('--stage', choices=('stage1', 'stage2'), default='stage1')
    add('--res', type=int, default=64, help='image side: 64, 128 or 256 (default %(default)s)')
    add('--batch', type=int, default=16, help='images a step (default %(default)s)')
    add('--tiny', action='store_true', help='the tiny networks at 32 px, to try the command')
    add('--rounds', type=int, default=8, help='turns of each contestant (default %(default)s)')
    add('--steps', type=int, default=3, help='steps a turn (default %(default)s)')
    add(
        '--devices',
        type=int,
        nargs='+',
        default=[0],
        metavar='N',
        help='a JAX contestant for each N: the CPU cut into N devices; 0: as the trainer does',
    )
    add(
        '--ynn',
        action='store_true',
        help='two more for each N: as XLA compiles by itself, and without YNNPACK',
    )
    add(
        '--torch-subpixel',
        action='store_true',
        help='PyTorch once more, with upsampling and convolution as one transposed convolution',
    )
    add('--torch-compile', action='store_true', help='PyTorch once more, its networks compiled')
    add('--dtype', choices=('float32', 'bfloat16'), default='float32')
    add('--json', default='', help='file to add a line of results to')
    add('--no-torch', action='store_true', help='JAX alone, to compare its own variants')
    add('--no-parity', action='store_true', help='skip the parity check')
    args = parser.parse_args()

    packages = ['jax', 'jaxlib'] + ['torch'] * (not args.no_torch)
    print(timing.hardware(*packages))
    # Each process takes as much of a GPU's memory as it needs, or the second finds none.
    os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')
    config = make_config(args.stage, args.res, args.batch, args.tiny)
    batch = in_process(make_batch, config)
    config.dtype = args.dtype
    print(f'{args.stage}, {config.res} px, batch {args.batch}, {args.dtype}\n')
    if not (args.no_parity or args.no_torch or args.dtype != 'float32'):
        errors = in_process(parity, config, args.stage, batch)
        worst = max(errors, key=lambda name: errors[name])
        line = f'largest relative error of {len(errors)} {errors[worst]:.1e} ({worst})'
        if not all(error < tolerance(name) for name, error in errors.items()):
            sys.exit(f'parity: {line}: the PyTorch version no longer computes the same step')
        print(f'parity: {line}\n')
    measure(args, config, batch)


if __name__ == '__main__':
    main()
