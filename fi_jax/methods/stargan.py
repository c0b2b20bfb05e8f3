"""StarGAN (Choi et al., 2018) on holes: attributes of the face in place of a code.

The generator gets the hole and the face's attributes, the critic scores completions and reads
the attributes off them. A sample is a draw of attributes. It knows no landmarks.

Where attributes are not known (`data.labels` names them, `data.attributes` knows them) the critic's
own reading stands for them. The cycle of the original, back from the drawn labels to the photo's,
is one step here: what surrounds the hole is the photo's own, so that a completion whose hole is cut
out again is the input again. What is left of it is that under its own labels a face is completed to
itself.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from fi_jax import features, losses, rng
from fi_jax.batch import label_names
from fi_jax.features import Batch
from fi_jax.methods import Method, Nets, Phase, Settings
from fi_jax.nets.stargan import Critic, Generator, Labels
from fi_jax.rng import Keys

SIZES = {'small': (24, 5), 'paper': (64, 6)}  # width at the full side, levels of the critic


def sized(name: str) -> dict[str, Any]:
    """The widths of a size."""
    width, levels = SIZES[name]
    return dict(generator=width, critic=tuple(width * 2**level for level in range(levels)))


def choices(res: int) -> dict[str, Any]:
    """'size': the widths; 'paper' is the authors' network."""
    names = ('small',) if res == 32 else SIZES
    changes = {n: {f'stargan.{k}': v for k, v in sized(n).items()} for n in names}
    return {'size': {'small': {}} if res == 32 else changes}


def defaults(res: int) -> dict[str, Any]:
    """The fields of this method alone; the weights are the paper's."""
    section = dict(
        sized('small'),
        blocks=6,
        reconstruction=10.0,  # L1 of a face under its own labels
        labels=1.0,  # cross-entropy of the labels, summed over them
        gradient_penalty=10.0,
        critic_steps=5,  # to one of the generator
    )
    if res == 32:
        section |= dict(generator=8, critic=(8, 16, 32), blocks=1, critic_steps=2)
    return dict(size='small', steps=dict(stargan=0), stargan=section)


SETTINGS = Settings(
    defaults,
    choices,
    ablations={'no_labels': {'stargan.labels': 0.0}},
    fixed=('stargan',),
)


def make(config: Any) -> Method:
    """The method of a config; raises ValueError where no attributes are named."""
    c, dtype = config.stargan, jnp.dtype(config.dtype)
    count = len(label_names(config))
    if not count:
        raise ValueError(
            "config.data.labels='': name the attributes that samples are draws of, with commas "
            'between, such as Male,Young; config.data.attributes says where they are read'
        )

    def complete(nets: Nets, batch: Batch, labels: jax.Array) -> jax.Array:
        seen = jnp.concatenate([batch['masked'], batch['hole']], axis=-1)
        return nets['generator'](seen, labels)

    def composite(image: jax.Array, batch: Batch) -> jax.Array:
        return features.composite(image, batch['image'], batch['hole'])

    def entropy(logits: jax.Array, labels: jax.Array, where: jax.Array) -> jax.Array:
        return (losses.bce(logits, labels) * where).sum(-1).mean()

    def known(batch: Batch) -> tuple[jax.Array, jax.Array]:
        """Labels (B,K) and where they are known; zeros for a batch without, as an example is."""
        none = jnp.zeros((len(batch['image']), count))
        return batch.get('attributes', none), batch.get('has_attributes', none)

    def critic_loss(
        nets: Nets, batch: Batch, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        key_share, key_mix = jax.random.split(key)
        rows, image = len(batch['image']), batch['image']
        labels, where = known(batch)
        drawn = nets['labels'](jax.random.uniform(key_share, (rows,)), labels, where)
        fake = jax.lax.stop_gradient(composite(complete(nets, batch, drawn), batch))
        real_scores, logits = nets['critic'](image)
        fake_scores, _ = nets['critic'](fake)
        mix = jax.random.uniform(key_mix, (rows,))
        penalty = losses.gradient_penalty(
            lambda x: nets['critic'](x)[0].mean(-1), image, fake, mix
        ).mean()
        terms = {
            'critic': losses.critic_loss('wgan', real_scores, fake_scores).mean(),
            'gradient_penalty': penalty,
            'labels/real': entropy(logits, labels, where),
        }
        total = terms['critic'] + c.gradient_penalty * penalty + c.labels * terms['labels/real']
        return total, terms

    def generator_loss(
        nets: Nets, batch: Batch, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        rows, image = len(batch['image']), batch['image']
        labels, where = known(batch)
        read = (nets['critic'].frozen(image)[1] > 0).astype(jnp.float32)
        own = jnp.where(where > 0, labels, read)
        drawn = nets['labels'](jax.random.uniform(key, (rows,)))
        scores, logits = nets['critic'].frozen(composite(complete(nets, batch, drawn), batch))
        terms = {
            'adversarial': losses.adversarial_loss('wgan', scores).mean(),
            'labels/fake': entropy(logits, drawn, jnp.ones_like(drawn)),
            'l1': losses.image_mean(jnp.abs(complete(nets, batch, own) - image)).mean(),
        }
        total = terms['adversarial'] + c.labels * terms['labels/fake']
        return total + c.reconstruction * terms['l1'], terms

    def sample(nets: Nets, batch: Batch, keys: Keys) -> dict[str, jax.Array]:
        share = jax.scipy.stats.norm.cdf(rng.normal(keys, (1,))[:, 0])
        return {'image': complete(nets, batch, nets['labels'](share))}

    def watch(nets: Nets, batch: Batch, key: jax.Array) -> dict[str, jax.Array]:
        """How far labels move a completion, and how well they are read off it."""
        shares = jax.random.uniform(key, (2, len(batch['image'])))
        labels = [nets['labels'](share) for share in shares]
        drawn = [composite(complete(nets, batch, label), batch) for label in labels]
        apart = losses.masked_mean(jnp.abs(drawn[0] - drawn[1]), batch['hole']).mean()
        right = ((nets['critic'](drawn[0])[1] > 0) == (labels[0] > 0)).mean()
        return {'labels/apart': apart, 'labels/read': right}

    def inputs(batch: Batch) -> dict[str, tuple[jax.Array, ...]]:
        image = batch['image']
        seen = jnp.concatenate([batch['masked'], batch['hole']], axis=-1)
        rows = len(image)
        return {
            'generator': (seen, jnp.zeros((rows, count))),
            'critic': (image,),
            'labels': (jnp.zeros(rows),),
        }

    return Method(
        nets={
            'generator': Generator(c.generator, c.blocks, dtype),
            'critic': Critic(tuple(c.critic), count, dtype),
            'labels': Labels(count),
        },
        inputs=inputs,
        stages={
            'stargan': (
                Phase('critic', ('critic', 'labels'), critic_loss),
                Phase('generator', ('generator',), generator_loss, every=c.critic_steps),
            )
        },
        ema=('generator',) if config.optim.ema_halflife_images > 0 else (),
        sample=sample,
        watch=watch,
        sampling=('generator', 'labels'),
    )
