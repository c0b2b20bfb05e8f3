"""Perceptual distances and diversity: golden values of the references, and what must hold."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fi_jax.metrics import diversity, identity, perceptual, trunks
from tests import metric_inputs as inputs
from tests import references

GOLDEN = json.loads(references.GOLDEN.read_text())
ALEX = inputs.distance('lpips_alex')
call = jax.jit(lambda distance, *images: distance(*images))
score = jax.jit(diversity.score)


@pytest.mark.parametrize('name', perceptual.NAMES)
def test_golden_values(name):
    """Of lpips 0.1.4 and stlpips-pytorch 0.0.2 with the same random weights."""
    a, b, holes = inputs.pairs(64)
    distance = inputs.distance(name)
    golden = GOLDEN['lpips'][name]
    np.testing.assert_allclose(call(distance, a, b), golden['whole'], rtol=1e-4)
    np.testing.assert_allclose(call(distance, a, b, holes), golden['hole'], rtol=1e-4)


def test_golden_cut_of_a_face():
    """Of dlib 20.0.1 at the same points: both round down, this from float32."""
    photo, points = references.face()
    chip = np.asarray(jax.jit(identity.chips)(photo[None], points[None]))[0]
    assert np.abs(chip[5::35, 5::35] - np.array(GOLDEN['chip'])).max() <= 1


def test_what_a_distance_is():
    a, b, holes = inputs.pairs(64)
    np.testing.assert_array_equal(call(ALEX, a, a), [0, 0])
    np.testing.assert_allclose(call(ALEX, a, b), call(ALEX, b, a), rtol=1e-6)
    # Not quite the same: upsampled, the pixels of a small map weigh more or less by where they lie.
    frame = call(ALEX, a, b, np.ones_like(holes))
    np.testing.assert_allclose(frame, call(ALEX, a, b), rtol=1e-3)
    assert jnp.isnan(call(ALEX, a, b, np.zeros_like(holes))).all()
    floats = call(ALEX, a.astype(np.float32), b.astype(np.float32))
    np.testing.assert_array_equal(call(ALEX, a, b), floats)
    np.testing.assert_allclose(call(ALEX, a[0], b[0]), call(ALEX, a, b)[0], rtol=1e-5)
    # What make_distance gives is itself a function for jit.
    np.testing.assert_allclose(jax.jit(ALEX)(a, b), call(ALEX, a, b), rtol=1e-6)


def samples_of(truth, holes, count, seed=0):
    other = inputs.pictures(len(truth) * count, truth.shape[1], seed)
    other = other.reshape(len(truth), count, *truth.shape[1:])
    return np.where(holes[:, None], other, truth[:, None])


def test_diversity_against_a_double_loop():
    truth, _, holes = inputs.pairs(64)
    samples = samples_of(truth, holes, 3, seed=5)
    scores = score(ALEX, samples, truth, holes)
    assert set(scores) == set(diversity.names('lpips_alex'))
    pairs = [(0, 1), (0, 2), (1, 2)]
    for key, region in (('', ()), ('_hole', (holes,))):
        div = [call(ALEX, samples[:, i], samples[:, j], *region) for i, j in pairs]
        gt = [call(ALEX, samples[:, i], truth, *region) for i in range(3)]
        np.testing.assert_allclose(scores[f'lpips_alex_div{key}'], np.mean(div, 0), rtol=1e-4)
        np.testing.assert_allclose(scores[f'lpips_alex_gt{key}/mean'], np.mean(gt, 0), rtol=1e-4)
        np.testing.assert_allclose(scores[f'lpips_alex_gt{key}/best'], np.min(gt, 0), rtol=1e-4)


def test_one_sample_has_no_diversity_and_equal_ones_none():
    truth, _, holes = inputs.pairs(64)
    samples = samples_of(truth, holes, 1)
    scores = score(ALEX, samples, truth, holes)
    assert jnp.isnan(scores['lpips_alex_div']).all()
    assert jnp.isfinite(scores['lpips_alex_gt/mean']).all()
    scores = score(ALEX, np.repeat(samples, 2, 1), truth, holes)
    np.testing.assert_array_equal(scores['lpips_alex_div_hole'], [0, 0])


def test_a_batch_over_eight_devices_scores_the_same():
    truth, _, holes = (np.repeat(x, 4, 0) for x in inputs.pairs(64))
    truth = inputs.pictures(8, 64, seed=2)
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ('data',))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('data'))
    other = truth[::-1].copy()
    spread = call(ALEX, *jax.device_put((truth, other, holes), rows))
    np.testing.assert_allclose(spread, call(ALEX, truth, other, holes), rtol=1e-5)


def test_only_samples_that_pass_count():
    error = np.array([[0.02, 0.05, 0.2], [0.02, np.nan, 0.3], [0.01, 0.01, 0.01]])
    face = np.array([[0.3, 0.5, 0.1], [0.1, 0.1, 0.1], [0.7, 0.1, 0.2]])
    passed = diversity.gate(error, face)
    np.testing.assert_array_equal(passed, [[1, 1, 0], [1, 0, 0], [0, 1, 1]])
    values = jnp.array([[1.0, 2, 3], [1, 2, 3], [np.nan, 2, 3]])  # pairs 01, 02, 12
    np.testing.assert_array_equal(diversity.at_quality(values, passed), [1, np.nan, 3])
    np.testing.assert_array_equal(diversity.gate(face_distance=face)[2], [0, 1, 1])
    with pytest.raises(ValueError, match='neither'):
        diversity.gate()


def test_calibration_tells_a_sampler_that_stops_from_one_that_does_not():
    rng = np.random.default_rng(0)
    area = rng.uniform(0.001, 0.6, 400)
    good = diversity.calibration(area, 0.3 * area + rng.normal(0, 0.002, 400))
    assert good.rank_correlation > 0.99 and abs(good.at_zero) < 0.002
    assert sum(good.count) == 400 and np.all(np.diff(good.mean[:-1]) > 0)
    bad = diversity.calibration(area, 0.1 + rng.normal(0, 0.002, 400))
    assert abs(bad.rank_correlation) < 0.2 and bad.at_zero > 0.09
    empty = diversity.calibration(np.array([0.1, np.nan]), np.array([np.nan, 1.0]))
    assert np.isnan(empty.rank_correlation) and sum(empty.count) == 0


@pytest.mark.parametrize('name', ['alexnet', 'efficientnet_lite0', 'dlib_face', 'inception_fid'])
def test_shapes_of_weights_are_known_without_them(name):
    shapes = trunks.shapes(name)
    layers = {'alexnet': 5, 'efficientnet_lite0': 49, 'dlib_face': 30, 'inception_fid': 94}[name]
    assert sum(key.endswith('/kernel') for key in shapes) == layers
