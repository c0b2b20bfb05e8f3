"""Training steps are compiled beside the start of a run, and once."""

import json
import threading

import jax
import pytest

from fi_jax.train import train_and_evaluate
from tests import tiny_run


@pytest.fixture
def compiled():
    """What is compiled: the name of each function, and the thread that compiled it."""
    found = []

    def note(event, seconds, **about):
        if event == '/jax/core/compile/backend_compile_duration':
            found.append((about['fun_name'], threading.current_thread().name))

    jax.monitoring.register_event_duration_secs_listener(note)
    yield found
    jax.monitoring.unregister_event_duration_listener(note)


@pytest.mark.parametrize('minutes', [0, 0.1])
def test_a_step_is_compiled_once_and_not_where_the_run_waits(compiled, tmp_path, minutes):
    config = tiny_run.get_config()
    config.batch_size = config.eval.batch_size = 8
    config.minutes = minutes
    if minutes:
        config.steps.train = 1_000_000
    train_and_evaluate(config, tmp_path)
    assert [where for what, where in compiled if 'train_step' in what] == ['compile_0']

    # So it is when the run goes on.
    compiled.clear()
    if minutes:  # on a busy machine the first start may have taken longer than it was given
        (start,) = (tmp_path / 'starts.jsonl').read_text().splitlines()
        config.minutes += json.loads(start)['seconds'] / 60
    config.steps.train *= 2
    train_and_evaluate(config, tmp_path)
    assert [where for what, where in compiled if 'train_step' in what] == ['compile_0']
