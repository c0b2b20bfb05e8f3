"""PD-GAN (Liu et al., 2021, "Probabilistic diverse GAN"): noise, led by a first guess of the face.

Stage `prior` trains the network of the first guess, stage `pdgan` the generator and its critic: at
the border of the hole a completion follows the guess, deep inside it is free. Two completions of
each photo are drawn and held apart. It knows no landmarks.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from fi_jax import features, losses, rng
from fi_jax.features import Batch
from fi_jax.methods import Changes, Method, Nets, Phase, Settings, perceptual
from fi_jax.methods.pairs import interleaved, split
from fi_jax.nets.pdgan import Critic, Generator, Prior, grown
from fi_jax.rng import Keys

# Widths of the generator from 4 pixels up to 128, of the prior's network from 128 down to 4, of the
# critic; smaller images have fewer of the former two.
SIZES: dict[str, dict[str, Any]] = {
    'small': dict(
        generator=(192, 192, 192, 96, 48, 24),
        prior=(32, 64, 128, 128, 128, 128),
        critic=(32, 64, 128, 256),
        hidden=32,
        z_dim=128,
        prior_blocks=2,
    ),
    'paper': dict(
        generator=(1024, 1024, 512, 256, 128, 64),
        prior=(64, 128, 256, 512, 512, 512),
        critic=(64, 128, 256, 512),
        hidden=128,
        z_dim=256,
        prior_blocks=4,
    ),
}
TINY = dict(generator=(16, 16, 8), prior=(8, 16), critic=(8, 16), hidden=8, z_dim=8, prior_blocks=1)


def sized(name: str, res: int) -> dict[str, Any]:
    """The widths of a size for images of side res."""
    levels = {64: 4, 128: 5, 256: 6}[res]
    size = SIZES[name]
    return size | dict(generator=size['generator'][-levels:], prior=size['prior'][:levels])


def choices(res: int) -> dict[str, Any]:
    """'size': the widths, 'paper' the authors' at 256 pixels; 'trunk': of the perceptual terms."""
    names = SIZES if res > 32 else ()
    sizes = {n: {f'pdgan.{k}': v for k, v in sized(n, res).items()} for n in names}
    return {'size': sizes or {'small': {}}, 'trunk': {name: {} for name in perceptual.TRUNKS}}


def defaults(res: int) -> dict[str, Any]:
    """The fields of this method alone; the weights are those of the authors' code."""
    section = dict(
        TINY if res == 32 else sized('small', res),
        perceptual=10.0,
        feature_matching=10.0,
        variation=0.1,
        diversity=1.0,  # of 1 / (distance of two completions + floor)
        diversity_floor=0.05,
        prior_hole=6.0,
        prior_visible=1.0,
        prior_perceptual=0.05,
    )
    return dict(size='small', trunk='none', steps=dict(prior=0, pdgan=0), pdgan=section)


ABLATIONS: dict[str, Changes] = {
    'no_diversity': {'pdgan.diversity': 0.0},
    'no_matching': {'pdgan.feature_matching': 0.0},
}
SETTINGS = Settings(defaults, choices, ABLATIONS, fixed=('pdgan', 'trunk'))


def make(config: Any) -> Method:
    """The method of a config; raises ValueError on an unknown trunk."""
    c, dtype = config.pdgan, jnp.dtype(config.dtype)
    constants = perceptual.constants(config.trunk)

    def looks(nets: Nets, image: jax.Array) -> tuple[jax.Array, ...]:
        return perceptual.maps(config.trunk, nets['trunk'], image)

    def unlike(nets: Nets, image: jax.Array, truths: tuple[jax.Array, ...]) -> jax.Array:
        """Mean perceptual distance of images to those whose maps are given."""
        return perceptual.mean_distance(looks(nets, image), truths)

    def variation(image: jax.Array, batch: Batch) -> jax.Array:
        """Of the completion, inside the hole and at its border."""
        whole = features.composite(image, batch['image'], batch['hole'])
        return losses.total_variation(whole, grown(batch['hole'])).mean()

    def prior_loss(
        nets: Nets, batch: Batch, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        image, hole = batch['image'], batch['hole']
        guess = nets['prior'](batch['masked'], 1.0 - hole)
        error = jnp.abs(guess - image)
        terms = {
            'l1_hole': losses.image_mean(error * hole).mean(),
            'l1_visible': losses.image_mean(error * (1.0 - hole)).mean(),
            'variation': variation(guess, batch),
        }
        total = c.prior_hole * terms['l1_hole'] + c.prior_visible * terms['l1_visible']
        total += c.variation * terms['variation']
        if config.trunk != 'none':
            truths = looks(nets, image)
            whole = features.composite(guess, image, hole)
            terms['perceptual'] = unlike(nets, guess, truths) + unlike(nets, whole, truths)
            total += c.prior_perceptual * terms['perceptual']
        return total, terms

    def first_guess(nets: Nets, batch: Batch) -> jax.Array:
        guess = nets['prior'].frozen(batch['masked'], 1.0 - batch['hole'])
        return jax.lax.stop_gradient(guess)

    def loss(
        nets: Nets, batch: Batch, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Generator and critic at once, over two completions of each photo: rows of a pair."""
        rows = len(batch['image'])
        twice = {name: jnp.repeat(batch[name], 2, axis=0) for name in ('image', 'hole')}
        z = jax.random.normal(key, (2, rows, c.z_dim))
        guess = jnp.repeat(first_guess(nets, batch), 2, axis=0)
        fake = nets['generator'](interleaved(*z), guess, 1.0 - twice['hole'], update_stats=True)

        def judged(image: jax.Array, hole: jax.Array) -> jax.Array:
            return jnp.concatenate([hole, image], axis=-1)

        on_real = nets['critic'](judged(batch['image'], batch['hole']), update_stats=True)
        still = judged(jax.lax.stop_gradient(fake), twice['hole'])
        on_still = nets['critic'](still)
        on_fake = nets['critic'].frozen(judged(fake, twice['hole']))
        critic, adversarial, matching = jnp.zeros(()), jnp.zeros(()), jnp.zeros(())
        for real, held, moved in zip(on_real, on_still, on_fake, strict=True):
            both = losses.critic_loss('hinge', jnp.repeat(real[-1], 2, axis=0), held[-1])
            critic += both.mean() / len(on_real)
            adversarial += losses.adversarial_loss('hinge', moved[-1]).mean() / len(on_real)
            for wanted, found in zip(real[:-1], moved[:-1], strict=True):
                wanted = jnp.repeat(jax.lax.stop_gradient(wanted), 2, axis=0)
                matching += jnp.abs(found - wanted).astype(jnp.float32).mean() / len(on_real)

        terms = {
            'adversarial': adversarial,
            'matching': matching,
            'variation': variation(fake, twice),
            'critic': critic,
        }
        if config.trunk != 'none':
            truths = [jnp.repeat(m, 2, axis=0) for m in looks(nets, batch['image'])]
            terms['perceptual'] = unlike(nets, fake, tuple(truths))
            deepest = looks(nets, fake * twice['hole'])[-1]
            (apart,) = perceptual.distances(*((m,) for m in split(deepest)))
        else:
            a, b = split(fake)
            apart = losses.masked_mean(jnp.abs(a - b), batch['hole'])
        terms['apart'] = apart.mean()
        terms['diversity'] = 1.0 / (terms['apart'] + c.diversity_floor)

        # As in the authors' code, terms are summed over the two completions.
        total = 2.0 * (adversarial + critic + c.feature_matching * matching)
        total += 2.0 * c.variation * terms['variation'] + c.diversity * terms['diversity']
        if config.trunk != 'none':
            total += 2.0 * c.perceptual * terms['perceptual']
        return total, terms

    def complete(nets: Nets, batch: Batch, z: jax.Array) -> dict[str, jax.Array]:
        guess = first_guess(nets, batch)
        return {'image': nets['generator'](z, guess, 1.0 - batch['hole'])}

    def sample(nets: Nets, batch: Batch, keys: Keys) -> dict[str, jax.Array]:
        return complete(nets, batch, rng.normal(keys, (c.z_dim,)))

    def most_likely(nets: Nets, batch: Batch, keys: Keys) -> dict[str, jax.Array]:
        return complete(nets, batch, jnp.zeros((len(batch['hole']), c.z_dim)))

    def first(nets: Nets, batch: Batch, keys: Keys) -> dict[str, jax.Array]:
        return {'image': first_guess(nets, batch)}

    def inputs(batch: Batch) -> dict[str, tuple[jax.Array, ...]]:
        image, hole = batch['image'], batch['hole']
        return {
            'prior': (image, hole),
            'generator': (jnp.zeros((len(image), c.z_dim)), image, hole),
            'critic': (jnp.concatenate([hole, image], axis=-1),),
        }

    completing = ('prior', 'generator')
    return Method(
        nets={
            'prior': Prior(tuple(c.prior), c.prior_blocks, dtype),
            'generator': Generator(tuple(c.generator), c.hidden, dtype),
            'critic': Critic(tuple(c.critic), dtype),
        },
        inputs=inputs,
        stages={
            'prior': (Phase('prior', ('prior',), prior_loss),),
            'pdgan': (Phase('all', ('generator', 'critic'), loss),),
        },
        ema=completing if config.optim.ema_halflife_images > 0 else (),
        sample=sample,
        variants={'z=0': most_likely, 'first guess': first},
        sampling=completing,
        constants=constants,
    )
