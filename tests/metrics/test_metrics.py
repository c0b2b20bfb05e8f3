"""Metrics: parity with scikit-image, what must not matter, and baselines."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage.metrics

from fi_jax.metrics import baselines, image
from tests import metric_inputs as inputs
from tests import references

SIZE = 32

l1, l1_hole = jax.jit(image.l1), jax.jit(image.l1_hole)
psnr, psnr_hole = jax.jit(image.psnr), jax.jit(image.psnr_hole)
ssim, ssim_hole, ssim_map = jax.jit(image.ssim), jax.jit(image.ssim_hole), jax.jit(image.ssim_map)
pair_distance, score = jax.jit(image.pair_distance), jax.jit(image.score)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.float32)


def square_hole(size=SIZE, start=8, stop=20):
    hole = np.zeros((size, size, 1), np.uint8)
    hole[start:stop, start:stop] = 1
    return hole


def image_pairs():
    """Pairs that try the variance: noise, a ramp, an edge, white against nearly white."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:48, :40]
    ramp = np.stack([x * 6, y * 5, x + y], -1).astype(np.float32)
    edge = np.repeat(np.where(x > 17, 255, 0)[..., None], 3, -1).astype(np.float32)
    white = np.full((48, 40, 3), 255, np.float32)
    return {
        'noise': (noise(48, 40, 3), noise(48, 40, 3, seed=1)),
        'ramp': (ramp, np.clip(ramp + rng.integers(-3, 4, ramp.shape), 0, 255)),
        'edge': (edge, np.roll(edge, 1, 1)),
        'white': (white, white - rng.integers(0, 2, white.shape)),
        'same': (ramp, ramp),
    }


@pytest.mark.parametrize('name', image_pairs())
def test_ssim_is_that_of_scikit_image(name):
    a, b = (x.astype(np.float32) for x in image_pairs()[name])
    # The reference in float64, so that the tolerance is for our rounding alone.
    mean, full = skimage.metrics.structural_similarity(
        a.astype(np.float64),
        b.astype(np.float64),
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=255,
        channel_axis=-1,
        full=True,
    )
    full = full.mean(-1)
    hole = np.zeros((48, 40, 1), np.uint8)
    hole[:10, 3:30] = 1  # touches the border, where the mirroring shows
    np.testing.assert_allclose(ssim_map(a[None], b[None])[0], full, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(ssim(a[None], b[None])[0], mean, rtol=1e-5)
    hole_mean = full[hole[..., 0] == 1].mean()
    np.testing.assert_allclose(ssim_hole(a[None], b[None], hole[None])[0], hole_mean, 1e-5)


@pytest.mark.parametrize('name', ['noise', 'ramp', 'edge', 'white'])
def test_psnr_is_that_of_scikit_image(name):
    a, b = image_pairs()[name]
    hole = np.zeros((48, 40, 1), np.uint8)
    hole[5:30, 10:33] = 1
    inside = hole[..., 0] == 1
    reference = skimage.metrics.peak_signal_noise_ratio
    np.testing.assert_allclose(
        psnr(a[None], b[None])[0], reference(a, b, data_range=255), rtol=1e-5
    )
    np.testing.assert_allclose(
        psnr_hole(a[None], b[None], hole[None])[0],
        reference(a[inside], b[inside], data_range=255),
        rtol=1e-5,
    )


def test_each_example_is_scored_alone():
    a, b = noise(3, SIZE, SIZE, 3), noise(3, SIZE, SIZE, 3, seed=1)
    hole = np.stack([square_hole(stop=stop) for stop in (12, 20, 30)])
    for metric in (l1, psnr, ssim):
        alone = [metric(a[i : i + 1], b[i : i + 1])[0] for i in range(3)]
        np.testing.assert_allclose(metric(a, b), alone, rtol=3e-5)
    for metric in (l1_hole, psnr_hole, ssim_hole):
        alone = [metric(a[i : i + 1], b[i : i + 1], hole[i : i + 1])[0] for i in range(3)]
        np.testing.assert_allclose(metric(a, b, hole), alone, rtol=3e-5)


def test_hole_metrics_ignore_what_is_visible():
    a, b, hole = noise(1, SIZE, SIZE, 3), noise(1, SIZE, SIZE, 3, seed=1), square_hole()[None]
    changed = np.where(hole, a, noise(1, SIZE, SIZE, 3, seed=2))
    for metric in (l1_hole, psnr_hole):
        np.testing.assert_array_equal(metric(a, b, hole), metric(changed, b, hole))
    # A window of SSIM reaches 5 pixels out of the hole and no further.
    reach = np.zeros_like(hole)
    reach[:, 3:25, 3:25] = 1
    far = np.where(reach, a, changed)
    np.testing.assert_array_equal(ssim_hole(a, b, hole), ssim_hole(far, b, hole))
    samples, other = np.stack([a, b], 1), np.stack([changed, b], 1)
    np.testing.assert_array_equal(pair_distance(samples, hole), pair_distance(other, hole))
    assert pair_distance(samples) != pair_distance(other)


def test_hole_over_the_frame_is_the_whole_image():
    a, b = noise(2, SIZE, SIZE, 3), noise(2, SIZE, SIZE, 3, seed=1)
    hole = np.ones((2, SIZE, SIZE, 1), np.uint8)
    np.testing.assert_allclose(l1_hole(a, b, hole), l1(a, b), rtol=1e-6)
    np.testing.assert_allclose(psnr_hole(a, b, hole), psnr(a, b), rtol=1e-6)
    samples = noise(2, 3, SIZE, SIZE, 3)
    whole = pair_distance(samples, hole)
    np.testing.assert_allclose(whole, pair_distance(samples), rtol=1e-6)


def test_uint8_images_do_not_wrap_around():
    a, b = (noise(1, SIZE, SIZE, 3, seed=seed) for seed in (0, 1))
    for metric in (l1, psnr, ssim):
        np.testing.assert_array_equal(metric(a.astype(np.uint8), b.astype(np.uint8)), metric(a, b))
    samples = noise(1, 2, SIZE, SIZE, 3)
    np.testing.assert_array_equal(pair_distance(samples.astype(np.uint8)), pair_distance(samples))


def test_identical_images_and_empty_holes():
    a, empty = noise(1, SIZE, SIZE, 3), np.zeros((1, SIZE, SIZE, 1), np.uint8)
    assert psnr(a, a) == image.MAX_PSNR
    assert psnr_hole(a, a, square_hole()[None]) == image.MAX_PSNR
    for metric in (l1_hole, psnr_hole, ssim_hole):
        assert jnp.isnan(metric(a, a, empty)).all()
    with pytest.raises(ValueError, match='8x8: the SSIM window is 11 pixels'):
        ssim(a[:, :8, :8], a[:, :8, :8])


def test_pair_distance_against_a_double_loop():
    samples = noise(2, 5, SIZE, SIZE, 3)
    hole = np.stack([square_hole(stop=20), square_hole(stop=32)])
    whole, inside = [], []
    for group, h in zip(samples, hole, strict=True):
        pairs = [abs(p - q) / 127.5 for p, q in itertools.combinations(group.astype(float), 2)]
        whole.append(np.mean(pairs))
        inside.append(np.mean([pair[h[..., 0] == 1].mean() for pair in pairs]))
    np.testing.assert_allclose(pair_distance(samples), whole, rtol=1e-5)
    np.testing.assert_allclose(pair_distance(samples, hole), inside, rtol=1e-5)
    same = np.repeat(samples[:, :1], 4, axis=1)
    np.testing.assert_array_equal(pair_distance(same, hole), [0, 0])
    assert jnp.isnan(pair_distance(samples[:, :1], hole)).all()


def test_ms_ssim_golden_values():
    """Of piq 0.8.0 and pytorch-msssim 1.0.0 on the same pictures."""
    golden = json.loads(references.GOLDEN.read_text())['structure']
    a, b, _ = inputs.pairs(192)
    np.testing.assert_allclose(ssim(a, b), golden['ssim/piq'], rtol=1e-4)
    ours = jax.jit(image.ms_ssim)(a, b)
    np.testing.assert_allclose(ours, golden['ms_ssim/pytorch-msssim'], rtol=1e-4)
    np.testing.assert_allclose(ours, golden['ms_ssim/piq'], rtol=1e-4)
    with pytest.raises(ValueError, match='at least 161 pixels'):
        image.ms_ssim(a[:, :160], b[:, :160])


def test_seam_sees_a_shifted_hole_and_no_edge_of_a_photo():
    y, x = np.mgrid[:SIZE, :SIZE].astype(np.float32)
    photo = np.repeat((3 * x + 2 * y)[..., None], 3, -1)  # a ramp has the same step everywhere
    hole = square_hole()
    seam = jax.jit(image.seam)
    np.testing.assert_allclose(seam(photo, hole), 0, atol=1e-4)
    # The shift lies against the ramp on two sides and with it on the other two.
    lifted = photo + 30 * hole
    steps = [abs(3 + 30) - 3, abs(3 - 30) - 3, abs(2 + 30) - 2, abs(2 - 30) - 2]
    np.testing.assert_allclose(seam(lifted, hole), np.mean(steps), rtol=1e-5)
    noisy = photo + 30 * hole * (noise(SIZE, SIZE, 1) > 127)
    assert seam(noisy, hole) < seam(lifted, hole) / 2
    assert jnp.isnan(seam(photo, np.zeros_like(hole)))
    assert seam(np.stack([photo, lifted]), np.stack([hole, hole])).shape == (2,)


def test_score_is_mean_and_best_of_the_samples():
    truth, hole = noise(2, SIZE, SIZE, 3), np.stack([square_hole(), square_hole(stop=32)])
    strength = np.array([0.1, 0.5, 0.9], np.float32).reshape(1, 3, 1, 1, 1)
    other = noise(2, 3, SIZE, SIZE, 3, seed=1)
    samples = np.rint(truth[:, None] * (1 - strength) + other * strength)
    scores = score(samples, truth, hole)
    assert set(scores) == set(image.SCORES)
    names = ('l1', 'l1_hole', 'psnr', 'psnr_hole', 'ssim', 'ssim_hole')

    @jax.jit
    def one_by_one(samples, truth, hole):
        return {
            name: getattr(image, name)(samples, truth, *((hole,) if 'hole' in name else ()))
            for name in names
        }

    expected = one_by_one(samples, truth[:, None], hole[:, None])
    for name in names:
        each = np.moveaxis(expected[name], 1, 0)
        np.testing.assert_allclose(scores[f'{name}/mean'], each.mean(0), rtol=1e-5)
        # The first sample is the nearest to the truth.
        np.testing.assert_allclose(scores[f'{name}/best'], each[0], rtol=1e-5)
        sign = -1 if name.startswith('l1') else 1
        assert (sign * (scores[f'{name}/best'] - scores[f'{name}/mean']) > 0).all()
    np.testing.assert_allclose(scores['pair_distance'], pair_distance(samples), rtol=1e-5)
    np.testing.assert_allclose(
        scores['pair_distance_hole'], pair_distance(samples, hole), rtol=1e-5
    )


FILLS = {
    'mean': lambda photo, hole: baselines.fill_mean(photo, hole, np.full_like(photo, 77)),
    'telea': baselines.fill_telea,
    'navier_stokes': baselines.fill_navier_stokes,
    'biharmonic': baselines.fill_biharmonic,
}
HOLES = {
    'inner': square_hole(),
    'border': square_hole(start=16, stop=SIZE),
    'whole': square_hole(start=0, stop=SIZE),
}


@pytest.mark.parametrize('hole', HOLES.values(), ids=HOLES)
@pytest.mark.parametrize('fill', FILLS.values(), ids=FILLS)
def test_fills_change_the_hole_only_and_never_read_it(fill, hole):
    photo = noise(SIZE, SIZE, 3).astype(np.uint8)
    before = photo.copy()
    filled = fill(photo, hole)
    assert filled.dtype == np.uint8 and filled.shape == photo.shape
    np.testing.assert_array_equal(photo, before)
    inside = hole[..., 0] == 1
    np.testing.assert_array_equal(filled[~inside], photo[~inside])
    assert (filled[inside] != photo[inside]).any(-1).mean() > 0.9
    # The truth under the hole must not leak into a baseline.
    other = np.where(hole, noise(SIZE, SIZE, 3, seed=1).astype(np.uint8), photo)
    np.testing.assert_array_equal(fill(other, hole), filled)


@pytest.mark.parametrize('fill', FILLS.values(), ids=FILLS)
def test_fills_leave_an_image_without_a_hole(fill):
    photo = noise(SIZE, SIZE, 3).astype(np.uint8)
    np.testing.assert_array_equal(fill(photo, np.zeros((SIZE, SIZE, 1), np.uint8)), photo)


@pytest.mark.parametrize('fill', [baselines.fill_telea, baselines.fill_navier_stokes])
def test_inpainting_continues_a_flat_image(fill):
    photo = np.full((SIZE, SIZE, 3), (200, 90, 10), np.uint8)
    # OpenCV adds the unit vector of the gradient, up to 1.4 levels a channel even where it is nil.
    np.testing.assert_allclose(fill(photo, square_hole()).astype(int), photo, atol=3)


def test_mean_face_is_the_average_of_a_stream():
    photos = noise(5, SIZE, SIZE, 3).astype(np.uint8)
    mean = baselines.mean_face(iter(photos))
    assert mean.dtype == np.uint8
    np.testing.assert_allclose(mean, photos.mean(0), atol=0.5)
    with pytest.raises(ValueError, match='at least one'):
        baselines.mean_face([])
    with pytest.raises(ValueError, match='image 1 '):
        baselines.mean_face([photos[0], photos[1, :8]])


def test_fills_name_a_wrong_shape():
    photo = noise(SIZE, SIZE, 3).astype(np.uint8)
    with pytest.raises(ValueError, match='uint8'):
        baselines.fill_telea(photo.astype(np.float32), square_hole())
    with pytest.raises(ValueError, match='hole'):
        baselines.fill_telea(photo, square_hole()[..., 0])
    with pytest.raises(ValueError, match='mean_image'):
        baselines.fill_mean(photo, square_hole(), photo[:8])
