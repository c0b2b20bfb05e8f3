"""The server: what it answers, what it refuses, and that it stays up whatever is sent to it."""

import hashlib
import http.client
import io
import json
import os
import re
import resource
import socket
import struct
import subprocess
import sys
import threading
import zlib
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

pytest.importorskip('fastapi', reason="needs pip install '.[serve]'")

from fi_jax.serve import app
from fi_jax.serve.jobs import Full, Queue
from tests.serving import PlainRestorer, ask, finished, form, post, serving

ROOT = Path(__file__).parents[1]


def encoded(pixels, kind='PNG', **options):
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind, **options)
    return out.getvalue()


PIXELS = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
HOLE = np.zeros((48, 64), np.uint8)
HOLE[24:34, 24:40] = 255
PHOTO, MASK = encoded(PIXELS), encoded(HOLE)
POINTS = [[20 + i / 4, 10 + i / 3] for i in range(68)]


@pytest.fixture(scope='module')
def url():
    with serving(PlainRestorer()) as address:
        yield address


def read(body):
    return np.asarray(Image.open(io.BytesIO(body)))


def complete(server, **fields):
    return post(f'{server}/api/completions', **{'photo': PHOTO, 'hole': MASK} | fields)


# ------------------------------------------------------------------------------- what works


def test_a_photo_is_completed_and_no_pixel_outside_the_hole_changes(url):
    status, headers, job = complete(url, num_samples=3, seed=5)
    assert status == 202 and headers['Location'] == f'/api/completions/{job["id"]}'
    done = finished(url, job['id'])
    assert (done['state'], done['done'], done['total'], done['seed']) == ('done', 3, 3, 5)
    assert np.shape(done['landmarks']) == (3, 68, 2)
    for k in range(3):
        status, headers, body = ask(f'{url}/api/completions/{job["id"]}/images/{k}')
        assert status == 200 and headers['Content-Type'] == 'image/png'
        np.testing.assert_array_equal(read(body)[HOLE == 0], PIXELS[HOLE == 0])
    assert ask(f'{url}/api/completions/{job["id"]}/images/3')[0] == 404
    status, headers, body = ask(f'{url}/api/completions/{job["id"]}/images/0?format=jpeg')
    assert headers['Content-Type'] == 'image/jpeg' and read(body).shape == PIXELS.shape


def test_a_preview_shows_the_photo_in_its_window(url):
    job = complete(url, num_samples=2)[2]
    left, top, right, bottom = finished(url, job['id'])['window']
    part = HOLE[top:bottom, left:right]
    whole = read(ask(f'{url}/api/completions/{job["id"]}/images/1')[2])[top:bottom, left:right]
    preview = read(ask(f'{url}/api/completions/{job["id"]}/previews/1')[2])
    assert preview.shape == whole.shape and part.sum() == HOLE.sum()
    assert np.abs(preview.astype(int) - whole).mean() < 6  # JPEG's
    heat = read(ask(f'{url}/api/completions/{job["id"]}/uncertainty')[2])
    assert not heat[..., 3][part == 0].any() and heat[..., 3][part > 0].any()


def test_faces_come_with_their_points(url):
    status, _, answer = post(f'{url}/api/faces', photo=PHOTO, hole=MASK)
    assert status == 200 and (answer['width'], answer['height']) == (64, 48)
    (face,) = answer['faces']
    assert np.shape(face['landmarks']) == (68, 2) and len(face['box']) == 4
    assert post(f'{url}/api/faces', photo=encoded(PIXELS[:8, :8]))[2]['faces'] == []


def test_points_of_a_person_reach_the_restorer(url):
    job = complete(url, num_samples=1, landmarks=json.dumps(POINTS))[2]
    np.testing.assert_allclose(finished(url, job['id'])['landmarks'][0], POINTS, rtol=1e-5)


def test_what_cannot_be_done_says_why(url):
    job = complete(url, hole=encoded(np.zeros_like(HOLE)))[2]
    done = finished(url, job['id'])
    assert done['state'] == 'failed' and 'white = missing' in done['error']
    assert ask(f'{url}/api/completions/{job["id"]}/images/0')[0] == 404


def test_an_upright_photo_comes_back(url):
    exif = Image.Exif()
    exif[0x112] = 6  # lies on its side
    job = complete(url, photo=encoded(PIXELS.transpose(1, 0, 2)[::-1], 'PNG', exif=exif))[2]
    assert finished(url, job['id'])['state'] == 'done'
    out = read(ask(f'{url}/api/completions/{job["id"]}/images/0')[2])
    assert out.shape == PIXELS.shape


def test_the_page_asks_for_nothing_from_elsewhere(url):
    status, headers, page = ask(url)
    assert status == 200 and headers['Content-Type'].startswith('text/html')
    policy = headers['Content-Security-Policy']
    assert "default-src 'none'" in policy and 'unsafe' not in policy and 'http' not in policy
    for name in re.findall(r'(?:src|href)="([^"]+)"', page.decode()):
        assert ask(f'{url}/{name}')[0] == 200, name
    for path in (ROOT / 'fi_jax/serve/static').iterdir():
        foreign = re.findall(r'(?:https?:)?//[\w.-]+\.\w+', path.read_text())
        assert not [x for x in foreign if 'www.w3.org' not in x], path


def test_the_api_describes_itself(url):
    schema = json.loads(ask(f'{url}/api/openapi.json')[2])
    assert set(schema['paths']['/api/completions/{name}']) == {'get', 'delete'}
    sent = schema['components']['schemas']['CompletionsForm']['properties']
    assert {'photo', 'hole', 'landmarks', 'seed', 'guidance'} <= set(sent)
    assert ask(f'{url}/docs')[0] == 404  # its script would come from elsewhere


def test_the_client_of_the_documentation_runs(url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path('photo.jpg').write_bytes(encoded(PIXELS, 'JPEG'))
    Path('hole.png').write_bytes(MASK)
    (code,) = re.findall(r'```python\n(.*?)```', (ROOT / 'docs/serve.md').read_text(), re.DOTALL)
    exec(code.replace('http://127.0.0.1:8000', url), {})
    assert len(list(tmp_path.glob('completed_*.png'))) == 4


def test_the_page_is_built_from_its_source():
    """make page writes the digest of the sources on top; to compare them, no node is needed."""
    digest = hashlib.sha256()
    for path in sorted((ROOT / 'fi_jax/serve/page').glob('*.ts')):
        digest.update(path.read_bytes())
    built = (ROOT / 'fi_jax/serve/static/page.js').read_text()
    assert digest.hexdigest() in built.partition('\n')[0], 'make page builds it anew'


# --------------------------------------------------------------------------- the queue's bound


def test_the_queue_is_bounded_and_cancelled_jobs_make_room():
    restorer = PlainRestorer()
    restorer.go.clear()
    with serving(restorer, app.Limits(queue=2)) as url:
        running = complete(url)[2]
        while json.loads(ask(f'{url}/api/completions/{running["id"]}')[2])['state'] == 'queued':
            pass
        waiting = [complete(url)[2] for _ in range(2)]
        assert [job['ahead'] for job in waiting] == [1, 2]
        status, headers, answer = complete(url)
        assert status == 429 and int(headers['Retry-After']) >= 1 and 'full' in answer['detail']
        for job in (waiting[0], running):
            assert ask(f'{url}/api/completions/{job["id"]}', 'DELETE')[0] == 204
        restorer.go.set()
        assert finished(url, waiting[1]['id'])['state'] == 'done'
        assert ask(f'{url}/api/completions/{running["id"]}')[0] == 404
        assert restorer.drawn < 8  # of the cancelled one, what was under way


def test_only_the_newest_results_are_kept():
    with serving(PlainRestorer(), app.Limits(kept=2)) as url:
        names = []
        for _ in range(3):
            names.append(complete(url, num_samples=1)[2]['id'])
            finished(url, names[-1])
        found = [ask(f'{url}/api/completions/{name}')[0] for name in names]
        assert found == [404, 200, 200]


def test_kept_results_are_bounded_in_bytes_too():
    class Large:
        nbytes = 60

    queue = Queue(bound=8, keep=8, keep_bytes=100)
    jobs = [queue.submit(lambda _: Large()) for _ in range(3)]
    for job in jobs:
        assert job.finished.wait(10)
    assert [queue.get(job.id) is not None for job in jobs] == [False, False, True]
    queue.close()
    with pytest.raises(Full):
        queue.submit(lambda _: None)


def test_an_error_of_the_server_is_logged_and_not_shown(caplog):
    class Broken(PlainRestorer):
        def __call__(self, *_, **__):
            raise KeyError('a secret')

    with serving(Broken()) as url:
        done = finished(url, complete(url)[2]['id'])
    assert done['state'] == 'failed' and 'secret' not in done['error']
    assert 'a secret' in caplog.text


# ------------------------------------------------------------------------------------- faults


def bomb(width, height):
    """A real PNG of zeros, of one bit each, made without holding them: at most some 500 kB."""
    pack = zlib.compressobj(1)
    rows = bytes(1 + width // 8) * 100
    data = b''.join(pack.compress(rows) for _ in range(height // 100)) + pack.flush()

    def chunk(kind, body):
        return (
            struct.pack('>I', len(body)) + kind + body + struct.pack('>I', zlib.crc32(kind + body))
        )

    head = struct.pack('>IIBBBBB', width, height, 1, 0, 0, 0, 0)
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', head) + chunk(b'IDAT', data) + chunk(b'IEND', b'')


def peak_bytes():
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == 'darwin' else peak * 1024


@pytest.mark.parametrize('side', [12_000, 30_000])
def test_s1_a_bomb_of_pixels_is_refused_before_it_is_decoded(url, side):
    data = bomb(side, side)
    assert len(data) < 2_000_000
    complete(url)  # what all requests need is there
    before = peak_bytes()
    assert post(f'{url}/api/faces', photo=data)[0] == 413
    assert complete(url, photo=data)[0] == 413
    assert complete(url, hole=data)[0] == 413
    assert peak_bytes() - before < 50_000_000


def raw(url, *parts):
    """Bytes sent as they are -> the status of the answer, 0 where the line was closed without."""
    host = urlsplit(url)
    with socket.create_connection((host.hostname, host.port), timeout=10) as line:
        for part in parts:
            line.sendall(part.replace(b'HOST', host.netloc.encode()))
        line.settimeout(10)
        try:
            answer = line.recv(4096)
        except ConnectionResetError:
            return 0
    return int(answer.split()[1]) if answer else 0


HEAD = (
    b'POST /api/faces HTTP/1.1\r\nHost: HOST\r\nContent-Type: multipart/form-data; boundary=x\r\n'
)


def test_s2_bodies_too_long_too_slow_or_without_length(url):
    alive = lambda: ask(f'{url}/api/info')[0] == 200  # noqa: E731
    limit = app.Limits().bytes
    assert raw(url, HEAD, b'Content-Length: %d\r\n\r\n' % (limit + 1)) == 413 and alive()
    assert raw(url, HEAD, b'Content-Length: 9%s\r\n\r\n' % (b'9' * 30)) == 400 and alive()
    assert raw(url, HEAD, b'Transfer-Encoding: chunked\r\n\r\n') == 411 and alive()
    assert raw(url, HEAD, b'Content-Length: -5\r\n\r\n') == 400 and alive()
    assert raw(url, HEAD, b'Content-Length: 5\r\nContent-Length: 6\r\n\r\n') == 400 and alive()
    assert raw(url, b'GET / HTTP/1.1\r\nHost: HOST\r\nX: %s\r\n\r\n' % (b'x' * 200_000)) in (0, 400)
    assert alive()
    name = b'x' * 1_000_000
    body = (
        b'--x\r\nContent-Disposition: form-data; name="photo"; filename="%s"\r\n\r\n--x--\r\n'
        % name
    )
    assert raw(url, HEAD, b'Content-Length: %d\r\n\r\n' % len(body), body) in (400, 415, 422)
    assert alive()


def test_s2_a_slow_body_times_out_and_others_are_served():
    limits = app.Limits(upload_seconds=0.3, uploads=1)
    with serving(PlainRestorer(), limits) as url:
        slow = []
        thread = threading.Thread(
            target=lambda: slow.append(raw(url, HEAD, b'Content-Length: 1000\r\n\r\n', b'--x\r\n'))
        )
        thread.start()
        assert ask(f'{url}/api/info')[0] == 200
        thread.join(10)
        assert slow == [408]
        assert post(f'{url}/api/faces', photo=PHOTO)[0] == 200


def test_s2_more_uploads_at_once_than_allowed_are_told_to_wait():
    with serving(PlainRestorer(), app.Limits(uploads=1)) as url:
        host = urlsplit(url)
        head = HEAD.replace(b'HOST', host.netloc.encode())
        with socket.create_connection((host.hostname, host.port)) as line:
            line.sendall(head + b'Content-Length: 1000\r\n\r\n')
            status = 200
            while status == 200:  # until the server has seen the first one
                status, headers, _ = post(f'{url}/api/faces', photo=PHOTO)
            assert status == 503 and headers['Retry-After'] == '1'
        while post(f'{url}/api/faces', photo=PHOTO)[0] == 503:
            pass  # the line is closed: its place is free


def test_s3_no_name_or_path_leads_out(tmp_path, monkeypatch):
    (tmp_path / 'here').mkdir()
    (tmp_path / 'secret').write_text('secret')
    monkeypatch.chdir(tmp_path / 'here')
    with serving(PlainRestorer()) as url:
        body, headers = form(photo=PHOTO, hole=MASK)
        for name in ('../evil.png', '/evil.png', '..\\evil.png', 'C:\\evil.png', '\0', '%00'):
            changed = body.replace(b'photo.bin', name.encode())
            assert ask(f'{url}/api/completions', 'POST', changed, headers)[0] in (202, 400)
        for path in ('../secret', '/etc/passwd', 'file:///etc/passwd', '/dev/zero'):
            assert post(f'{url}/api/faces', photo=path)[0] == 422
        for path in (
            '/static/../app.py', '/static/%2e%2e/app.py', '/static/..%2fapp.py', '//etc/passwd',
            '/static//etc/passwd', '/api/completions/..%2f..%2fapp.py', '/static/%00',
        ):  # fmt: skip
            line = http.client.HTTPConnection(urlsplit(url).netloc)
            line.request('GET', path)
            assert line.getresponse().status == 404, path
            line.close()
    assert sorted(p.name for p in tmp_path.rglob('*')) == ['here', 'secret']


def test_s4_weights_that_would_run_code_are_refused(tmp_path, capsys):
    canary = tmp_path / 'canary'
    pickled = b'cposix\nsystem\n(S"touch %s"\ntR.' % os.fsencode(canary)
    for name in ('weights.ckpt', 'weights.pt', 'weights.safetensors', 'weights.npz'):
        (tmp_path / name).write_bytes(pickled)
        assert app.main([str(tmp_path / name), '--port=0']) == 1
        assert capsys.readouterr().err.startswith('error: ')
    assert not canary.exists()


def test_s5_no_address_is_fetched(url):
    with socket.create_server(('127.0.0.1', 0)) as elsewhere:
        address = f'http://127.0.0.1:{elsewhere.getsockname()[1]}/photo.png'
        assert post(f'{url}/api/faces', photo=address)[0] == 422
        assert complete(url, hole=address)[0] == 422
        assert complete(url, url=address)[0] == 422
        elsewhere.settimeout(0.2)
        with pytest.raises(TimeoutError):
            elsewhere.accept()


@pytest.mark.parametrize(
    'headers',
    [
        {'Origin': 'https://elsewhere.example'},
        {'Origin': 'null'},
        {'Origin': 'http://127.0.0.1:1'},
        {'Sec-Fetch-Site': 'cross-site'},
        {'Sec-Fetch-Site': 'same-site'},
    ],
)
def test_s5_pages_of_other_origins_write_nothing(url, headers):
    assert post(f'{url}/api/completions', headers, photo=PHOTO, hole=MASK)[0] == 403
    assert ask(f'{url}/api/completions/x', 'DELETE', headers=headers)[0] == 403


def test_s5_other_names_of_this_machine_are_refused_unless_allowed(url):
    for host in ('elsewhere.example', '127.0.0.1', 'localhost:1', ''):
        assert ask(url, headers={'Host': host})[0] in (400, 421), host
    origin = {'Origin': url}
    assert post(f'{url}/api/faces', origin, photo=PHOTO)[0] == 200
    with serving(PlainRestorer(), extra_hosts=['faces.example']) as behind:
        assert ask(behind, headers={'Host': 'Faces.example'})[0] == 200
        allowed = {'Host': 'faces.example', 'Origin': 'https://faces.example'}
        assert post(f'{behind}/api/faces', allowed, photo=PHOTO)[0] == 200
    assert 'Access-Control-Allow-Origin' not in ask(url)[1]


@pytest.mark.parametrize(
    'fields',
    [
        {'landmarks': json.dumps(POINTS[:67])},
        {'landmarks': json.dumps([[float('nan'), 0], *POINTS[1:]])},
        {'landmarks': json.dumps([[1e9, 0], *POINTS[1:]])},
        {'landmarks': json.dumps([[[0, 0]], *POINTS[1:]])},
        {'landmarks': '[' * 100_000},
        {'landmarks': '1' * 10_000},
        {'landmarks': 'not json'},
        {'face': '[1, 2, 3]'},
        {'face': '[1e999, 2, 3, 4]'},
        {'face': json.dumps(POINTS[:67])},
        {'num_samples': 10**6},
        {'num_samples': 0},
        {'num_samples': 'many'},
        {'seed': -1},
        {'seed': 2**32},
        {'seed': '9' * 10_000},
        {'structure': 1.5},
        {'appearance': 'nan'},
        {'guidance': 'inf'},
        {'guidance': 4.1},
        {'steps': 0},
        {'num_sampels': 4},
    ],
    ids=str,
)
def test_s5_settings_out_of_range_are_named(url, fields):
    status, _, answer = complete(url, **fields)
    assert status == 422 and next(iter(fields)) in answer['detail']
    assert len(answer['detail']) < 1000


def fuzzed(rng):
    """A good request with damage: in a picture, in the form, in a field."""
    fields = {'photo': PHOTO, 'hole': MASK, 'num_samples': 1, 'landmarks': json.dumps(POINTS)}
    kind = rng.integers(4)
    if kind < 2:
        name = ('photo', 'hole')[kind]
        data = np.frombuffer(fields[name], np.uint8).copy()
        where = rng.integers(len(data), size=rng.integers(1, 8))
        data[where] = rng.integers(256, size=len(where))
        fields[name] = data.tobytes()[: rng.integers(1, len(data) + 1)]
    elif kind == 2:
        fields[rng.choice([*fields, 'seed', 'keep', 'face', 'steps'])] = rng.bytes(20).decode(
            'latin1'
        )
    body, headers = form(**fields)
    if kind == 3:
        data = np.frombuffer(body, np.uint8).copy()
        where = rng.integers(len(data), size=20)
        data[where] = rng.integers(256, size=len(where))
        body = data.tobytes()
    return body, headers


@pytest.mark.parametrize('count', [150, pytest.param(1000, marks=pytest.mark.slow)])
def test_s5_fuzzed_requests_never_break_the_server(url, count):
    rng = np.random.default_rng(count)
    seen = []
    for _ in range(count):
        body, headers = fuzzed(rng)
        seen.append(ask(f'{url}/api/completions', 'POST', body, headers)[0])
        if seen[-1] == 429:
            post(f'{url}/api/faces', photo=PHOTO)
    assert max(seen) < 500, sorted(set(seen))
    assert len(set(seen)) > 2  # some were taken, some refused
    done = finished(url, complete(url)[2]['id'])
    assert done['state'] == 'done'


@pytest.mark.slow
def test_memory_stays_flat_over_many_photos(tmp_path):
    """In a process of its own, by the benchmark that docs/serve.md quotes."""
    from tests import tiny_weights

    weights = tiny_weights.write(tmp_path / 'tiny.safetensors')
    done = subprocess.run(
        [sys.executable, '-m', 'benchmarks.serve', str(weights), '--photos=250'],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    reported = json.loads(done.stdout)
    assert reported['answers']['done'] == reported['answers']['200'] == 250
    assert set(reported['answers']) <= {'202', '200', '429', 'done'}
    first, *_, last = reported['peak_mb_after_each_50']
    assert last - first < 60
