"""A file of weights as people load it, of untrained networks: real code, no training.

python -m tests.tiny_weights FILE.safetensors
"""

import sys
from pathlib import Path

import jax
import numpy as np

from configs import landmarks
from fi_jax.methods import make_method
from fi_jax.pretrained import files, shapes_of, tensors_of
from fi_jax.run.settings import settings_of
from tests import masked_autoencoder


def write(path):
    """Untrained nets at 32 px: the predictor answers with the mean face, and is sure. -> path."""
    drawing, reading = masked_autoencoder.get_config('tiny'), landmarks.get_config('tiny')
    random = np.random.default_rng(0)
    shapes = shapes_of(make_method(drawing), 32)
    tensors = tensors_of(jax.tree.map(lambda x: random.normal(0, 0.3, x.shape), shapes))
    shapes = tensors_of(
        jax.tree.map(lambda x: np.zeros(x.shape), shapes_of(make_method(reading), 32))
    )
    shapes['nets/predictor/params/_Heads_0/log_scale/bias'][:] = -7.0
    tensors |= {f'predictor/{name}': x for name, x in shapes.items()}
    about = {'config': settings_of(drawing), 'predictor': {'config': settings_of(reading)}}
    path.write_bytes(files.encode({k: x.astype(np.float32) for k, x in tensors.items()}, about))
    return path


if __name__ == '__main__':
    write(Path(sys.argv[1]))
