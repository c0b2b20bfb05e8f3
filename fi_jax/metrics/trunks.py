"""The networks that metrics look through, as functions of their published weights.

A trunk takes `weights`, a flat dict of '{layer}/kernel' (h, w, in, out) and '{layer}/bias' (out,)
under the published layer names, with batch norm folded in, and images (B, H, W, 3) as that network
was trained to see them. Everything is float32.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

Weights = Mapping[str, jax.Array]
Padding = int | tuple[int, int] | str


class _Shapes(dict):
    """In place of weights: notes the shape of each parameter that a trunk asks for."""


def _parameter(weights: Weights, name: str, shape: tuple[int, ...]) -> jax.Array:
    if isinstance(weights, _Shapes):
        weights[name] = shape
        return jnp.zeros(shape, jnp.float32)
    return jnp.asarray(weights[name], jnp.float32)


def _pads(padding: Padding) -> str | list[tuple[int, int]]:
    if isinstance(padding, str):
        return padding
    return [(p, p) for p in ((padding, padding) if isinstance(padding, int) else padding)]


def _conv(
    weights: Weights,
    layer: str,
    x: jax.Array,
    features: int,
    size: int | tuple[int, int],
    stride: int = 1,
    padding: Padding = 0,
) -> jax.Array:
    size = (size, size) if isinstance(size, int) else size
    kernel = _parameter(weights, f'{layer}/kernel', (*size, x.shape[-1], features))
    bias = _parameter(weights, f'{layer}/bias', (features,))
    y = jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        _pads(padding),
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
        precision=jax.lax.Precision.HIGHEST,
    )
    return y + bias[None, None, None]


def _depthwise(weights: Weights, layer: str, x: jax.Array, size: int, stride: int) -> jax.Array:
    """A 'SAME' convolution of each channel alone."""
    channels = x.shape[-1]
    kernel = _parameter(weights, f'{layer}/kernel', (size, size, 1, channels))
    bias = _parameter(weights, f'{layer}/bias', (channels,))
    padding = jax.lax.padtype_to_pads(x.shape[1:3], (size, size), (stride, stride), 'SAME')
    x = jnp.pad(x, [(0, 0), *padding, (0, 0)])
    rows, columns = ((n - size) // stride + 1 for n in x.shape[1:3])
    # Shifted sums: XLA's grouped convolution takes many times as long on a CPU.
    total = jnp.broadcast_to(bias[None, None, None], (x.shape[0], rows, columns, channels))
    for i in range(size):
        for j in range(size):
            view = x[:, i : i + stride * (rows - 1) + 1 : stride]
            view = view[:, :, j : j + stride * (columns - 1) + 1 : stride]
            total = total + view * kernel[i, j][None, None]
    return total


def _pool(
    x: jax.Array, size: int, stride: int, padding: int = 0, ceil: bool = False, mean: bool = False
) -> jax.Array:
    """Max pooling; or mean pooling over the pixels inside the frame."""
    # Torch's ceil mode adds a last window that leaves the frame, where one starts inside it.
    more = [(-(n + 2 * padding - size)) % stride if ceil else 0 for n in x.shape[1:3]]
    pads = [(0, 0), *((padding, padding + extra) for extra in more), (0, 0)]
    window, strides = (1, size, size, 1), (1, stride, stride, 1)
    if not mean:
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, strides, pads)
    total = jax.lax.reduce_window(x, 0.0, jax.lax.add, window, strides, pads)
    ones = jnp.ones((1, *x.shape[1:3], 1), x.dtype)
    return total / jax.lax.reduce_window(ones, 0.0, jax.lax.add, window, strides, pads)


def _blur(x: jax.Array) -> jax.Array:
    """Half the size after a [1 2 1] filter, borders reflected by two pixels."""
    x = jnp.pad(x, [(0, 0), (2, 2), (2, 2), (0, 0)], mode='reflect')
    for axis in (1, 2):
        count = (x.shape[axis] - 3) // 2 + 1
        views = (jax.lax.slice_in_dim(x, i, i + 2 * count - 1, 2, axis) for i in range(3))
        x = sum((w * v for w, v in zip((0.25, 0.5, 0.25), views, strict=True)), jnp.float32(0))
    return x


def alexnet(weights: Weights, x: jax.Array) -> tuple[jax.Array, ...]:
    """AlexNet's five maps after each convolution: Krizhevsky, "One weird trick", 2014."""
    maps = [x := jax.nn.relu(_conv(weights, 'features.0', x, 64, 11, 4, 2))]
    maps += [x := jax.nn.relu(_conv(weights, 'features.3', _pool(x, 3, 2), 192, 5, 1, 2))]
    maps += [x := jax.nn.relu(_conv(weights, 'features.6', _pool(x, 3, 2), 384, 3, 1, 1))]
    maps += [x := jax.nn.relu(_conv(weights, 'features.8', x, 256, 3, 1, 1))]
    maps += [jax.nn.relu(_conv(weights, 'features.10', x, 256, 3, 1, 1))]
    return tuple(maps)


_VGG = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))


def vgg16(weights: Weights, x: jax.Array) -> tuple[jax.Array, ...]:
    """VGG-16's last map of each of five resolutions: Simonyan and Zisserman, 2014."""
    maps: list[jax.Array] = []
    index = 0
    for features, count in _VGG:
        if maps:
            x, index = _pool(x, 2, 2), index + 1
        for _ in range(count):
            x = jax.nn.relu(_conv(weights, f'features.{index}', x, features, 3, 1, 1))
            index += 2
        maps.append(x)
    return tuple(maps)


def squeezenet(weights: Weights, x: jax.Array) -> tuple[jax.Array, ...]:
    """SqueezeNet 1.1's seven maps of LPIPS: Iandola et al., 2016."""

    def fire(index: int, x: jax.Array, squeezed: int, features: int) -> jax.Array:
        name = f'features.{index}'
        x = jax.nn.relu(_conv(weights, f'{name}.squeeze', x, squeezed, 1))
        wide = [
            _conv(weights, f'{name}.expand1x1', x, features, 1),
            _conv(weights, f'{name}.expand3x3', x, features, 3, 1, 1),
        ]
        return jax.nn.relu(jnp.concatenate(wide, axis=-1))

    maps = [x := jax.nn.relu(_conv(weights, 'features.0', x, 64, 3, 2))]
    maps += [x := fire(4, fire(3, _pool(x, 3, 2, ceil=True), 16, 64), 16, 64)]
    maps += [x := fire(7, fire(6, _pool(x, 3, 2, ceil=True), 32, 128), 32, 128)]
    maps += [x := fire(9, _pool(x, 3, 2, ceil=True), 48, 192)]
    maps += [x := fire(10, x, 48, 192)]
    maps += [x := fire(11, x, 64, 256)]
    maps += [fire(12, x, 64, 256)]
    return tuple(maps)


def stlpips_alex(weights: Weights, x: jax.Array) -> tuple[jax.Array, ...]:
    """ST-LPIPS's own AlexNet, which blurs where it shrinks: Ghildyal and Liu, 2022."""

    def conv(layer: str, x: jax.Array, features: int, size: int, padding: int) -> jax.Array:
        return _conv(weights, f'net.{layer}', x, features, size, 1, padding)

    maps = [x := jax.nn.relu(_blur(conv('slice1.0', x, 64, 11, 2)))]
    maps += [x := jax.nn.relu(conv('slice2.5', _blur(_pool(x, 3, 1)), 192, 5, 2))]
    maps += [x := jax.nn.relu(conv('slice3.9', _blur(_pool(x, 3, 1)), 384, 3, 1))]
    maps += [x := jax.nn.relu(conv('slice4.11', x, 256, 3, 1))]
    maps += [jax.nn.relu(conv('slice5.13', x, 256, 3, 1))]
    return tuple(maps)


def stlpips_vgg(weights: Weights, x: jax.Array) -> tuple[jax.Array, ...]:
    """ST-LPIPS's own VGG-16, which blurs where it shrinks: Ghildyal and Liu, 2022."""
    maps: list[jax.Array] = []
    index = 0
    for number, (features, count) in enumerate(_VGG, 1):
        if maps:
            x, index = _blur(_pool(x, 2, 1)), index + 2
        for _ in range(count):
            layer = f'net.slice{number}.{index}'
            x = jax.nn.relu(_conv(weights, layer, x, features, 3, 1, 1))
            index += 2
        maps.append(x)
    return tuple(maps)


def inception(weights: Weights, x: jax.Array) -> jax.Array:
    """The FID Inception: (B, 299, 299, 3) in about [-1, 1] -> pooled features (B, 2048).

    Szegedy et al., "Rethinking the Inception architecture", 2015, with the poolings of the graph
    that Heusel et al. 2017 measured with: means leave padding out, and the last block pools by max.
    """

    def conv(
        layer: str,
        x: jax.Array,
        features: int,
        size: int | tuple[int, int] = 1,
        stride: int = 1,
        padding: Padding = 0,
    ) -> jax.Array:
        return jax.nn.relu(_conv(weights, layer, x, features, size, stride, padding))

    def join(*branches: jax.Array) -> jax.Array:
        return jnp.concatenate(branches, axis=-1)

    def mean(x: jax.Array) -> jax.Array:
        return _pool(x, 3, 1, 1, mean=True)

    def block_a(name: str, x: jax.Array, pooled: int) -> jax.Array:
        five = conv(f'{name}.branch5x5_1', x, 48)
        three = conv(f'{name}.branch3x3dbl_1', x, 64)
        three = conv(f'{name}.branch3x3dbl_2', three, 96, 3, 1, 1)
        return join(
            conv(f'{name}.branch1x1', x, 64),
            conv(f'{name}.branch5x5_2', five, 64, 5, 1, 2),
            conv(f'{name}.branch3x3dbl_3', three, 96, 3, 1, 1),
            conv(f'{name}.branch_pool', mean(x), pooled),
        )

    def block_c(name: str, x: jax.Array, narrow: int) -> jax.Array:
        row, column = (1, 7), (7, 1)
        seven = conv(f'{name}.branch7x7_1', x, narrow)
        seven = conv(f'{name}.branch7x7_2', seven, narrow, row, 1, (0, 3))
        double = conv(f'{name}.branch7x7dbl_1', x, narrow)
        double = conv(f'{name}.branch7x7dbl_2', double, narrow, column, 1, (3, 0))
        double = conv(f'{name}.branch7x7dbl_3', double, narrow, row, 1, (0, 3))
        double = conv(f'{name}.branch7x7dbl_4', double, narrow, column, 1, (3, 0))
        return join(
            conv(f'{name}.branch1x1', x, 192),
            conv(f'{name}.branch7x7_3', seven, 192, column, 1, (3, 0)),
            conv(f'{name}.branch7x7dbl_5', double, 192, row, 1, (0, 3)),
            conv(f'{name}.branch_pool', mean(x), 192),
        )

    def block_e(name: str, x: jax.Array, pooled: jax.Array) -> jax.Array:
        three = conv(f'{name}.branch3x3_1', x, 384)
        double = conv(f'{name}.branch3x3dbl_1', x, 448)
        double = conv(f'{name}.branch3x3dbl_2', double, 384, 3, 1, 1)
        return join(
            conv(f'{name}.branch1x1', x, 320),
            conv(f'{name}.branch3x3_2a', three, 384, (1, 3), 1, (0, 1)),
            conv(f'{name}.branch3x3_2b', three, 384, (3, 1), 1, (1, 0)),
            conv(f'{name}.branch3x3dbl_3a', double, 384, (1, 3), 1, (0, 1)),
            conv(f'{name}.branch3x3dbl_3b', double, 384, (3, 1), 1, (1, 0)),
            conv(f'{name}.branch_pool', pooled, 192),
        )

    x = conv('Conv2d_1a_3x3', x, 32, 3, 2)
    x = conv('Conv2d_2a_3x3', x, 32, 3)
    x = _pool(conv('Conv2d_2b_3x3', x, 64, 3, 1, 1), 3, 2)
    x = conv('Conv2d_3b_1x1', x, 80)
    x = _pool(conv('Conv2d_4a_3x3', x, 192, 3), 3, 2)
    x = block_a('Mixed_5b', x, 32)
    x = block_a('Mixed_5c', x, 64)
    x = block_a('Mixed_5d', x, 64)
    double = conv('Mixed_6a.branch3x3dbl_1', x, 64)
    double = conv('Mixed_6a.branch3x3dbl_2', double, 96, 3, 1, 1)
    x = join(
        conv('Mixed_6a.branch3x3', x, 384, 3, 2),
        conv('Mixed_6a.branch3x3dbl_3', double, 96, 3, 2),
        _pool(x, 3, 2),
    )
    for name, narrow in zip('bcde', (128, 160, 160, 192), strict=True):
        x = block_c(f'Mixed_6{name}', x, narrow)
    three = conv('Mixed_7a.branch3x3_1', x, 192)
    seven = conv('Mixed_7a.branch7x7x3_1', x, 192)
    seven = conv('Mixed_7a.branch7x7x3_2', seven, 192, (1, 7), 1, (0, 3))
    seven = conv('Mixed_7a.branch7x7x3_3', seven, 192, (7, 1), 1, (3, 0))
    x = join(
        conv('Mixed_7a.branch3x3_2', three, 320, 3, 2),
        conv('Mixed_7a.branch7x7x3_4', seven, 192, 3, 2),
        _pool(x, 3, 2),
    )
    x = block_e('Mixed_7b', x, mean(x))
    x = block_e('Mixed_7c', x, _pool(x, 3, 1, 1))
    return jnp.mean(x, axis=(1, 2))


# Size of the kernel, stride, features of each block; all but the first widen sixfold inside.
_LITE0 = (
    (3, 1, 16), (3, 2, 24), (3, 1, 24), (5, 2, 40), (5, 1, 40), (3, 2, 80), (3, 1, 80), (3, 1, 80),
    (5, 1, 112), (5, 1, 112), (5, 1, 112), (5, 2, 192), (5, 1, 192), (5, 1, 192), (5, 1, 192),
    (3, 1, 320),
)  # fmt: skip


def efficientnet_lite0_maps(weights: Weights, x: jax.Array) -> tuple[jax.Array, ...]:
    """EfficientNet-Lite0's map after each of 16 blocks, of images in about [-1, 1].

    Tan and Le, "EfficientNet", 2019; the Lite variants have no squeeze-and-excitation and ReLU6.
    """
    relu6 = jax.nn.relu6
    x = relu6(_conv(weights, '_conv_stem', x, 32, 3, 2, 'SAME'))
    maps = []
    for index, (size, stride, features) in enumerate(_LITE0):
        name = f'_blocks.{index}'
        y = x
        if index:
            y = relu6(_conv(weights, f'{name}._expand_conv', y, 6 * x.shape[-1], 1))
        y = relu6(_depthwise(weights, f'{name}._depthwise_conv', y, size, stride))
        y = _conv(weights, f'{name}._project_conv', y, features, 1)
        maps.append(x := x + y if y.shape == x.shape else y)
    return tuple(maps)


def efficientnet_lite0(weights: Weights, x: jax.Array) -> jax.Array:
    """EfficientNet-Lite0: (B, 224, 224, 3) in about [-1, 1] -> pooled features (B, 1280)."""
    x = efficientnet_lite0_maps(weights, x)[-1]
    return jnp.mean(jax.nn.relu6(_conv(weights, '_conv_head', x, 1280, 1)), axis=(1, 2))


_DLIB_MEAN = np.array([122.782, 117.001, 104.298], np.float32)  # RGB, of its input layer
_DLIB_BLOCKS = (32, 32, 32, -64, 64, 64, 64, -128, 128, 128, -256, 256, 256, -256)  # - halves


def dlib_face(weights: Weights, x: jax.Array) -> jax.Array:
    """dlib's face recognition ResNet: chips (B, 150, 150, 3) in 0..255 -> descriptors (B, 128)."""
    x = (x - _DLIB_MEAN[None, None, None]) / 256
    x = _pool(jax.nn.relu(_conv(weights, 'conv0', x, 32, 7, 2)), 3, 2)
    for index, width in enumerate(_DLIB_BLOCKS):
        first, second = f'conv{2 * index + 1}', f'conv{2 * index + 2}'
        halves = width < 0
        y = _conv(weights, first, x, abs(width), 3, 2 if halves else 1, 0 if halves else 1)
        y = _conv(weights, second, jax.nn.relu(y), abs(width), 3, 1, 1)
        if halves:
            x = _pool(x, 2, 2, mean=True)
        # dlib adds maps of unlike sizes as if the smaller were zero outside.
        size = [max(n, m) for n, m in zip(x.shape, y.shape, strict=True)]
        x, y = (
            jnp.pad(v, [(0, n - m) for n, m in zip(size, v.shape, strict=True)]) for v in (x, y)
        )
        x = jax.nn.relu(x + y)
    kernel = _parameter(weights, 'fc/kernel', (x.shape[-1], 128))
    return jnp.matmul(jnp.mean(x, axis=(1, 2)), kernel, precision=jax.lax.Precision.HIGHEST)


# Each with the side of an image it can see.
TRUNKS: dict[str, tuple[Callable, int]] = {
    'alexnet': (alexnet, 64),
    'vgg16': (vgg16, 64),
    'squeezenet1_1': (squeezenet, 64),
    'stlpips_alex': (stlpips_alex, 64),
    'stlpips_vgg': (stlpips_vgg, 64),
    'inception_fid': (inception, 299),
    'efficientnet_lite0': (efficientnet_lite0, 224),
    'dlib_face': (dlib_face, 150),
}


def shapes(name: str) -> dict[str, tuple[int, ...]]:
    """The shape of each parameter of a trunk of TRUNKS."""
    trunk, side = TRUNKS[name]
    noted = _Shapes()
    jax.eval_shape(lambda x: trunk(noted, x), jax.ShapeDtypeStruct((1, side, side, 3), np.float32))
    return dict(noted)


def random_weights(name: str, seed: int = 0) -> dict[str, np.ndarray]:
    """Weights that keep the scale of their input, for tests and benchmarks alone."""
    rng = np.random.default_rng(seed)
    weights = {}
    for key, shape in shapes(name).items():
        fan_in = np.prod(shape[:-1])
        scale = np.sqrt(2 / fan_in) if len(shape) > 1 else 0.05
        weights[key] = rng.normal(0, scale, shape).astype(np.float32)
    return weights
