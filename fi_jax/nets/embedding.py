"""Face Embedding Network: visible pixels, hole and z -> V_l, V_f, and the face maps they decode to.

Two Gaussian embeddings in a hierarchy, after DE-GAN (Zhang et al., 2022) with z added: V_l carries
the landmarks, V_emb = [V_f, V_l] the face mask and the face part.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from fi_jax.nets.layers import (
    DownConv,
    Dtype,
    FiLM,
    GaussianHead,
    UpConv,
    group_norm,
    leaky,
    reparameterise,
)


class Embedding(NamedTuple):
    """What the network says of a face: its joint code, the Gaussians behind it, and three maps."""

    v_emb: jax.Array  # (B, 2 * v_dim), [V_f, V_l]
    l_mean: jax.Array  # (B, v_dim)
    l_logvar: jax.Array
    f_mean: jax.Array
    f_logvar: jax.Array
    landmark_logits: jax.Array  # (B,H,W,1)
    mask_logits: jax.Array  # (B,H,W,1)
    part: jax.Array  # (B,H,W,3) in [-1,1]


class Encoder(nn.Module):
    """Strided convolutions that z modulates at each level; (B,H,W,C) -> mean, logvar (B,v_dim).

    z_inject: 'film' scales and shifts the normalised channels; 'concat' joins a map of z to the
    output of each level instead. `extra` (B,D), if given, is joined to the last map.
    """

    widths: Sequence[int]
    v_dim: int
    z_inject: str = 'film'
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, z: jax.Array, extra: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        for width in self.widths:
            x = group_norm(DownConv(width, 4, self.dtype)(x), self.dtype)
            if self.z_inject == 'film':
                x = FiLM(self.dtype)(x, z)
            else:
                h, w = x.shape[1:3]
                z_map = nn.Dense(h * w, dtype=self.dtype)(z).reshape(-1, h, w, 1)
                x = jnp.concatenate([x, z_map], axis=-1)
            x = leaky(x)
        x = x.reshape(x.shape[0], -1)
        if extra is not None:
            x = jnp.concatenate([x, leaky(nn.Dense(extra.shape[-1], dtype=self.dtype)(extra))], -1)
        return GaussianHead(self.v_dim, dtype=self.dtype)(x)


class MapDecoder(nn.Module):
    """Code (B,D) -> 8x8 -> a map (B,H,W,channels); one upsampling for each entry of widths + 1."""

    widths: Sequence[int]
    channels: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, v: jax.Array) -> jax.Array:
        x = nn.Dense(8 * 8 * 64, dtype=self.dtype)(v).reshape(-1, 8, 8, 64)
        for width in self.widths:
            x = nn.relu(group_norm(UpConv(width, self.dtype)(x), self.dtype))
        # The maps are smooth: the last level is one convolution straight to the output.
        return UpConv(self.channels, self.dtype)(x).astype(jnp.float32)


class FaceEmbedding(nn.Module):
    """The whole network -> Embedding.

    masked (B,H,W,3), hole (B,H,W,1), condition (B,H,W,G) of `features.condition_maps`, z (B,Z),
    noise (B,2*v_dim). hvae: 'dual' keeps the two encoders apart; 'chain' lets V_f depend on V_l.
    """

    widths: Sequence[int]
    decoder_widths: Sequence[int]
    v_dim: int
    hvae: str = 'dual'
    z_inject: str = 'film'
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        masked: jax.Array,
        hole: jax.Array,
        condition: jax.Array,
        z: jax.Array,
        noise: jax.Array,
    ) -> Embedding:
        x = jnp.concatenate([masked, hole, condition], axis=-1)
        noise_l, noise_f = jnp.split(noise, 2, axis=-1)

        def encoder(name: str) -> Encoder:
            return Encoder(self.widths, self.v_dim, self.z_inject, self.dtype, name=name)

        def decoder(channels: int, name: str) -> MapDecoder:
            return MapDecoder(self.decoder_widths, channels, self.dtype, name=name)

        l_mean, l_logvar = encoder('landmark_encoder')(x, z)
        v_l = reparameterise(l_mean, l_logvar, noise_l)
        extra = v_l if self.hvae == 'chain' else None
        f_mean, f_logvar = encoder('face_encoder')(x, z, extra)
        v_emb = jnp.concatenate([reparameterise(f_mean, f_logvar, noise_f), v_l], axis=-1)
        return Embedding(
            v_emb=v_emb,
            l_mean=l_mean,
            l_logvar=l_logvar,
            f_mean=f_mean,
            f_logvar=f_logvar,
            landmark_logits=decoder(1, 'landmark_decoder')(v_l),
            mask_logits=decoder(1, 'mask_decoder')(v_emb),
            part=jnp.tanh(decoder(3, 'part_decoder')(v_emb)),
        )
