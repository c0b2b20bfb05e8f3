"""The table of systems: its list, the flags of equal trainings, what is done twice and what not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import table
from fi_jax.evaluation import results as res
from tests import tiny_weights
from tests.compilation import QUICK

ROOT = Path(__file__).parents[1]
TWO = """
[[system]]
name = "ours"
config = "bicyclegan"

[[system]]
name = "DE-GAN, small"
config = "degan"
"""


def listed(tmp_path, text):
    path = tmp_path / 'list.toml'
    path.write_text(text)
    return path


def test_the_list_that_comes_along_names_configs_that_are_there():
    systems = table.read_list(table.LIST)
    options, shared = table.parse(['--out=x', '--images=10000'])
    for system in systems:
        flags = table.training(system, options, shared)
        assert (ROOT / 'configs' / f'{system.config.partition(":")[0]}.py').is_file()
        assert any(flag.startswith('--config.steps.') for flag in flags), system.name
    shares = {s.name: s.share for s in systems}
    assert all(s.share + shares[s.after] == 1 for s in systems if s.after)


@pytest.mark.parametrize(
    ('text', 'said'),
    [
        (TWO + TWO, 'two systems'),
        (TWO.replace('config = "degan"', 'config = "degan"\nseed = 1'), "no fields \\['seed'\\]"),
        (TWO + '\n[[system]]\nname="c"\nconfig="degan"\nafter="d"', 'is no training before it'),
        (TWO + '\n[[system]]\nname="c"', 'c: give config, or weights'),
        ('', 'names no system'),
    ],
)
def test_a_wrong_list_is_refused_by_name(tmp_path, text, said):
    with pytest.raises(ValueError, match=said):
        table.read_list(listed(tmp_path, text))


def test_weights_from_elsewhere_are_found_from_the_list_on_and_scored_alone(tmp_path, capsys):
    entry = '\n[[system]]\nname = "theirs"\nweights = "their.safetensors"'
    with pytest.raises(FileNotFoundError, match=r'theirs: weights=their\.safetensors'):
        table.read_list(listed(tmp_path, TWO + entry))
    file = tiny_weights.write(tmp_path / 'their.safetensors')
    asked = [f'--systems={listed(tmp_path, TWO + entry)}', '--out=x', '--tiny']
    faces = '--config.data.source=procedural', '--config.data.test_share=0.2'
    options, shared = table.parse([*asked, *faces])
    first, _, system = options.systems
    flags = table.evaluation(system, options, shared)
    assert f'--checkpoint={file}' in flags and flags[-1] == '--config.data.test_share=0.2'
    assert not any('--checkpoint' in flag for flag in table.evaluation(first, options, shared))
    for wrong, said in ((asked, 'data.source'), ([*asked[:2], *faces], '32 pixels')):
        with pytest.raises(SystemExit):
            table.parse(wrong)
        assert said in capsys.readouterr().err


def test_all_see_as_many_images_whatever_their_batches(tmp_path):
    args = [f'--systems={listed(tmp_path, TWO)}', '--out=x', '--images=6400']
    options, shared = table.parse([*args, '--config.data.length=99'])
    first, second = (table.training(s, options, shared) for s in options.systems)
    assert '--config.steps.bicycle=400' in first and '--config.steps.degan=400' in second
    assert '--config.data.length=99' in first and '--config.data.length=99' in second
    options, shared = table.parse([*args, '--config.batch_size=32'])
    assert '--config.steps.degan=200' in table.training(options.systems[1], options, shared)
    options, shared = table.parse([*args[:2], '--minutes=3'])
    assert '--config.minutes=3.0' in table.training(options.systems[0], options, shared)


def test_what_was_done_with_other_flags_is_not_taken_for_done(tmp_path):
    assert not table.finished(tmp_path, 'training', ['--a'])
    (tmp_path / 'table_training.json').write_text(json.dumps({'flags': ['--a'], 'seconds': 1}))
    assert table.finished(tmp_path, 'training', ['--a'])
    again = {'flags': ['--a=1', '--b=2'], 'seconds': 1}
    (tmp_path / 'table_scoring.json').write_text(json.dumps(again))
    assert table.finished(tmp_path, 'scoring', ['--b=3', '--a=1', '--b=2'])  # the last counts
    with pytest.raises(ValueError, match=r'--b=2 --b=3'):
        table.finished(tmp_path, 'scoring', ['--b=3', '--a=1'])
    with pytest.raises(ValueError, match='other flags'):
        table.finished(tmp_path, 'training', ['--b'])


@pytest.mark.slow
def test_two_systems_are_trained_scored_and_compared_and_again_nothing_is(tmp_path):
    out = tmp_path / 'out'
    command = [
        sys.executable, '-m', 'benchmarks.table', f'--systems={listed(tmp_path, TWO)}',
        f'--out={out}', '--tiny', '--config.eval.metrics=image',
    ]  # fmt: skip
    env = {**os.environ, 'PYTHONPATH': str(ROOT), 'XLA_FLAGS': QUICK}  # one device

    def run():
        return subprocess.run(command, check=False, capture_output=True, text=True, env=env)

    first = run()
    assert first.returncode == 0, first.stderr[-2000:]
    text = (out / 'README.md').read_text()
    assert '| ours' in text and '| DE-GAN, small' in text and 'ours minus each' in text
    assert (out / 'report' / 'table.html').is_file()
    runs = [res.load(out / name / 'eval' / 'table.npz') for name in ('ours', 'DE-GAN_small')]
    np.testing.assert_array_equal(runs[0].fingerprint, runs[1].fingerprint)
    assert 'telea' in runs[0].scores and 'telea' not in runs[1].scores
    when = {p: p.stat().st_mtime_ns for p in out.glob('*/eval/table.npz')}
    again = run()
    assert again.returncode == 0 and again.stdout.count('is done') == 4
    assert when == {p: p.stat().st_mtime_ns for p in out.glob('*/eval/table.npz')}
