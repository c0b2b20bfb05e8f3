"""The schema of a batch: what the pipeline gives fits it, and what does not is named."""

import jax
import numpy as np
import pytest

from fi_jax import batch as schema
from fi_jax import features
from fi_jax.batch import BATCH, PREPARED, READ, check
from fi_jax.state import example_batch


def test_the_example_and_what_is_made_of_it_fit():
    raw = example_batch(32, 3)
    check(raw, BATCH, B=3, R=32)
    check(jax.eval_shape(features.prepare, raw), PREPARED, B=3, R=32)
    assert set(raw) == {name for name, spec in BATCH.items() if not spec.optional}


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({'hole': np.zeros((2, 16, 16, 1), np.uint8)},
         r"batch\['hole'\] is \(2, 16, 16, 1\) uint8; expected \(B=2, R=32, R=32, 1\) uint8, "),
        ({'hole': np.zeros((2, 32, 32, 1), np.float32)},
         r"batch\['hole'\] is .* float32; expected .* uint8, missing pixels"),
        ({'weight': np.ones((2, 1), np.float32)},
         r"batch\['weight'\] is \(2, 1\) float32; expected \(B=2\) float32, 0 for rows"),
        ({'index': np.zeros(3, np.int32)}, r"batch\['index'\] is \(3,\) .* expected \(B=2\)"),
        ({'guidance': np.ones(2)}, r"batch\['guidance'\] is \(2,\) float64"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named_with_what_was_found_and_expected(changes, words):
    with pytest.raises(ValueError, match=words):
        check(example_batch(32, 2) | changes, BATCH)


def test_a_missing_key_is_named_and_others_pass():
    raw = example_batch(32, 2) | {'of_another': np.zeros(7)}
    check(raw, BATCH)
    del raw['hole']
    with pytest.raises(ValueError, match=r"no 'hole'; expected \(B=2, R=32, R=32, 1\) uint8"):
        check(raw, BATCH)
    with pytest.raises(ValueError, match="no 'hole'"):
        features.prepare(raw)


def test_attributes_are_there_where_any_are_wanted():
    assert 'attributes' not in schema.zeros(READ, B=2, S=8)
    read = schema.zeros(READ, B=2, S=8, K=3)
    assert read['attributes'].shape == read['has_attributes'].shape == (2, 3)
    check(read, READ, B=2, S=8, K=3)
    with pytest.raises(ValueError, match=r"\['attributes'\] is \(2, 3\) .*\(B=2, K=4\)"):
        check(read, READ, K=4)
