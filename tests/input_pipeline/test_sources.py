"""The source that a config names, on small sets and on photographs."""

import os

import numpy as np
import pytest

from fi_jax.input_pipeline import archives, joins, landmark_shards, records, sources
from fi_jax.input_pipeline.landmark_shards import LandmarkRow
from tests.input_pipeline.photos import (
    config,
    encode,
    pixels,
    points,
    write_zip,
)


def test_make_source_joins_and_splits_a_zip(tmp_path):
    images = {f'{i:03d}.png': encode(pixels(i)) for i in range(40)}
    path = write_zip(tmp_path / 'faces.zip', images)
    shards = tmp_path / 'landmarks'
    landmark_shards.write_shards((LandmarkRow(name, points(1)) for name in images), shards)
    persons = {name: i // 4 for i, name in enumerate(images)}
    csv = tmp_path / 'id.csv'
    csv.write_text('file,identity\n' + ''.join(f'{n},{p}\n' for n, p in persons.items()))
    data = config(
        source='zip', path=path, landmarks=shards, identities=csv, val_share=0.1, test_share=0.2
    )
    opened = {split: sources.make_source(data, split) for split in (*joins.SPLITS, 'all')}
    assert {split: len(s) for split, s in opened.items()} == {
        'train': 28, 'val': 4, 'test': 8, 'all': 40
    }  # fmt: skip
    assert len({opened['val'][i].identity for i in range(4)}) == 1
    assert np.array_equal(opened['test'][0].landmarks, points(1))
    assert set(opened['train'].names).isdisjoint(opened['test'].names)


def test_make_source_names_the_field_to_mend(tmp_path, ten):
    folder = os.path.join(tmp_path, 'ten')
    for data, split, message in (
        (config(source='zipp'), 'all', "data.source='zipp'.*procedural, folder, zip, tfds"),
        (config(), 'all', 'data.source=None'),
        (config(source='folder'), 'all', 'data.path is not set'),
        (config(source='tfds'), 'all', 'data.name is not set'),
        (config(source='folder', path=folder), 'validation', "split 'validation' is unknown"),
        (config(source='folder', path=folder, val_share=0.01), 'val', "'val' is empty.*10 images"),
    ):
        with pytest.raises(ValueError, match=message):
            sources.make_source(data, split)
    with pytest.raises(FileNotFoundError, match=r'data\.landmarks=nowhere'):
        sources.make_source(config(source='folder', path=folder, landmarks='nowhere'), 'all')


def test_celeba_s_own_lists_are_joined_as_they_are_distributed(tmp_path):
    """A part of CelebA, in the PNG edition, with lists of spaces, counts and no titles."""
    images = {f'img_align_celeba_png/{i:06d}.png': encode(pixels(i)) for i in range(1, 11)}
    path = write_zip(tmp_path / 'faces.zip', images)
    rows = range(1, 31)  # the lists know more images than the zip has
    for name, text in {
        'identity_CelebA.txt': ''.join(f'{i:06d}.jpg {i % 4}\n' for i in rows),
        'list_eval_partition.txt': ''.join(f'{i:06d}.jpg {i % 3}\n' for i in rows),
        'list_attr_celeba.txt': '30\nMale Young \n'
        + ''.join(f'{i:06d}.jpg {(-1) ** i:2d} -1\n' for i in rows),
    }.items():
        (tmp_path / name).write_text(text)
    data = config(
        source='zip', path=path, identities=tmp_path / 'identity_CelebA.txt',
        attributes=tmp_path / 'list_attr_celeba.txt',
        partition=tmp_path / 'list_eval_partition.txt',
    )  # fmt: skip
    opened = {split: sources.make_source(data, split) for split in (*joins.SPLITS, 'all')}
    assert [len(s) for s in opened.values()] == [3, 4, 3, 10]
    assert opened['val'].names[1] == 'img_align_celeba_png/000004.png'
    assert opened['val'][1].identity == 0
    assert opened['val'][1].attributes == {'Male': 1, 'Young': 0}
    assert opened['test'][0].attributes == {'Male': 1, 'Young': 0}
    data.partition = tmp_path / 'list_attr_celeba.txt'
    with pytest.raises(ValueError, match=r"data\.partition=.*columns \('Male', 'Young'\)"):
        sources.make_source(data, 'val')


def test_make_source_cuts_drawn_faces(tmp_path):
    data = config(source='procedural', length=50, size=32, seed=3, val_share=0.1, test_share=0.2)
    opened = {split: sources.make_source(data, split) for split in (*joins.SPLITS, 'all')}
    assert [len(s) for s in opened.values()] == [35, 5, 10, 50]
    names = {split: {s[i].name for i in range(0, len(s), 4)} for split, s in opened.items()}
    assert names['train'].isdisjoint(names['test'] | names['val'])
    assert records.decode(opened['val'][0].image, 'x').shape == (32, 32, 3)
    assert opened['val'][0].landmarks.shape == (68, 2)


@pytest.mark.shared
def test_the_celeba_photographs():
    root = os.path.join(os.environ['FI_JAX_SHARED'], 'data', 'faces')
    npz = os.path.join(root, 'celeba_dlib68.npz')
    data = config(
        source='zip', path=os.path.join(root, 'celeba_aligned_89x109.zip'), landmarks=npz,
        identities=os.path.join(root, 'celeba_identity.csv'), val_share=0.0556, test_share=0.0541,
    )  # fmt: skip
    whole = sources.make_source(data, 'all')
    records = [whole[i] for i in range(len(whole))]
    assert len(records) == 8986
    with np.load(npz, allow_pickle=False) as stored:
        by_name = {n: p for n, p, d in zip(stored['name'].tolist(), stored['points'],
                                           stored['detected'], strict=True) if d}  # fmt: skip
    joined = {r.name: r.landmarks for r in records if r.landmarks is not None}
    assert joined.keys() == by_name.keys() and len(joined) > 8800
    assert all(np.array_equal(joined[n], by_name[n]) for n in joined)
    assert all(r.identity is not None for r in records)
    opened = {split: sources.make_source(data, split) for split in joins.SPLITS}
    assert [len(s) for s in opened.values()] == [8000, 500, 486]
    identity = {r.name: r.identity for r in records}
    persons = [{identity[name] for name in s.names} for s in opened.values()]
    assert sum(map(len, persons)) == len(set.union(*persons)) == len(set(identity.values()))
    for record in records[::50]:
        assert records.decode(record.image, record.name).shape == (109, 89, 3)


@pytest.mark.shared
@pytest.mark.parametrize(
    ('images', 'table', 'count', 'shape'),
    [
        ('lfw_deepfunneled_250.zip', 'lfw_dlib68.npz', 3714, (250, 250, 3)),
        ('ffhq_256.zip', 'ffhq_dlib68.npz', 566, (256, 256, 3)),
    ],
)
def test_other_photographs(images, table, count, shape):
    root = os.path.join(os.environ['FI_JAX_SHARED'], 'data', 'faces')
    source = joins.with_landmarks(
        archives.Zip(os.path.join(root, images)),
        landmark_shards.read_table(os.path.join(root, table)),
    )
    assert len(source) == count
    record = source[count // 2]
    assert records.decode(record.image, record.name).shape == shape
    assert record.landmarks is not None and record.landmarks.max() < shape[0]
