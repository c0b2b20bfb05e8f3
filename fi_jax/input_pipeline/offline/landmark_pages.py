"""What a person looks at after an extraction: a page of pictures, and feature maps as PNGs."""

from __future__ import annotations

import html
import os
import random
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from fi_jax import landmarks as lm
from fi_jax.input_pipeline import alignment, records
from fi_jax.input_pipeline.landmark_shards import LandmarkRow

TILE, COLUMNS, LIMIT = 144, 8, 48
_COLOURS = {
    'jaw': (255, 210, 0), 'right_brow': (0, 220, 120), 'left_brow': (0, 220, 120),
    'nose': (90, 170, 255), 'right_eye': (255, 80, 80), 'left_eye': (255, 80, 80),
    'mouth': (255, 90, 220),
}  # fmt: skip


def describe(summary: Mapping[str, Any]) -> str:
    """The summary in a few lines."""
    n = summary['images']
    reasons = ', '.join(f'{r} {c:,}' for r, c in summary['not_found'].items()) or 'none'
    looks = ', '.join(f'{r} {c:,}' for r, c in summary['doubts'].items()) or 'none'
    return (
        f'found          {summary["found"]:,} of {n:,} ({summary["found"] / n:.2%})\n'
        f'not found      {n - summary["found"]:,} ({summary["drop_rate"]:.2%}): {reasons}\n'
        f'many faces     {summary["many_faces"]:,} (the largest near the middle was taken)\n'
        f'doubtful       {summary["doubtful"]:,}: {looks}'
    )


def write_page(
    source: records.Source,
    rows: Sequence[LandmarkRow],
    summary: Mapping[str, Any],
    out: str,
    seed: int = 0,
) -> str:
    """Writes out/page/index.html with contact sheets: a random choice, the doubtful, the missing.

    rows[i] belongs to source[i]. Returns the path of the page.
    """
    folder = os.path.join(out, 'page')
    os.makedirs(folder, exist_ok=True)
    found = [i for i, row in enumerate(rows) if row.found]
    worst = sorted(found, key=lambda i: -alignment.oddness(rows[i].points))
    chosen = {
        'Any': (random.Random(seed).sample(found, min(LIMIT, len(found))), 'drawn at random'),
        'Oddest': (worst[:LIMIT], 'farthest from the mean face: turned heads, and mistakes'),
        'Doubtful': (
            _spread([i for i in found if set(rows[i].doubts) - {'many faces', 'odd shape'}]),
            'second look, small or cut off',
        ),
        'Many faces': (
            _spread([i for i in found if 'many faces' in rows[i].doubts]),
            'one of several was taken',
        ),
        'Not found': (_spread([i for i, row in enumerate(rows) if not row.found]), ''),
    }
    parts = []
    for title, (indices, what) in chosen.items():
        if not indices:
            continue
        file = title.lower().replace(' ', '_') + '.jpg'
        tiles = [_tile(source, i, rows[i]) for i in indices]
        _save(os.path.join(folder, file), contact_sheet(tiles), [cv2.IMWRITE_JPEG_QUALITY, 90])
        names = ', '.join(
            html.escape(rows[i].name + ('' if rows[i].found else f' ({rows[i].reason})'))
            for i in indices
        )
        parts.append(
            f'<h2>{title}</h2><p>{what}</p><img src="{file}" alt="{title}">'
            f'<details><summary>names, row by row</summary><p>{names}</p></details>'
        )
    path = os.path.join(folder, 'index.html')
    with open(path, 'w', encoding='utf-8') as page:
        page.write(
            '<!doctype html><html lang="en"><meta charset="utf-8"><title>Landmarks</title>'
            '<style>body{font:15px sans-serif;margin:2em auto;max-width:1180px;padding:0 1em}'
            'img{max-width:100%}details p{font-size:12px;overflow-wrap:anywhere}</style>'
            f'<h1>Landmarks</h1><pre>{html.escape(describe(summary))}</pre>'
            f'<p>Terms: {html.escape(summary["terms"])}</p>{"".join(parts)}</html>\n'
        )
    return path


def _spread(indices: list[int]) -> list[int]:
    step = max(len(indices) / LIMIT, 1)
    return [indices[int(k * step)] for k in range(min(len(indices), LIMIT))]


def contact_sheet(tiles: Sequence[np.ndarray], columns: int = COLUMNS) -> np.ndarray:
    """Tiles (TILE,TILE,3) uint8 in rows, on white."""
    columns = min(columns, len(tiles))
    height = -(-len(tiles) // columns)
    page = np.full((height * (TILE + 4) + 4, columns * (TILE + 4) + 4, 3), 255, np.uint8)
    for k, tile in enumerate(tiles):
        y, x = 4 + k // columns * (TILE + 4), 4 + k % columns * (TILE + 4)
        page[y : y + TILE, x : x + TILE] = tile
    return page


def _tile(source: records.Source, index: int, row: LandmarkRow) -> np.ndarray:
    try:
        record = source[index]
        image = records.decode(record.image, record.name)
    except records.BadImage:
        blank = np.full((TILE, TILE, 3), 230, np.uint8)
        cv2.putText(blank, 'not readable', (24, 76), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (90,) * 3, 1,
                    cv2.LINE_AA)  # fmt: skip
        return blank
    if not row.found:
        height, width = image.shape[:2]
        return alignment.warp(image, _fit(height, width), (TILE, TILE), fill=230)
    # Around the face, with room: pictures of a crowd would show a dot.
    low, high = row.points.min(0), row.points.max(0)
    side = 1.7 * float((high - low).max()) + 2
    scale = TILE / side
    corner = (low + high) / 2 - side / 2
    transform = np.array([[scale, 0, -corner[0] * scale], [0, scale, -corner[1] * scale]])
    seen = alignment.warp(image, transform, (TILE, TILE), fill=230)
    return draw(seen, alignment.apply(transform, row.points))


def _fit(height: int, width: int) -> np.ndarray:
    scale = TILE / max(height, width)
    shift = 0.5 * scale - 0.5
    return np.array([
        [scale, 0, shift + (TILE - width * scale) / 2],
        [0, scale, shift + (TILE - height * scale) / 2],
    ])  # fmt: skip


def draw(image: np.ndarray, points: np.ndarray, radius: float = 1.3) -> np.ndarray:
    """The points as coloured dots by region on a copy of an image (H,W,3) uint8."""
    image = image.copy()
    for region, indices in lm.REGIONS.items():
        for x, y in points[indices]:
            centre = round(float(x) * 16), round(float(y) * 16)
            if all(abs(c) < 1 << 20 for c in centre):
                cv2.circle(image, centre, round(radius * 16), _COLOURS[region], -1, cv2.LINE_AA, 4)
    return image


def export_features(
    source: records.Source,
    table: Mapping[str, LandmarkRow],
    out: str,
    hull: str = 'face68',
    limit: int = 0,
) -> int:
    """Writes out/NAME/{landmarks,mask,part,points}.png for each face that has landmarks; the count.

    landmarks and mask are the features of the pipeline, drawn at the image's own size; part is the
    image inside the mask; points is the photo with the points on it. hull: 'face68' or 'extended'.
    """
    written = 0
    for i in range(len(source)):
        if limit and written >= limit:
            break
        try:
            record = source[i]
            row = table.get(record.name)
            if row is None or not row.found:
                continue
            image = records.decode(record.image, record.name)
        except records.BadImage:
            continue
        folder = os.path.join(out, *record.name.split('/'))
        if os.path.relpath(folder, out).startswith('..'):
            raise ValueError(f'{record.name}: leads outside --export_features={out}')
        os.makedirs(folder, exist_ok=True)
        size = image.shape[0], image.shape[1]
        mask = lm.draw_hull(row.points, size, extended=hull == 'extended')
        pictures = {
            'landmarks': lm.draw_points(row.points, size) * 255,
            'mask': mask * 255,
            'part': image * mask,
            'points': draw(image, row.points, radius=max(min(size) / 128, 0.6)),
        }
        for name, picture in pictures.items():
            _save(os.path.join(folder, f'{name}.png'), picture)
        written += 1
    return written


def _save(path: str, picture: np.ndarray, options: Sequence[int] = ()) -> None:
    picture = picture[..., ::-1] if picture.shape[-1] == 3 else picture
    done, data = cv2.imencode(os.path.splitext(path)[1], picture, list(options))
    assert done, path
    with open(path, 'wb') as file:
        file.write(data.tobytes())
