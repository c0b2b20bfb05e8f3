"""Losses against numpy, numerical integration, and critics whose gradient is known."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fi_jax import losses
from fi_jax.optim import ema_decay, rate_scale

SHAPE = (3, 6, 5, 2)


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def coins(seed, *shape):
    return np.random.default_rng(seed).integers(0, 2, shape).astype(np.float32)


def softplus(x):
    return np.logaddexp(0, x)


# ------------------------------------------------------------------------------ means


def test_masked_mean_is_the_mean_where_the_mask_is_one():
    error, where = normal(0, *SHAPE), coins(1, *SHAPE[:3], 1)
    expected = [error[i][where[i, :, :, 0] > 0].mean() for i in range(3)]
    np.testing.assert_allclose(losses.masked_mean(error, where), expected, rtol=1e-5)


def test_masked_mean_of_nothing_is_zero_with_a_finite_gradient():
    error, where = jnp.asarray(normal(0, *SHAPE)), jnp.zeros((*SHAPE[:3], 1))
    value, grad = jax.value_and_grad(lambda e: losses.masked_mean(e, where).sum())(error)
    assert value == 0
    np.testing.assert_array_equal(grad, 0)


def test_image_mean_keeps_examples_apart():
    error = normal(0, *SHAPE)
    np.testing.assert_allclose(losses.image_mean(error), error.reshape(3, -1).mean(1), rtol=1e-5)


# ------------------------------------------------------------------------------ kl


@pytest.mark.parametrize(('at', 'sigma'), [(0.0, 1.0), (0.0, 0.3), (-0.8, 2.0)])
def test_kl_is_the_integral(at, sigma):
    mean, logvar = np.array([[0.0, 0.7, -1.5]]), np.array([[0.0, -1.0, 0.8]])
    x = np.linspace(-30, 30, 400_001)[:, None]

    def log_density(m, s):
        return -0.5 * ((x - m) / s) ** 2 - np.log(s) - 0.5 * np.log(2 * np.pi)

    log_q, log_p = log_density(mean, np.exp(logvar / 2)), log_density(at, sigma)
    expected = np.trapezoid(np.exp(log_q) * (log_q - log_p), x, axis=0)
    prior = jnp.float32(at), jnp.float32(2 * np.log(sigma))
    ours = losses.kl_gaussian(jnp.float32(mean), jnp.float32(logvar), *prior)
    np.testing.assert_allclose(ours[0], expected, rtol=1e-4, atol=1e-6)


def test_kl_is_zero_at_the_prior_of_each_example():
    mean, logvar = jnp.array([[0.5], [-2.0]]), jnp.array([[-1.4], [1.4]])
    rows = (jnp.broadcast_to(x, (2, 4)) for x in (mean, logvar))
    np.testing.assert_allclose(losses.kl_gaussian(*rows, mean, logvar), 0, atol=1e-6)
    away = losses.kl_gaussian(mean + 1.0, logvar, mean, logvar)
    np.testing.assert_allclose(away, 0.5 * np.exp(-np.asarray(logvar)), rtol=1e-5)


def test_free_bits_floors_the_batch_mean_of_each_dimension():
    kl = jnp.array([[0.0, 1.0, 0.05], [0.1, 3.0, 0.25]])  # means 0.05, 2.0, 0.15
    assert float(losses.free_bits(kl, 0.1)) == pytest.approx(0.1 + 2.0 + 0.15)
    assert float(losses.free_bits(kl, 0.0)) == pytest.approx(kl.mean(0).sum())
    push = jax.grad(lambda kl: losses.free_bits(kl, 0.1))(kl)
    np.testing.assert_allclose(push, [[0, 0.5, 0.5]] * 2)


# ------------------------------------------------------------------------------ cross-entropy


def test_bce_is_the_cross_entropy_and_stays_finite():
    logits, target = normal(0, 20) * 3, coins(1, 20)
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    expected = -(target * np.log(p) + (1 - target) * np.log(1 - p))
    np.testing.assert_allclose(losses.bce(jnp.asarray(logits), target), expected, rtol=1e-4)
    far = losses.bce(jnp.array([1e4, -1e4, 1e4, -1e4]), jnp.array([1.0, 0, 0, 1]))
    np.testing.assert_allclose(far, [0, 0, 1e4, 1e4])


def test_balanced_bce_weighs_ones_and_zeros_alike_inside_where():
    shape = (2, 8, 8, 1)
    logits, where = normal(0, *shape), coins(1, *shape)
    target = np.zeros(shape, np.float32)
    target[:, 1:3, 1:3] = 1
    error = softplus(logits) - target * logits
    expected = [
        (
            error[i][(target[i] * where[i]) > 0].mean()
            + error[i][((1 - target[i]) * where[i]) > 0].mean()
        )
        / 2
        for i in range(2)
    ]
    ours = losses.balanced_bce(jnp.asarray(logits), target, where)
    np.testing.assert_allclose(ours, expected, rtol=1e-5)
    # Thus 'all zero' costs half of being wrong on every point, however few these are.
    always_no = losses.balanced_bce(jnp.full(shape, -20.0), target, np.ones(shape, np.float32))
    np.testing.assert_allclose(always_no, 10.0, rtol=1e-4)


# ------------------------------------------------------------------------------ adversarial


def test_critic_and_adversarial_losses_are_their_formulas():
    real, fake = normal(0, 6) * 2, normal(1, 6) * 2
    formulas = {
        'ns': (softplus(fake) + softplus(-real), softplus(-fake)),
        'hinge': (np.maximum(0, 1 + fake) + np.maximum(0, 1 - real), -fake),
        'wgan': (fake - real, -fake),
    }
    for kind, (critic, generator) in formulas.items():
        np.testing.assert_allclose(
            losses.critic_loss(kind, real, fake), critic, rtol=1e-5, atol=1e-6
        )
        np.testing.assert_allclose(losses.adversarial_loss(kind, fake), generator, rtol=1e-5)


@pytest.mark.parametrize('kind', ['ns', 'hinge', 'wgan'])
def test_a_critic_raises_real_and_lowers_fake_and_the_generator_raises_fake(kind):
    zero = jnp.zeros(())
    up = jax.grad(lambda real: losses.critic_loss(kind, real, zero))(zero)
    down = jax.grad(lambda fake: losses.critic_loss(kind, zero, fake))(zero)
    answer = jax.grad(lambda fake: losses.adversarial_loss(kind, fake))(zero)
    assert up < 0 < down
    assert answer < 0


def test_hinge_leaves_scores_beyond_the_margin_alone():
    grads = jax.grad(lambda s: losses.critic_loss('hinge', s[0], s[1]))(jnp.array([1.5, -1.5]))
    np.testing.assert_array_equal(grads, 0)


def linear_critic(scale):
    weight = normal(5, *SHAPE[1:])
    weight = jnp.asarray(weight / np.sqrt((weight**2).sum()) * scale)
    return lambda x: (x * weight[None]).sum(axis=(1, 2, 3)) + 3.0


@pytest.mark.parametrize('scale', [0.5, 1.0, 3.0])
def test_penalties_of_a_linear_critic(scale):
    critic, real, fake = linear_critic(scale), normal(0, *SHAPE), normal(1, *SHAPE)
    np.testing.assert_allclose(losses.r1(critic, real), [0.5 * scale**2] * 3, rtol=1e-5)
    mix = jnp.array([0.0, 0.3, 1.0])
    penalty = losses.gradient_penalty(critic, real, fake, mix)
    np.testing.assert_allclose(penalty, [(scale - 1) ** 2] * 3, rtol=1e-4, atol=1e-6)


def test_gradient_penalty_looks_between_real_and_fake_for_each_example():
    # The critic |x|^2 / 2 has the gradient x itself, so the norm tells where it was taken.
    def critic(x):
        return 0.5 * (x**2).sum(axis=(1, 2, 3))

    real, fake, mix = normal(0, *SHAPE), normal(1, *SHAPE), np.array([0.0, 0.3, 1.0], np.float32)
    t = mix[:, None, None, None]
    norm = np.sqrt(((t * real + (1 - t) * fake) ** 2).sum(axis=(1, 2, 3)))
    ours = losses.gradient_penalty(critic, real, fake, jnp.asarray(mix))
    np.testing.assert_allclose(ours, (norm - 1) ** 2, rtol=1e-4)


def test_gradient_penalty_of_a_flat_critic_has_a_finite_gradient():
    def penalty(scale):
        real, fake = jnp.asarray(normal(0, *SHAPE)), jnp.asarray(normal(1, *SHAPE))
        critic = lambda x: scale * x.sum(axis=(1, 2, 3))  # noqa: E731
        return losses.gradient_penalty(critic, real, fake, jnp.full((3,), 0.5)).sum()

    value, slope = jax.value_and_grad(penalty)(0.0)
    assert value == pytest.approx(3.0, rel=1e-4)
    assert np.isfinite(slope)


# ------------------------------------------------------------------------------ schedules


def test_rate_falls_to_zero_over_the_last_share_of_the_steps():
    optim = SimpleNamespace(decay_share=0.2, decay='linear', warmup_steps=0)
    rate = [float(rate_scale(jnp.int32(step), 100, optim)) for step in (0, 80, 90, 99, 100, 120)]
    np.testing.assert_allclose(rate, [1, 1, 0.5, 0.05, 0, 0], atol=1e-6)
    optim.decay_share = 0.0
    assert float(rate_scale(jnp.int32(100), 100, optim)) == 1.0
    optim.warmup_steps = 4
    rate = [float(rate_scale(jnp.int32(step), 100, optim)) for step in (0, 1, 3, 4, 100)]
    np.testing.assert_allclose(rate, [0.25, 0.5, 1, 1, 1], atol=1e-6)
    optim.decay_share, optim.decay = 1.0, 'cosine'
    np.testing.assert_allclose(float(rate_scale(jnp.int32(50), 100, optim)), 0.5, atol=1e-6)
    optim.decay = 'sudden'
    with pytest.raises(ValueError, match=r"config\.optim\.decay='sudden'"):
        rate_scale(jnp.int32(0), 100, optim)


def test_ema_halves_in_its_half_life_and_starts_quick():
    decay = float(ema_decay(jnp.int32(10**6), 10, 1000.0))
    assert decay**100 == pytest.approx(0.5, rel=1e-4)
    assert float(ema_decay(jnp.int32(0), 10, 1000.0)) == pytest.approx(0.1)


def test_ema_of_no_half_life_is_the_parameters():
    """As without averages: configs set 0 for it."""
    assert float(ema_decay(jnp.int32(10), 10, 0.0)) == 0.0


@pytest.mark.parametrize(
    'loss',
    [lambda k: losses.critic_loss(k, S, S), lambda k: losses.adversarial_loss(k, S)],
)
def test_an_unknown_kind_of_adversarial_loss_is_named(loss):
    with pytest.raises(ValueError, match=r"adversarial loss 'ls': choose one of \['ns', 'hinge'"):
        loss('ls')
    for kind in losses.GAN_KINDS:
        assert loss(kind).shape == S.shape


def test_the_least_squares_game_is_at_rest_where_scores_are_their_labels():
    one, zero = jnp.ones(3), jnp.zeros(3)
    assert float(losses.critic_loss('lsgan', one, zero).max()) == 0
    assert float(losses.adversarial_loss('lsgan', one).max()) == 0
    assert float(losses.critic_loss('lsgan', zero, one).min()) == 2


def test_total_variation_counts_steps_between_chosen_neighbours():
    image = jnp.zeros((1, 4, 4, 2)).at[:, :, 2:].set(1.0)  # one step, along the rows
    where = jnp.ones((1, 4, 4, 1))
    assert float(losses.total_variation(image, where)[0]) == pytest.approx(1 / 3)
    assert float(losses.total_variation(image.swapaxes(1, 2), where)[0]) == pytest.approx(1 / 3)
    left = where.at[:, :, 2:].set(0.0)
    assert float(losses.total_variation(image, left)[0]) == 0
    assert float(losses.total_variation(image, 0 * where)[0]) == 0


S = jnp.zeros(4)
