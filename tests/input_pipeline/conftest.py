"""What several tests of the sources share."""

import pytest

from fi_jax.input_pipeline import archives
from tests.input_pipeline.photos import encode, pixels, write_folder


@pytest.fixture
def ten(tmp_path):
    """A folder of ten images."""
    images = {f'{i:02d}.png': encode(pixels(i)) for i in range(10)}
    return archives.Folder(write_folder(tmp_path / 'ten', images))
