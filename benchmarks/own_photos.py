"""Photos from outside: faces found, pixels outside the hole, the seam, seconds and memory.

python -m benchmarks.own_photos --weights=FILE --photos=FACES.zip --points=POINTS.npz --limit=40

Each photo gets one kind of hole, in turn, laid by the landmarks in --points (an .npz or shards); a
photo without a row there is left out. Every fourth is enlarged to a longer side of --enlarge pixels
first. A face counts as found where the surest answer lies within a quarter of the eyes' distance of
the given points, on average. The seam is the mean step of grey levels across the hole's border,
less that of the photo itself.
"""

from __future__ import annotations

import argparse
import functools
import json
import resource
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fi_jax.input_pipeline import holes, landmark_shards
from fi_jax.input_pipeline.archives import Folder, Zip
from fi_jax.input_pipeline.records import decode
from fi_jax.photo import blending
from fi_jax.photo.finding import NoFaceFound
from fi_jax.photo.restorer import load
from fi_jax.photo.result import Result

KINDS = ('centre', 'mouth', 'eyes', 'lower_half', 'half_face', 'strokes')


def step_across(pixels: np.ndarray, missing: np.ndarray) -> float:
    """Mean step of grey levels between neighbours on either side of the border of a hole."""
    grey = pixels.astype(np.float64).mean(-1)
    steps = []
    for axis in (0, 1):
        border = np.diff(missing.astype(np.int8), axis=axis) != 0
        steps.append(np.abs(np.diff(grey, axis=axis))[border])
    return float(np.concatenate(steps).mean())


def hole_on(points: np.ndarray, size: tuple[int, int], kind: str, name: str) -> np.ndarray:
    """A hole (H,W) bool of a kind on a face; 'centre' is a square over nose and mouth."""
    if kind != 'centre':
        return holes.fixed(0, zlib.crc32(name.encode()), kind, size, points)[0][..., 0] > 0
    x, y = points[27:60].mean(0).astype(int)
    half = max(2, int(0.3 * np.ptp(points[:, 0])))
    missing = np.zeros(size, bool)
    missing[max(0, y - half) : y + half, max(0, x - half) : x + half] = True
    return missing


def measure(
    complete: Callable[..., Result],
    pixels: np.ndarray,
    points: np.ndarray,
    kind: str,
    name: str,
) -> dict[str, Any]:
    """One photo -> its row; complete(photo, hole) is a restorer with its settings."""
    missing = hole_on(points, pixels.shape[:2], kind, name)
    row: dict[str, Any] = {'name': name, 'kind': kind, 'size': pixels.shape[:2], 'found': False}
    if not missing.any():
        return row | {'why': 'no hole'}
    damaged = np.where(missing[..., None], np.uint8(128), pixels)
    start = time.perf_counter()
    try:
        result = complete(damaged, missing)
        outs = [result.pixels(k) for k in range(len(result))]
    except NoFaceFound as error:
        return row | {'why': str(error), 'seconds': time.perf_counter() - start}
    eyes = float(np.linalg.norm(points[45] - points[36]))
    nme = float(np.linalg.norm(result.face.landmarks - points, axis=-1).mean()) / eyes
    natural = step_across(pixels, missing)
    return row | {
        'found': nme < 0.25,
        'nme': 100 * nme,
        'seconds': time.perf_counter() - start,
        'outside': max(int(np.abs(o[~missing].astype(int) - pixels[~missing]).max()) for o in outs),
        'seam': float(np.mean([step_across(o, missing) for o in outs])) - natural,
        'natural': natural,
        'seam_unblended': step_across(_unblended(result), missing) - natural,
        'factor': result.crop.factor,
    }


def _unblended(result: Result) -> np.ndarray:
    """Completion 0 laid in as it is, without the field that makes it meet the photo."""
    part = result.parts[0]
    laid = blending.lay(part.completed[0].astype(np.float32), result.photo.size, part.crop.to_photo)
    out = result.photo.pixels.copy()
    out[result.hole] = np.clip(laid, 0, 255).astype(np.uint8)[result.hole]
    return out


def main() -> None:
    """Prints a table, and writes all rows where --out says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--weights', default='')
    parser.add_argument('--predictor', default='')
    parser.add_argument('--photos', required=True)
    parser.add_argument('--points', required=True)
    parser.add_argument('--limit', type=int, default=40)
    parser.add_argument('--enlarge', type=int, default=3000)
    parser.add_argument('--num_samples', type=int, default=2)
    parser.add_argument('--steps', type=int)
    parser.add_argument('--out', default='')
    options = parser.parse_args()
    source: Any = (Folder if Path(options.photos).is_dir() else Zip)(options.photos)
    table = landmark_shards.read_table(options.points)
    known = [i for i, n in enumerate(source.names) if n in table and table[n].found]
    known = known[:: max(1, len(known) // options.limit)][: options.limit]
    complete = functools.partial(
        load(options.weights, options.predictor),
        num_samples=options.num_samples,
        steps=options.steps,
    )
    rows = []
    for number, index in enumerate(known):
        record = source[index]
        pixels, points = decode(record.image, record.name), table[record.name].points
        if number % 4 == 3 and max(pixels.shape) < options.enlarge:
            times = options.enlarge / max(pixels.shape)
            pixels = cv2.resize(pixels, None, fx=times, fy=times, interpolation=cv2.INTER_CUBIC)
            points = ((points + 0.5) * times - 0.5).astype(np.float32)
        kind = KINDS[number % len(KINDS)]
        rows.append(measure(complete, pixels, points, kind, record.name))
        print(json.dumps(rows[-1]), flush=True)
    done = [r for r in rows if 'seam' in r]
    mean = {k: float(np.mean([r[k] for r in done])) for k in ('seam', 'seam_unblended', 'natural')}
    print(
        f'{len(rows)} photos, {sum(r["found"] for r in rows)} faces found; '
        f'outside the hole at most {max((r["outside"] for r in done), default=0)}; seam '
        f'{mean["seam"]:+.2f} grey levels ({mean["seam_unblended"]:+.2f} unblended, '
        f'{mean["natural"]:.2f} in the photo itself); median '
        f'{np.median([r["seconds"] for r in rows if "seconds" in r]):.1f} s; '
        f'{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB'
    )
    if options.out:
        Path(options.out).write_text(json.dumps(rows, indent=1) + '\n')


if __name__ == '__main__':
    main()
