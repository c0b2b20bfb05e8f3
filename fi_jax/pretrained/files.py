"""A file of weights: safetensors, with all that is known of them as JSON in its header.

Nothing is unpickled. The header holds a SHA-256 over names, types, shapes, bytes and words, so that
a flipped bit is noticed whatever the file is called.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

SUFFIX = '.safetensors'
SCHEMA = 1
KEY = 'fi_jax'  # one alone: the order of several would differ from file to file
MAX_HEADER = 4 << 20  # bytes; a hundred nets of a hundred arrays need less than a quarter
DTYPES: dict[str, Any] = {
    'F32': np.float32, 'F16': np.float16, 'BF16': ml_dtypes.bfloat16, 'F64': np.float64,
    'I32': np.int32, 'I64': np.int64, 'U32': np.uint32, 'I8': np.int8, 'U8': np.uint8,
    'BOOL': np.bool_,
}  # fmt: skip

Tensors = dict[str, np.ndarray]


def encode(tensors: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> bytes:
    """The file's bytes: the same for the same arrays and words."""
    arrays = {name: np.asarray(x, order='C') for name, x in tensors.items()}
    header = {'schema': SCHEMA, 'sha256': _digest(arrays, about), 'about': dict(about)}
    return safetensors.numpy.save(arrays, {KEY: json.dumps(header, sort_keys=True)})


def read(path: str | Path, sha256: str = '') -> tuple[Tensors, dict[str, Any], str]:
    """(arrays as stored, about, SHA-256) of a file; sha256: what it must be, '' where unknown.

    Raises FileNotFoundError; ValueError, naming file and fault, where the file is cut off, changed,
    of another schema, or no file of fi_jax.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'{path}: no such file of weights')
    data = path.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if sha256 and found != sha256:
        raise ValueError(f'{path}: its SHA-256 is {found}, not {sha256}; get the file again')
    header = _header(path, data)
    try:
        parts = safetensors.deserialize(data)
        arrays = {
            name: np.frombuffer(x['data'], DTYPES[x['dtype']]).reshape(x['shape'])
            for name, x in parts
        }
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise ValueError(f'{path}: damaged ({error!r}); get the file again') from None
    if _digest(arrays, header['about']) != header['sha256']:
        raise ValueError(
            f'{path}: damaged: its contents are not those that were written; get the file again'
        )
    return arrays, header['about'], found


def read_about(path: str | Path) -> dict[str, Any]:
    """What a file says of itself, from its header alone; errors as in `read`."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'{path}: no such file of weights')
    with path.open('rb') as file:
        return _header(path, file.read(8 + MAX_HEADER), path.stat().st_size)['about']


def _header(path: Path, data: bytes, size: int | None = None) -> dict[str, Any]:
    size = len(data) if size is None else size
    length = int.from_bytes(data[:8], 'little')
    if size < 8 or not length or (length <= MAX_HEADER and data[8:9] != b'{'):
        raise ValueError(f'{path}: no safetensors file; fi-jax export writes one')
    if length > MAX_HEADER:
        raise ValueError(
            f'{path}: its header would have {length:,} bytes, more than {MAX_HEADER:,}; no file '
            'of fi-jax export, or damaged'
        )
    if 8 + length > size:
        raise ValueError(f'{path}: cut off: {size:,} bytes are less than its header needs')
    try:
        header: dict[str, Any] = json.loads(data[8 : 8 + length])
        end = max(
            (x['data_offsets'][1] for k, x in header.items() if k != '__metadata__'), default=0
        )
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError):
        raise ValueError(
            f'{path}: damaged: its header cannot be read; get the file again'
        ) from None
    if not isinstance(end, int) or 8 + length + end != size:
        raise ValueError(
            f'{path}: cut off or changed: {size:,} bytes, and its header tells of '
            f'{8 + length + end if isinstance(end, int) else end}; get the file again'
        )
    try:
        header = json.loads(header['__metadata__'][KEY])
        schema, _, _ = header['schema'], header['sha256'], header['about']['config']
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ValueError(
            f'{path}: a safetensors file, but not of fi-jax export: it has no config'
        ) from None
    if schema != SCHEMA:
        raise ValueError(
            f'{path}: schema {schema}, and this version of fi_jax reads {SCHEMA}; '
            'install the version that wrote it, or export again'
        )
    return header


def _digest(arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name in sorted(arrays):
        x = arrays[name]
        digest.update(f'{name} {x.dtype.name} {x.shape}\n'.encode())
        digest.update(x.tobytes())
    return digest.hexdigest()
