# ruff: noqa: RUF001  (the page is set with true dashes, minus signs and multiplication signs)
"""The report of an evaluation: one self-contained page; its numbers as CSV, LaTeX, Markdown.

Nothing is fetched: pictures and charts are inside the page, and its content policy forbids more.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fi_jax.evaluation import charts, tables
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
    """The whole report as one HTML document."""
    p = results.protocol
    compared = p.get('compared')
    title = escape(' · '.join(compared) if compared else f'{p["run"]}')
    kicker = 'fi_jax evaluation' + (' · comparison' if compared else f' · {name.replace("_", " ")}')
    step = f', step {p["step"]:,}' if p.get('step') and not compared else ''
    sections = {
        'Scores': _scores(results, summary),
        'Quality, diversity, calibration': _diversity(results, summary),
        'Structure and person': _structure(results, summary),
        'Nearest training face': _memorisation(results, summary),
        'By hole area and kind': _groups(results, summary),
        'Paired differences': _differences(results, summary),
        'By attribute': _attributes(summary),
        'Faces': _gallery(results),
        'Left out': _skipped(results),
        'Protocol': _protocol(results),
    }
    sections = {head: body for head, body in sections.items() if body}
    links = ''.join(f'<a href="#{_slug(head)}">{head}</a>' for head in sections)
    bodies = ''.join(
        f'<section id="{_slug(head)}"><h2>{head}</h2>{body}</section>'
        for head, body in sections.items()
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
        '<meta name="color-scheme" content="light dark">'
        f'<title>{title} – evaluation</title><style>{_CSS}</style></head><body>'
        f'<header><p class="kicker">{escape(kicker)}</p><h1>{title}</h1>'
        f'<p class="lead">{escape(tables.sentence(results) + step)}.</p>'
        f'{_tiles(results, summary)}<nav>{links}</nav></header><main>{bodies}</main>'
        '<footer>Intervals are 95 % bootstrap intervals over images. What a model draws is '
        'plausible, not the true face: do not use it to identify anyone.</footer></body></html>\n'
    )


def _slug(text: str) -> str:
    return ''.join(c if c.isalnum() else '-' for c in text.lower())


# ---------------------------------------------------------------------------------- the parts


def _tiles(results: Results, summary: Summary) -> str:
    """The few numbers that a hurried reader wants, of the first primary row."""
    if not results.primary:
        return '<p class="note">The method itself has no scores: see Left out.</p>'
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
    tiles = []
    for name, hint in wanted.items():
        cell = cell_of(results, summary, row, name)
        if cell is not None:
            tiles.append(_tile(shown(name), cell, hint))
    ratio = summary['calibration'].get(row, {}).get('all', {}).get('ratio')
    if ratio and finite(ratio['mean']):
        metric = Metric('spread / error', '', '', 2)
        tiles.append(_tile(metric, ratio, '1: the samples differ as much as they err'))
    head = f'<p class="of">{escape(title_of(row, results))}</p>' * (len(results.primary) > 1)
    return f'{head}<div class="tiles">{"".join(tiles)}</div>'


def _tile(metric: Metric, cell: Cell, hint: str) -> str:
    unit = f' <small>{escape(metric.unit)}</small>' if metric.unit == 'dB' else ''
    return (
        f'<div class="tile"><p>{escape(metric.title)}</p>'
        f'<b>{number(cell["mean"], metric)}{unit}</b>'
        f'<p class="ci">{interval(cell, metric)}</p><p class="hint">{escape(hint)}</p></div>'
    )


def _scores(results: Results, summary: Summary) -> str:
    columns = headline(results, summary)
    every = dict.fromkeys(m for scores in results.scores.values() for m in scores)
    every |= dict.fromkeys(m for cells in summary['sets'].values() for m in cells)
    rest = [m for m in every if m not in (*columns, *_LANDMARKS, *_GATED)]
    more = _details('All other metrics', _score_table(results, summary, rest)) if rest else ''
    single = any(SPREAD not in scores for scores in results.scores.values())
    note = (
        'The best of each column is bold, the real image apart; below each mean its 95 % interval. '
        'The real image is what a perfect guess would score.'
        + ' Rows of a single completion have no best of N and no distance.' * single
        + ' Distances of sets take the first sample of each image.' * bool(summary['sets'])
    )
    return f'{_score_table(results, summary, columns)}{_note(note)}{more}'


def _diversity(results: Results, summary: Summary) -> str:
    figures = charts.tradeoff(results, summary) + charts.calibration(results, summary)
    if not figures:
        return _note('One completion of each image: no diversity to show.')
    return f'<div class="pair">{figures}</div>{charts.towards_zero(results, summary)}'


def _structure(results: Results, summary: Summary) -> str:
    """Landmarks read off the completions, likeness, and diversity at fixed quality."""
    measured = {m for scores in results.scores.values() for m in scores}
    body = ''
    real = 'truth' in results.scores
    if STRUCTURE in measured and results.protocol.get('landmark_detector'):
        floor = 'The real image shows its own error, the floor of each column. ' * real
        if results.protocol['landmark_detector'].get('leads_completions'):
            floor += 'These completions were also conditioned on its points: it is not impartial. '
        note = (
            f'Landmarks are found on completions by {escape(_detector(results))}, a stand-in for '
            f'a published detector. {floor}Spread: how far a point moves from sample to sample.'
        )
        table = _score_table(results, summary, [m for m in _LANDMARKS if m in measured])
        body += f'<h3>Landmarks of the completions</h3>{table}{_note(note)}'
        if chart := charts.by_area(results, summary, STRUCTURE, floor=True):
            kind = charts.by_kind(results, summary, STRUCTURE)
            legend = charts.legend(results, results.scores)
            body += f'<div class="below">{legend}</div><div class="pair">{chart}{kind}</div>'
    if 'passed' in measured and results.protocol.get('gates'):
        note = (
            f'A sample passes with {escape(_gates(results))}. The last column counts the pairs of '
            'which both pass, over the images that have one: diversity at fixed quality.'
            + ' The last row says how many real images pass.'
            * real
        )
        table = _score_table(results, summary, [m for m in _GATED if m in measured])
        body += f'<h3 class="below">Diversity at fixed quality</h3>{table}{_note(note)}'
    return body


def _detector(results: Results) -> str:
    detector = results.protocol['landmark_detector']
    return (
        f'the landmark predictor of run {detector["run"]} ({detector["res"]} px, step '
        f'{detector["step"]:,})'
    )


def _gates(results: Results) -> str:
    words = {
        'landmarks': 'a landmark error of the whole face of at most {} of the eyes',
        'identity': 'a distance of dlib’s face descriptors to the photo of at most {}',
    }
    gates = results.protocol['gates']
    return ' and '.join(words[name].format(f'{most:g}') for name, most in gates.items())


def _memorisation(results: Results, summary: Summary) -> str:
    figure = charts.nearest_faces(results, summary)
    if not figure:
        return ''
    three, percent = Metric('', digits=3), Metric('', digits=1)
    lines = []
    for row, cell in summary['memorisation'].items():
        ratio = cell['ratio'] | {'mean': cell['ratio']['median']}
        cells = (
            _td(number(ratio['mean'], three), interval(ratio, three)),
            f'<td>{number(100 * cell["copies"], percent)} %</td>',
            f'<td>{number(cell["distance"], three)}</td>',
            f'<td>{number(cell["photo"], three)}</td>',
        )
        lines.append(_row(results, row, cells))
    heads = (
        'median ratio, sample over photo',
        'nearer than any photo',
        'median distance',
        'median distance of the photos',
    )
    return figure + _table(heads, lines, below=True)


def _groups(results: Results, summary: Summary) -> str:
    figures = [charts.by_area(results, summary, m) for m in (QUALITY, 'ssim_hole/mean')]
    figures += [charts.by_kind(results, summary, m) for m in (QUALITY, SPREAD)]
    details = ''.join(
        _details(f'{shown(m).title} by group, as a table', _group_table(results, summary, m))
        for m in (QUALITY, 'ssim_hole/mean', SPREAD, STRUCTURE)
        if any(m in scores for scores in results.scores.values())
    )
    legend = charts.legend(results, (row for row in results.scores if row != 'truth'))
    return f'{legend}<div class="pair">{"".join(figures)}</div>{details}'


def _group_table(results: Results, summary: Summary, metric: str) -> str:
    rows = [r for r in results.scores if r != 'truth' and metric in results.scores[r]]
    lines = []
    for group, member in results.groups().items():
        found = (summary['rows'][row].get(group, {}).get(metric) for row in rows)
        head = f'{escape(group.replace("_", " "))} <small>{int(member.sum())} images</small>'
        lines.append(_tr(head, (_estimate(cell, shown(metric)) for cell in found)))
    return _table((escape(title_of(row, results)) for row in rows), lines)


def _differences(results: Results, summary: Summary) -> str:
    figure = charts.differences(results, summary)
    if not figure:
        return ''
    columns = [m for m in headline(results, summary) if shown(m).better]
    columns = [m for m in columns if any(m in c for c in summary['paired'].values())]
    lines = []
    for row, found in summary['paired'].items():
        cells = (_estimate(found.get(m), shown(m), True) for m in columns)
        lines.append(_tr(escape(title_of(row, results)), cells))
    table = _table((escape(shown(m).title) for m in columns), lines)
    return figure + _details('Differences in all metrics of the table', table)


def _attributes(summary: Summary) -> str:
    found = summary['attributes']
    if not found:
        return ''
    metric, worst = shown(found['metric']), found['worst']
    order = sorted(found['by_attribute'].items(), key=lambda item: -abs(item[1]['gap']['mean']))
    lines = []
    for name, cell in order:
        cells = [
            _td(number(x['mean'], metric), f'{interval(x, metric)} · {x["count"]}')
            for x in (cell['with'], cell['without'])
        ]
        clear = not cell['gap']['low'] <= 0 <= cell['gap']['high']
        cells.append(_estimate(cell['gap'], metric, True, bold=clear))
        lines.append(_tr(escape(name.replace('_', ' ')), cells))
    heads = ('with', 'without', 'gap')
    body = (
        f'<p>Worst group by {escape(metric.title)}: '
        f'<b>{worst["side"]} “{escape(worst["attribute"])}”</b>, '
        f'{number(worst["mean"], metric)} {escape(metric.unit)}. '
        'Bold: the interval leaves out 0.</p>'
    )
    body += _table(heads, lines[:10])
    if more := lines[10:]:
        body += _details(f'The other {len(more)} attributes', _table(heads, more))
    return body


_WHY = {
    'best': 'Best, by hole PSNR of the mean sample',
    'median': 'Median',
    'worst': 'Worst',
    'first': 'The first of the split, whatever their scores',
}


def _gallery(results: Results) -> str:
    blocks = []
    for why, title in _WHY.items():
        faces = [face for face in results.gallery if face.why == why]
        if faces:
            blocks.append(f'<h3>{title}</h3>' + ''.join(_strip(face) for face in faces))
    if not blocks:
        return ''
    note = 'Faces were chosen by score, never by hand. Grey is what the network does not see.'
    return f'{_note(note)}{"".join(blocks)}'


def _strip(face: Face) -> str:
    cells = ''.join(
        f'<div><img src="{_jpeg(picture)}" alt="{escape(title)} of {escape(face.name)}" '
        f'width="{picture.shape[1]}" height="{picture.shape[0]}"><p>{escape(title)}</p></div>'
        for title, picture in face.pictures.items()
    )
    score = f' · {face.score:.2f} dB' if finite(face.score) else ''
    count = len(face.pictures)
    return (
        f'<figure class="strip"><div class="faces" style="--n:{count}">{cells}</div>'
        f'<figcaption>{escape(face.name)}{score}</figcaption></figure>'
    )


def _jpeg(picture: np.ndarray) -> str:
    out = io.BytesIO()
    Image.fromarray(picture).save(out, format='JPEG', quality=95, subsampling=0)
    return 'data:image/jpeg;base64,' + base64.b64encode(out.getvalue()).decode()


def _skipped(results: Results) -> str:
    if not results.skipped:
        return ''
    facts = {what.replace('_', ' '): why for what, why in results.skipped.items()}
    return _note('What was asked for and is not in this report.') + _facts(facts)


def _protocol(results: Results) -> str:
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
    if p.get('landmark_detector'):
        reference = {
            'data': 'against the points that came with the photos',
            'landmark_detector': 'against the points it finds in the photos themselves, for none '
            'came with them: the real image has 0',
        }[p['landmarks']]
        facts['Landmarks'] = (
            f'found on each completion by {_detector(results)}, which does not see the hole; '
            f'{reference}, over the distance of the outer eye corners; hole: points whose true '
            'place is in it'
        )
    facts['Gates'] = 'none in force: no landmark detector, no face descriptors'
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
    return _facts(facts)


# ------------------------------------------------------------------------------ pieces of HTML


def _note(text: str) -> str:
    return f'<p class="note">{text}</p>'


def _details(summary: str, body: str) -> str:
    return f'<details><summary>{escape(summary)}</summary>{body}</details>'


def _facts(facts: dict[str, Any]) -> str:
    items = ''.join(f'<dt>{escape(k)}</dt><dd>{escape(str(v))}</dd>' for k, v in facts.items())
    return f'<dl class="facts">{items}</dl>'


def _score_table(results: Results, summary: Summary, columns: Sequence[str]) -> str:
    """A line a row, a column a metric."""
    best = tables.best_rows(results, summary, columns)
    arrows = {'higher': '↑', 'lower': '↓', '': ''}
    heads = []
    for metric in map(shown, columns):
        unit = f'<small>{escape(metric.unit)}</small>' if metric.unit else ''
        heads.append(f'{escape(metric.title)}&nbsp;{arrows[metric.better]}{unit}')
    lines = []
    for row in results.scores:
        cells = []
        for name in columns:
            cell = cell_of(results, summary, row, name)
            found = cell and _estimate(cell, shown(name), bold=row == best.get(name))
            cells.append(found or '<td class="none">–</td>')
        lines.append(_row(results, row, cells))
    return _table(heads, lines)


def _table(heads: Iterable[str], lines: Iterable[str], below: bool = False) -> str:
    """below: apart from what stands above it."""
    kind = 'scroll below' if below else 'scroll'
    columns = ''.join(f'<th scope="col">{head}</th>' for head in heads)
    return (
        f'<div class="{kind}" tabindex="0"><table><thead><tr><th></th>{columns}</tr></thead>'
        f'<tbody>{"".join(lines)}</tbody></table></div>'
    )


def _row(results: Results, row: str, cells: Iterable[str]) -> str:
    """The line of a row of the evaluation, with its colour."""
    head = charts.swatch(charts.colour_of(row, results)) + escape(title_of(row, results))
    return _tr(head, cells, ' class="primary"' if row in results.primary else '')


def _tr(head: str, cells: Iterable[str], kind: str = '') -> str:
    return f'<tr{kind}><th scope="row">{head}</th>{"".join(cells)}</tr>'


def _estimate(cell: Cell | None, metric: Metric, sign: bool = False, bold: bool = False) -> str:
    value = number(cell['mean'] if cell else None, metric, sign)
    return _td(f'<b>{value}</b>' if bold else value, interval(cell, metric, sign))


def _td(value: str, small: str) -> str:
    return f'<td>{value}<small>{small}</small></td>'


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
