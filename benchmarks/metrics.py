"""The metrics of fi_jax against torch-fidelity and lpips: images a second, and memory as N grows.

    python -m benchmarks.metrics --lpips --inception --memory

Needs the environment of `make test-parity` for the rivals; without them ours are timed alone.
Both sides run on the same CPU, on the same images and the same (random) weights, and take turns;
their results are compared first. Memory is the resident size after N and after 4N images, of
moments and of a sample of N/2 rows; Linux.
"""

from __future__ import annotations

import argparse
import importlib.util
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import timing

BATCH = 8
_TRUNKS = {'inception_clean': 'inception_fid'}


def lpips_contest(size: int) -> dict[str, Callable[[], Any]]:
    """A batch of pairs through LPIPS-AlexNet, ours and the lpips package's."""
    import jax

    from tests import metric_inputs as inputs

    a, b = inputs.pictures(BATCH, size), inputs.pictures(BATCH, size, 1)
    ours, call = inputs.distance('lpips_alex'), jax.jit(lambda d, a, b: d(a, b))
    contest: dict[str, Callable[[], Any]] = {
        'fi_jax': lambda: np.asarray(call(ours, a, b)),
    }
    if importlib.util.find_spec('lpips'):
        import torch

        from tests import references

        net = references.lpips_net('lpips_alex')
        x, y = references._tensor(a), references._tensor(b)

        def theirs() -> np.ndarray:
            with torch.no_grad():
                return net(x, y).flatten().numpy()

        contest['lpips'] = theirs
    return contest


def inception_contest(size: int) -> dict[str, Callable[[], Any]]:
    """A batch through the FID Inception, ours and torch-fidelity's."""
    import jax

    from fi_jax.metrics import feature_networks, weights
    from tests import metric_inputs as inputs

    images = inputs.pictures(BATCH, size)
    convert = weights.PUBLISHED['inception_fid'].convert
    arrays = convert(inputs.torch_state('inception_fid'))
    ours = feature_networks.from_arrays('inception_fid', arrays)
    call = jax.jit(lambda net, x: net(x))
    contest: dict[str, Callable[[], Any]] = {
        'fi_jax': lambda: np.asarray(call(ours, images)),
    }
    if importlib.util.find_spec('torch_fidelity'):
        import torch

        from tests import references

        net = references.inception_net()
        x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())

        def theirs() -> np.ndarray:
            with torch.no_grad():
                return net(x)[0].numpy()

        contest['torch-fidelity'] = theirs
    return contest


def contend(title: str, contest: dict[str, Callable[[], Any]], rounds: int) -> str:
    """The table of a contest, after a check that all contestants give the same."""
    results = {name: run() for name, run in contest.items()}
    for name, result in results.items():
        np.testing.assert_allclose(result, results['fi_jax'], rtol=1e-3, atol=1e-3, err_msg=name)
    seconds = timing.interleave({n: timing.stopwatch(run) for n, run in contest.items()}, rounds)
    return timing.compare(f'{title}, ms a batch of {BATCH}', seconds, base='fi_jax')


def memory(name: str, count: int) -> str:
    """Resident size after count and after 4 count images through a feature network, in MB."""
    import jax

    from fi_jax.metrics import distribution, feature_networks, trunks
    from tests import metric_inputs as inputs

    arrays = {} if name == 'pixels8' else trunks.random_weights(_TRUNKS.get(name, name), 0)
    network = feature_networks.from_arrays(name, arrays)
    call = jax.jit(lambda net, x: net(x))
    batch = min(64, count // 4)
    images = inputs.pictures(batch, 64)
    moments = distribution.Gaussian.init(network.dimension)
    sample = distribution.Sample.init(network.dimension, size=count // 2)
    rows = []
    for at in range(0, 4 * count, batch):
        features = np.asarray(call(network, images))
        moments = moments.update(features)
        sample = sample.update(features, np.arange(at, at + batch))
        if at + batch in (count, 4 * count):
            pages = int(Path('/proc/self/statm').read_text().split()[1])
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            now = pages * resource.getpagesize() / 2**20
            rows.append((f'{name}, {at + batch} images', f'{now:.0f}', f'{peak:.0f}'))
    return timing.table(('MB', 'then', 'largest'), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--lpips', action='store_true')
    parser.add_argument('--inception', action='store_true')
    parser.add_argument('--memory', action='store_true')
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--size', type=int, default=128, help='pixels, of the images of LPIPS')
    parser.add_argument('--network', default='efficientnet_lite0', help='of the memory')
    parser.add_argument('--count', type=int, default=128, help='N of the memory')
    given = parser.parse_args()
    everything = not (given.lpips or given.inception or given.memory)
    if given.memory or everything:  # first: torch would raise the peak
        print(memory(given.network, given.count), '\n')
    if given.lpips or everything:
        title = f'LPIPS alex, {given.size} px'
        print(contend(title, lpips_contest(given.size), given.rounds), '\n')
    if given.inception or everything:
        print(contend('FID Inception, 299 px', inception_contest(256), given.rounds), '\n')
    packages = [
        name
        for name, module in (('jax', 'jax'), ('torch', 'torch'), ('lpips', 'lpips'),
                             ('torch-fidelity', 'torch_fidelity'))
        if importlib.util.find_spec(module)
    ]  # fmt: skip
    print(timing.hardware(*packages))


if __name__ == '__main__':
    main()
