"""A person's own photo: what is bit-exact, what is the same again, what is refused and how."""

import jax
import numpy as np
import pytest

from configs import landmarks
from fi_jax import inpaint
from fi_jax.landmarks import MEAN_SHAPE
from fi_jax.methods import make_method
from fi_jax.optim import make_optimizers
from fi_jax.pretrained import Weights
from fi_jax.state import init_state
from tests import masked_autoencoder


def untrained(config):
    method = make_method(config)
    init = jax.jit(lambda: init_state(method, make_optimizers(config, method.nets), 32, 0))
    return Weights(config, method, init().nets, None, {'name': 'untrained'})


@pytest.fixture(scope='module')
def restorer():
    """Untrained nets at 32 px: the predictor answers with the mean face of the frame."""
    drawing, reading = masked_autoencoder.get_config('tiny'), landmarks.get_config('tiny')
    return inpaint.Restorer(untrained(drawing), untrained(reading))


@pytest.fixture(scope='module')
def photo():
    """A drawn face (H,W,3), and its landmarks, in a photo of 150 x 200."""
    pixels = np.random.default_rng(0).integers(0, 255, (150, 200, 3), np.uint8)
    pixels[25:125, 50:150] = 200
    return pixels, MEAN_SHAPE * 100 + np.float32([50, 25])


@pytest.fixture(scope='module')
def hole():
    missing = np.zeros((150, 200), np.uint8)
    missing[85:110, 85:115] = 255
    return missing


def test_outside_the_hole_every_pixel_is_the_photos_own(restorer, photo, hole):
    pixels, points = photo
    result = restorer(pixels, hole, 5, landmarks=points)
    assert len(result.images) == 5
    for image in result.images:
        out = np.asarray(image)
        assert out.shape == pixels.shape
        np.testing.assert_array_equal(out[hole == 0], pixels[hole == 0])
        assert (out[hole > 0] != pixels[hole > 0]).any()
    assert result.uncertainty.shape == hole.shape
    assert not result.uncertainty[hole == 0].any() and result.uncertainty[hole > 0].all()
    assert result.landmarks.shape == (5, 68, 2)


def test_a_sample_is_the_same_alone_or_among_others(restorer, photo, hole):
    pixels, points = photo
    one = restorer(pixels, hole, 2, seed=7, face=inpaint.finding.box_of(points))
    many = restorer(pixels, hole, 6, seed=7, face=inpaint.finding.box_of(points))
    np.testing.assert_array_equal(one.completed, many.completed[:2])
    np.testing.assert_array_equal(one.landmarks, many.landmarks[:2])
    other = restorer(pixels, hole, 2, seed=8, face=inpaint.finding.box_of(points))
    assert (other.completed != one.completed).any()
