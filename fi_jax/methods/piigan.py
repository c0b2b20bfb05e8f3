"""PiiGAN (Cai & Wei, 2020): a style map z in every layer, and an extractor that must read it back.

Each face is completed twice. With z extracted from its own hole, it is held to the face; with a
drawn z, to the visible pixels, to the critics, and to what the extractor reads off the completion.
It knows no landmarks. z is a map of the window around the hole, one number a pixel.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from fi_jax import features, losses, rng
from fi_jax.features import Batch
from fi_jax.methods import Changes, Method, Nets, Phase, Settings, pairs
from fi_jax.nets.critic import Critic
from fi_jax.nets.extractor import Extractor
from fi_jax.nets.layers import reparameterise
from fi_jax.nets.piigan import Inpainter
from fi_jax.rng import Keys

CRITICS = ('critic_local', 'critic_global')
LARGEST = 64  # side of the map z; at 256 pixels a number of it covers four


def defaults(res: int) -> dict[str, Any]:
    """The fields of this method alone; the weights are those of the authors' settings."""
    return dict(
        size='small',
        steps=dict(piigan=0),
        piigan=dict(
            width=16,
            rates=(1, 2, 4, 8),  # of the dilated convolutions, at a quarter of the side
            extractor=(32, 64, 128, 128),
            critic_local=(32, 64, 128),
            critic_global=(32, 64, 128, 128),
            critic_steps=5,
            penalty=10.0,
            adversarial=0.001,
            visible=1.2,  # L1 of visible pixels, on both paths
            hole=1.44,  # L1 of the hole, where z is extracted
            z=1.44,
            coarse=1.2,  # of the first stage's visible pixels, to those of the second
            kl=0.1,
            kl_over='mean',  # 'sum': of the numbers of z
            train_extractor=True,  # False: as the authors' code, which never moves it
        ),
    )


def sizes(res: int) -> dict[str, dict[str, Changes]]:
    """'small' is of this project; 'paper' has the authors' widths, who work at 128 pixels."""
    more = (256,) * (res == 256)
    tiny = {
        'piigan.width': 4,
        'piigan.extractor': (8, 16),
        'piigan.critic_local': (8, 16),
        'piigan.critic_global': (8, 16),
        'piigan.critic_steps': 2,
    }
    paper = {
        'piigan.width': 32,
        'piigan.rates': (2, 4, 8, 16),
        'piigan.extractor': (64, 128, 256, 256, *more),
        'piigan.critic_local': (64, 128, 256, 512, *(512,) * len(more)),
        'piigan.critic_global': (64, 128, 256, 256, *more),
    }
    return {'size': {'small': tiny if res == 32 else {}, 'paper': paper}}


SETTINGS = Settings(
    defaults,
    choices=sizes,
    ablations={
        'frozen_extractor': {'piigan.train_extractor': False},
        'kl_sum': {'piigan.kl_over': 'sum'},
        'no_z': {'piigan.z': 0.0},
        'no_critics': {'piigan.adversarial': 0.0},
    },
    fixed=('piigan',),
)


def make(config: Any) -> Method:
    """The method of a config; raises ValueError on an unknown switch."""
    c, dtype = config.piigan, jnp.dtype(config.dtype)
    if c.kl_over not in ('mean', 'sum'):
        raise ValueError(f"config.piigan.kl_over={c.kl_over!r}: choose 'mean' or 'sum'")
    window = config.res // 2
    side = min(window, LARGEST)
    learners = ('inpainter', 'extractor') if c.train_extractor else ('inpainter',)

    def view(image: jax.Array, batch: Batch) -> jax.Array:
        """The window around the hole."""
        return features.crop_at(image, features.hole_centre(batch['hole']), window)

    def complete(nets: Nets, batch: Batch, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Coarse and fine images of z (B,side*side)."""
        z = z.reshape(-1, side, side, 1)
        z = jnp.repeat(jnp.repeat(z, window // side, axis=1), window // side, axis=2)
        centre = features.hole_centre(batch['hole'])
        z = features.paste_at(z, centre, batch['hole'].shape[1:3])
        return nets['inpainter'](batch['masked'], batch['hole'], z)

    def composite(image: jax.Array, batch: Batch) -> jax.Array:
        return features.composite(image, batch['image'], batch['hole'])

    def of_images(nets: Nets, batch: Batch, frozen: bool = False) -> dict[str, Any]:
        """Each critic as a function of whole images."""
        local, whole = (nets[name].frozen if frozen else nets[name] for name in CRITICS)
        return {'critic_local': lambda x: local(view(x, batch)), 'critic_global': whole}

    def draw(key: jax.Array, batch: Batch) -> jax.Array:
        return jax.random.normal(key, (len(batch['hole']), side * side))

    def critic_loss(
        nets: Nets, batch: Batch, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        key_z, key_mix = jax.random.split(key)
        _, fine = complete(nets, batch, draw(key_z, batch))
        real, fake = batch['image'], jax.lax.stop_gradient(composite(fine, batch))
        mix = jax.random.uniform(key_mix, (len(real),))
        total = jnp.zeros(())
        terms: dict[str, jax.Array] = {}
        for name, critic in of_images(nets, batch).items():
            apart = losses.critic_loss('wgan', critic(real), critic(fake)).mean()
            penalty = losses.gradient_penalty(critic, real, fake, mix, batch['hole']).mean()
            total += apart + c.penalty * penalty
            terms |= {f'critic/{name}': apart, f'penalty/{name}': penalty}
        return total, terms

    def loss(
        nets: Nets, batch: Batch, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The inpainter on both paths; the extractor on that of its own z alone."""
        key_read, key_drawn = jax.random.split(key)
        extractor = nets['extractor'] if c.train_extractor else nets['extractor'].frozen
        mean, logvar = extractor(view(batch['image'], batch))
        z_read = reparameterise(mean, logvar, jax.random.normal(key_read, mean.shape))
        z_drawn = draw(key_drawn, batch)
        twice = jax.tree.map(lambda x: jnp.repeat(x, 2, axis=0), dict(batch))
        both = complete(nets, twice, pairs.interleaved(z_read, z_drawn))
        (coarse, drawn_coarse), (fine, drawn_fine) = (pairs.split(image) for image in both)

        def error(image: jax.Array, where: jax.Array) -> jax.Array:
            return losses.masked_mean(jnp.abs(image - batch['image']), where).mean()

        hole, visible = batch['hole'], 1 - batch['hole']
        fake = composite(drawn_fine, batch)
        # Frozen, else extractor and inpainter could agree on an invisible code.
        again, _ = nets['extractor'].frozen(view(fake, batch))
        stride = window // side
        inside = view(hole, batch)[:, ::stride, ::stride]

        def unlike(z: jax.Array) -> jax.Array:
            apart = jnp.abs(again - z).reshape(inside.shape)
            return losses.masked_mean(apart, inside).mean()

        kl = losses.kl_gaussian(mean, logvar)
        terms = {
            'hole': error(fine, hole),
            'hole_coarse': error(coarse, hole),
            'visible': error(fine, visible) + c.coarse * error(coarse, visible),
            'visible_drawn': error(drawn_fine, visible) + c.coarse * error(drawn_coarse, visible),
            'z': unlike(z_drawn),
            'z_shuffled': unlike(jnp.roll(z_drawn, 1, axis=0)),
            'kl': (kl.mean(-1) if c.kl_over == 'mean' else kl.sum(-1)).mean(),
        }
        total = c.hole * (terms['hole'] + terms['hole_coarse'])
        total += c.visible * (terms['visible'] + terms['visible_drawn'])
        total += c.z * terms['z'] + c.kl * terms['kl']
        for name, critic in of_images(nets, batch, frozen=True).items():
            terms[f'adversarial/{name}'] = losses.adversarial_loss('wgan', critic(fake)).mean()
            total += c.adversarial * terms[f'adversarial/{name}']
        return total, terms

    def sample(nets: Nets, batch: Batch, keys: Keys) -> dict[str, jax.Array]:
        return {'image': complete(nets, batch, rng.normal(keys, (side * side,)))[1]}

    def middle(nets: Nets, batch: Batch, keys: Keys) -> dict[str, jax.Array]:
        return {'image': complete(nets, batch, jnp.zeros((len(batch['hole']), side * side)))[1]}

    def inputs(batch: Batch) -> dict[str, tuple[jax.Array, ...]]:
        image, patch = batch['image'], view(batch['image'], batch)
        return {
            'inpainter': (batch['masked'], batch['hole'], batch['hole']),
            'extractor': (patch,),
            'critic_local': (patch,),
            'critic_global': (image,),
        }

    nets = {
        'inpainter': Inpainter(c.width, tuple(c.rates), dtype),
        'extractor': Extractor(tuple(c.extractor), side * side, dtype),
        **{name: Critic(tuple(c[name]), dtype=dtype) for name in CRITICS},
    }
    phases = [Phase('generator', learners, loss)]
    if c.adversarial:
        phases.insert(0, Phase('critics', CRITICS, critic_loss, repeats=c.critic_steps))
    return Method(
        nets=nets,
        inputs=inputs,
        stages={'piigan': tuple(phases)},
        ema=('inpainter',) if config.optim.ema_halflife_images > 0 else (),
        sample=sample,
        variants={'z=0': middle},
        sampling=('inpainter',),
    )
