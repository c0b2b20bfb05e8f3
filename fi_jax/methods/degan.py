"""DE-GAN (Zhang et al., 2020): where the face lies is encoded first; the completion follows it.

Two encoders see the photo with its hole. The code of the landmarks must decode to their map, both
codes together to the face's mask and part; a U-Net completes the image from them. In place of a KL
term, three critics tell codes from normal draws. Its samples are draws of the encoded Gaussians.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from fi_jax import losses, rng
from fi_jax.features import Batch
from fi_jax.methods import Changes, Method, Nets, Phase, Settings
from fi_jax.nets.degan import CodeCritic, Decoder, Encoder, ImageCritic, UNet
from fi_jax.rng import Keys

CODES = ('face', 'landmarks')  # in the order in which they are joined
DECODERS = {'landmark': ('landmarks', 1), 'mask': ('both', 1), 'part': ('both', 3)}
IMAGE_CRITICS = ('critic_patch', 'critic_global')
CODE_CRITICS = {f'critic_{code}': code for code in (*CODES, 'both')}


def defaults(res: int) -> dict[str, Any]:
    """The fields of this method alone; the weights are the authors', to that of the image."""
    return dict(
        size='small',
        steps=dict(degan=0),
        degan=dict(
            code=128,  # numbers of each of the two codes
            encoder=(32, 64, 128, 256),
            decoder=(64, 32, 16),
            unet=(32, 64, 128, 256),
            critic_patch=(32, 64, 128),
            critic_global=(32, 64, 128, 256),
            image=1.0,
            background=0.5,  # weight of pixels outside the face
            part=1.0,
            mask=1.0,
            landmark=0.5,
            balanced=False,  # True: points and background of the landmark map weigh alike
            code_adversarial=0.0075,  # of each of the three
            patch_adversarial=0.0075,
            global_adversarial=0.005,
            softplus_mean=True,
            unit_deviation=False,  # of the codes; the authors' is learned, and goes to 0
            apart=0.0,  # weight of holding two completions of a photo apart
            least_apart=0.06,  # mean difference in the hole of images in [0,1] that is enough
        ),
    )


def sizes(res: int) -> dict[str, dict[str, Changes]]:
    """'small' is of this project; 'paper' has the authors' widths, who work at 256 pixels."""
    tiny = {
        'degan.code': 64,
        'degan.encoder': (8, 16, 16),
        'degan.decoder': (16, 8),
        'degan.unet': (8, 16, 16),
        'degan.critic_patch': (8, 16),
        'degan.critic_global': (8, 16, 16),
    }
    paper = {
        'degan.code': 256,
        'degan.encoder': (32, 64, 128, 256, 512),
        'degan.decoder': (128, 64, 32, 16),
        'degan.unet': (32, 64, 128, 256, 512),
        'degan.critic_patch': (32, 64, 128, 256),
        'degan.critic_global': (32, 64, 128, 256, 512),
    }
    # A code must fill the U-Net's lowest map.
    small = {'degan.code': max(128, (res // 8) ** 2)}
    return {'size': {'small': tiny if res == 32 else small, 'paper': paper}}


SETTINGS = Settings(
    defaults,
    choices=sizes,
    ablations={
        'linear_mean': {'degan.softplus_mean': False},
        'kept_apart': {
            'degan.softplus_mean': False,
            'degan.unit_deviation': True,
            'degan.apart': 0.3,
        },
        'balanced': {'degan.balanced': True},
        'no_embedding': {'degan.part': 0.0, 'degan.mask': 0.0, 'degan.landmark': 0.0},
        'no_critics': {'degan.patch_adversarial': 0.0, 'degan.global_adversarial': 0.0},
        'no_code_critics': {'degan.code_adversarial': 0.0},
    },
    fixed=('degan',),
)


def make(config: Any) -> Method:
    """The method of a config."""
    c, dtype = config.degan, jnp.dtype(config.dtype)
    side = config.res >> (len(c.unet) - 1)
    encoders = tuple(f'encoder_{code}' for code in CODES)
    decoders = {f'decoder_{name}': about for name, about in DECODERS.items()}
    learners = (*encoders, *decoders, 'unet')

    def seen(batch: Batch) -> jax.Array:
        """The photo in [0,1], black in the hole, which no channel marks."""
        return 0.5 * (batch['image'] + 1) * (1 - batch['hole'])

    def joined(codes: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return codes | {'both': jnp.concatenate([codes[code] for code in CODES], axis=-1)}

    def encode(nets: Nets, batch: Batch) -> dict[str, tuple[jax.Array, jax.Array]]:
        """Mean and deviation of each code."""
        return {code: nets[f'encoder_{code}'](seen(batch)) for code in CODES}

    def drawn_of(
        found: dict[str, tuple[jax.Array, jax.Array]], noise: dict[str, jax.Array]
    ) -> dict[str, jax.Array]:
        """The codes and both together, drawn with standard normal noise (B,code) of each."""
        return joined({name: mean + sd * noise[name] for name, (mean, sd) in found.items()})

    def draw(key: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        shape = len(batch['hole']), c.code
        keys = jax.random.split(key, len(CODES))
        return {code: jax.random.normal(k, shape) for code, k in zip(CODES, keys, strict=True)}

    def decode(nets: Nets, codes: dict[str, jax.Array], train: bool) -> dict[str, jax.Array]:
        """Logits of the landmark map, the face's mask and its part."""
        return {
            name: nets[f'decoder_{name}'](codes[code], train=train)
            for name, (code, _) in DECODERS.items()
        }

    def critic_loss(
        nets: Nets, batch: Batch, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Completions of encoded and of drawn codes are fake; drawn codes are real."""
        key_codes, key_drawn = jax.random.split(key)
        codes = drawn_of(encode(nets, batch), draw(key_codes, batch))
        drawn = joined(draw(key_drawn, batch))
        fakes = [nets['unet'](seen(batch), x['both']) for x in (codes, drawn)]
        terms: dict[str, jax.Array] = {}
        for name in IMAGE_CRITICS:
            real = jax.nn.softplus(-nets[name](0.5 * (batch['image'] + 1))).mean()
            terms[name] = real + sum(jax.nn.softplus(nets[name](fake)).mean() for fake in fakes)
        for name, code in CODE_CRITICS.items():
            real, fake = nets[name](drawn[code]), nets[name](codes[code])
            terms[name] = losses.critic_loss('ns', real, fake).mean()
        return sum(terms.values(), jnp.zeros(())), terms

    def loss(
        nets: Nets, batch: Batch, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        found = encode(nets, batch)
        codes = drawn_of(found, draw(key, batch))
        logits = decode(nets, codes, train=True)
        image = nets['unet'](seen(batch), codes['both'])
        known = batch['has_landmarks']

        def of_known(error: jax.Array) -> jax.Array:
            """Mean over the examples whose landmarks are known; error (B,)."""
            return (error * known).sum() / jnp.maximum(known.sum(), 1.0)

        face = batch['face_mask'] + c.background * (1 - batch['face_mask'])
        apart = jnp.abs(image - 0.5 * (batch['image'] + 1))
        part = jnp.abs(jax.nn.sigmoid(logits['part']) - 0.5 * (batch['face_part'] + 1))
        points, everywhere = batch['landmark_map'], jnp.ones_like(batch['hole'])
        landmark = (
            losses.balanced_bce(logits['landmark'], points, everywhere)
            if c.balanced
            else losses.image_mean(losses.bce(logits['landmark'], points))
        )
        terms = {
            'image': losses.image_mean(apart * face).mean(),
            'part': of_known(losses.image_mean(part)),
            'mask': of_known(losses.image_mean(losses.bce(logits['mask'], batch['face_mask']))),
            'landmark': of_known(landmark),
        }
        total = sum(c[name] * term for name, term in terms.items())
        weights = {'critic_patch': c.patch_adversarial, 'critic_global': c.global_adversarial}
        views = dict.fromkeys(IMAGE_CRITICS, image)
        for name, code in CODE_CRITICS.items():
            weights[name], views[name] = c.code_adversarial, codes[code]
        for name, weight in weights.items():
            term = losses.adversarial_loss('ns', nets[name].frozen(views[name])).mean()
            terms[f'adversarial/{name}'] = term
            total += weight * term
        if c.apart:
            second = drawn_of(found, draw(jax.random.fold_in(key, 1), batch))
            other = nets['unet'](seen(batch), second['both'])
            distance = losses.masked_mean(jnp.abs(image - other), batch['hole'])
            holes = (batch['hole'].sum(axis=(1, 2, 3)) > 0).astype(jnp.float32)
            near = jax.nn.relu(c.least_apart - distance) * holes
            terms['near'] = near.sum() / jnp.maximum(holes.sum(), 1.0)
            total += c.apart * terms['near']
        spread = jnp.stack([x.std(axis=0).mean() for x in (codes['face'], codes['landmarks'])])
        return total, terms | {'code_spread': spread.mean()}

    def completed(nets: Nets, batch: Batch, noise: dict[str, jax.Array]) -> dict[str, jax.Array]:
        codes = drawn_of(encode(nets, batch), noise)
        maps = {n: jax.nn.sigmoid(x) for n, x in decode(nets, codes, train=False).items()}
        return {
            'image': 2 * nets['unet'](seen(batch), codes['both']) - 1,
            'landmark_map': maps['landmark'],
            'face_mask': maps['mask'],
            'face_part': 2 * maps['part'] - 1,
        }

    def sample(nets: Nets, batch: Batch, keys: Keys) -> dict[str, jax.Array]:
        noise = {code: rng.normal(rng.named(keys, code), (c.code,)) for code in CODES}
        return completed(nets, batch, noise)

    def middle(nets: Nets, batch: Batch, keys: Keys) -> dict[str, jax.Array]:
        return completed(nets, batch, dict.fromkeys(CODES, jnp.zeros(())))

    def inputs(batch: Batch) -> dict[str, tuple[jax.Array, ...]]:
        image, code = batch['image'], jnp.zeros((len(batch['image']), c.code))
        codes = joined(dict.fromkeys(CODES, code))
        return {
            **dict.fromkeys((*encoders, *IMAGE_CRITICS), (image,)),
            **{name: (codes[code],) for name, (code, _) in decoders.items()},
            'unet': (image, codes['both']),
            **{name: (codes[code],) for name, code in CODE_CRITICS.items()},
        }

    nets = {
        **{
            n: Encoder(tuple(c.encoder), c.code, c.softplus_mean, c.unit_deviation, dtype)
            for n in encoders
        },
        **{n: Decoder(tuple(c.decoder), k, side, dtype) for n, (_, k) in decoders.items()},
        'unet': UNet(tuple(c.unet), dtype),
        'critic_patch': ImageCritic(tuple(c.critic_patch), dtype=dtype),
        'critic_global': ImageCritic(tuple(c.critic_global), whole=True, dtype=dtype),
        **{name: CodeCritic(dtype=dtype) for name in CODE_CRITICS},
    }
    critics = (*IMAGE_CRITICS, *CODE_CRITICS)
    phases = (Phase('critics', critics, critic_loss), Phase('generator', learners, loss))
    return Method(
        nets=nets,
        inputs=inputs,
        stages={'degan': phases},
        ema=learners if config.optim.ema_halflife_images > 0 else (),
        sample=sample,
        variants={'z=0': middle},
        sampling=learners,
    )
