"""Networks: exactness of the fast layers, shapes, what depends on what, what a hole hides."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fi_jax.methods.keypoint_settings import SIZES
from fi_jax.nets import critic, layers
from fi_jax.nets.critic import Critic
from fi_jax.nets.embedding import FaceEmbedding
from fi_jax.nets.extractor import Extractor
from fi_jax.nets.generator import FaceGenerator, shrink, visible_share

NHWC = ('NHWC', 'HWIO', 'NHWC')
RES, Z, V = 16, 6, 4  # of the small networks below


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def fill(module, *inputs):
    """Parameters drawn by numpy: `init` would compile each initialiser."""
    rng = np.random.default_rng(7)
    structs = jax.eval_shape(module.init, jax.random.key(0), *inputs)['params']
    return jax.tree.map(
        lambda s: jnp.asarray(rng.normal(size=s.shape) / np.sqrt(np.prod(s.shape[:-1])), s.dtype),
        structs,
    )


def close(ours, theirs):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(b).max()),
        ours,
        theirs,
    )


def tree_of(module, *inputs):
    return jax.tree.map(
        jnp.shape, jax.eval_shape(module.init, jax.random.key(0), *inputs)['params']
    )


def square_hole(rows, res, start, stop):
    hole = np.zeros((rows, res, res, 1), np.float32)
    hole[:, start:stop, start:stop] = 1
    return jnp.asarray(hole)


# ------------------------------------------------------------------------------ convolutions


def repeat_then_conv(x, kernel):
    x = x.repeat(2, axis=1).repeat(2, axis=2)
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), 'SAME', dimension_numbers=NHWC)


# With a quarter of the channels or fewer at the output, the product comes before the windows.
@pytest.mark.parametrize('features', [1, 2, 5])
@pytest.mark.parametrize(('height', 'width'), [(1, 1), (4, 4), (3, 5)])
def test_upsample_conv_is_repeat_then_conv(height, width, features):
    x, kernel = normal(0, 2, height, width, 8), normal(1, 3, 3, 8, features)
    weight = normal(2, 2, 2 * height, 2 * width, features)

    def outcome(fn):
        # Weighted, so that each output pixel has a gradient of its own.
        def loss(x, kernel):
            y = fn(x, kernel)
            return (y * weight).sum() + (y**2).sum()

        return fn(x, kernel), *jax.jit(jax.grad(loss, argnums=(0, 1)))(x, kernel)

    for ours, theirs in zip(outcome(layers.upsample_conv), outcome(repeat_then_conv), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5 * np.abs(theirs).max())


@pytest.mark.parametrize('kernel_size', [4, 5])
@pytest.mark.parametrize('shape', [(2, 2), (8, 8), (12, 10)])  # 8 is the last as a product
def test_down_conv_is_a_same_padded_convolution_of_stride_2(shape, kernel_size):
    x, module = normal(0, 2, *shape, 3), layers.DownConv(5, kernel_size)
    params = {'kernel': normal(1, kernel_size, kernel_size, 3, 5), 'bias': normal(2, 5)}
    weight = normal(3, 2, shape[0] // 2, shape[1] // 2, 5)

    def ours(x, params):
        return module.apply({'params': params}, x)

    def theirs(x, params):
        y = jax.lax.conv_general_dilated(
            x, params['kernel'], (2, 2), 'SAME', dimension_numbers=NHWC
        )
        return y + params['bias'][None, None, None, :]

    def outcome(fn):
        def first(x, p):
            return jax.grad(lambda x, p: (jnp.sin(fn(x, p)) * weight).sum(), argnums=(0, 1))(x, p)

        def second(x, p):  # as R1 does: of the squared gradient, by the parameters
            return jax.grad(lambda p: (first(x, p)[0] ** 2).sum())(p)

        return jax.jit(lambda x, p: (fn(x, p), first(x, p), second(x, p)))(x, params)

    close(outcome(ours), outcome(theirs))


def test_up_conv_has_its_bias_and_its_parameters_in_a_convolution_s_shapes():
    module, x = layers.UpConv(5), normal(0, 1, 2, 2, 3)
    params = fill(module, x)
    assert jax.tree.map(jnp.shape, params) == {'kernel': (3, 3, 3, 5), 'bias': (5,)}
    shifted = params | {'bias': params['bias'] + 2.0}
    difference = module.apply({'params': shifted}, x) - module.apply({'params': params}, x)
    np.testing.assert_allclose(difference, 2.0, rtol=1e-6)


@pytest.mark.parametrize(
    'module', [layers.UpConv(4, jnp.bfloat16), layers.DownConv(4, 5, jnp.bfloat16)]
)
def test_bfloat16_computes_in_bfloat16_and_keeps_parameters_in_float32(module):
    x = normal(0, 1, 8, 8, 3)
    variables = module.init(jax.random.key(0), x)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype('float32')}
    assert module.apply(variables, x).dtype == jnp.bfloat16


def dilate_then_conv(x, kernel):
    k = kernel.shape[0]
    return jax.lax.conv_general_dilated(
        x,
        jnp.flip(kernel, (0, 1)).swapaxes(2, 3),
        (1, 1),
        [(k - 2, 2)] * 2,  # a zero more behind where k is 3
        lhs_dilation=(2, 2),
        dimension_numbers=NHWC,
    )


@pytest.mark.parametrize('features', [1, 5])  # the product before the windows, and after
@pytest.mark.parametrize('kernel_size', [3, 4])
def test_transposed_conv_is_a_convolution_between_zeros(kernel_size, features):
    x, kernel = normal(0, 2, 3, 5, 8), normal(1, kernel_size, kernel_size, features, 8)
    weight = normal(2, 2, 6, 10, features)

    def outcome(fn):
        def loss(x, kernel):
            return (jnp.sin(fn(x, kernel)) * weight).sum()

        return jax.jit(lambda *a: (fn(*a), jax.grad(loss, argnums=(0, 1))(*a)))(x, kernel)

    close(outcome(layers.transposed_conv), outcome(dilate_then_conv))
    # Element (a, b) of the kernel adds a source pixel to pixel (2i + a - 1, 2j + b - 1).
    one = jnp.zeros((1, 3, 3, 8)).at[0, 1, 1, 0].set(1.0)
    drawn = layers.transposed_conv(one, kernel)[0]
    np.testing.assert_array_equal(drawn[1 : 1 + kernel_size, 1 : 1 + kernel_size], kernel[..., 0])


# ------------------------------------------------------------------------------ normalisation


def test_instance_norm_is_flax_s_and_halved_the_mean_of_four():
    x = normal(0, 2, 4, 6, 8) + 0.5
    ours, theirs = layers.InstanceNorm(), nn.InstanceNorm(epsilon=1e-5)
    params = {'scale': normal(1, 8), 'bias': normal(2, 8)}
    close(ours.apply({'params': params}, x), theirs.apply({'params': params}, x))
    close(layers.halved(x), nn.avg_pool(x, (2, 2), (2, 2)))


@pytest.mark.parametrize('shape', [(2, 1, 1, 8), (2, 4, 3, 16), (1, 16, 16, 24)])
def test_group_norm_is_flax_s(shape):
    x, weight = normal(0, *shape) + 0.5, normal(1, *shape)

    def outcome(norm):
        def loss(x):
            return (norm(x) * weight).sum() + (norm(x) ** 3).sum()

        return norm(x), jax.jit(jax.grad(loss))(x)

    flax_norm = nn.GroupNorm(8, use_bias=False, use_scale=False, use_fast_variance=False)
    close(
        outcome(lambda x: layers.group_norm(x, jnp.float32)),
        outcome(lambda x: flax_norm.apply({}, x)),
    )


# ------------------------------------------------------------------------------ heads and noise


def test_gaussian_head_starts_at_unit_variance_with_a_gradient_to_its_input():
    module, x = layers.GaussianHead(4), normal(0, 2, 3, 3, 2)
    variables = module.init(jax.random.key(0), x)
    mean, logvar = module.apply(variables, x)
    assert mean.shape == logvar.shape == (2, 4)
    np.testing.assert_array_equal(logvar, 0)
    slope = jax.grad(lambda x: module.apply(variables, x)[0].sum())(x)
    assert np.abs(slope).min() > 0


def test_gaussian_head_holds_the_log_variance_to_ten():
    module, x = layers.GaussianHead(1), jnp.ones((1, 1))
    params = module.init(jax.random.key(0), x)['params']
    for bias, held in ((1e6, 10.0), (-1e6, -10.0)):
        params['logvar']['bias'] = jnp.full((1,), bias)
        assert module.apply({'params': params}, x)[1] == held


def test_reparameterise_has_the_moments_it_is_asked_for():
    noise = normal(0, 100_000, 1)
    mean, logvar = jnp.full_like(noise, 3.0), jnp.full_like(noise, np.log(0.25))
    drawn = layers.reparameterise(mean, logvar, noise)
    assert float(drawn.mean()) == pytest.approx(3.0, abs=0.01)
    assert float(drawn.std()) == pytest.approx(0.5, abs=0.01)


def test_film_scales_and_shifts_channels():
    module, x, w = layers.FiLM(), normal(0, 2, 3, 3, 4), normal(1, 2, 5)
    params = module.init(jax.random.key(0), x, w)['params']
    scale, shift = np.split(w @ params['Dense_0']['kernel'], 2, axis=1)
    expected = x * (1 + scale[:, None, None, :]) + shift[:, None, None, :]
    np.testing.assert_allclose(
        module.apply({'params': params}, x, w), expected, rtol=1e-4, atol=1e-5
    )


# ------------------------------------------------------------------------------ critic


def test_spectral_norm_brings_the_largest_singular_value_to_one():
    module, x = Critic((8, 16), spectral_norm=True), normal(0, 4, 16, 16, 3)
    variables = jax.jit(module.init)(jax.random.key(0), x)
    params = jax.tree.map(lambda p: 7.0 * p, variables['params'])
    stats = {'batch_stats': variables['batch_stats']}

    @jax.jit
    def update(stats):
        return module.apply(
            {'params': params, **stats}, x, update_stats=True, mutable=['batch_stats']
        )[1]

    for _ in range(100):
        stats = update(stats)
    sigmas = {
        path[-1].key.rsplit('/', 2)[0]: float(value)
        for path, value in jax.tree.leaves_with_path(stats)
        if path[-1].key.endswith('sigma')
    }
    assert set(sigmas) == {'DownConv_0', 'DownConv_1', 'Dense_0'}
    for name, sigma in sigmas.items():
        kernel = np.asarray(params[name]['kernel'])
        largest = np.linalg.svd(kernel.reshape(-1, kernel.shape[-1]), compute_uv=False)[0]
        assert largest / sigma == pytest.approx(1.0, rel=0.01), name


def test_spectral_norm_keeps_its_estimate_where_it_is_not_told_to_update():
    module, x = Critic((8,), spectral_norm=True), normal(0, 2, 16, 16, 3)
    variables = jax.jit(module.init)(jax.random.key(0), x)
    _, same = module.apply(variables, x, mutable=['batch_stats'])
    _, moved = module.apply(variables, x, update_stats=True, mutable=['batch_stats'])
    leaves = jax.tree.leaves(variables['batch_stats'])
    for before, after in zip(leaves, jax.tree.leaves(same['batch_stats']), strict=True):
        np.testing.assert_array_equal(before, after)
    assert any(
        np.abs(before - after).max() > 1e-4
        for before, after in zip(leaves, jax.tree.leaves(moved['batch_stats']), strict=True)
    )


def test_critic_without_spectral_norm_has_no_running_state():
    assert set(jax.eval_shape(Critic((8,)).init, jax.random.key(0), normal(0, 2, 16, 16, 3))) == {
        'params'
    }


def test_batch_spread_is_the_mean_deviation_over_the_batch():
    x = normal(0, 5, 4, 4, 3)
    y = critic.batch_spread(x)
    np.testing.assert_array_equal(y[..., :3], x)
    np.testing.assert_allclose(y[..., 3], np.asarray(x).std(axis=0).mean(), rtol=1e-5)
    same = critic.batch_spread(jnp.broadcast_to(x[:1], x.shape))
    np.testing.assert_allclose(same[..., 3], 1e-4, rtol=1e-3)


# ------------------------------------------------------------------------------ shapes


def shapes(module, *inputs):
    """Output shapes and the number of parameters, with no computation."""
    structs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in inputs]
    out, variables = jax.eval_shape(module.init_with_output, jax.random.key(0), *structs)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables['params'])} == {np.dtype('float32')}
    return out


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('res', [64, 128])
def test_output_shapes(res, dtype):
    size, dtype, z = SIZES[res], jnp.dtype(dtype), 128
    v = size['v_dim']
    image, hole, rows = (2, res, res, 3), (2, res, res, 1), (2,)

    mean, logvar = shapes(Extractor(size['extractor'], z, dtype), (2, res, res, 8))
    assert mean.shape == logvar.shape == (2, z)
    embedding = FaceEmbedding(size['embedding'], size['decoder'], v, dtype=dtype)
    condition = (2, res, res, 2)
    e = shapes(embedding, image, hole, condition, (2, z), (2, 2 * v))
    assert e.v_emb.shape == (2, 2 * v)
    assert {x.shape for x in (e.l_mean, e.l_logvar, e.f_mean, e.f_logvar)} == {(2, v)}
    assert (e.landmark_logits.shape, e.mask_logits.shape, e.part.shape) == (hole, hole, image)
    generator = FaceGenerator(size['generator'], size['dilations'], size['full_width'], dtype=dtype)
    completed = shapes(generator, image, hole, condition, (2, 2 * v), (2, z))
    assert completed.shape == image
    assert shapes(Critic(size['d_global'], dtype=dtype), image).shape == rows
    scores = shapes(Critic(size['d_local'], dtype=dtype), (2, res // 2, res // 2, 4))
    assert scores.shape == rows
    # Losses are computed in float32 whatever the networks compute in.
    outputs = [mean, logvar, *e, completed, scores]
    assert {x.dtype for x in outputs} == {np.dtype('float32')}


# ------------------------------------------------------------------------------ dependence


def embed_inputs(rows=2):
    return (
        normal(0, rows, RES, RES, 3),
        square_hole(rows, RES, 4, 12),
        jnp.zeros((rows, RES, RES, 2)),
        normal(1, rows, Z),
        normal(2, rows, 2 * V),
    )


def embedding_net(**kwargs):
    return FaceEmbedding((8, 8), (), V, **kwargs)


@pytest.mark.parametrize(('hvae', 'depends'), [('dual', False), ('chain', True)])
def test_v_f_depends_on_v_l_only_in_a_chain(hvae, depends):
    module, (*view, z, noise) = embedding_net(hvae=hvae), embed_inputs()
    params = fill(module, *view, z, noise)
    embed = jax.jit(lambda noise: module.apply({'params': params}, *view, z, noise))
    a = embed(noise)
    # The first half of the noise is V_l's: another draw of V_l, all else equal.
    b = embed(noise.at[:, :V].add(1.0))
    np.testing.assert_array_equal(a.l_mean, b.l_mean)
    assert np.abs(a.v_emb - b.v_emb)[:, V:].min() > 0.1
    assert (np.abs(a.f_mean - b.f_mean).max() > 1e-4) == depends
    # The second half is V_f's and never reaches the landmarks.
    c = embed(noise.at[:, V:].add(1.0))
    np.testing.assert_array_equal(a.landmark_logits, c.landmark_logits)
    assert np.abs(a.part - c.part).max() > 1e-4


def test_z_inject_changes_the_parameters():
    assert tree_of(embedding_net(z_inject='film'), *embed_inputs()) != tree_of(
        embedding_net(z_inject='concat'), *embed_inputs()
    )
    *view, z, v_emb = embed_inputs()
    trees = [
        tree_of(FaceGenerator((8, 8), (1,), 8, z_inject=how), *view, v_emb, z)
        for how in ('film', 'concat')
    ]
    assert trees[0] != trees[1]


@pytest.mark.parametrize('z_inject', ['film', 'concat'])
def test_z_reaches_the_embedding_and_the_image(z_inject):
    *view, z, noise = embed_inputs()
    module, generator = embedding_net(z_inject=z_inject), FaceGenerator((8, 8), (1,), 8, z_inject)
    params = fill(module, *view, z, noise), fill(generator, *view, noise, z)

    @jax.jit
    def outputs(z):
        e = module.apply({'params': params[0]}, *view, z, noise)
        image = generator.apply({'params': params[1]}, *view, noise, z)
        return {'l_mean': e.l_mean, 'f_mean': e.f_mean, 'image': image}

    for name, moved in jax.tree.map(jnp.subtract, outputs(z + 1.0), outputs(z)).items():
        assert np.abs(moved).max() > 1e-3, name


def test_visible_share_of_a_grid():
    hole = np.zeros((2, 8, 8, 1), np.float32)
    hole[0, :4, :4] = 1  # one cell of a 2x2 grid
    hole[0, 4, 4] = 1  # a sixteenth of another
    share = visible_share(jnp.asarray(hole), 2)
    np.testing.assert_allclose(share[0, :, :, 0], [[0, 1], [1, 15 / 16]])
    np.testing.assert_array_equal(share[1], 1)
    np.testing.assert_array_equal(visible_share(jnp.asarray(hole), 8), 1 - hole)


def test_skips_carry_nothing_from_inside_the_hole():
    masked, _, condition, z, v_emb = embed_inputs(1)
    hole = jnp.zeros((1, RES, RES, 1)).at[:, :, :8].set(1.0)
    generator = FaceGenerator((8, 8), (1,), 8)
    params = fill(generator, masked, hole, condition, v_emb, z)
    # Cut the two other ways from input to output: the bottleneck and the full-resolution input.
    params['UpConv_0'] = jax.tree.map(jnp.zeros_like, params['UpConv_0'])
    params['Conv_5']['kernel'] = params['Conv_5']['kernel'].at[:, :, 8:].set(0.0)

    @jax.jit
    def output(masked):
        return generator.apply({'params': params}, masked, hole, condition, v_emb, z)

    # No cell that is visible sees the first four columns, by two convolutions of stride 2 and 1.
    np.testing.assert_array_equal(output(masked), output(masked.at[:, :, :4].add(1.0)))
    assert np.abs(output(masked) - output(masked.at[:, :, 12:].add(1.0))).max() > 1e-4


def test_the_condition_reaches_the_embedding_and_the_image_inside_the_hole():
    masked, _, condition, z, noise = embed_inputs()
    hole = jnp.ones((2, RES, RES, 1))
    module, generator = embedding_net(), FaceGenerator((8, 8), (1,), 8)
    params = (
        fill(module, masked, hole, condition, z, noise),
        fill(generator, masked, hole, condition, noise, z),
    )

    @jax.jit
    def outputs(condition):
        e = module.apply({'params': params[0]}, masked, hole, condition, z, noise)
        image = generator.apply({'params': params[1]}, masked, hole, condition, noise, z)
        return {'l_mean': e.l_mean, 'f_mean': e.f_mean, 'image': image}

    changed = condition.at[:, 5, 9].set(1.0)
    for name, moved in jax.tree.map(jnp.subtract, outputs(changed), outputs(condition)).items():
        assert np.abs(moved).max() > 1e-3, name


def test_a_point_outlives_the_shrinking_of_the_condition():
    condition = jnp.zeros((1, 8, 8, 2)).at[0, 5, 2, 0].set(1.0)
    for size, cell in ((8, (5, 2)), (4, (2, 1)), (2, (1, 0))):
        small = np.asarray(shrink(condition, size))
        assert small.shape == (1, size, size, 2)
        assert small[(0, *cell, 0)] == 1 == small.sum()


# ------------------------------------------------------------------------------ attention


def test_overlapping_patches_of_an_image_lie_down_as_the_image():
    x = normal(0, 2, 8, 6, 3)
    laid = layers.unpatch(layers.patches(x, 4, 2))
    np.testing.assert_allclose(laid[:, 1:-1, 1:-1], x[:, 1:-1, 1:-1], rtol=1e-5, atol=1e-6)


def test_attention_copies_what_looks_alike_from_outside_the_hole_alone():
    # Stripes that repeat each 8 pixels: a place has its like 8 pixels to its side.
    x = jnp.tile(normal(0, 1, 16, 8, 16), (1, 1, 3, 1))
    hole = np.zeros((1, 16, 24, 1), np.float32)
    hole[:, :, 8:16] = 1
    found = layers.contextual_attention(x, jnp.asarray(hole))
    inside = (slice(None), slice(4, 12), slice(9, 15))
    np.testing.assert_allclose(found[inside], x[inside], atol=0.05)
    marked = x.at[:, :, 10:14].add(100.0)  # well inside: no patch from there
    again = layers.contextual_attention(marked, jnp.asarray(hole))
    assert np.abs(again).max() < 50


def test_attention_is_nothing_and_has_a_gradient_where_no_patch_is_visible():
    x, hole = jnp.zeros((1, 8, 8, 4)), jnp.ones((1, 8, 8, 1))
    np.testing.assert_array_equal(layers.contextual_attention(x, hole), 0)
    slope = jax.grad(lambda x: layers.contextual_attention(x, jnp.zeros_like(hole)).sum())(x)
    assert np.isfinite(slope).all()
