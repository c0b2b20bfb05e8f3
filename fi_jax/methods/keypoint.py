"""The keypoint-conditioned system: Extractor, Face Embedding Network, Face Generator, two critics.

Its networks, paths and samples are in `keypoint_paths`; here its losses, phases and monitors. Stage
1 trains path R alone; stage 2 both paths in each step, with the critics. On path S the critics
alone shape the inside of the hole, and the latent L1 keeps z readable.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from fi_jax import features, losses
from fi_jax.features import Batch
from fi_jax.methods import Method, Nets, Phase, monitors, pairs, perceptual
from fi_jax.methods.critics import (
    CRITICS,
    GAN_KINDS,
    composite,
    local_view,
    of_images,
    scores,
)
from fi_jax.methods.keypoint_paths import LANDMARK_SOURCES, Path, Paths, Style
from fi_jax.methods.keypoint_settings import SETTINGS as SETTINGS
from fi_jax.nets.embedding import Embedding
from fi_jax.nets.layers import reparameterise

WATCH_SAMPLES = 4

Terms = dict[str, jax.Array]


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


class Keypoint(Paths):
    """The losses and phases of the system under one config."""

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

    def perceptual_term(self, nets: Nets, image: jax.Array, batch: Batch) -> jax.Array:
        """How unlike the photos the composites are to the network that config.trunk names."""
        seen = pairs.interleaved(batch['image'], composite(image, batch))
        maps = perceptual.maps(self.config.trunk, nets['trunk'], seen)
        truths, fakes = zip(*(pairs.split(x) for x in maps), strict=True)
        return perceptual.mean_distance(fakes, jax.lax.stop_gradient(truths))

    def reconstruct_terms(
        self,
        nets: Nets,
        posterior: Style,
        prior: Style,
        r: Path,
        batch: Batch,
        ramp: jax.Array | float,
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
        if self.config.trunk != 'none':
            terms['perceptual'] = self.perceptual_term(nets, r.image, batch)
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
            total, terms = self.reconstruct_terms(nets, posterior, prior, r, batch, ramp)
            return total, prefix('r', terms), r
        if paths == 's':
            s = self.path_s(nets, pairs.doubled(batch), key)
            total, terms = self.sample_terms(nets, s, pairs.doubled(batch))
            return total, prefix('s', terms), s
        prior = self.prior(nets, batch)
        posterior, r, s = self.both_paths(nets, batch, prior, key)
        total_r, terms_r = self.reconstruct_terms(nets, posterior, prior, r, batch, ramp)
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
        views = [self.fake_features(composite(s.image, batch), s.embedding) for s in drawn]
        read = jnp.stack([nets['extractor'](view)[0] for view in views])
        return {
            'kl_z': kl.sum(),
            'kl_z_per_dimension': kl,
            'kl_z_active': monitors.active(kl),
            'prior_deviation': jnp.exp(0.5 * prior.logvar).mean(),
            'pair_distance_hole': monitors.pair_distance([s.image for s in drawn], batch['hole']),
            'v_share_of_z': monitors.share_of_samples(
                jnp.stack([s.embedding.v_emb for s in drawn])
            ),
            **monitors.read_back('latent', read, jnp.stack([s.z for s in drawn])),
            **prefix('pull', self.pulls(nets, drawn[0], batch)),
        }

    def pulls(self, nets: Nets, s: Path, batch: Batch) -> Terms:
        """How hard each weighted loss pulls on the fake image: gradient norms, per example.

        The balance to look for: critics at 0.1 to 1 of the image L1.
        """
        weights = self.config.loss

        def image_l1(y: jax.Array) -> jax.Array:
            return weights.l1_visible * losses.image_mean(jnp.abs(y - batch['image'])).mean()

        def latent(y: jax.Array) -> jax.Array:
            return weights.latent * self.latent_terms(nets, s._replace(image=y), batch)['latent']

        def adversarial(y: jax.Array, name: str) -> jax.Array:
            return weights[name] * self.adversarial_terms(nets, y, batch)[name]

        critics = {
            n: monitors.pull(partial(adversarial, name=n), s.image)
            for n in ('adv_global', 'adv_local')
        }
        images = {'l1': image_l1, 'latent': latent}
        return {n: monitors.pull(loss, s.image) for n, loss in images.items()} | critics


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
        constants=perceptual.constants(config.trunk),
        ema=system.trainable('r') if config.optim.ema_halflife_images > 0 else (),
        sampling=tuple(n for n in ('prior', 'embedding', 'generator') if n in system.nets()),
    )
