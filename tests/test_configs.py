"""Configs: every ablation of every config, presets, strict arguments, refusals."""

import itertools
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest

from configs import landmarks, quickstart, stage1, stage2
from fi_jax import config as common
from fi_jax import features
from fi_jax.main import parse_flags
from fi_jax.methods import make_method
from fi_jax.methods.keypoint_settings import ABLATIONS, PRESETS
from fi_jax.optim import make_optimizers
from fi_jax.run.resume import stage_plan
from fi_jax.run.settings import opened
from fi_jax.state import bind, example_batch, init_state
from fi_jax.steps import make_train_step

ALL_ABLATIONS = {**ABLATIONS, **common.GENERAL}
CONFIGS = {'stage1': stage1, 'stage2': stage2, 'quickstart': quickstart}


def get(config, **args):
    return CONFIGS[config].get_config(','.join(f'{k}={v}' for k, v in args.items()))


# ------------------------------------------------------------------------------ variants


@pytest.mark.parametrize('ablation', ALL_ABLATIONS)
@pytest.mark.parametrize('config', CONFIGS)
def test_every_ablation_of_every_config_builds_and_is_what_is_run(config, ablation):
    plain, changed = get(config), get(config, ablate=ablation)
    assert common.flat(plain) != common.flat(changed)
    # Nothing that the config sets afterwards may undo it.
    for path, value in ALL_ABLATIONS[ablation].items():
        assert common.flat(changed)[path] == value, path
    make_method(changed)


def test_ablations_change_the_fields_they_name_and_no_other():
    plain = common.flat(get('stage2'))
    for name, changes in ALL_ABLATIONS.items():
        flat = common.flat(get('stage2', ablate=name))
        assert {k for k in flat if flat[k] != plain[k]} == set(changes), name


def test_ablations_add_up():
    flat = common.flat(get('stage2', ablate='chain+z4'))
    assert (flat['nets.hvae'], flat['nets.z_dim']) == ('chain', 4)


@pytest.mark.parametrize('preset', PRESETS)
@pytest.mark.parametrize('config', CONFIGS)
def test_presets_are_what_is_run(config, preset):
    flat = common.flat(get(config, preset=preset))
    assert flat['preset'] == preset
    for path, value in PRESETS[preset].items():
        expected = common.ConfigDict(value) if isinstance(value, dict) else value
        assert flat[path] == expected, path


@pytest.mark.parametrize('config', CONFIGS)
def test_configs_are_fresh_each_time_and_have_steps(config):
    one, other = get(config), get(config)
    one.loss.latent = 77.0
    one.data.holes.centre = 77.0
    assert other.loss.latent != 77.0
    assert other.data.holes.centre != 77.0
    for args in ({}, {'tiny': True}, {'res': 128}):
        built = get(config, **args)
        plan = stage_plan(make_method(built), built)
        assert plan[0][1] == 0
        assert all(a[2] == b[1] for a, b in itertools.pairwise(plan))


@pytest.mark.parametrize('res', [32, 128, 256])
def test_the_nets_of_every_size_fit_together(res):
    config = get('stage2', **({'tiny': True} if res == 32 else {'res': res}))
    assert config.res == res
    method = make_method(config)
    optimizers = make_optimizers(config, method.nets)
    batch = {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in example_batch(res, 2).items()}

    def sample(batch):
        state = init_state(method, optimizers, config.res, config.seed)
        keys = jax.random.split(jax.random.key(0), 2)
        return method.sample(bind(method, state.nets), features.prepare(batch), keys)

    out = jax.eval_shape(sample, batch)
    assert {name: x.shape for name, x in out.items()} == {
        'image': (2, res, res, 3),
        'landmark_map': (2, res, res, 1),
        'face_mask': (2, res, res, 1),
        'face_part': (2, res, res, 3),
    }
    assert {x.dtype for x in out.values()} == {np.dtype('float32')}


def trace_step(config):
    """Shapes of the state and the metrics of one step of stage 2, with no computation."""
    method = make_method(config)
    optimizers = make_optimizers(config, method.nets)
    batch = {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in example_batch(32, 4).items()}

    def step(batch):
        state = init_state(method, optimizers, config.res, config.seed)
        after, metrics = make_train_step(method, 'stage2', optimizers, config)(state, batch)
        return state, after, metrics

    return jax.eval_shape(step, batch)


# What changes only weights of losses changes nothing in the trace.
STRUCTURAL = [
    name
    for name, changes in ALL_ABLATIONS.items()
    if not all(path.startswith('loss.') for path in changes)
]


@pytest.mark.parametrize('ablation', STRUCTURAL)
def test_every_ablation_traces_a_step_that_keeps_the_state_s_types(ablation):
    before, after, metrics = trace_step(get('stage2', tiny=True, ablate=ablation))
    assert jax.tree.structure(before) == jax.tree.structure(after)
    for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
    assert {x.dtype for net in after.nets.values() for x in jax.tree.leaves(net.params)} == {
        np.dtype('float32')
    }
    assert {(x.shape, x.dtype) for x in metrics.values()} == {((), np.dtype('float32'))}


def test_no_average_means_none_is_kept():
    config = get('stage2', ablate='no_ema')
    assert make_method(config).ema == ()
    assert make_method(get('stage2')).ema == ('extractor', 'embedding', 'generator', 'prior')


def test_phases_follow_the_game_and_the_schedule():
    def phases(**args):
        return {p.name: p for p in make_method(get('stage2', **args)).stages['stage2']}

    joint = phases()
    assert list(joint) == ['all', 'r1']
    assert joint['r1'].every == get('stage2').r1_every
    assert 'extractor' in joint['all'].nets
    assert 'extractor' not in phases(ablate='sequential')['all'].nets
    wgan = phases(ablate='wgan_gp')
    assert {name: (p.nets[0], p.repeats) for name, p in wgan.items()} == {
        'critics': ('d_global', 5),
        'generators': ('extractor', 1),
    }
    assert list(phases(ablate='hinge_sn')) == ['all']


# ------------------------------------------------------------------------------ arguments


@pytest.mark.parametrize(
    ('arg', 'message'),
    [
        (
            'width=64',
            r"'width' is unknown; there are \['ablate', 'preset', 'res', 'size', 'tiny', 't",
        ),
        ('presets=seed', r"'presets' is unknown.*did you mean 'preset'\?"),
        ('res=100', 'res=100: choose 64, 128 or 256'),
        ('res=32', 'res=32: choose 64, 128 or 256'),
        ('res=big', "'res=big': res takes a value of type int"),
        ('res', "'res': res takes a value of type int"),
        ('tiny=maybe', "'tiny=maybe': tiny takes a value of type bool"),
        ('preset=2020', r"preset=2020: choose from \['modern', 'seed', 'strong'\]"),
        ('ablate=no_face', "ablation 'no_face' is unknown to keypoint; there are .*'chain'"),
        ('ablate=chain+', None),
        ('ablate=chain+no_face', "ablation 'no_face' is unknown"),
        ('ablate=chain+chain', "ablation 'chain' changes nothing"),
        ('preset=seed,ablate=wgan_gp', "ablation 'wgan_gp' changes nothing under these arguments"),
        ('preset=seed,ablate=z512', "ablation 'z512' changes nothing under these arguments"),
    ],
)
@pytest.mark.parametrize('config', [stage1, stage2])
def test_arguments_are_strict(config, arg, message):
    if message is None:
        config.get_config(arg)
        return
    with pytest.raises(ValueError, match=message):
        config.get_config(arg)


def test_arguments_are_typed_and_may_be_missing():
    assert stage1.get_config('tiny').res == stage1.get_config('tiny=true').res == 32
    assert stage1.get_config('tiny=false').res == stage1.get_config().res == 64
    assert stage1.get_config('').res == stage1.get_config(None).res == 64
    assert stage1.get_config('res=128').res == 128


def test_a_patch_to_a_field_that_does_not_exist_names_it():
    with pytest.raises(ValueError, match=r"preset x: config has no field 'loss\.latnet'"):
        common.patch(stage1.get_config(), {'loss.latnet': 1.0}, 'preset x')


# ------------------------------------------------------------------------------ methods and stages


@pytest.mark.parametrize(
    ('path', 'value'),
    [
        ('gan', 'lsgan'),
        ('schedule', 'both'),
        ('extractor_input', 'image'),
        ('prior', 'posterior'),
        ('landmark_source', 'mouth'),
        ('nets.hvae', 'double'),
        ('nets.z_inject', 'add'),
    ],
)
def test_an_unknown_switch_is_named_with_its_choices(tiny_config, path, value):
    config = tiny_config('stage2')
    common.patch(config, {path: value}, 'test')
    with pytest.raises(ValueError, match=rf"config\.{path}='{value}': choose one of \["):
        make_method(config)


@pytest.mark.parametrize('name', ['keypoints', 'nowhere.method', 'no.such.module', 'fi_jax.losses'])
def test_an_unknown_method_is_named(tiny_config, name):
    config = tiny_config('stage1')
    config.method = name
    with pytest.raises(ValueError, match=rf"config\.method='{name}': .*make\(config\)"):
        make_method(config)


def test_a_method_may_live_anywhere_and_its_own_faults_stay_its_own(
    tiny_config, tmp_path, monkeypatch
):
    config = tiny_config('stage1')
    monkeypatch.syspath_prepend(tmp_path)
    for name in ('their', 'broken'):
        monkeypatch.delitem(sys.modules, f'{name}_package.method', raising=False)
        (tmp_path / f'{name}_package').mkdir()
    (tmp_path / 'their_package/method.py').write_text('make = lambda config: config.seed\n')
    (tmp_path / 'broken_package/method.py').write_text('import a_module_they_forgot\n')
    config.method = 'their_package.method'
    assert make_method(config) == config.seed
    config.method = 'broken_package.method'
    with pytest.raises(ModuleNotFoundError, match='a_module_they_forgot'):
        make_method(config)


def test_the_stage_plan_joins_the_stages_in_the_method_s_order(tiny_config):
    config = tiny_config('stage2')
    method = make_method(config)
    config.steps = {'stage2': 3, 'stage1': 5}
    assert stage_plan(method, config) == [('stage1', 0, 5), ('stage2', 5, 8)]
    config.steps.stage1 = 0
    assert stage_plan(method, config) == [('stage2', 0, 3)]


def test_a_plan_of_nothing_or_of_unknown_stages_is_refused(tiny_config):
    config = tiny_config('stage2')
    method = make_method(config)
    config.steps.stage2 = 0
    with pytest.raises(ValueError, match=r"all stages have 0 steps; set one of \['stage1', 'st"):
        stage_plan(method, config)
    config.steps.stage3 = 5
    with pytest.raises(ValueError, match=r"\['stage3'\] are no stages of keypoint; it has \['st"):
        stage_plan(method, config)


def test_a_rate_for_no_net_is_refused(tiny_config):
    config = tiny_config('stage2')
    config.optim.lr_scale.critic = 2.0
    with pytest.raises(ValueError, match=r"lr_scale: no net called \['critic'\]; .*'d_global'"):
        make_optimizers(config, make_method(config).nets)


def test_two_configs_share_no_settings():
    first = landmarks.get_config()
    first.data.warped_holes.none = 0.25
    first.steps.landmarks = 7
    second = landmarks.get_config()
    assert second.data.warped_holes.none == 1 and second.steps.landmarks > 7


def test_parts_of_a_batch_must_hold_whole_pairs():
    config = get('stage2')
    config.batch_size, config.accumulate = 6, 2
    with pytest.raises(ValueError, match=r'batch_size=6, config\.accumulate=2: .* even size'):
        make_method(config)


@pytest.mark.parametrize('arg', ['ablate=hinge_sn', 'ablate=z128', 'preset=seed'])
def test_what_belongs_to_another_system_is_refused(arg):
    with pytest.raises(ValueError, match=r'unknown to landmarks|preset=seed: choose from'):
        landmarks.get_config(f'tiny,{arg}')
    landmarks.get_config('tiny,ablate=bf16+no_ema')  # of any


def test_the_base_names_no_system():
    plain = common.base('tests.masked_autoencoder', 64)
    assert plain.nets.to_dict() == {'width': 8} and list(plain.steps) == ['train']
    assert not {'gan', 'loss', 'landmarks', 'prior', 'preset'} & set(plain)


@pytest.mark.parametrize('name', ['stage2', 'stage2.py', 'configs/stage2.py'])
def test_a_config_is_found_by_its_name_from_any_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert common.find(name).read_text().startswith('"""Stage 2')
    with pytest.raises(FileNotFoundError, match=r'--config=stage3: no such file; .*stage2'):
        common.find('stage3')


def test_settings_of_earlier_versions_are_read_under_todays_names():
    old = {'method': 'keypoint', 'res': 32, 'guide_dropout': 0.25, 'landmark_source': 'fen'}
    old['eval'] = {'reader': 'runs/lm', 'limit': 7}
    old['data'] = {'augment': {'bend': 0.4, 'still': 0.5}, 'bent_holes': {'eyes': 2.0}}
    now = opened(old)
    assert (now.data.augment.expression_warp, now.data.augment.unmoved) == (0.4, 0.5)
    assert now.data.warped_holes.to_dict() == {'eyes': 2.0}
    assert (now.condition_dropout, now.landmark_source) == (0.25, 'none')
    assert (now.eval.landmark_detector, now.eval.limit) == ('runs/lm', 7)
    assert 'guide_dropout' not in now and 'reader' not in now.eval and 'reader' in old['eval']
    fields = common.flat(common.base('keypoint', 32))
    for before, new in common.RENAMED.items():
        assert any(f'{path}.'.startswith(f'{new}.') for path in fields), new
        assert not any(f'{path}.'.startswith(f'{before}.') for path in fields), before


@pytest.mark.parametrize(
    ('old', 'new'),
    [
        ('eval.reader', 'eval.landmark_detector'),
        ('data.augment.bend', 'data.augment.expression_warp'),
        ('data.bent_holes.eyes', 'data.warped_holes.eyes'),
    ],
)
def test_a_flag_of_an_earlier_version_is_refused_with_its_new_name(old, new, capsys):
    with pytest.raises(SystemExit):
        parse_flags(['fi-jax', '--config=stage2', f'--config.{old}=1'])
    assert f'--config.{old} is --config.{new} now' in capsys.readouterr().err


def test_an_ablation_of_an_earlier_version_is_refused_with_its_new_name():
    with pytest.raises(ValueError, match="'no_guide' is 'no_condition' now"):
        get('stage2', ablate='no_guide')


@pytest.mark.slow
def test_a_wheel_holds_the_configs_inside_the_package_and_runs_anywhere(tmp_path):
    root = Path(__file__).parents[1]
    wheel = [sys.executable, '-m', 'pip', 'wheel', '--no-deps', '-q']
    copy = tmp_path / 'source'
    ignored = shutil.ignore_patterns('.git', '.venv*', 'build', '*.egg-info', 'runs')
    shutil.copytree(root, copy, ignore=ignored)
    subprocess.run([*wheel, '-w', str(tmp_path), str(copy)], check=True)
    (file,) = tmp_path.glob('*.whl')
    with zipfile.ZipFile(file) as archive:
        tops = {name.split('/')[0] for name in archive.namelist()}
        assert tops == {'fi_jax', next(t for t in tops if t.endswith('.dist-info'))}
        assert {
            'fi_jax/configs/stage2.py',
            'fi_jax/evaluation/templates/report.html.j2',
            'fi_jax/evaluation/templates/report.css',
            'fi_jax/serve/static/index.html',
        } <= set(archive.namelist())
        archive.extractall(tmp_path / 'site')
    run = [sys.executable, '-m', 'fi_jax.main', '--config=stage2:tiny', '--workdir=run']
    done = subprocess.run(
        [*run, '--config.steps.stage2=0'], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, 'PYTHONPATH': str(tmp_path / 'site')}, check=False,
    )  # fmt: skip
    assert 'all stages have 0 steps' in done.stderr
