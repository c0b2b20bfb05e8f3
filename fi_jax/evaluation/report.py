"""The report of an evaluation: one self-contained page; its numbers as CSV, LaTeX, Markdown.

What the page says is put together here; how it looks is in templates/report.html.j2. Nothing is
fetched: pictures and charts are inside the page, and its content policy forbids more.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
from PIL import Image

from fi_jax.evaluation import charts, facts, tables
from fi_jax.evaluation.metric_names import Metric, shown
from fi_jax.evaluation.results import Face, Results
from fi_jax.evaluation.tables import (
    QUALITY,
    SPREAD,
    STRUCTURE,
    Cell,
    Summary,
    cell_of,
    finite,
    headline,
    interval,
    number,
    title_of,
    worst_groups,
)
from fi_jax.run.files import atomic_write

# The columns of the two tables on structure and person.
_LANDMARKS = (
    STRUCTURE,
    'landmark_error_hole/best',
    'landmark_error/mean',
    'landmark_error/best',
    'landmark_spread_hole',
    'landmark_spread',
)
_GATED = (
    'identity_gt_distance',
    'landmark_passed',
    'identity_passed',
    'passed',
    SPREAD,
    'pair_distance_hole_passed',
)

_ARROWS = {'higher': '↑', 'lower': '↓', '': ''}
_PAGE = jinja2.Environment(
    loader=jinja2.PackageLoader('fi_jax.evaluation'), autoescape=True,
    trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined,
).get_template('report.html.j2')  # fmt: skip


class Value(NamedTuple):
    """What a cell of a table says, and below it in small type; None: nothing below."""

    text: str
    small: str | None = None
    bold: bool = False


class Head(NamedTuple):
    """The head of a column."""

    title: str
    unit: str = ''
    arrow: str = ''


class Line(NamedTuple):
    """A line of a table; a cell is None where a row has no such value."""

    head: str
    cells: Sequence[Value | None]
    small: str = ''
    colour: str = ''
    primary: bool = False


class Table(NamedTuple):
    """Columns and lines."""

    heads: Sequence[Head]
    lines: Sequence[Line]


class Block(NamedTuple):
    """A piece of a section: `kind` is how the template draws the data; below: with space above."""

    kind: str
    data: Any
    below: bool = False


def write(results: Results, summary: Summary, folder: Path, name: str) -> Path:
    """folder/<name>.html, .csv (means), _images.csv (each image), .tex, .md; returns the page."""
    files = {
        f'{name}.html': page(results, summary, name),
        f'{name}.csv': tables.means_csv(summary),
        f'{name}_images.csv': tables.images_csv(results),
        f'{name}.tex': tables.latex(results, summary),
        f'{name}.md': tables.markdown(results, summary),
    }
    for file, text in files.items():
        with atomic_write(folder / file) as part:
            part.write_text(text, encoding='utf-8')
    return folder / f'{name}.html'


def page(results: Results, summary: Summary, name: str) -> str:
    """The report as one HTML document."""
    p = results.protocol
    compared = p.get('compared')
    step = f', step {p["step"]:,}' if p.get('step') and not compared else ''
    sections = {
        'Scores': _scores(results, summary),
        'Quality, diversity, calibration': _diversity(results, summary),
        'Structure and person': _structure(results, summary),
        'Nearest training face': _memorisation(results, summary),
        'By hole area and kind': _groups(results, summary),
        'Paired differences': _differences(results, summary),
        'By attribute': _attributes(results, summary),
        'Faces': _gallery(results),
        'Left out': _skipped(results),
        'Protocol': [Block('facts', facts.protocol(results))],
    }
    return _PAGE.render(
        title=' · '.join(compared) if compared else p['run'],
        kicker='fi_jax evaluation · ' + ('comparison' if compared else name.replace('_', ' ')),
        lead=tables.sentence(results) + step,
        of=title_of(results.primary[0], results) if len(results.primary) > 1 else '',
        tiles=_tiles(results, summary),
        sections=[
            {'title': title, 'id': _slug(title), 'blocks': blocks}
            for title, blocks in sections.items()
            if blocks
        ],
    )


def _slug(text: str) -> str:
    return ''.join(c if c.isalnum() else '-' for c in text.lower())


# --------------------------------------------------------------------------------- the sections


def _tiles(results: Results, summary: Summary) -> list[dict[str, str]]:
    """The few numbers to see first, of the first primary row."""
    if not results.primary:
        return []
    row = results.primary[0]
    n = results.protocol['num_samples']
    wanted = {QUALITY: 'higher is better', 'psnr_hole/best': f'the best of {n} samples'}
    learned = [m for m in results.scores[row] if tables.is_learned(m) and m.endswith('_gt/mean')]
    for name in learned[:1]:
        better = shown(name).better
        what = 'distance' if better == 'lower' else 'likeness'
        wanted[name] = f'{what} to the truth, {better} is better'
    if not learned:
        wanted['ssim_hole/mean'] = 'higher is better'
    floor = cell_of(results, summary, 'truth', STRUCTURE)
    if floor:
        wanted[STRUCTURE] = f'the real image: {number(floor["mean"], shown(STRUCTURE))}'
    wanted[SPREAD] = 'distance of two samples of one face'
    cells = {name: cell_of(results, summary, row, name) for name in wanted}
    tiles = [_tile(shown(m), cell, wanted[m]) for m, cell in cells.items() if cell is not None]
    ratio = summary['calibration'].get(row, {}).get('all', {}).get('ratio')
    if ratio and finite(ratio['mean']):
        metric = Metric('spread / error', '', '', 2)
        tiles.append(_tile(metric, ratio, '1: the samples differ as much as they err'))
    return tiles


def _tile(metric: Metric, cell: Cell, hint: str) -> dict[str, str]:
    return {
        'title': metric.title,
        'value': number(cell['mean'], metric),
        'unit': metric.unit if metric.unit == 'dB' else '',
        'interval': interval(cell, metric),
        'hint': hint,
    }


def _scores(results: Results, summary: Summary) -> list[Block]:
    columns = headline(results, summary)
    every = dict.fromkeys(m for scores in results.scores.values() for m in scores)
    every |= dict.fromkeys(m for cells in summary['sets'].values() for m in cells)
    rest = [m for m in every if m not in (*columns, *_LANDMARKS, *_GATED)]
    single = any(SPREAD not in scores for scores in results.scores.values())
    note = (
        'The best of each column is bold, the real image apart; below each mean its 95 % interval. '
        'The real image is what a perfect guess would score.'
        + ' Rows of a single completion have no best of N and no distance.' * single
        + ' Distances of sets take the first sample of each image.' * bool(summary['sets'])
    )
    blocks = [Block('table', _score_table(results, summary, columns)), Block('note', note)]
    if rest:
        table = _score_table(results, summary, rest)
        blocks.append(Block('more', ('All other metrics', table)))
    return blocks


def _diversity(results: Results, summary: Summary) -> list[Block]:
    pair = charts.tradeoff(results, summary), charts.calibration(results, summary)
    figures = [figure for figure in pair if figure]
    if not figures:
        return [Block('note', 'One completion of each image: no diversity to show.')]
    return [Block('pair', figures), *_figure(charts.towards_zero(results, summary))]


def _structure(results: Results, summary: Summary) -> list[Block]:
    """Landmarks found on the completions, likeness, and diversity at fixed quality."""
    measured = {m for scores in results.scores.values() for m in scores}
    blocks = []
    real = 'truth' in results.scores
    if STRUCTURE in measured and results.protocol.get('landmark_detector'):
        floor = 'The real image shows its own error, the floor of each column. ' * real
        if results.protocol['landmark_detector'].get('leads_completions'):
            floor += 'These completions were also conditioned on its points: it is not impartial. '
        note = (
            f'Landmarks are found on completions by {facts.detector(results)}, a stand-in for '
            f'a published detector. {floor}Spread: how far a point moves from sample to sample.'
        )
        table = _score_table(results, summary, [m for m in _LANDMARKS if m in measured])
        blocks += [Block('heading', 'Landmarks of the completions'), Block('table', table)]
        blocks += [Block('note', note)]
        if chart := charts.by_area(results, summary, STRUCTURE, floor=True):
            kind = charts.by_kind(results, summary, STRUCTURE)
            blocks.append(Block('legend', charts.legend(results, results.scores), below=True))
            blocks.append(Block('pair', [chart, kind] if kind else [chart]))
    if 'passed' in measured and results.protocol.get('gates'):
        note = (
            f'A sample passes with {facts.gates(results)}. The last column counts the pairs of '
            'which both pass, over the images that have one: diversity at fixed quality.'
            + ' The last row says how many real images pass.'
            * real
        )
        table = _score_table(results, summary, [m for m in _GATED if m in measured])
        blocks.append(Block('heading', 'Diversity at fixed quality', below=True))
        blocks += [Block('table', table), Block('note', note)]
    return blocks


def _memorisation(results: Results, summary: Summary) -> list[Block]:
    figure = charts.nearest_faces(results, summary)
    if not figure:
        return []
    three, percent = Metric('', digits=3), Metric('', digits=1)
    lines = []
    for row, cell in summary['memorisation'].items():
        ratio = cell['ratio'] | {'mean': cell['ratio']['median']}
        cells = (
            Value(number(ratio['mean'], three), interval(ratio, three)),
            Value(f'{number(100 * cell["copies"], percent)} %'),
            Value(number(cell['distance'], three)),
            Value(number(cell['photo'], three)),
        )
        lines.append(_line(results, row, cells))
    heads = (
        'median ratio, sample over photo',
        'nearer than any photo',
        'median distance',
        'median distance of the photos',
    )
    return [Block('figure', figure), Block('table', _table(heads, lines), below=True)]


def _groups(results: Results, summary: Summary) -> list[Block]:
    figures = [charts.by_area(results, summary, m) for m in (QUALITY, 'ssim_hole/mean')]
    figures += [charts.by_kind(results, summary, m) for m in (QUALITY, SPREAD)]
    legend = charts.legend(results, (row for row in results.scores if row != 'truth'))
    return [
        Block('legend', legend),
        Block('pair', [figure for figure in figures if figure]),
        *(
            Block(
                'more', (f'{shown(m).title} by group, as a table', _by_group(results, summary, m))
            )
            for m in (QUALITY, 'ssim_hole/mean', SPREAD, STRUCTURE)
            if any(m in scores for scores in results.scores.values())
        ),
    ]


def _by_group(results: Results, summary: Summary, metric: str) -> Table:
    rows = [r for r in results.scores if r != 'truth' and metric in results.scores[r]]
    lines = []
    for group, member in results.groups().items():
        found = (summary['rows'][row].get(group, {}).get(metric) for row in rows)
        cells = [_estimate(cell, shown(metric)) for cell in found]
        lines.append(Line(group.replace('_', ' '), cells, small=f'{int(member.sum())} images'))
    return _table((title_of(row, results) for row in rows), lines)


def _differences(results: Results, summary: Summary) -> list[Block]:
    figure = charts.differences(results, summary)
    if not figure:
        return []
    columns = [m for m in headline(results, summary) if shown(m).better]
    columns = [m for m in columns if any(m in c for c in summary['paired'].values())]
    lines = [
        Line(title_of(row, results), [_estimate(found.get(m), shown(m), True) for m in columns])
        for row, found in summary['paired'].items()
    ]
    table = _table((shown(m).title for m in columns), lines)
    more = 'Differences in all metrics of the table', table
    return [Block('figure', figure), Block('more', more)]


def _attributes(results: Results, summary: Summary) -> list[Block]:
    if not summary['attributes']:
        return []
    row, found = next(iter(summary['attributes'].items()))
    metric, worst = shown(found['metric']), found['worst']
    order = sorted(found['by_attribute'].items(), key=lambda item: -abs(item[1]['gap']['mean']))
    lines = []
    for name, cell in order:
        cells = [
            Value(number(x['mean'], metric), f'{interval(x, metric)} · {x["count"]}')
            for x in (cell['with'], cell['without'])
        ]
        clear = not cell['gap']['low'] <= 0 <= cell['gap']['high']
        cells.append(_estimate(cell['gap'], metric, True, bold=clear))
        lines.append(Line(name.replace('_', ' '), cells))
    heads = ('with', 'without', 'gap')
    about = {
        'metric': metric.title,
        'side': worst['side'],
        'attribute': worst['attribute'].replace('_', ' '),
        'value': f'{number(worst["mean"], metric)} {metric.unit}'.strip(),
    }
    blocks = [Block('worst', about), Block('table', _table(heads, lines[:10]))]
    if len(summary['attributes']) > 1:
        blocks = [Block('table', _worst_groups(results, summary, metric)), *blocks]
        blocks[1:1] = [Block('heading', title_of(row, results), below=True)]
    if more := lines[10:]:
        title = f'The other {len(more)} attributes'
        blocks.append(Block('more', (title, _table(heads, more))))
    return blocks


def _worst_groups(results: Results, summary: Summary, metric: Metric) -> Table:
    """Of each row its worst group and its widest gap."""
    lines = []
    for row, group, value, attribute, gap in worst_groups(summary):
        wide = _estimate(gap, metric, True)
        cells = [Value(number(value, metric), group), Value(wide.text, f'{attribute} {wide.small}')]
        lines.append(_line(results, row, cells))
    return _table((f'worst group, {metric.title}', 'widest gap'), lines)


_WHY = {
    'best': 'Best, by hole PSNR of the mean sample',
    'median': 'Median',
    'worst': 'Worst',
    'first': 'The first of the split, whatever their scores',
}


def _gallery(results: Results) -> list[Block]:
    blocks = []
    for why, title in _WHY.items():
        faces = [Block('face', _face(face)) for face in results.gallery if face.why == why]
        blocks += [Block('heading', title), *faces] if faces else []
    note = 'Faces were chosen by score, never by hand. Grey is what the network does not see.'
    return [Block('note', note), *blocks] if blocks else []


def _face(face: Face) -> Mapping[str, Any]:
    count = len(face.pictures)
    return {
        'name': face.name,
        'columns': count if count <= 12 else 9,
        'score': f' · {face.score:.2f} dB' if finite(face.score) else '',
        'pictures': [
            {'title': title, 'src': _jpeg(x), 'width': x.shape[1], 'height': x.shape[0]}
            for title, x in face.pictures.items()
        ],
    }


def _jpeg(picture: np.ndarray) -> str:
    out = io.BytesIO()
    Image.fromarray(picture).save(out, format='JPEG', quality=95, subsampling=0)
    return 'data:image/jpeg;base64,' + base64.b64encode(out.getvalue()).decode()


def _skipped(results: Results) -> list[Block]:
    if not results.skipped:
        return []
    reasons = {what.replace('_', ' '): why for what, why in results.skipped.items()}
    note = 'What was wanted and is not in this report.'
    return [Block('note', note), Block('facts', reasons)]


# --------------------------------------------------------------------------------------- tables


def _figure(figure: charts.Figure | None) -> list[Block]:
    return [Block('figure', figure)] if figure else []


def _score_table(results: Results, summary: Summary, columns: Sequence[str]) -> Table:
    """A line a row, a column a metric."""
    best = tables.best_rows(results, summary, columns)
    heads = [Head(m.title, m.unit, _ARROWS[m.better]) for m in map(shown, columns)]
    lines = []
    for row in results.scores:
        cells = {name: cell_of(results, summary, row, name) for name in columns}
        lines.append(
            _line(
                results,
                row,
                [
                    _estimate(cell, shown(name), bold=row == best.get(name)) if cell else None
                    for name, cell in cells.items()
                ],
            )
        )
    return Table(heads, lines)


def _table(heads: Iterable[str], lines: Sequence[Line]) -> Table:
    return Table([Head(title) for title in heads], lines)


def _line(results: Results, row: str, cells: Sequence[Value | None]) -> Line:
    """The line of a row of the evaluation, with its colour."""
    colour, primary = charts.colour_of(row, results), row in results.primary
    return Line(title_of(row, results), cells, colour=colour, primary=primary)


def _estimate(cell: Cell | None, metric: Metric, sign: bool = False, bold: bool = False) -> Value:
    value = number(cell['mean'] if cell else None, metric, sign)
    return Value(value, interval(cell, metric, sign), bold)
