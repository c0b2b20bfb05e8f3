"""From config to optimizers and schedules."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import optax

KERNEL_AXES = 4  # of a convolution: H, W, in, out


def make_optimizers(config: Any, nets: Iterable[str]) -> dict[str, optax.GradientTransformation]:
    """One optimizer for each net, clipped by global norm where config.optim.clip > 0.

    config.optim.name is one of `OPTIMIZERS`; weights decay where they are matrices or kernels.
    config.optim.lr_scale[net] multiplies the rate of a net. Raises ValueError on an unknown name
    or net.
    """
    optim, nets = config.optim, tuple(nets)
    if unknown := set(optim.lr_scale) - set(nets):
        raise ValueError(
            f'config.optim.lr_scale: no net called {sorted(unknown)}; the nets are {list(nets)}'
        )
    if optim.name not in OPTIMIZERS:
        raise ValueError(f'config.optim.name={optim.name!r}: choose one of {sorted(OPTIMIZERS)}')

    def make(name: str) -> optax.GradientTransformation:
        rate = optim.lr * optim.lr_scale.get(name, 1.0)
        clip = optax.clip_by_global_norm(optim.clip) if optim.clip > 0 else optax.identity()
        return optax.chain(clip, OPTIMIZERS[optim.name](optim, rate))

    return {name: make(name) for name in nets}


def _adam(optim: Any, rate: float) -> optax.GradientTransformation:
    return optax.adam(rate, b1=optim.b1, b2=optim.b2)


def _adamw(optim: Any, rate: float) -> optax.GradientTransformation:
    return optax.adamw(
        rate, b1=optim.b1, b2=optim.b2, weight_decay=optim.weight_decay, mask=_is_kernel
    )


def _muon(optim: Any, rate: float) -> optax.GradientTransformation:
    """Muon (Jordan et al., 2024) on matrices and kernels, AdamW on all else."""
    return optax.contrib.muon(
        rate, weight_decay=optim.weight_decay, weight_decay_mask=_is_kernel, adam_b1=optim.b1,
        adam_b2=optim.b2, muon_weight_dimension_numbers=_as_matrices,
    )  # fmt: skip


def _is_kernel(params: Any) -> Any:
    return jax.tree.map(lambda x: x.ndim > 1, params)


def _as_matrices(params: Any) -> Any:
    """How each array is a matrix: a kernel is one from all that an output sees to the outputs."""

    def one(x: jax.Array) -> Any:
        if x.ndim not in (2, KERNEL_AXES):
            return None
        axes = tuple(range(x.ndim - 1))
        return optax.contrib.MuonDimensionNumbers(reduction_axis=axes, output_axis=x.ndim - 1)

    return jax.tree.map(one, params)


OPTIMIZERS: dict[str, Callable[[Any, float], optax.GradientTransformation]] = {
    'adam': _adam,
    'adamw': _adamw,
    'muon': _muon,
}


def rate_scale(
    step: jax.Array, steps: int, optim: Any, moment: jax.Array | None = None
) -> jax.Array:
    """Factor of the learning rate at a step of a stage of so many steps.

    Up to 1 over the first config.optim.warmup_steps, then 1, then down to 0 over the last
    decay_share of the steps: in a line, or as config.optim.decay says, along a cosine. moment: how
    far the stage is, in its steps, where another clock than the count of steps tells that.
    """
    scale = jnp.ones(())
    moment = step if moment is None else moment
    if optim.decay_share > 0:
        scale = jnp.clip((steps - moment) / (optim.decay_share * steps), 0.0, 1.0)
        if optim.decay == 'cosine':
            scale = 0.5 - 0.5 * jnp.cos(jnp.pi * scale)
        elif optim.decay != 'linear':
            raise ValueError(f'config.optim.decay={optim.decay!r}: choose linear or cosine')
    if optim.warmup_steps > 0:
        scale *= jnp.minimum(1.0, (step + 1) / optim.warmup_steps)
    return scale


def ema_decay(step: jax.Array, batch_size: int, halflife_images: float) -> jax.Array:
    """Decay of the weight average: a half-life in images, shorter at the start; 0 keeps none."""
    if halflife_images <= 0:
        return jnp.zeros(())
    slow = 0.5 ** (batch_size / halflife_images)
    return jnp.minimum(slow, (1.0 + step) / (10.0 + step))
