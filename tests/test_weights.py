"""Weights: files are read and never run, known by their hash, and their absence is one message."""

import base64
import dataclasses
import hashlib
import io
import pickle
import zipfile

import numpy as np
import pytest

from fi_jax.metrics import perceptual, readers, weights
from tests import metric_inputs as inputs


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('FI_JAX_WEIGHTS', str(tmp_path / 'cache'))
    return tmp_path / 'cache'


def torch_file(arrays, **lies):
    """Bytes of a .pth file (zip) with these float32 arrays, opcode by opcode."""
    out = io.BytesIO()

    def text(value):
        data = value.encode()
        out.write(b'X' + len(data).to_bytes(4, 'little') + data)

    def number(value):
        out.write(b'J' + int(value).to_bytes(4, 'little', signed=True))

    def numbers(values):
        out.write(b'(')
        for value in values:
            number(value)
        out.write(b't')

    out.write(b'\x80\x02ccollections\nOrderedDict\n)R(')
    for key, (name, array) in enumerate(arrays.items()):
        array = np.ascontiguousarray(array, np.float32)
        text(name)
        out.write(b'ctorch._utils\n_rebuild_tensor_v2\n((')
        text('storage')
        out.write(b'ctorch\nFloatStorage\n')
        text(str(key))
        text('cpu')
        number(array.size)
        out.write(b'tQ')
        number(lies.get('offset', 0))
        numbers(lies.get('shape', array.shape))
        numbers([s // 4 for s in array.strides])
        out.write(b'\x89)tR')
    out.write(b'u.')
    data = io.BytesIO()
    with zipfile.ZipFile(data, 'w') as archive:
        archive.writestr('archive/data.pkl', out.getvalue())
        for key, array in enumerate(arrays.values()):
            content = np.ascontiguousarray(array, np.float32).tobytes()
            archive.writestr(f'archive/data/{key}', content)
    return data.getvalue()


ARRAYS = {'a.weight': np.arange(6).reshape(2, 3), 'b.weight': np.arange(4) - 2}

# torch.save({'a.weight': tensor([[0, 1, 2], [3, 4, 5]]).t(), 'b': tensor([7])}) of torch 2.13, once
# as it is and once with _use_new_zipfile_serialization=False.
NEW = (
    b'UEsDBBQAAAAAAAAAIQD6jBci+gAAAPoAAAAQAAAAYXJjaGl2ZS9kYXRhLnBrbIACfXEAKFgIAAAAYS53ZWlnaHRx'
    b'AWN0b3JjaC5fdXRpbHMKX3JlYnVpbGRfdGVuc29yX3YyCnECKChYBwAAAHN0b3JhZ2VxA2N0b3JjaApGbG9hdFN0'
    b'b3JhZ2UKcQRYAQAAADBxBVgDAAAAY3B1cQZLBnRxB1FLAEsDSwKGcQhLAUsDhnEJiWNjb2xsZWN0aW9ucwpPcmRl'
    b'cmVkRGljdApxCilScQt0cQxScQ1YAQAAAGJxDmgCKChoA2N0b3JjaApMb25nU3RvcmFnZQpxD1gBAAAAMXEQaAZL'
    b'AXRxEVFLAEsBhXESSwGFcROJaAopUnEUdHEVUnEWdS5QSwMEFAAAAAAAAAAhAIU94xkGAAAABgAAABEAAABhcmNo'
    b'aXZlL2J5dGVvcmRlcmxpdHRsZVBLAwQUAAAAAAAAACEAF5DnkRgAAAAYAAAADgAAAGFyY2hpdmUvZGF0YS8wAAAA'
    b'AAAAgD8AAABAAABAQAAAgEAAAKBAUEsDBBQAAAAAAAAAIQBw1udvCAAAAAgAAAAOAAAAYXJjaGl2ZS9kYXRhLzEH'
    b'AAAAAAAAAFBLAQIUAxQAAAAAAAAAIQD6jBci+gAAAPoAAAAQAAAAAAAAAAAAAACAAQAAAABhcmNoaXZlL2RhdGEu'
    b'cGtsUEsBAhQDFAAAAAAAAAAhAIU94xkGAAAABgAAABEAAAAAAAAAAAAAAIABKAEAAGFyY2hpdmUvYnl0ZW9yZGVy'
    b'UEsBAhQDFAAAAAAAAAAhABeQ55EYAAAAGAAAAA4AAAAAAAAAAAAAAIABXQEAAGFyY2hpdmUvZGF0YS8wUEsBAhQD'
    b'FAAAAAAAAAAhAHDW528IAAAACAAAAA4AAAAAAAAAAAAAAIABoQEAAGFyY2hpdmUvZGF0YS8xUEsFBgAAAAAEAAQA'
    b'9QAAANUBAAAAAA=='
)
OLD = (
    b'gAKKCmz8nEb5IGqoUBkugAJN6QMugAJ9cQAoWBAAAABwcm90b2NvbF92ZXJzaW9ucQFN6QNYDQAAAGxpdHRsZV9l'
    b'bmRpYW5xAohYCgAAAHR5cGVfc2l6ZXNxA31xBChYBQAAAHNob3J0cQVLAlgDAAAAaW50cQZLBFgEAAAAbG9uZ3EH'
    b'SwR1dS6AAn1xAChYCAAAAGEud2VpZ2h0cQFjdG9yY2guX3V0aWxzCl9yZWJ1aWxkX3RlbnNvcl92MgpxAigoWAcA'
    b'AABzdG9yYWdlcQNjdG9yY2gKRmxvYXRTdG9yYWdlCnEEWA4AAAA5NDE5MDc3NjI0OTI2NHEFWAMAAABjcHVxBksG'
    b'TnRxB1FLAEsDSwKGcQhLAUsDhnEJiWNjb2xsZWN0aW9ucwpPcmRlcmVkRGljdApxCilScQt0cQxScQ1YAQAAAGJx'
    b'DmgCKChoA2N0b3JjaApMb25nU3RvcmFnZQpxD1gOAAAAOTQxOTA2ODk1ODI3NjhxEGgGSwFOdHERUUsASwGFcRJL'
    b'AYVxE4loCilScRR0cRVScRZ1LoACXXEAKFgOAAAAOTQxOTA2ODk1ODI3NjhxAVgOAAAAOTQxOTA3NzYyNDkyNjRx'
    b'AmUuAQAAAAAAAAAHAAAAAAAAAAYAAAAAAAAAAAAAAAAAgD8AAABAAABAQAAAgEAAAKBA'
)


def assert_same(found, expected):
    assert set(found) == set(expected)
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])


def test_a_state_dict_is_read():
    assert_same(readers.read_torch(torch_file(ARRAYS)), ARRAYS)


@pytest.mark.parametrize('text', ['NEW', 'OLD'])
def test_files_of_torch_itself_are_read(text):
    data = base64.b64decode(globals()[text])
    expected = {'a.weight': np.arange(6.0).reshape(2, 3).T, 'b': np.array([7])}
    assert_same(readers.read_torch(data), expected)


class Evil:
    def __reduce__(self):
        return (exec, ("open('fi_jax_was_here', 'w')",))


@pytest.mark.parametrize('legacy', [True, False])
def test_a_program_in_a_file_is_refused_by_name(legacy):
    data = pickle.dumps({'a': Evil()}, protocol=2)
    if legacy:
        magic = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
        sure = pickle.dumps(1001, protocol=2) + pickle.dumps({'little_endian': True}, protocol=2)
        data = magic + sure + data
    else:
        out = io.BytesIO()
        with zipfile.ZipFile(out, 'w') as archive:
            archive.writestr('archive/data.pkl', data)
        data = out.getvalue()
    with pytest.raises(readers.UnreadableFile, match='exec'):
        readers.read_torch(data)


@pytest.mark.parametrize('lie', [{'offset': 1}, {'offset': -1}, {'shape': (2, 30)}])
def test_a_tensor_that_reaches_out_of_its_storage_is_refused(lie):
    with pytest.raises(readers.UnreadableFile, match='reaches out'):
        readers.read_torch(torch_file({'a': ARRAYS['a.weight']}, **lie))


def test_damaged_files_are_refused():
    data = torch_file(ARRAYS)
    for broken in (b'', b'junk', data[: len(data) // 2], b'PK' + bytes(100)):
        with pytest.raises(readers.UnreadableFile):
            readers.read_torch(broken)
    with pytest.raises(readers.UnreadableFile, match='dlib'):
        readers.read_dlib(b'nothing of the kind')


def test_a_dlib_layer_is_read_by_its_numbers():
    values = np.arange(5, dtype='<f4')
    data = b'..\x05con_4' + b'\x01\x02' + b'\x01\x05' + 3 * b'\x01\x01' + values.tobytes() + b'..'
    [(kind, found)] = readers.read_dlib(data)
    assert kind == 'con_4'
    np.testing.assert_array_equal(found, values)
    with pytest.raises(readers.UnreadableFile, match='con_4 at byte'):
        readers.read_dlib(data[:20])


def heads_file(net='alex'):
    counts = inputs.HEADS[net]
    rng = np.random.default_rng(0)
    return torch_file(
        {f'lin{i}.model.1.weight': rng.random((1, n, 1, 1)) for i, n in enumerate(counts)}
    )


def pin(monkeypatch, name, data):
    published = dataclasses.replace(
        weights.PUBLISHED[name], sha256=hashlib.sha256(data).hexdigest()
    )
    monkeypatch.setitem(weights.PUBLISHED, name, published)


def test_absent_weights_are_one_message_that_tells_how_to_get_them():
    with pytest.raises(weights.MissingWeights, match='fetch dlib_face') as error:
        weights.load('dlib_face')
    assert 'convert FILE' in str(error.value) and '\n' not in str(error.value)
    with pytest.raises(weights.MissingWeights, match='alexnet-owt-7be5be79'):
        perceptual.make_distance('lpips_alex')
    with pytest.raises(ValueError, match='unknown'):
        perceptual.make_distance('lpips_best')
    assert not any(row.present for row in weights.listing())
    assert perceptual.available() == ()


def test_a_file_is_known_by_its_hash(tmp_path, cache, monkeypatch, capsys):
    data = heads_file()
    file = tmp_path / 'whatever.pth'
    file.write_bytes(data)
    with pytest.raises(ValueError, match=hashlib.sha256(data).hexdigest()):
        weights.convert(file)
    assert not cache.exists()
    pin(monkeypatch, 'lpips_heads_alex', data)
    assert weights.main(['convert', str(file)]) == 0
    loaded = weights.load('lpips_heads_alex')
    assert [loaded[f'lin{i}'].shape for i in range(5)] == [(n,) for n in inputs.HEADS['alex']]
    [row] = [r for r in weights.listing() if r.present]
    assert (row.name, row.pinned) == ('lpips_heads_alex', True)
    weights.main([])
    assert 'present   lpips_heads_alex' in capsys.readouterr().out
    assert sorted(p.name for p in cache.iterdir()) == ['lpips_heads_alex.npz']


def test_an_unpinned_file_is_taken_when_asked_and_shown_as_such(tmp_path, capsys):
    file = tmp_path / 'alex.pth'
    file.write_bytes(heads_file())
    assert weights.main(['convert', str(file), '--allow-unpinned', 'lpips_heads_alex']) == 0
    weights.main(['list'])
    assert 'UNPINNED  lpips_heads_alex' in capsys.readouterr().out


def test_members_of_a_wheel_are_found(tmp_path, monkeypatch):
    data, other = heads_file(), heads_file('vgg')
    pin(monkeypatch, 'lpips_heads_alex', data)
    wheel = tmp_path / 'lpips-0.1.4-py3-none-any.whl'
    with zipfile.ZipFile(wheel, 'w') as archive:
        archive.writestr('lpips/weights/v0.0/alex.pth', other)
        archive.writestr('lpips/weights/v0.1/alex.pth', data)
    assert weights.convert(wheel) == ['lpips_heads_alex']


def test_weights_of_another_shape_are_refused(tmp_path, capsys):
    file = tmp_path / 'alex.pth'
    file.write_bytes(heads_file('vgg'))
    assert weights.main(['convert', str(file), '--allow-unpinned', 'lpips_heads_alex']) == 1
    assert 'lin1: (128,) instead of (192,)' in capsys.readouterr().err
    assert weights.main(['convert', str(tmp_path / 'absent.pth')]) == 1
    assert 'no such file' in capsys.readouterr().err


def test_a_damaged_cache_is_named(tmp_path, cache):
    cache.mkdir()
    (cache / 'lpips_heads_alex.npz').write_bytes(b'PK junk')
    with pytest.raises(ValueError, match=r'lpips_heads_alex.npz: damaged .* delete it'):
        weights.load('lpips_heads_alex')
    [row] = [r for r in weights.listing() if r.present]
    assert not row.pinned


def test_batch_norm_is_folded_as_it_acts():
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(1, 1, 4, 3))
    norm = {
        'weight': rng.random(3), 'bias': rng.random(3),
        'running_mean': rng.random(3), 'running_var': rng.random(3),
    }  # fmt: skip
    folded, bias = weights._fold(kernel, norm, 1e-3)
    x = rng.normal(size=4)
    y = (x @ kernel[0, 0] - norm['running_mean']) / np.sqrt(norm['running_var'] + 1e-3)
    expected = y * norm['weight'] + norm['bias']
    np.testing.assert_allclose(x @ folded[0, 0] + bias, expected, rtol=1e-5)
