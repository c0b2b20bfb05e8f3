"""What the keypoint system draws: its networks, path R, path S, and samples.

Path R (reconstruct) draws z from the Extractor's view of the whole face, path S (sample) from the
prior: random vectors, moved and scaled to what the visible pixels allow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fi_jax import features, rng
from fi_jax.features import Batch
from fi_jax.methods import Nets, pairs
from fi_jax.methods.critics import local_view
from fi_jax.nets.critic import Critic
from fi_jax.nets.embedding import Embedding, FaceEmbedding
from fi_jax.nets.extractor import Extractor
from fi_jax.nets.generator import FaceGenerator
from fi_jax.nets.layers import reparameterise
from fi_jax.rng import Keys

LANDMARK_SOURCES = ('none', 'user', 'predictor', 'predictor_sample')
SEEN = ('masked', 'hole', 'condition')


class Style(NamedTuple):
    """A Gaussian over z; (B,z_dim) each."""

    mean: jax.Array
    logvar: jax.Array


class Path(NamedTuple):
    """What one path draws: the style, the embedding's view of the face, and the raw image."""

    z: jax.Array
    embedding: Embedding
    image: jax.Array


def sigma_of_hole(hole: jax.Array) -> jax.Array:
    """Prior deviation that grows with the hole, (B,1); PICNet (Zheng et al., 2019)."""
    visible = 1.0 - hole.mean(axis=(1, 2, 3))
    return jax.nn.sigmoid(-8.0 * (visible - 0.8))[:, None]


@dataclass(frozen=True)
class Paths:
    """The networks of the system under one config, and what they draw; it holds no other state."""

    config: Any

    # ------------------------------------------------------------------------------ networks

    def nets(self) -> dict[str, Any]:
        """The five networks of the source, and the prior's."""
        config, n = self.config, self.config.nets
        dtype = jnp.dtype(config.dtype)

        def critic(widths: Any) -> Critic:
            return Critic(tuple(widths), config.gan == 'hinge_sn', n.batch_spread, dtype)

        nets = {
            'extractor': Extractor(tuple(n.extractor), n.z_dim, dtype),
            'embedding': FaceEmbedding(
                tuple(n.embedding), tuple(n.decoder), n.v_dim, n.hvae, n.z_inject, dtype
            ),
            'generator': FaceGenerator(
                tuple(n.generator), tuple(n.dilations), n.full_width, n.z_inject, dtype
            ),
            'd_global': critic(n.d_global),
            'd_local': critic(n.d_local),
        }
        if self.config.prior == 'visible':
            nets['prior'] = Extractor(tuple(n.prior), n.z_dim, dtype)
        return nets

    def inputs(self, batch: Batch) -> dict[str, tuple[jax.Array, ...]]:
        """Example arguments of each network."""
        image, hole, n = batch['image'], batch['hole'], self.config.nets
        z, v = jnp.zeros((len(image), n.z_dim)), jnp.zeros((len(image), 2 * n.v_dim))
        condition = self.condition(batch)
        examples = {
            'extractor': (self.real_features(batch),),
            'prior': (jnp.concatenate([image, hole, condition], axis=-1),),
            'embedding': (image, hole, condition, z, v),
            'generator': (image, hole, condition, v, z),
            'd_global': (image,),
            'd_local': (local_view(image, hole, condition),),
        }
        return {name: examples[name] for name in self.nets()}

    def real_features(self, batch: Batch) -> jax.Array:
        """The Extractor's view of the truth."""
        names = ('image', 'landmark_map', 'face_mask', 'face_part')
        return self._chosen(features.stack(*(batch[name] for name in names)))

    def fake_features(self, image: jax.Array, e: Embedding) -> jax.Array:
        """The Extractor's view of a completion: the image with the maps decoded for it."""
        landmark_map, face_mask = jax.nn.sigmoid(e.landmark_logits), jax.nn.sigmoid(e.mask_logits)
        return self._chosen(features.stack(image, landmark_map, face_mask, e.part))

    def _chosen(self, stack: jax.Array) -> jax.Array:
        return stack if self.config.extractor_input == 'full' else stack[..., 3:]

    # --------------------------------------------------------------------------------- draws

    def prior(self, nets: Nets, view: Batch) -> Style:
        """The Gaussian that path S draws z from; view: the batch's masked, hole and condition.

        'visible' reads it off the visible pixels (as PICNet does: Zheng et al., 2019), for a z
        that knows nothing of them contradicts the skin and the light around the hole; 'normal' is
        N(0,I), the literal reading; 'sigma_by_hole' shrinks that with the hole.
        """
        if self.config.prior == 'visible':
            return Style(*nets['prior'](jnp.concatenate([view[n] for n in SEEN], axis=-1)))
        zeros = jnp.zeros((len(view['hole']), self.config.nets.z_dim))
        if self.config.prior == 'normal':
            return Style(zeros, zeros)
        return Style(zeros, zeros + 2 * jnp.log(sigma_of_hole(view['hole'])))

    def noise(self, key: jax.Array, rows: int) -> tuple[jax.Array, jax.Array]:
        """Standard normal noise for z and for the two embeddings."""
        key_z, key_v = jax.random.split(key)
        n = self.config.nets
        return (
            jax.random.normal(key_z, (rows, n.z_dim)),
            jax.random.normal(key_v, (rows, 2 * n.v_dim)),
        )

    def condition(self, batch: Batch, key: jax.Array | None = None) -> jax.Array:
        """The landmark condition, as maps: none under landmark_source 'none'.

        With a key, for training: those of the truth, left out at random, so that the networks
        work with and without them.
        """
        given = batch['has_landmarks']
        if key is not None:
            keep = 1.0 - self.config.condition_dropout
            given *= jax.random.bernoulli(key, keep, given.shape)
        elif self.config.landmark_source == 'none':
            given = jnp.zeros_like(given)
        return features.condition_maps(batch['landmarks'], given, batch['hole'].shape[1:3])

    def conditioned(self, batch: Batch, key: jax.Array) -> tuple[jax.Array, dict[str, Any]]:
        """A fresh key, and a training batch with its condition."""
        key, key_condition = jax.random.split(key)
        return key, {**batch, 'condition': self.condition(batch, key_condition)}

    def complete(self, nets: Nets, view: Batch, z: jax.Array, noise_v: jax.Array) -> Path:
        """Embedding, then generator; view: the batch's masked, hole and condition."""
        seen = tuple(view[name] for name in SEEN)
        embedding = nets['embedding'](*seen, z, noise_v)
        return Path(z, embedding, nets['generator'](*seen, embedding.v_emb, z))

    def path_r(self, nets: Nets, batch: Batch, key: jax.Array) -> tuple[Style, Path]:
        """z from the Extractor's posterior."""
        posterior = Style(*nets['extractor'](self.real_features(batch)))
        unit, noise_v = self.noise(key, len(batch['hole']))
        z = reparameterise(*posterior, unit)
        return posterior, self.complete(nets, batch, z, noise_v)

    def path_s(self, nets: Nets, batch: Batch, key: jax.Array) -> Path:
        """z from the prior, which learns on path R alone; batch: `pairs.doubled`."""
        unit, noise_v = self.noise(key, len(batch['hole']))
        prior = jax.lax.stop_gradient(self.prior(nets, batch))
        z = reparameterise(prior.mean, prior.logvar, unit)
        return self.complete(nets, batch, z, noise_v)

    def both_paths(
        self, nets: Nets, batch: Batch, prior: Style, key: jax.Array
    ) -> tuple[Style, Path, Path]:
        """Path R on the batch and path S on it doubled, as one batch of twice the size."""
        key_r, key_s = jax.random.split(key)
        posterior = Style(*nets['extractor'](self.real_features(batch)))
        unit_r, noise_r = self.noise(key_r, len(batch['hole']))
        unit_s, noise_s = self.noise(key_s, len(batch['hole']))
        view_r = {name: batch[name] for name in SEEN}
        view_s = pairs.doubled(view_r)
        prior_s = jax.lax.stop_gradient(pairs.doubled(prior))
        z_s = reparameterise(prior_s.mean, prior_s.logvar, unit_s)
        z = pairs.interleaved(reparameterise(*posterior, unit_r), z_s)
        view = jax.tree.map(pairs.interleaved, view_r, view_s)
        drawn = self.complete(nets, view, z, pairs.interleaved(noise_r, noise_s))
        return posterior, *pairs.split(drawn)

    # -------------------------------------------------------------------------------- samples

    def sample(self, nets: Nets, batch: Batch, keys: Keys) -> dict[str, jax.Array]:
        """Completions from z and the noise of the embeddings, drawn from keys (B,).

        condition_landmarks (B,68,2): those of its condition, in pixels, NaN where it has none.
        """
        n = self.config.nets
        return self.from_noise(nets, batch, rng.normal(keys, (n.z_dim + 2 * n.v_dim,)))

    def most_likely(self, nets: Nets, batch: Batch, keys: Keys) -> dict[str, jax.Array]:
        """The completion of z = 0, at the middle of every Gaussian."""
        n = self.config.nets
        noise = jnp.zeros((len(batch['hole']), n.z_dim + 2 * n.v_dim))
        return self.from_noise(nets, batch, noise)

    def from_noise(self, nets: Nets, batch: Batch, noise: jax.Array) -> dict[str, jax.Array]:
        """Completions from standard normal noise (B, z_dim + 2 v_dim)."""
        unit, noise_v = jnp.split(noise, [self.config.nets.z_dim], axis=-1)
        batch = {**batch, 'condition': self.condition(batch)}
        z = reparameterise(*self.prior(nets, batch), unit)
        s = self.complete(nets, batch, z, noise_v)
        out = {
            'image': self.with_guidance(nets, batch, s, noise_v),
            'landmark_map': jax.nn.sigmoid(s.embedding.landmark_logits),
            'face_mask': jax.nn.sigmoid(s.embedding.mask_logits),
            'face_part': s.embedding.part,
        }
        if self.config.landmark_source != 'none':
            known = batch['has_landmarks'][:, None, None] > 0
            out['condition_landmarks'] = jnp.where(known, batch['landmarks'], jnp.nan)
        return out

    def with_guidance(self, nets: Nets, batch: Batch, s: Path, noise_v: jax.Array) -> jax.Array:
        """The image, moved further from what the same z gives without landmarks.

        The extrapolation of classifier-free guidance (Ho & Salimans, 2022), in pixels: training
        leaves the condition out at random, so the nets know both.
        """
        free = 'guidance' not in batch and self.config.guidance == 1.0
        if free or self.config.landmark_source == 'none':
            return s.image
        strength = batch.get('guidance', jnp.full(len(s.image), self.config.guidance))
        strength = strength[:, None, None, None]
        unconditional = {**batch, 'condition': jnp.zeros_like(batch['condition'])}
        bare = self.complete(nets, unconditional, s.z, noise_v).image
        return jnp.clip(bare + strength * (s.image - bare), -1.0, 1.0)
