# ruff: noqa: RUF001  (set with true dashes, minus signs and multiplication signs)
"""What the tables of an evaluation hold, how its numbers read; both as CSV, LaTeX, Markdown."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fi_jax.evaluation.metric_names import Metric, shown
from fi_jax.evaluation.results import Results

Summary = Mapping[str, Any]  # of `fi_jax.evaluation.summaries.summarise`
Cell = Mapping[str, float]  # mean, low, high, stderr, count

TITLES = {
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
IDENTICAL = 99.995  # dB: from here on two images are the same


# ------------------------------------------------------------------------ what they contain


def headline(results: Results, summary: Summary) -> list[str]:
    """The metrics of the main table: those of the image, the learned ones, those of the set."""
    names = dict.fromkeys(m for row in results.primary for m in results.scores[row])
    learned = [n for n in names if is_learned(n) and '_hole' not in n and '/best' not in n]
    learned.sort(key=lambda n: '_gt' not in n)  # the truth first
    sets = dict.fromkeys(m for cells in summary['sets'].values() for m in cells)
    distances = [n for n in sets if n.startswith(('FID', 'clean-FID', 'KID', 'FD-', 'KD-'))]
    first, last = ([n for n in group if n in names] for group in (_FIRST, _LAST))
    return [*first, *last[:1], *learned, *distances, *last[1:]]


def is_learned(metric: str) -> bool:
    """Whether a metric stands among the learned ones of the main table."""
    return 'lpips' in metric or metric in ('identity_gt/mean', 'identity_gt/best', 'seam')


def title_of(row: str, results: Results) -> str:
    """A row's name for people."""
    if row == 'samples':
        return f'{results.protocol["method"]}, N = {results.protocol["num_samples"]}'
    return TITLES.get(row, row.replace('=', ' = '))


def cell_of(results: Results, summary: Summary, row: str, metric: str) -> Cell | None:
    """A row's estimate over all images; None where it has none, or best of N of a single sample."""
    if metric in summary['sets'].get(row, {}):
        return summary['sets'][row][metric]
    if metric.endswith('/best') and SPREAD not in results.scores.get(row, {}):
        return None
    return summary['rows'].get(row, {}).get('all', {}).get(metric)


def best_rows(results: Results, summary: Summary, columns: Sequence[str]) -> dict[str, str]:
    """Metric -> the row with the best mean, the real image apart, where two or more have one."""
    best = {}
    for name in columns:
        sign = {'higher': 1, 'lower': -1}.get(shown(name).better)
        cells = {r: cell_of(results, summary, r, name) for r in results.scores if r != 'truth'}
        known = {r: c['mean'] for r, c in cells.items() if c is not None and finite(c['mean'])}
        if sign is not None and len(known) > 1:
            best[name] = max(known, key=lambda r: sign * known[r])
    return best


def sentence(results: Results) -> str:
    """What was scored, in a line."""
    p = results.protocol
    height, width = p['size']
    samples = f'{p["num_samples"]} sample{"" if p["num_samples"] == 1 else "s"} each'
    return (
        f'{p["num_images"]:,} images of {p["data"]}'
        + (f' ({p["split"]})' if p.get('split') else '')
        + f', {width}×{height} px, holes: {p["holes"]}, {samples}'
    )


# ------------------------------------------------------------------------- numbers for people


def finite(value: float | None) -> bool:
    """Whether there is a number."""
    return value is not None and math.isfinite(value)


def number(value: float | None, metric: Metric, sign: bool = False) -> str:
    """A metric's value in its digits: a dash where there is none, ∞ for two equal images."""
    if value is None or not math.isfinite(value):
        return '–'
    if metric.unit == 'dB' and value >= IDENTICAL:
        return '∞'
    text = f'{value:+.{metric.digits}f}' if sign else f'{value:.{metric.digits}f}'
    if not text.strip('-0.'):
        text = text.lstrip('-')  # no -0.00
    return text.replace('-', '−')


def interval(cell: Cell | None, metric: Metric, sign: bool = False) -> str:
    """'low–high', with 'to' between where one is negative, or nothing."""
    if cell is None or not finite(cell.get('low')) or number(cell['mean'], metric) == '∞':
        return ''
    low, high = (number(cell[k], metric, sign) for k in ('low', 'high'))
    return f'{low} to {high}' if '−' in low + high else f'{low}–{high}'


# ------------------------------------------------------------------------- tables for programs


def means_csv(summary: Summary) -> str:
    """row, group, metric, mean, low, high, stderr, count: one line a number."""
    out = io.StringIO()
    lines = csv.writer(out, lineterminator='\n')
    lines.writerow(['row', 'group', 'metric', 'mean', 'low', 'high', 'stderr', 'count'])

    def write(row: str, group: str, cells: Mapping[str, Cell]) -> None:
        for metric, cell in cells.items():
            values = [_digits(cell[k]) for k in ('mean', 'low', 'high', 'stderr')]
            lines.writerow([row, group, metric, *values, cell['count']])

    for row, groups in summary['rows'].items():
        for group, cells in groups.items():
            write(row, group, cells)
    for row, cell in summary['memorisation'].items():
        ratio = [_digits(cell['ratio'][k]) for k in ('median', 'low', 'high')]
        name = f'train_distance_{cell["features"]}'
        lines.writerow([row, 'all', f'{name}/median_ratio', *ratio, '', cell['count']])
        copies = _digits(cell['copies'])
        lines.writerow([row, 'all', f'{name}/copies', copies, '', '', '', cell['count']])
    for row, cells in summary['sets'].items():
        write(row, 'set', cells)
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
    best = best_rows(results, summary, columns)
    arrows = {'higher': r' $\uparrow$', 'lower': r' $\downarrow$', '': ''}
    heads = [_tex(shown(name).title) + arrows[shown(name).better] for name in columns]
    lines = [
        '% ' + sentence(results),
        '% 95 % bootstrap intervals over images; holes sha256 ' + results.protocol['holes_sha256'],
        r'\begin{tabular}{l' + 'r' * len(columns) + '}',
        r'\toprule',
        ' & '.join(['', *heads]) + r' \\',
        r'\midrule',
    ]
    for row in results.scores:
        cells = [_tex(title_of(row, results))]
        for name in columns:
            cell = cell_of(results, summary, row, name)
            if cell is None or not finite(cell['mean']):
                cells.append('--')
                continue
            text = _math(cell['mean'], name)
            text = rf'\mathbf{{{text}}}' if row == best.get(name) else text
            if finite(cell.get('low')) and 'infty' not in text:
                text += rf'_{{[{_math(cell["low"], name)},\,{_math(cell["high"], name)}]}}'
            cells.append(f'${text}$')
        lines.append(' & '.join(cells) + r' \\')
    return '\n'.join([*lines, r'\bottomrule', r'\end{tabular}', ''])


def markdown(results: Results, summary: Summary) -> str:
    """The main table and the paired differences as Markdown: means, intervals, the best in bold."""
    columns = headline(results, summary)
    best = best_rows(results, summary, columns)
    lines = [sentence(results) + '. In brackets 95 % bootstrap intervals over images.', '']
    lines += _markdown_head(columns)
    for row in results.scores:
        found = {name: cell_of(results, summary, row, name) for name in columns}
        cells = [_markdown(cell, name, best.get(name) == row) for name, cell in found.items()]
        lines.append(f'| {" | ".join([title_of(row, results), *cells])} |')
    columns = [m for m in columns if shown(m).better]
    columns = [m for m in columns if any(m in cells for cells in summary['paired'].values())]
    if columns:
        first = title_of(results.primary[0], results)
        lines += ['', f'{first} minus each other row, image by image on the same holes:', '']
        lines += _markdown_head(columns)
        for row, found in summary['paired'].items():
            cells = [_markdown(found.get(name), name, sign=True) for name in columns]
            lines.append(f'| {" | ".join([title_of(row, results), *cells])} |')
    if summary['attributes']:
        metric = next(iter(summary['attributes'].values()))['metric']
        lines += ['', f'By attribute, {shown(metric).title}:', '']
        lines += ['|  | worst group |  | widest gap |  |', '|---|---|--:|---|--:|']
        for row, group, value, attribute, gap in worst_groups(summary):
            cells = [
                group,
                number(value, shown(metric)),
                attribute,
                _markdown(gap, metric, sign=True),
            ]
            lines.append(f'| {" | ".join([title_of(row, results), *cells])} |')
    return '\n'.join([*lines, ''])


def worst_groups(summary: Summary) -> Iterator[tuple[str, str, float, str, Cell]]:
    """Of each row with attributes: its worst group and that one's mean, the widest gap's attribute
    and the gap, with less without."""
    for row, found in summary['attributes'].items():
        worst, cells = found['worst'], found['by_attribute']
        widest = max(cells, key=lambda name: abs(cells[name]['gap']['mean']))
        group = f'{worst["side"]} {worst["attribute"]}'.replace('_', ' ')
        yield row, group, worst['mean'], widest.replace('_', ' '), cells[widest]['gap']


def _markdown_head(columns: Sequence[str]) -> list[str]:
    arrows = {'higher': ' ↑', 'lower': ' ↓', '': ''}
    metrics = [shown(name) for name in columns]
    heads = [m.title + (f', {m.unit}' if m.unit else '') + arrows[m.better] for m in metrics]
    return [f'| {" | ".join(["", *heads])} |', f'|---{"|--:" * len(heads)}|']


def _markdown(cell: Cell | None, name: str, bold: bool = False, sign: bool = False) -> str:
    if cell is None or not finite(cell['mean']):
        return '–'
    metric = shown(name)
    text, between = number(cell['mean'], metric, sign), interval(cell, metric, sign)
    text = f'**{text}**' if bold else text
    return f'{text} ({between})' if between else text


def _tex(text: str) -> str:
    for mark in '&%$#_{}':
        text = text.replace(mark, '\\' + mark)
    return text.replace('–', '--')


def _math(value: float, name: str) -> str:
    return number(value, shown(name)).replace('−', '-').replace('∞', r'\infty')


def _digits(value: float) -> str:
    return f'{value:.6g}' if finite(value) else ''
