# ruff: noqa: RUF001  (the page is set with true dashes, minus signs and multiplication signs)
"""The report of an evaluation: one self-contained page, and the same numbers as CSV and LaTeX.

Nothing is fetched: pictures and charts are inside the page, and its content policy forbids more.
"""

from __future__ import annotations

import base64
import csv
import html
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fi_jax.metrics.groups import AREA_NAMES
from fi_jax.results import Face, Metric, Results, shown

Summary = Mapping[str, Any]  # of `fi_jax.results.summarise`
Cell = Mapping[str, float]  # mean, low, high, stderr, count

TITLES = {
    'z=0': 'z = 0',
    'mean_face': 'mean face',
    'telea': 'Telea',
    'navier_stokes': 'Navier–Stokes',
    'biharmonic': 'biharmonic',
    'patch_match': 'PatchMatch',
    'truth': 'real image',
}
# The columns of the main table, where they are measured; those of learned metrics come between.
_FIRST = (
    'psnr_hole/mean',
    'psnr_hole/best',
    'ssim_hole/mean',
    'l1_hole/mean',
    'landmark_error_hole/mean',
)
_LAST = ('pair_distance_hole', 'psnr/mean', 'ssim/mean')
QUALITY = 'psnr_hole/mean'
SPREAD = 'pair_distance_hole'
STRUCTURE = 'landmark_error_hole/mean'
# Of the section on structure and person.
_STRUCTURE = (
    STRUCTURE,
    'landmark_error_hole/best',
    'landmark_error/mean',
    'landmark_error/best',
    'landmark_spread_hole',
    'landmark_spread',
)
_QUALITY = (
    'identity_gt_distance',
    'landmark_passed',
    'identity_passed',
    'passed',
    SPREAD,
    'pair_distance_hole_passed',
)
IDENTICAL = 99.995  # dB: from here on two images are the same


def write(results: Results, summary: Summary, folder: Path, name: str) -> Path:
    """folder/<name>.html, .csv (means), _images.csv (each image) and .tex; returns the page."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        f'{name}.html': page(results, summary, name),
        f'{name}.csv': means_csv(summary),
        f'{name}_images.csv': images_csv(results),
        f'{name}.tex': latex(results, summary),
    }
    for file, text in files.items():
        part = folder / f'{file}.part'
        part.write_text(text, encoding='utf-8')
        part.replace(folder / file)
    return folder / f'{name}.html'


# ------------------------------------------------------------------------------- plain tables


def means_csv(summary: Summary) -> str:
    """row, group, metric, mean, low, high, stderr, count: one line a number."""
    out = io.StringIO()
    lines = csv.writer(out, lineterminator='\n')
    lines.writerow(['row', 'group', 'metric', 'mean', 'low', 'high', 'stderr', 'count'])
    for row, groups in summary['rows'].items():
        for group, cells in groups.items():
            for metric, cell in cells.items():
                values = [_digits(cell[k]) for k in ('mean', 'low', 'high', 'stderr')]
                lines.writerow([row, group, metric, *values, cell['count']])
    for row, cell in summary['memorisation'].items():
        ratio = [_digits(cell['ratio'][k]) for k in ('median', 'low', 'high')]
        name = f'train_distance_{cell["features"]}'
        lines.writerow([row, 'all', f'{name}/median_ratio', *ratio, '', cell['count']])
        copies = _digits(cell['copies'])
        lines.writerow([row, 'all', f'{name}/copies', copies, '', '', '', cell['count']])
    for row, sets in summary['sets'].items():
        for metric, cell in sets.items():
            values = [_digits(cell[k]) for k in ('mean', 'low', 'high', 'stderr')]
            lines.writerow([row, 'set', metric, *values, cell['count']])
    return out.getvalue()


def images_csv(results: Results) -> str:
    """row, image, hole area (share of the frame), hole kind, then each metric; a line an image."""
    out = io.StringIO()
    lines = csv.writer(out, lineterminator='\n')
    metrics = list(dict.fromkeys(m for scores in results.scores.values() for m in scores))
    lines.writerow(['row', 'image', 'hole_area', 'hole_kind', *metrics])
    kinds = results.protocol['kinds']
    for row, scores in results.scores.items():
        for i, name in enumerate(results.names):
            kind = kinds[results.kind[i]] if 0 <= results.kind[i] < len(kinds) else ''
            area = _digits(results.area[i] / results.pixels)
            values = [_digits(scores[m][i]) if m in scores else '' for m in metrics]
            lines.writerow([row, name, area, kind, *values])
    return out.getvalue()


def latex(results: Results, summary: Summary) -> str:
    """The main table for a paper, with booktabs; intervals as subscripts, the best in bold."""
    columns = headline(results, summary)
    best = _best(results, summary, columns)
    heads = []
    for name in columns:
        metric = shown(name)
        arrow = {'higher': r' $\uparrow$', 'lower': r' $\downarrow$', '': ''}[metric.better]
        heads.append(_tex(metric.title) + arrow)
    lines = [
        '% ' + _sentence(results),
        '% 95 % bootstrap intervals over images; holes sha256 ' + results.protocol['holes_sha256'],
        r'\begin{tabular}{l' + 'r' * len(columns) + '}',
        r'\toprule',
        ' & '.join(['', *heads]) + r' \\',
        r'\midrule',
    ]
    for row in results.scores:
        cells = [_tex(title_of(row, results))]
        for name in columns:
            cell = _cell(results, summary, row, name)
            if cell is None:
                cells.append('--')
                continue
            text = _number(cell['mean'], shown(name)).replace('∞', r'$\infty$')
            text = rf'\textbf{{{text}}}' if row in best.get(name, ()) else text
            if _finite(cell.get('low')) and '$' not in text:
                low, high = (_number(cell[k], shown(name)) for k in ('low', 'high'))
                text += rf'$_{{[{low},\,{high}]}}$'
            cells.append(text)
        lines.append(' & '.join(cells) + r' \\')
    return '\n'.join([*lines, r'\bottomrule', r'\end{tabular}', ''])


def _tex(text: str) -> str:
    for mark in '&%$#_{}':
        text = text.replace(mark, '\\' + mark)
    return text.replace('–', '--')


def _digits(value: float) -> str:
    return f'{value:.6g}' if _finite(value) else ''


# -------------------------------------------------------------------- what the table contains


def headline(results: Results, summary: Summary) -> list[str]:
    """The metrics of the main table: those of the image, the learned ones, those of the set."""
    names = dict.fromkeys(m for row in results.primary for m in results.scores[row])
    learned = [n for n in names if _is_learned(n) and '_hole' not in n and '/best' not in n]
    learned.sort(key=lambda n: '_gt' not in n)  # the truth first
    sets = dict.fromkeys(m for cells in summary['sets'].values() for m in cells)
    distances = [n for n in sets if n.startswith(('FID', 'clean-FID', 'KID', 'FD-', 'KD-'))]
    first, last = ([n for n in group if n in names] for group in (_FIRST, _LAST))
    return [*first, *last[:1], *learned, *distances, *last[1:]]


def _is_learned(name: str) -> bool:
    return 'lpips' in name or name in ('identity_gt/mean', 'identity_gt/best', 'seam')


def title_of(row: str, results: Results) -> str:
    """A row's name for people."""
    if row == 'samples':
        return f'{results.protocol["method"]}, N = {results.protocol["num_samples"]}'
    return TITLES.get(row, row.replace('z=0', 'z = 0'))


def _cell(
    results: Results, summary: Summary, row: str, metric: str, group: str = 'all'
) -> Cell | None:
    """The estimate of a row's metric; None where it has none, or best of N of a single sample."""
    if metric in summary['sets'].get(row, {}):
        return summary['sets'][row][metric]
    if metric.endswith('/best') and SPREAD not in results.scores.get(row, {}):
        return None
    return summary['rows'].get(row, {}).get(group, {}).get(metric)


def _best(results: Results, summary: Summary, columns: Sequence[str]) -> dict[str, list[str]]:
    """Metric -> rows whose interval reaches the best mean of all rows but the real image."""
    best = {}
    for name in columns:
        sign = {'higher': 1, 'lower': -1}.get(shown(name).better)
        cells = {r: _cell(results, summary, r, name) for r in results.scores if r != 'truth'}
        known = {r: c for r, c in cells.items() if c is not None and _finite(c['mean'])}
        if sign is None or len(known) < 2:
            continue
        top = max(known, key=lambda r: sign * known[r]['mean'])
        best[name] = [top]
    return best


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _number(value: float | None, metric: Metric, sign: bool = False) -> str:
    if value is None or not math.isfinite(value):
        return '–'
    if metric.unit == 'dB' and value >= IDENTICAL:
        return '∞'
    text = f'{value:+.{metric.digits}f}' if sign else f'{value:.{metric.digits}f}'
    if not text.strip('-0.'):
        text = text.lstrip('-')  # no -0.00
    return text.replace('-', '−')


def _sentence(results: Results) -> str:
    p = results.protocol
    height, width = p['size']
    samples = f'{p["num_samples"]} sample{"" if p["num_samples"] == 1 else "s"} each'
    return (
        f'{p["num_images"]:,} images of {p["data"]}'
        + (f' ({p["split"]})' if p.get('split') else '')
        + f', {width}×{height} px, holes: {p["holes"]}, {samples}'
    )


# ------------------------------------------------------------------------------------ the page


def page(results: Results, summary: Summary, name: str) -> str:
    """The whole report as one HTML document."""
    p = results.protocol
    compared = p.get('compared')
    title = ' · '.join(compared) if compared else f'{p["run"]}'
    kicker = 'fi_jax evaluation' + (' · comparison' if compared else f' · {name.replace("_", " ")}')
    step = f', step {p["step"]:,}' if p.get('step') and not compared else ''
    sections = [
        ('Scores', _table_section(results, summary)),
        ('Quality, diversity, calibration', _tradeoff_section(results, summary)),
        ('Structure and person', _face_section(results, summary)),
        ('Nearest training face', _memory_section(results, summary)),
        ('By hole area and kind', _group_section(results, summary)),
        ('Paired differences', _paired_section(results, summary)),
        ('By attribute', _attribute_section(summary)),
        ('Faces', _gallery_section(results)),
        ('Left out', _skipped_section(results)),
        ('Protocol', _protocol_section(results)),
    ]
    kept = [(head, body) for head, body in sections if body]
    links = ''.join(f'<a href="#{_slug(head)}">{head}</a>' for head, _ in kept)
    bodies = ''.join(
        f'<section id="{_slug(head)}"><h2>{head}</h2>{body}</section>' for head, body in kept
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
        '<meta name="color-scheme" content="light dark">'
        f'<title>{_e(title)} – evaluation</title><style>{_CSS}</style></head><body>'
        f'<header><p class="kicker">{_e(kicker)}</p><h1>{_e(title)}</h1>'
        f'<p class="lead">{_e(_sentence(results) + step)}.</p>'
        f'{_tiles(results, summary)}<nav>{links}</nav></header><main>{bodies}</main>'
        '<footer>Intervals are 95 % bootstrap intervals over images. What a model draws is '
        'plausible, not the true face: do not use it to identify anyone.</footer></body></html>\n'
    )


def _e(text: object) -> str:
    return html.escape(str(text))


def _slug(text: str) -> str:
    return ''.join(c if c.isalnum() else '-' for c in text.lower())


def _interval(cell: Cell | None, metric: Metric, sign: bool = False) -> str:
    """'low to high', or nothing."""
    if cell is None or not _finite(cell.get('low')) or _number(cell['mean'], metric) == '∞':
        return ''
    low, high = (_number(cell[k], metric, sign) for k in ('low', 'high'))
    return f'{low} to {high}' if '−' in low + high else f'{low}–{high}'


def _tiles(results: Results, summary: Summary) -> str:
    """The few numbers that a hurried reader wants, of the first primary row."""
    if not results.primary:
        return '<p class="note">The method itself has no scores: see Left out.</p>'
    row = results.primary[0]
    n = results.protocol['num_samples']
    wanted = {QUALITY: 'higher is better', 'psnr_hole/best': f'the best of {n} samples'}
    learned = [m for m in results.scores[row] if _is_learned(m) and m.endswith('_gt/mean')]
    for name in learned[:1]:
        better = shown(name).better
        what = 'distance' if better == 'lower' else 'likeness'
        wanted[name] = f'{what} to the truth, {better} is better'
    wanted |= {'ssim_hole/mean': 'higher is better'} if not learned else {}
    floor = _cell(results, summary, 'truth', STRUCTURE)
    wanted |= (
        {STRUCTURE: f'the real image: {_number(floor["mean"], shown(STRUCTURE))}'} if floor else {}
    )
    wanted |= {SPREAD: 'distance of two samples of one face'}
    tiles = []
    for name, hint in wanted.items():
        cell = _cell(results, summary, row, name)
        if cell is not None:
            tiles.append(_tile(shown(name), cell, hint))
    ratio = summary['calibration'].get(row, {}).get('all', {}).get('ratio')
    if ratio and _finite(ratio['mean']):
        metric = Metric('spread / error', '', '', 2)
        tiles.append(_tile(metric, ratio, '1: the samples differ as much as they err'))
    head = f'<p class="of">{_e(title_of(row, results))}</p>' if len(results.primary) > 1 else ''
    return f'{head}<div class="tiles">{"".join(tiles)}</div>'


def _tile(metric: Metric, cell: Cell, hint: str) -> str:
    unit = f' <small>{_e(metric.unit)}</small>' if metric.unit == 'dB' else ''
    return (
        f'<div class="tile"><p>{_e(metric.title)}</p><b>{_number(cell["mean"], metric)}{unit}</b>'
        f'<p class="ci">{_interval(cell, metric)}</p><p class="hint">{_e(hint)}</p></div>'
    )


def _table_section(results: Results, summary: Summary) -> str:
    columns = headline(results, summary)
    main = _score_table(results, summary, columns)
    every = list(dict.fromkeys(m for scores in results.scores.values() for m in scores))
    every += dict.fromkeys(m for cells in summary['sets'].values() for m in cells)
    rest = [m for m in every if m not in (*columns, *_STRUCTURE, *_QUALITY)]
    more = ''
    if rest:
        table = _score_table(results, summary, rest)
        more = f'<details><summary>All other metrics</summary>{table}</details>'
    single = any(SPREAD not in results.scores[row] for row in results.scores)
    sets = bool(summary['sets'])
    note = (
        'The best of each column is bold, the real image apart; below each mean its 95 % interval. '
        'The real image is what a perfect guess would score.'
        + (' Rows of a single completion have no best of N and no distance.' if single else '')
        + (' Distances of sets take the first sample of each image.' * sets)
    )
    return f'{main}<p class="note">{note}</p>{more}'


def _score_table(results: Results, summary: Summary, columns: Sequence[str]) -> str:
    best = _best(results, summary, columns)
    heads = []
    for name in columns:
        metric = shown(name)
        arrow = {'higher': '↑', 'lower': '↓', '': ''}[metric.better]
        unit = f'<small>{_e(metric.unit)}</small>' if metric.unit else ''
        heads.append(f'<th scope="col">{_e(metric.title)}&nbsp;{arrow}{unit}</th>')
    rows = []
    for i, row in enumerate(results.scores):
        cells = []
        for name in columns:
            cell = _cell(results, summary, row, name)
            if cell is None:
                cells.append('<td class="none">–</td>')
                continue
            value = _number(cell['mean'], shown(name))
            value = f'<b>{value}</b>' if row in best.get(name, ()) else value
            cells.append(f'<td>{value}<small>{_interval(cell, shown(name))}</small></td>')
        kind = ' class="primary"' if row in results.primary else ''
        swatch = f'<i class="dot" style="background:var(--s{i % 10})"></i>'
        head = f'<th scope="row">{swatch}{_e(title_of(row, results))}</th>'
        rows.append(f'<tr{kind}>{head}{"".join(cells)}</tr>')
    return (
        f'<div class="scroll" tabindex="0"><table><thead><tr><th></th>{"".join(heads)}</tr></thead>'
        f'<tbody>{"".join(rows)}</tbody></table></div>'
    )


# ---------------------------------------------------------------------------------- the charts

_W, _H = 440.0, 300.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 52.0, 14.0, 14.0, 46.0
_Scale = Callable[[float], float]


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


def _text(x: float, y: float, text: str, anchor: str = 'middle', kind: str = '') -> str:
    style = f' class="{kind}"' if kind else ''
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{style}>{_e(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, style: str = 'class="grid"') -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" {style}/>'


def _colour(index: int) -> str:
    return f'var(--s{index % 10})'


def _short(value: float) -> str:
    return f'{value:.3g}'.replace('-', '−')


def _axes(
    x: tuple[float, float],
    y: tuple[float, float],
    x_title: str,
    y_title: str,
    percent: bool = False,
) -> tuple[_Scale, _Scale, str]:
    """Scales from data to the drawing, and the grid with its numbers."""

    def across(value: float) -> float:
        return _LEFT + (value - x[0]) / (x[1] - x[0]) * (_W - _LEFT - _RIGHT)

    def up(value: float) -> float:
        return _H - _BOTTOM - (value - y[0]) / (y[1] - y[0]) * (_H - _TOP - _BOTTOM)

    parts = []
    for tick in _ticks(*y):
        parts.append(_line(_LEFT, up(tick), _W - _RIGHT, up(tick)))
        parts.append(_text(_LEFT - 7, up(tick) + 4, _short(tick), 'end', 'tick'))
    for tick in _ticks(*x):
        label = f'{100 * tick:.0f} %' if percent else _short(tick)
        parts.append(_line(across(tick), _H - _BOTTOM, across(tick), _H - _BOTTOM + 4))
        parts.append(_text(across(tick), _H - _BOTTOM + 17, label, 'middle', 'tick'))
    parts.append(_line(_LEFT, _H - _BOTTOM, _W - _RIGHT, _H - _BOTTOM, 'class="axis"'))
    parts.append(_text((_LEFT + _W - _RIGHT) / 2, _H - 8, x_title))
    parts.append(
        f'<text transform="translate(13 {(_H - _BOTTOM + _TOP) / 2:.0f}) rotate(-90)" '
        f'text-anchor="middle">{_e(y_title)}</text>'
    )
    return across, up, ''.join(parts)


def _svg(body: str, label: str, height: float = _H) -> str:
    return (
        f'<svg viewBox="0 0 {_W:.0f} {height:.0f}" role="img" aria-label="{_e(label)}">{body}</svg>'
    )


def _legend(entries: Iterable[tuple[str, str]]) -> str:
    items = ''.join(
        f'<span><i class="dot" style="background:{colour}"></i>{_e(text)}</span>'
        for text, colour in entries
    )
    return f'<p class="legend">{items}</p>'


def _figure(title: str, chart: str, note: str, legend: str = '') -> str:
    return f'<figure><h3>{title}</h3>{legend}{chart}<figcaption>{note}</figcaption></figure>'


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


def _tradeoff_section(results: Results, summary: Summary) -> str:
    figures = [_tradeoff(results, summary), _calibration(results, summary)]
    if not any(figures):
        return '<p class="note">One completion of each image: no diversity to show.</p>'
    return f'<div class="pair">{"".join(figures)}</div>{_towards_zero(results, summary)}'


def _towards_zero(results: Results, summary: Summary) -> str:
    """Spread of the whole frame against the hole's area, image by image, and its line to area 0."""
    if not results.primary:
        return ''
    row = results.primary[0]
    law = summary['calibration'].get(row, {}).get('whole_frame')
    whole = results.scores[row].get('pair_distance')
    if not law or whole is None or not _finite(law['at_zero']):
        return ''
    area = results.area / results.pixels
    known = np.flatnonzero(np.isfinite(whole))
    shown_ones = known[:: max(1, len(known) // 600)]
    low, high = law['at_zero_interval']
    top = _padded(whole[known], zero=True)[1]
    bottom = min(0.0, *(v for v in (low, law['at_zero']) if _finite(v)), -0.03 * top)
    xs = (-0.03 * area[known].max(), _padded(area[known], zero=True)[1])
    across, up, body = _axes(xs, (bottom, top), 'hole, share of the frame', 'pair distance', True)
    for i in shown_ones:
        style = f'class="cloud" style="fill:{_colour(0)}"'
        body += f'<circle cx="{across(area[i]):.1f}" cy="{up(whole[i]):.1f}" r="2.4" {style}/>'
    edge = float(np.median(area[known]))
    small = known[area[known] <= edge]
    if edge > 0:
        slope, _ = np.polyfit(area[small], whole[small], 1)
        end = law['at_zero'] + slope * edge
        body += _line(across(0), up(law['at_zero']), across(edge), up(end), 'class="law"')
    body += _whisker(across(0), up(low), across(0), up(high), 0)
    body += _dot(across(0), up(law['at_zero']), 4, 0, f'at area 0: {law["at_zero"]:.4f}')
    metric = Metric('', digits=4)
    interval = f' ({_number(low, metric)} to {_number(high, metric)})' if _finite(low) else ''
    note = (
        f'Each dot an image of {_e(title_of(row, results))}: the pair distance over the whole '
        'frame. A calibrated sampler has none where nothing is hidden. The line through the '
        f'smaller half of the holes meets area 0 at {_number(law["at_zero"], metric)}{interval}; '
        f'rank correlation with the area '
        f'{_number(law["rank_correlation"], Metric("", digits=2))}.'
    )
    chart = _svg(body, 'diversity against the area of the hole')
    title = '<h3>Diversity as the hole goes to 0</h3>'
    return (
        f'<figure class="wide below"><div>{title}{chart}</div>'
        f'<figcaption>{note}</figcaption></figure>'
    )


def _face_section(results: Results, summary: Summary) -> str:
    """Landmarks read off the completions, likeness, and diversity at fixed quality."""
    measured = {m for scores in results.scores.values() for m in scores}
    body = ''
    real = 'truth' in results.scores
    if STRUCTURE in measured and results.protocol.get('reader'):
        floor = 'The real image shows its own error, the floor of each column. ' * real
        if results.protocol['reader'].get('interested'):
            floor += 'It also led these completions: no impartial judge. '
        note = (
            f'Landmarks are read off each completion by {_e(_reader(results))}, a stand-in for a '
            f'published detector. {floor}Spread: how far a point moves from sample to sample.'
        )
        table = _score_table(results, summary, [m for m in _STRUCTURE if m in measured])
        chart = _by_area(results, summary, STRUCTURE, floor=True)
        kind = _by_kind(results, summary, STRUCTURE)
        index = {row: i for i, row in enumerate(results.scores)}
        legend = _legend((title_of(row, results), _colour(i)) for row, i in index.items())
        body += f'<h3>Landmarks of the completions</h3>{table}<p class="note">{note}</p>'
        if chart:
            body += f'<div class="below">{legend}</div><div class="pair">{chart}{kind}</div>'
    if 'passed' in measured and results.protocol.get('gates'):
        note = (
            f'A sample passes with {_e(_gates(results))}. The last column counts the pairs of '
            'which both pass, over the images that have one: diversity at fixed quality.'
            + ' The last row says how many real images pass.'
            * real
        )
        table = _score_table(results, summary, [m for m in _QUALITY if m in measured])
        body += (
            f'<h3 class="below">Diversity at fixed quality</h3>{table}<p class="note">{note}</p>'
        )
    return body


def _reader(results: Results) -> str:
    reader = results.protocol['reader']
    return (
        f'the landmark predictor of run {reader["run"]} ({reader["res"]} px, step '
        f'{reader["step"]:,})'
    )


def _gates(results: Results) -> str:
    words = {
        'landmarks': 'a landmark error of the whole face of at most {} of the eyes',
        'identity': 'a distance of dlib’s face descriptors to the photo of at most {}',
    }
    gates = results.protocol['gates']
    return ' and '.join(words[name].format(f'{most:g}') for name, most in gates.items())


def _memory_section(results: Results, summary: Summary) -> str:
    """How near first samples lie to training faces, beside photos the run has not seen."""
    found = summary['memorisation']
    rows = [row for row in results.primary if row in found]
    if not rows:
        return ''
    name = f'train_distance_{found[rows[0]]["features"]}'
    curves = [
        (title_of(r, results), results.scores[r][name], _row_colour(results, r)) for r in rows
    ]
    photos = results.scores[rows[0]][f'{name}/photo']
    curves.append(('photos of the split, dashed', photos, 'var(--soft)'))
    curves = [(title, np.sort(x[np.isfinite(x)]), colour) for title, x, colour in curves]
    xs = _padded(np.concatenate([x for _, x, _ in curves]))
    across, up, body = _axes(
        xs, (0.0, 1.0), f'distance, {found[rows[0]]["features"].replace("_", " ")}', 'share nearer'
    )
    for k, (_, x, colour) in enumerate(curves):
        at = np.unique(np.linspace(0, len(x) - 1, min(len(x), 200)).astype(int))
        places = [(across(x[i]), up((i + 1) / len(x))) for i in at]
        dash = ' stroke-dasharray="5 4"' if k == len(curves) - 1 else ''
        body += (
            f'<polyline points="{_points(places)}" class="curve" style="stroke:{colour}"{dash}/>'
        )
    about = results.protocol.get('memorisation', {})
    faces = (
        f'{about["faces"]:,} faces of the training set' if about else 'faces of the training set'
    )
    note = (
        f'Distance of the first completion of each image to the nearest of {faces}, and of its '
        'photo, which the run has not seen. Copies would lie left of the dashed line. Any damage '
        'also moves a face towards the middle of all faces: compare with the fills below.'
    )
    legend = _legend((title, colour) for title, _, colour in curves)
    figure = (
        f'<figure class="wide"><div>{legend}{_svg(body, "distance to the nearest training face")}'
        f'</div><figcaption>{note}</figcaption></figure>'
    )
    three, percent = Metric('', digits=3), Metric('', digits=1)
    lines = []
    for row, cell in found.items():
        ratio = cell['ratio']
        kind = ' class="primary"' if row in results.primary else ''
        swatch = f'<i class="dot" style="background:{_row_colour(results, row)}"></i>'
        low, high = (_number(ratio[k], three) for k in ('low', 'high'))
        interval = f'{low}–{high}' if _finite(ratio['low']) else ''
        lines.append(
            f'<tr{kind}><th scope="row">{swatch}{_e(title_of(row, results))}</th>'
            f'<td>{_number(ratio["median"], three)}<small>{interval}</small></td>'
            f'<td>{_number(100 * cell["copies"], percent)} %</td>'
            f'<td>{_number(cell["distance"], three)}</td>'
            f'<td>{_number(cell["photo"], three)}</td></tr>'
        )
    heads = (
        'median ratio, sample over photo',
        'nearer than any photo',
        'median distance',
        'median distance of the photos',
    )
    head = ''.join(f'<th scope="col">{h}</th>' for h in heads)
    return (
        f'{figure}<div class="scroll below" tabindex="0"><table><thead><tr><th></th>{head}</tr>'
        f'</thead><tbody>{"".join(lines)}</tbody></table></div>'
    )


def _row_colour(results: Results, row: str) -> str:
    return _colour(list(results.scores).index(row))


def _tradeoff(results: Results, summary: Summary) -> str:
    if not any(SPREAD in results.scores[row] for row in results.scores):
        return ''
    points = []
    for i, row in enumerate(results.scores):
        y = _cell(results, summary, row, QUALITY)
        if row == 'truth' or y is None:
            continue
        x = _cell(results, summary, row, SPREAD) or {'mean': 0.0, 'low': 0.0, 'high': 0.0}
        points.append((i, row, x, y, _cell(results, summary, row, 'psnr_hole/best')))
    top = [b['mean'] for *_, b in points if b is not None]
    xs = _padded([x[k] for _, _, x, _, _ in points for k in ('mean', 'high') if k in x], zero=True)
    ys = _padded([y[k] for _, _, _, y, _ in points for k in ('low', 'mean', 'high')] + top)
    # Room at the left for the rows without diversity, which all stand at 0.
    across, up, body = _axes((-0.06 * xs[1], xs[1]), ys, shown(SPREAD).title, 'hole PSNR, dB')
    single = [p for p in points if SPREAD not in results.scores[p[1]]]
    heights = _spread_out([up(p[3]['mean']) for p in single], 15, _TOP + 8, _H - _BOTTOM - 4)
    for (i, row, _, y, _), at in zip(single, heights, strict=True):
        cx, cy = across(0.0), up(y['mean'])
        body += _line(cx + 6, cy, cx + 20, at, 'class="leader"')
        body += _text(cx + 23, at + 4, title_of(row, results), 'start', 'label')
        body += _whisker(cx, up(y['low']), cx, up(y['high']), i)
        body += _dot(
            cx, cy, 5, i, f'{title_of(row, results)}: {_number(y["mean"], shown(QUALITY))} dB'
        )
    for i, row, x, y, best in points:
        if SPREAD not in results.scores[row]:
            continue
        cx, cy = across(x['mean']), up(y['mean'])
        body += _whisker(cx, up(y['low']), cx, up(y['high']), i)
        body += _whisker(across(x['low']), cy, across(x['high']), cy, i)
        body += _dot(
            cx, cy, 6, i, f'{title_of(row, results)}: {_number(y["mean"], shown(QUALITY))} dB'
        )
        if best is not None:
            by = up(best['mean'])
            body += _line(cx, cy - 6, cx, by + 6, f'class="stem" style="stroke:{_colour(i)}"')
            ring = f'class="open" style="stroke:{_colour(i)}"'
            body += f'<circle cx="{cx:.1f}" cy="{by:.1f}" r="5" {ring}/>'
            body += _text(cx - 10, by + 4, 'best of N', 'end', 'label')
        body += _text(cx - 11, cy + 20, title_of(row, results), 'end', 'label')
    note = (
        'Up is closer to the truth, right is more diverse. Diversity counts only at equal quality: '
        'noise is diverse too. Rows of one completion stand at 0; the real image is off the scale.'
    )
    return _figure('Quality against diversity', _svg(body, 'quality against diversity'), note)


def _dot(x: float, y: float, r: float, index: int, hint: str = '') -> str:
    title = f'<title>{_e(hint)}</title>' if hint else ''
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r}" style="fill:{_colour(index)}">{title}</circle>'
    )


def _whisker(x1: float, y1: float, x2: float, y2: float, index: int) -> str:
    if not all(map(math.isfinite, (x1, y1, x2, y2))):
        return ''
    return _line(x1, y1, x2, y2, f'class="whisker" style="stroke:{_colour(index)}"')


def _calibration(results: Results, summary: Summary) -> str:
    rows = [row for row in results.primary if row in summary['calibration']]
    if not rows:
        return ''
    bins = {
        row: [c for g, c in summary['calibration'][row].items() if g in AREA_NAMES] for row in rows
    }
    xs = _padded([c['area'] for row in rows for c in bins[row]], zero=True)
    tops = [c[k]['mean'] for row in rows for c in bins[row] for k in ('spread', 'error')]
    tops += [c[k]['high'] for row in rows for c in bins[row] for k in ('spread', 'error')]
    across, up, body = _axes(
        xs, _padded(tops, zero=True), 'hole, share of the frame', 'L1 in the hole, of [−1,1]', True
    )
    entries = []
    for row in rows:
        index = list(results.scores).index(row)
        for kind, dash in (('error', ' stroke-dasharray="5 4"'), ('spread', '')):
            cells = bins[row]
            places = [(across(c['area']), up(c[kind]['mean'])) for c in cells]
            if row == rows[0] and places:
                body += _text(places[0][0] + 8, places[0][1] + 20, kind, 'start', 'label')
            style = f'class="curve" style="stroke:{_colour(index)}"{dash}'
            body += f'<polyline points="{_points(places)}" {style}/>'
            for (x, y), cell in zip(places, cells, strict=True):
                body += _whisker(x, up(cell[kind]['low']), x, up(cell[kind]['high']), index)
                hint = f'{kind} {cell[kind]["mean"]:.3f}, {cell[kind]["count"]} images'
                body += _dot(x, y, 4, index, hint)
        entries.append((title_of(row, results), _colour(index)))
    ratios = [
        f'{title_of(row, results)}: {_number(r["mean"], Metric("", digits=2))} '
        f'({_interval(r, Metric("", digits=2))})'
        for row in rows
        for r in [summary['calibration'][row].get('all', {}).get('ratio')]
        if r
    ]
    note = (
        'Solid: distance of two samples; dashed: distance of a sample and the truth. Where the '
        'truth could be one more sample the two are equal, and both go to 0 with the hole. '
        f'Spread / error, {_e("; ".join(ratios))}.'
    )
    chart = _svg(body, 'spread and error by hole area')
    return _figure('Calibration by hole area', chart, note, _legend(entries))


def _points(places: Iterable[tuple[float, float]]) -> str:
    return ' '.join(f'{x:.1f},{y:.1f}' for x, y in places if math.isfinite(x + y))


def _group_section(results: Results, summary: Summary) -> str:
    charts = [_by_area(results, summary, metric) for metric in (QUALITY, 'ssim_hole/mean')]
    kinds = ''.join(_by_kind(results, summary, metric) for metric in (QUALITY, SPREAD))
    tables = ''.join(
        f'<details><summary>{_e(shown(m).title)} by group, as a table</summary>'
        f'{_group_table(results, summary, m)}</details>'
        for m in (QUALITY, 'ssim_hole/mean', SPREAD, STRUCTURE)
        if any(m in scores for scores in results.scores.values())
    )
    rows = [row for row in results.scores if row != 'truth']
    index = {row: i for i, row in enumerate(results.scores)}
    legend = _legend((title_of(row, results), _colour(index[row])) for row in rows)
    return f'{legend}<div class="pair">{"".join(charts)}{kinds}</div>{tables}'


def _by_area(results: Results, summary: Summary, metric: str, floor: bool = False) -> str:
    """A metric by hole area, a line a row; floor: the real image too, as the least to be had."""
    present = [g for g in AREA_NAMES if any(g in summary['rows'][r] for r in results.scores)]
    rows = [r for r in results.scores if (floor or r != 'truth') and metric in results.scores[r]]
    cells = {r: {g: summary['rows'][r].get(g, {}).get(metric) for g in present} for r in rows}
    present = [g for g in present if any(c[g] and _finite(c[g]['mean']) for c in cells.values())]
    if not present:
        return ''
    values = [
        c[g][k]
        for r, c in cells.items()
        for g in present
        if c[g]
        for k in (('mean', 'low', 'high') if r in results.primary else ('mean',))
        if _finite(c[g][k])
    ]
    unit = f', {shown(metric).unit}' if shown(metric).unit else ''
    _, up, _ = _axes((0, 1), _padded(values), '', '')
    body = ''.join(
        _line(_LEFT, up(t), _W - _RIGHT, up(t))
        + _text(_LEFT - 7, up(t) + 4, _short(t), 'end', 'tick')
        for t in _ticks(*_padded(values))
    )
    width = (_W - _LEFT - _RIGHT) / len(present)
    place = {g: _LEFT + width * (i + 0.5) for i, g in enumerate(present)}
    members = results.groups()
    for group in present:
        body += _text(place[group], _H - _BOTTOM + 16, group.replace('%', ''), 'middle', 'tick')
        count = f'n {int(members[group].sum())}'
        body += _text(place[group], _H - _BOTTOM + 29, count, 'middle', 'faint')
    body += _line(_LEFT, _H - _BOTTOM, _W - _RIGHT, _H - _BOTTOM, 'class="axis"')
    body += _text((_LEFT + _W - _RIGHT) / 2, _H - 2, 'hole, % of the frame')
    body += (
        f'<text transform="translate(13 {(_H - _BOTTOM + _TOP) / 2:.0f}) rotate(-90)" '
        f'text-anchor="middle">{_e(shown(metric).title + unit)}</text>'
    )
    # The primary rows last, on top.
    for row in sorted(rows, key=lambda r: r in results.primary):
        index = list(results.scores).index(row)
        known = [(place[g], cells[row][g]) for g in present if cells[row][g]]
        primary = row in results.primary
        style = f'class="curve{"" if primary else " thin"}" style="stroke:{_colour(index)}"'
        body += f'<polyline points="{_points((x, up(c["mean"])) for x, c in known)}" {style}/>'
        for x, cell in known:
            if not _finite(cell['mean']):
                continue
            if primary:
                body += _whisker(x, up(cell['low']), x, up(cell['high']), index)
            hint = f'{title_of(row, results)}: {_number(cell["mean"], shown(metric))}'
            body += _dot(x, up(cell['mean']), 4.5 if primary else 3, index, hint)
    title = f'{shown(metric).title} by hole area'
    return f'<figure><h3>{_e(title)}</h3>{_svg(body, title)}</figure>'


def _by_kind(results: Results, summary: Summary, metric: str) -> str:
    """Hole kinds by the first primary row's metric, greatest first; all rows as dots."""
    if not results.primary:
        return ''
    first = results.primary[0]
    groups = summary['rows'][first]
    kinds = [k for k in results.protocol['kinds'] if metric in groups.get(k, {})]
    kinds = [k for k in kinds if _finite(groups[k][metric]['mean'])]
    if len(kinds) < 2:
        return ''
    kinds.sort(key=lambda k: -groups[k][metric]['mean'])
    rows = [r for r in results.scores if r != 'truth' and metric in results.scores[r]]
    values = [summary['rows'][r][k][metric]['mean'] for r in rows for k in kinds]
    values += [groups[k][metric][b] for k in kinds for b in ('low', 'high')]
    low, high = _padded(values)
    left, pitch = 104.0, 21.0
    bottom = 10 + pitch * len(kinds)

    def across(value: float) -> float:
        return left + (value - low) / (high - low) * (_W - left - _RIGHT)

    body = ''
    for tick in _ticks(low, high):
        body += _line(across(tick), 6, across(tick), bottom)
        body += _text(across(tick), bottom + 15, _short(tick), 'middle', 'tick')
    for number, kind in enumerate(kinds):
        y = 10 + pitch * (number + 0.5)
        label = f'{kind.replace("_", " ")} · {groups[kind][metric]["count"]}'
        body += _text(left - 8, y + 4, label, 'end', 'tick')
        for row in sorted(rows, key=lambda r: r in results.primary):
            cell = summary['rows'][row].get(kind, {}).get(metric)
            if not cell or not _finite(cell['mean']):
                continue
            index = list(results.scores).index(row)
            hint = f'{title_of(row, results)}: {_number(cell["mean"], shown(metric))}'
            if row in results.primary:
                body += _whisker(across(cell['low']), y, across(cell['high']), y, index)
            body += _dot(across(cell['mean']), y, 5 if row in results.primary else 3, index, hint)
    unit = f', {shown(metric).unit}' if shown(metric).unit else ''
    body += _text((left + _W - _RIGHT) / 2, bottom + 33, shown(metric).title + unit)
    title = f'{shown(metric).title} by hole kind'
    chart = _svg(body, title, bottom + 40)
    return _figure(_e(title), chart, 'Beside each kind its number of images.')


def _group_table(results: Results, summary: Summary, metric: str) -> str:
    members = results.groups()
    rows = [r for r in results.scores if r != 'truth' and metric in results.scores[r]]
    heads = ''.join(f'<th scope="col">{_e(title_of(row, results))}</th>' for row in rows)
    lines = []
    for group, member in members.items():
        cells = []
        for row in rows:
            cell = summary['rows'][row].get(group, {}).get(metric)
            value = _number(cell['mean'], shown(metric)) if cell else '–'
            cells.append(f'<td>{value}<small>{_interval(cell, shown(metric))}</small></td>')
        head = f'{_e(group.replace("_", " "))} <small>{int(member.sum())} images</small>'
        lines.append(f'<tr><th scope="row">{head}</th>{"".join(cells)}</tr>')
    return (
        f'<div class="scroll" tabindex="0"><table><thead><tr><th></th>{heads}</tr></thead>'
        f'<tbody>{"".join(lines)}</tbody></table></div>'
    )


def _paired_section(results: Results, summary: Summary) -> str:
    """A forest of differences: the first primary row minus each other, on the same holes."""
    cells = {r: c[QUALITY] for r, c in summary['paired'].items() if QUALITY in c}
    cells = {r: c for r, c in cells.items() if _finite(c['low'])}
    if not cells:
        return ''
    first = title_of(results.primary[0], results)
    low, high = _padded([0.0, *(c[k] for c in cells.values() for k in ('low', 'high'))])
    left, right, pitch = 118.0, 62.0, 27.0
    bottom = 26 + pitch * len(cells)

    def across(value: float) -> float:
        return left + (value - low) / (high - low) * (_W - left - right)

    body = _text(_W - 4, 14, 'better on', 'end', 'faint')
    for tick in _ticks(low, high):
        body += _line(across(tick), 20, across(tick), bottom)
        body += _text(across(tick), bottom + 15, _short(tick), 'middle', 'tick')
    body += _line(across(0), 16, across(0), bottom, 'class="axis"')
    for number, (row, cell) in enumerate(cells.items()):
        y, index = 24 + pitch * (number + 0.5), list(results.scores).index(row)
        body += _text(left - 8, y + 4, title_of(row, results), 'end', 'label')
        body += _whisker(across(cell['low']), y, across(cell['high']), y, index)
        hint = f'{_number(cell["mean"], shown(QUALITY), True)} dB'
        body += _dot(across(cell['mean']), y, 5, index, hint)
        wins = f'{100 * cell["wins"]:.0f} %' if _finite(cell['wins']) else ''
        body += _text(_W - 4, y + 4, wins, 'end', 'tick')
    body += _text((left + _W - right) / 2, bottom + 33, 'difference in hole PSNR, dB')
    chart = _svg(body, 'paired differences', bottom + 40)
    columns = [m for m in headline(results, summary) if shown(m).better]
    columns = [m for m in columns if any(m in c for c in summary['paired'].values())]
    heads = ''.join(f'<th scope="col">{_e(shown(m).title)}</th>' for m in columns)
    lines = []
    for row, found in summary['paired'].items():
        values = []
        for m in columns:
            cell = found.get(m)
            value = _number(cell['mean'], shown(m), True) if cell else '–'
            values.append(f'<td>{value}<small>{_interval(cell, shown(m), True)}</small></td>')
        lines.append(f'<tr><th scope="row">{_e(title_of(row, results))}</th>{"".join(values)}</tr>')
    table = (
        '<details><summary>Differences in all metrics of the table</summary>'
        f'<div class="scroll" tabindex="0"><table><thead><tr><th></th>{heads}</tr></thead>'
        f'<tbody>{"".join(lines)}</tbody></table></div></details>'
    )
    note = (
        f'{_e(first)} minus each row, image by image on the same holes: right of 0 it is closer to '
        'the truth. Such intervals are narrower than those of two means, as what makes an image '
        'hard cancels. At the right, the share of images on which it is better.'
    )
    figure = f'<figure class="wide"><div>{chart}</div><figcaption>{note}</figcaption></figure>'
    return figure + table


def _attribute_section(summary: Summary) -> str:
    found = summary['attributes']
    if not found:
        return ''
    metric = shown(found['metric'])
    worst = found['worst']
    side = 'with' if worst['side'] == 'with' else 'without'
    order = sorted(found['by_attribute'].items(), key=lambda item: -abs(item[1]['gap']['mean']))
    lines = []
    for name, cell in order:
        columns = ''.join(
            f'<td>{_number(cell[k]["mean"], metric)}<small>{_interval(cell[k], metric)} · '
            f'{cell[k]["count"]}</small></td>'
            for k in ('with', 'without')
        )
        gap = _number(cell['gap']['mean'], metric, True)
        clear = not cell['gap']['low'] <= 0 <= cell['gap']['high']
        gap = f'<b>{gap}</b>' if clear else gap
        columns += f'<td>{gap}<small>{_interval(cell["gap"], metric, True)}</small></td>'
        lines.append(f'<tr><th scope="row">{_e(name.replace("_", " "))}</th>{columns}</tr>')
    head = f'<p>Worst group by {_e(metric.title)}: <b>{side} “{_e(worst["attribute"])}”</b>, '
    head += (
        f'{_number(worst["mean"], metric)} {_e(metric.unit)}. Bold: the interval leaves out 0.</p>'
    )
    table = (
        '<div class="scroll" tabindex="0"><table><thead><tr><th></th><th scope="col">with</th>'
        '<th scope="col">without</th><th scope="col">gap</th></tr></thead><tbody>'
    )
    shown_rows, more = lines[:10], lines[10:]
    body = f'{head}{table}{"".join(shown_rows)}</tbody></table></div>'
    if more:
        rest = f'{table}{"".join(more)}</tbody></table></div>'
        body += f'<details><summary>The other {len(more)} attributes</summary>{rest}</details>'
    return body


# ------------------------------------------------------------------- pictures and the protocol

_WHY = {
    'best': 'Best, by hole PSNR of the mean sample',
    'median': 'Median',
    'worst': 'Worst',
    'first': 'The first of the split, whatever their scores',
}


def _gallery_section(results: Results) -> str:
    blocks = []
    for why, title in _WHY.items():
        faces = [face for face in results.gallery if face.why == why]
        if faces:
            blocks.append(f'<h3>{title}</h3>' + ''.join(_strip(face) for face in faces))
    if not blocks:
        return ''
    note = 'Faces were chosen by score, never by hand. Grey is what the network does not see.'
    return f'<p class="note">{note}</p>{"".join(blocks)}'


def _strip(face: Face) -> str:
    cells = ''.join(
        f'<div><img src="{_jpeg(picture)}" alt="{_e(title)} of {_e(face.name)}" '
        f'width="{picture.shape[1]}" height="{picture.shape[0]}"><p>{_e(title)}</p></div>'
        for title, picture in face.pictures.items()
    )
    score = f' · {face.score:.2f} dB' if _finite(face.score) else ''
    count = len(face.pictures)
    return (
        f'<figure class="strip"><div class="faces" style="--n:{count}">{cells}</div>'
        f'<figcaption>{_e(face.name)}{score}</figcaption></figure>'
    )


def _jpeg(picture: np.ndarray) -> str:
    out = io.BytesIO()
    Image.fromarray(picture).save(out, format='JPEG', quality=95, subsampling=0)
    return 'data:image/jpeg;base64,' + base64.b64encode(out.getvalue()).decode()


def _skipped_section(results: Results) -> str:
    if not results.skipped:
        return ''
    items = ''.join(
        f'<dt>{_e(what.replace("_", " "))}</dt><dd>{_e(why)}</dd>'
        for what, why in results.skipped.items()
    )
    return (
        '<p class="note">What was asked for and is not in this report.</p>'
        f'<dl class="facts">{items}</dl>'
    )


def _protocol_section(results: Results) -> str:
    p = results.protocol
    height, width = p['size']
    facts: dict[str, Any] = {
        'Images': f'{p["num_images"]:,} of {p["data"]}'
        + (f', split {p["split"]}' if p.get('split') else ''),
        'Size': f'{width}×{height} px, the centred square of each image',
        'Holes': f'{p["holes"]}, drawn once from (seed {p["seed"]}, index of the image)'
        if 'seed' in p
        else p['holes'],
        'Hash of the holes': f'sha256 {p["holes_sha256"]}',
        'Samples': f'{p["num_samples"]} of each image; best of N by each metric itself',
        'Composite': 'the sample inside the hole, the photo outside, rounded to 8 bits: every '
        'metric sees that image',
        'PSNR': 'in dB, data range 255, over the frame or over the hole alone; the mean over '
        'samples of their PSNR, then over images',
        'SSIM': 'Gaussian window of 11 pixels, sigma 1.5, data range 255, mean of RGB; in the '
        'hole the mean of its map',
        'Pair distance': 'mean L1 over all pairs of samples of one input, images in [−1,1]; never '
        'a distance to the truth',
        'Intervals': f'95 % percentile bootstrap over images, {p["bootstrap"]:,} resamples, the '
        'same for all rows and metrics',
        'Rows': 'mean face of the training images; Telea and Navier–Stokes of OpenCV, radius 3; '
        'biharmonic; the same network with z = 0; the real image',
    }
    if p.get('reader'):
        reference = {
            'data': 'against the points that came with the photos',
            'reader': 'against the points it finds in the photos themselves, none having come with '
            'them: the real image has 0',
        }[p['landmarks']]
        facts['Landmarks'] = (
            f'read off each completion by {_reader(results)}, told of no hole; {reference}, over '
            'the distance of the outer eye corners; hole: points whose true place is in it'
        )
    facts['Gates'] = 'none in force: no reader of landmarks, no face descriptors'
    if p.get('gates'):
        facts['Gates'] = f'in force: {_gates(results)}'
    if p.get('memorisation'):
        about = p['memorisation']
        facts['Nearest training face'] = (
            f'of {about["faces"]:,} training faces of {about["data"]}, not flipped; '
            f'{about["features"].replace("_", " ")} features of the first composite of each image'
        )
    if not p.get('split'):
        facts['Size'] = f'{width}×{height} px, as stored'
        facts['Rows'] = facts['Rows'].replace('the training images', 'the originals')
    if p.get('compared'):
        facts['Compared'] = ', '.join(p['compared'])
        facts['Images'] += '; only those that all have, with the same hole and original'
    change = p.get('mean_change_of_visible_pixels_before_pasting')
    if change is not None:
        facts['Visible pixels'] = (
            f'differed from the originals by {change:.2f} grey levels on average before pasting'
        )
    items = ''.join(f'<dt>{_e(k)}</dt><dd>{_e(v)}</dd>' for k, v in facts.items())
    return f'<dl class="facts">{items}</dl>'


_CSS = """
:root{--bg:#fbfbf9;--card:#fff;--ink:#1b1d21;--soft:#5f646d;--faint:#8b9099;--rule:#e4e4df;
--grid:#ececE7;--accent:#0b6fa4;--wash:#eef5fa;
--s0:#0b6fa4;--s1:#7a5bb5;--s2:#c98a00;--s3:#2b8f6b;--s4:#8fae2c;--s5:#c4527a;--s6:#8a6a4a;
--s7:#7d838c;--s8:#d0552b;--s9:#3aa3a3}
@media (prefers-color-scheme:dark){:root{--bg:#121316;--card:#1a1c20;--ink:#e9e9e6;--soft:#a6abb4;
--faint:#7c828c;--rule:#2c2f35;--grid:#25282d;--accent:#5cb4e6;--wash:#17262f;
--s0:#5cb4e6;--s1:#b39ae6;--s2:#e6b23c;--s3:#5cc79b;--s4:#b8d15a;--s5:#ec86a9;--s6:#c4a07a;
--s7:#9aa1ab;--s8:#f08a5d;--s9:#67cfcf}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;scroll-behavior:smooth}
body{margin:0;background:var(--bg);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Liberation Sans",sans-serif;
font-variant-numeric:tabular-nums}
header,main,footer{max-width:1128px;margin:0 auto;padding:0 24px}
header{padding-top:44px}
.kicker{margin:0;color:var(--accent);font-weight:600;font-size:.86rem;letter-spacing:.02em}
h1{font-size:2.3rem;line-height:1.15;margin:.15em 0 .2em;letter-spacing:-.02em;
overflow-wrap:anywhere}
.lead{margin:0;color:var(--soft);font-size:1.05rem;max-width:70ch}
.of{margin:22px 0 -14px;color:var(--soft)}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(160px,1fr));gap:14px;
margin:28px 0 22px}
.tile{background:var(--card);border:1px solid var(--rule);border-radius:12px;padding:14px 16px 12px}
.tile p{margin:0;font-size:.86rem;color:var(--soft)}
.tile b{display:block;font-size:1.85rem;line-height:1.25;font-weight:650;letter-spacing:-.015em}
.tile b small{font-size:1rem;font-weight:500;color:var(--soft)}
.tile .ci{color:var(--ink);opacity:.75}
.tile .hint{color:var(--faint);font-size:.78rem;line-height:1.35;margin-top:6px}
nav{display:flex;flex-wrap:wrap;gap:6px 18px;border-bottom:1px solid var(--rule);padding:2px 0 12px;
font-size:.92rem}
a{color:var(--accent);text-decoration:none}a:hover{text-decoration:underline}
section{padding-top:34px}
h2{font-size:1.42rem;margin:0 0 14px;letter-spacing:-.01em}
h3{font-size:1rem;margin:0 0 6px}h3::first-letter{text-transform:uppercase}
.note,figcaption{color:var(--soft);font-size:.89rem;margin:10px 0 0;max-width:82ch}
.scroll{overflow-x:auto;border:1px solid var(--rule);border-radius:12px;background:var(--card)}
table{border-collapse:collapse;width:100%;font-size:.92rem}
th,td{padding:9px 13px;text-align:right;border-bottom:1px solid var(--rule);vertical-align:top;
white-space:nowrap}
tbody tr:last-child>*{border-bottom:0}
thead th{font-weight:600;font-size:.83rem;line-height:1.3;color:var(--soft);white-space:normal;
min-width:92px;vertical-align:bottom}
th:first-child{text-align:left;position:sticky;left:0;background:var(--card);z-index:1;
font-weight:500}
td small,th small{display:block;color:var(--faint);font-size:.76rem;font-weight:400;
line-height:1.35}
thead th:first-child{min-width:0}
tr.primary>*{background:var(--wash)!important}
tr.primary th{font-weight:650}
td.none{color:var(--faint)}
.dot{display:inline-block;width:9px;height:9px;border-radius:50%;margin-right:8px}
.pair{display:grid;grid-template-columns:repeat(2,minmax(0,1fr));gap:22px}
figure{margin:0;background:var(--card);border:1px solid var(--rule);border-radius:12px;
padding:16px 18px 16px}
.wide{display:grid;grid-template-columns:minmax(0,3fr) minmax(0,2fr);gap:28px;
align-items:center}
svg{display:block;width:100%;height:auto;font-size:12px;overflow:visible}
svg text{fill:var(--soft)}svg .label{fill:var(--ink)}svg .tick{font-size:11px}
svg .faint{fill:var(--faint);font-size:10px}
.grid{stroke:var(--grid);stroke-width:1}.axis{stroke:var(--faint);stroke-width:1}
.leader{stroke:var(--faint);stroke-width:.8}
.stem{stroke-width:1.2;stroke-dasharray:2 3}.open{fill:var(--card);stroke-width:2}
.whisker{stroke-width:2;opacity:.55}
.curve{fill:none;stroke-width:2.4;stroke-linejoin:round}.thin{stroke-width:1.4;opacity:.75}
.cloud{opacity:.45}.law{stroke:var(--ink);stroke-width:1.6}
.below{margin-top:22px}
.legend{margin:0 0 10px;display:flex;flex-wrap:wrap;gap:4px 16px;font-size:.87rem;color:var(--soft)}
details{margin-top:14px}
summary{cursor:pointer;color:var(--accent);font-size:.92rem;padding:4px 0}
details .scroll{margin-top:8px}
#faces h3{margin:24px 0 10px}
.strip{padding:12px 12px 9px;margin-bottom:12px}
.faces{display:grid;grid-template-columns:repeat(var(--n),minmax(0,128px));gap:8px}
.faces img{width:100%;height:auto;display:block;border-radius:6px}
.faces p{margin:3px 0 0;text-align:center;font-size:.75rem;color:var(--soft);line-height:1.2}
.strip figcaption{margin-top:6px;font-size:.8rem;color:var(--faint)}
.facts{display:grid;grid-template-columns:max-content minmax(0,1fr);gap:8px 22px;margin:0;
background:var(--card);border:1px solid var(--rule);border-radius:12px;padding:16px 18px}
.facts dt{color:var(--soft)}.facts dd{margin:0;overflow-wrap:anywhere}
.note+.facts{margin-top:12px}
footer{margin-top:40px;padding-top:16px;padding-bottom:44px;color:var(--faint);font-size:.84rem}
@media (max-width:720px){
header,main,footer{padding-left:16px;padding-right:16px}
header{padding-top:26px}h1{font-size:1.75rem}
.tiles{grid-template-columns:repeat(2,minmax(0,1fr));gap:10px}.tile{padding:11px 12px}
.tile b{font-size:1.5rem}
.pair{grid-template-columns:minmax(0,1fr)}figure{padding:12px 12px 13px}
th,td{padding:8px 10px}
.faces{grid-template-columns:repeat(5,minmax(0,1fr));gap:6px}.faces p{font-size:.68rem}
.wide{display:block}.tile:last-child:nth-child(odd){grid-column:span 2}
.facts{grid-template-columns:minmax(0,1fr);gap:1px}.facts dd{margin-bottom:11px}
svg{font-size:13.5px}svg .tick{font-size:12.5px}svg .faint{font-size:11.5px}}
@media print{nav,details:not([open]){display:none}body{background:#fff}}
"""
