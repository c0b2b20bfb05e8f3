"""PICNet (Zheng et al., 2019, "Pluralistic image completion"): two paths through one generator.

The reconstructing path draws its code from the pixels of the hole, the generating one from a prior
that the visible pixels give. The code's spread is held to one that grows with the hole. It knows no
landmarks.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from fi_jax import losses, rng
from fi_jax.features import Batch
from fi_jax.methods import Method, Nets, Phase, Settings
from fi_jax.methods.pairs import interleaved, split
from fi_jax.nets.layers import halved, reparameterise
from fi_jax.nets.picnet import Critic, Encoder, Generator
from fi_jax.rng import Keys

# Widths by level down, of images of 256 pixels; smaller ones have fewer levels.
SIZES: dict[str, dict[str, Any]] = {
    'small': dict(encoder=(24, 48, 96, 96, 96), critic=(24, 48, 96, 96, 96), z_dim=96),
    'paper': dict(encoder=(32, 64, 128, 128, 128), critic=(32, 64, 128, 128, 128), z_dim=128),
}
TINY = dict(encoder=(8, 8, 16), critic=(8, 8, 16), z_dim=8, prior_blocks=1)


def choices(res: int) -> dict[str, Any]:
    """'size': the widths; at 256 pixels 'paper' is the authors' network."""
    levels = {32: 3, 64: 4, 128: 5, 256: 5}[res]
    sizes = {
        name: {f'picnet.{k}': v[:levels] if k != 'z_dim' else v for k, v in widths.items()}
        for name, widths in SIZES.items()
    }
    return {'size': {'small': {}} if res == 32 else sizes}


def defaults(res: int) -> dict[str, Any]:
    """The fields of this method alone; the weights are those of the authors' code."""
    section = dict(
        prior_blocks=6,
        reconstruction=20.0,  # L1, summed over the images of all sizes
        kl=20.0,  # nats a number of the code, for each of those sizes
        adversarial=1.0,
        spread='hole',  # 'unit': a prior that does not narrow
    )
    if res == 32:
        section |= TINY
    return dict(size='small', steps=dict(picnet=0), picnet=SIZES['small'] | section)


SETTINGS = Settings(
    defaults, choices, ablations={'unit_spread': {'picnet.spread': 'unit'}}, fixed=('picnet',)
)


def hole_spread(hole: jax.Array) -> jax.Array:
    """The deviation of the code that a hole (B,H,W,1) allows, (B,); 0.6 at a quarter, towards 1."""
    visible = 1.0 - hole.mean(axis=(1, 2, 3))
    return jax.nn.sigmoid(8.0 * (0.8 - visible))


def make(config: Any) -> Method:
    """The method of a config; raises ValueError on an unknown switch."""
    c, dtype = config.picnet, jnp.dtype(config.dtype)
    if c.spread not in ('hole', 'unit'):
        raise ValueError(f"config.picnet.spread={c.spread!r}: choose one of ['hole', 'unit']")
    scales = min(4, len(c.encoder))

    def loss(
        nets: Nets, batch: Batch, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """All nets at once: each term stops at the nets that it must not move."""
        image, visible = batch['image'], 1.0 - batch['hole']
        posterior, prior, maps = nets['encoder'](
            batch['masked'], image * batch['hole'], update_stats=True
        )
        assumed = 2.0 * jnp.log(hole_spread(batch['hole']))[:, None, None, None]
        assumed = assumed if c.spread == 'hole' else jnp.zeros_like(assumed)
        terms = {
            'kl_rec': losses.kl_gaussian(jnp.zeros_like(posterior.mean), assumed, *posterior),
            'kl_gen': losses.kl_gaussian(*jax.lax.stop_gradient(posterior), *prior),
        }
        terms = {name: kl.mean() for name, kl in terms.items()}

        codes = [
            reparameterise(code.mean, code.logvar, jax.random.normal(k, code.mean.shape))
            for code, k in zip((posterior, prior), jax.random.split(key), strict=True)
        ]
        twice = [jnp.repeat(m, 2, axis=0) for m in maps]
        images = nets['generator'](
            interleaved(*codes), twice, jnp.repeat(visible, 2, axis=0), update_stats=True
        )
        truths, shares = [image], [visible]
        for _ in images[1:]:
            truths, shares = [halved(truths[0]), *truths], [halved(shares[0]), *shares]
        l1 = {'l1_rec': jnp.zeros(()), 'l1_gen': jnp.zeros(())}
        for drawn, truth, share in zip(images, truths, shares, strict=True):
            rec, gen = split(drawn)
            l1['l1_rec'] += losses.image_mean(jnp.abs(rec - truth)).mean()
            l1['l1_gen'] += losses.image_mean(jnp.abs(gen - truth) * share).mean()
        rec, gen = split(images[-1])

        # Of a reconstruction the critic's score shall be that of its photo.
        wanted = jax.lax.stop_gradient(nets['critic_rec'](image))
        adversarial = {
            'adversarial/rec': jnp.square(nets['critic_rec'].frozen(rec) - wanted).mean(),
            'adversarial/gen': losses.adversarial_loss('lsgan', nets['critic'].frozen(gen)).mean(),
        }
        critics = {}
        for name, fake in (('critic', gen), ('critic_rec', rec)):
            real = nets[name](image, update_stats=True)
            fake = nets[name](jax.lax.stop_gradient(fake))
            critics[f'critic/{name}'] = 0.5 * losses.critic_loss('lsgan', real, fake).mean()
        total = c.reconstruction * sum(l1.values()) + scales * c.kl * sum(terms.values())
        total += c.adversarial * sum(adversarial.values()) + sum(critics.values())
        return jnp.asarray(total), terms | l1 | adversarial | critics

    def complete(nets: Nets, batch: Batch, unit: Any) -> dict[str, jax.Array]:
        prior, maps = nets['encoder'](batch['masked'])
        z = reparameterise(prior.mean, prior.logvar, unit(prior.mean.shape[1:]))
        return {'image': nets['generator'](z, maps, 1.0 - batch['hole'])[-1]}

    def sample(nets: Nets, batch: Batch, keys: Keys) -> dict[str, jax.Array]:
        return complete(nets, batch, lambda shape: rng.normal(keys, shape))

    def most_likely(nets: Nets, batch: Batch, keys: Keys) -> dict[str, jax.Array]:
        return complete(nets, batch, lambda shape: jnp.zeros((1, *shape)))

    def watch(nets: Nets, batch: Batch, key: jax.Array) -> dict[str, jax.Array]:
        """Deviations of the code: as both encoders give them, and as the hole allows."""
        posterior, prior, _ = nets['encoder'](batch['masked'], batch['image'] * batch['hole'])
        both = {'spread/posterior': posterior, 'spread/prior': prior}
        spreads = {name: jnp.exp(0.5 * code.logvar).mean() for name, code in both.items()}
        return spreads | {'spread/allowed': hole_spread(batch['hole']).mean()}

    nets = {
        'encoder': Encoder(tuple(c.encoder), c.z_dim, c.prior_blocks, dtype),
        'generator': Generator(tuple(reversed(c.encoder)), scales, dtype),
        'critic': Critic(tuple(c.critic), dtype),
        'critic_rec': Critic(tuple(c.critic), dtype),
    }

    def inputs(batch: Batch) -> dict[str, tuple[Any, ...]]:
        image, side = batch['image'], batch['image'].shape[1]
        sides = [side // 2 ** (level + 1) for level in range(len(c.encoder))]
        maps = [jnp.zeros((1, s, s, w)) for s, w in zip(sides, c.encoder, strict=True)]
        z = jnp.zeros((1, sides[-1], sides[-1], c.z_dim))
        return {
            'encoder': (image,),
            'generator': (z, maps, batch['hole']),
            'critic': (image,),
            'critic_rec': (image,),
        }

    completing = ('encoder', 'generator')
    return Method(
        nets=nets,
        inputs=inputs,
        stages={'picnet': (Phase('all', tuple(nets), loss),)},
        ema=completing if config.optim.ema_halflife_images > 0 else (),
        sample=sample,
        variants={'z=mean': most_likely},
        watch=watch,
        sampling=completing,
    )
