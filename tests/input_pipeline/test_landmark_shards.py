"""Landmark shards: what is written is read back, and damage is named."""

import dataclasses
import json
import pickle

import msgpack
import numpy as np
import pytest

from fi_jax.input_pipeline import landmark_shards
from fi_jax.input_pipeline.landmark_shards import INDEX, LandmarkRow


def rows(n=10):
    rng = np.random.default_rng(0)
    return [
        LandmarkRow(
            name=f'folder/é{i}.jpg',
            points=rng.uniform(-3, 90, (68, 2)).astype(np.float32),
            found=i % 3 != 0,
            score=float(i) / 7,
            detector='dlib68',
            detector_version='19.24',
            box=None if i % 2 else (1.5, 2.0, 60.25, 70.0),
            size=None if i % 4 else (109, 89),
        )
        for i in range(n)
    ]


def same(one, other):
    plain = [{**dataclasses.asdict(r), 'points': r.points.tobytes()} for r in (one, other)]
    return plain[0] == plain[1] and one.points.shape == other.points.shape == (68, 2)


def save_npz(path, n=6, drop=(), **changed):
    given = rows(n)
    fields = {
        'name': np.array([r.name for r in given]),
        'points': np.stack([r.points for r in given]),
        'detected': np.array([r.found for r in given]),
        'score': np.array([r.score for r in given], np.float32),
        'box': np.arange(4 * n, dtype=np.float32).reshape(n, 4),
    }
    fields = {k: v for k, v in (fields | changed).items() if k not in drop}
    with open(path, 'wb') as file:
        np.savez(file, **fields)
    return path


@pytest.mark.parametrize('num_shards', [1, 3, 16])
def test_rows_are_read_back_as_they_were_written(tmp_path, num_shards):
    out = tmp_path / 'shards'
    index = landmark_shards.write_shards(iter(rows()), out, num_shards)
    assert index == json.loads((out / INDEX).read_text())
    assert (
        index['num_rows'] == 10 and index['num_found'] == 6 and len(index['shards']) == num_shards
    )
    table = landmark_shards.read_table(out)
    assert len(table) == 10 and set(table) == {r.name for r in rows()}
    copy = pickle.loads(pickle.dumps(table))
    for row in rows():
        assert same(row, table[row.name]) and same(row, copy[row.name])
    assert table['folder/é4.jpg'].points.dtype == np.float32
    assert 'absent' not in table and table.get('absent') is None


def test_the_documented_record_can_be_read_without_this_module(tmp_path):
    from array_record.python import array_record_module

    landmark_shards.write_shards(rows(), tmp_path / 'shards')
    reader = array_record_module.ArrayRecordReader(
        str(tmp_path / 'shards' / 'landmarks-00000-of-00001.array_record')
    )
    fields = msgpack.unpackb(reader.read([4])[0])
    reader.close()
    assert list(fields) == ['v', 'name', 'points', 'found', 'score', 'detector',
                            'detector_version', 'box', 'size', 'reason', 'doubts',
                            'align']  # fmt: skip
    assert fields['v'] == 1 and fields['size'] == [109, 89]
    points = np.frombuffer(fields['points'], '<f4').reshape(68, 2)
    assert np.array_equal(points, rows()[4].points)


def test_every_flipped_bit_is_noticed_or_harmless_and_the_shard_is_named(tmp_path):
    landmark_shards.write_shards(rows(40), tmp_path / 'shards')
    path = next((tmp_path / 'shards').glob('*.array_record'))
    whole = path.read_bytes()
    expected = {row.name: row for row in rows(40)}
    noticed = 0
    for offset in range(0, 40_000, 613):
        path.write_bytes(whole[:offset] + bytes([whole[offset] ^ 4]) + whole[offset + 1 :])
        try:
            table = landmark_shards.read_table(tmp_path / 'shards')
        except ValueError as error:
            noticed += 1
            assert path.name in str(error) and 'damaged' in str(error)
        else:
            assert set(table) == set(expected)
            assert all(same(table[name], expected[name]) for name in expected)
    assert noticed > 20


def test_damage_inside_a_shard_names_the_record(tmp_path):
    landmark_shards.write_shards(rows(40), tmp_path / 'shards')
    path = next((tmp_path / 'shards').glob('*.array_record'))
    whole = path.read_bytes()
    # Float noise does not compress, so the points stand in the file as they are.
    offset = whole.index(rows(40)[23].points.tobytes()[100:120])
    path.write_bytes(whole[:offset] + b'\xff\x00' + whole[offset + 2 :])
    with pytest.raises(ValueError, match='damaged shard, record 23 '):
        landmark_shards.read_table(tmp_path / 'shards')


@pytest.mark.parametrize('length', [0, 10, 0.5, -1])
def test_a_cut_shard_is_named(tmp_path, length):
    landmark_shards.write_shards(rows(200), tmp_path / 'shards', 2)
    path = sorted((tmp_path / 'shards').glob('*.array_record'))[1]
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * length) if isinstance(length, float) else length])
    with pytest.raises(ValueError, match=r'00001-of-00002.*damaged shard'):
        landmark_shards.read_table(tmp_path / 'shards')


def test_a_shard_or_index_that_is_missing_is_named(tmp_path):
    landmark_shards.write_shards(rows(), tmp_path / 'shards', 2)
    path = sorted((tmp_path / 'shards').glob('*.array_record'))[0]
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r'00000-of-00002\.array_record: missing'):
        landmark_shards.read_table(tmp_path / 'shards')
    index = tmp_path / 'shards' / INDEX
    for text in ('{', '[]', '{"schema": 1}', '{"schema": 1, "shards": 3}'):
        index.write_text(text)
        with pytest.raises(ValueError, match=r'damaged landmarks\.json'):
            landmark_shards.read_table(tmp_path / 'shards')
    index.write_text('{"schema": 2, "shards": {}}')
    with pytest.raises(ValueError, match='schema 2, this program reads 1'):
        landmark_shards.read_table(tmp_path / 'shards')
    index.unlink()
    with pytest.raises(FileNotFoundError, match=r'no landmarks\.json'):
        landmark_shards.read_table(tmp_path / 'shards')
    with pytest.raises(FileNotFoundError, match=r'^data\.landmarks=.*absent: no such'):
        landmark_shards.read_table(tmp_path / 'absent')


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'v': 7}, 'schema 7'),
        ({'points': b'1234'}, 'points of 4 bytes'),
        ({'points': None}, 'wrong type'),
        ({'box': [1, 2]}, 'wrong length'),
        ({'found': ...}, "missing or of a wrong type \\('found'\\)"),
    ],
)
def test_a_wrong_record_is_refused(change, message):
    fields = msgpack.unpackb(landmark_shards.encode_row(rows()[0])) | change
    record = msgpack.packb({k: v for k, v in fields.items() if v is not ...})
    with pytest.raises(ValueError, match=message) as caught:
        landmark_shards.decode_row(record, 'shard 3: record 5')
    assert str(caught.value).startswith('shard 3: record 5: ')


@pytest.mark.parametrize('record', [b'', b'\xc1', b'hello', msgpack.packb([1]), msgpack.packb(3)])
def test_what_is_no_record_is_refused(record):
    with pytest.raises(ValueError, match='x: not a landmark record'):
        landmark_shards.decode_row(record, 'x')


def test_writing_leaves_all_or_nothing(tmp_path):
    def failing():
        yield from rows()
        raise RuntimeError('the detector died')

    out = tmp_path / 'shards'
    with pytest.raises(RuntimeError, match='the detector died'):
        landmark_shards.write_shards(failing(), out)
    with pytest.raises(ValueError, match=r'é0\.jpg comes twice'):
        landmark_shards.write_shards(rows() + rows()[:1], out)
    with pytest.raises(ValueError, match='no rows'):
        landmark_shards.write_shards([], out)
    with pytest.raises(ValueError, match=r'é0\.jpg: points of shape \(5, 2\)'):
        landmark_shards.write_shards(
            [dataclasses.replace(rows()[0], points=np.zeros((5, 2), np.float32))], out
        )
    with pytest.raises(ValueError, match='not finite'):
        landmark_shards.write_shards(
            [dataclasses.replace(rows()[1], points=np.full((68, 2), np.nan))], out
        )
    assert list(tmp_path.iterdir()) == []
    landmark_shards.write_shards(rows(), out)
    with pytest.raises(FileExistsError, match='holds something already'):
        landmark_shards.write_shards(rows(3), out)
    assert len(landmark_shards.read_table(out)) == 10


def test_a_name_with_two_sets_of_points_is_refused_but_a_plain_copy_is_not(tmp_path):
    names = np.array(['a.jpg', 'b.jpg', 'a.jpg'])
    points = np.stack([r.points for r in rows(3)])
    found = np.ones(3, bool)
    path = save_npz(tmp_path / 'x.npz', 3, name=names, points=points, detected=found)
    with pytest.raises(ValueError, match=r'a\.jpg comes twice with different points'):
        landmark_shards.read_table(path)
    points[2] = points[0]
    save_npz(path, 3, name=names, points=points, detected=found)
    assert len(landmark_shards.read_table(path)) == 2


def test_an_npz_is_imported_as_it_reads(tmp_path, capsys):
    path, out = save_npz(tmp_path / 'x.npz'), tmp_path / 'shards'
    arguments = ['import', f'--npz={path}', f'--out={out}', '--detector=dlib68', '--version=1']
    assert landmark_shards.main(arguments) == 0
    assert '6 rows, 4 with a face found' in capsys.readouterr().out
    table, original = landmark_shards.read_table(out), landmark_shards.read_table(path)
    assert set(table) == set(original)
    for name, row in original.items():
        expected = dataclasses.replace(row, detector='dlib68', detector_version='1')
        assert same(table[name], expected)
    assert landmark_shards.main(arguments) == 1
    assert capsys.readouterr().err.startswith('error: --out=')


def test_an_npz_may_leave_out_score_and_box(tmp_path):
    table = landmark_shards.read_table(save_npz(tmp_path / 'x.npz', drop=('score', 'box')))
    row = table['folder/é1.jpg']
    assert row.found and np.isnan(row.score) and row.box is None


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'drop': ('points',)}, r"no field \['points'\]"),
        ({'points': np.zeros((6, 5, 2), np.float32)}, r'points of shape \(6, 5, 2\)'),
        ({'detected': np.ones(5, bool)}, r'detected of shape \(5,\)'),
        ({'points': np.zeros((6, 68, 2), np.int64)}, 'expected text and floats'),
        ({'name': np.arange(6)}, 'expected text and floats'),
        ({'points': np.full((6, 68, 2), np.inf, np.float32)}, 'not finite'),
        ({'name': np.array(list('abcdef'), object)}, 'not a readable .npz of plain arrays'),
    ],
)
def test_a_wrong_npz_is_refused(tmp_path, change, message):
    path = save_npz(tmp_path / 'x.npz', **change)
    with pytest.raises(ValueError, match=message) as caught:
        landmark_shards.read_table(path)
    assert str(caught.value).startswith(f'data.landmarks={path}: ')


@pytest.mark.parametrize('kind', ['text', 'empty', 'array', 'cut', 'flipped'])
def test_what_is_no_npz_is_refused(tmp_path, kind):
    path = save_npz(tmp_path / 'x.npz')
    whole = path.read_bytes()
    if kind == 'array':
        with open(path, 'wb') as file:
            np.save(file, np.zeros(3))
    else:
        middle = whole.index(rows(6)[2].points.tobytes())
        flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
        path.write_bytes(
            {'text': b'hello', 'empty': b'', 'cut': whole[:-50], 'flipped': flipped}[kind]
        )
    with pytest.raises(ValueError, match=r'not a readable \.npz'):
        landmark_shards.read_table(path)
