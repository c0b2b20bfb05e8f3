"""The augmentation on the devices beside the training step: milliseconds of each, batch by batch.

    python -m benchmarks.augmentation --stage stage1 --batch 64 256

Both as the trainer runs them, from arrays on the device; `copy` is the host's batch on its way
there. `--json FILE` adds a line to a file.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from benchmarks import timing


def measure(stage: str, res: int, batch_size: int, rounds: int) -> dict[str, Any]:
    """Seconds of a step, of the augmentation and of the copy, in turns."""
    import jax

    from benchmarks.step_vs_torch import JaxStep, make_config
    from fi_jax import sharding
    from fi_jax.augmentation import make_augment
    from fi_jax.input_pipeline.loader import SkipBadImages, train_iterator
    from fi_jax.input_pipeline.sources import make_source

    config = make_config(stage, res, batch_size)
    config.data.length = max(400, 3 * batch_size)
    sharding.configure_backend(config)
    mesh = sharding.make_mesh()
    batches = train_iterator(SkipBadImages(make_source(config.data, 'train'), 0.0), config)
    read = next(batches)
    batches.close()
    augment = make_augment(config, mesh)
    there = sharding.shard_batch(read, mesh)
    drawn = augment(there)
    system = JaxStep(config, stage, jax.device_get(drawn))

    def step() -> None:
        system.state, metrics = system._step(system.state, drawn)
        jax.block_until_ready(metrics)

    runs = {
        'step': step,
        'augmentation': lambda: jax.block_until_ready(augment(there)),
        'copy': lambda: jax.block_until_ready(sharding.shard_batch(read, mesh)),
    }
    for run in runs.values():
        run()
    repeats = 1 if mesh.devices.flat[0].platform == 'cpu' else 10
    watches = {name: timing.stopwatch(run, repeats) for name, run in runs.items()}
    found = timing.interleave(watches, rounds)
    return {'device': system.device(), 'seconds': found}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('--stage', choices=('stage1', 'stage2'), default='stage1')
    add('--res', type=int, default=64, help='image side (default %(default)s)')
    add('--batch', type=int, nargs='+', default=[16], help='images a batch (default %(default)s)')
    add('--rounds', type=int, default=5, help='turns of each (default %(default)s)')
    add('--json', default='', help='file to add lines of results to')
    args = parser.parse_args()
    print(timing.hardware('jax', 'jaxlib'))
    for batch_size in args.batch:
        found = measure(args.stage, args.res, batch_size, args.rounds)
        title = f'{args.stage}, {args.res} px, batch {batch_size}, {found["device"]}; ms'
        print(timing.compare(title, found['seconds'], 'step'), flush=True)
        if args.json:
            line = {
                'benchmark': 'augmentation', 'hardware': timing.hardware('jax', 'jaxlib'),
                'stage': args.stage, 'px': args.res, 'batch': batch_size, **found,
            }  # fmt: skip
            with open(args.json, 'a') as file:
                file.write(json.dumps(line) + '\n')


if __name__ == '__main__':
    main()
