"""Who leads a completion: predicted points, drawn shapes, edits of the user; what then varies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import landmarks as landmarks_config
from fi_jax import features, pictures, rng, steps
from fi_jax import landmarks as lm
from fi_jax.methods import Method, make_method, predicted_landmarks
from fi_jax.optim import make_optimizers
from fi_jax.sample import edited, sample_run
from fi_jax.state import example_batch, init_state

RES = 32


def echo(nets, batch, keys):
    """An image of what leads it: the points in red, its own noise in blue."""
    red = batch['landmark_map'] * batch['has_landmarks'][:, None, None, None]
    noise = rng.normal(keys, (3,))
    blue = jnp.broadcast_to(jnp.tanh(noise.mean(-1))[:, None, None, None], red.shape)
    return {'image': jnp.concatenate([red, jnp.zeros_like(red), blue], axis=-1)}


@pytest.fixture(scope='module')
def predictor():
    config = landmarks_config.get_config('tiny')
    method = make_method(config)
    optimizers = make_optimizers(config, method.nets)
    return method, jax.jit(lambda: init_state(method, optimizers, RES, 0))().nets


@pytest.fixture(scope='module')
def batch():
    rng = np.random.default_rng(0)
    image = rng.integers(256, size=(2, RES, RES, 3), dtype=np.uint8)
    hole = np.zeros((2, RES, RES, 1), np.uint8)
    hole[:, 8:24, 8:24] = 1
    return example_batch(RES, 2) | {'image': image, 'hole': hole, 'index': np.int32([0, 1])}


def draw(predictor, batch, source, vary):
    own = Method({}, lambda _: {}, {}, sample=echo)
    system, nets = predictor
    method, nets = (
        predicted_landmarks.with_predicted_landmarks(own, system, source),
        predicted_landmarks.with_nets({}, nets),
    )
    steps.Sampler(method, 0, 4, vary=vary)  # checks vary
    prepared = features.prepare(batch)
    draw = jax.jit(lambda nets, b: steps.draw_samples(method, nets, b, 0, 4, vary=vary)['image'])
    return np.asarray(draw(nets, prepared))


def differ(images):
    """Whether samples of an input differ: in their points, in the rest."""
    spread = np.ptp(images, axis=1).max(axis=(0, 1, 2))
    return spread[0] > 0, spread[2] > 0


@pytest.mark.parametrize(
    ('source', 'vary', 'expected'),
    [
        ('predictor', 'both', (False, True)),
        ('predictor', 'appearance', (False, True)),
        ('predictor_sample', 'both', (True, True)),
        ('predictor_sample', 'structure', (True, False)),
        ('predictor_sample', 'appearance', (False, True)),
    ],
)
def test_structure_and_appearance_vary_each_alone(predictor, batch, source, vary, expected):
    images = draw(predictor, batch, source, vary)
    assert differ(images) == expected
    assert images[..., 0].sum((2, 3)).min() > 20  # points were points to all


@pytest.mark.parametrize('vary', ['structure', 'hair'])
def test_what_cannot_vary_is_refused_in_one_line(predictor, batch, vary):
    with pytest.raises(ValueError, match=rf"config\.sample\.vary='{vary}'.*predictor_sample") as e:
        draw(predictor, batch, 'predictor', vary)
    assert '\n' not in str(e.value)


def test_edits_move_known_landmarks_alone():
    batch = example_batch(RES, 2)
    batch['landmarks'][:] = lm.mean_landmarks((RES, RES))
    batch['has_landmarks'][:] = 1, 0
    after = edited(batch, 'mouth_open', 1.0)
    np.testing.assert_array_equal(after['landmarks'][1], batch['landmarks'][1])
    np.testing.assert_allclose(
        after['landmarks'][0], lm.edit(batch['landmarks'][0], 'mouth_open'), atol=1e-5
    )
    drawn = lm.draw_points(after['landmarks'][0], (RES, RES))
    np.testing.assert_array_equal(after['landmark_map'][0], drawn)
    assert not after['landmark_map'][1].any()


def test_an_edit_without_landmarks_of_the_user_is_refused(tiny_config, tmp_path):
    config = tiny_config('stage2')
    config.sample.edit = 'smile'
    with pytest.raises(ValueError, match=r'landmark_source=user.*--mode=predict'):
        sample_run(config, tmp_path)


def test_a_sheet_shows_the_landmarks_of_each_sample_or_once_those_of_all():
    rng = np.random.default_rng(0)
    batch = {
        'image': rng.integers(256, size=(2, RES, RES, 3), dtype=np.uint8),
        'hole': np.zeros((2, RES, RES, 1), np.uint8),
    }
    samples = rng.integers(256, size=(2, 3, RES, RES, 3), dtype=np.uint8)
    points = np.tile(lm.mean_landmarks((RES, RES)), (2, 3, 1, 1))
    points[1] = np.nan  # a face of which nobody knows the landmarks

    def columns(**outputs):
        return (pictures.sheet(batch, {'composite': samples, **outputs}, 40).shape[1] - 2) // 42

    assert columns() == 5  # input, three samples, truth
    assert columns(condition_landmarks=points) == 6
    points[0, 1] += 1.0
    assert columns(condition_landmarks=points) == 8


def test_a_face_is_drawn_where_its_points_are_and_left_bare_without_any():
    image = np.zeros((RES, RES, 3), np.uint8)
    points = lm.mean_landmarks((RES, RES)).astype(np.float32)
    drawn = pictures.with_face(image, points, (255, 0, 0), 4 * RES)
    rows, columns = np.nonzero(drawn[..., 0])
    assert abs(columns.min() - (4 * points[:, 0].min() + 1.5)) < 2
    assert abs(rows.max() - (4 * points[:, 1].max() + 1.5)) < 2
    assert not pictures.with_face(image, points * np.nan, (255, 0, 0), 4 * RES).any()
