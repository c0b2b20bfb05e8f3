"""BicycleGAN (Zhu et al., 2017) on holes: image to image, with a code that must be read back.

Of each pair of neighbours the first goes the cVAE-GAN way: its code comes from the encoder's view
of what the hole hides. The second goes the cLR-GAN way: its code is drawn, and read off the
completion. It knows no landmarks.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from fi_jax import features, losses, rng
from fi_jax.features import Batch
from fi_jax.methods import Changes, Method, Nets, Phase, Settings, pairs
from fi_jax.nets.bicyclegan import Encoder, PatchCritic, UNet
from fi_jax.nets.layers import reparameterise
from fi_jax.rng import Keys

CRITICS = ('critic_vae', 'critic_lr')


def defaults(res: int) -> dict[str, Any]:
    """The fields of this method alone; the weights are the paper's."""
    octaves = {32: 3, 64: 4, 128: 5, 256: 6}[res]
    small = res == 32
    return dict(
        size='small',
        steps=dict(bicycle=0),
        bicyclegan=dict(
            z_dim=8,
            encoder_sees='hole',  # 'photo': all of it, as the authors' does
            unet=((8, 16, 16) if small else (64, 128, 256, 512, 512, 512)[:octaves]),
            encoder=((8, 16) if small else (64, 128, 192, 256, 256)[: octaves - 1]),
            critic=((8, 16) if small else (64, 128, 256)),
            critic_more=0,  # width of a further layer of the critics, without stride
            critic_half=False,  # half the widths for the critics' smaller view
            transposed=False,  # the U-Net's way up
            l1=10.0,
            kl=0.01,
            z=0.5,
        ),
    )


def sizes(res: int) -> dict[str, dict[str, Changes]]:
    """'small' is of this project; 'paper' has the authors' widths, who work at 256 pixels."""
    octaves = {32: 5, 64: 6, 128: 7, 256: 8}[res]
    paper = {
        'bicyclegan.unet': (64, 128, 256, *(512,) * (octaves - 3)),
        'bicyclegan.encoder': (64, 128, 192, 256, 256)[: octaves - 1],
        'bicyclegan.critic': (64, 128, 256),
        'bicyclegan.critic_more': 0 if res == 32 else 512,  # there the smaller view ends
        'bicyclegan.critic_half': True,
        'bicyclegan.transposed': True,
    }
    return {'size': {'small': {}, 'paper': paper}}


SETTINGS = Settings(
    defaults,
    choices=sizes,
    ablations={
        'no_code': {'bicyclegan.z': 0.0},
        'whole_photo': {'bicyclegan.encoder_sees': 'photo'},
    },
    fixed=('bicyclegan',),
)


def make(config: Any) -> Method:
    """The method of a config."""
    c, dtype = config.bicyclegan, jnp.dtype(config.dtype)
    if config.batch_size % (2 * config.accumulate):
        raise ValueError(f'config.batch_size={config.batch_size}: its parts must hold whole pairs')
    if c.encoder_sees not in ('hole', 'photo'):
        raise ValueError(f'bicyclegan.encoder_sees={c.encoder_sees!r}: choose hole or photo')

    def complete(nets: Nets, batch: Batch, z: jax.Array) -> jax.Array:
        return nets['unet'](jnp.concatenate([batch['masked'], batch['hole']], axis=-1), z)

    def composite(image: jax.Array, batch: Batch) -> jax.Array:
        return features.composite(image, batch['image'], batch['hole'])

    def seen(image: jax.Array, batch: Batch) -> jax.Array:
        """What the encoder reads a code off. Of a whole photo it reads mostly what is visible."""
        if c.encoder_sees == 'photo':
            return image
        return jnp.concatenate([image * batch['hole'], batch['hole']], axis=-1)

    def loss(
        nets: Nets, batch: Batch, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """All nets at once: each term stops at the nets that it must not move."""
        vae, lr = pairs.split(batch)
        key_vae, key_lr = jax.random.split(key)
        mean, logvar = nets['encoder'](seen(vae['image'], vae))
        z_vae = reparameterise(mean, logvar, jax.random.normal(key_vae, mean.shape))
        z_lr = jax.random.normal(key_lr, mean.shape)
        raw = complete(nets, batch, pairs.interleaved(z_vae, z_lr))
        raw_vae, raw_lr = pairs.split(raw)
        fakes = {'critic_vae': composite(raw_vae, vae), 'critic_lr': composite(raw_lr, lr)}
        # Frozen, else encoder and generator could agree on an invisible code.
        read, _ = nets['encoder'].frozen(seen(fakes['critic_lr'], lr))
        terms = {
            'l1': losses.image_mean(jnp.abs(raw_vae - vae['image'])).mean(),
            'kl': losses.kl_gaussian(mean, logvar).sum(-1).mean(),
            'z': jnp.abs(read - z_lr).mean(),
            'z_shuffled': jnp.abs(read - jnp.roll(z_lr, 1, axis=0)).mean(),
        }
        total = c.l1 * terms['l1'] + c.kl * terms['kl'] + c.z * terms['z']
        for name in CRITICS:
            frozen = nets[name].frozen(fakes[name])
            scores = nets[name](vae['image']), nets[name](jax.lax.stop_gradient(fakes[name]))
            # A sum over the two views, so that the coarser one weighs as much.
            adversarial, critic = jnp.zeros(()), jnp.zeros(())
            for judged, real, fake in zip(frozen, *scores, strict=True):
                adversarial += losses.adversarial_loss('lsgan', judged).mean()
                critic += losses.critic_loss('lsgan', real, fake).mean()
            total += adversarial + critic
            terms |= {f'adversarial/{name}': adversarial, f'critic/{name}': critic}
        return total, terms

    def sample(nets: Nets, batch: Batch, keys: Keys) -> dict[str, jax.Array]:
        return {'image': complete(nets, batch, rng.normal(keys, (c.z_dim,)))}

    def most_likely(nets: Nets, batch: Batch, keys: Keys) -> dict[str, jax.Array]:
        return {'image': complete(nets, batch, jnp.zeros((len(batch['hole']), c.z_dim)))}

    def inputs(batch: Batch) -> dict[str, tuple[jax.Array, ...]]:
        image, z = batch['image'], jnp.zeros((len(batch['image']), c.z_dim))
        given = jnp.concatenate([batch['masked'], batch['hole']], axis=-1)
        return {
            'unet': (given, z),
            'encoder': (seen(image, batch),),
            **dict.fromkeys(CRITICS, (image,)),
        }

    nets = {
        'unet': UNet(tuple(c.unet), c.transposed, dtype),
        'encoder': Encoder(tuple(c.encoder), c.z_dim, dtype),
        **{
            name: PatchCritic(tuple(c.critic), c.critic_more, c.critic_half, dtype)
            for name in CRITICS
        },
    }
    return Method(
        nets=nets,
        inputs=inputs,
        stages={'bicycle': (Phase('all', tuple(nets), loss),)},
        ema=('unet',) if config.optim.ema_halflife_images > 0 else (),
        sample=sample,
        variants={'z=0': most_likely},
        sampling=('unet',),
        group=2,
    )
