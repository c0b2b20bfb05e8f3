"""A server in a thread, and a restorer of plain arithmetic for what is about HTTP alone."""

import contextlib
import json
import socket
import threading
import time
import urllib.request
import uuid

import numpy as np

from fi_jax.input_pipeline import alignment
from fi_jax.landmarks import MEAN_SHAPE
from fi_jax.photo.finding import Face
from fi_jax.photo.reading import Photo, read_hole, read_photo
from fi_jax.photo.result import Crop, Part, Result
from fi_jax.serve.app import create_app, hosts_of, server_of


class PlainRestorer:
    """Fills the hole with one grey a sample; each sample waits until `go` is set."""

    res = 32
    about = {'name': 'plain', 'sha256': '0' * 64}  # noqa: RUF012
    config = {'guidance': 1.5}  # noqa: RUF012

    def __init__(self):
        self.go = threading.Event()
        self.go.set()
        self.drawn = 0

    def find(self, photo, hole=None):
        photo = photo if isinstance(photo, Photo) else read_photo(photo)
        height, width = photo.size
        if hole is not None:
            read_hole(hole, photo)
        if min(height, width) < 16:
            return []
        points = (MEAN_SHAPE * [width, height] - 0.5).astype(np.float32)
        return [Face.of(points)]

    def __call__(self, photo, hole, num_samples=8, seed=0, *, landmarks=None, face=None,
                 structure=1.0, appearance=1.0, keep=None, guidance=None, steps=None,
                 on_progress=None):  # fmt: skip
        photo = read_photo(photo)
        missing = read_hole(hole, photo)
        faces = self.find(photo)
        if not faces:
            raise ValueError('photo: no face found near the hole')
        points = faces[0].landmarks if landmarks is None else landmarks
        for k in range(num_samples):
            on_progress(k, num_samples)
            while not self.go.wait(0.01):
                on_progress(k, num_samples)
            self.drawn += 1
        grey = np.random.default_rng(seed).integers(0, 256, num_samples)
        completed = np.full((num_samples, self.res, self.res, 3), grey[:, None, None, None])
        crop = Crop(alignment.invert(alignment.to_canonical(points, self.res)), self.res)
        led = np.stack([points] * num_samples)
        part = Part(faces[0], crop, missing, led, completed.astype(np.uint8))
        return Result(photo, missing, seed, (part,), ())


@contextlib.contextmanager
def serving(restorer, limits=None, extra_hosts=()):
    """A running server -> its address, http://127.0.0.1:PORT."""
    listener = socket.create_server(('127.0.0.1', 0))
    port = listener.getsockname()[1]
    server = server_of(create_app(restorer, [*hosts_of(port), *extra_hosts], limits))
    thread = threading.Thread(target=server.run, kwargs={'sockets': [listener]}, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield f'http://127.0.0.1:{port}'
    finally:
        server.should_exit = True
        thread.join(20)
        listener.close()
        assert not thread.is_alive()


def form(**fields):
    """A multipart body and its headers; bytes are files, all else text."""
    border = uuid.uuid4().hex
    body = b''
    for name, value in fields.items():
        file = f'; filename="{name}.bin"' if isinstance(value, bytes) else ''
        head = f'--{border}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'
        body += head.encode() + (value if isinstance(value, bytes) else str(value).encode())
        body += b'\r\n'
    body += f'--{border}--\r\n'.encode()
    return body, {'Content-Type': f'multipart/form-data; boundary={border}'}


def ask(url, method='GET', body=None, headers=None, timeout=30):
    """-> status, headers, body."""
    request = urllib.request.Request(url, body, headers or {}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read()


def post(where, headers=None, **fields):
    """A form sent -> status, headers, the JSON that answers."""
    body, kind = form(**fields)
    status, got, answer = ask(where, 'POST', body, {**kind, **(headers or {})})
    return status, got, json.loads(answer)


def finished(url, name):
    """The status of a completion once it is done or failed."""
    while True:
        status, _, body = ask(f'{url}/api/completions/{name}')
        assert status == 200, body
        answer = json.loads(body)
        if answer['state'] not in ('queued', 'running'):
            return answer
        time.sleep(0.01)
