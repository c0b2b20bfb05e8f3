"""Tensors out of published PyTorch and dlib files, without running anything that is in them.

A .pth file is a program for Python's unpickler, which may call any function. Here its instructions
are carried out by a small interpreter that knows how to build dictionaries and tensors and refuses
all else.
"""

import collections
import dataclasses
import io
import math
import pickletools
import struct
import zipfile
from typing import Any

import numpy as np


class UnreadableFile(ValueError):
    """A file of weights that is damaged, of another format, or asks for more than tensors."""


@dataclasses.dataclass(frozen=True)
class _Global:
    name: str


@dataclasses.dataclass(frozen=True)
class _Storage:
    dtype: str
    key: str
    count: int


@dataclasses.dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


_STORAGES = {
    'torch FloatStorage': '<f4',
    'torch DoubleStorage': '<f8',
    'torch HalfStorage': '<f2',
    'torch LongStorage': '<i8',
    'torch IntStorage': '<i4',
    'torch ByteStorage': '|u1',
    'torch BoolStorage': '|b1',
}
_ORDERED = 'collections OrderedDict'
_REBUILD = 'torch._utils _rebuild_tensor_v2'
_PARAMETER = 'torch._utils _rebuild_parameter'
_KNOWN = {*_STORAGES, _ORDERED, _REBUILD, _PARAMETER}

_VALUES = {
    'BININT', 'BININT1', 'BININT2', 'LONG1', 'BINFLOAT', 'BINUNICODE', 'SHORT_BINUNICODE',
    'SHORT_BINSTRING', 'BINSTRING', 'BINBYTES', 'SHORT_BINBYTES',
}  # fmt: skip
_CONSTANTS: dict[str, Any] = {'NONE': None, 'NEWTRUE': True, 'NEWFALSE': False}
_EMPTY: dict[str, Any] = {'EMPTY_DICT': dict, 'EMPTY_LIST': list, 'EMPTY_TUPLE': tuple}
_TUPLES = {'TUPLE1': 1, 'TUPLE2': 2, 'TUPLE3': 3}
_MARK = object()


def _storage(pid: Any) -> _Storage:
    kind, dtype, key, _, count = pid[:5]
    if kind != 'storage' or not isinstance(dtype, _Global) or dtype.name not in _STORAGES:
        raise UnreadableFile(f'{dtype}: not a kind of tensor that is read')
    if len(pid) > 5 and pid[5] is not None:
        raise UnreadableFile(f'storage {key}: a view of another one, which is not read')
    return _Storage(_STORAGES[dtype.name], str(key), int(count))


def _call(function: Any, arguments: tuple) -> Any:
    match function:
        case _Global(name) if name == _ORDERED:
            return dict(*arguments)
        case _Global(name) if name == _REBUILD:
            storage, offset, shape, strides = arguments[:4]
            return _Tensor(storage, offset, tuple(shape), tuple(strides))
        case _Global(name) if name == _PARAMETER:
            return arguments[0]
    raise UnreadableFile(f'{function}: a call that weights have no need of; the file is refused')


def _run(stream: io.BytesIO) -> Any:
    """The value of one pickle, if it is made of plain data and tensors."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}

    def since_mark() -> list[Any]:
        at = max(i for i, item in enumerate(stack) if item is _MARK)
        items = stack[at + 1 :]
        del stack[at:]
        return items

    for opcode, argument, _ in pickletools.genops(stream):
        name = opcode.name
        if name in ('PROTO', 'FRAME'):
            continue
        if name in _VALUES:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name == 'MARK':
            stack.append(_MARK)
        elif name == 'TUPLE':
            stack.append(tuple(since_mark()))
        elif name in _TUPLES:
            stack[-_TUPLES[name] :] = [tuple(stack[-_TUPLES[name] :])]
        elif name in ('BINPUT', 'LONG_BINPUT'):
            memo[int(str(argument))] = stack[-1]
        elif name in ('BINGET', 'LONG_BINGET'):
            stack.append(memo[int(str(argument))])
        elif name == 'GLOBAL':
            if argument not in _KNOWN:
                raise UnreadableFile(f'{argument}: named by the file, and no part of a tensor')
            stack.append(_Global(str(argument)))
        elif name == 'BINPERSID':
            stack.append(_storage(stack.pop()))
        elif name == 'REDUCE':
            arguments = stack.pop()
            stack.append(_call(stack.pop(), arguments))
        elif name == 'BUILD':  # of an OrderedDict: torch's notes on its modules
            stack.pop()
        elif name == 'SETITEM':
            value, key = stack.pop(), stack.pop()
            stack[-1][key] = value
        elif name == 'SETITEMS':
            items = since_mark()
            stack[-1].update(zip(items[::2], items[1::2], strict=True))
        elif name == 'APPEND':
            item = stack.pop()
            stack[-1].append(item)
        elif name == 'APPENDS':
            items = since_mark()
            stack[-1].extend(items)
        elif name == 'STOP':
            return stack.pop()
        else:
            raise UnreadableFile(f'instruction {name}: not one that weights need')
    raise UnreadableFile('the file ends before its data do')


def _array(tensor: _Tensor, storages: dict[str, bytes]) -> np.ndarray:
    storage, dtype = tensor.storage, np.dtype(tensor.storage.dtype)
    data = storages.get(storage.key, b'')
    # Both ends, because a stride or an offset that lies would read the memory beside the data.
    steps = ((n - 1) * s for n, s in zip(tensor.shape, tensor.strides, strict=True))
    last = tensor.offset + sum(steps)
    if len(data) != storage.count * dtype.itemsize:
        raise UnreadableFile(f'storage {storage.key}: {len(data)} bytes for {storage.count} values')
    if min((tensor.offset, *tensor.strides, *tensor.shape)) < 0 or (
        0 not in tensor.shape and last >= storage.count
    ):
        raise UnreadableFile(f'tensor of shape {tensor.shape}: reaches out of its storage')
    flat = np.frombuffer(data, dtype)[tensor.offset :]
    strides = [s * dtype.itemsize for s in tensor.strides]
    return np.lib.stride_tricks.as_strided(flat, tensor.shape, strides).copy()


def _from_zip(data: bytes) -> tuple[Any, dict[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = archive.namelist()
        roots = [name[: -len('data.pkl')] for name in names if name.endswith('/data.pkl')]
        if any('/code/' in name or name.endswith('constants.pkl') for name in names):
            raise UnreadableFile('a TorchScript program, not a table of tensors: get the .pth')
        if len(roots) != 1:
            raise UnreadableFile('a zip without data.pkl: not written by torch.save')
        order = roots[0] + 'byteorder'
        if order in names and archive.read(order) != b'little':
            raise UnreadableFile('written on a big-endian machine, which is not read')
        if sum(item.file_size for item in archive.infolist()) > 2 * len(data) + (1 << 20):
            raise UnreadableFile('a compressed zip: torch.save writes none')
        prefix = roots[0] + 'data/'
        storages = {n[len(prefix) :]: archive.read(n) for n in names if n.startswith(prefix)}
        return _run(io.BytesIO(archive.read(roots[0] + 'data.pkl'))), storages


_MAGIC = 0x1950A86A20F9469CFC6C


def _find(value: Any, found: dict[str, _Storage]) -> None:
    if isinstance(value, _Tensor):
        found[value.storage.key] = value.storage
    elif isinstance(value, dict):
        for item in value.values():
            _find(item, found)


def _from_stream(data: bytes) -> tuple[Any, dict[str, bytes]]:
    """The format of torch.save before 1.6: five pickles, then the storages one after another."""
    stream = io.BytesIO(data)
    if _run(stream) != _MAGIC:
        raise UnreadableFile('not a file of torch.save')
    _run(stream)
    if not _run(stream).get('little_endian', True):
        raise UnreadableFile('written on a big-endian machine, which is not read')
    value, keys = _run(stream), _run(stream)
    wanted: dict[str, _Storage] = {}
    _find(value, wanted)
    storages = {}
    for key in keys:
        head = stream.read(8)
        if len(head) < 8 or key not in wanted:
            raise UnreadableFile(f'storage {key}: missing, or of no tensor')
        size = struct.unpack('<q', head)[0] * np.dtype(wanted[key].dtype).itemsize
        storages[key] = stream.read(size) if 0 <= size <= len(data) else b''
    return value, storages


def read_torch(data: bytes) -> dict[str, np.ndarray]:
    """The state dict in the bytes of a .pth file (zip or older) -> name -> array; no code is run.

    Raises UnreadableFile where the file is damaged or names anything but tensors.
    """
    try:
        value, storages = (_from_zip if data[:2] == b'PK' else _from_stream)(data)
        if not isinstance(value, dict):
            raise UnreadableFile('not a state dict: a dictionary of tensors is read')
        value = value.get('state_dict', value)
        return {
            str(name): _array(tensor, storages)
            for name, tensor in value.items()
            if isinstance(tensor, _Tensor)
        }
    except UnreadableFile:
        raise
    except Exception as error:  # whatever a damaged file leads the interpreter into
        raise UnreadableFile(f'damaged, or no file of torch.save ({error})') from error


_DLIB_LAYERS = (b'\x05con_4', b'\x07affine_', b'\x04fc_2')


def _dlib_integer(data: bytes, at: int) -> tuple[int, int]:
    """An integer of dlib (count of bytes and sign, then the bytes) and where the next item is."""
    size = data[at] & 0x0F
    if not 1 <= size <= 8:
        raise UnreadableFile(f'byte {at}: no integer of dlib')
    value = int.from_bytes(data[at + 1 : at + 1 + size], 'little')
    return (-value if data[at] & 0x80 else value), at + 1 + size


def read_dlib(data: bytes) -> list[tuple[str, np.ndarray]]:
    """The layers with parameters in the bytes of a dlib network, from input to output.

    -> (kind, values (n,) float32), kind 'con_4', 'affine_' or 'fc_2'. Layers are found by their
    written names; the bytes of parameters are skipped, not searched. Raises UnreadableFile.
    """
    layers, at = [], 0
    while True:
        found = [(data.find(name, at), name) for name in _DLIB_LAYERS]
        found = [(start, name) for start, name in found if start >= 0]
        if not found:
            break
        start, name = min(found)
        at = start + len(name)
        if name == b'\x04fc_2':  # numbers of outputs and inputs come before the values
            for _ in range(2):
                _, at = _dlib_integer(data, at)
        version, at = _dlib_integer(data, at)
        sizes = []
        for _ in range(4):
            size, at = _dlib_integer(data, at)
            sizes.append(size)
        count = math.prod(sizes)
        if version != 2 or min(sizes) < 0 or at + 4 * count > len(data):
            raise UnreadableFile(f'layer {name[1:].decode()} at byte {start}: damaged')
        values = np.frombuffer(data, '<f4', count, at)
        at += 4 * count
        layers.append((name[1:].decode(), values.astype(np.float32)))
    if not layers:
        raise UnreadableFile('no layer of a dlib network found')
    return layers


def count_of(items: list[tuple[str, np.ndarray]]) -> dict[str, int]:
    """How many layers of each kind."""
    return dict(collections.Counter(kind for kind, _ in items))
