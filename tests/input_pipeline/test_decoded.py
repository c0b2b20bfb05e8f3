"""Sets kept decoded: the same examples as from the files, every flipped bit named, refusals."""

import argparse
import dataclasses
import json
import pickle
import sys

import cv2
import numpy as np
import pytest

from configs import landmarks, stage1
from fi_jax.input_pipeline import loader, reading
from fi_jax.input_pipeline.decoded import Decoded
from fi_jax.input_pipeline.offline.prepare import TooManyBad, main, prepare
from fi_jax.input_pipeline.procedural.faces import ProceduralFaces
from fi_jax.input_pipeline.records import BadImage, decode
from fi_jax.input_pipeline.sources import make_source

FACES = 24


class Records(list):
    """A list of records is a source."""


@pytest.fixture(scope='module')
def faces():
    """JPEG files of drawn faces, every second of a person of its own."""
    out = Records()
    for i in range(FACES):
        record = ProceduralFaces(FACES, size=48)[i]
        data = cv2.imencode('.jpg', record.image[..., ::-1])[1].tobytes()
        out.append(dataclasses.replace(record, image=data, identity=i // 2))
    return out


@pytest.fixture(scope='module')
def folder(faces, tmp_path_factory):
    out = tmp_path_factory.mktemp('sets')
    done = prepare(faces, 'crops', out, res=32, val_share=0.2, test_share=0.2)
    assert done['bad'] == 0
    return out / 'crops'


def test_records_are_the_crops_that_the_nets_see(faces, folder):
    stored, by_name = Decoded(folder), {record.name: record for record in faces}
    assert sorted(stored.names) == sorted(by_name) and len(stored) == FACES
    for index in range(FACES):
        record = pickle.loads(pickle.dumps(stored))[index] if index == 3 else stored[index]
        whole = by_name[record.name]
        pixels = decode(whole.image, whole.name)
        image, points = reading.square(pixels, whole.landmarks, 32)
        np.testing.assert_array_equal(record.image, image)
        np.testing.assert_array_equal(record.landmarks, points)
        assert record.identity == whole.identity


def test_evaluations_and_batches_are_those_of_the_files(faces, folder):
    config = stage1.get_config('tiny')
    data = argparse.Namespace(source='decoded', path=str(folder))
    for split in ('train', 'val', 'test'):
        source = make_source(data, split)
        chosen = {record.name: record for record in faces}
        files = Records(chosen[name] for name in source.names)
        ours, theirs = (loader.EvalExamples(s, config, 'mixture', 0, 4) for s in (source, files))
        for a, b in zip((ours[i] for i in range(4)), (theirs[i] for i in range(4)), strict=True):
            for name in a:
                np.testing.assert_array_equal(a[name], b[name])
        read = (reading.Steps(reading.SkipBadImages(s, 0.0), config)[2] for s in (source, files))
        one, other = read
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])
    persons = [{r.identity for r in make_source(data, s)} for s in ('train', 'val', 'test')]
    assert not persons[0] & persons[1] and not persons[0] & persons[2]


def test_a_margin_is_kept_for_trainings_that_move_the_frame(faces, tmp_path):
    config = landmarks.get_config('tiny')
    config.data.augment.update(rotate=10.0, scale=0.1, shift=0.05)
    margin = reading.margin_of(config)
    prepare(faces, 'wide', tmp_path, res=32, margin=margin, val_share=0.0, test_share=0.0)
    source = Decoded(tmp_path / 'wide')
    batch = reading.Steps(reading.SkipBadImages(source, 0.0), config)[0]
    assert batch['image'].shape[1] == 32 + 2 * margin
    for row, index in enumerate(batch['index']):
        np.testing.assert_array_equal(batch['image'][row], source[index].image)
    example = loader.EvalExamples(source, config, 'centre', 1, 1)[0]
    np.testing.assert_array_equal(example['image'], source[0].image[margin:-margin, margin:-margin])


def test_each_flipped_bit_is_named(folder, tmp_path):
    whole = Decoded(folder)
    copy = tmp_path / 'copy'
    copy.mkdir()
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    data = bytearray((copy / 'images.u8').read_bytes())
    data[5 * 32 * 32 * 3 + 77] ^= 16
    (copy / 'images.u8').write_bytes(data)
    damaged = Decoded(copy)
    np.testing.assert_array_equal(damaged[4].image, whole[4].image)
    with pytest.raises(BadImage, match=rf'{whole.names[5]}: damaged'):
        damaged[5]
    (copy / 'images.u8').write_bytes(data[:-1])
    with pytest.raises(ValueError, match=r'images\.u8 has 73,727 bytes'):
        Decoded(copy)
    table = bytearray((copy / 'table.npz').read_bytes())
    table[300] ^= 1
    (copy / 'table.npz').write_bytes(table)
    with pytest.raises(ValueError, match=r'table\.npz is damaged'):
        Decoded(copy)
    with pytest.raises(FileNotFoundError, match='prepare --decoded makes one'):
        Decoded(tmp_path)


def test_bad_images_are_left_out_or_refuse_the_set(faces, tmp_path):
    spoiled = Records([*faces, dataclasses.replace(faces[0], image=b'none', name='bad.jpg')])
    with pytest.raises(TooManyBad, match='1 of 25'):
        prepare(spoiled, 'set', tmp_path, res=32)
    assert not (tmp_path / 'set' / 'about.json').exists()
    prepare(spoiled, 'set', tmp_path, res=32, max_bad=0.1)
    assert len(Decoded(tmp_path / 'set')) == FACES
    (line,) = (tmp_path / 'set' / 'bad.jsonl').read_text().splitlines()
    assert json.loads(line)['name'] == 'bad.jpg'
    with pytest.raises(FileExistsError, match='is there already'):
        prepare(faces, 'set', tmp_path, res=32)
    with pytest.raises(ValueError, match='--res=8'):
        prepare(faces, 'other', tmp_path, res=8)


def test_the_command_line_needs_no_tfds(tmp_path, capsys, monkeypatch):
    for module in ('tensorflow_datasets', 'fi_jax.input_pipeline.offline.tfds_writer'):
        monkeypatch.setitem(sys.modules, module, None)
    # A test before may have imported it: as the package's attribute it would be found.
    monkeypatch.delattr('fi_jax.input_pipeline.offline.tfds_writer', raising=False)
    flags = ['--source=procedural', '--length=6', '--size=48', '--name=drawn', f'--out={tmp_path}']
    assert main([*flags, '--decoded', '--res=32', '--val_share=0', '--test_share=0']) == 0
    assert f'data.source=decoded data.path={tmp_path / "drawn"}' in capsys.readouterr().out
    assert len(Decoded(tmp_path / 'drawn')) == 6
    with pytest.raises(ImportError):
        main([*flags[:-1], f'--out={tmp_path / "packed"}'])
