"""The keypoint-conditioned system: Extractor, Face Embedding Network, Face Generator, two critics.

Path R (reconstruct) draws z from the Extractor's view of the whole face, path S (sample) from the
prior: random vectors, moved and scaled to what the visible pixels allow. Stage 1 trains path R
alone; stage 2 both in each step, with the critics. On path S the critics alone shape the inside of
the hole, and the latent L1 keeps z readable.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fi_jax import features, losses, rng
from fi_jax.features import Batch
from fi_jax.methods import Method, Nets, Phase, pairs
from fi_jax.methods.critics import (
    CRITICS,
    GAN_KINDS,
    composite,
    local_view,
    of_images,
    scores,
)
from fi_jax.methods.keypoint_settings import SETTINGS as SETTINGS
from fi_jax.nets.critic import Critic
from fi_jax.nets.embedding import Embedding, FaceEmbedding
from fi_jax.nets.extractor import Extractor
from fi_jax.nets.generator import FaceGenerator
from fi_jax.nets.layers import reparameterise
from fi_jax.rng import Keys

LANDMARK_SOURCES = ('none', 'user', 'predictor', 'predictor_sample')
SEEN = ('masked', 'hole', 'condition')
WATCH_SAMPLES = 4

Terms = dict[str, jax.Array]


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


def prefix(head: str, terms: Terms) -> Terms:
    """The same terms, named head/name."""
    return {f'{head}/{name}': value for name, value in terms.items()}


def map_terms(embedding: Embedding, batch: Batch, where: jax.Array) -> Terms:
    """Losses of the decoded maps inside `where`, over the faces whose landmarks are known."""
    known = batch['has_landmarks']
    part = jnp.abs(embedding.part - batch['face_part'])
    mask = losses.bce(embedding.mask_logits, batch['face_mask'])
    terms = {
        'part': losses.masked_mean(part, where),
        'mask': losses.masked_mean(mask, where),
        'landmark': losses.balanced_bce(embedding.landmark_logits, batch['landmark_map'], where),
    }
    return {name: (x * known).sum() / jnp.maximum(known.sum(), 1.0) for name, x in terms.items()}


@dataclass(frozen=True)
class Keypoint:
    """The draws, losses and phases of the system under one config; it holds no other state."""

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

    # -------------------------------------------------------------------------------- losses

    def weighted(self, terms: Terms) -> jax.Array:
        """The sum of the terms that config.loss weights by name."""
        weights = self.config.loss
        return jnp.asarray(sum(weights[name] * x for name, x in terms.items()))

    def features_term(self, error: jax.Array, batch: Batch) -> jax.Array:
        """Mean error inside the hole near the landmarks, over the faces where they are known.

        Eyes and lips are a small share of a hole, and what landmarks decide is there.
        """
        known = batch['has_landmarks']
        points = jnp.where(known[:, None, None] > 0, batch['landmarks'], 0.0)
        near = features.near_landmarks(points, batch['hole'].shape[1:3])
        each = losses.masked_mean(error, near * batch['hole'])
        return (each * known).sum() / jnp.maximum(known.sum(), 1.0)

    def reconstruct_terms(
        self, posterior: Style, prior: Style, r: Path, batch: Batch, ramp: jax.Array | float
    ) -> tuple[jax.Array, Terms]:
        """Path R: everything against the truth, and both KL terms, scaled by ramp."""
        hole, e, weights = batch['hole'], r.embedding, self.config.loss
        error = jnp.abs(r.image - batch['image'])
        terms = {
            'l1_hole': losses.masked_mean(error, hole).mean(),
            'l1_visible': losses.masked_mean(error, 1 - hole).mean(),
            'l1_features': self.features_term(error, batch),
            **map_terms(e, batch, jnp.ones_like(hole)),
        }
        kl_z = losses.kl_gaussian(*posterior, *prior)
        v_mean = jnp.concatenate([e.l_mean, e.f_mean], axis=-1)
        kl_v = losses.kl_gaussian(v_mean, jnp.concatenate([e.l_logvar, e.f_logvar], axis=-1))
        total = self.weighted(terms)
        total += ramp * weights.kl_z * losses.free_bits(kl_z, weights.free_bits)
        total += ramp * weights.kl_v * losses.free_bits(kl_v, weights.free_bits)
        terms |= {
            'kl_z': kl_z.sum(-1).mean(),
            'kl_v': kl_v.sum(-1).mean(),
            'kl_z_active': (kl_z.mean(0) > 0.02).sum().astype(jnp.float32),
        }
        return total, terms

    def latent_terms(self, nets: Nets, s: Path, batch: Batch) -> Terms:
        """L1 from what the Extractor reads off each fake to its own z, and to its partner's.

        The Extractor itself is frozen, else the two could agree on an invisible code; so are the
        decoded maps (unless config.latent_through is 'all'), where one was seen to be hidden.
        """
        e = s.embedding
        if self.config.latent_through == 'image':
            e = jax.tree.map(jax.lax.stop_gradient, e)
        view = self.fake_features(composite(s.image, batch), e)
        mean, _ = nets['extractor'].frozen(view)
        # Pixels outside the hole carry no z: a small hole cannot be asked for all of it.
        weight = jnp.minimum(1.0, batch['hole'].mean(axis=(1, 2, 3)) / 0.25)
        total = jnp.maximum(weight.sum(), 1e-6)

        def distance(z: jax.Array) -> jax.Array:
            return (jnp.abs(mean - z).mean(-1) * weight).sum() / total

        return {'latent': distance(s.z), 'latent_shuffled': distance(pairs.partner(s.z))}

    def adversarial_terms(self, nets: Nets, image: jax.Array, batch: Batch) -> Terms:
        """What each frozen critic thinks of the composites."""
        fake = scores(nets, composite(image, batch), batch, frozen=True)
        kind = GAN_KINDS[self.config.gan]
        return {f'adv_{n[2:]}': losses.adversarial_loss(kind, fake[n]).mean() for n in CRITICS}

    def diversity_terms(self, s: Path, hole: jax.Array) -> Terms:
        """How far two completions of an input fall short of a floor, and how far apart they are.

        The floor is of the distance inside the hole per unit of z: the idea of MSGAN (Mao et al.,
        2019), as a hinge, so that nothing pushes on two which differ enough.
        """
        (image_a, image_b), (z_a, z_b) = pairs.split(s.image), pairs.split(s.z)
        hole, _ = pairs.split(hole)
        distance = losses.masked_mean(jnp.abs(image_a - image_b), hole)
        per_z = distance / (jnp.abs(z_a - z_b).mean(-1) + 1e-6)
        short = jax.nn.relu(self.config.loss.diversity_floor - per_z)
        open_ = hole.sum(axis=(1, 2, 3)) > 0
        return {'diversity': (short * open_).mean(), 'pair_distance': distance.mean()}

    def sample_terms(self, nets: Nets, s: Path, batch: Batch) -> tuple[jax.Array, Terms]:
        """Path S: visible pixels and maps, the critics, the latent L1, the floor of diversity.

        The anchor charges the hole only beyond a zone around the truth, wide enough for another
        face to fit in: it stops the blow-ups of young critics and leaves z its freedom.
        """
        visible = 1 - batch['hole']
        error = jnp.abs(s.image - batch['image'])
        far = jax.nn.relu(error - self.config.loss.anchor_zone)
        terms = {
            'l1_visible': losses.masked_mean(error, visible).mean(),
            'anchor': losses.masked_mean(far, batch['hole']).mean(),
        }
        terms |= map_terms(s.embedding, batch, visible)
        terms |= self.adversarial_terms(nets, s.image, batch)
        watched = self.latent_terms(nets, s, batch) | self.diversity_terms(s, batch['hole'])
        terms |= {name: watched.pop(name) for name in ('latent', 'diversity')}
        return self.weighted(terms), terms | watched

    def critic_terms(self, nets: Nets, fake: jax.Array, batch: Batch) -> tuple[jax.Array, Terms]:
        """Both critics on real images against path S's composites, which get no gradient.

        To D_local a real image under its neighbour's landmarks is a fake as well (Reed et al.,
        2016): else it could do without them.
        """
        kind, stats = GAN_KINDS[self.config.gan], {}
        if self.config.gan == 'hinge_sn':
            stats = {'update_stats': True}
        doubled = pairs.doubled({name: batch[name] for name in ('image', 'hole', 'condition')})
        fake = jax.lax.stop_gradient(composite(fake, doubled))
        condition = pairs.partner(batch['condition'])
        views = (
            local_view(batch['image'], batch['hole'], g) for g in (batch['condition'], condition)
        )
        # In one pass: devices sum the gradients of each pass apart.
        own, other = pairs.split(nets['d_local'](pairs.interleaved(*views), **stats))
        on_real = {'d_global': nets['d_global'](batch['image'], **stats), 'd_local': own}
        on_fake = scores(nets, fake, doubled, frozen=False)
        terms = {n: losses.critic_loss(kind, on_real[n], on_fake[n]).mean() for n in CRITICS}
        margins = {f'{n}_margin': (on_real[n] - on_fake[n]).mean() for n in CRITICS}
        both = batch['condition'][:, 0, 0, -1] * condition[:, 0, 0, -1]
        each = losses.critic_loss(kind, own, other)
        terms['d_local_mismatch'] = (each * both).sum() / jnp.maximum(both.sum(), 1.0)
        weights = {'d_local_mismatch': self.config.loss.mismatch}
        total = sum(weights.get(name, 1.0) * x for name, x in terms.items())
        return jnp.asarray(total), terms | margins

    # -------------------------------------------------------------------------------- phases

    def generative(
        self, nets: Nets, batch: Batch, key: jax.Array, step: jax.Array, paths: str, warmup: float
    ) -> tuple[jax.Array, Terms, Path]:
        """The generative loss on paths 'r', 's' or 'rs', its terms, and the last path drawn.

        batch: with its condition.
        """
        ramp = jnp.clip((step + 1) / warmup, 0.0, 1.0) if warmup > 0 else 1.0
        if paths == 'r':
            posterior, r = self.path_r(nets, batch, key)
            prior = self.prior(nets, batch)
            total, terms = self.reconstruct_terms(posterior, prior, r, batch, ramp)
            return total, prefix('r', terms), r
        if paths == 's':
            s = self.path_s(nets, pairs.doubled(batch), key)
            total, terms = self.sample_terms(nets, s, pairs.doubled(batch))
            return total, prefix('s', terms), s
        prior = self.prior(nets, batch)
        posterior, r, s = self.both_paths(nets, batch, prior, key)
        total_r, terms_r = self.reconstruct_terms(posterior, prior, r, batch, ramp)
        total_s, terms_s = self.sample_terms(nets, s, pairs.doubled(batch))
        return total_r + total_s, prefix('r', terms_r) | prefix('s', terms_s), s

    def phase_generative(
        self, nets: Nets, batch: Batch, key: jax.Array, step: jax.Array, paths: str, warmup: float
    ) -> tuple[jax.Array, Terms]:
        """The generative nets alone."""
        key, batch = self.conditioned(batch, key)
        total, terms, _ = self.generative(nets, batch, key, step, paths, warmup)
        return total, terms

    def phase_all(
        self, nets: Nets, batch: Batch, key: jax.Array, step: jax.Array, paths: str
    ) -> tuple[jax.Array, Terms]:
        """Generative nets and critics at once: each loss stops at the other's nets, so that the
        gradient of the sum is each player's own, for one forward pass."""
        key, batch = self.conditioned(batch, key)
        total, terms, path = self.generative(nets, batch, key, step, paths, warmup=0.0)
        critic, critic_terms = self.critic_terms(nets, path.image, batch)
        return total + critic, terms | prefix('critic', critic_terms)

    def phase_critics(
        self, nets: Nets, batch: Batch, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, Terms]:
        """The critics alone, with WGAN's penalty between real and fake."""
        key, batch = self.conditioned(batch, key)
        key_s, key_mix = jax.random.split(key)
        doubled = pairs.doubled(batch)
        fake = composite(self.path_s(nets, doubled, key_s).image, doubled)
        total, terms = self.critic_terms(nets, fake, batch)
        if self.config.gan == 'wgan_gp':
            mix = jax.random.uniform(key_mix, (len(fake),))
            fake = jax.lax.stop_gradient(fake)
            for n, critic in of_images(nets, batch).items():
                penalty = losses.gradient_penalty(critic, batch['image'], fake, mix).mean()
                terms[f'{n}_penalty'] = penalty
                total += self.config.loss.gradient_penalty * penalty
        return total, prefix('critic', terms)

    def phase_r1(
        self, nets: Nets, batch: Batch, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, Terms]:
        """The penalty on real images, weighted by its interval to the same mean strength."""
        _, batch = self.conditioned(batch, key)
        critics = of_images(nets, batch)
        terms = {n: losses.r1(critic, batch['image']).mean() for n, critic in critics.items()}
        weight = self.config.r1_every * self.config.loss.r1
        return weight * jnp.asarray(sum(terms.values())), prefix('r1', terms)

    def trainable(self, paths: str) -> tuple[str, ...]:
        """The nets that the generative loss of some paths moves: path S has no pull on z's own."""
        frozen = CRITICS if 'r' in paths else (*CRITICS, 'extractor', 'prior')
        return tuple(name for name in self.nets() if name not in frozen)

    def stages(self) -> dict[str, tuple[Phase, ...]]:
        """The phases of stage 1 and of stage 2."""
        config = self.config
        warmup = config.loss.kl_warmup * config.steps.stage1
        reconstruct = partial(self.phase_generative, paths='r', warmup=warmup)
        stage1 = (Phase('reconstruct', self.trainable('r'), reconstruct),)

        paths = 'rs' if config.schedule == 'joint' else 's'
        trainable = self.trainable(paths)
        if config.gan == 'wgan_gp' or config.critic_steps > 1:
            generators = partial(self.phase_generative, paths=paths, warmup=0.0)
            stage2: tuple[Phase, ...] = (
                Phase('critics', CRITICS, self.phase_critics, repeats=config.critic_steps),
                Phase('generators', trainable, generators),
            )
        else:
            stage2 = (Phase('all', trainable + CRITICS, partial(self.phase_all, paths=paths)),)
        if config.gan == 'ns_r1':
            stage2 += (Phase('r1', CRITICS, self.phase_r1, every=config.r1_every),)
        return {'stage1': stage1, 'stage2': stage2}

    # -------------------------------------------------------------------- samples and monitors

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

    def watch(self, nets: Nets, batch: Batch, key: jax.Array) -> Terms:
        """Whether z is used: by the Extractor, by the embedding, in the hole; and what pulls."""
        batch = {**batch, 'condition': self.condition(batch)}
        prior = self.prior(nets, batch)
        posterior = Style(*nets['extractor'](self.real_features(batch)))
        kl = losses.kl_gaussian(*posterior, *prior).mean(0)
        drawn = []
        for k in jax.random.split(key, WATCH_SAMPLES):
            unit, noise_v = self.noise(k, len(batch['hole']))
            # No noise in the embeddings: what varies here is owed to z alone.
            no_noise = jnp.zeros_like(noise_v)
            drawn.append(self.complete(nets, batch, reparameterise(*prior, unit), no_noise))

        def distance(a: Path, b: Path) -> jax.Array:
            return losses.masked_mean(jnp.abs(a.image - b.image), batch['hole']).mean()

        distances = [distance(a, b) for i, a in enumerate(drawn) for b in drawn[:i]]
        v = jnp.stack([path.embedding.v_emb for path in drawn])
        views = [self.fake_features(composite(s.image, batch), s.embedding) for s in drawn]
        mean = jnp.stack([nets['extractor'](view)[0] for view in views])
        z = jnp.stack([path.z for path in drawn])
        # Against another z of the same input: what the input itself tells must not count.
        latent, shuffled = (jnp.abs(mean - other).mean() for other in (z, jnp.roll(z, 1, axis=0)))
        a, b = (x - x.mean(0, keepdims=True) for x in (mean, z))
        correlation = (a * b).sum((0, 1)) / jnp.sqrt(
            (a**2).sum((0, 1)) * (b**2).sum((0, 1)) + 1e-12
        )
        return {
            'kl_z': kl.sum(),
            'kl_z_per_dimension': kl,
            'kl_z_active': (kl > 0.02).sum().astype(jnp.float32),
            'prior_deviation': jnp.exp(0.5 * prior.logvar).mean(),
            'pair_distance_hole': jnp.stack(distances).mean(),
            'v_share_of_z': v.var(0).mean() / (v.var((0, 1)).mean() + 1e-9),
            'latent': latent,
            'latent_ratio': latent / shuffled,
            'latent_correlation': correlation.mean(),
            **prefix('pull', self.pulls(nets, drawn[0], batch)),
        }

    def pulls(self, nets: Nets, s: Path, batch: Batch) -> Terms:
        """How hard each weighted loss pulls on the fake image: gradient norms, per example.

        The balance to look for: critics at 0.1 to 1 of the image L1.
        """
        weights = self.config.loss

        def pull(loss: Any) -> jax.Array:
            grad = jax.grad(loss)(s.image)
            return jnp.sqrt((grad**2).sum(axis=(1, 2, 3))).mean() * len(grad)

        def image_l1(y: jax.Array) -> jax.Array:
            return weights.l1_visible * losses.image_mean(jnp.abs(y - batch['image'])).mean()

        def latent(y: jax.Array) -> jax.Array:
            return weights.latent * self.latent_terms(nets, s._replace(image=y), batch)['latent']

        def adversarial(y: jax.Array, name: str) -> jax.Array:
            return weights[name] * self.adversarial_terms(nets, y, batch)[name]

        critics = {n: pull(partial(adversarial, name=n)) for n in ('adv_global', 'adv_local')}
        return {'l1': pull(image_l1), 'latent': pull(latent), **critics}


def make(config: Any) -> Method:
    """The method of a config; raises ValueError on an unknown switch."""
    for name, value, known in (
        ('gan', config.gan, tuple(GAN_KINDS)),
        ('schedule', config.schedule, ('joint', 'sequential')),
        ('extractor_input', config.extractor_input, ('full', 'features')),
        ('latent_through', config.latent_through, ('image', 'all')),
        ('prior', config.prior, ('visible', 'normal', 'sigma_by_hole')),
        ('landmark_source', config.landmark_source, LANDMARK_SOURCES),
        ('nets.hvae', config.nets.hvae, ('dual', 'chain')),
        ('nets.z_inject', config.nets.z_inject, ('film', 'concat')),
    ):
        if value not in known:
            raise ValueError(f'config.{name}={value!r}: choose one of {list(known)}')
    if config.guidance < 0:
        raise ValueError(
            f'config.guidance={config.guidance}: 0 ignores landmarks; choose 0 or more'
        )
    if config.batch_size % (2 * config.accumulate):
        raise ValueError(
            f'config.batch_size={config.batch_size}, config.accumulate={config.accumulate}: path S '
            'draws pairs; choose microbatches of an even size'
        )
    system = Keypoint(config)
    return Method(
        nets=system.nets(),
        inputs=system.inputs,
        stages=system.stages(),
        sample=system.sample,
        variants={'z=0': system.most_likely},
        group=2,
        watch=system.watch,
        ema=system.trainable('r') if config.optim.ema_halflife_images > 0 else (),
        sampling=tuple(n for n in ('prior', 'embedding', 'generator') if n in system.nets()),
    )
