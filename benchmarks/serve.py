"""The server under load: requests a second, the longest queue, memory after many photos.

    python -m tests.tiny_weights tiny.safetensors
    python -m benchmarks.serve tiny.safetensors [--photos 250] [--clients 12]

With networks this small, what is measured is the server and the way of a photo; with others, all.
Prints a line of JSON.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import functools
import json
import resource
import socket
import sys
import threading
import time
from collections import Counter
from typing import Any

import cv2
import numpy as np
import requests
from skimage import data

from fi_jax.photo.restorer import load
from fi_jax.serve.app import Limits, create_app, hosts_of, server_of


@functools.cache
def photo_and_hole(index: int) -> dict[str, bytes]:
    """A photo of 400 to 1000 pixels a side, and a hole over its mouth."""
    side = 400 + 100 * index
    pixels = cv2.resize(data.astronaut(), (side, side), interpolation=cv2.INTER_CUBIC)
    hole = np.zeros((side, side), np.uint8)
    hole[side * 25 // 100 : side * 31 // 100, side * 39 // 100 : side * 49 // 100] = 255
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
    files = photo_and_hole(index % 7)
    side = 400 + 100 * (index % 7)
    box = [side * share for share in (0.36, 0.13, 0.54, 0.36)]  # of the face: none is looked for
    while True:
        start = time.monotonic()
        answer = requests.post(
            f'{url}/api/completions',
            files=files,
            data={'num_samples': 2, 'seed': index, 'face': json.dumps(box)},
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
    parser.add_argument('weights', help='a name, a file or a run')
    parser.add_argument('--photos', type=int, default=250)
    parser.add_argument('--clients', type=int, default=12)
    options = parser.parse_args()
    restorer = load(options.weights)
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
