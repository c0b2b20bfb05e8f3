"""Landmarks and persons joined by name, and splits by person."""

import pickle

import numpy as np
import pytest

from fi_jax.input_pipeline import joins
from fi_jax.input_pipeline.landmark_shards import LandmarkRow
from tests.input_pipeline.photos import (
    points,
)


def test_landmarks_are_joined_by_name_whatever_the_order(ten):
    rows = {f'{i:02d}.png': LandmarkRow(f'{i:02d}.png', points(i), found=i != 3) for i in range(9)}
    joined = joins.with_landmarks(ten, dict(reversed(rows.items())))
    assert joined.names == ten.names and len(joined) == 10
    for i in range(10):
        if i in (3, 9):  # not found, no row
            assert joined[i].landmarks is None
        else:
            assert np.array_equal(joined[i].landmarks, points(i))
        assert joined[i].image == ten[i].image
    copy = pickle.loads(pickle.dumps(joined))
    assert np.array_equal(copy[4].landmarks, points(4))


def test_a_join_without_overlap_shows_a_name_of_each_side(ten):
    with pytest.raises(ValueError, match=r"data\.landmarks.*'00\.png'.*'face_00\.png'"):
        joins.with_landmarks(ten, {'face_00.png': LandmarkRow('face_00.png', points())})
    with pytest.raises(ValueError, match=r"data\.identities.*'00\.png'.*'0\.jpg'"):
        joins.with_values(ten, {'0.jpg': 1}, 'identity', where='data.identities=x')


def test_names_that_differ_in_folder_and_ending_alone_are_matched(ten):
    """CelebA's lists name 000001.jpg what a zip may have as img_align_celeba_png/000001.png."""
    joined = joins.with_values(ten, {'faces/07.jpg': 12}, 'identity', where='x')
    assert [joined[i].identity for i in (0, 7)] == [None, 12]
    rows = {f'faces/{i:02d}.jpg': LandmarkRow('', points(i)) for i in range(10)}
    assert np.array_equal(joins.with_landmarks(ten, rows)[4].landmarks, points(4))
    # As soon as one name fits as it is, or two rows could be meant, nothing is guessed.
    exact = joins.with_values(ten, {'faces/07.jpg': 12, '01.png': 3}, 'identity', where='x')
    assert [exact[i].identity for i in (1, 7)] == [3, None]
    with pytest.raises(ValueError, match='no image has a row'):
        joins.with_values(ten, {'a/07.jpg': 1, 'b/07.jpg': 2}, 'identity', where='x')


@pytest.mark.parametrize(
    ('frame', 'message'),
    [
        ((1, 2), 'expected left, top and side'),
        ((1, 2, 0), 'expected left, top and side'),
        ((1, 2, float('nan')), 'expected left, top and side'),
        ((0, 0, 1, 5, 5, 20), 'mixes pixels and shares'),
    ],
)
def test_a_frame_that_is_none_is_refused(ten, frame, message):
    assert joins.with_frame(ten, (1, 2, 3, 4, 5, 6))[0].frame.tolist() == [[1, 2, 3], [4, 5, 6]]
    with pytest.raises(ValueError, match=message):
        joins.with_frame(ten, frame)


def test_subset_keeps_the_order_of_its_indices(ten):
    part = joins.subset(ten, [7, 2])
    assert part.names == ('07.png', '02.png')
    assert [part[0].name, part[1].name, part[-1].name] == ['07.png', '02.png', '02.png']
    with pytest.raises(IndexError):
        part[2]


def split_names(names, identities, *shares):
    cut = joins.split_indices(names, identities, *shares)
    return {split: {names[i] for i in indices} for split, indices in cut.items()}


def test_splits_cover_all_images_once_at_the_asked_sizes():
    names = [f'{i:06d}.jpg' for i in range(8986)]
    cut = joins.split_indices(names, None, 0.0556, 0.0541)
    assert {split: len(i) for split, i in cut.items()} == {'train': 8000, 'val': 500, 'test': 486}
    assert np.array_equal(np.sort(np.concatenate(list(cut.values()))), np.arange(8986))
    assert all(np.all(np.diff(i) > 0) for i in cut.values())


def test_a_person_is_in_one_split_only_and_the_size_is_not_exceeded():
    rng = np.random.default_rng(0)
    names = [f'{i}.jpg' for i in range(2000)]
    persons = [int(p) for p in rng.integers(0, 300, 2000)]
    cut = joins.split_indices(names, persons, 0.1, 0.2)
    seen = {split: {persons[i] for i in indices} for split, indices in cut.items()}
    assert not seen['train'] & seen['val']
    assert not seen['train'] & seen['test'] and not seen['val'] & seen['test']
    assert 190 <= len(cut['val']) <= 200 and 390 <= len(cut['test']) <= 400


def test_splits_do_not_depend_on_the_order_of_the_images():
    names = [f'{i}.jpg' for i in range(500)]
    persons = [None if i % 5 == 0 else i // 3 for i in range(500)]
    order = np.random.default_rng(1).permutation(500)
    shuffled = [names[i] for i in order], [persons[i] for i in order]
    assert split_names(names, persons, 0.1, 0.1) == split_names(*shuffled, 0.1, 0.1)


def test_test_images_do_not_depend_on_the_share_of_val():
    names = [f'{i}.jpg' for i in range(500)]
    one, other = (split_names(names, None, val, 0.1)['test'] for val in (0.0, 0.3))
    assert one == other and len(one) == 50


def test_splits_are_the_same_in_every_process():
    # Pinned: a hash with a per-process salt, or a change of the rule, would move test images.
    names = [f'{i}.jpg' for i in range(20)]
    cut = joins.split_indices(names, [i // 2 for i in range(20)], 0.2, 0.1)
    assert cut['test'].tolist() == PINNED['test'] and cut['val'].tolist() == PINNED['val']


PINNED = {'test': [12, 13], 'val': [0, 1, 6, 7]}


def test_bad_shares_are_refused():
    assert len(joins.split_indices(['a', 'b'], None, 0, 0)['train']) == 2
    for shares, message in (((-0.1, 0), 'val_share'), ((0, 1.0), 'test_share'), ((0.5, 0.5), 'tr')):
        with pytest.raises(ValueError, match=message):
            joins.split_indices(['a'], None, *shares)
    with pytest.raises(ValueError, match='1 identities for 2 names'):
        joins.split_indices(['a', 'b'], [1], 0.1, 0.1)
