"""Folders and zips: reading, and what is refused."""

import concurrent.futures
import os
import pickle
import zipfile

import numpy as np
import pytest

from fi_jax.input_pipeline import archives, records
from tests.input_pipeline.photos import (
    IMAGES,
    STRAY,
    encode,
    pixels,
    write_folder,
    write_zip,
)


@pytest.mark.parametrize('kind', ['folder', 'stored', 'deflated'])
def test_folder_and_zip_give_the_same_records_sorted_by_name(tmp_path, kind):
    images = IMAGES | STRAY
    if kind == 'folder':
        source = archives.Folder(write_folder(tmp_path / 'faces', images))
    else:
        packing = zipfile.ZIP_STORED if kind == 'stored' else zipfile.ZIP_DEFLATED
        source = archives.Zip(write_zip(tmp_path / 'faces.zip', images, packing))
    assert source.names == tuple(sorted(IMAGES))
    assert [r.name for r in (source[i] for i in range(len(source)))] == list(source.names)
    assert all(source[i].image == IMAGES[name] for i, name in enumerate(source.names))
    with pytest.raises(IndexError):
        source[len(source)]


@pytest.mark.parametrize('kind', ['folder', 'zip'])
def test_pictures_that_are_left_out_by_their_type_are_counted_and_named(tmp_path, caplog, kind):
    images = {'a.tif': encode(pixels(), 'TIFF'), 'b.GIF': encode(pixels(), 'GIF')}
    others = {'c.HEIC': b'1', 'd/e.heic': b'2', 'f.avif': b'3', '.g.heic': b'4', 'notes.txt': b'5'}
    make = {
        'folder': lambda name, files: archives.Folder(write_folder(tmp_path / name, files)),
        'zip': lambda name, files: archives.Zip(write_zip(tmp_path / f'{name}.zip', files)),
    }[kind]
    with caplog.at_level('WARNING', 'absl'):
        source = make('both', images | others)
    assert source.names == ('a.tif', 'b.GIF')
    message = '3 of 5 pictures are left out by their type (2 .heic, 1 .avif); convert them'
    assert [message in r.getMessage() for r in caplog.records] == [True]
    with pytest.raises(ValueError, match=r'no images found.*there are 2 \.heic, 1 \.avif'):
        make('none', others)


@pytest.mark.parametrize('kind', ['folder', 'zip'])
def test_sources_pickle_and_are_shared_by_threads(tmp_path, kind):
    images = {f'{i}.png': encode(pixels(i)) for i in range(40)}
    if kind == 'folder':
        source = archives.Folder(write_folder(tmp_path / 'faces', images))
    else:
        source = archives.Zip(write_zip(tmp_path / 'faces.zip', images))
    copy = pickle.loads(pickle.dumps(source))
    order = np.random.default_rng(0).integers(0, 40, 2000).tolist()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        records = list(pool.map(copy.__getitem__, order))
    del source
    assert all(r.name == copy.names[i] for r, i in zip(records, order, strict=True))
    assert all(r.image == images[r.name] for r in records)


@pytest.mark.parametrize('name', ['../out.png', 'a/../../out.png', '/abs.png', 'a\\..\\out.png'])
def test_a_zip_whose_names_lead_outside_is_refused_and_none_is_extracted(tmp_path, name):
    path = write_zip(tmp_path / 'faces.zip', {name: IMAGES['b.png'], 'good.png': IMAGES['b.png']})
    with pytest.raises(ValueError, match='names a place outside the zip'):
        archives.Zip(path)
    good = write_zip(tmp_path / 'good.zip', {'./a.png': IMAGES['b.png']})
    assert archives.Zip(good)[0].image == IMAGES['b.png']
    assert sorted(p.name for p in tmp_path.rglob('*')) == ['faces.zip', 'good.zip']


def test_every_flipped_bit_of_a_zip_member_is_noticed(tmp_path):
    path = write_zip(tmp_path / 'faces.zip', {'x.png': IMAGES['b.png']})
    whole = path.read_bytes()
    start = whole.index(IMAGES['b.png'])
    for offset in range(start, start + len(IMAGES['b.png']), 7):
        path.write_bytes(whole[:offset] + bytes([whole[offset] ^ 1]) + whole[offset + 1 :])
        with pytest.raises(records.BadImage, match=r'x\.png.*CRC'):
            archives.Zip(path)[0]


@pytest.mark.parametrize('length', [0, 10, 300])
def test_a_zip_that_shrinks_while_it_is_open_names_the_member(tmp_path, length):
    path = write_zip(tmp_path / 'faces.zip', {'x.png': IMAGES['b.png']})
    source = archives.Zip(path)
    os.truncate(path, length)
    with pytest.raises(records.BadImage, match=r'x\.png.*damaged'):
        source[0]


def test_a_deflate_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    path = write_zip(tmp_path / 'b.zip', {'x.png': b'\0' * 100_000}, zipfile.ZIP_DEFLATED)
    monkeypatch.setattr(archives, 'MAX_FILE_BYTES', 50_000)
    with pytest.raises(records.BadImage, match=r'x\.png: 100,000 bytes'):
        archives.Zip(path)[0]


def test_a_pipe_or_a_vanished_file_is_named_and_does_not_hang(tmp_path):
    source = archives.Folder(write_folder(tmp_path, {'a.png': b'1', 'b.png': b'2'}))
    (tmp_path / 'a.png').unlink()
    (tmp_path / 'b.png').unlink()
    os.mkfifo(tmp_path / 'b.png')
    for i, name in enumerate(source.names):
        with pytest.raises(records.BadImage, match=name):
            source[i]


@pytest.mark.parametrize(
    ('kind', 'build', 'error', 'message'),
    [
        (archives.Folder, lambda p: None, FileNotFoundError, 'no such folder'),
        (archives.Folder, lambda p: p.mkdir(), ValueError, r'no images found; expected \.jpg'),
        (archives.Folder, lambda p: p.write_bytes(b'x'), ValueError, "data.source='zip'"),
        (archives.Zip, lambda p: None, FileNotFoundError, 'no such file'),
        (archives.Zip, lambda p: p.mkdir(), ValueError, "data.source='folder'"),
        (archives.Zip, lambda p: p.write_bytes(b'not a zip'), ValueError, 'not a readable zip'),
        (archives.Zip, lambda p: write_zip(p, {'a.txt': b''}), ValueError, 'no images found'),
        (
            archives.Zip,
            lambda p: write_zip(p, {'a.png': b'x'}, zipfile.ZIP_LZMA),
            ValueError,
            r'a\.png is encrypted or packed in an unusual way',
        ),
    ],
)
def test_an_unusable_path_gives_one_error_that_names_it(tmp_path, kind, build, error, message):
    path = tmp_path / 'given'
    build(path)
    with pytest.raises(error, match=message) as caught:
        kind(path)
    assert str(caught.value).startswith(f'data.path={path}: ')


@pytest.mark.filterwarnings('ignore:Duplicate name')
def test_a_name_that_comes_twice_in_a_zip_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / 'z.zip', 'w') as archive:
        archive.writestr('a.png', b'1')
        archive.writestr('a.png', b'2')
    with pytest.raises(ValueError, match=r'two members are named a\.png'):
        archives.Zip(tmp_path / 'z.zip')
