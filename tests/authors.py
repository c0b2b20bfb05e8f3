"""The authors' networks, read from a folder that the user names, beside ours."""

from __future__ import annotations

import importlib
import os
import sys
import types
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest


def modules(variable: str, *names: str, framework: str = 'torch') -> list[Any]:
    """The framework, then the modules 'package.file' of the folder that the variable names.

    Skips where the variable is not set. Their packages' own __init__ files are not run: they import
    more than the networks need.
    """
    if variable not in os.environ:
        pytest.skip(f'{variable} names no folder of the authors code')
    folder = Path(os.environ[variable])
    if not all((folder / f'{name.replace(".", "/")}.py').is_file() for name in names):
        pytest.fail(f'{variable}={folder}: set it to the folder of the authors code')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        library = pytest.importorskip(framework)
        before = dict(sys.modules)
        sys.path.insert(0, str(folder))
        try:
            for name in names:
                for depth in range(1, len(name.split('.'))):
                    package = '.'.join(name.split('.')[:depth])
                    sys.modules[package] = types.ModuleType(package)
                    sys.modules[package].__path__ = [str(folder / package.replace('.', '/'))]
            return [library, *(importlib.import_module(name) for name in names)]
        finally:
            sys.path.remove(str(folder))
            for name in {name.split('.')[0] for name in names}:  # another author's may follow
                for known in [n for n in sys.modules if n == name or n.startswith(f'{name}.')]:
                    del sys.modules[known]
            sys.modules.update({n: m for n, m in before.items() if n not in sys.modules})


def kernel(weight: Any) -> np.ndarray:
    """A weight of theirs in our order: of a convolution, either way, or of a linear layer."""
    value = weight.detach().numpy()
    return value.transpose((2, 3, 1, 0)) if value.ndim == 4 else value.T


def filled(variables: Any, arrays: dict[str, np.ndarray]) -> Any:
    """Our variables with the arrays by path ('params/Conv_0/kernel'); each is used, none is left.

    The running estimates of spectral norms may be left as they are.
    """
    flat = dict(paths(variables))
    for path, value in arrays.items():
        assert path in flat, f'{path}: not one of ours: {sorted(flat)}'
        assert flat[path].shape == value.shape, (path, flat[path].shape, value.shape)
    left = {path for path in set(flat) - set(arrays) if not path.startswith('batch_stats')}
    assert not left, f'theirs have nothing for {sorted(left)}'
    values = [arrays.get(path, value) for path, value in flat.items()]
    return jax.tree.unflatten(jax.tree.structure(variables), values)


def paths(tree: Any) -> list[tuple[str, Any]]:
    """The leaves of a tree with their paths, a/b/c."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [('/'.join(str(part.key) for part in path), leaf) for path, leaf in leaves]


def channels_first(torch: Any, x: np.ndarray) -> Any:
    """(B,H,W,C) -> their (B,C,H,W)."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(x, -1, 1)))


def compare(found: Any, wanted: Any, tolerance: float = 1e-4) -> None:
    """Ours against their tensor, channels first where it has four axes, or an array as ours."""
    if not isinstance(wanted, np.ndarray):
        wanted = wanted.detach().numpy()
        wanted = np.moveaxis(wanted, 1, -1) if wanted.ndim == 4 else wanted
    np.testing.assert_allclose(
        np.asarray(found).reshape(wanted.shape), wanted, atol=tolerance * np.abs(wanted).max()
    )
