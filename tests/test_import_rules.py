"""Import rules: who imports what, held by reading the imports of every file."""

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / 'fi_jax'
FILES = sorted(PACKAGE.rglob('*.py'))
TREES = {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text()) for path in FILES}
STDLIB = set(sys.stdlib_module_names)


def imports(name):
    """Each module a file imports, dotted, wherever it does so; 'a.b' for `from a import b`."""
    found = set()
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{name}: a relative import'
            found |= {f'{node.module}.{alias.name}' for alias in node.names}
    return found


def is_in(module, *folders):
    return any(module == folder or module.startswith(f'{folder}.') for folder in folders)


def of(*heads):
    return [name for name in TREES if name.startswith(tuple(f'fi_jax/{head}' for head in heads))]


def test_the_rules_see_the_files():
    assert {'fi_jax/train.py', 'fi_jax/nets/layers.py', 'fi_jax/methods/keypoint.py'} <= set(TREES)
    assert 'fi_jax.rng' in imports('fi_jax/steps.py')
    assert 'flax.linen' in imports('fi_jax/nets/layers.py')


ALLOWED = {
    'nets/': ('jax', 'flax', 'numpy', 'fi_jax.nets'),
    'losses.py': ('jax', 'flax', 'numpy'),
    'metrics/': ('jax', 'flax', 'numpy', 'fi_jax.metrics'),
    'landmarks.py': ('numpy', 'cv2'),
    'rng.py': ('jax', 'flax'),
    'config.py': ('ml_collections', 'fi_jax.methods'),
    'batch.py': ('numpy',),
    'features.py': ('jax', 'numpy', 'fi_jax.batch', 'fi_jax.landmarks'),
    'augmentation/': (
        'jax',
        'numpy',
        'fi_jax.augmentation',
        'fi_jax.batch',
        'fi_jax.features',
        'fi_jax.input_pipeline.holes',
        'fi_jax.input_pipeline.reading',
        'fi_jax.landmarks',
        'fi_jax.rng',
        'fi_jax.sharding',
    ),
    # The page of an evaluation needs its results alone: no device, no run.
    'evaluation/metric_names.py': (),
    'evaluation/tables.py': ('fi_jax.evaluation.metric_names', 'fi_jax.evaluation.results'),
    'evaluation/charts.py': (
        'numpy',
        'markupsafe',
        'fi_jax.evaluation.svg',
        'fi_jax.metrics.groups',
        'fi_jax.evaluation.metric_names',
        'fi_jax.evaluation.results',
        'fi_jax.evaluation.tables',
    ),
    'evaluation/svg.py': ('numpy', 'markupsafe'),
    'evaluation/facts.py': ('fi_jax.evaluation.results',),
    'evaluation/report.py': (
        'numpy',
        'PIL',
        'jinja2',
        'fi_jax.evaluation.charts',
        'fi_jax.evaluation.facts',
        'fi_jax.run.files',
        'fi_jax.evaluation.metric_names',
        'fi_jax.evaluation.results',
        'fi_jax.evaluation.tables',
    ),
    'run/files.py': (),
}
ALLOWED_MORE = {'fi_jax/metrics/baselines.py': ('cv2', 'scipy', 'patchmatch_cython')}


@pytest.mark.parametrize('folder', ALLOWED)
def test_the_lower_modules_import_only_what_they_may(folder):
    assert of(folder)
    for name in of(folder):
        allowed = (*ALLOWED[folder], *ALLOWED_MORE.get(name, ()))
        others = {
            module
            for module in imports(name)
            if not is_in(module, *allowed) and module.split('.')[0] not in STDLIB | {'__future__'}
        }
        assert not others, f'{name} imports {sorted(others)}'


@pytest.mark.parametrize('name', of('input_pipeline/'))
def test_the_input_pipeline_touches_no_device(name):
    found = imports(name)
    assert not {m for m in found if is_in(m, 'jax', 'jaxlib', 'flax', 'optax')}
    inside = {m for m in found if is_in(m, 'fi_jax')}
    assert not {
        m
        for m in inside
        if not is_in(m, 'fi_jax.input_pipeline', 'fi_jax.landmarks', 'fi_jax.batch')
    }


@pytest.mark.parametrize(
    ('module', 'home'),
    [
        ('orbax', {'fi_jax/run/checkpoint.py'}),
        ('absl.flags', {'fi_jax/main.py'}),
        ('absl.app', {'fi_jax/main.py'}),
        ('ml_collections.config_flags', {'fi_jax/main.py'}),
        ('mediapipe', {'fi_jax/input_pipeline/offline/mediapipe_faces.py'}),
        ('fastapi', {'fi_jax/serve/app.py'}),
        ('uvicorn', {'fi_jax/serve/app.py'}),
        ('starlette', {'fi_jax/serve/guard.py'}),
        ('configs', set()),
        ('tests', set()),
        ('tensorflow', set()),
        ('tensorboard', set()),
        ('torch', set()),
        ('skimage', {'fi_jax/photo/finding.py', 'fi_jax/photo/command.py'}),
        ('pickle', set()),
    ],
)
def test_each_of_these_modules_has_one_user(module, home):
    users = {name for name in TREES if any(is_in(m, module) for m in imports(name))}
    assert users <= home


def test_tfds_stays_in_the_input_pipeline():
    users = [n for n in TREES if any(is_in(m, 'tensorflow_datasets') for m in imports(n))]
    assert users
    assert set(users) <= set(of('input_pipeline/'))


COMMANDS = ('main', 'cli', 'train', 'evaluate', 'predict', 'sample', 'serve', 'photo')
BELOW = {  # these import none of those
    ('augmentation/', 'methods/', 'optim.py', 'sharding.py', 'losses.py', 'features.py'): (
        *COMMANDS, 'evaluation', 'run', 'pretrained', 'steps', 'state', 'config',
    ),
    ('steps.py', 'state.py'): (*COMMANDS, 'evaluation', 'run', 'pretrained', 'config'),
    ('run/', 'pretrained/'): (*COMMANDS, 'evaluation'),
    ('evaluation/',): COMMANDS,
}  # fmt: skip


@pytest.mark.parametrize('lower', BELOW)
def test_arrows_point_down(lower):
    for name in of(*lower):
        above = {m for m in imports(name) if is_in(m, *(f'fi_jax.{u}' for u in BELOW[lower]))}
        assert not above, f'{name}: {sorted(above)}'


def test_only_methods_know_methods_and_nets():
    for name in TREES:
        if name in of('methods/'):
            continue
        known = {m for m in imports(name) if is_in(m, 'fi_jax.methods')}
        shared = (
            'Method',
            'Nets',
            'Phase',
            'Changes',
            'make_method',
            'settings_of',
            'predicted_landmarks',
        )
        assert known <= {f'fi_jax.methods.{x}' for x in shared}, name
        assert not {m for m in imports(name) if is_in(m, 'fi_jax.nets')} or name in of('nets/'), (
            name
        )


def test_no_circle_of_imports():
    modules = {
        name.removesuffix('.py').removesuffix('/__init__').replace('/', '.'): name for name in TREES
    }

    def target(imported):
        while imported not in modules:
            imported, _, _ = imported.rpartition('.')
        return imported

    graph = {
        module: {target(m) for m in imports(name) if is_in(m, 'fi_jax')} - {module}
        for module, name in modules.items()
    }
    while leaves := {module for module, below in graph.items() if not below}:
        graph = {m: below - leaves for m, below in graph.items() if m not in leaves}
    assert not graph, f'in or above a circle: {sorted(graph)}'


def test_the_picture_of_the_architecture_is_drawn_from_the_code():
    spec = importlib.util.spec_from_file_location('layers', ROOT / 'docs' / 'layers.py')
    layers = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(layers)
    assert layers.picture() in layers.PAGE.read_text(), 'run python docs/layers.py'


def test_only_state_and_steps_initialise_and_apply_networks():
    for name, tree in TREES.items():
        if name in ('fi_jax/state.py', 'fi_jax/steps.py') or name in of('nets/'):
            continue
        modules = {module.rpartition('.')[2] for module in imports(name)}  # streaming.init is fine
        calls = {
            ast.unparse(node.func)
            for node in ast.walk(tree)
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in ('init', 'apply', 'init_with_output')
            and ast.unparse(node.func.value) not in modules
        }
        assert not calls, f'{name}: {sorted(calls)}'


def test_no_retired_interface_of_jax():
    """Removed, in maintenance or deprecated in the versions of constraints.txt."""
    for name, tree in TREES.items():
        used = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        retired = {
            'jax.pmap', 'jax.tree_map', 'jax.device_put_replicated', 'jax.device_put_sharded',
            'optax.global_norm',
        }  # fmt: skip
        assert not used & retired, f'{name}: {sorted(used & retired)}'
        assert not {m for m in imports(name) if is_in(m, 'jax.experimental.pjit', 'flax.nnx')}, name


def test_importing_the_trainer_brings_in_neither_tensorflow_nor_mediapipe():
    code = (
        'import sys, fi_jax.train, fi_jax.sample\n'
        "print([m for m in ('tensorflow', 'mediapipe', 'torch') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == '[]', done.stderr


def test_importing_the_input_pipeline_starts_no_device():
    code = (
        'from fi_jax.input_pipeline import loader, sources, procedural, holes\n'
        'import sys\n'
        "bridge = sys.modules.get('jax._src.xla_bridge')\n"
        'print(bool(bridge and bridge._backends))'
    )
    done = subprocess.run(
        [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == 'False', done.stderr
