"""Keypoint-conditioned flow: missing pixels go from noise to a face along a learned velocity.

Conditional flow matching (Lipman et al., 2023): at time t the hole shows t * image + (1 - t) *
noise, all else the photo. The network predicts the image, and its error is weighed as that of the
velocity, image - noise. Landmarks condition it as maps, left out at random, so that classifier-free
guidance (Ho & Salimans, 2022) can turn them up. A style vector carries appearance: read off the
whole face in training, drawn from what the visible pixels tell in sampling.

Stage 'flow' learns the velocity. Stage 'distill' makes few evaluations enough: the network learns
to jump to where its teacher, the network of stage 'flow', arrives in many steps, and both critics
keep what it draws as sharp as photos.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fi_jax import features, losses, rng
from fi_jax.features import Batch
from fi_jax.methods import Changes, Method, Nets, Phase, Settings, monitors
from fi_jax.methods.critics import CRITICS, composite, local_view, of_images, scores
from fi_jax.nets.critic import Critic
from fi_jax.nets.extractor import Extractor
from fi_jax.nets.flow import FlowUNet, at_finer_patches
from fi_jax.nets.layers import reparameterise
from fi_jax.rng import Keys

LANDMARK_SOURCES = ('none', 'user', 'predictor', 'predictor_sample')
SOLVERS = ('euler', 'heun')
STYLES = ('none', 'prior', 'given')
BINS = 4  # of time, for the log
Terms = dict[str, jax.Array]

# Patches are of images of 64 pixels and grow with them: widths then stand at the same sides.
SIZES: dict[str, Changes] = {
    # For two CPU cores: .45 GFLOP an evaluation.
    'small': {'flow.patch': 4, 'flow.widths': (64, 128, 192), 'flow.attention': (4,)},
    # For one accelerator: 5 GFLOP, so that a CPU can still draw, and weights below 25 MB.
    'base': {
        'flow.patch': 2,
        'flow.widths': (96, 160, 160),
        'flow.blocks': 2,
        'flow.attention': (16, 8),
        'dtype': 'bfloat16',
        'batch_size': 256,
        'optim.lr': 4e-4,
        'optim.warmup_steps': 300,
        'optim.ema_halflife_images': 100_000.0,
    },
    # For many.
    'large': {
        'flow.patch': 1,
        'flow.widths': (128, 256, 512, 512),
        'flow.blocks': 2,
        'flow.attention': (16, 8),
        'dtype': 'bfloat16',
        'batch_size': 1024,
        'optim.lr': 4e-4,
        'optim.warmup_steps': 1_000,
        'optim.ema_halflife_images': 700_000.0,
    },
}
STAGES: dict[str, Changes] = {
    'flow': {'steps.flow': 6_000},
    'distill': {
        'guidance': 1.0,  # it is in what the teacher shows
        'steps.distill': 2_000,
        # At 2e-4, b1=0 and batches of 8 `base` was seen to forget what it knew.
        'optim.lr': 5e-5,
        'optim.warmup_steps': 20,
        'optim.weight_decay': 0.0,
        'optim.ema_halflife_images': 1_000.0,  # a few thousand are all of it
        'sample.steps': 2,
        'sample.solver': 'euler',
    },
}
ABLATIONS: dict[str, Changes] = {
    'velocity': {'flow.predict': 'velocity'},
    'no_style': {'flow.style_dim': 0},
    'no_landmarks': {'condition_dropout': 1.0},
    'no_critics': {'flow.adversarial': 0.0},
}


def defaults(res: int) -> dict[str, Any]:
    """The fields of this method alone."""
    section = dict(
        patch=4,
        widths=(16, 32),
        blocks=1,  # residual blocks a level
        attention=(),  # sides of the levels that attend
        embedding=64 if res == 32 else 256,
        predict='image',  # 'velocity'
        least_time_left=0.05,
        # Deviation of the noise: over a patch that stands for a pixel of before it is the same at
        # every resolution (Hoogeboom et al., 2023, "simple diffusion").
        noise=max(1.0, res / 64),
        # t = sigmoid(N(mean, deviation)); 0 is noise, where structure is decided, 1 the image.
        time_mean=-0.8,
        time_deviation=0.8,
        style_dim=4 if res == 32 else 16,  # 0: none
        style_dropout=0.5,
        extractor=(16, 32) if res == 32 else (16, 32, 64, 64),
        kl=3e-4,  # of the style; .02 was seen to empty it
        free_bits=0.02,  # nats a dimension
        # Of stage 'distill'.
        distill_jumps=2,  # network evaluations to make enough
        teacher_steps=4,
        teacher_guidance=1.5,  # how hard landmarks lead the teacher: few evaluations learn it
        adversarial=0.02,
        r1=0.0006 * res**2 / 16,
        r1_every=16,
        d_global=(16, 32) if res == 32 else (32, 64, 128, 128),
        d_local=(16, 32) if res == 32 else (32, 64, 128),
    )
    asked = dict(
        steps=8,  # network evaluations are this, or with 'heun' 2 * steps - 1
        solver='heun',  # 'euler'
        time_power=2.0,  # step k of N ends at (k/N)**power: structure is decided early
        temperature=1.0,  # deviation of the noise that begins; below 1 safer, and less diverse
        guidance_interval=(0.0, 1.0),  # times between which config.guidance holds
        style='none',  # 'prior': drawn from what the visible pixels tell
    )
    return dict(steps=dict(flow=0, distill=0), flow=section, sample=asked)


def choices(res: int) -> dict[str, Mapping[str, Changes]]:
    """What the arguments size and stage of a config choose from."""
    if res == 32:  # of tests
        return {
            'size': {name: {} for name in SIZES},
            'stage': {name: {f'steps.{name}': 4, 'sample.steps': 2} for name in STAGES},
        }
    sizes: dict[str, Changes] = {
        name: {**size, 'flow.patch': size['flow.patch'] * res // 64} for name, size in SIZES.items()
    }
    return {'size': sizes, 'stage': STAGES}


SETTINGS = Settings(defaults, choices, ABLATIONS, fixed=('flow', 'size'))


def mix(image: jax.Array, noise: jax.Array, hole: jax.Array, t: jax.Array) -> jax.Array:
    """The state of the flow at time t (B,): noise (t=0) to image (t=1) in the hole, image outside.

    image, noise (B,H,W,3), hole (B,H,W,1) -> (B,H,W,3).
    """
    t = t[:, None, None, None]
    return features.composite(t * image + (1.0 - t) * noise, image, hole)


def time_at(k: Any, steps: Any, power: float) -> Any:
    """The time at which step k of so many begins, from noise (0) to image (1); denser near 0."""
    return (k / steps) ** power


def time_steps(steps: int, power: float) -> np.ndarray:
    """The times between which so many steps go, (steps+1,)."""
    return time_at(np.arange(steps + 1, dtype=np.float32), steps, power)


@dataclass(frozen=True)
class Flow:
    """The draws, losses and phases of the system under one config; it holds no other state."""

    config: Any

    def nets(self) -> dict[str, Any]:
        """The velocity's network; with a style, the Extractor and the prior of its code."""
        f, dtype = self.config.flow, jnp.dtype(self.config.dtype)
        nets: dict[str, Any] = {
            'flow': FlowUNet(
                f.patch, tuple(f.widths), f.blocks, tuple(f.attention), f.embedding, dtype
            )
        }
        if f.style_dim:
            nets['extractor'] = Extractor(tuple(f.extractor), f.style_dim, dtype)
            nets['prior'] = Extractor(tuple(f.extractor), f.style_dim, dtype)
        if self.config.steps.distill:
            nets['teacher'] = nets['flow'].clone()
            for name in CRITICS:
                nets[name] = Critic(tuple(f[name]), dtype=dtype)
        return nets

    def inputs(self, batch: Batch) -> dict[str, tuple[jax.Array, ...]]:
        """Example arguments of each network."""
        condition = self.condition(batch)
        style = self.no_style(len(batch['image']))
        t = jnp.zeros(len(batch['image']))
        seen = self.view(batch['image'], batch['hole'], condition), t, style
        examples = {
            'flow': seen,
            'teacher': seen,
            'd_global': (batch['image'],),
            'd_local': (local_view(batch['image'], batch['hole'], condition),),
            'extractor': (self.face(batch),),
            'prior': (self.view(batch['masked'], batch['hole'], condition),),
        }
        return {name: examples[name] for name in self.nets()}

    # ------------------------------------------------------------------------------ conditions

    def condition(self, batch: Batch, key: jax.Array | None = None) -> jax.Array:
        """The landmark condition, maps (B,H,W,C); with a key, left out at random."""
        known = batch['has_landmarks']
        if key is not None:
            keep = 1.0 - self.config.condition_dropout
            known *= jax.random.bernoulli(key, keep, known.shape)
        elif self.config.landmark_source == 'none':
            known = jnp.zeros_like(known)
        return features.condition_maps(batch['landmarks'], known, batch['hole'].shape[1:3])

    def view(self, state: jax.Array, hole: jax.Array, condition: jax.Array) -> jax.Array:
        """What the network sees: the flow's state, the hole and the landmark maps."""
        return jnp.concatenate([state, hole, condition], axis=-1)

    def face(self, batch: Batch) -> jax.Array:
        """What the Extractor sees: the whole face and the features of the source."""
        names = ('image', 'landmark_map', 'face_mask', 'face_part')
        return features.stack(*(batch[name] for name in names))

    def no_style(self, rows: int) -> jax.Array:
        """The style of none: zeros, with a flag of 0."""
        return jnp.zeros((rows, self.config.flow.style_dim + 1))

    def with_style(self, z: jax.Array, given: jax.Array) -> jax.Array:
        """z (B,D) and its flag (B,), as the network takes them."""
        return jnp.concatenate([z * given[:, None], given[:, None]], axis=-1)

    # ---------------------------------------------------------------------------------- losses

    def drawn_style(self, nets: Nets, batch: Batch, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Of training: styles (B,D+1), left out at random, and their KL (B,D) to the prior."""
        f, rows = self.config.flow, len(batch['image'])
        if not f.style_dim:
            return self.no_style(rows), jnp.zeros((rows, 1))
        key_unit, key_given = jax.random.split(key)
        mean, logvar = nets['extractor'](self.face(batch))
        prior = nets['prior'](self.view(batch['masked'], batch['hole'], batch['condition']))
        z = reparameterise(mean, logvar, jax.random.normal(key_unit, mean.shape))
        given = jax.random.bernoulli(key_given, 1.0 - f.style_dropout, (rows,))
        return self.with_style(z, given.astype(jnp.float32)), losses.kl_gaussian(
            mean, logvar, *prior
        )

    def velocity(self, out: jax.Array, state: jax.Array, t: jax.Array) -> jax.Array:
        """The velocity that an output of the network means, at a state and time t (B,).

        Predicting the image holds a small network to images (Li & He, 2025, "Back to basics"); near
        the end the division is held back.
        """
        if self.config.flow.predict == 'velocity':
            return out
        left = jnp.maximum(1.0 - t, self.config.flow.least_time_left)
        return (out - state) / left[:, None, None, None]

    def flow_loss(
        self, nets: Nets, batch: Batch, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, Terms]:
        """Squared error of the velocity inside the holes, and the style's KL to its prior."""
        f = self.config.flow
        key_t, key_noise, key_condition, key_style = jax.random.split(key, 4)
        image, hole = batch['image'], batch['hole']
        batch = {**batch, 'condition': self.condition(batch, key_condition)}
        t = f.time_mean + f.time_deviation * jax.random.normal(key_t, (len(image),))
        t = jax.nn.sigmoid(t)
        noise = f.noise * jax.random.normal(key_noise, image.shape)
        style, kl = self.drawn_style(nets, batch, key_style)
        state = mix(image, noise, hole, t)
        out = nets['flow'](self.view(state, hole, batch['condition']), t, style)
        error = jnp.square(self.velocity(out, state, t) - (image - noise))
        each = (error * hole).sum(axis=(1, 2, 3))
        pixels = 3.0 * hole.sum(axis=(1, 2, 3))
        loss = each.sum() / jnp.maximum(pixels.sum(), 1.0)
        terms = {'flow': loss}
        for b in range(BINS):
            inside = (t * BINS).astype(jnp.int32) == b
            seen = (pixels * inside).sum()
            mean = (each * inside).sum() / jnp.maximum(seen, 1.0)
            terms[f'flow_t{b}'] = jnp.where(seen > 0, mean, jnp.nan)
        if f.style_dim:
            terms['kl'] = kl.sum(-1).mean()
            loss += f.kl * losses.free_bits(kl, f.free_bits)
        return loss, terms

    def distill_loss(
        self, nets: Nets, batch: Batch, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, Terms]:
        """From a state of its own, one jump against the teacher's steps; and both critics.

        The state is noise, or what the network's first jumps made of it, as in sampling; so it is
        distilled where it will be used (Yin et al., 2024, "Improved distribution matching
        distillation"). A pseudo-Huber distance (Song & Dhariwal, 2024) spares what is sharp.
        """
        f, power = self.config.flow, self.config.sample.time_power
        key_k, key_noise, key_condition, key_style = jax.random.split(key, 4)
        hole, rows = batch['hole'], len(batch['image'])
        batch = {**batch, 'condition': self.condition(batch, key_condition)}
        style = jax.lax.stop_gradient(self.drawn_style(nets, batch, key_style)[0])
        noise = f.noise * jax.random.normal(key_noise, batch['image'].shape)
        jumps = jax.random.randint(key_k, (rows,), 0, f.distill_jumps)

        def jump(net: Any, state: jax.Array, t: jax.Array) -> jax.Array:
            out = net(self.view(state, hole, batch['condition']), t, style)
            return state + (1.0 - t)[:, None, None, None] * self.velocity(out, state, t)

        state, t = mix(batch['image'], noise, hole, jnp.zeros(rows)), jnp.zeros(rows)
        for k, end in enumerate(time_steps(f.distill_jumps, power)[1:-1], 1):
            ahead = jnp.full((rows,), end)
            reached = mix(jump(nets['flow'].frozen, state, t), noise, hole, ahead)
            take = jumps >= k
            state = jnp.where(take[:, None, None, None], reached, state)
            t = jnp.where(take, ahead, t)
        state = features.composite(jax.lax.stop_gradient(state), batch['image'], hole)

        def teach(target: jax.Array, at: jax.Array) -> jax.Array:
            def conditioned(maps: jax.Array) -> jax.Array:
                out = nets['teacher'].frozen(self.view(target, hole, maps), at, style)
                return self.velocity(out, target, at)

            free = conditioned(jnp.zeros_like(batch['condition']))
            return free + f.teacher_guidance * (conditioned(batch['condition']) - free)

        target, left = state, 1.0 - t
        for begin, end in itertools.pairwise(time_steps(f.teacher_steps, power)):
            pace = teach(target, t + left * begin) * ((end - begin) * left)[:, None, None, None]
            target = features.composite(target + pace, batch['image'], hole)
        target = jax.lax.stop_gradient(target)

        drawn = jump(nets['flow'], state, t)
        error = jnp.square(drawn - target).mean(-1, keepdims=True)
        near = 0.03
        huber = losses.masked_mean(jnp.sqrt(error + near**2) - near, hole).mean()
        fake = composite(drawn, batch)
        seen = scores(nets, fake, batch, frozen=True)
        adversarial = {n: losses.adversarial_loss('ns', seen[n]).mean() for n in CRITICS}
        on_fake = scores(nets, jax.lax.stop_gradient(fake), batch, frozen=False)
        on_real = scores(nets, batch['image'], batch, frozen=False)
        critic = {n: losses.critic_loss('ns', on_real[n], on_fake[n]).mean() for n in CRITICS}
        total = huber + sum(critic.values())
        total += f.adversarial * sum(adversarial.values())
        terms = {'huber': huber, **{f'adv_{n[2:]}': x for n, x in adversarial.items()}}
        terms |= {f'{n}_margin': (on_real[n] - on_fake[n]).mean() for n in CRITICS}
        return jnp.asarray(total), terms | critic

    def r1_loss(
        self, nets: Nets, batch: Batch, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, Terms]:
        """The critics' penalty on real images, by interval (Mescheder et al., 2018)."""
        batch = {**batch, 'condition': self.condition(batch, key)}
        critics = of_images(nets, batch)
        terms = {n: losses.r1(critic, batch['image']).mean() for n, critic in critics.items()}
        return self.config.flow.r1_every * self.config.flow.r1 * jnp.asarray(
            sum(terms.values())
        ), terms

    def stages(self) -> dict[str, tuple[Phase, ...]]:
        """What moves which nets in each stage."""
        learners = ('flow', 'extractor', 'prior') if self.config.flow.style_dim else ('flow',)
        return {
            'flow': (Phase('flow', learners, self.flow_loss),),
            'distill': (
                Phase('distill', ('flow', *CRITICS), self.distill_loss),
                Phase('r1', CRITICS, self.r1_loss, every=self.config.flow.r1_every),
            ),
        }

    # --------------------------------------------------------------------------------- samples

    def sample(self, nets: Nets, batch: Batch, keys: Keys) -> dict[str, jax.Array]:
        """Completions, from noise and a style drawn from keys (B,).

        condition_landmarks (B,68,2): those of its condition, in pixels, NaN where it has none.
        """
        options, image, hole = self.config.sample, batch['image'], batch['hole']
        rows, conditioned = len(image), self.config.landmark_source != 'none'
        noise = rng.normal(rng.named(keys, 'noise'), image.shape[1:])
        noise *= options.temperature * self.config.flow.noise
        condition = self.condition(batch)
        style = self.no_style(rows)
        if self.config.flow.style_dim and options.style != 'none':
            if options.style == 'given':
                z = batch['style']
            else:
                mean, logvar = nets['prior'](self.view(batch['masked'], hole, condition))
                unit = rng.normal(rng.named(keys, 'style'), mean.shape[1:])
                z = reparameterise(mean, logvar, unit)
            style = self.with_style(z, jnp.ones(rows))

        guided = conditioned and ('guidance' in batch or self.config.guidance != 1.0)
        low, high = options.guidance_interval
        strength = batch.get('guidance', jnp.full(rows, self.config.guidance))
        # Told and untold go side by side in one pass, so that the net is compiled once.
        conditions = jnp.stack([condition, jnp.zeros_like(condition)][: 1 + guided], 1)
        passes = conditions.shape[1]
        conditions = conditions.reshape(-1, *condition.shape[1:])
        holes, styles = jnp.repeat(hole, passes, 0), jnp.repeat(style, passes, 0)

        def velocity(state: jax.Array, t: jax.Array) -> jax.Array:
            states, times = jnp.repeat(state, passes, 0), jnp.full(passes * rows, t)
            out = nets['flow'](self.view(states, holes, conditions), times, styles)
            v = self.velocity(out, states, times).reshape(rows, passes, *state.shape[1:])
            told, free = v[:, 0], v[:, -1]
            pull = jnp.where((t >= low) & (t <= high), strength, 1.0)[:, None, None, None]
            return (free + pull * (told - free) if guided else told) * hole

        steps, second_order = batch.get('steps', options.steps), options.solver == 'heun'

        def at(k: jax.Array) -> jax.Array:
            return time_at(k, steps, options.time_power)

        # An iteration is one evaluation, of whichever half of Heun's step, for the same reason. At
        # the end of time the velocity is not defined, so the last step is Euler's.
        def evaluate(k: jax.Array, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            start, state, before = carry
            i, ahead = (k // 2, k % 2) if second_order else (k, jnp.zeros_like(k))
            v = velocity(state, at(i + ahead))
            mean = jnp.where(ahead == 1, (before + v) / 2, v)
            state = start + mean * (at(i + 1) - at(i))
            done = (ahead == 1) | (not second_order)
            return jnp.where(done, state, start), state, v

        state = mix(image, noise, hole, jnp.zeros(rows))
        evaluations = 2 * steps - 1 if second_order else steps
        _, state, _ = jax.lax.fori_loop(0, evaluations, evaluate, (state, state, state))
        out = {'image': jnp.clip(state, -1.0, 1.0)}
        if conditioned:
            known = batch['has_landmarks'][:, None, None] > 0
            out['condition_landmarks'] = jnp.where(known, batch['landmarks'], jnp.nan)
        return out

    def watch(self, nets: Nets, batch: Batch, key: jax.Array) -> Terms:
        """How many numbers of the style are used, and how many nats they carry."""
        posterior = nets['extractor'](self.face(batch))
        view = self.view(batch['masked'], batch['hole'], self.condition(batch))
        kl = losses.kl_gaussian(*posterior, *nets['prior'](view)).mean(0)
        return {'kl': kl.sum(), 'kl_active': monitors.active(kl)}


def make(config: Any) -> Method:
    """The method of a config; raises ValueError on an unknown switch."""
    options = config.sample
    for name, value, known in (
        ('flow.predict', config.flow.predict, ('image', 'velocity')),
        ('landmark_source', config.landmark_source, LANDMARK_SOURCES),
        ('sample.style', options.style, STYLES),
        ('sample.solver', options.solver, SOLVERS),
    ):
        if value not in known:
            raise ValueError(f'config.{name}={value!r}: choose one of {list(known)}')
    if not options.time_power > 0:
        raise ValueError(f'config.sample.time_power={options.time_power}: choose above 0')
    if options.steps < 1:
        raise ValueError(f'config.sample.steps={options.steps}: choose 1 or more')
    if config.guidance < 0:
        raise ValueError(
            f'config.guidance={config.guidance}: 0 ignores landmarks; choose 0 or more'
        )
    system = Flow(config)
    nets = system.nets()
    styled = config.flow.style_dim > 0
    learners = ('flow', 'extractor', 'prior') if styled else ('flow',)
    return Method(
        nets=nets,
        inputs=system.inputs,
        stages=system.stages(),
        sample=system.sample,
        watch=system.watch if styled else None,
        ema=learners if config.optim.ema_halflife_images > 0 else (),
        sampling=learners,
        begins={'teacher': 'flow'} if 'teacher' in nets else {},
        resize={name: at_finer_patches for name in nets if name in ('flow', 'teacher')},
    )
