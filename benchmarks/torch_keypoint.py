"""The keypoint method in PyTorch, for comparison: networks, losses and steps of fi_jax, rewritten.

The switches are those of the presets 'modern' at their defaults (FiLM, dual, joint, ns_r1). Modules
carry the names that Flax gives theirs, so that parameters are converted by name. Written as one
would write it for a CPU: NCHW in channels_last memory, fused Adam, upsampling and convolution.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from fi_jax.features import CONDITION_CHANNELS, CONDITION_REGIONS

GENERATIVE = ('extractor', 'embedding', 'generator', 'prior')
CRITICS = ('d_global', 'd_local')
NETS = GENERATIVE + CRITICS

SEEN = 4 + CONDITION_CHANNELS  # of what a completion is given: masked 3, hole 1, condition

Batch = Mapping[str, Tensor]
Terms = dict[str, Tensor]
Style = tuple[Tensor, Tensor]


# Layers


def leaky(x: Tensor) -> Tensor:
    """Leaky ReLU with slope 0.2."""
    return F.leaky_relu(x, 0.2)


def group_norm(x: Tensor) -> Tensor:
    """8 groups, no affine; epsilon is Flax's."""
    return F.group_norm(x, 8, eps=1e-6)


def flatten(x: Tensor) -> Tensor:
    """(B,C,H,W) -> (B,H*W*C), the order of Flax; a view where x is channels_last."""
    return x.permute(0, 2, 3, 1).reshape(x.shape[0], -1)


class DownConv(nn.Conv2d):
    """k x k convolution of stride 2 with the 'SAME' padding of XLA, uneven for an odd k."""

    def __init__(self, channels: int, features: int, kernel_size: int):
        super().__init__(channels, features, kernel_size, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        k = self.kernel_size[0]
        before = (k - 2) // 2
        after = k - 2 - before
        if before == after:
            return F.conv2d(x, self.weight, self.bias, 2, before)
        return F.conv2d(F.pad(x, (before, after, before, after)), self.weight, self.bias, 2)


# Row j of the 4-tap kernel whose transposed convolution is upsampling by 2 and a 3-tap filter.
_TAPS = ((0.0, 0.0, 1.0), (0.0, 1.0, 1.0), (1.0, 1.0, 0.0), (1.0, 0.0, 0.0))


class UpConv(nn.Conv2d):
    """Nearest upsampling by 2 and a 3x3 convolution; subpixel: as one transposed convolution."""

    subpixel = False

    def __init__(self, channels: int, features: int):
        super().__init__(channels, features, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        if not self.subpixel:
            return super().forward(F.interpolate(x, scale_factor=2.0, mode='nearest'))
        taps = self.weight.new_tensor(_TAPS)
        kernel = torch.einsum('ai,bj,ocij->coab', taps, taps, self.weight)
        kernel = kernel.contiguous(memory_format=torch.channels_last)
        return F.conv_transpose2d(x, kernel, self.bias, 2, 1)


class Named(nn.Module):
    """A module whose children are numbered by type, as Flax names them: DownConv_0, Conv_3."""

    def child(self, kind: str, module: nn.Module) -> None:
        """Register a child under the next free number of its kind."""
        count = sum(name.rpartition('_')[0] == kind for name in self._modules)
        self.add_module(f'{kind}_{count}', module)

    def kin(self, kind: str) -> list[nn.Module]:
        """The children of a kind, in order."""
        return [m for name, m in self._modules.items() if m and name.rpartition('_')[0] == kind]


class FiLM(Named):
    """Scale and shift each channel by a condition (B,D)."""

    def __init__(self, condition: int, channels: int):
        super().__init__()
        self.child('Dense', nn.Linear(condition, 2 * channels))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        scale, shift = self.kin('Dense')[0](w)[:, :, None, None].chunk(2, dim=1)
        return x * (1 + scale) + shift


class GaussianHead(nn.Module):
    """Mean and log-variance, held to +-10, from flat features."""

    def __init__(self, channels: int, features: int):
        super().__init__()
        self.mean, self.logvar = nn.Linear(channels, features), nn.Linear(channels, features)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.mean(x), self.logvar(x).clamp(-10.0, 10.0)


def reparameterise(mean: Tensor, logvar: Tensor, noise: Tensor) -> Tensor:
    """A draw of N(mean, exp(logvar)) from standard normal noise."""
    return mean + torch.exp(0.5 * logvar) * noise


# Networks


class Extractor(Named):
    """Features (B,C,H,W) -> mean and log-variance of z; serves as the prior's network too."""

    def __init__(self, widths: Sequence[int], channels_in: int, res: int, z_dim: int):
        super().__init__()
        channels = [channels_in, *widths]
        for i, width in enumerate(widths):
            self.child('DownConv', DownConv(channels[i], width, 5))
        side = res >> len(widths)
        self.child('GaussianHead', GaussianHead(side * side * widths[-1], z_dim))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        for conv in self.kin('DownConv'):
            x = leaky(conv(x))
        return self.kin('GaussianHead')[0](flatten(x))


class Embedding(NamedTuple):
    """What the embedding network says of a face."""

    v_emb: Tensor
    l_mean: Tensor
    l_logvar: Tensor
    f_mean: Tensor
    f_logvar: Tensor
    landmark_logits: Tensor
    mask_logits: Tensor
    part: Tensor


class Encoder(Named):
    """Strided convolutions, each modulated by z; (B,SEEN,H,W) -> mean, logvar."""

    def __init__(self, widths: Sequence[int], res: int, v_dim: int, z_dim: int):
        super().__init__()
        channels = [SEEN, *widths]
        for i, width in enumerate(widths):
            self.child('DownConv', DownConv(channels[i], width, 4))
            self.child('FiLM', FiLM(z_dim, width))
        side = res >> len(widths)
        self.child('GaussianHead', GaussianHead(side * side * widths[-1], v_dim))

    def forward(self, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        for conv, film in zip(self.kin('DownConv'), self.kin('FiLM'), strict=True):
            x = leaky(film(group_norm(conv(x)), z))
        return self.kin('GaussianHead')[0](flatten(x))


class MapDecoder(Named):
    """Code -> 8x8 -> a map."""

    def __init__(self, widths: Sequence[int], channels: int, code: int):
        super().__init__()
        self.child('Dense', nn.Linear(code, 8 * 8 * 64))
        sizes = [64, *widths, channels]
        for i, size in enumerate(sizes[1:]):
            self.child('UpConv', UpConv(sizes[i], size))

    def forward(self, v: Tensor) -> Tensor:
        x = self.kin('Dense')[0](v).reshape(-1, 8, 8, 64).permute(0, 3, 1, 2)
        *levels, last = self.kin('UpConv')
        for conv in levels:
            x = F.relu(group_norm(conv(x)))
        return last(x)


class FaceEmbedding(nn.Module):
    """Visible pixels, hole and condition (B,SEEN,H,W), z, noise -> Embedding."""

    def __init__(
        self, widths: Sequence[int], decoder: Sequence[int], res: int, v_dim: int, z_dim: int
    ):
        super().__init__()
        self.landmark_encoder = Encoder(widths, res, v_dim, z_dim)
        self.face_encoder = Encoder(widths, res, v_dim, z_dim)
        self.landmark_decoder = MapDecoder(decoder, 1, v_dim)
        self.mask_decoder = MapDecoder(decoder, 1, 2 * v_dim)
        self.part_decoder = MapDecoder(decoder, 3, 2 * v_dim)

    def forward(self, x: Tensor, z: Tensor, noise: Tensor) -> Embedding:
        noise_l, noise_f = noise.chunk(2, dim=1)
        l_mean, l_logvar = self.landmark_encoder(x, z)
        v_l = reparameterise(l_mean, l_logvar, noise_l)
        f_mean, f_logvar = self.face_encoder(x, z)
        v_emb = torch.cat([reparameterise(f_mean, f_logvar, noise_f), v_l], 1)
        return Embedding(
            v_emb, l_mean, l_logvar, f_mean, f_logvar,
            self.landmark_decoder(v_l), self.mask_decoder(v_emb),
            torch.tanh(self.part_decoder(v_emb)),
        )  # fmt: skip


class FaceGenerator(Named):
    """U-Net modulated by [V_emb, z] -> image in [-1,1]."""

    def __init__(
        self,
        widths: Sequence[int],
        dilations: Sequence[int],
        full_width: int,
        res: int,
        v_dim: int,
        z_dim: int,
    ):
        super().__init__()

        def conv(channels: int, width: int, dilation: int = 1) -> None:
            self.child('Conv', nn.Conv2d(channels, width, 3, padding=dilation, dilation=dilation))

        code, top = 2 * v_dim + z_dim, widths[-1]
        self.side = res >> len(widths)
        self.child('Dense', nn.Linear(code, 256))
        self.child('Dense', nn.Linear(256, 256))
        self.child('Dense', nn.Linear(2 * v_dim, self.side**2 * 32))
        channels = [SEEN, *widths]
        for i, width in enumerate(widths):
            self.child('DownConv', DownConv(channels[i], width, 4))
            conv(width, width)
        conv(top + 32, top)
        for dilation in dilations:
            conv(top, top, dilation)
        self.child('FiLM', FiLM(256, top))
        skips = [*(width + CONDITION_CHANNELS for width in widths[-2::-1]), SEEN]
        for below, width, skip in zip(
            widths[::-1], [*widths[-2::-1], full_width], skips, strict=True
        ):
            self.child('UpConv', UpConv(below, width))
            conv(width + skip, width)
            self.child('FiLM', FiLM(256, width))
        conv(full_width, 3)

    def forward(self, full: Tensor, v_emb: Tensor, z: Tensor) -> Tensor:
        dense, convs, films = self.kin('Dense'), iter(self.kin('Conv')), iter(self.kin('FiLM'))
        w = leaky(dense[1](leaky(dense[0](torch.cat([v_emb, z], 1)))))

        def modulate(x: Tensor) -> Tensor:
            return leaky(next(films)(group_norm(x), w))

        x, skips = full, [full]
        hole, condition = full[:, 3:4], full[:, 4:]
        downs = self.kin('DownConv')
        for down in downs:
            x = leaky(next(convs)(leaky(down(x))))
            stride = hole.shape[-1] // x.shape[-1]
            visible = x * F.avg_pool2d(1 - hole, stride)
            skips.append(torch.cat([visible, F.max_pool2d(condition, stride)], 1))
        seed = dense[2](v_emb).reshape(-1, self.side, self.side, 32).permute(0, 3, 1, 2)
        x = leaky(next(convs)(torch.cat([x, seed], 1)))
        for _ in range(len(self.kin('Conv')) - 2 * len(downs) - 2):
            x = x + leaky(next(convs)(x))
        x = modulate(x)
        for up, skip in zip(self.kin('UpConv'), skips[-2::-1], strict=True):
            x = modulate(next(convs)(torch.cat([leaky(up(x)), skip], 1)))
        return torch.tanh(next(convs)(x))


class Critic(Named):
    """(B,channels,H,W) -> scores (B,)."""

    def __init__(self, widths: Sequence[int], channels: int, res: int):
        super().__init__()
        sizes = [channels, *widths]
        for i, width in enumerate(widths):
            self.child('DownConv', DownConv(sizes[i], width, 5))
        side = res >> len(widths)
        self.child('Dense', nn.Linear(side * side * widths[-1], 1))

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.kin('DownConv'):
            x = leaky(conv(x))
        return self.kin('Dense')[0](flatten(x))[:, 0]


def build(config: Any) -> dict[str, nn.Module]:
    """The six networks of a config, freshly initialised. Raises ValueError on other switches."""
    for name, value, known in (
        ('gan', config.gan, 'ns_r1'),
        ('schedule', config.schedule, 'joint'),
        ('extractor_input', config.extractor_input, 'full'),
        ('nets.hvae', config.nets.hvae, 'dual'),
        ('nets.z_inject', config.nets.z_inject, 'film'),
        ('nets.batch_spread', config.nets.batch_spread, False),
        ('prior', config.prior, 'visible'),
        ('optim.clip', config.optim.clip, 0.0),
        ('optim.decay_share', config.optim.decay_share, 0.0),
        ('dtype', config.dtype, 'float32'),
    ):
        if value != known:
            raise ValueError(f'config.{name}={value!r}: the PyTorch version knows {known!r} alone')
    net, res = config.nets, config.res
    nets: dict[str, nn.Module] = {
        'extractor': Extractor(net.extractor, 8, res, net.z_dim),
        'embedding': FaceEmbedding(net.embedding, net.decoder, res, net.v_dim, net.z_dim),
        'generator': FaceGenerator(
            net.generator, net.dilations, net.full_width, res, net.v_dim, net.z_dim
        ),
        'prior': Extractor(net.prior, SEEN, res, net.z_dim),
        'd_global': Critic(net.d_global, 3, res),
        'd_local': Critic(net.d_local, 4 + CONDITION_CHANNELS, res // 2),
    }
    layout: dict[str, Any] = {'memory_format': torch.channels_last}
    return {name: module.to(**layout) for name, module in nets.items()}


def transposed(array: np.ndarray) -> np.ndarray:
    """A Flax kernel, HWIO or (I,O), in PyTorch's order, OIHW or (O,I); a bias as it is."""
    return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T


def convert(tree: Mapping[str, Any], head: str = '') -> dict[str, Tensor]:
    """Flax parameters, or gradients of their shapes, by the names of PyTorch."""
    out: dict[str, Tensor] = {}
    for name, leaf in tree.items():
        if isinstance(leaf, Mapping):
            out |= convert(leaf, f'{head}{name}.')
        else:
            key = {'kernel': 'weight'}.get(name, name)
            out[head + key] = torch.tensor(transposed(np.asarray(leaf)).copy())
    return out


# Losses


def prepare(batch: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """A batch of the pipeline as float tensors, NCHW in channels_last memory."""
    out = {name: torch.from_numpy(np.asarray(x)) for name, x in batch.items()}
    out = {name: x.to(torch.get_default_device()) for name, x in out.items()}
    for name in ('image', 'hole', 'face_mask', 'landmark_map'):
        out[name] = out[name].permute(0, 3, 1, 2).float()
    image = out['image'] = out['image'] / 127.5 - 1.0
    out['masked'] = image * (1.0 - out['hole'])
    out['face_part'] = image * out['face_mask'] - (1.0 - out['face_mask'])
    known = out['has_landmarks'][:, None, None] > 0
    out['landmarks'] = torch.where(known, out['landmarks'], 0.0)  # unknown, they may be NaN
    return out


def masked_mean(error: Tensor, where: Tensor) -> Tensor:
    """Mean over the pixels where `where` is 1; (B,)."""
    total = (error * where).sum(dim=(1, 2, 3))
    return total / (where.sum(dim=(1, 2, 3)) * error.shape[1]).clamp(min=1.0)


def kl_gaussian(
    mean: Tensor, logvar: Tensor, prior_mean: Tensor | float = 0.0, prior_logvar: Any = 0.0
) -> Tensor:
    """KL to the prior, by default the standard normal; each dimension."""
    distance = (mean - prior_mean) ** 2 * torch.exp(-torch.as_tensor(prior_logvar))
    shape = logvar - prior_logvar
    return 0.5 * (torch.exp(shape) - 1.0 - shape + distance)


def free_bits(kl: Tensor, floor: float) -> Tensor:
    """Sum of max(batch mean, floor)."""
    return kl.mean(0).clamp(min=floor).sum()


def bce(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy of each element."""
    return F.softplus(logits) - target * logits


def critic_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Non-saturating logistic, from scores of real and fake images."""
    return F.softplus(fake) + F.softplus(-real)


def doubled(batch: Batch) -> dict[str, Tensor]:
    """Every other example twice, as neighbours."""
    return {name: x[::2].repeat_interleave(2, dim=0) for name, x in batch.items()}


def partner(x: Tensor) -> Tensor:
    """Each example in the place of its neighbour."""
    return x.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)


def bumps(points: Tensor, side: int, radius: float) -> tuple[Tensor, Tensor]:
    """Rows and columns (B,68,side) whose products are Gaussian bumps at the points (B,68,2)."""
    at = torch.arange(side, dtype=torch.float32)
    x, y = (torch.exp(-(((points[:, :, i, None] - at) / radius) ** 2)) for i in (0, 1))
    return y, x


def near_landmarks(landmarks: Tensor, side: int) -> Tensor:
    """How near each pixel is to the landmarks; (B,1,H,W) in [0,1]."""
    return torch.einsum('bph,bpw->bhw', *bumps(landmarks, side, side / 20)).clamp(max=1.0)[:, None]


def with_condition(batch: Batch, keep: Tensor) -> dict[str, Tensor]:
    """The batch with `condition`, the maps where keep is 1, and `seen`: masked, hole, condition."""
    side = batch['hole'].shape[2]
    y, x = bumps(batch['landmarks'], side, max(1.0, side / 128))
    maps = [torch.einsum('bph,bpw->bhw', y[:, r], x[:, r]) for r in CONDITION_REGIONS]
    soft = torch.stack(maps, 1).clamp(max=1.0)
    given = (batch['has_landmarks'] * keep)[:, None, None, None]
    condition = torch.cat([soft, torch.ones_like(soft[:, :1])], 1) * given
    seen = torch.cat([batch['masked'], batch['hole'], condition], 1)
    return {
        **batch,
        'condition': condition,
        'seen': seen.contiguous(memory_format=torch.channels_last),
    }


def composite(output: Tensor, batch: Batch) -> Tensor:
    """The output inside the hole, the image elsewhere."""
    return torch.where(batch['hole'] > 0, output, batch['image'])


def stack(image: Tensor, landmark_map: Tensor, face_mask: Tensor, face_part: Tensor) -> Tensor:
    """The Extractor's 8 channels."""
    return torch.cat([image, 2 * landmark_map - 1, 2 * face_mask - 1, face_part], 1)


def crop_at_hole(x: Tensor, hole: Tensor, size: int) -> Tensor:
    """The size x size window around each hole's centroid."""
    length = hole.shape[-1]
    area = hole.sum(dim=(1, 2, 3))
    ramp = torch.arange(length, dtype=torch.float32)
    sums = [(hole.sum(dim=(1, 3)) * ramp).sum(1), (hole.sum(dim=(1, 2)) * ramp).sum(1)]
    centre = torch.stack(sums, 1) / area.clamp(min=1.0)[:, None]
    centre = torch.where((area > 0)[:, None], centre, torch.tensor((length - 1) / 2))
    start = (centre.round() - size // 2).clamp(0, length - size).int().tolist()
    windows = [x[i, :, t : t + size, s : s + size] for i, (t, s) in enumerate(start)]
    return torch.stack(windows).contiguous(memory_format=torch.channels_last)


def local_view(image: Tensor, hole: Tensor, condition: Tensor) -> Tensor:
    """What D_local sees: image, hole and condition, cropped around the hole."""
    return crop_at_hole(torch.cat([image, hole, condition], 1), hole, image.shape[-1] // 2)


class Path(NamedTuple):
    """What one path draws."""

    z: Tensor
    embedding: Embedding
    image: Tensor


def _gradient(parameter: nn.Parameter) -> Tensor:
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


class Flops(TorchDispatchMode):
    """A context that sums the FLOPs of convolutions and matrix products, second order too."""

    total = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if count := flop_registry.get(func._overloadpacket):
            self.total += count(*args, **(kwargs or {}), out_val=out)
        return out


class TorchKeypoint:
    """Training of one stage: networks, Adam, averages; `step(batch)` returns the terms to log."""

    def __init__(self, config: Any, stage: str, subpixel: bool = False):
        self._config, self._stage = config, stage
        self.nets = build(config)
        for net in self.nets.values():
            for module in net.modules():
                if isinstance(module, UpConv):
                    module.subpixel = subpixel
        optim = config.optim
        self.moving = GENERATIVE if stage == 'stage1' else NETS
        self.optimizers = {
            name: torch.optim.Adam(
                net.parameters(),
                optim.lr * optim.lr_scale.get(name, 1.0),
                (optim.b1, optim.b2),
                fused=True,
            )
            for name, net in self.nets.items()
        }
        self.ema = {
            name: [p.detach().clone() for p in self.nets[name].parameters()] for name in GENERATIVE
        }
        self.count = 0

    def load(self, params: Mapping[str, Any]) -> None:
        """Take Flax parameters, net by net; the averages begin from them."""
        for name, tree in params.items():
            self.nets[name].load_state_dict(convert(tree))
        for name, average in self.ema.items():
            for a, p in zip(average, self.nets[name].parameters(), strict=True):
                a.copy_(p.detach())

    def draw(self, rows: int) -> tuple[Tensor, ...]:
        """What a step draws: who keeps the landmarks, (phases, rows); noise of each path's z, V.

        As many phases as paths: stage 1 reconstructs on R; stage 2 trains all on R and S, then R1.
        """
        net, count = self._config.nets, 1 if self._stage == 'stage1' else 2
        keep = (torch.rand(count, rows) >= self._config.condition_dropout).float()
        sizes = (net.z_dim, 2 * net.v_dim) * count
        return keep, *(torch.randn(rows, size) for size in sizes)

    def step(
        self, batch: Mapping[str, np.ndarray], noise: Sequence[Tensor] | None = None
    ) -> dict[str, float]:
        """One training step on a batch of the pipeline; the lazy penalty runs on its schedule."""
        b = prepare(batch)
        keep, *noise = noise or self.draw(len(b['image']))
        conditioned = with_condition(b, keep[0])
        if self._stage == 'stage1':
            logs = self._move(
                'reconstruct', self.moving, *self._cast(self._reconstruct, conditioned, *noise)
            )
        else:
            logs = self._move('all', self.moving, *self._cast(self._all_phase, conditioned, *noise))
            if self.count % self._config.r1_every == 0:
                logs |= self._move('r1', CRITICS, *self._cast(self._r1, with_condition(b, keep[1])))
        self._average(len(b['image']))
        self.count += 1
        return logs

    def _cast(self, loss: Any, *args: Any) -> Any:
        """A loss under autocast, where config.dtype asks for it."""
        kind = torch.get_default_device().type
        with torch.autocast(kind, torch.bfloat16, enabled=self._config.dtype == 'bfloat16'):
            return loss(*args)

    def _move(self, phase: str, names: Sequence[str], loss: Tensor, terms: Terms) -> dict:
        for name in names:
            self.optimizers[name].zero_grad()
        loss.backward()
        terms = terms | {f'loss/{phase}': loss}
        logs = {name: float(value.detach()) for name, value in terms.items()}
        for name in names:
            # A parameter the loss does not reach has gradient 0 in JAX, and its moments decay.
            grads = [_gradient(p) for p in self.nets[name].parameters()]
            logs[f'grad_norm/{phase}/{name}'] = float(nn.utils.get_total_norm(grads))
        if all(map(math.isfinite, logs.values())):
            for name in names:
                self.optimizers[name].step()
        return logs

    def _average(self, batch_size: int) -> None:
        slow = 0.5 ** (batch_size / self._config.optim.ema_halflife_images)
        decay = min(slow, (1.0 + self.count) / (10.0 + self.count))
        with torch.no_grad():
            for name, average in self.ema.items():
                torch._foreach_lerp_(average, list(self.nets[name].parameters()), 1.0 - decay)

    def _frozen(self, name: str, x: Tensor) -> Any:
        net = self.nets[name]
        params = {key: p.detach() for key, p in net.named_parameters()}
        return torch.func.functional_call(net, params, (x,))

    def _complete(self, seen: Tensor, z: Tensor, noise: Tensor) -> Path:
        embedding = self.nets['embedding'](seen, z, noise)
        return Path(z, embedding, self.nets['generator'](seen, embedding.v_emb, z))

    def _posterior(self, b: Batch) -> Style:
        maps = (b['landmark_map'], b['face_mask'], b['face_part'])
        return self.nets['extractor'](stack(b['image'], *maps))

    def _reconstruct(self, b: Batch, unit: Tensor, noise: Tensor) -> tuple[Tensor, Terms]:
        posterior, prior = self._posterior(b), self.nets['prior'](b['seen'])
        z = reparameterise(*posterior, unit)
        path = self._complete(b['seen'], z, noise)
        warmup = self._config.loss.kl_warmup * self._config.steps.stage1
        ramp = min(max((self.count + 1) / warmup, 0.0), 1.0) if warmup > 0 else 1.0
        return self._reconstruct_terms(posterior, prior, path, b, ramp)

    def _all_phase(
        self, b: Batch, unit_r: Tensor, noise_r: Tensor, unit_s: Tensor, noise_s: Tensor
    ) -> tuple[Tensor, Terms]:
        posterior, prior = self._posterior(b), self.nets['prior'](b['seen'])
        t = doubled(b)
        mean, logvar = (x.detach()[::2].repeat_interleave(2, dim=0) for x in prior)
        z = torch.cat([reparameterise(*posterior, unit_r), reparameterise(mean, logvar, unit_s)])
        seen = torch.cat([b['seen'], t['seen']])
        both = self._complete(seen, z, torch.cat([noise_r, noise_s]))
        halves = zip(*(x.chunk(2) for x in both.embedding), strict=True)
        r, s = (
            Path(z, Embedding(*embedding), image)
            for z, embedding, image in zip(z.chunk(2), halves, both.image.chunk(2), strict=True)
        )
        total_r, terms_r = self._reconstruct_terms(posterior, prior, r, b, 1.0)
        total_s, terms_s = self._sample_terms(s, t)
        critic, critic_terms = self._critic_terms(composite(s.image.detach(), t), b, t)
        return total_r + total_s + critic, terms_r | terms_s | critic_terms

    def _map_terms(self, e: Embedding, b: Batch, where: Tensor) -> Terms:
        known = b['has_landmarks']
        total = known.sum().clamp(min=1.0)
        points, target = bce(e.landmark_logits, b['landmark_map']), b['landmark_map']
        balanced = 0.5 * (
            masked_mean(points, target * where) + masked_mean(points, (1.0 - target) * where)
        )
        rows = {
            'part': masked_mean((e.part - b['face_part']).abs(), where),
            'mask': masked_mean(bce(e.mask_logits, b['face_mask']), where),
            'landmark': balanced,
        }
        return {name: (row * known).sum() / total for name, row in rows.items()}

    def _features_term(self, error: Tensor, b: Batch) -> Tensor:
        near, known = near_landmarks(b['landmarks'], error.shape[-1]), b['has_landmarks']
        each = masked_mean(error, near * b['hole'])
        return (each * known).sum() / known.sum().clamp(min=1.0)

    def _reconstruct_terms(
        self, posterior: Style, prior: Style, path: Path, b: Batch, ramp: float
    ) -> tuple[Tensor, Terms]:
        weights, hole, e = self._config.loss, b['hole'], path.embedding
        error = (path.image - b['image']).abs()
        maps = self._map_terms(e, b, torch.ones_like(hole))
        terms = {
            'l1_hole': masked_mean(error, hole).mean(),
            'l1_visible': masked_mean(error, 1 - hole).mean(),
            'l1_features': self._features_term(error, b),
            **maps,
        }
        kl_z = kl_gaussian(*posterior, *prior)
        v_mean = torch.cat([e.l_mean, e.f_mean], 1)
        kl_v = kl_gaussian(v_mean, torch.cat([e.l_logvar, e.f_logvar], 1))
        total = sum((weights[name] * value for name, value in terms.items()), torch.zeros(()))
        total = total + ramp * weights.kl_z * free_bits(kl_z, weights.free_bits)
        total = total + ramp * weights.kl_v * free_bits(kl_v, weights.free_bits)
        terms |= {'kl_z': kl_z.sum(-1).mean(), 'kl_v': kl_v.sum(-1).mean()}
        return total, {f'r/{name}': value for name, value in terms.items()}

    def _view(self, name: str, image: Tensor, b: Batch) -> Tensor:
        if name == 'd_global':
            return image
        return local_view(image, b['hole'], b['condition'])

    def _scores(self, image: Tensor, b: Batch, frozen: bool) -> Terms:
        def call(name: str) -> Any:
            return partial(self._frozen, name) if frozen else self.nets[name]

        return {name: call(name)(self._view(name, image, b)) for name in CRITICS}

    def _latent_terms(self, path: Path, b: Batch) -> Terms:
        e = path.embedding
        if self._config.latent_through == 'image':
            e = Embedding(*(x.detach() for x in e))
        fake = stack(
            composite(path.image, b), e.landmark_logits.sigmoid(), e.mask_logits.sigmoid(), e.part
        )
        mean, _ = self._frozen('extractor', fake)
        weight = (b['hole'].mean(dim=(1, 2, 3)) / 0.25).clamp(max=1.0)
        total = weight.sum().clamp(min=1e-6)
        own = ((mean - path.z).abs().mean(-1) * weight).sum() / total
        other = ((mean - partner(path.z)).abs().mean(-1) * weight).sum() / total
        return {'latent': own, 'latent_shuffled': other}

    def _diversity_terms(self, s: Path, hole: Tensor) -> Terms:
        distance = masked_mean((s.image[::2] - s.image[1::2]).abs(), hole[::2])
        per_z = distance / ((s.z[::2] - s.z[1::2]).abs().mean(-1) + 1e-6)
        short = F.relu(self._config.loss.diversity_floor - per_z)
        is_open = hole[::2].sum(dim=(1, 2, 3)) > 0
        return {'diversity': (short * is_open).mean(), 'pair_distance': distance.mean()}

    def _sample_terms(self, s: Path, b: Batch) -> tuple[Tensor, Terms]:
        weights, hole = self._config.loss, b['hole']
        error = (s.image - b['image']).abs()
        terms = {
            'l1_visible': masked_mean(error, 1 - hole).mean(),
            'anchor': masked_mean(F.relu(error - weights.anchor_zone), hole).mean(),
            **self._map_terms(s.embedding, b, 1 - hole),
        }
        scores = self._scores(composite(s.image, b), b, frozen=True)
        terms |= {f'adv_{name[2:]}': F.softplus(-score).mean() for name, score in scores.items()}
        watched = self._latent_terms(s, b) | self._diversity_terms(s, hole)
        terms |= {name: watched.pop(name) for name in ('latent', 'diversity')}
        total = sum((weights[name] * value for name, value in terms.items()), torch.zeros(()))
        return total, {f's/{name}': value for name, value in (terms | watched).items()}

    def _critic_terms(self, fake: Tensor, b: Batch, t: Batch) -> tuple[Tensor, Terms]:
        on_real = self._scores(b['image'], b, frozen=False)
        on_fake = self._scores(fake, t, frozen=False)
        terms = {name: critic_loss(on_real[name], on_fake[name]).mean() for name in CRITICS}
        margins = {f'{name}_margin': (on_real[name] - on_fake[name]).mean() for name in CRITICS}
        total = torch.stack(list(terms.values())).sum()
        if (weight := self._config.loss.mismatch) > 0:
            condition = partner(b['condition'])
            both = (b['condition'] * condition)[:, -1, 0, 0]
            on_other = self.nets['d_local'](local_view(b['image'], b['hole'], condition))
            each = critic_loss(on_real['d_local'], on_other)
            mismatch = (each * both).sum() / both.sum().clamp(min=1.0)
            terms['d_local_mismatch'] = mismatch
            total = total + weight * mismatch
        return total, {f'critic/{name}': value for name, value in (terms | margins).items()}

    def _r1(self, b: Batch) -> tuple[Tensor, Terms]:
        terms = {}
        for name in CRITICS:
            real = b['image'].detach().requires_grad_()
            score = self.nets[name](self._view(name, real, b)).sum()
            (grad,) = torch.autograd.grad(score, real, create_graph=True)
            terms[f'r1/{name}'] = 0.5 * (grad**2).sum(dim=(1, 2, 3)).mean()
        weight = self._config.r1_every * self._config.loss.r1
        return weight * torch.stack(list(terms.values())).sum(), terms
