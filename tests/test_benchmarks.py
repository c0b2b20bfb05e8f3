"""The benchmarks: parity of the PyTorch version with the real step, and the counting and timing."""

from __future__ import annotations

import argparse
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import authors, data_pipeline, first_step, layers, timing
from benchmarks.step_vs_torch import (
    count_flops,
    in_process,
    make_batch,
    make_config,
    parity,
    tolerance,
)
from configs import stage1, stage2
from fi_jax import config as common
from tests.compilation import QUICK
from tests.conftest import CACHE

HAS_TORCH = importlib.util.find_spec('torch') is not None


# In a process of its own: PyTorch's import warns, and the step wants two devices.
@pytest.mark.skipif(not HAS_TORCH, reason='PyTorch is not installed (pip install .[bench])')
@pytest.mark.parametrize(('stage', 'subpixel'), [('stage1', True), ('stage2', False)])
def test_torch_computes_the_same_step(
    stage: str, subpixel: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One device a core, as in training, in place of the tests' eight.
    monkeypatch.setenv('XLA_FLAGS', QUICK)
    config = make_config(stage, 64, batch_size=4, tiny=True)
    config.compile_cache = CACHE
    errors = in_process(parity, config, stage, make_batch(config), subpixel)
    nets = {'stage1': 4, 'stage2': 6}[stage]
    # Of the draws: 0 where no example's landmarks are known, or no two neighbours have theirs.
    drawn = {'stage1': {'r/l1_features'}, 'stage2': {'r/l1_features', 'critic/d_local_mismatch'}}
    assert drawn[stage] <= errors.keys()
    assert sum(name.startswith('gradient/') for name in errors) == nets
    assert sum(name.startswith('loss/') for name in errors) == {'stage1': 1, 'stage2': 2}[stage]
    assert {name: error for name, error in errors.items() if not error < tolerance(name)} == {}


def conv_loss(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return (layers.conv(x, kernel, 2) ** 2).sum()


def test_flops_of_a_convolution_and_of_its_gradients() -> None:
    x, kernel = jnp.ones((2, 8, 8, 3)), jnp.ones((4, 4, 3, 5))
    once = 2 * (2 * 4 * 4 * 5) * (4 * 4 * 3)
    assert count_flops(jax.make_jaxpr(conv_loss)(x, kernel).jaxpr, max) == once
    both = jax.make_jaxpr(jax.grad(conv_loss, (0, 1)))(x, kernel).jaxpr
    assert count_flops(both, max) == 3 * once


def test_flops_look_into_jit_and_choose_the_branch() -> None:
    product = jax.jit(jnp.matmul)

    def lazily(now: jax.Array, x: jax.Array) -> jax.Array:
        return jax.lax.cond(now, lambda: product(x, x), lambda: x)

    jaxpr = jax.make_jaxpr(lazily)(jnp.array(True), jnp.ones((4, 4))).jaxpr
    assert (count_flops(jaxpr, min), count_flops(jaxpr, max)) == (0, 2 * 4**3)


@pytest.mark.parametrize(
    ('layer', 'case'),
    [
        ('upsample_conv', (4, 3, 3, 2)),
        ('DownConv', (16, 3, 5, 2)),
        ('DownConv', (16, 3, 4, 2)),
        ('DownConv', (8, 3, 5, 2)),
        ('Conv', (8, 3, 3, 2)),
        ('group_norm', (8, 16, 1, 1)),
    ],
)
def test_forms_of_a_layer_are_one_function(layer: str, case: tuple[int, int, int, int]) -> None:
    side, channels, size, features = case
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, side, side, channels)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(size, size, channels, features)), jnp.float32)
    forms, _ = layers.CASES[layer]
    layers.agree(forms, x, kernel)
    wrong = {**forms, 'wrong': lambda x, kernel: 1.01 * next(iter(forms.values()))(x, kernel)}
    with pytest.raises(AssertionError, match='wrong: differs'):
        layers.agree(wrong, x, kernel)


def test_contestants_take_turns_back_and_forth() -> None:
    seen: list[str] = []

    def run(name: str, seconds: float) -> float:
        seen.append(name)
        return seconds

    taken = timing.interleave({'a': lambda: run('a', 0.1), 'b': lambda: run('b', 0.3)}, 3)
    assert seen == ['a', 'b', 'b', 'a', 'a', 'b']
    assert taken == {'a': [0.1] * 3, 'b': [0.3] * 3}


def test_ratios_are_of_the_medians() -> None:
    text = timing.compare('ms', {'a': [1.0, 2.0, 9.0], 'b': [1.0, 1.0, 1.0]}, 'a')
    rows = [line.split() for line in text.splitlines()[2:]]
    assert rows == [['a', '1000.00', '2000.00', '1.00'], ['b', '1000.00', '1000.00', '0.50']]


def test_parts_of_the_pipeline_are_all_timed(tmp_path) -> None:
    arguments = argparse.Namespace(path='', res=64, batch=4, decoded=8)
    config, given = data_pipeline.sources(arguments, tmp_path)
    for name, source in given.items():
        took = data_pipeline.parts(source, config, 8)
        assert min(took.values()) > 0 and ('imdecode alone' in took) == (name == 'JPEG')
    assert len(given['decoded']) == 8


@pytest.mark.parametrize('stage', ['stage1', 'stage2'])
def test_first_step_sets_fields_that_exist(stage: str) -> None:
    arguments = first_step.command(stage, 'tiny', 'runs/x', 'cache')
    fields = common.flat({'stage1': stage1, 'stage2': stage2}[stage].get_config('tiny'))
    named = [a.removeprefix('--config.').partition('=')[0] for a in arguments if '--config.' in a]
    assert named and set(named) <= set(fields)


def test_first_step_tells_why_a_run_ended() -> None:
    arguments = [first_step.sys.executable, '-c', 'import sys; sys.exit("out of luck")']
    with pytest.raises(RuntimeError, match='before its first step:\nout of luck'):
        first_step.until_first_step(arguments)


@pytest.mark.parametrize(
    ('argument', 'named'),
    [
        ('--batch=2', 'FI_JAX_BICYCLEGAN, FI_JAX_PICNET, FI_JAX_STARGAN$'),
        ('--only=picnet', 'in FI_JAX_PICNET$'),
    ],
)
def test_without_the_authors_code_their_variables_are_named(
    argument: str, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for system in authors.SYSTEMS:
        monkeypatch.delenv(system.variable, raising=False)
    monkeypatch.setattr('sys.argv', ['authors', argument])
    with pytest.raises(SystemExit, match=named):
        authors.main()
