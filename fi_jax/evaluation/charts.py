# ruff: noqa: RUF001  (set with true dashes, minus signs and multiplication signs)
"""The charts of a report, SVG with a caption each; '' where an evaluation has nothing to draw.

A row has one colour everywhere: `--s0` to `--s9` of the page's style.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from html import escape

import numpy as np

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

_W, _H = 440.0, 300.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 52.0, 14.0, 14.0, 46.0
_Scale = Callable[[float], float]


# ---------------------------------------------------------------------- quality and diversity


def tradeoff(results: Results, summary: Summary) -> str:
    """Quality against diversity, a dot a row; the real image is off the scale."""
    if not any(SPREAD in scores for scores in results.scores.values()):
        return ''
    points = []
    for row in results.scores:
        y = cell_of(results, summary, row, QUALITY)
        if row == 'truth' or y is None:
            continue
        x = cell_of(results, summary, row, SPREAD) or {'mean': 0.0, 'low': 0.0, 'high': 0.0}
        points.append((row, x, y, cell_of(results, summary, row, 'psnr_hole/best')))
    top = [best['mean'] for *_, best in points if best is not None]
    xs = _padded([x[k] for _, x, _, _ in points for k in ('mean', 'high') if k in x], zero=True)
    ys = _padded([y[k] for _, _, y, _ in points for k in ('low', 'mean', 'high')] + top)
    # Room at the left for the rows without diversity, which all stand at 0.
    across, up, body = _axes((-0.06 * xs[1], xs[1]), ys, shown(SPREAD).title, 'hole PSNR, dB')
    single = [(row, y) for row, _, y, _ in points if SPREAD not in results.scores[row]]
    heights = _spread_out([up(y['mean']) for _, y in single], 15, _TOP + 8, _H - _BOTTOM - 4)
    for (row, y), at in zip(single, heights, strict=True):
        cx, cy, colour = across(0.0), up(y['mean']), colour_of(row, results)
        body += _line(cx + 6, cy, cx + 20, at, 'class="leader"')
        body += _text(cx + 23, at + 4, title_of(row, results), 'start', 'label')
        body += _whisker(cx, up(y['low']), cx, up(y['high']), colour)
        body += _dot(cx, cy, 5, colour, _hint(row, results, y, QUALITY) + ' dB')
    for row, x, y, best in points:
        if SPREAD not in results.scores[row]:
            continue
        cx, cy, colour = across(x['mean']), up(y['mean']), colour_of(row, results)
        body += _whisker(cx, up(y['low']), cx, up(y['high']), colour)
        body += _whisker(across(x['low']), cy, across(x['high']), cy, colour)
        body += _dot(cx, cy, 6, colour, _hint(row, results, y, QUALITY) + ' dB')
        if best is not None:
            by = up(best['mean'])
            body += _line(cx, cy - 6, cx, by + 6, f'class="stem" style="stroke:{colour}"')
            body += _circle(cx, by, 5, f'class="open" style="stroke:{colour}"')
            body += _text(cx - 10, by + 4, 'best of N', 'end', 'label')
        body += _text(cx - 11, cy + 20, title_of(row, results), 'end', 'label')
    note = (
        'Up is closer to the truth, right is more diverse. Diversity counts only at equal quality: '
        'noise is diverse too. Rows of one completion stand at 0; the real image is off the scale.'
    )
    return _figure('Quality against diversity', _svg(body, 'quality against diversity'), note)


def calibration(results: Results, summary: Summary) -> str:
    """Distance of samples to each other and to the truth, by the area of the hole."""
    rows = [row for row in results.primary if row in summary['calibration']]
    if not rows:
        return ''
    bins = {
        row: [c for g, c in summary['calibration'][row].items() if g in AREA_NAMES] for row in rows
    }
    every = [cell for cells in bins.values() for cell in cells]
    xs = _padded([c['area'] for c in every], zero=True)
    tops = [c[k][end] for c in every for k in ('spread', 'error') for end in ('mean', 'high')]
    across, up, body = _axes(
        xs, _padded(tops, zero=True), 'hole, share of the frame', 'L1 in the hole, of [−1,1]', True
    )
    for row, cells in bins.items():
        colour = colour_of(row, results)
        for kind in ('error', 'spread'):
            places = [(across(c['area']), up(c[kind]['mean'])) for c in cells]
            if row == rows[0] and places:
                body += _text(places[0][0] + 8, places[0][1] + 20, kind, 'start', 'label')
            body += _curve(places, colour, dashed=kind == 'error')
            for (x, y), cell in zip(places, cells, strict=True):
                body += _whisker(x, up(cell[kind]['low']), x, up(cell[kind]['high']), colour)
                hint = f'{kind} {cell[kind]["mean"]:.3f}, {cell[kind]["count"]} images'
                body += _dot(x, y, 4, colour, hint)
    two = Metric('', digits=2)
    ratios = [
        f'{title_of(row, results)}: {number(r["mean"], two)} ({interval(r, two)})'
        for row in rows
        for r in [summary['calibration'][row].get('all', {}).get('ratio')]
        if r
    ]
    note = (
        'Solid: distance of two samples; dashed: distance of a sample and the truth. Where the '
        'truth could be one more sample the two are equal, and both go to 0 with the hole. '
        f'Spread / error, {escape("; ".join(ratios))}.'
    )
    chart = _svg(body, 'spread and error by hole area')
    return _figure('Calibration by hole area', chart, note, legend(results, rows))


def towards_zero(results: Results, summary: Summary) -> str:
    """Spread of the whole frame against the hole's area, image by image, and its line to area 0."""
    if not results.primary:
        return ''
    row = results.primary[0]
    law = summary['calibration'].get(row, {}).get('whole_frame')
    whole = results.scores[row].get('pair_distance')
    if not law or whole is None or not finite(law['at_zero']):
        return ''
    area, colour = results.area / results.pixels, colour_of(row, results)
    known = np.flatnonzero(np.isfinite(whole))
    drawn = known[:: max(1, len(known) // 600)]
    low, high = law['at_zero_interval']
    top = _padded(whole[known], zero=True)[1]
    bottom = min(0.0, *(v for v in (low, law['at_zero']) if finite(v)), -0.03 * top)
    xs = (-0.03 * area[known].max(), _padded(area[known], zero=True)[1])
    across, up, body = _axes(xs, (bottom, top), 'hole, share of the frame', 'pair distance', True)
    for i in drawn:
        style = f'class="cloud" style="fill:{colour}"'
        body += _circle(across(area[i]), up(whole[i]), 2.4, style)
    edge = float(np.median(area[known]))
    small = known[area[known] <= edge]
    if edge > 0:
        slope, _ = np.polyfit(area[small], whole[small], 1)
        end = law['at_zero'] + slope * edge
        body += _line(across(0), up(law['at_zero']), across(edge), up(end), 'class="law"')
    body += _whisker(across(0), up(low), across(0), up(high), colour)
    body += _dot(across(0), up(law['at_zero']), 4, colour, f'at area 0: {law["at_zero"]:.4f}')
    two, four = Metric('', digits=2), Metric('', digits=4)
    ends = f' ({number(low, four)} to {number(high, four)})' if finite(low) else ''
    note = (
        f'Each dot an image of {escape(title_of(row, results))}: the pair distance over the whole '
        'frame. A calibrated sampler has none where nothing is hidden. The line through the '
        f'smaller half of the holes meets area 0 at {number(law["at_zero"], four)}{ends}; '
        f'rank correlation with the area {number(law["rank_correlation"], two)}.'
    )
    chart = _svg(body, 'diversity against the area of the hole')
    return _wide(f'<h3>Diversity as the hole goes to 0</h3>{chart}', note, below=True)


# ---------------------------------------------------------------------------- by group of holes


def by_area(results: Results, summary: Summary, metric: str, floor: bool = False) -> str:
    """A metric by hole area, a line a row; floor: the real image too, as the least to be had."""
    present = [g for g in AREA_NAMES if any(g in summary['rows'][r] for r in results.scores)]
    rows = [r for r in results.scores if (floor or r != 'truth') and metric in results.scores[r]]
    cells = {r: {g: summary['rows'][r].get(g, {}).get(metric) for g in present} for r in rows}
    present = [g for g in present if any(c[g] and finite(c[g]['mean']) for c in cells.values())]
    if not present:
        return ''
    values = [
        c[g][k]
        for r, c in cells.items()
        for g in present
        if c[g]
        for k in (('mean', 'low', 'high') if r in results.primary else ('mean',))
        if finite(c[g][k])
    ]
    up, body = _levels(_padded(values))
    width = (_W - _LEFT - _RIGHT) / len(present)
    place = {g: _LEFT + width * (i + 0.5) for i, g in enumerate(present)}
    members = results.groups()
    for group in present:
        body += _text(place[group], _H - _BOTTOM + 16, group.replace('%', ''), 'middle', 'tick')
        count = f'n {int(members[group].sum())}'
        body += _text(place[group], _H - _BOTTOM + 29, count, 'middle', 'faint')
    body += _titles('hole, % of the frame', _with_unit(metric), _H - 2)
    for row in _primary_last(rows, results):
        primary, colour = row in results.primary, colour_of(row, results)
        known = [(place[g], cells[row][g]) for g in present if cells[row][g]]
        kind = 'curve' if primary else 'curve thin'
        body += _curve(((x, up(c['mean'])) for x, c in known), colour, kind)
        for x, cell in known:
            if not finite(cell['mean']):
                continue
            if primary:
                body += _whisker(x, up(cell['low']), x, up(cell['high']), colour)
            hint = _hint(row, results, cell, metric)
            body += _dot(x, up(cell['mean']), 4.5 if primary else 3, colour, hint)
    title = f'{shown(metric).title} by hole area'
    return _figure(title, _svg(body, title))


def by_kind(results: Results, summary: Summary, metric: str) -> str:
    """Hole kinds by the first primary row's metric, greatest first; all rows as dots."""
    if not results.primary:
        return ''
    groups = summary['rows'][results.primary[0]]
    kinds = [k for k in results.protocol['kinds'] if metric in groups.get(k, {})]
    kinds = [k for k in kinds if finite(groups[k][metric]['mean'])]
    if len(kinds) < 2:
        return ''
    kinds.sort(key=lambda k: -groups[k][metric]['mean'])
    rows = [r for r in results.scores if r != 'truth' and metric in results.scores[r]]
    values = [summary['rows'][r][k][metric]['mean'] for r in rows for k in kinds]
    values += [groups[k][metric][b] for k in kinds for b in ('low', 'high')]
    left, pitch = 104.0, 21.0
    bottom = 10 + pitch * len(kinds)
    across, body = _columns(_padded(values), left, _W - _RIGHT, 6, bottom)
    for place, kind in enumerate(kinds):
        y = 10 + pitch * (place + 0.5)
        label = f'{kind.replace("_", " ")} · {groups[kind][metric]["count"]}'
        body += _text(left - 8, y + 4, label, 'end', 'tick')
        for row in _primary_last(rows, results):
            cell = summary['rows'][row].get(kind, {}).get(metric)
            if not cell or not finite(cell['mean']):
                continue
            primary, colour = row in results.primary, colour_of(row, results)
            if primary:
                body += _whisker(across(cell['low']), y, across(cell['high']), y, colour)
            hint = _hint(row, results, cell, metric)
            body += _dot(across(cell['mean']), y, 5 if primary else 3, colour, hint)
    body += _text((left + _W - _RIGHT) / 2, bottom + 33, _with_unit(metric))
    title = f'{shown(metric).title} by hole kind'
    chart = _svg(body, title, bottom + 40)
    return _figure(title, chart, 'Beside each kind its number of images.')


def _primary_last(rows: Iterable[str], results: Results) -> list[str]:
    """In the order of drawing: what comes last lies on top."""
    return sorted(rows, key=lambda row: row in results.primary)


# --------------------------------------------------------------------------------- comparisons


def differences(results: Results, summary: Summary) -> str:
    """A forest of differences: the first primary row minus each other, on the same holes."""
    cells = {r: c[QUALITY] for r, c in summary['paired'].items() if QUALITY in c}
    cells = {r: c for r, c in cells.items() if finite(c['low'])}
    if not cells:
        return ''
    bounds = _padded([0.0, *(c[k] for c in cells.values() for k in ('low', 'high'))])
    left, right, pitch = 118.0, _W - 62.0, 27.0
    bottom = 26 + pitch * len(cells)
    across, grid = _columns(bounds, left, right, 20, bottom)
    body = _text(_W - 4, 14, 'better on', 'end', 'faint') + grid
    body += _line(across(0), 16, across(0), bottom, 'class="axis"')
    for place, (row, cell) in enumerate(cells.items()):
        y, colour = 24 + pitch * (place + 0.5), colour_of(row, results)
        body += _text(left - 8, y + 4, title_of(row, results), 'end', 'label')
        body += _whisker(across(cell['low']), y, across(cell['high']), y, colour)
        hint = f'{number(cell["mean"], shown(QUALITY), True)} dB'
        body += _dot(across(cell['mean']), y, 5, colour, hint)
        wins = f'{100 * cell["wins"]:.0f} %' if finite(cell['wins']) else ''
        body += _text(_W - 4, y + 4, wins, 'end', 'tick')
    body += _text((left + right) / 2, bottom + 33, 'difference in hole PSNR, dB')
    note = (
        f'{escape(title_of(results.primary[0], results))} minus each row, image by image on the '
        'same holes: right of 0 it is closer to the truth. Such intervals are narrower than those '
        'of two means, as what makes an image hard cancels. At the right, the share of images on '
        'which it is better.'
    )
    return _wide(_svg(body, 'paired differences', bottom + 40), note)


def nearest_faces(results: Results, summary: Summary) -> str:
    """How near first samples lie to training faces, beside photos the run has not seen."""
    found = summary['memorisation']
    rows = [row for row in results.primary if row in found]
    if not rows:
        return ''
    features = found[rows[0]]['features']
    name = f'train_distance_{features}'
    curves = [
        (title_of(row, results), results.scores[row][name], colour_of(row, results)) for row in rows
    ]
    photos = results.scores[rows[0]][f'{name}/photo']
    curves.append(('photos of the split, dashed', photos, 'var(--soft)'))
    curves = [(title, np.sort(x[np.isfinite(x)]), colour) for title, x, colour in curves]
    xs = _padded(np.concatenate([x for _, x, _ in curves]))
    across, up, body = _axes(
        xs, (0.0, 1.0), f'distance, {features.replace("_", " ")}', 'share nearer'
    )
    for k, (_, x, colour) in enumerate(curves):
        at = np.unique(np.linspace(0, len(x) - 1, min(len(x), 200)).astype(int))
        places = [(across(x[i]), up((i + 1) / len(x))) for i in at]
        body += _curve(places, colour, dashed=k == len(curves) - 1)
    about = results.protocol.get('memorisation')
    faces = 'faces of the training set'
    faces = f'{about["faces"]:,} {faces}' if about else faces
    note = (
        f'Distance of the first completion of each image to the nearest of {faces}, and of its '
        'photo, which the run has not seen. Copies would lie left of the dashed line. Any damage '
        'also moves a face towards the middle of all faces: compare with the baselines below.'
    )
    entries = _legend((title, colour) for title, _, colour in curves)
    return _wide(entries + _svg(body, 'distance to the nearest training face'), note)


# ------------------------------------------------------------------------------- rows and colours


def colour_of(row: str, results: Results) -> str:
    """A row's colour, as CSS."""
    return f'var(--s{list(results.scores).index(row) % 10})'


def swatch(colour: str) -> str:
    """A spot of a colour, to stand before a name."""
    return f'<i class="dot" style="background:{colour}"></i>'


def legend(results: Results, rows: Iterable[str]) -> str:
    """Rows by name and colour."""
    return _legend((title_of(row, results), colour_of(row, results)) for row in rows)


def _legend(entries: Iterable[tuple[str, str]]) -> str:
    items = ''.join(f'<span>{swatch(colour)}{escape(text)}</span>' for text, colour in entries)
    return f'<p class="legend">{items}</p>'


def _hint(row: str, results: Results, cell: Cell, metric: str) -> str:
    return f'{title_of(row, results)}: {number(cell["mean"], shown(metric))}'


def _with_unit(metric: str) -> str:
    unit = shown(metric).unit
    return shown(metric).title + (f', {unit}' if unit else '')


# ---------------------------------------------------------------------------- axes and figures


def _axes(
    x: tuple[float, float],
    y: tuple[float, float],
    x_title: str,
    y_title: str,
    percent: bool = False,
) -> tuple[_Scale, _Scale, str]:
    """Scales from data to the drawing, and the grid with its numbers."""
    across = _scale(x, _LEFT, _W - _RIGHT)
    up, body = _levels(y)
    for tick in _ticks(*x):
        label = f'{100 * tick:.0f} %' if percent else _short(tick)
        body += _line(across(tick), _H - _BOTTOM, across(tick), _H - _BOTTOM + 4)
        body += _text(across(tick), _H - _BOTTOM + 17, label, 'middle', 'tick')
    return across, up, body + _titles(x_title, y_title, _H - 8)


def _scale(bounds: tuple[float, float], start: float, end: float) -> _Scale:
    low, high = bounds
    return lambda value: start + (value - low) / (high - low) * (end - start)


def _levels(y: tuple[float, float]) -> tuple[_Scale, str]:
    """The upward scale, and its lines across with their numbers."""
    up = _scale(y, _H - _BOTTOM, _TOP)
    body = ''
    for tick in _ticks(*y):
        body += _line(_LEFT, up(tick), _W - _RIGHT, up(tick))
        body += _text(_LEFT - 7, up(tick) + 4, _short(tick), 'end', 'tick')
    return up, body


def _columns(
    x: tuple[float, float], left: float, right: float, top: float, bottom: float
) -> tuple[_Scale, str]:
    """The scale across of a chart with a line of text each, and its lines down with numbers."""
    across = _scale(x, left, right)
    body = ''
    for tick in _ticks(*x):
        body += _line(across(tick), top, across(tick), bottom)
        body += _text(across(tick), bottom + 15, _short(tick), 'middle', 'tick')
    return across, body


def _titles(x_title: str, y_title: str, x_title_at: float) -> str:
    """The axis at the bottom and the titles of both."""
    return (
        _line(_LEFT, _H - _BOTTOM, _W - _RIGHT, _H - _BOTTOM, 'class="axis"')
        + _text((_LEFT + _W - _RIGHT) / 2, x_title_at, x_title)
        + f'<text transform="translate(13 {(_H - _BOTTOM + _TOP) / 2:.0f}) rotate(-90)" '
        f'text-anchor="middle">{escape(y_title)}</text>'
    )


def _ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers between two bounds."""
    span = max(high - low, 1e-9)
    step = 10 ** math.floor(math.log10(span / count))
    step *= next(k for k in (1, 2, 5, 10) if span / (step * k) <= count)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _padded(values: Iterable[float], zero: bool = False) -> tuple[float, float]:
    known = [v for v in values if math.isfinite(v)] or [0.0, 1.0]
    low, high = min(known), max(known)
    margin = 0.08 * (high - low) or 0.1 * abs(high) or 0.1
    return (0.0 if zero else low - margin), high + margin


def _spread_out(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places near the wanted ones, at least gap apart, inside the bounds where there is room."""
    order = np.argsort(wanted, kind='stable')
    places = np.array(wanted, float)[order]
    for i in range(1, len(places)):
        places[i] = max(places[i], places[i - 1] + gap)
    places -= max(0.0, places[-1] - high) if len(places) else 0.0
    for i in range(len(places) - 1, 0, -1):
        places[i - 1] = min(places[i - 1], places[i] - gap)
    out = np.empty(len(places))
    out[order] = np.maximum(places, low - gap)
    return out.tolist()


def _figure(title: str, chart: str, note: str = '', key: str = '') -> str:
    caption = f'<figcaption>{note}</figcaption>' if note else ''
    return f'<figure><h3>{escape(title)}</h3>{key}{chart}{caption}</figure>'


def _wide(drawing: str, note: str, below: bool = False) -> str:
    """A figure with its words at the side; below: apart from what stands above it."""
    kind = 'wide below' if below else 'wide'
    return f'<figure class="{kind}"><div>{drawing}</div><figcaption>{note}</figcaption></figure>'


def _svg(body: str, label: str, height: float = _H) -> str:
    box = f'0 0 {_W:.0f} {height:.0f}'
    return f'<svg viewBox="{box}" role="img" aria-label="{escape(label)}">{body}</svg>'


def _short(value: float) -> str:
    return f'{value:.3g}'.replace('-', '−')


def _text(x: float, y: float, text: str, anchor: str = 'middle', kind: str = '') -> str:
    style = f' class="{kind}"' if kind else ''
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{style}>{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, style: str = 'class="grid"') -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" {style}/>'


def _whisker(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    if not all(map(math.isfinite, (x1, y1, x2, y2))):
        return ''
    return _line(x1, y1, x2, y2, f'class="whisker" style="stroke:{colour}"')


def _curve(
    places: Iterable[tuple[float, float]], colour: str, kind: str = 'curve', dashed: bool = False
) -> str:
    points = ' '.join(f'{x:.1f},{y:.1f}' for x, y in places if math.isfinite(x + y))
    dash = ' stroke-dasharray="5 4"' if dashed else ''
    return f'<polyline points="{points}" class="{kind}" style="stroke:{colour}"{dash}/>'


def _circle(x: float, y: float, r: float, style: str) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r}" {style}/>'


def _dot(x: float, y: float, r: float, colour: str, hint: str) -> str:
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r}" style="fill:{colour}">'
        f'<title>{escape(hint)}</title></circle>'
    )
