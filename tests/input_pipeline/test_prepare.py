"""Packing a set for TFDS, and reading it back without TensorFlow."""

import concurrent.futures
import dataclasses
import io
import json
import pickle
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

from fi_jax.input_pipeline import archives, joins, landmark_shards, lists, records, sources, tfds
from fi_jax.input_pipeline.landmark_shards import LandmarkRow
from fi_jax.input_pipeline.offline import prepare
from tests.input_pipeline.photos import (
    IMAGES,
    config,
    encode,
    pixels,
    points,
    write_folder,
    write_zip,
)


@pytest.fixture(scope='module')
def packed(tmp_path_factory):
    """A zip of 30 images in several formats, and the TFDS data set packed from it."""
    root = tmp_path_factory.mktemp('packed')
    kinds = ('JPEG', 'PNG', 'WEBP', 'BMP')
    images = {f'd{i % 2}/é{i:02d}.{kinds[i % 4]}': encode(pixels(i), kinds[i % 4])
              for i in range(30)}  # fmt: skip
    write_zip(root / 'faces.zip', images)
    rows = [LandmarkRow(name, points(i), found=i % 5 > 0) for i, name in enumerate(images)]
    landmark_shards.write_shards(rows, root / 'landmarks')
    lines = [f'{name},{i // 3}\n' for i, name in enumerate(images) if i < 24]
    (root / 'id.csv').write_text('file,identity\n' + ''.join(lines))
    arguments = [
        '--source=zip', f'--path={root / "faces.zip"}', '--name=my_faces', f'--out={root / "out"}',
        f'--landmarks={root / "landmarks"}', f'--identities={root / "id.csv"}',
        '--val_share=0.1', '--test_share=0.2',
    ]  # fmt: skip
    assert prepare.main(arguments) == 0
    zipped = config(
        source='zip', path=root / 'faces.zip', landmarks=root / 'landmarks',
        identities=root / 'id.csv', val_share=0.1, test_share=0.2,
    )  # fmt: skip
    return root / 'out', zipped, arguments


def same(one, other):
    if (one.landmarks is None) != (other.landmarks is None):
        return False
    if one.landmarks is not None and not np.array_equal(one.landmarks, other.landmarks):
        return False
    return dataclasses.replace(one, landmarks=None) == dataclasses.replace(other, landmarks=None)


@pytest.mark.parametrize('split', joins.SPLITS)
def test_a_packed_data_set_reads_back_as_its_zip(packed, split):
    out, zipped, _ = packed
    expected = sources.make_source(zipped, split)
    read = tfds.tfds_source('my_faces', split, str(out))
    made = sources.make_source(config(source='tfds', name='my_faces', data_dir=str(out)), split)
    assert len(read) == len(expected) == len(made) == {'train': 21, 'val': 3, 'test': 6}[split]
    copy = pickle.loads(pickle.dumps(read))
    for i in range(len(expected)):
        assert same(expected[i], read[i]) and same(read[i], copy[i]) and same(read[i], made[i])
    with pytest.raises(IndexError):
        read[len(read)]


def test_a_packed_data_set_is_shared_by_threads(packed):
    source = tfds.tfds_source('my_faces', 'all', str(packed[0]))
    expected = [source[i] for i in range(len(source))]
    fresh = tfds.tfds_source('my_faces', 'all', str(packed[0]))
    order = np.random.default_rng(0).integers(0, 30, 1000).tolist()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        records = list(pool.map(fresh.__getitem__, order))
    assert all(same(r, expected[i]) for r, i in zip(records, order, strict=True))


def test_all_splits_of_a_packed_data_set_and_a_slice(packed):
    out, _, _ = packed
    whole = tfds.tfds_source('my_faces', 'all', str(out))
    assert len({whole[i].name for i in range(len(whole))}) == 30
    assert len(tfds.tfds_source('my_faces', 'train[:5]', str(out))) == 5


def test_damaged_records_of_a_packed_data_set_are_bad_images_and_named(packed, tmp_path):
    shutil.copytree(packed[0], tmp_path / 'out')
    (path,) = (tmp_path / 'out').rglob('*train*array_record*')
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 64] = bytes(64)
    path.write_bytes(data)
    source = tfds.tfds_source('my_faces', 'train', str(tmp_path / 'out'))
    bad = []
    for i in range(len(source)):
        try:
            record = source[i]
            records.decode(record.image, record.name)
        except records.BadImage as error:
            bad.append(str(error))
    assert bad
    assert any(re.search(r'record \d+ of train is damaged .*prepare', text) for text in bad)


def test_what_tfds_has_not_is_named(packed, tmp_path):
    out, _, _ = packed
    with pytest.raises(FileNotFoundError, match=r'tfds build celeb_a --data_dir=.*array_record'):
        tfds.tfds_source('celeb_a', 'train', str(tmp_path))
    with pytest.raises(ValueError, match=r"no split 'dev'; it has \['test', 'train', 'val'\]"):
        tfds.tfds_source('my_faces', 'dev', str(out))


def test_packing_again_or_under_a_bad_name_is_refused(packed, capsys):
    out, _, arguments = packed
    before = sorted(out.rglob('*'))
    assert prepare.main(arguments) == 1
    assert 'is there already' in capsys.readouterr().err
    assert prepare.main([*arguments, '--name=My Faces']) == 1
    assert '--name=My Faces' in capsys.readouterr().err
    assert prepare.main([*arguments, '--name=other', '--val_share=2']) == 1
    assert 'data.val_share=2.0' in capsys.readouterr().err
    assert sorted(out.rglob('*')) == before


def test_a_data_set_of_one_split_is_cut_and_one_without_names_is_keyed_by_content(tmp_path):
    import tensorflow_datasets as tfds

    class Plain(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version('1.0.0')
        name = 'plain'
        url_infos = None  # else TFDS looks for a checksums file in this package

        def _info(self):
            features = {
                'photo': tfds.features.Image(shape=(None, None, 3)),
                'attributes': {'Smiling': np.bool_},
                'identity': {'Identity_No': np.int64},
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {'train': self._generate_examples()}

        def _generate_examples(self):
            for i in range(20):
                yield (
                    i,
                    {
                        'photo': io.BytesIO(encode(pixels(i))),
                        'attributes': {'Smiling': i % 2 == 0},
                        'identity': {'Identity_No': i // 2},
                    },
                )

    folder = tmp_path / 'sets'
    tfds.disable_progress_bar()
    Plain(data_dir=folder, file_format='array_record').download_and_prepare()
    data = config(source='tfds', name='plain', data_dir=str(folder), val_share=0.2, test_share=0.1)
    opened = {split: sources.make_source(data, split) for split in joins.SPLITS}
    assert [len(s) for s in opened.values()] == [14, 4, 2]
    persons = [{s[i].identity for i in range(len(s))} for s in opened.values()]
    assert sum(map(len, persons)) == 10 == len(set.union(*persons))
    record = opened['val'][0]
    assert len(record.name) == 16 and int(record.name, 16) >= 0
    assert record.attributes in ({'Smiling': 0}, {'Smiling': 1})
    # Landmarks made under these keys find their images, though the source lists no names.
    joined = joins.with_landmarks(opened['val'], {record.name: LandmarkRow('x', points(1))})
    assert np.array_equal(joined[0].landmarks, points(1)) and joined[1].landmarks is None


def test_celeb_a_of_another_size_is_refused(tmp_path):
    source = archives.Folder(write_folder(tmp_path / 'f', {f'{i}.png': IMAGES['b.png']
                                                          for i in range(9)}))  # fmt: skip
    prepare.prepare(source, 'celeb_a', tmp_path / 'out', val_share=0.2, test_share=0.2)
    with pytest.raises(ValueError, match=r'not the official .*162770'):
        tfds.tfds_source('celeb_a', 'train', str(tmp_path / 'out'))


def test_bad_images_are_listed_and_left_out_or_too_many_refused(tmp_path, capsys):
    images = {f'{i:02d}.png': encode(pixels(i)) for i in range(30)}
    broken = ('03.png', '17.png', '29.png')
    images |= dict.fromkeys(broken, b'broken')
    folder, out = write_folder(tmp_path / 'faces', images), tmp_path / 'out'
    arguments = ['--source=folder', f'--path={folder}', '--name=faces', f'--out={out}']
    assert prepare.main(arguments) == 2
    assert '3 of 30 images' in capsys.readouterr().err
    assert [p.name for p in (out / 'faces').iterdir()] == ['bad.jsonl']
    assert prepare.main([*arguments, '--max_bad=0.1']) == 0
    listed = [json.loads(line) for line in (out / 'faces' / 'bad.jsonl').read_text().splitlines()]
    assert tuple(entry['name'] for entry in listed) == broken
    assert all('not a readable' in entry['reason'] for entry in listed)
    whole = tfds.tfds_source('faces', 'all', str(out))
    assert {whole[i].name for i in range(len(whole))} == set(images) - set(broken)


def test_persons_and_attributes_may_be_read_off_the_names(tmp_path):
    images = {f'P{i // 2}_{20 + i}.png': encode(pixels(i)) for i in range(20)}
    folder = write_folder(tmp_path / 'faces', images)
    arguments = [
        '--source=folder', f'--path={folder}', '--name=aged', f'--out={tmp_path}',
        '--identities=re:^(P.+)_', r'--attributes=re:_(?P<age>\d+)\.png$', '--val_share=0.2',
    ]  # fmt: skip
    assert prepare.main(arguments) == 0
    read = tfds.tfds_source('aged', 'all', str(tmp_path))
    for record in (read[i] for i in range(20)):
        person, age = record.name.removesuffix('.png').split('_')
        assert record.attributes == {'age': int(age)}
        assert record.identity == lists.number_of(person)


def test_a_source_that_fails_while_packing_leaves_nothing(tmp_path):
    class Failing:
        names = ('a', 'b', 'c')
        reads = 0

        def __len__(self):
            return 3

        def __getitem__(self, index):
            self.reads += 1
            if self.reads > 4:
                raise OSError('the disk went away')
            return records.Record(IMAGES['b.png'], self.names[index])

    with pytest.raises(OSError, match='the disk went away'):
        prepare.prepare(Failing(), 'faces', tmp_path, val_share=0, test_share=0)
    assert [p.name for p in tmp_path.rglob('*')] == ['faces']


def test_reading_tfds_imports_neither_tensorflow_nor_jax(packed):
    out, _, _ = packed
    program = (
        'import sys\n'
        'from fi_jax.input_pipeline import tfds\n'
        'from fi_jax.input_pipeline.offline import prepare\n'
        f"tfds.tfds_source('my_faces', 'val', {str(out)!r})[0]\n"
        "print(sorted({'tensorflow', 'jax', 'apache_beam'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == '[]'
