"""Inputs that the metrics and their references are given alike: the same on every machine."""

import numpy as np

from fi_jax.metrics import perceptual, trunks

NETS = {'alex': 'alexnet', 'vgg': 'vgg16', 'squeeze': 'squeezenet1_1'}
HEADS = {'alex': (64, 192, 384, 256, 256), 'vgg': (64, 128, 256, 512, 512),
         'squeeze': (64, 128, 256, 384, 384, 512, 512)}  # fmt: skip


def pictures(count: int, size: int, seed: int = 0) -> np.ndarray:
    """Smooth shapes with some noise, uint8 (count, size, size, 3)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size
    images = []
    for _ in range(count):
        waves = [np.sin(2 * np.pi * (a * x + b * y + c)) for a, b, c in rng.uniform(-3, 3, (9, 3))]
        planes = np.stack([sum(waves[i::3]) for i in range(3)], -1) * 40 + 128
        images.append(planes + rng.normal(0, 12, planes.shape))
    return np.clip(np.rint(images), 0, 255).astype(np.uint8)


def pairs(size: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two pairs of images, near and far, and two holes, one of them at the frame's border."""
    a, other = pictures(2, size, seed), pictures(2, size, seed + 1)
    noise = np.random.default_rng(seed).integers(-20, 21, a[0].shape)
    near = np.clip(a[0].astype(int) + noise, 0, 255)
    b = np.stack([near.astype(np.uint8), other[1]])
    holes = np.zeros((2, size, size, 1), np.uint8)
    holes[0, size // 4 : size // 2, size // 3 : size // 3 + size // 4] = 1
    holes[1, : size // 3, size // 2 :] = 1
    return a, b, holes


def lpips_arrays(net: str, st: bool = False) -> dict[str, np.ndarray]:
    """Random weights of a trunk and of positive heads."""
    rng = np.random.default_rng(7)
    heads = {
        f'lin{i}': np.abs(rng.normal(0, 1, n)).astype(np.float32) for i, n in enumerate(HEADS[net])
    }
    return trunks.random_weights(f'stlpips_{net}' if st else NETS[net], 3) | heads


def distance(name: str) -> perceptual.Distance:
    """The perceptual distance of that name on random weights."""
    family, net = name.split('_')
    return perceptual.from_arrays(name, lpips_arrays(net, family == 'stlpips'))


def features(count: int = 300, dimension: int = 48, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two overlapping clouds, (count, dimension) float32."""
    rng = np.random.default_rng(seed)
    mix = rng.normal(0, 1, (dimension, dimension)) / np.sqrt(dimension)
    real = rng.normal(0, 1, (count, dimension)) @ mix
    fake = 1.1 * rng.normal(0, 1, (count, dimension)) @ mix + 0.1
    return real.astype(np.float32), fake.astype(np.float32)


def torch_state(name: str, seed: int = 5) -> dict[str, np.ndarray]:
    """A random state dict as torch would save it, batch norms and all, for inception or lite0."""
    rng = np.random.default_rng(seed)
    state = {}

    def norm(head: str, count: int) -> None:
        state[f'{head}.weight'] = rng.uniform(0.8, 1.2, count)
        state[f'{head}.bias'] = rng.normal(0, 0.1, count)
        state[f'{head}.running_mean'] = rng.normal(0, 0.1, count)
        state[f'{head}.running_var'] = rng.uniform(0.5, 1.5, count)

    for key, shape in trunks.shapes(name).items():
        layer, kind = key.split('/')
        if kind == 'kernel':
            scale = np.sqrt(2 / np.prod(shape[:-1]))
            kernel = rng.normal(0, scale, shape).transpose(3, 2, 0, 1)
            state[f'{layer}.conv.weight'] = kernel
            norm(f'{layer}.bn', shape[-1])
    return {k: v.astype(np.float32) for k, v in state.items()}
