"""fi_jax: diverse face inpainting conditioned on facial keypoints, in JAX and Flax."""

from typing import Any

__version__ = '0.1.0'


def __getattr__(name: str) -> Any:
    if name == 'load':
        from fi_jax.photo.restorer import load  # here, so that `import fi_jax` starts nothing

        return load
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
