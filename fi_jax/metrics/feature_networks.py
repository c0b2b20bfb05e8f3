"""Networks whose features images are compared by: on the device, with published weights.

A name gives the network and the resizing: `inception_fid` and `inception_clean` give FID, the
others a Frechet distance that no published FID compares with.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from fi_jax.metrics import resize, trunks, weights


def _pixels8(arrays: Any, images: jax.Array) -> jax.Array:
    del arrays
    return resize.box(images, 8).reshape(images.shape[0], -1)


def _inception_fid(arrays: Any, images: jax.Array) -> jax.Array:
    return trunks.inception(arrays, (resize.tensorflow1(images, 299) - 128) / 128)


def _inception_clean(arrays: Any, images: jax.Array) -> jax.Array:
    return trunks.inception(arrays, (resize.clean(images, 299) - 128) / 128)


def _efficientnet_lite0(arrays: Any, images: jax.Array) -> jax.Array:
    return trunks.efficientnet_lite0(arrays, (resize.clean(images, 224) - 127) / 128)


def _dlib_face(arrays: Any, images: jax.Array) -> jax.Array:
    return trunks.dlib_face(arrays, resize.clean(images, 150))


@dataclasses.dataclass(frozen=True)
class _Network:
    embed: Callable[[Any, jax.Array], jax.Array]
    dimension: int
    weights: str  # '' where none are needed
    frechet: str  # what a Frechet distance on these features is called


_NETWORKS: dict[str, _Network] = {
    'inception_fid': _Network(_inception_fid, 2048, 'inception_fid', 'FID'),
    'inception_clean': _Network(_inception_clean, 2048, 'inception_fid', 'clean-FID'),
    'efficientnet_lite0': _Network(_efficientnet_lite0, 1280, 'efficientnet_lite0', 'FD-EffLite0'),
    'dlib_face': _Network(_dlib_face, 128, 'dlib_face', 'FD-dlib128'),
    'pixels8': _Network(_pixels8, 192, '', 'FD-pixels8'),
}
NAMES: tuple[str, ...] = tuple(_NETWORKS)


@flax.struct.dataclass(eq=False)  # hashed as it is, for jit
class Features:
    """A feature network and its weights: images (B, H, W, 3) in 0..255 -> (B, D); a pytree."""

    arrays: dict[str, jax.Array]
    name: str = flax.struct.field(pytree_node=False)

    @property
    def dimension(self) -> int:
        """D."""
        return _NETWORKS[self.name].dimension

    @property
    def frechet_name(self) -> str:
        """What a Frechet distance on these features may be called; FID for its own net alone."""
        return _NETWORKS[self.name].frechet

    def __call__(self, images: jax.Array) -> jax.Array:
        return _NETWORKS[self.name].embed(self.arrays, jnp.asarray(images, jnp.float32))


def from_arrays(name: str, arrays: dict[str, np.ndarray]) -> Features:
    """The feature network with weights at hand, as `trunks` names them."""
    if name not in _NETWORKS:
        raise ValueError(f'features {name!r}: unknown; there are {", ".join(NAMES)}')
    return Features({k: jnp.asarray(v) for k, v in arrays.items()}, name)


def make_features(name: str) -> Features:
    """The feature network of NAMES with its published weights; it can be called inside jit.

    Raises MissingWeights where the cache has them not, ValueError for an unknown name.
    """
    network = _NETWORKS.get(name)
    arrays = weights.load(network.weights) if network and network.weights else {}
    return from_arrays(name, arrays)


def available() -> tuple[str, ...]:
    """Those of NAMES whose weights are in the cache, or that need none."""
    present = {row.name for row in weights.listing() if row.present} | {''}
    return tuple(name for name, network in _NETWORKS.items() if network.weights in present)
