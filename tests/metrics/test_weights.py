"""Weights: files are read and never run, known by their hash, and their absence is one message."""

import base64
import dataclasses
import hashlib
import http.server
import io
import pickle
import socket
import subprocess
import sys
import tempfile
import threading
import zipfile

import numpy as np
import pytest

from fi_jax import cli
from fi_jax.metrics import download, perceptual, published, readers, weights
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


class Server(http.server.ThreadingHTTPServer):
    """A server of one file that fails as the faults say, one a request, then no more."""

    def __init__(self, content):
        super().__init__(('127.0.0.1', 0), Answer)
        self.content, self.faults, self.asked = content, [], []

    @property
    def url(self):
        return f'http://127.0.0.1:{self.server_port}/mirror/'


class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server, wanted = self.server, self.headers.get('Range')
        server.asked.append((self.path, wanted))
        fault = server.faults.pop(0) if server.faults else ''
        if fault.isdigit():
            return self.send_error(int(fault))
        start = int(wanted[len('bytes=') : -1]) if wanted and fault != 'anew' else 0
        body = server.content[start:]
        self.send_response(206 if start else 200)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if fault == 'cut' else body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serves the heads of LPIPS-Alex as pinned; what is left of a download would lie in temp/."""
    content = heads_file()
    pin(monkeypatch, 'lpips_heads_alex', content)
    monkeypatch.setenv('no_proxy', '*')
    monkeypatch.setattr(download, '_WAIT', 0)
    (tmp_path / 'temp').mkdir()
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path / 'temp'))
    with Server(content) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={'poll_interval': 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()
    assert list((tmp_path / 'temp').iterdir()) == []


def cached(cache):
    return sorted(p.name for p in cache.iterdir()) if cache.exists() else []


def test_a_file_is_downloaded_checked_and_converted(server, cache, capsys):
    assert weights.main(['fetch', 'lpips_heads_alex', '--from', server.url]) == 0
    assert server.asked == [('/mirror/alex.pth', None)]
    assert cached(cache) == ['lpips_heads_alex.npz']
    assert weights.listing()[0].pinned and len(weights.load('lpips_heads_alex')) == 5
    assert capsys.readouterr().out.endswith('converted lpips_heads_alex\n')


def test_a_published_url_is_used_where_no_mirror_is_given(server, monkeypatch):
    known = weights.PUBLISHED['lpips_heads_alex']
    moved = dataclasses.replace(known, url=f'{server.url}alex.pth')
    monkeypatch.setitem(weights.PUBLISHED, known.name, moved)
    assert weights.fetch(known.name) == [known.name]


def test_a_download_that_breaks_off_is_taken_up_where_it_did(server, cache):
    server.faults = ['503', 'cut', 'cut']
    weights.fetch('lpips_heads_alex', server.url)
    whole = len(server.content)
    half = whole // 2
    ranges = [None, None, f'bytes={half}-', f'bytes={half + (whole - half) // 2}-']
    assert [wanted for _, wanted in server.asked] == ranges
    assert cached(cache) == ['lpips_heads_alex.npz']


def test_a_server_that_knows_no_ranges_sends_it_anew(server, cache):
    server.faults = ['cut', 'anew']
    weights.fetch('lpips_heads_alex', server.url)
    assert cached(cache) == ['lpips_heads_alex.npz']


def test_a_download_that_never_ends_leaves_nothing(server, cache, capsys):
    server.faults = ['cut'] * 9
    assert weights.main(['fetch', 'lpips_heads_alex', '--from', server.url]) == 1
    message = capsys.readouterr().err
    assert f'of {len(server.content):,} bytes' in message and f'{server.url}alex.pth' in message
    assert message.count('\n') == 1 and 'convert FILE' in message
    assert len(server.asked) == download._TRIES
    assert cached(cache) == []


def test_a_file_of_another_hash_is_refused_and_deleted(server, cache):
    server.content = server.content[:-1] + b'!'
    digest = hashlib.sha256(server.content).hexdigest()
    with pytest.raises(ValueError, match=f'alex.pth: sha256 {digest} instead of .* deleted'):
        weights.fetch('lpips_heads_alex', server.url)
    assert len(server.asked) == 1 and cached(cache) == []


def test_what_is_not_there_is_requested_once(server, cache, monkeypatch):
    server.faults = ['404']
    with pytest.raises(OSError, match=r'alex.pth: cannot be downloaded \(404 Not Found\)'):
        weights.fetch('lpips_heads_alex', server.url)
    monkeypatch.setattr(download, 'MAX_BYTES', 1000)
    with pytest.raises(OSError, match='larger than any published file'):
        weights.fetch('lpips_heads_alex', server.url)
    assert len(server.asked) == 2 and cached(cache) == []


def test_without_a_network_the_message_tells_the_other_way(cache, monkeypatch):
    monkeypatch.setenv('no_proxy', '*')
    monkeypatch.setattr(download, '_WAIT', 0)
    with socket.socket() as unheard:  # bound, and nobody listens
        unheard.bind(('127.0.0.1', 0))
        url = f'http://127.0.0.1:{unheard.getsockname()[1]}'
        with pytest.raises(OSError, match=r'refused.*where it can, get the file and run'):
            weights.fetch('vgg16', url)
    assert cached(cache) == []


def test_a_folder_can_be_the_mirror(tmp_path, cache, monkeypatch, capsys):
    data = heads_file()
    pin(monkeypatch, 'lpips_heads_alex', data)
    (tmp_path / 'alex.pth').write_bytes(data)
    assert weights.main(['fetch', 'lpips_heads_alex', '--from', str(tmp_path)]) == 0
    assert weights.main(['fetch', 'vgg16', '--from', tmp_path.as_uri()]) == 1
    assert 'vgg16-397923af.pth: cannot be downloaded' in capsys.readouterr().err
    assert (tmp_path / 'alex.pth').exists() and cached(cache) == ['lpips_heads_alex.npz']


@pytest.mark.parametrize(
    ('arguments', 'says'),
    [
        (['weight'], 'fi-jax weight: unknown'),
        (['weights', 'get'], "invalid choice: 'get'"),
        (['weights', 'fetch'], 'NAME'),
        (['weights', 'fetch', 'vgg17'], "invalid choice: 'vgg17'"),
        (['weights', 'list', '--all'], 'unrecognized arguments: --all'),
        (['weights', 'convert', 'no.pth'], 'no.pth: no such file'),
    ],
)
def test_a_wrong_command_is_one_line(arguments, says, capsys):
    try:
        code = cli.main(arguments)
    except SystemExit as ended:
        code = ended.code
    out, err = capsys.readouterr()
    assert code == 1 and says in err and err.startswith('error: ')
    assert err.count('\n') == 1 and not out


def test_the_command_tells_what_there_is(capsys):
    assert cli.main(['weights']) == 0
    listed = capsys.readouterr().out
    assert all(f'absent    {name}' in listed for name in weights.PUBLISHED)
    assert cli.main([]) == 0 and cli.main(['--help']) == 0
    listed = capsys.readouterr().out
    assert all(f'    {name} ' in listed for name in cli.COMMANDS)
    slow = 'import sys; from fi_jax import cli; cli.main([]); print("jax" in sys.modules)'
    done = subprocess.run([sys.executable, '-c', slow], capture_output=True, text=True, check=True)
    assert done.stdout.endswith('False\n')


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
    folded, bias = published._fold(kernel, norm, 1e-3)
    x = rng.normal(size=4)
    y = (x @ kernel[0, 0] - norm['running_mean']) / np.sqrt(norm['running_var'] + 1e-3)
    expected = y * norm['weight'] + norm['bias']
    np.testing.assert_allclose(x @ folded[0, 0] + bias, expected, rtol=1e-5)
