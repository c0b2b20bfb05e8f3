# ruff: noqa: RUF001  (set with true dashes, minus signs and multiplication signs)
"""The charts of a report, SVG with a caption each; None where an evaluation has nothing to draw.

A row has one colour everywhere: `--s0` to `--s9` of the page's style.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from markupsafe import Markup

from fi_jax.evaluation import svg
from fi_jax.evaluation.metric_names import Metric, shown
from fi_jax.evaluation.results import Results
from fi_jax.evaluation.tables import (
    QUALITY,
    SPREAD,
    Cell,
    Summary,
    cell_of,
    finite,
    interval,
    number,
    title_of,
)
from fi_jax.metrics.groups import AREA_NAMES

Legend = Sequence[tuple[str, str]]  # titles with the colour of each


class Figure(NamedTuple):
    """A chart, what stands above it and its caption; wide: the caption at its side.

    below: apart from what comes before it.
    """

    chart: Markup
    title: str = ''
    note: str = ''
    legend: Legend = ()
    wide: bool = False
    below: bool = False


# ---------------------------------------------------------------------- quality and diversity


def tradeoff(results: Results, summary: Summary) -> Figure | None:
    """Quality against diversity, a dot a row; the real image is off the scale."""
    if not any(SPREAD in scores for scores in results.scores.values()):
        return None
    points = []
    for row in results.scores:
        y = cell_of(results, summary, row, QUALITY)
        if row == 'truth' or y is None:
            continue
        x = cell_of(results, summary, row, SPREAD) or {'mean': 0.0, 'low': 0.0, 'high': 0.0}
        points.append((row, x, y, cell_of(results, summary, row, 'psnr_hole/best')))
    top = [best['mean'] for *_, best in points if best is not None]
    xs = svg.padded([x[k] for _, x, _, _ in points for k in ('mean', 'high') if k in x], zero=True)
    ys = svg.padded([y[k] for _, _, y, _ in points for k in ('low', 'mean', 'high')] + top)
    # Room at the left for the rows without diversity, which all stand at 0.
    across, up, body = svg.axes((-0.06 * xs[1], xs[1]), ys, shown(SPREAD).title, 'hole PSNR, dB')
    single = [(row, y) for row, _, y, _ in points if SPREAD not in results.scores[row]]
    heights = svg.spread_out(
        [up(y['mean']) for _, y in single], 15, svg.TOP + 8, svg.HEIGHT - svg.BOTTOM - 4
    )
    taken = [
        (across(x['mean']) - 6, up(at['mean']) - 6, across(x['mean']) + 6, up(at['mean']) + 6)
        for _, x, y, best in points
        for at in (y, best)
        if at is not None
    ]
    for (row, y), at in zip(single, heights, strict=True):
        cx, cy, colour = across(0.0), up(y['mean']), colour_of(row, results)
        body += svg.line(cx + 6, cy, cx + 20, at, 'class="leader"')
        body += svg.text(cx + 23, at + 4, title_of(row, results), 'start', 'label')
        taken.append(svg.extent(cx + 23, at + 4, title_of(row, results), 'start'))
        body += svg.whisker(cx, up(y['low']), cx, up(y['high']), colour)
        body += svg.dot(cx, cy, 5, colour, _hint(row, results, y, QUALITY) + ' dB')
    for row, x, y, best in points:
        if SPREAD not in results.scores[row]:
            continue
        cx, cy, colour = across(x['mean']), up(y['mean']), colour_of(row, results)
        body += svg.whisker(cx, up(y['low']), cx, up(y['high']), colour)
        body += svg.whisker(across(x['low']), cy, across(x['high']), cy, colour)
        body += svg.dot(cx, cy, 6, colour, _hint(row, results, y, QUALITY) + ' dB')
        if best is not None:
            hint = f'{title_of(row, results)}, best of N: {best["mean"]:.2f} dB'
            body += svg.line(
                cx, cy - 6, cx, up(best['mean']), f'class="stem" style="stroke:{colour}"'
            )
            body += svg.dot(cx, up(best['mean']), 5, colour, hint, ring=True)
        end = cy if best is None else up(best['mean'])
        places = [(cx, end - 12, 'middle')]
        for at in (end + 4, cy + 4):
            places += [(cx + 11, at, 'start'), (cx - 11, at, 'end')]
        places.append((cx, cy + 20, 'middle'))
        label = title_of(row, results)
        place = svg.freest(places, label, taken)
        body += svg.text(place[0], place[1], label, place[2], 'label')
        taken.append(svg.extent(place[0], place[1], label, place[2]))
    note = (
        'Up is closer to the truth, right is more diverse. Dots: the mean over samples; rings: the '
        'best of N. Diversity counts only at equal quality: noise is diverse too. Rows of one '
        'completion stand at 0; the real image is off the scale.'
    )
    return Figure(svg.drawing(body, 'quality against diversity'), 'Quality against diversity', note)


def calibration(results: Results, summary: Summary) -> Figure | None:
    """Distance of samples to each other and to the truth, by the area of the hole."""
    rows = [row for row in results.primary if row in summary['calibration']]
    if not rows:
        return None
    bins = {
        row: [c for g, c in summary['calibration'][row].items() if g in AREA_NAMES] for row in rows
    }
    every = [cell for cells in bins.values() for cell in cells]
    xs = svg.padded([c['area'] for c in every], zero=True)
    tops = [c[k][end] for c in every for k in ('spread', 'error') for end in ('mean', 'high')]
    across, up, body = svg.axes(
        xs,
        svg.padded(tops, zero=True),
        'hole, share of the frame',
        'L1 in the hole, of [−1,1]',
        True,
    )
    for row, cells in bins.items():
        colour = colour_of(row, results)
        for kind in ('error', 'spread'):
            places = [(across(c['area']), up(c[kind]['mean'])) for c in cells]
            body += svg.curve(places, colour, dashed=kind == 'error')
            for (x, y), cell in zip(places, cells, strict=True):
                body += svg.whisker(x, up(cell[kind]['low']), x, up(cell[kind]['high']), colour)
                hint = f'{kind} {cell[kind]["mean"]:.3f}, {cell[kind]["count"]} images'
                body += svg.dot(x, y, 4, colour, hint, ring=kind == 'error')
    two = Metric('', digits=2)
    ratios = [
        f'{title_of(row, results)}: {number(r["mean"], two)} ({interval(r, two)})'
        for row in rows
        for r in [summary['calibration'][row].get('all', {}).get('ratio')]
        if r
    ]
    note = (
        'Dots: distance of two samples; rings: distance of a sample and the truth. Where the '
        'truth could be one more sample the two are equal, and both go to 0 with the hole. '
        f'Spread / error, {"; ".join(ratios)}.'
    )
    chart = svg.drawing(body, 'spread and error by hole area')
    return Figure(chart, 'Calibration by hole area', note, legend(results, rows))


def towards_zero(results: Results, summary: Summary) -> Figure | None:
    """Spread of the whole frame against the hole's area, image by image, and its line to area 0."""
    if not results.primary:
        return None
    row = results.primary[0]
    law = summary['calibration'].get(row, {}).get('whole_frame')
    whole = results.scores[row].get('pair_distance')
    if not law or whole is None or not finite(law['at_zero']):
        return None
    area, colour = results.area / results.pixels, colour_of(row, results)
    known = np.flatnonzero(np.isfinite(whole))
    drawn = known[:: max(1, len(known) // 600)]
    low, high = law['at_zero_interval']
    top = svg.padded(whole[known], zero=True)[1]
    bottom = min(0.0, *(v for v in (low, law['at_zero']) if finite(v)), -0.03 * top)
    xs = (-0.03 * area[known].max(), svg.padded(area[known], zero=True)[1])
    across, up, body = svg.axes(
        xs, (bottom, top), 'hole, share of the frame', 'pair distance', True
    )
    for i in drawn:
        style = f'class="cloud" style="fill:{colour}"'
        body += svg.circle(across(area[i]), up(whole[i]), 2.4, style)
    edge = float(np.median(area[known]))
    small = known[area[known] <= edge]
    if edge > 0:
        slope, _ = np.polyfit(area[small], whole[small], 1)
        end = law['at_zero'] + slope * edge
        body += svg.line(across(0), up(law['at_zero']), across(edge), up(end), 'class="law"')
    body += svg.whisker(across(0), up(low), across(0), up(high), colour)
    body += svg.dot(across(0), up(law['at_zero']), 4, colour, f'at area 0: {law["at_zero"]:.4f}')
    two, four = Metric('', digits=2), Metric('', digits=4)
    ends = f' ({number(low, four)} to {number(high, four)})' if finite(low) else ''
    note = (
        f'Each dot an image of {title_of(row, results)}: the pair distance over the whole '
        'frame. A calibrated sampler has none where nothing is hidden. The line through the '
        f'smaller half of the holes meets area 0 at {number(law["at_zero"], four)}{ends}; '
        f'rank correlation with the area {number(law["rank_correlation"], two)}.'
    )
    chart = svg.drawing(body, 'diversity against the area of the hole')
    return Figure(chart, 'Diversity as the hole goes to 0', note, wide=True, below=True)


# ---------------------------------------------------------------------------- by group of holes


def by_area(results: Results, summary: Summary, metric: str, floor: bool = False) -> Figure | None:
    """A metric by hole area, a line a row; floor: the real image too, as the least to be had."""
    present = [g for g in AREA_NAMES if any(g in summary['rows'][r] for r in results.scores)]
    rows = [r for r in results.scores if (floor or r != 'truth') and metric in results.scores[r]]
    cells = {r: {g: summary['rows'][r].get(g, {}).get(metric) for g in present} for r in rows}
    present = [g for g in present if any(c[g] and finite(c[g]['mean']) for c in cells.values())]
    if not present:
        return None
    values = [
        c[g][k]
        for r, c in cells.items()
        for g in present
        if c[g]
        for k in (('mean', 'low', 'high') if r in results.primary else ('mean',))
        if finite(c[g][k])
    ]
    up, body = svg.levels(svg.padded(values))
    width = (svg.WIDTH - svg.LEFT - svg.RIGHT) / len(present)
    place = {g: svg.LEFT + width * (i + 0.5) for i, g in enumerate(present)}
    members = results.groups()
    for group in present:
        body += svg.text(
            place[group], svg.HEIGHT - svg.BOTTOM + 16, group.replace('%', ''), 'middle', 'tick'
        )
        count = f'n {int(members[group].sum())}'
        body += svg.text(place[group], svg.HEIGHT - svg.BOTTOM + 29, count, 'middle', 'faint')
    body += svg.titles('hole, % of the frame', _with_unit(metric), svg.HEIGHT - 2)
    for row in _primary_last(rows, results):
        primary, colour = row in results.primary, colour_of(row, results)
        known = [(place[g], cells[row][g]) for g in present if cells[row][g]]
        kind = 'curve' if primary else 'curve thin'
        body += svg.curve(((x, up(c['mean'])) for x, c in known), colour, kind)
        for x, cell in known:
            if not finite(cell['mean']):
                continue
            if primary:
                body += svg.whisker(x, up(cell['low']), x, up(cell['high']), colour)
            hint = _hint(row, results, cell, metric)
            body += svg.dot(x, up(cell['mean']), 4.5 if primary else 3, colour, hint)
    title = f'{shown(metric).title} by hole area'
    return Figure(svg.drawing(body, title), title)


def by_kind(results: Results, summary: Summary, metric: str) -> Figure | None:
    """Hole kinds by the first primary row's metric, greatest first; all rows as dots."""
    if not results.primary:
        return None
    groups = summary['rows'][results.primary[0]]
    kinds = [k for k in results.protocol['kinds'] if metric in groups.get(k, {})]
    kinds = [k for k in kinds if finite(groups[k][metric]['mean'])]
    if len(kinds) < 2:
        return None
    kinds.sort(key=lambda k: -groups[k][metric]['mean'])
    rows = [r for r in results.scores if r != 'truth' and metric in results.scores[r]]
    values = [summary['rows'][r][k][metric]['mean'] for r in rows for k in kinds]
    values += [groups[k][metric][b] for k in kinds for b in ('low', 'high')]
    left, pitch = 104.0, 21.0
    bottom = 10 + pitch * len(kinds)
    across, body = svg.columns(svg.padded(values), left, svg.WIDTH - svg.RIGHT, 6, bottom)
    for place, kind in enumerate(kinds):
        y = 10 + pitch * (place + 0.5)
        label = f'{kind.replace("_", " ")} · {groups[kind][metric]["count"]}'
        body += svg.text(left - 8, y + 4, label, 'end', 'tick')
        for row in _primary_last(rows, results):
            cell = summary['rows'][row].get(kind, {}).get(metric)
            if not cell or not finite(cell['mean']):
                continue
            primary, colour = row in results.primary, colour_of(row, results)
            if primary:
                body += svg.whisker(across(cell['low']), y, across(cell['high']), y, colour)
            hint = _hint(row, results, cell, metric)
            body += svg.dot(across(cell['mean']), y, 5 if primary else 3, colour, hint)
    body += svg.text((left + svg.WIDTH - svg.RIGHT) / 2, bottom + 33, _with_unit(metric))
    title = f'{shown(metric).title} by hole kind'
    chart = svg.drawing(body, title, bottom + 40)
    return Figure(chart, title, 'Beside each kind its number of images.')


def _primary_last(rows: Iterable[str], results: Results) -> list[str]:
    """In the order of drawing: what comes last lies on top."""
    return sorted(rows, key=lambda row: row in results.primary)


# --------------------------------------------------------------------------------- comparisons


def differences(results: Results, summary: Summary) -> Figure | None:
    """A forest of differences: the first primary row minus each other, on the same holes."""
    cells = {r: c[QUALITY] for r, c in summary['paired'].items() if QUALITY in c}
    cells = {r: c for r, c in cells.items() if finite(c['low'])}
    if not cells:
        return None
    bounds = svg.padded([0.0, *(c[k] for c in cells.values() for k in ('low', 'high'))])
    left, right, pitch = 118.0, svg.WIDTH - 62.0, 27.0
    bottom = 26 + pitch * len(cells)
    across, grid = svg.columns(bounds, left, right, 20, bottom)
    body = svg.text(svg.WIDTH - 4, 14, 'better on', 'end', 'faint') + grid
    body += svg.line(across(0), 16, across(0), bottom, 'class="axis"')
    for place, (row, cell) in enumerate(cells.items()):
        y, colour = 24 + pitch * (place + 0.5), colour_of(row, results)
        body += svg.text(left - 8, y + 4, title_of(row, results), 'end', 'label')
        body += svg.whisker(across(cell['low']), y, across(cell['high']), y, colour)
        hint = f'{number(cell["mean"], shown(QUALITY), True)} dB'
        body += svg.dot(across(cell['mean']), y, 5, colour, hint)
        wins = f'{100 * cell["wins"]:.0f} %' if finite(cell['wins']) else ''
        body += svg.text(svg.WIDTH - 4, y + 4, wins, 'end', 'tick')
    body += svg.text((left + right) / 2, bottom + 33, 'difference in hole PSNR, dB')
    note = (
        f'{title_of(results.primary[0], results)} minus each row, image by image on the '
        'same holes: right of 0 it is closer to the truth. Such intervals are narrower than those '
        'of two means, as what makes an image hard cancels. At the right, the share of images on '
        'which it is better.'
    )
    return Figure(svg.drawing(body, 'paired differences', bottom + 40), note=note, wide=True)


def nearest_faces(results: Results, summary: Summary) -> Figure | None:
    """How near first samples lie to training faces, beside photos the run has not seen."""
    found = summary['memorisation']
    rows = [row for row in results.primary if row in found]
    if not rows:
        return None
    features = found[rows[0]]['features']
    name = f'train_distance_{features}'
    curves = [
        (title_of(row, results), results.scores[row][name], colour_of(row, results)) for row in rows
    ]
    photos = results.scores[rows[0]][f'{name}/photo']
    curves.append(('photos of the split, dashed', photos, 'var(--soft)'))
    curves = [(title, np.sort(x[np.isfinite(x)]), colour) for title, x, colour in curves]
    xs = svg.padded(np.concatenate([x for _, x, _ in curves]))
    across, up, body = svg.axes(
        xs, (0.0, 1.0), f'distance, {features.replace("_", " ")}', 'share nearer'
    )
    for k, (_, x, colour) in enumerate(curves):
        at = np.unique(np.linspace(0, len(x) - 1, min(len(x), 200)).astype(int))
        places = [(across(x[i]), up((i + 1) / len(x))) for i in at]
        body += svg.curve(places, colour, dashed=k == len(curves) - 1)
    about = results.protocol.get('memorisation')
    faces = 'faces of the training set'
    faces = f'{about["faces"]:,} {faces}' if about else faces
    note = (
        f'Distance of the first completion of each image to the nearest of {faces}, and of its '
        'photo, which the run has not seen. Copies would lie left of the dashed line. Any damage '
        'also moves a face towards the middle of all faces: compare with the baselines below.'
    )
    entries = [(title, colour) for title, _, colour in curves]
    chart = svg.drawing(body, 'distance to the nearest training face')
    return Figure(chart, note=note, legend=entries, wide=True)


# ------------------------------------------------------------------------------- rows and colours


def colour_of(row: str, results: Results) -> str:
    """A row's colour, as CSS."""
    return f'var(--s{list(results.scores).index(row) % 10})'


def legend(results: Results, rows: Iterable[str]) -> Legend:
    """Rows by name and colour."""
    return [(title_of(row, results), colour_of(row, results)) for row in rows]


def _hint(row: str, results: Results, cell: Cell, metric: str) -> str:
    return f'{title_of(row, results)}: {number(cell["mean"], shown(metric))}'


def _with_unit(metric: str) -> str:
    unit = shown(metric).unit
    return shown(metric).title + (f', {unit}' if unit else '')
