"""The source's two critics, shared by the systems that have them: what they see, what they say."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from fi_jax import features
from fi_jax.features import Batch
from fi_jax.methods import Nets

CRITICS = ('d_global', 'd_local')
GAN_KINDS = {'ns_r1': 'ns', 'wgan_gp': 'wgan', 'hinge_sn': 'hinge'}


def composite(image: jax.Array, batch: Batch) -> jax.Array:
    """The image inside the batch's holes, the batch's own pixels elsewhere."""
    return features.composite(image, batch['image'], batch['hole'])


def local_view(image: jax.Array, hole: jax.Array, condition: jax.Array) -> jax.Array:
    """What D_local sees: image, hole and condition, cropped to half the side around the hole.

    Conditioned on the landmarks, it scores whether they are the image's (Mirza & Osindero, 2014).
    """
    view = jnp.concatenate([image, hole, condition], axis=-1)
    return features.crop_at(view, features.hole_centre(hole), image.shape[1] // 2)


def scores(
    nets: Nets, image: jax.Array, batch: Batch, frozen: bool, **kwargs: Any
) -> dict[str, jax.Array]:
    """Both critics' scores (B,) of whole images; frozen: with no gradient to the critics."""
    views = {'d_global': image, 'd_local': local_view(image, batch['hole'], batch['condition'])}
    calls = {name: nets[name].frozen if frozen else nets[name] for name in CRITICS}
    return {name: calls[name](views[name], **kwargs) for name in CRITICS}


def of_images(nets: Nets, batch: Batch) -> dict[str, Any]:
    """Each critic as a function of whole images alone, for penalties of its gradient."""
    return {
        'd_global': nets['d_global'],
        'd_local': lambda x: nets['d_local'](local_view(x, batch['hole'], batch['condition'])),
    }
