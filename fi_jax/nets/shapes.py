"""Distributions over whole face shapes, given what a predictor saw of the face.

A shape is its residual u (B,136): the 68 points less the predicted ones, each in units of its
predicted scale, x and y in turn. A head's call is the log-density (B,) of u; with sample=True it
turns standard normal noise (B,N,noise_dim) into draws of u (B,N,136).
"""

from __future__ import annotations

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

DIM = 136
_LOG_2PI = math.log(2 * math.pi)


class LowRankMixture(nn.Module):
    """A mixture of Gaussians with one covariance W W^T + diag(d^2), at a size for each component.

    W = basis x A(context): the basis, shared by all faces, is a learnt low-rank model of how points
    move together; A says how they move here. Densities cost rank^3 (Woodbury identity).
    """

    components: int = 1
    basis: int = 48
    rank: int = 24
    hidden: int = 256

    @staticmethod
    def noise_dim(rank: int) -> int:
        """Normals for a draw: the coordinates of W, of d, and one that chooses the component."""
        return rank + DIM + 1

    @nn.compact
    def __call__(self, context: jax.Array, x: jax.Array, sample: bool = False) -> jax.Array:
        m, k, r = self.components, self.basis, self.rank
        basis = self.param('basis', nn.initializers.normal(k**-0.5), (DIM, k))
        y = nn.relu(nn.Dense(self.hidden, name='context')(context))
        small = nn.initializers.normal(1e-2)
        a = nn.Dense(k * r, kernel_init=small, bias_init=nn.initializers.normal(0.2), name='spread')
        w = jnp.einsum('dk,bkr->bdr', basis, a(y).reshape(-1, k, r))
        log_d = jnp.clip(nn.Dense(DIM, kernel_init=small, name='log_d')(y), -3.0, 3.0)
        if m == 1:
            # The predictor's points are medians: the mean may lie elsewhere.
            log_weight = log_size = jnp.zeros((len(y), 1))
        else:
            log_weight = jax.nn.log_softmax(nn.Dense(m, kernel_init=small, name='weight')(y))
            sizes = nn.initializers.constant(np.linspace(-0.7, 1.0, m))
            log_size = nn.Dense(m, kernel_init=small, bias_init=sizes, name='size')(y)
        shift = nn.Dense(m * k, kernel_init=small, name='shift')(y).reshape(-1, m, k)
        mean = jnp.einsum('dk,bmk->bmd', basis, shift)
        if sample:
            return _draw(x, r, mean, w, jnp.exp(log_d), log_weight, jnp.exp(log_size))
        return _log_density(x, mean, w, log_d, log_weight, log_size)


def _log_density(
    u: jax.Array,
    mean: jax.Array,
    w: jax.Array,
    log_d: jax.Array,
    log_weight: jax.Array,
    log_size: jax.Array,
) -> jax.Array:
    scaled = w * jnp.exp(-log_d)[:, :, None]
    inner = jnp.eye(w.shape[-1])[None] + jnp.einsum('bdr,bds->brs', scaled, scaled)
    root = jnp.linalg.cholesky(inner)
    residual = (u[:, None] - mean) * jnp.exp(-log_d)[:, None]
    along = jnp.einsum('bdr,bmd->brm', scaled, residual)
    along = jax.scipy.linalg.solve_triangular(root, along, lower=True)
    square = (residual**2).sum(-1) - (along**2).sum(1)
    diagonal = jnp.diagonal(root, axis1=1, axis2=2)
    half_det = log_d.sum(-1) + jnp.log(diagonal).sum(-1)
    each = -0.5 * (square * jnp.exp(-2 * log_size) + DIM * _LOG_2PI)
    each -= half_det[:, None] + DIM * log_size
    return jax.nn.logsumexp(log_weight + each, axis=-1)


def _draw(
    noise: jax.Array,
    rank: int,
    mean: jax.Array,
    w: jax.Array,
    d: jax.Array,
    log_weight: jax.Array,
    size: jax.Array,
) -> jax.Array:
    along, alone, which = jnp.split(noise[..., : rank + DIM + 1], [rank, rank + DIM], axis=-1)
    # Inverse transform: a normal's own cumulative probability chooses the component.
    chosen = jax.scipy.stats.norm.cdf(which) > jnp.cumsum(jnp.exp(log_weight), axis=-1)[:, None]
    index = jnp.minimum(chosen.sum(-1), size.shape[-1] - 1)
    one = jax.nn.one_hot(index, size.shape[-1])
    spread = jnp.einsum('bdr,bnr->bnd', w, along) + d[:, None] * alone
    spread *= jnp.einsum('bnm,bm->bn', one, size)[..., None]
    return jnp.einsum('bnm,bmd->bnd', one, mean) + spread


class Flow(nn.Module):
    """A conditional flow of affine couplings (Dinh et al., 2017), half of u given the other."""

    layers: int = 8
    hidden: int = 128

    @nn.compact
    def __call__(self, context: jax.Array, x: jax.Array, sample: bool = False) -> jax.Array:
        half = DIM // 2
        y = nn.relu(nn.Dense(256, name='context')(context))
        log_size = nn.Dense(DIM, kernel_init=nn.initializers.zeros, name='log_size')(y)
        log_size = jnp.clip(log_size, -5.0, 5.0)
        orders = [np.random.default_rng(i).permutation(DIM) for i in range(self.layers)]
        first = [nn.Dense(self.hidden, name=f'first_{i}') for i in range(self.layers)]
        couplings = [nn.Dense(self.hidden, name=f'led_{i}') for i in range(self.layers)]
        last = [
            nn.Dense(2 * half, kernel_init=nn.initializers.normal(1e-3), name=f'last_{i}')
            for i in range(self.layers)
        ]

        def coupling(i: int, kept: jax.Array) -> tuple[jax.Array, jax.Array]:
            by = couplings[i](y)
            by = by[:, None] if kept.ndim == 3 else by
            out = last[i](nn.relu(first[i](kept) + by))
            log_scale, shift = jnp.split(out, 2, axis=-1)
            return 2.0 * jnp.tanh(log_scale / 2.0), shift

        if sample:
            u = x[..., :DIM]
            for i in reversed(range(self.layers)):
                kept, moved = jnp.split(u, 2, axis=-1)
                log_scale, shift = coupling(i, kept)
                u = jnp.concatenate([kept, moved * jnp.exp(log_scale) + shift], axis=-1)
                u = u[..., np.argsort(orders[i])]
            return u * jnp.exp(log_size)[:, None]
        u, log_det = x * jnp.exp(-log_size), -log_size.sum(-1)
        for i in range(self.layers):
            kept, moved = jnp.split(u[..., orders[i]], 2, axis=-1)
            log_scale, shift = coupling(i, kept)
            u = jnp.concatenate([kept, (moved - shift) * jnp.exp(-log_scale)], axis=-1)
            log_det -= log_scale.sum(-1)
        return log_det - 0.5 * ((u**2).sum(-1) + DIM * _LOG_2PI)
