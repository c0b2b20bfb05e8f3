"""Several sets read as one: weights, order, names, persons, splits, the file of sets."""

import os
import pickle
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from fi_jax.input_pipeline import joins, lists, loader, mixture, records, sources
from tests.input_pipeline.photos import config, encode, pixels, write_folder, write_zip


class Numbered:
    """Records that are their names alone."""

    def __init__(self, count):
        self.names = tuple(f'{i:03d}.png' for i in range(count))

    def __len__(self):
        return len(self.names)

    def __getitem__(self, index):
        return records.Record(np.zeros((2, 2, 3), np.uint8), self.names[index], identity=index // 2)


def mixed(counts, weights=None):
    return mixture.Mixture({f's{k}': Numbered(n) for k, n in enumerate(counts)}, weights)


def test_without_weights_each_image_comes_once_and_the_sets_are_interleaved():
    source = mixed([30, 10, 5])
    assert sorted(source.names) == sorted({source[i].name for i in range(45)})
    assert [source[i].name for i in range(45)] == list(source.names)
    for stop in (9, 18, 27):  # the first images of any number have all sets in their shares
        counts = Counter(name.partition('/')[0] for name in source.names[:stop])
        assert counts == {'s0': 6 * stop // 9, 's1': 2 * stop // 9, 's2': stop // 9}
    for count in (100, 1000):  # and each set from end to end: names may sort by age
        places = [int(name[3:-4]) for name in mixed([count]).names[:20]]
        assert max(np.diff(sorted({0, *places, count}))) <= count / 8


@pytest.mark.parametrize('ratio', [1.0, 1.5, 2.0, 3.25, 10.0])
def test_an_epoch_holds_the_least_weighted_once_and_others_as_often_as_their_weight(ratio):
    source = mixed([40, 20], [0.2 * ratio, 0.2])
    counts = Counter(source.names)
    heavy = np.array([counts[f's0/{i:03d}.png'] for i in range(40)])
    assert all(counts[f's1/{i:03d}.png'] == 1 for i in range(20))
    assert heavy.sum() == int(40 * ratio) and set(heavy) <= {int(ratio), int(np.ceil(ratio))}
    assert len(source) == int(40 * ratio) + 20
    assert source.shares()['s1'] == pytest.approx(20 / len(source))


def test_persons_of_two_sets_are_never_the_same_and_those_of_one_stay_so():
    source = mixed([10, 10])
    persons = {source[i].name: source[i].identity for i in range(20)}
    assert persons['s0/002.png'] == persons['s0/003.png'] != persons['s1/002.png']
    assert len(set(persons.values())) == 10
    copy = pickle.loads(pickle.dumps(source))
    assert [copy[i].identity for i in range(20)] == [source[i].identity for i in range(20)]


SETS = r"""
[[set]]
title = 'lfw'
path = 'faces/lfw.zip'
identities = 're:(.+)_\d{4}\.png$'
frame = [1, 2, 6]
val_share = 0.2
test_share = 0.2

[[set]]
title = 'utk'
path = 'faces/utk'
attributes = 're:^(?P<age>\d+)_(?P<female>[01])_'
weight = 3
test_share = 0.0
"""


@pytest.fixture
def sets(tmp_path):
    people = {f'P{i // 2}_{i % 2:04d}.png': encode(pixels(i)) for i in range(20)}
    (tmp_path / 'faces').mkdir()
    write_zip(tmp_path / 'faces' / 'lfw.zip', people)
    aged = {f'{20 + i}_{i % 2}_x.png': encode(pixels(i, 10, 10)) for i in range(10)}
    write_folder(tmp_path / 'faces' / 'utk', aged)
    path = tmp_path / 'sets.toml'
    path.write_text(SETS)
    return path


def test_a_file_of_sets_is_opened_each_with_its_own_joins_frame_and_splits(sets):
    data = config(source='mixture', sets=str(sets), val_share=0.1, test_share=0.1)
    opened = {split: sources.make_source(data, split) for split in (*joins.SPLITS, 'all')}
    # lfw 12, 4, 4; utk 9, 1, 0; in training utk three times.
    assert [len(s) for s in opened.values()] == [12 + 27, 4 + 1, 4, 30]
    seen = {split: set(source.names) for split, source in opened.items()}
    assert seen['train'] | seen['val'] | seen['test'] == seen['all']
    assert sum(map(len, seen.values())) == 2 * 30
    persons = {
        split: {r.identity for r in map(s.__getitem__, range(len(s))) if r.identity is not None}
        for split, s in opened.items()
    }
    assert len(persons['all']) == 10
    assert sum(len(persons[split]) for split in joins.SPLITS) == 10
    record = {r.name: r for r in map(opened['all'].__getitem__, range(30))}
    assert record['lfw/P3_0001.png'].frame.tolist() == [1, 2, 6]
    assert record['lfw/P3_0001.png'].attributes is None
    assert record['utk/25_1_x.png'].frame is None
    assert record['utk/25_1_x.png'].attributes == {'age': 25, 'female': 1}
    assert records.decode(record['utk/25_1_x.png'].image, 'x').shape == (10, 10, 3)


def test_a_set_s_test_images_are_the_same_alone_as_among_others(sets):
    data = config(source='mixture', sets=str(sets), val_share=0.1, test_share=0.1)
    alone = sources.make_source(
        config(
            source='zip', path=str(sets.parent / 'faces' / 'lfw.zip'), val_share=0.2,
            test_share=0.2, identities=r're:(.+)_\d{4}\.png$',
        ),
        'test',
    )  # fmt: skip
    assert set(sources.make_source(data, 'test').names) == {f'lfw/{n}' for n in alone.names}


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (("title = 'utk'", "title = 'lfw'"), 'two sets are called lfw'),
        (("title = 'utk'", "title = 'a/b'"), "title='a/b'; expected a short name"),
        (('weight = 3', 'weight = 0'), 'utk: weight=0; expected a number above 0'),
        (('weight = 3', 'wieght = 3'), "unknown .*'wieght'"),
        (('[[set]]', '[[sets]]'), 'expected one table'),
        (('[[set]]', '[[set'), 'not a readable TOML file'),
        (('faces/lfw.zip', 'faces/lfv.zip'), 'lfw: data.path=.*lfv.zip: no such file'),
        (('frame = [1, 2, 6]', 'frame = [1, 2]'), r'lfw: data.frame=\(1, 2\)'),
        (("path = 'faces/utk'", "source = 'mixture'"), 'utk: a mixture in a mixture'),
    ],
)
def test_a_bad_file_of_sets_names_the_set_and_the_field(sets, change, message):
    sets.write_text(SETS.replace(*change))
    data = config(source='mixture', sets=str(sets), val_share=0.1, test_share=0.1)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        sources.make_source(data, 'train')
    assert str(caught.value).startswith(f'data.sets={sets}')


def test_a_mixture_needs_its_file(tmp_path):
    with pytest.raises(ValueError, match=r'data\.sets is not set'):
        sources.make_source(config(source='mixture'), 'all')
    with pytest.raises(FileNotFoundError, match='no such file'):
        sources.make_source(config(source='mixture', sets=str(tmp_path / 'x.toml')), 'all')


# ------------------------------------------------------------------- the example of the documents


def example():
    text = (Path(__file__).parents[2] / 'docs' / 'data.md').read_text()
    return re.search(r'```toml\n(.+?)```', text, re.DOTALL)[1]


def test_the_example_of_the_documents_is_a_file_of_sets(tmp_path):
    path = tmp_path / 'sets.toml'
    path.write_text(example())
    sets = mixture.read_sets(path)
    assert [s['title'] for s in sets] == ['utkface', 'lfw', 'ffhq', 'helen', 'celeba']
    assert sets[1]['path'] == str(tmp_path / 'faces' / 'lfw-deepfunneled.zip')
    for given in sets:
        for field, read in (
            ('identities', lists.read_identities), ('attributes', lists.read_attributes)
        ):  # fmt: skip
            if given.get(field, '').startswith('re:'):
                read(given[field])
    assert sets[1]['identities'] == r're:([^/]+)_\d{4}\.jpg$'


HERE = {  # of the example -> of the shared folder
    'faces/utkface.zip': 'faces/utkface_200.zip',
    'faces/utkface_points.npz': 'faces/utkface_200_points.npz',
    'faces/lfw-deepfunneled.zip': 'faces/lfw_deepfunneled_250.zip',
    'faces/lfw_points.npz': 'faces/lfw_dlib68.npz',
    'faces/ffhq_points.npz': 'faces/ffhq_dlib68.npz',
    'faces/helen_320.zip': 'landmarks68/ibug_helen_train_afw_320.zip',
    'faces/helen_320.json': 'landmarks68/ibug_helen_train_afw_320.json',
    'faces/img_align_celeba.zip': 'faces/celeba_aligned_89x109.zip',
    'LANDMARKS': 'faces/celeba_dlib68.npz',
    'faces/identity_CelebA.txt': 'faces/celeba_identity.csv',
    'faces/list_attr_celeba.txt': 'faces/celeba_attributes.csv',
    "partition = 'faces/list_eval_partition.txt'\n": '',
    '[10, 38, 156, 36, 80, 104]': '[5, 19, 78, 18, 40, 52]',  # at half of the official size
}
MORE = r"""
[[set]]
title = 'lfw_more'
path = 'faces/lfw_deepfunneled_250_more.zip'
landmarks = 'faces/lfw_more_dlib68.npz'
identities = 're:([^/]+)_\d{4}\.jpg$'
frame = [39, 33, 172, 69, 79, 112]
"""


@pytest.mark.shared
def test_six_sets_of_photographs_are_one_at_128_pixels(tmp_path, tiny_config):
    """In evaluation all but UTKFace lie as FFHQ; training draws between it and UTKFace."""
    data_dir = Path(os.environ['FI_JAX_SHARED']) / 'data'
    text = example() + MORE
    for theirs, ours in HERE.items():
        assert theirs in text
        text = text.replace(theirs, ours)
    path = tmp_path / 'sets.toml'
    path.write_text(re.sub(r"'((?:faces|landmarks68)/)", rf"'{data_dir}/\1", text))
    data = config(source='mixture', sets=str(path), val_share=0.05, test_share=0.05)
    opened = {split: sources.make_source(data, split) for split in (*joins.SPLITS, 'all')}
    assert Counter(name.partition('/')[0] for name in opened['all'].names) == {
        'utkface': 12_050, 'lfw': 3_714, 'lfw_more': 3_000, 'ffhq': 566, 'helen': 1_207,
        'celeba': 8_986,
    }  # fmt: skip
    seen = {split: set(opened[split].names) for split in joins.SPLITS}
    assert set.union(*seen.values()) == set(opened['all'].names)
    assert sum(map(len, seen.values())) == len(opened['all'])
    photos = {split: {n.rpartition('_')[0] for n in seen[split] if 'lfw' in n} for split in seen}
    assert not photos['train'] & photos['test'] and not photos['train'] & photos['val']

    def eyes(points):  # their middle, and the distance of the outer corners, in shares of the side
        corners = points[:, [36, 45]] / 128
        return np.median(corners.mean(1), 0), np.linalg.norm(corners[:, 1] - corners[:, 0], axis=-1)

    settings = tiny_config('stage1')
    settings.res, settings.batch_size = 128, 256
    examples = loader.EvalExamples(opened['test'], settings, 'centre', 600, 1)
    found: dict[str, list[np.ndarray]] = {}
    for i in range(600):
        if examples[i]['has_landmarks']:
            title = opened['test'].names[i].partition('/')[0]
            found.setdefault(title, []).append(examples[i]['landmarks'])
    assert set(found) == {'utkface', 'lfw', 'lfw_more', 'ffhq', 'helen', 'celeba'}
    for title, points in found.items():
        (x, y), apart = eyes(np.array(points))
        assert abs(x - 0.5) < 0.04
        assert abs(y - (0.30 if title == 'utkface' else 0.47)) < 0.05
        assert abs(np.median(apart) - (0.54 if title == 'utkface' else 0.34)) < 0.05
    batches = loader.train_iterator(loader.SkipBadImages(opened['train'], 0.001), settings)
    batch = next(batches)
    batches.close()
    _, apart = eyes(batch['landmarks'][batch['has_landmarks'] > 0])
    assert (
        len(apart) > 240 and 0.25 < np.quantile(apart, 0.1) < 0.4 < np.quantile(apart, 0.9) < 0.62
    )
