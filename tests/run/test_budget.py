"""Training to a time: stages share the minutes, schedules follow them, resumes go on."""

import itertools
import json

import jax
import numpy as np
import pytest

from fi_jax import steps
from fi_jax.methods import make_method
from fi_jax.optim import make_optimizers, rate_scale
from fi_jax.pretrained import open_weights
from fi_jax.run import budget
from fi_jax.state import example_batch, init_state
from fi_jax.train import train_and_evaluate
from tests import tiny_run
from tests.states import state_of


@pytest.fixture
def clock(monkeypatch):
    """A clock that shows one second more at each look."""
    ticks = itertools.count()
    monkeypatch.setattr(budget, 'now', lambda: float(next(ticks)))


def test_stages_share_the_minutes_by_their_steps(monkeypatch):
    time = [0.0]
    monkeypatch.setattr(budget, 'now', lambda: time[0])
    one = budget.Budget(13.0, {'a': 500, 'b': 150}, spent=60.0, begin=0.0)
    for minutes, a, b in ((0, 50, 0), (4, 250, 0), (9, 500, 0), (10.5, 500, 75), (14, 500, 150)):
        time[0] = 60.0 * minutes
        assert one.moment('a', 0, 7) == pytest.approx(a)
        assert one.moment('b', 3, 7) == pytest.approx(b)
    assert budget.Budget(0, {'a': 500}, 0.0, 0.0).moment('a', 100, 350) == 250


def test_the_rate_follows_the_moment_and_the_warm_up_the_steps():
    config = tiny_run.get_config()
    config.optim.decay_share, config.optim.warmup_steps = 0.5, 10
    assert float(rate_scale(4, 100, config.optim, 75.0)) == pytest.approx(0.5 * 0.5)
    assert float(rate_scale(75, 100, config.optim)) == pytest.approx(0.5)


def test_a_step_at_the_end_of_its_time_moves_nothing():
    config = tiny_run.get_config()
    config.batch_size, config.optim.decay_share = 8, 1.0
    method = make_method(config)
    optimizers = make_optimizers(config, method.nets)
    state = init_state(method, optimizers, config.res, 0)
    step = jax.jit(steps.make_train_step(method, 'train', optimizers, config))
    batch = example_batch(config.res, 8)
    batch['hole'] += 1
    for moment, moves in ((0.0, True), (float(config.steps.train), False)):
        after, _ = step(state, batch, {}, np.float32(moment))
        pairs = zip(jax.tree.leaves(state.nets), jax.tree.leaves(after.nets), strict=True)
        params = jax.tree.leaves(after.nets['autoencoder'].params)
        before = jax.tree.leaves(state.nets['autoencoder'].params)
        assert any((a != b).any() for a, b in zip(before, params, strict=True)) == moves
        assert pairs


def test_a_run_ends_with_its_minutes_and_goes_on_with_more(clock, tmp_path):
    config = tiny_run.get_config()
    config.batch_size = config.eval.batch_size = 8
    config.minutes, config.steps.train = 12 / 60, 1_000_000
    first = int(train_and_evaluate(config, tmp_path).step)
    assert 3 <= first <= 12
    # Saved, and exported; the same command has no time left.
    assert int(state_of(config, tmp_path).step) == first
    assert open_weights(tmp_path / 'weights.safetensors').about['step'] == first
    assert int(train_and_evaluate(config, tmp_path).step) == first
    config.minutes = 20 / 60
    more = int(train_and_evaluate(config, tmp_path).step)
    assert first < more <= 20
    lines = [json.loads(x) for x in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
    assert [x['step'] for x in lines if 'loss/reconstruct' in x] == list(range(1, more + 1))
