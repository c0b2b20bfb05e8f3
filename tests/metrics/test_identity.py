"""Faces and landmarks: alignment that follows the face, distances, and points in a hole."""

import json

import jax
import numpy as np
import pytest

from fi_jax import landmarks as topology
from fi_jax.metrics import feature_networks, identity, landmarks, weights
from tests import metric_inputs as inputs
from tests import references

FACE = topology.mean_landmarks((128, 128))


def test_a_turned_and_scaled_face_gives_the_same_chip():
    y, x = np.mgrid[:200, :200].astype(np.float64)

    def draw(points, matrix, offset):
        u = matrix[0, 0] * (x - offset[0]) + matrix[1, 0] * (y - offset[1])
        v = matrix[0, 1] * (x - offset[0]) + matrix[1, 1] * (y - offset[1])
        return np.stack([100 + u, 100 + v, 128 + 0.5 * (u - v)], -1)

    points, images = [], []
    for angle, scale in ((0.0, 1.0), (0.4, 0.8)):
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        points.append(scale * (FACE - FACE.mean(0)) @ turn.T + 100)
        images.append(draw(points[-1], turn / scale, (100, 100)))
    a, b = jax.jit(identity.chips)(np.stack(images), np.stack(points))
    assert a.shape == (150, 150, 3)
    inner = slice(25, 125)  # the scene ends somewhere
    assert np.abs(a[inner, inner] - b[inner, inner]).max() <= 2


def test_chips_of_a_completion_differ_in_the_hole_alone():
    photo = inputs.pictures(1, 128).astype(np.float32)
    changed = photo.copy()
    changed[0, 60:70, 60:70] = 0
    a, b = jax.jit(identity.chips)(np.concatenate([photo, changed]), np.stack([FACE, FACE]))
    differs = np.any(a != b, axis=-1)
    assert 0 < differs.mean() < 0.1


def test_scores_of_descriptors():
    truth = np.array([[1.0, 0, 0], [0, 2, 0]])
    samples = np.array([[[1.0, 0, 0], [0, 1, 0]], [[0, 1, 0], [0, 3, 0]]])
    scores = identity.score(samples, truth)
    assert set(scores) == set(identity.SCORES)
    np.testing.assert_allclose(scores['identity_gt/mean'], [0.5, 1], atol=1e-6)
    np.testing.assert_allclose(scores['identity_gt/best'], [1, 1], atol=1e-6)
    np.testing.assert_allclose(scores['identity_div'], [1, 0], atol=1e-6)
    np.testing.assert_allclose(scores['identity_gt_distance'], [np.sqrt(2) / 2, 1], rtol=1e-6)
    assert np.isnan(identity.score(samples[:, :1], truth)['identity_div']).all()


def test_nearest_training_face():
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(50, 8)).astype(np.float32)
    queries = np.concatenate([reference[[7]], reference[[31]] + 0.01, rng.normal(size=(2, 8))])
    found = jax.jit(identity.nearest)(queries.astype(np.float32), reference)
    assert found[0] == 0  # exactly: a face is itself
    np.testing.assert_allclose(found[1], 0.01 * np.sqrt(8), rtol=1e-5)
    pairs = np.linalg.norm(queries[:, None] - reference[None], axis=-1)
    np.testing.assert_allclose(found, pairs.min(axis=1), rtol=1e-5, atol=1e-6)
    more = identity.nearest(queries, np.concatenate([reference, reference[:5] + 0.3]))
    assert (more <= found + 1e-6).all()  # more training faces, never farther
    with pytest.raises(ValueError, match='no faces'):
        identity.nearest(queries, reference[:0])


def test_the_face_network_is_that_of_dlib():
    """Descriptors of dlib 20.0.1 of one picture, where the weights are at hand."""
    try:
        network = feature_networks.make_features('dlib_face')
    except weights.MissingWeights as error:
        pytest.skip(str(error))
    descriptor = jax.jit(network)(inputs.pictures(1, 150))[0]
    golden = json.loads(references.GOLDEN.read_text())['dlib']
    np.testing.assert_allclose(descriptor[:6], golden, atol=2e-5)


def test_landmark_error_is_in_units_of_the_eyes():
    eyes = np.linalg.norm(FACE[45] - FACE[36])
    moved = FACE + np.array([3.0, 4.0])
    np.testing.assert_allclose(landmarks.error(moved, FACE), 5 / eyes, rtol=1e-5)
    hole = np.zeros((128, 128, 1), np.uint8)
    x, y = np.rint(FACE[30]).astype(int)
    hole[y, x] = 1
    only_nose = FACE.copy()
    only_nose[30] += [0, 10]
    np.testing.assert_allclose(landmarks.error(only_nose, FACE, hole), 10 / eyes, rtol=1e-5)
    np.testing.assert_array_equal(np.flatnonzero(landmarks.inside(FACE, hole)), [30])
    assert np.isnan(landmarks.error(moved, FACE, np.zeros_like(hole)))
    outside = FACE - 200
    assert not landmarks.inside(outside, np.ones_like(hole)).any()


def test_spread_of_landmarks():
    rng = np.random.default_rng(0)
    truth = np.stack([FACE, FACE])
    points = truth[:, None] + np.array([0.0, 2.0])[:, None, None, None] * rng.normal(
        size=(2, 400, 68, 2)
    )
    spread = jax.jit(landmarks.spread)(points, truth)
    eyes = np.linalg.norm(FACE[45] - FACE[36])
    np.testing.assert_allclose(spread, [0, 2 * np.sqrt(2) / eyes], rtol=0.02, atol=1e-6)
    assert np.isnan(landmarks.spread(points[:, :1], truth)).all()


def test_scores_of_points_read_off_samples():
    """Mean and best of N, whole and in the hole; the order of the samples does not matter."""
    eyes = np.linalg.norm(FACE[45] - FACE[36])
    hole = np.zeros((1, 128, 128, 1), np.uint8)
    hole[0, int(FACE[48:, 1].min()) - 1 :] = 1  # mouth, chin and a part of the jaw
    hidden = np.asarray(landmarks.inside(FACE[None], hole)[0]) > 0
    assert 20 < hidden.sum() < 60
    samples = np.stack([FACE, FACE, FACE])[None]
    samples[0, 1, hidden] += [0, 3]
    samples[0, 2, ~hidden] += [6, 0]
    score = jax.jit(landmarks.score)
    found = score(samples, FACE[None], hole)
    share = hidden.mean()
    expected = {
        'landmark_error/mean': (3 * share + 6 * (1 - share)) / 3 / eyes,
        'landmark_error/best': 0,
        'landmark_error_hole/mean': 1 / eyes,
        'landmark_error_hole/best': 0,
        'landmark_spread_hole': np.sqrt(3) / eyes,  # of 0, 3, 0
    }
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], [value], rtol=1e-5, atol=1e-7, err_msg=name)
    again = score(samples[:, [2, 0, 1]], FACE[None], hole)
    for name, value in found.items():
        np.testing.assert_allclose(again[name], value, rtol=1e-5, atol=1e-7, err_msg=name)
    alike = score(samples[:, [1, 1]], FACE[None], hole)
    assert alike['landmark_spread'] == 0 and np.isnan(found['landmark_spread']).sum() == 0
    no_hole = score(samples, FACE[None], np.zeros_like(hole))
    assert np.isnan(no_hole['landmark_error_hole/best']).all()
