"""The server under load: requests a second, the longest queue, memory after many photos.

    XLA_FLAGS=--xla_backend_optimization_level=0 python -m benchmarks.serve

Untrained networks of 32 pixels, so that what is measured is the server and the way of a photo, not
a network. Prints a line of JSON.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import resource
import socket
import sys
import threading
import time
from collections import Counter
from typing import Any

import cv2
import jax
import numpy as np
import requests

from configs import landmarks, stage2
from fi_jax import inpaint
from fi_jax.input_pipeline.procedural.faces import face
from fi_jax.methods import make_method
from fi_jax.optim import make_optimizers
from fi_jax.pretrained import Weights
from fi_jax.serve.app import Limits, create_app, hosts_of, server_of
from fi_jax.state import init_state


def untrained(config: Any) -> Weights:
    method = make_method(config)
    init = jax.jit(
        lambda: init_state(method, make_optimizers(config, method.nets), config.res, config.seed)
    )
    return Weights(config, method, init().nets, None, {'name': 'untrained', 'sha256': ''})


def photo_and_hole(index: int) -> dict[str, bytes]:
    """A drawn face in a photo of 600 to 1200 pixels a side, and a hole over its mouth."""
    side = 600 + 100 * (index % 7)
    pixels = cv2.resize(face(0, index, 128)[0], (side, side), interpolation=cv2.INTER_CUBIC)
    hole = np.zeros((side, side), np.uint8)
    hole[side * 6 // 10 : side * 8 // 10, side * 3 // 10 : side * 7 // 10] = 255
    return {
        'photo': cv2.imencode('.jpg', pixels[..., ::-1])[1].tobytes(),
        'hole': cv2.imencode('.png', hole)[1].tobytes(),
    }


def memory() -> float:
    """The most memory that this process has held, MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2 ** (20 if sys.platform == 'darwin' else 10)


def one(url: str, index: int, seen: Counter[Any]) -> float:
    """A photo completed and fetched -> seconds of it, from the moment it was taken."""
    files = photo_and_hole(index)
    while True:
        start = time.monotonic()
        answer = requests.post(
            f'{url}/api/completions',
            files=files,
            data={'num_samples': 2, 'seed': index},
            timeout=60,
        )
        seen[answer.status_code] += 1
        if answer.status_code == 202:
            break
        time.sleep(0.1)
    job = answer.json()
    seen['longest queue'] = max(seen['longest queue'], job['ahead'])
    where = f'{url}/api/completions/{job["id"]}'
    while (status := requests.get(where, timeout=60).json())['state'] in ('queued', 'running'):
        time.sleep(0.02)
    seen[status['state']] += 1
    image = requests.get(f'{where}/images/1', timeout=60)
    seen[image.status_code] += 1
    requests.delete(where, timeout=60)
    return time.monotonic() - start


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument('--photos', type=int, default=250)
    parser.add_argument('--clients', type=int, default=12)
    options = parser.parse_args()
    restorer = inpaint.Restorer(
        untrained(stage2.get_config('tiny')), untrained(landmarks.get_config('tiny'))
    )
    with socket.create_server(('127.0.0.1', 0)) as listener:
        port = listener.getsockname()[1]
        server = server_of(create_app(restorer, hosts_of(port), Limits()))
        thread = threading.Thread(target=server.run, kwargs={'sockets': [listener]})
        thread.start()
        url, seen = f'http://127.0.0.1:{port}', Counter[Any]()
        one_seconds = one(url, 0, Counter())  # compiles
        start, count = time.monotonic(), 0
        with requests.Session() as session:
            while time.monotonic() - start < 3:
                count += session.get(f'{url}/api/info', timeout=10).status_code == 200
        info_rate = count / 3
        peaks: list[float] = []
        seconds: list[float] = []
        start = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(options.clients) as clients:
            for first in range(0, options.photos, 50):
                indices = range(first, min(first + 50, options.photos))
                seconds += clients.map(lambda i: one(url, i, seen), indices)
                peaks.append(round(memory(), 1))
        took = time.monotonic() - start
        server.should_exit = True
        thread.join()
    print(json.dumps({
        'first_photo_seconds': round(one_seconds, 1),
        'info_requests_per_second': round(info_rate),
        'photos_per_second': round(options.photos / took, 2),
        'median_seconds': round(float(np.median(seconds)), 2),
        'longest_queue': seen.pop('longest queue'),
        'answers': {str(k): n for k, n in seen.items()},
        'peak_mb_after_each_50': peaks,
    }))  # fmt: skip


if __name__ == '__main__':
    main()
