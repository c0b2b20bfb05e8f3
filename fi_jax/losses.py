"""Losses: pure functions on arrays that return one value an example, (B,); the caller averages."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp


def masked_mean(error: jax.Array, where: jax.Array) -> jax.Array:
    """Mean of error (B,H,W,C) over the pixels where (B,H,W,1) is 1; 0 where there are none."""
    total = (error * where).sum(axis=(1, 2, 3))
    return total / jnp.maximum(where.sum(axis=(1, 2, 3)) * error.shape[-1], 1.0)


def image_mean(error: jax.Array) -> jax.Array:
    """Mean of error (B,H,W,C) over pixels and channels."""
    return error.mean(axis=(1, 2, 3))


def total_variation(image: jax.Array, where: jax.Array) -> jax.Array:
    """Mean step between neighbours of image (B,H,W,C) that both lie where (B,H,W,1) is 1; (B,)."""
    rows = masked_mean(jnp.abs(jnp.diff(image, axis=1)), where[:, 1:] * where[:, :-1])
    columns = masked_mean(jnp.abs(jnp.diff(image, axis=2)), where[:, :, 1:] * where[:, :, :-1])
    return rows + columns


def kl_gaussian(
    mean: jax.Array,
    logvar: jax.Array,
    prior_mean: jax.Array | float = 0.0,
    prior_logvar: jax.Array | float = 0.0,
) -> jax.Array:
    """KL(N(mean, exp(logvar)) || N(prior_mean, exp(prior_logvar))) by dimension, in nats; (B,D).

    (Kingma & Welling, 2014, appendix B, with a prior that need not be the standard one.)
    """
    distance = (mean - prior_mean) ** 2 * jnp.exp(-prior_logvar)
    shape = logvar - prior_logvar
    return 0.5 * (jnp.exp(shape) - 1.0 - shape + distance)


def free_bits(kl: jax.Array, floor: float) -> jax.Array:
    """Sum over dimensions of max(batch mean of kl, floor); kl (B,D) in nats -> scalar.

    (Kingma et al., 2016.) A dimension below the floor gets no push towards the prior.
    """
    return jnp.maximum(kl.mean(axis=0), floor).sum()


def bce(logits: jax.Array, target: jax.Array) -> jax.Array:
    """Binary cross-entropy of each element, from logits."""
    return jax.nn.softplus(logits) - target * logits


def balanced_bce(logits: jax.Array, target: jax.Array, where: jax.Array) -> jax.Array:
    """Mean of the cross-entropies over the 1s and over the 0s of the target, inside where; (B,).

    The discs of 68 points are a few per cent of a map: the plain mean learns 'all zero'.
    """
    error = bce(logits, target)
    ones, zeros = target * where, (1.0 - target) * where
    return 0.5 * (masked_mean(error, ones) + masked_mean(error, zeros))


GAN_KINDS = ('ns', 'hinge', 'lsgan', 'wgan')


def critic_loss(kind: str, real: jax.Array, fake: jax.Array) -> jax.Array:
    """What a critic minimises, from scores (B,) of real and fake images.

    kind: 'ns' non-saturating logistic (Goodfellow et al., 2014), 'hinge' (Lim & Ye, 2017),
    'lsgan' (Mao et al., 2017), 'wgan' (Arjovsky et al., 2017; its gradient penalty is
    `gradient_penalty`). ValueError for another.
    """
    if kind == 'ns':
        return jax.nn.softplus(fake) + jax.nn.softplus(-real)
    if kind == 'hinge':
        return jax.nn.relu(1.0 + fake) + jax.nn.relu(1.0 - real)
    if kind == 'lsgan':
        return jnp.square(fake) + jnp.square(real - 1.0)
    if kind == 'wgan':
        return fake - real
    raise ValueError(f'adversarial loss {kind!r}: choose one of {list(GAN_KINDS)}')


def adversarial_loss(kind: str, fake: jax.Array) -> jax.Array:
    """What the generator minimises, from scores (B,) of its images; kinds as in `critic_loss`."""
    if kind == 'ns':
        return jax.nn.softplus(-fake)
    if kind == 'lsgan':
        return jnp.square(fake - 1.0)
    if kind in ('hinge', 'wgan'):
        return -fake
    raise ValueError(f'adversarial loss {kind!r}: choose one of {list(GAN_KINDS)}')


def squared_gradient(
    critic: Callable[[jax.Array], jax.Array], x: jax.Array, where: jax.Array | float = 1.0
) -> jax.Array:
    """Squared norm of the critic's gradient at images x (B,H,W,C), over the pixels where; (B,)."""
    grad = jax.grad(lambda y: critic(y).sum())(x) * where
    return jnp.square(grad).sum(axis=(1, 2, 3))


def r1(critic: Callable[[jax.Array], jax.Array], real: jax.Array) -> jax.Array:
    """Half the squared gradient norm at real images, to be weighted (Mescheder et al., 2018)."""
    return 0.5 * squared_gradient(critic, real)


def gradient_penalty(
    critic: Callable[[jax.Array], jax.Array],
    real: jax.Array,
    fake: jax.Array,
    mix: jax.Array,
    where: jax.Array | float = 1.0,
) -> jax.Array:
    """(|gradient| - 1)^2 between real and fake; mix (B,) in [0,1] (Gulrajani et al., 2017).

    where (B,H,W,1): the pixels whose gradient counts, for critics of completions those of the hole
    (Yu et al., 2018).
    """
    t = mix[:, None, None, None]
    norm = jnp.sqrt(squared_gradient(critic, t * real + (1 - t) * fake, where) + 1e-12)
    return jnp.square(norm - 1.0)
