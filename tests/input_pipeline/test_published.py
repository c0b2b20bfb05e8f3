"""Official files of published sets, made small: the complete is read, the rest refused."""

import argparse
import dataclasses
import hashlib
import json

import numpy as np
import pytest
from PIL import Image

from fi_jax import landmarks as lm
from fi_jax.input_pipeline import (
    alignment,
    joins,
    landmark_shards,
    published,
    records,
    sources,
    tfds,
)
from fi_jax.input_pipeline.landmark_shards import LandmarkRow
from fi_jax.input_pipeline.offline import prepare

COUNT = 12
TITLES = [f'A{i}' for i in range(40)]


def image(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 16, 3), np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def celeba(tmp_path, monkeypatch):
    """A folder of twelve images and their lists, and the facts that describe it."""
    root = tmp_path / 'celeba'
    names = [f'{i:06d}.jpg' for i in range(1, COUNT + 1)]
    for i, name in enumerate(names):
        image(root / 'Img' / 'img_align_celeba' / name, i)
    attributes = [f'{n} ' + ' '.join('1' if (i + k) % 3 else '-1' for k in range(40))
                  for i, n in enumerate(names)]  # fmt: skip
    lists = {
        'Eval/list_eval_partition.txt': [f'{n} {(i >= 7) + (i >= 10)}'
                                         for i, n in enumerate(names)],
        'Anno/identity_CelebA.txt': [f'{n} {100 + i // 2}' for i, n in enumerate(names)],
        'Anno/list_attr_celeba.txt': [str(COUNT), ' '.join(TITLES), *attributes],
    }  # fmt: skip
    md5 = {}
    for name, lines in lists.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text('\n'.join(lines) + '\n')
        md5[name.split('/')[1]] = hashlib.md5((root / name).read_bytes()).hexdigest()
    ends = {'train': 7, 'val': 10, 'test': 12}
    facts = dataclasses.replace(published.CELEBA, ends=ends, md5=md5)
    monkeypatch.setattr(published.celeba, '__defaults__', (facts,))
    return root, facts


def test_celeba_has_its_official_splits_persons_and_attributes(celeba):
    root, facts = celeba
    whole = published.celeba(str(root), facts)
    assert {s: ix.tolist() for s, ix in whole.splits.items()} == {
        'train': list(range(7)), 'val': [7, 8, 9], 'test': [10, 11],
    }  # fmt: skip
    record = whole[8]
    assert record.name == '000009.jpg' and record.identity == 104
    assert list(record.attributes) == TITLES and record.attributes['A0'] == int(8 % 3 != 0)
    data = argparse.Namespace(source='celeba', path=str(root), landmarks=None)
    assert [len(sources.make_source(data, s)) for s in (*joins.SPLITS, 'all')] == [7, 3, 2, 12]


def test_the_official_numbers():
    assert published.CELEBA.count == 202_599 and len(published.CELEBA.md5) == 3
    assert published.CELEBA.sizes == {'train': 162_770, 'val': 19_867, 'test': 19_962}
    assert published.CELEBA_HQ.sizes == {'train': 24_183, 'val': 2_993, 'test': 2_824}
    assert published.FFHQ.sizes == {'train': 60_000, 'val': 10_000}


@pytest.mark.parametrize(
    ('harm', 'error', 'message'),
    [
        ('an image gone', ValueError, '1 of 12 images of CelebA are missing, such as 000003'),
        ('a strange image', ValueError, r"13 images where CelebA has 12.*\['cat'\]"),
        ('a list gone', FileNotFoundError, 'no identity_CelebA.txt'),
        ('a list cut', ValueError, r'list_eval_partition.txt is not the official file \(md5'),
        ('no images', FileNotFoundError, 'no img_align_celeba.zip or img_align_celeba in it'),
        ('no folder', FileNotFoundError, 'no such folder'),
    ],
)
def test_a_partial_or_damaged_download_is_refused_with_what_is_missing(
    celeba, harm, error, message
):
    root, facts = celeba
    images = root / 'Img' / 'img_align_celeba'
    if harm == 'an image gone':
        (images / '000003.jpg').unlink()
    elif harm == 'a strange image':
        image(images / 'cat.jpg', 0)
    elif harm == 'a list gone':
        (root / 'Anno' / 'identity_CelebA.txt').unlink()
    elif harm == 'a list cut':
        path = root / 'Eval' / 'list_eval_partition.txt'
        path.write_text(path.read_text()[:-9])
    elif harm == 'no images':
        images.rename(root / 'pictures')
    else:
        root = root / 'nowhere'
    with pytest.raises(error, match=message):
        published.celeba(str(root), facts)


def test_celeba_hq_is_cut_as_celeba_is(tmp_path):
    originals = [5, 11, 1, 9, 12, 3]
    for i in range(6):
        image(tmp_path / 'CelebA-HQ-img' / f'{i}.jpg', i)
    lines = [f'{i:<10d} {n - 1:<10d} {n:06d}.jpg' for i, n in enumerate(originals)]
    mapping = tmp_path / 'CelebA-HQ-to-CelebA-mapping.txt'
    mapping.write_text('\n'.join(['idx orig_idx orig_file', *lines, '']))
    parent = dataclasses.replace(published.CELEBA, ends={'train': 7, 'val': 10, 'test': 12})
    facts = dataclasses.replace(published.CELEBA_HQ, ends={'train': 3, 'val': 4, 'test': 6})
    whole = published.celeba_hq(str(tmp_path), facts, parent)
    cut = {s: [whole.names[i] for i in ix] for s, ix in whole.splits.items()}
    assert cut == {'train': ['0.jpg', '2.jpg', '5.jpg'], 'val': ['3.jpg'],
                   'test': ['1.jpg', '4.jpg']}  # fmt: skip
    mapping.write_text(mapping.read_text().replace('000009', '000010').replace('000012', '000002'))
    with pytest.raises(ValueError, match='are not the official'):
        published.celeba_hq(str(tmp_path), facts, parent)
    mapping.write_text('idx orig_idx orig_file\n')
    with pytest.raises(ValueError, match='has 0 rows'):
        published.celeba_hq(str(tmp_path), facts, parent)


def test_ffhq_is_read_from_folders_of_a_thousand(tmp_path):
    for i in range(6):
        image(tmp_path / f'{i // 3:02d}' / f'{i:05d}.png', i)
    facts = dataclasses.replace(published.FFHQ, ends={'train': 4, 'val': 6})
    whole = published.ffhq(str(tmp_path), facts)
    assert whole.names[4] == '00004.png' and whole.splits['val'].tolist() == [4, 5]
    (tmp_path / '01' / '00005.png').unlink()
    with pytest.raises(ValueError, match='1 of 6 images of FFHQ are missing, such as 00005'):
        published.ffhq(str(tmp_path), facts)


# ------------------------------------------------------------------------------- prepare


def test_a_published_set_is_packed_with_its_splits_attributes_and_terms(celeba, capsys):
    root, facts = celeba
    out = root.parent / 'sets'
    arguments = ['--source=celeba', f'--path={root}', '--name=faces', f'--out={out}']
    assert prepare.main(arguments) == 0
    assert 'Splits: official list_eval_partition.txt' in capsys.readouterr().out
    metadata = json.loads((out / 'faces' / '1.0.0' / 'metadata.json').read_text())
    assert metadata['splits'] == {'train': 7, 'val': 3, 'test': 2}
    assert metadata['split_rule'] == facts.rule and metadata['terms'] == facts.terms
    digest = hashlib.sha256(b'000011.jpg\n000012.jpg').hexdigest()
    assert metadata['split_names_sha256']['test'] == digest
    read = tfds.tfds_source('faces', 'val', str(out))
    expected = published.celeba(str(root), facts)
    for i in range(3):
        one, other = read[i], expected[7 + i]
        assert one == other


def test_a_packed_set_is_packed_again_with_the_same_splits(celeba):
    root, _ = celeba
    out = root.parent / 'sets'
    prepare.main(['--source=celeba', f'--path={root}', '--name=faces', f'--out={out}'])
    arguments = ['--source=tfds', '--set=faces', f'--data_dir={out}', '--name=again',
                 f'--out={out}']  # fmt: skip
    assert prepare.main(arguments) == 0
    for split in joins.SPLITS:
        one, other = (tfds.tfds_source(n, split, str(out)) for n in ('faces', 'again'))
        assert [one[i] for i in range(len(one))] == [other[i] for i in range(len(other))]


def test_aligned_faces_store_the_way_back(celeba, tmp_path):
    root, _ = celeba
    rng = np.random.default_rng(0)
    names = [f'{i:06d}.jpg' for i in range(1, COUNT + 1)]
    faces = [lm.mean_landmarks((14, 14)) + rng.uniform(0, 4, 2) for _ in names]
    rows = [LandmarkRow(n, f.astype(np.float32), found=i != 2)
            for i, (n, f) in enumerate(zip(names, faces, strict=True))]  # fmt: skip
    landmark_shards.write_shards(rows, tmp_path / 'shards')
    out = tmp_path / 'sets'
    arguments = [
        '--source=celeba', f'--path={root}', '--name=faces', f'--out={out}', '--align=32',
        f'--landmarks={tmp_path / "shards"}', f'--export_features={tmp_path / "png"}',
    ]  # fmt: skip
    assert prepare.main(arguments) == 0
    listed = (out / 'faces' / 'bad.jsonl').read_text()
    assert json.loads(listed) == {'name': '000003.jpg', 'reason': prepare.NO_LANDMARKS}
    read = tfds.tfds_source('faces', 'all', str(out))
    assert len(read) == COUNT - 1
    mean = lm.mean_landmarks((32, 32))
    for i in range(len(read)):
        record = read[i]
        original = faces[names.index(record.name)]
        assert records.decode(record.image, record.name).shape == (32, 32, 3)
        assert np.abs(record.landmarks - mean).max() < 0.05
        assert np.abs(alignment.apply(record.to_source, mean) - original).max() < 0.05
    assert len(list((tmp_path / 'png').glob('*/mask.png'))) == COUNT - 1


def test_drawn_faces_are_packed_as_png(tmp_path):
    arguments = ['--source=procedural', '--length=6', '--size=32', '--name=drawn',
                 f'--out={tmp_path}', '--test_share=0.2', '--val_share=0.2']  # fmt: skip
    assert prepare.main(arguments) == 0
    read = tfds.tfds_source('drawn', 'all', str(tmp_path))
    drawn = sources.make_source(
        argparse.Namespace(source='procedural', length=6, size=32, seed=0), 'all'
    )
    by_name = {drawn[i].name: drawn[i] for i in range(6)}
    for i in range(6):
        expected = by_name[read[i].name]
        assert np.array_equal(records.decode(read[i].image, 'x'), expected.image)
        assert np.array_equal(read[i].landmarks, expected.landmarks)
