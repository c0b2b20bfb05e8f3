"""The report: well-formed, self-contained, true to the scores, and whole where scores are not."""

import csv
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from fi_jax.evaluation import metric_names, report, summaries, svg, tables
from fi_jax.evaluation import results as res
from fi_jax.input_pipeline import holes
from fi_jax.metrics import bootstrap

SIZE = 16


def made_up(n=24, rows=('samples', 'telea', 'truth'), seed=0, **changes) -> res.Results:
    """An evaluation of n images without a network: 'samples' has two completions, others one."""
    rng = np.random.default_rng(seed)
    scores = {}
    for k, row in enumerate(rows):
        base = rng.normal(20 - k, 3, n)
        scores[row] = {
            'psnr_hole/mean': np.full(n, 100.0) if row == 'truth' else base,
            'psnr_hole/best': np.full(n, 100.0) if row == 'truth' else base + 1,
            'ssim_hole/mean': rng.uniform(0.4, 0.8, n),
            'l1_hole/mean': rng.uniform(20, 40, n),
        }
    if 'samples' in scores:
        scores['samples']['pair_distance_hole'] = rng.uniform(0.05, 0.2, n)
        scores['samples']['pair_distance'] = rng.uniform(0.01, 0.04, n)
    picture = rng.integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8)
    face = res.Face(
        'best', 'a.png', 21.5, {'input': picture, 'sample 1': picture, 'truth': picture}
    )
    protocol = {
        'method': 'keypoint', 'run': 's2', 'data': 'faces.zip', 'split': 'test',
        'size': [SIZE, SIZE], 'holes': 'mixture', 'num_samples': 2, 'num_images': n,
        'seed': 0, 'bootstrap': 200,
        'kinds': list(holes.KINDS), 'primary': ['samples'], 'holes_sha256': 'ab' * 32,
    }  # fmt: skip
    values = {
        'protocol': protocol,
        'names': np.array([f'{i:03d}.png' for i in range(n)]),
        'fingerprint': np.arange(n, dtype=np.uint64) + 7,
        'area': rng.integers(1, SIZE * SIZE // 2, n),
        'kind': rng.integers(0, 3, n),
        'holes': rng.integers(0, 256, (n, SIZE * SIZE // 8)).astype(np.uint8),
        'attributes': {'smile': (np.arange(n) % 2).astype(np.int8), 'rare': np.zeros(n, np.int8)},
        'scores': scores,
        'sets': {
            'samples': {'FD-pixels8, N = 24': bootstrap.Estimate(12.3, 10.1, 14.5, 1.1, 24)},
            'truth': {'FD-pixels8, N = 24': bootstrap.Estimate(0.0, 0.0, 0.2, 0.1, 24)},
        },
        'skipped': {'lpips_alex': 'weights alexnet: not in the cache'},
        'gallery': (face,),
    }
    return res.Results(**(values | changes))


def with_faces(n=24, reference='data') -> res.Results:
    """The same with what a landmark detector, face descriptors and training faces add."""
    results = made_up(n)
    rng = np.random.default_rng(1)
    for row, cells in results.scores.items():
        cells |= {
            'landmark_error_hole/mean': rng.uniform(0.03, 0.08, n),
            'landmark_error/mean': rng.uniform(0.03, 0.08, n),
            'landmark_passed': rng.uniform(0, 1, n),
            'passed': rng.uniform(0, 1, n),
            'train_distance_dlib_face': rng.uniform(0.4, 0.6, n),
            'train_distance_dlib_face/photo': np.full(n, 0.5),
        }
        if row == 'samples':
            cells['landmark_spread_hole'] = rng.uniform(0, 0.02, n)
            cells['pair_distance_hole_passed'] = rng.uniform(0, 0.1, n)
    results.protocol.update(
        landmark_detector={'run': 'lm', 'res': 64, 'step': 6000},
        landmarks=reference,
        gates={'landmarks': 0.1, 'identity': 0.6},
        memorisation={'features': 'dlib_face', 'faces': 1985, 'data': 'faces.zip'},
    )
    return results


class Balanced(HTMLParser):
    """Fails on a tag that is closed wrongly; gathers text and every address."""

    VOID = frozenset({'meta', 'img', 'line', 'circle', 'polyline', 'br'})

    def __init__(self):
        super().__init__()
        self.open, self.text, self.addresses = [], [], []

    def handle_starttag(self, tag, attrs):
        self.addresses += [v for k, v in attrs if k in ('src', 'href')]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def parsed(page):
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []
    return parser


def page_of(results):
    return report.page(results, summaries.summarise(results), 'test')


def test_the_page_is_well_formed_and_fetches_nothing():
    page = page_of(made_up())
    found = parsed(page)
    assert all(a.startswith(('#', 'data:image/jpeg;base64,')) for a in found.addresses)
    # No address at all, in styles and scripts either.
    assert not re.search(r'https?:|url\(|@import|<script|<link', page)
    assert "default-src 'none'" in page
    for tag in re.findall(r'href="#([^"]+)"', page):
        assert f'id="{tag}"' in page


def test_the_page_shows_every_row_the_protocol_and_what_was_left_out():
    text = ' '.join(parsed(page_of(made_up())).text)
    for word in ('keypoint, N = 2', 'Telea', 'real image', 'lpips alex', 'not in the cache',
                 'sha256 ' + 'ab' * 32, 'FD-pixels8, N = 24', 'mixture', 'a.png'):  # fmt: skip
        assert word in text, word
    assert 'nan' not in text.lower().replace('finance', '').split()


def test_the_table_holds_the_means():
    results = made_up()
    page = page_of(results)
    mean = results.scores['samples']['psnr_hole/mean'].mean()
    assert f'{mean:.2f}' in page
    assert '∞' in page  # the real image against itself


def test_faces_are_reported_with_their_floor_their_gates_and_their_detector():
    results = with_faces()
    page = page_of(results)
    found = parsed(page)
    text = ' '.join(found.text)
    for word in ('run lm (64 px, step 6,000)', 'stand-in for a published detector',
                 'at most 0.1 of the eyes and a distance of dlib', 'at most 0.6',
                 'nearest of 1,985 faces', 'points that came with the photos'):  # fmt: skip
        assert word in text, word
    floor = results.scores['truth']['landmark_error_hole/mean'].mean()
    assert f'the real image: {floor:.4f}' in text
    assert {'#structure-and-person', '#nearest-training-face'} <= set(found.addresses)
    assert 'finds in the photos themselves' in page_of(with_faces(reference='landmark_detector'))
    assert 'it is not impartial' not in page
    results.protocol['landmark_detector']['leads_completions'] = True
    assert 'it is not impartial' in page_of(results)
    bare = ' '.join(parsed(page_of(made_up())).text)
    assert 'Structure and person' not in bare and 'none in force' in bare
    assert (
        tables.headline(results, summaries.summarise(results)).count('landmark_error_hole/mean')
        == 1
    )


def test_the_line_to_area_nothing_is_drawn_and_said():
    results = made_up(n=60)
    area = results.area / results.pixels
    results.scores['samples']['pair_distance'] = 0.01 + 0.1 * area
    law = summaries.summarise(results)['calibration']['samples']['whole_frame']
    assert law['at_zero'] == pytest.approx(0.01)
    assert law['at_zero_interval'] == pytest.approx([0.01, 0.01])
    assert 'meets area 0 at 0.0100 (0.0100 to 0.0100)' in page_of(results)


def test_memory_is_a_median_ratio_and_a_share_of_copies():
    results = with_faces(n=10)
    cells = results.scores['samples']
    cells['train_distance_dlib_face/photo'] = np.linspace(0.5, 0.6, 10)
    cells['train_distance_dlib_face'] = 0.9 * cells['train_distance_dlib_face/photo']
    cells['train_distance_dlib_face'][:3] = [0.1, 0.2, np.nan]
    summary = summaries.summarise(results)
    found = summary['memorisation']['samples']
    assert found['ratio']['median'] == pytest.approx(0.9) and found['count'] == 9
    least = np.linspace(0.5, 0.6, 10)[[0, 1, *range(3, 10)]].min()
    known = cells['train_distance_dlib_face'][[0, 1, *range(3, 10)]]
    assert found['copies'] == np.mean(known < least) > 0
    assert 'truth' not in summary['memorisation']
    rows = list(csv.DictReader(io.StringIO(tables.means_csv(summary))))
    (line,) = [r for r in rows if r['metric'].endswith('median_ratio') and r['row'] == 'samples']
    assert float(line['mean']) == pytest.approx(0.9)


def test_names_from_outside_are_escaped():
    face = res.Face('best', '<script>x</script>', 1.0, made_up().gallery[0].pictures)
    page = page_of(made_up(gallery=(face,), skipped={'<b>': '"&'}))
    assert '<script' not in page and '&lt;script&gt;' in page and '&lt;b&gt;' in page
    parsed(page)


@pytest.mark.parametrize(
    'results',
    [
        made_up(rows=('telea', 'truth'), sets={}),  # the method itself failed
        made_up(rows=(), sets={}, gallery=()),
        made_up(n=1),
        made_up(n=2, attributes={}, gallery=(), skipped={}, sets={}),
        made_up(kind=np.full(24, -1)),  # a folder of another program
        with_faces(n=1),
    ],
    ids=['no_method', 'nothing', 'one_image', 'two', 'no_kinds', 'one_face'],
)
def test_poor_results_still_give_a_page(results, tmp_path):
    page = report.write(results, summaries.summarise(results), tmp_path, 'x')
    parsed(page.read_text())
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        'x.csv',
        'x.html',
        'x.md',
        'x.tex',
        'x_images.csv',
    ]


def test_a_metric_of_nan_alone_is_shown_as_a_dash():
    results = made_up()
    results.scores['samples']['psnr_hole/mean'][:] = np.nan
    text = parsed(page_of(results)).text
    assert not [t for t in text if 'nan' in t.lower()]


def test_markdown_holds_means_and_differences_of_the_summary():
    results = made_up()
    summary = summaries.summarise(results)
    text = tables.markdown(results, summary).partition('By attribute')[0]
    rows = [line.split(' | ') for line in text.splitlines() if line.startswith('| keypoint')]
    assert len(rows) == 1 and len(rows[0]) == len(tables.headline(results, summary)) + 1
    mean = summary['rows']['samples']['all']['psnr_hole/mean']['mean']
    assert f'**{mean:.2f}**' in rows[0][1]
    assert '∞' in next(line for line in text.splitlines() if line.startswith('| real image'))
    apart = summary['paired']['telea']['psnr_hole/mean']['mean']
    *_, last = (line for line in text.splitlines() if line.startswith('| Telea'))
    assert f'{apart:+.2f}' in last


def test_csv_and_latex_hold_the_numbers_of_the_summary():
    results = made_up()
    summary = summaries.summarise(results)
    rows = list(csv.DictReader(io.StringIO(tables.means_csv(summary))))
    cell = summary['rows']['telea']['all']['ssim_hole/mean']
    found = [
        r for r in rows if (r['row'], r['group'], r['metric']) == ('telea', 'all', 'ssim_hole/mean')
    ]
    assert len(found) == 1
    for key in ('mean', 'low', 'high'):
        assert float(found[0][key]) == pytest.approx(cell[key], rel=1e-5)
    images = list(csv.DictReader(io.StringIO(tables.images_csv(results))))
    assert len(images) == 3 * 24
    assert float(images[3]['psnr_hole/mean']) == pytest.approx(
        results.scores['samples']['psnr_hole/mean'][3], rel=1e-5
    )
    table = tables.latex(results, summary)
    columns = len(tables.headline(results, summary)) + 1
    lines = [line for line in table.splitlines() if line.endswith(r'\\')]
    assert len(lines) == 1 + len(results.scores)
    assert {line.count('&') for line in lines} == {columns - 1}
    results.scores['samples']['psnr_hole/mean'] *= -1
    below = tables.latex(results, summaries.summarise(results)).split('toprule')[1]
    assert below.isascii() and ('$-' in below or '{-' in below)


def test_best_is_bold_and_never_the_real_image():
    results = made_up()
    columns = ['psnr_hole/mean', 'l1_hole/mean', 'pair_distance_hole']
    best = tables.best_rows(results, summaries.summarise(results), columns)
    assert best['psnr_hole/mean'] == 'samples'
    lower = {r: results.scores[r]['l1_hole/mean'].mean() for r in ('samples', 'telea')}
    assert best['l1_hole/mean'] == min(lower, key=lower.get)
    assert 'pair_distance_hole' not in best  # neither more nor less of it is better


def test_labels_are_spread_out_within_bounds():
    places = svg.spread_out([50, 51, 52, 200], 15, 0, 210)
    assert np.diff(sorted(places)).min() >= 15 - 1e-9
    assert max(places) <= 210
    ordered = svg.spread_out([200, 201, 199], 15, 0, 210)
    assert ordered[2] < ordered[0] < ordered[1] <= 210


def test_a_label_goes_where_nothing_is_covered():
    above, beside = (200.0, 100.0, 'middle'), (211.0, 112.0, 'start')
    assert svg.freest([above, beside], 'flow', []) == above
    assert svg.freest([above, beside], 'flow', [(195, 90, 205, 95)]) == beside
    for outside in ((svg.WIDTH - 2, 100.0, 'start'), (200.0, svg.HEIGHT - 20, 'middle')):
        assert svg.freest([outside, beside], 'flow', []) == beside


def test_distances_to_the_truth_and_between_samples_never_share_a_title():
    gt, div = metric_names.shown('lpips_alex_gt/mean'), metric_names.shown('lpips_alex_div')
    assert gt.title != div.title and gt.better == 'lower' and div.better == ''
    assert 'LPIPS' in gt.title and not metric_names.shown('stlpips_alex_gt/mean').title.startswith(
        'LPIPS'
    )


def test_an_evaluation_of_an_earlier_version_is_read_under_todays_names(tmp_path):
    older = with_faces(reference='reader')
    detector = older.protocol.pop('landmark_detector')
    older.protocol['reader'] = detector | {'interested': True}
    res.save(older, tmp_path / 'x.npz')
    found = res.load(tmp_path / 'x.npz')
    assert found.protocol['landmark_detector'] == detector | {'leads_completions': True}
    assert found.protocol['landmarks'] == 'landmark_detector' and 'reader' not in found.protocol
    assert 'it is not impartial' in page_of(found)
