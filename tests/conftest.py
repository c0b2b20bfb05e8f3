"""Settings of all tests: eight fake CPU devices, strict shapes, quick compilation, tiny configs."""

import os
from pathlib import Path

from tests.compilation import QUICK

# Before the first import of jax. The patience is for a busy machine, where eight devices that share
# its cores wait for one another.
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault(
    'XLA_FLAGS',
    f'--xla_force_host_platform_device_count=8 {QUICK}'
    ' --xla_cpu_collective_call_warn_stuck_timeout_seconds=120'
    ' --xla_cpu_collective_call_terminate_timeout_seconds=600',
)

import jax
import pytest
from absl import flags

from configs import stage1, stage2

CONFIGS = {'stage1': stage1, 'stage2': stage2}
CACHE = os.environ.get('FI_JAX_TEST_CACHE', '~/.cache/fi_jax/xla_tests')

jax.config.update('jax_numpy_rank_promotion', 'raise')
jax.config.update('jax_compilation_cache_dir', str(Path(CACHE).expanduser()))
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.3)
# grain reads its flags, and only absl.app.run would parse them.
flags.FLAGS.mark_as_parsed()

# The files that take longest: begun first, lest one core waits for another at the end.
LONGEST = ('test_train.py', 'test_faults.py')


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture(scope='session')
def tiny_config():
    """tiny_config('stage1' | 'stage2', ablate='') -> a shipped config at 32 pixels."""

    def make(stage, ablate='', **args):
        words = ['tiny', *(f'{k}={v}' for k, v in args.items())]
        return CONFIGS[stage].get_config(
            ','.join([*words, f'ablate={ablate}'] if ablate else words)
        )

    return make


@pytest.fixture(scope='session')
def shared():
    """The folder of real photographs that FI_JAX_SHARED names, for tests marked `shared`."""
    folder = os.environ.get('FI_JAX_SHARED', '')
    if not Path(folder).is_dir() or not folder:
        pytest.fail(f'FI_JAX_SHARED={folder!r}: set it to the folder of the shared photographs')
    return Path(folder)
