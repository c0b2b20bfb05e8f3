"""Photos from outside: faces found, pixels outside the hole, the seam, seconds and memory.

python -m benchmarks.own_photos --weights=FILE --photos=FACES.zip --points=POINTS.npz --limit=40
python -m benchmarks.own_photos ... --model=face_landmarker.task    # and a corner that is dragged

Each photo gets one kind of hole, in turn, laid by the landmarks in --points (an .npz or shards); a
photo without a row there is left out. Every fourth is enlarged to a longer side of --enlarge pixels
first. A face counts as found where the surest answer lies within a quarter of the eyes' distance of
the given points, on average. The seam is the mean step of grey levels across the hole's border,
less that of the photo itself. Where `fi-jax weights fetch` has brought ST-LPIPS, its distance in
the hole to the photo itself, and between samples, in the square of the face. With --model,
MediaPipe's: under a hole over the mouth its left corner is dragged outwards and up by --drag of the
eyes' distance, as on the page, and the same samples are drawn again; how far the corner went, as a
share of the drag, beside what MediaPipe sees of it in the photo itself, warped. Not where a photo
is enlarged.
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
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.obedience import Finder, mediapipe
from fi_jax.augmentation.places import warp
from fi_jax.input_pipeline import holes, landmark_shards
from fi_jax.input_pipeline.archives import Folder, Zip
from fi_jax.input_pipeline.records import decode
from fi_jax.metrics import perceptual
from fi_jax.photo import blending
from fi_jax.photo.finding import NoFaceFound
from fi_jax.photo.restorer import load
from fi_jax.photo.result import Result

CORNER = 54  # of the mouth, on the right of the picture
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
    distance: perceptual.Distance | None = None,
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
    seconds = time.perf_counter() - start
    eyes = float(np.linalg.norm(points[45] - points[36]))
    nme = float(np.linalg.norm(result.face.landmarks - points, axis=-1).mean()) / eyes
    natural = step_across(pixels, missing)
    if distance:
        row |= in_the_hole(distance, result, outs, pixels)
    return row | {
        'found': nme < 0.25,
        'nme': 100 * nme,
        'seconds': seconds,
        'outside': max(int(np.abs(o[~missing].astype(int) - pixels[~missing]).max()) for o in outs),
        'seam': float(np.mean([step_across(o, missing) for o in outs])) - natural,
        'natural': natural,
        'seam_unblended': step_across(_unblended(result), missing) - natural,
        'factor': result.crop.factor,
    }


def in_the_hole(
    distance: perceptual.Distance, result: Result, outs: list[np.ndarray], pixels: np.ndarray
) -> dict[str, float]:
    """ST-LPIPS of the completions to the photo, and between them, in the network's square."""
    crop, nothing = result.crop, np.zeros(pixels.shape[:2], bool)
    _, hole = blending.cut(pixels, result.hole, crop.to_photo, crop.res)
    seen = [blending.cut(x, nothing, crop.to_photo, crop.res)[0] for x in (pixels, *outs)]
    far = _apart(distance, jnp.asarray(np.stack(seen)), jnp.asarray(hole[..., None], jnp.float32))
    n = len(outs)
    error = {'error': float(far[0, 1:].mean())}
    return error | ({'between': float(far[1:, 1:].sum()) / (n * (n - 1))} if n > 1 else {})


@jax.jit
def _apart(distance: perceptual.Distance, images: jax.Array, hole: jax.Array) -> jax.Array:
    maps = distance.features(images)
    one, other = tuple(m[:, None] for m in maps), tuple(m[None] for m in maps)
    return distance.compare(one, other, hole[None, None])


def follow(
    complete: Callable[..., Result],
    find: Finder,
    pixels: np.ndarray,
    points: np.ndarray,
    drag: float,
) -> dict[str, float]:
    """How far a dragged corner of the mouth went, in completions and in the photo, warped; 1: all.

    NaN where a picture shows the detector no face.
    """
    across = points[45] - points[36]
    way = drag * (across + 0.5 * np.array([across[1], -across[0]]))
    apart = np.linalg.norm(points[48:] - points[CORNER], axis=1)
    near = 0.06 * np.linalg.norm(np.ptp(points, axis=0))  # as the page's "point and near"
    move = np.zeros_like(points)
    move[48:] = np.exp(-np.square(apart / near) / 2)[:, None] * way
    reached = np.concatenate([points[48:], points[48:] + move[48:]])
    margin = 0.2 * np.linalg.norm(across)
    left, top = np.maximum(reached.min(0) - margin, 0).astype(int)
    right, bottom = (reached.max(0) + margin).astype(int)
    missing = np.zeros(pixels.shape[:2], bool)
    missing[top:bottom, left:right] = True
    damaged = np.where(missing[..., None], np.uint8(128), pixels)
    shape = complete(damaged, missing, num_samples=1).landmarks[0]
    still, moved = (complete(damaged, missing, landmarks=shape + m) for m in (0 * move, move))
    pairs = [[still.pixels(k), moved.pixels(k)] for k in range(len(still))]
    pairs.append([pixels, _bent(pixels, points, move)])
    went = []
    for before, after in (find(np.stack(pair)) for pair in pairs):
        if before is None or after is None:
            went.append(np.nan)
        else:
            went.append(float((after - before)[CORNER] @ way / (way @ way)))
    return {'followed': float(np.mean(went[:-1])), 'followed_warped': went[-1]}


def _bent(pixels: np.ndarray, points: np.ndarray, move: np.ndarray) -> np.ndarray:
    """The photo warped so that its points move."""
    height, width = pixels.shape[:2]
    side = max(height, width)
    square = np.pad(pixels, ((0, side - height), (0, side - width), (0, 0)), 'edge')
    return np.asarray(warp(*map(jnp.asarray, (square, points, move)))[0])[:height, :width]


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
    parser.add_argument('--model', default='', help='face_landmarker.task: drag a corner too')
    parser.add_argument('--drag', type=float, default=0.15, help="of the eyes' distance")
    parser.add_argument('--guidance', type=float)
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
        guidance=options.guidance,
    )
    find = mediapipe(options.model) if options.model else None
    known_distance = 'stlpips_alex' in perceptual.available()
    distance = perceptual.make_distance('stlpips_alex') if known_distance else None
    rows = []
    for number, index in enumerate(known):
        record = source[index]
        pixels, points = decode(record.image, record.name), table[record.name].points
        enlarge = number % 4 == 3
        if enlarge and max(pixels.shape) < options.enlarge:
            times = options.enlarge / max(pixels.shape)
            pixels = cv2.resize(pixels, None, fx=times, fy=times, interpolation=cv2.INTER_CUBIC)
            points = ((points + 0.5) * times - 0.5).astype(np.float32)
        kind = KINDS[number % len(KINDS)]
        rows.append(measure(complete, pixels, points, kind, record.name, distance))
        if find and not enlarge and rows[-1]['found']:
            rows[-1] |= follow(complete, find, pixels, points, options.drag)
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
    for key, words in (('error', 'to the photo'), ('between', 'between samples')):
        if far := [r[key] for r in done if key in r]:
            print(f'ST-LPIPS alex in the hole, {words}: {np.mean(far):.4f}')
    dragged = np.array([(r['followed'], r['followed_warped']) for r in rows if 'followed' in r])
    dragged = dragged[np.isfinite(dragged).all(1)] if len(dragged) else dragged
    if len(dragged):
        its_way = 100 * (dragged[:, 0] > 0).mean()
        print(
            f'the corner of {len(dragged)} hidden mouths dragged by {options.drag} of the eyes: '
            '{:.2f} of it on average in completions, {:.2f} in the photo, warped; in {:.0f} % '
            'of the photos it went that way'.format(*dragged.mean(0), its_way)
        )
    if options.out:
        Path(options.out).write_text(json.dumps(rows, indent=1) + '\n')


if __name__ == '__main__':
    main()
