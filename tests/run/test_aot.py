"""Ahead-of-time compilation: what is counted, what is read off a program, and what fits."""

import importlib.util
import json

import jax
import jax.numpy as jnp
import pytest

from fi_jax.run import aot
from fi_jax.run.faults import Exit
from tests import tiny_run
from tests.processes import Program


def flops(fn, *shapes, **kwargs):
    args = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return aot.matmul_flops(jax.make_jaxpr(fn)(*args).jaxpr, **kwargs)


def conv(x, w, stride=1, padding='SAME', **kwargs):
    numbers = ('NHWC', 'HWIO', 'NHWC')
    return jax.lax.conv_general_dilated(
        x, w, (stride, stride), padding, dimension_numbers=numbers, **kwargs
    )


def test_products_count_twice_their_multiplications():
    assert flops(jnp.matmul, (3, 5), (5, 7)) == 2 * 3 * 5 * 7
    assert flops(lambda x, w: conv(x, w, padding='VALID'), (2, 8, 8, 3), (3, 3, 3, 4)) == (
        2 * 2 * 6 * 6 * 9 * 3 * 4
    )
    # Padding is no work: at 8 pixels a 3-tap row has 22 real taps, not 24.
    assert flops(conv, (1, 8, 8, 3), (3, 3, 3, 4)) == 2 * 22 * 22 * 3 * 4
    by_channel = flops(lambda x, w: conv(x, w, feature_group_count=4), (1, 8, 8, 4), (3, 3, 1, 4))
    assert by_channel == flops(conv, (1, 8, 8, 1), (3, 3, 1, 4))


@pytest.mark.parametrize('stride', [1, 2])
def test_each_gradient_costs_as_much_as_its_convolution(stride):
    """By the input and by the kernel, the holes of their dilations left out."""

    def forward(x, w):
        return conv(x, w, stride)

    def loss(x, w):
        return forward(x, w).sum()

    shapes = (2, 16, 16, 3), (5, 5, 3, 8)
    assert flops(jax.value_and_grad(loss, (0, 1)), *shapes) == 3 * flops(forward, *shapes)


def test_loops_count_each_turn_and_conditionals_their_share():
    def loop(x, w):
        return jax.lax.scan(lambda c, _: (c @ w, None), x, length=5)[0]

    def maybe(x, w):
        return jax.lax.cond(x[0, 0] > 0, lambda: x @ w, lambda: x)

    once = 2 * 4 * 4 * 4
    assert flops(loop, (4, 4), (4, 4)) == 5 * once
    assert flops(maybe, (4, 4), (4, 4)) == once
    assert flops(maybe, (4, 4), (4, 4), cond=0.25) == once / 4
    assert flops(jax.checkpoint(loop), (4, 4), (4, 4)) == 5 * once


def test_the_count_is_that_of_the_compiler():
    """XLA counts the same products, and little else in a program of products alone."""

    def program(x, w, v):
        return conv(x, w, 2).reshape(2, -1) @ v

    shapes = (2, 16, 16, 8), (5, 5, 8, 16), (1024, 32)
    args = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    cost = jax.jit(program).lower(*args).compile().cost_analysis()
    assert flops(program, *shapes) == pytest.approx(cost['flops'], rel=0.03)


def test_collectives_are_read_off_a_program():
    hlo = """
  %all-reduce.1 = (f32[8,4]{1,0}, bf16[10]{0}) all-reduce(%a, %b), channel_id=1
  %ag = f32[16,4]{1,0} all-gather(%p), dimensions={0}
  %s = (f32[2,4]{1,0}, f32[16,4]{1,0}) all-gather-start(%p), dimensions={0}
  %d = f32[16,4]{1,0} all-gather-done(%s)
  ROOT %fusion = f32[8]{0} fusion(%all-reduce.1), calls=%c
"""
    assert aot.collective_bytes(hlo) == {'all-reduce': 8 * 4 * 4 + 20, 'all-gather': 2 * 16 * 4 * 4}


def test_the_step_of_a_config_is_compiled_and_logged(tmp_path, caplog):
    config = tiny_run.get_config()
    config.compile.batches = (8, 16)
    rows = aot.compile_run(config, tmp_path, 'cpu:8')
    assert [row['batch'] for row in rows] == [8, 16]
    for row in rows:
        assert row['alias_bytes'] >= row['state_bytes']  # the whole state is donated
        assert row['flops'] >= row['matmul_flops'] > 0
        assert set(row['collectives']) == {'all-reduce'}
    assert rows[1]['matmul_flops'] == pytest.approx(2 * rows[0]['matmul_flops'])
    config.compile.batches = (8,)
    aot.compile_run(config, tmp_path, 'cpu:8')
    text = aot.as_text(rows)
    assert len(text.splitlines()) == 4 and 'cpu:8' in text


def test_bounds_follow_the_slowest_part():
    row = {
        'flops': 1e12, 'bytes': 1e9, 'collectives': {'all-reduce': 10}, 'batch': 256,
        'matmul_flops': 2.0, 'matmul_flops_mean': 1.0,
    }  # fmt: skip
    chip = aot.CHIPS['v5e']
    bound = aot.roofline(row, chip)
    assert bound['bound_by'] == 'arithmetic'
    assert bound['bound_s'] == pytest.approx(0.5 * 1e12 / chip.flops)
    assert aot.roofline(row | {'bytes': 1e13}, chip)['bound_by'] == 'memory'
    assert aot.roofline(row | {'collectives': {'all-reduce': 1e13}}, chip)['bound_by'] == 'links'


@pytest.mark.parametrize('topology', ['v5e', 'v5e:4', 'v9z:2x2', 'h100:2x2', 'cpu:9', 'tpu'])
def test_an_unknown_topology_is_refused_with_examples(topology):
    with pytest.raises(ValueError, match=rf'--topology=.{{0,1}}{topology}'):
        aot.describe(topology)


def small_chip():
    """For the program: a chip that holds the step of tests/tiny_run.py at batch 8, not at 512."""
    aot.CHIPS['cpu'] = aot.CHIPS['v5e']._replace(hbm=10e6)


def compile_for(topology, folder, batches, before=''):
    """(exit code, what was printed, rows of the table) of the program, started for real."""
    code, out = Program(
        folder, '--config=tests/tiny_run.py', '--mode=compile', f'--topology={topology}',
        f'--workdir={folder}', f'--config.compile.batches={batches}', before=before,
    ).finish()  # fmt: skip
    return code, out, {r['batch']: r for r in json.loads((folder / 'compile.json').read_text())}


def check_what_does_not_fit(topology, folder, small, large, before=''):
    code, out, rows = compile_for(topology, folder, f'({small},{large})', before)
    assert code == Exit.PARTIAL, out
    assert (rows[small]['fits'], rows[large]['fits']) == (True, False)
    assert f'error: {topology}: train at batch {large} (32 px) does not fit' in out
    assert f'train at batch {small}' not in out and 'Traceback' not in out
    code, out, _ = compile_for(topology, folder, f'({large},)', before)
    assert code == Exit.USER_ERROR and f'train at batch {large}' in out, out
    code, out, rows = compile_for(topology, folder, f'({small},)', before)
    assert code == Exit.DONE and set(rows) == {small, large}, out
    return rows


def test_exit_codes_tell_whether_all_some_or_none_fit(tmp_path):
    check_what_does_not_fit('cpu:1', tmp_path, 8, 512, 'tests.run.test_aot:small_chip')


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec('libtpu') is None, reason='needs libtpu')
def test_a_tpu_slice_is_compiled_for_and_what_its_compiler_refuses_is_a_row(tmp_path):
    rows = check_what_does_not_fit('v5e:2x2', tmp_path, 64, 2**20)
    assert rows[2**20]['hbm_bytes'] > aot.CHIPS['v5e'].hbm > rows[64]['hbm_bytes']
    assert 'flops' not in rows[2**20]  # its compiler ended with RESOURCE_EXHAUSTED
    assert rows[64]['bound_by'] == 'memory'
