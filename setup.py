"""configs/ of the source tree is fi_jax.configs once installed; all else is in pyproject.toml."""

from setuptools import find_namespace_packages, setup

setup(
    packages=[*find_namespace_packages(include=['fi_jax*']), 'fi_jax.configs'],
    package_dir={'fi_jax.configs': 'configs'},
)
