"""The protocol: intervals, groups, baselines, folders of any program, faults, comparisons."""

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import landmarks, stage1
from fi_jax import sharding
from fi_jax.evaluation import comparison, report, scoring, summaries, tables, tasks
from fi_jax.evaluation import protocol as evaluate
from fi_jax.evaluation import results as res
from fi_jax.input_pipeline import holes
from fi_jax.input_pipeline.folders import FolderExamples, _numbered, visible_change
from fi_jax.input_pipeline.loader import EvalExamples
from fi_jax.input_pipeline.records import BadImage, Record
from fi_jax.input_pipeline.sources import make_source
from fi_jax.methods import Method, make_method
from fi_jax.metrics import baselines, bootstrap, suite
from fi_jax.metrics.groups import groups_of
from fi_jax.optim import make_optimizers
from fi_jax.run.checkpoint import Checkpointer
from fi_jax.state import init_state
from fi_jax.train import record_run
from tests import masked_autoencoder
from tests.evaluation.test_report import made_up

ROOT = Path(__file__).parents[2]
RES = 32


# ------------------------------------------------------------------------------- intervals


def test_an_interval_is_that_of_the_normal_law_where_that_holds():
    values = np.random.default_rng(0).normal(90, 2, 400)
    found = bootstrap.estimates({'m': values}, {'all': np.ones(400, bool)})['all']['m']
    stderr = values.std() / np.sqrt(400)
    assert found.mean == pytest.approx(values.mean())
    assert found.stderr == pytest.approx(stderr, rel=0.06)
    assert found.high - found.low == pytest.approx(2 * 1.96 * stderr, rel=0.08)
    assert found.low < found.mean < found.high


def test_intervals_cover_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(1)
    everyone = {'all': np.ones(60, bool)}
    hits = 0
    for _ in range(200):
        one = bootstrap.estimates({'m': rng.exponential(1, 60)}, everyone, 300)['all']['m']
        hits += one.low <= 1 <= one.high
    assert 0.88 <= hits / 200 <= 0.99


def test_nan_leaves_out_one_value_of_one_metric_and_empty_groups_are_left_out():
    a, b = np.arange(10.0), np.arange(10.0)
    a[3] = np.nan
    groups = {'all': np.ones(10, bool), 'few': np.arange(10) < 1, 'none': np.zeros(10, bool)}
    found = bootstrap.estimates({'a': a, 'b': b}, groups, 100)
    assert set(found) == {'all', 'few'}
    assert found['all']['a'].mean == pytest.approx(np.nanmean(a)) and found['all']['a'].count == 9
    assert found['all']['b'].count == 10
    assert found['few']['a'].count == 1 and np.isnan(found['few']['a'].low)


def test_differences_are_paired():
    """Two rows that differ by 1 on each image: the difference has no spread, the means have."""
    results = made_up()
    results.scores['telea']['psnr_hole/mean'] = results.scores['samples']['psnr_hole/mean'] - 1
    found = summaries.summarise(results)['paired']['telea']['psnr_hole/mean']
    assert found['low'] == pytest.approx(1) and found['high'] == pytest.approx(1)
    assert found['wins'] == 1
    cell = summaries.summarise(results)['rows']['samples']['all']['psnr_hole/mean']
    assert cell['high'] - cell['low'] > 1


def test_the_block_size_of_resampling_does_not_matter(monkeypatch):
    values, member = np.random.default_rng(0).normal(size=(2, 50)), np.ones((1, 50), bool)
    mean, _, whole = bootstrap.resampled_means(values, member, 40)
    np.testing.assert_allclose(mean[:, 0], values.mean(1))
    monkeypatch.setattr(bootstrap, '_BLOCK', 50 * 7)
    blocks = bootstrap.resampled_means(values, member, 40)[2]
    np.testing.assert_allclose(blocks, whole)


def test_groups_by_area_and_kind():
    area = np.array([0, 1, 100, 101, 1000, 3000, 3001, 5000, 6000, 6001, 10_000])  # of 100 x 100
    kind = np.arange(len(area)) % 3
    kind[-1] = -1
    groups = groups_of(area, kind, 10_000, ('none', 'strokes', 'text'))
    bins = ['0-1%'] * 3 + ['1-10%'] * 2 + ['20-30%', '30-40%', '40-50%', '50-60%'] + ['60-100%'] * 2
    for i, name in enumerate(bins):
        assert [g for g, m in groups.items() if m[i] and '%' in g] == [name]
    assert groups['all'].all() and groups['text'].sum() == 3
    assert not any(groups[k][-1] for k in ('none', 'strokes', 'text'))
    # 409.6 pixels are a tenth of 64 x 64.
    found = groups_of(np.array([409, 410]), np.zeros(2), 64 * 64, ())
    assert found['1-10%'].tolist() == [True, False] and found['10-20%'].tolist() == [False, True]


def test_a_calibrated_sampler_has_ratio_one_and_a_timid_one_less():
    results = made_up(n=200)
    scores = results.scores['samples']
    scores['l1_hole/mean'] = scores['pair_distance_hole'] * 127.5
    assert summaries.calibration(results)['samples']['all']['ratio']['mean'] == pytest.approx(1)
    scores['l1_hole/mean'] *= 2
    ratio = summaries.calibration(results)['samples']['all']['ratio']
    assert ratio['mean'] == pytest.approx(0.5) and ratio['high'] < 0.51


def test_the_worst_group_and_the_gap_of_attributes():
    results = made_up(n=200)
    smiling = results.attributes['smile'] > 0
    results.scores['samples']['psnr_hole/mean'] = np.where(smiling, 18.0, 20.0)
    found = summaries.attribute_gaps(results)['samples']
    assert found['worst'] == {'attribute': 'smile', 'side': 'with', 'mean': 18.0}
    assert found['by_attribute']['smile']['gap']['mean'] == pytest.approx(-2)
    assert 'rare' not in found['by_attribute']  # nobody has it: nothing can be said
    # Images of which it is not known are on neither side.
    results.attributes['smile'][:100] = -1
    one = summaries.attribute_gaps(results)['samples']['by_attribute']['smile']
    assert one['with']['count'] == smiling[100:].sum() and one['gap']['count'] == 100
    assert one['gap']['mean'] == pytest.approx(-2)


def test_the_worst_group_of_each_system_stands_in_table_and_page():
    one, other = (made_up(n=60) for _ in range(2))
    smiling = one.attributes['smile'] > 0
    one.scores['samples']['psnr_hole/mean'] = np.where(smiling, 18.0, 20.0)
    other.scores['samples']['psnr_hole/mean'] = np.where(smiling, 19.5, 16.25)
    compared = comparison.compare({'one': one, 'other': other})
    summary = summaries.summarise(compared)
    found = {row: rest[:3] for row, *rest in tables.worst_groups(summary)}
    assert found == {
        'one': ['with smile', 18.0, 'smile'],
        'other': ['without smile', 16.25, 'smile'],
    }
    for text in (tables.markdown(compared, summary), report.page(compared, summary, 'table')):
        assert 'without smile' in text and '16.25' in text and '3.25' in text


def test_numbers_of_an_attribute_make_groups():
    groups = evaluate.attribute_groups
    np.testing.assert_array_equal(groups('Male', [1, None, -1, 0])['Male'], [1, -1, 0, 0])
    origin = groups('Origin', [0, 4, None, 2, 4])
    assert list(origin) == ['Origin 0', 'Origin 2', 'Origin 4']
    np.testing.assert_array_equal(origin['Origin 4'], [0, 1, -1, 0, 1])
    age = groups('Age', [None, *range(1, 41)])
    assert list(age) == ['Age 1 to 10', 'Age 11 to 20', 'Age 21 to 30', 'Age 31 to 40']
    assert all(x[0] == -1 and x.sum() == 9 for x in age.values())


def test_an_attribute_that_some_images_lack_is_told_of_the_others():
    def record(i):
        return Record(b'', f'{i}.png', attributes=None if i in (0, 3) else {'smile': i % 2})

    class Some:
        names = tuple(f'{i}.png' for i in range(5))

        def __getitem__(self, i):
            if i == 3:
                raise BadImage('3.png: damaged')
            return record(i)

    names, found = evaluate.describe(Some(), 5)
    assert names == list(Some.names)
    np.testing.assert_array_equal(found['smile'], [-1, 1, 0, -1, 0])


# ----------------------------------------------------------------------------------- baselines


def photo(seed=0):
    rng = np.random.default_rng(seed)
    return cv2.GaussianBlur(rng.integers(0, 256, (RES, RES, 3)).astype(np.uint8), (0, 0), 2)


def a_hole(rows=slice(8, 22), columns=slice(9, 25)):
    hole = np.zeros((RES, RES, 1), np.uint8)
    hole[rows, columns] = 1
    return hole


@pytest.mark.parametrize(
    'hole', [a_hole(), a_hole(slice(20, 32), slice(0, 32))], ids=['in', 'edge']
)
def test_biharmonic_is_that_of_scikit_image_and_reads_nothing_under_the_hole(hole):
    from skimage.restoration import inpaint_biharmonic

    filled = baselines.fill_biharmonic(photo(), hole)
    expected = inpaint_biharmonic(photo(), hole[..., 0], channel_axis=-1) * 255
    assert np.abs(filled - expected).max() <= 0.51
    np.testing.assert_array_equal(filled[hole[..., 0] == 0], photo()[hole[..., 0] == 0])
    other = np.where(hole > 0, photo(1), photo())
    np.testing.assert_array_equal(baselines.fill_biharmonic(other, hole), filled)


def test_biharmonic_without_a_hole_and_without_an_image():
    np.testing.assert_array_equal(
        baselines.fill_biharmonic(photo(), a_hole(slice(0), slice(0))), photo()
    )
    whole = baselines.fill_biharmonic(photo(), np.ones((RES, RES, 1), np.uint8))
    assert (whole == 128).all()


# ------------------------------------------------------------------------------- measuring


def a_config(**changes):
    config = stage1.get_config('tiny')
    config.eval.metrics, config.eval.batch_size, config.eval.limit = 'image', 8, 11
    config.data.length = 128
    config.eval.update(changes)
    return config


def wanderer(mesh, num_samples=2, spoil=()):
    """A Draw: the truth with noise that depends on the truth alone; `spoil` names bad indices."""

    def draw(batch, placed):
        made = []
        for x in batch['image']:
            rng = np.random.default_rng(int(x.astype(np.int64).sum()))
            noise = rng.integers(-40, 40, (num_samples, *x.shape))
            made.append(np.clip(x + noise, 0, 255).astype(np.uint8))
        samples = np.where(batch['hole'][:, None] > 0, made, batch['image'][:, None])
        ok = ~np.isin(batch['index'], spoil)
        return tuple(sharding.shard_batch({'x': samples, 'ok': ok}, mesh).values())

    return draw


def one_device():
    return sharding.make_mesh(devices=jax.devices()[:1])


def measured(config, mesh, rows, aids=None, skipped=None):
    source = make_source(config.data, 'all')
    examples = EvalExamples(source, config, 'mixture', config.eval.limit, config.eval.batch_size)
    names, attributes = evaluate.describe(source, examples.count)
    protocol = {'method': 'made_up', 'run': 'r', 'data': 'd', 'holes': 'mixture', 'num_samples': 2,
                'seed': 0}  # fmt: skip
    return scoring.measure(examples, rows, protocol, config, mesh, names, attributes, skipped, aids)


@pytest.fixture(scope='module')
def results():
    mesh = sharding.make_mesh()
    rows = {'samples': wanderer(mesh), **evaluate.baseline_rows(mesh, photo())}
    return measured(a_config(metrics='image,seam,pixels8'), mesh, rows)


def test_all_rows_stand_and_the_real_image_is_perfect(results):
    assert list(results.scores) == [
        'samples', 'mean_face', 'telea', 'navier_stokes', 'biharmonic', 'truth'
    ]  # fmt: skip
    assert 'pip install' in results.skipped['patch_match']
    assert (results.scores['truth']['psnr/mean'] == 100).all()
    np.testing.assert_allclose(results.scores['truth']['ssim/mean'], 1, atol=1e-6)
    assert 'pair_distance' not in results.scores['truth']
    assert np.nanmin(results.scores['samples']['pair_distance_hole']) > 0
    assert len(results.names) == 11 and len(set(results.names)) == 11
    assert 'smile' in results.attributes and len(results.attributes['smile']) == 11


def test_holes_are_those_of_seed_and_index_and_their_hash_tells_them_apart(results):
    config = a_config()
    hole = holes.fixed(config.seed, 5, config.data.holes.to_dict(), (RES, RES),
                       make_source(config.data, 'all')[5].landmarks)[0]  # fmt: skip
    np.testing.assert_array_equal(np.unpackbits(results.holes[5]).reshape(RES, RES, 1), hole)
    assert results.area[5] == hole.sum()
    assert results.protocol['holes_sha256'] == res.holes_sha256(results.holes)
    other = results.holes.copy()
    other[0, 0] ^= 1
    assert res.holes_sha256(other) != results.protocol['holes_sha256']


def test_one_device_and_another_batch_give_the_same(results):
    mesh = one_device()
    again = measured(a_config(batch_size=4), mesh, {'samples': wanderer(mesh)})
    np.testing.assert_array_equal(again.fingerprint, results.fingerprint)
    for name, values in again.scores['samples'].items():
        np.testing.assert_allclose(values, results.scores['samples'][name], rtol=1e-5, atol=1e-6)


def test_too_few_images_skip_a_metric_by_name_and_keep_the_others(results):
    (what,) = [w for w in results.skipped if w.startswith('FD-pixels8')]
    assert 'more than 192' in results.skipped[what]
    assert not [name for name in results.sets['truth'] if name.startswith(('FID', 'KID', 'KD-'))]
    (what,) = [w for w in results.skipped if w.startswith('precision pixels8, N = 11')]
    assert 'at least 12' in results.skipped[what]
    likeness = results.sets['truth']['U-IDS pixels8, N = 11']
    assert likeness.low <= likeness.mean <= likeness.high


def test_what_is_kept_does_not_grow_with_the_number_of_samples(results):
    mesh = sharding.make_mesh()
    config = a_config(gallery=0)
    many = measured(config, mesh, {'samples': wanderer(mesh, num_samples=3)})

    def size(r):
        return sum(v.nbytes for v in r.scores['samples'].values()) + r.holes.nbytes

    image_only = {k: v for k, v in results.scores['samples'].items() if k != 'seam'}
    results = res.dataclasses.replace(results, scores={'samples': image_only})
    assert size(many) == size(results)


def test_samples_that_are_not_finite_are_counted_named_and_left_out(results):
    mesh = sharding.make_mesh()
    spoilt = measured(a_config(), mesh, {'samples': wanderer(mesh, spoil=(3, 7))})
    why = spoilt.skipped['samples: images']
    assert '2 of 11' in why and spoilt.names[3] in why and spoilt.names[7] in why
    got, whole = (r.scores['samples']['psnr/mean'] for r in (spoilt, results))
    assert np.isnan(got[[3, 7]]).all()
    kept = np.setdiff1d(np.arange(11), [3, 7])
    np.testing.assert_allclose(got[kept], whole[kept], rtol=1e-5)


def test_a_row_or_metric_that_fails_is_named_and_the_rest_goes_on(results):
    mesh = sharding.make_mesh()

    def broken(batch, placed):
        raise RuntimeError('the disk is full')

    found = measured(a_config(), mesh, {'broken': broken, 'samples': wanderer(mesh)})
    assert found.skipped['broken'] == 'RuntimeError: the disk is full'
    np.testing.assert_allclose(
        found.scores['samples']['l1/mean'], results.scores['samples']['l1/mean'], rtol=1e-5
    )


def test_missing_weights_skip_a_metric_and_say_how_to_get_them(monkeypatch, tmp_path):
    monkeypatch.setenv('FI_JAX_WEIGHTS', str(tmp_path))
    skipped = {}
    assert suite.face_evaluators('all', False, skipped) == {}
    assert list(suite.example_metrics('all', 32, skipped)) == ['image', 'seam']
    assert list(suite.set_metrics('all', skipped)) == ['pixels8']
    assert 'alexnet' in skipped['lpips_alex'] and 'fetch' in skipped['lpips_alex']
    assert 'landmarks' in skipped['identity'] and 'inception_fid' in skipped
    with pytest.raises(ValueError, match=r'lpips_alx unknown; expected all, or some of image'):
        suite.example_metrics('image,lpips_alx', 32, {})


# ----------------------------------------------------------- detectors of landmarks, and memory


def test_a_detector_of_another_size_answers_in_pixels_of_the_images():
    """By a detector that finds where the light is: the frame is cut square and resized for it."""

    def find(weights, images):
        assert images.shape[1:] == (RES, RES, 3)
        light = images.mean(axis=-1) * weights
        light = light / light.sum(axis=(1, 2), keepdims=True)
        at = jnp.arange(RES, dtype=jnp.float32)
        x, y = (light.sum(axis=k) @ at for k in (1, 2))
        return jnp.broadcast_to(jnp.stack([x, y], -1)[:, None], (len(images), 68, 2))

    detector = suite.LandmarkDetector(jnp.float32(1), find, RES)
    for height, width in ((RES, RES), (64, 64), (64, 96), (48, 48), (16, 24)):
        y, x = np.mgrid[:height, :width]
        centre = width / 2 + height / 8, height / 3
        light = np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / (2 * (height / 10) ** 2))
        images = np.repeat(255 * light[None, ..., None], 3, axis=-1)
        points = jax.jit(lambda detector, x: detector(x))(detector, images)
        assert points.shape == (1, 68, 2)
        np.testing.assert_allclose(points[0, 0], centre, atol=0.3, err_msg=f'{height}x{width}')


def write_run(config, folder, change=lambda state: state):
    """A run folder with a checkpoint of fresh weights, or of what `change` makes of them."""
    method = make_method(config)
    optimizers = make_optimizers(config, method.nets)
    state = jax.jit(lambda: init_state(method, optimizers, config.res, 0))()
    record_run(config, folder)
    with Checkpointer(folder, config.checkpoint) as checkpointer:
        checkpointer.save(7, change(state.replace(step=state.step + 7)), {}, {}, {})
    return folder


@pytest.fixture(scope='module')
def detector_run(tmp_path_factory):
    """The folder of a tiny predictor whose heads were shaken, so that points follow the image."""

    def shake(state):
        net = state.nets['predictor']
        ema = jax.tree_util.tree_map_with_path(
            lambda path, x: x * 200 if 'offset' in str(path) else x, net.ema
        )
        return state.replace(nets={**state.nets, 'predictor': net.replace(ema=ema)})

    return write_run(
        landmarks.get_config('tiny'), tmp_path_factory.mktemp('landmark_detector'), shake
    )


def reordered(mesh, num_samples, order=slice(None)):
    """The draws of `wanderer` in another order."""

    def draw(batch, placed):
        samples, ok = wanderer(mesh, num_samples)(batch, placed)
        return samples[:, order], ok

    return draw


@pytest.fixture(scope='module')
def read(detector_run):
    """An evaluation with that detector: wandering samples, the same in another order, the truth."""
    mesh = sharding.make_mesh()
    config = a_config(metrics='landmarks', landmark_detector=str(detector_run), gallery=0)
    detector, about = evaluate.load_landmark_detector(config.eval.landmark_detector, mesh)
    assert about == {'run': detector_run.name, 'res': 32, 'step': 7}

    def twice(batch, placed):
        pair = np.stack([batch['image']] * 2, axis=1)
        return tuple(
            sharding.shard_batch({'x': pair, 'ok': np.ones(len(pair), bool)}, mesh).values()
        )

    rows = {
        'samples': wanderer(mesh, 3),
        'shuffled': reordered(mesh, 3, np.array([2, 0, 1])),
        'twice': twice,
        'truth': evaluate.baseline_rows(mesh, photo())['truth'],
    }
    return measured(config, mesh, rows, {'landmark_detector': detector})


def test_samples_that_are_the_truth_have_the_detectors_own_error_and_no_spread(read):
    assert read.protocol['landmarks'] == 'data' and read.protocol['gates'] == {'landmarks': 0.1}
    floor = read.scores['truth']
    assert np.unique(np.round(floor['landmark_error/mean'], 4)).size > 5  # it looks at the image
    for name in ('landmark_error/mean', 'landmark_error_hole/best', 'landmark_passed'):
        np.testing.assert_allclose(read.scores['twice'][name], floor[name], rtol=1e-5)
    assert 'landmark_spread' not in floor
    assert np.nanmax(read.scores['twice']['landmark_spread']) < 1e-5
    assert np.nanmin(read.scores['samples']['landmark_spread']) > 1e-4
    assert (read.scores['samples']['passed'] == read.scores['samples']['landmark_passed']).all()


def test_the_order_of_the_samples_does_not_matter_to_what_is_read(read):
    for name, values in read.scores['samples'].items():
        again = read.scores['shuffled'][name]
        np.testing.assert_allclose(again, values, rtol=1e-4, atol=1e-6, err_msg=name)


def test_folders_are_read_against_given_points_or_the_detectors_own(read, detector_run, tmp_path):
    folders = write_folders(tmp_path / 'data', 'flat', num_samples=3)
    config = a_config(metrics='landmarks', landmark_detector=str(detector_run), gallery=0)
    found = evaluate.evaluate_folders(folders, config, tmp_path / 'own')
    assert found.protocol['landmarks'] == 'landmark_detector'
    assert np.nanmax(found.scores['truth']['landmark_error/mean']) < 1e-5
    assert np.nanmin(found.scores['samples']['landmark_error/mean']) > 0
    page = (tmp_path / 'own' / 'report' / 'folder.html').read_text()
    assert 'against what it finds' not in page and 'finds in the photos themselves' in page
    source = make_source(config.data, 'all')
    points = np.stack([source[i].landmarks for i in range(3)])
    names = np.array([f'face_{i:02d}.png' for i in range(3)])
    np.savez(tmp_path / 'p.npz', name=names, points=points, detected=np.ones(3, bool))
    config.data.landmarks = str(tmp_path / 'p.npz')
    given = evaluate.evaluate_folders(folders, config, tmp_path / 'given')
    assert given.protocol['landmarks'] == 'data'
    for row in ('samples', 'truth'):
        for name, values in given.scores[row].items():
            if name.startswith('landmark'):
                expected = read.scores[row][name][:3]
                np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-6)
    config.data.landmarks = str(tmp_path / 'none.npz')
    with pytest.raises(FileNotFoundError, match=r'none\.npz'):
        evaluate.evaluate_folders(folders, config, tmp_path / 'given')


def test_a_detector_that_is_none_is_named_and_the_rest_is_measured(detector_run, tmp_path):
    mesh = sharding.make_mesh()
    write_run(masked_autoencoder.get_config('tiny'), tmp_path / 'drawing')
    record_run(landmarks.get_config('tiny'), tmp_path / 'empty')
    words = {
        str(tmp_path / 'empty'): 'no checkpoints there; train this run first',
        '': 'configs/landmarks.py and give its run folder as --config.eval.landmark_detector',
        str(tmp_path / 'nowhere'): 'no run folder',
        str(tmp_path / 'drawing'): 'masked_autoencoder, which predicts no points',
    }
    for detector, expected in words.items():
        config, skipped, protocol = a_config(metrics='all', landmark_detector=detector), {}, {}
        aids = evaluate.gather_aids(config, '', mesh, skipped, protocol)
        assert aids == {} and protocol == {}
        assert expected in skipped['landmarks'] and '\n' not in skipped['landmarks']
        assert detector in skipped['landmarks']
    config = a_config(metrics='image,landmarks', limit=2, gallery=0)
    found = measured(config, mesh, {'samples': wanderer(mesh)}, {}, skipped)
    assert 'psnr/mean' in found.scores['samples'] and found.protocol['gates'] == {}
    assert not [name for name in found.scores['samples'] if name.startswith('landmark')]


def test_a_detector_that_also_leads_the_completions_is_called_so(detector_run):
    config, mesh = (
        a_config(metrics='landmarks', landmark_detector=str(detector_run)),
        sharding.make_mesh(),
    )
    config.predictor = str(detector_run / '.')
    for source, expected in (('none', False), ('predictor', True)):
        config.landmark_source, protocol = source, {}
        evaluate.gather_aids(config, '', mesh, {}, protocol)
        assert protocol['landmark_detector']['leads_completions'] is expected


def test_a_detector_that_breaks_costs_only_what_it_reads(read):
    mesh = sharding.make_mesh()

    def broken(weights, images):
        raise RuntimeError('no such layer')

    config = a_config(metrics='image,landmarks', gallery=0, limit=2)
    rows = {'samples': wanderer(mesh)}
    found = measured(
        config, mesh, rows, {'landmark_detector': suite.LandmarkDetector(jnp.zeros(()), broken, 32)}
    )
    assert 'no such layer' in found.skipped['samples: landmarks']
    assert np.isfinite(found.scores['samples']['psnr/mean']).all()


def test_copies_of_training_faces_are_found_and_others_are_not(monkeypatch, tmp_path):
    monkeypatch.setenv('FI_JAX_WEIGHTS', str(tmp_path))  # without dlib's: 8x8 pixels
    mesh = sharding.make_mesh()
    config = a_config(metrics='memorisation', memorisation=20, gallery=0)
    record_run(config, tmp_path)
    skipped, protocol = {}, {}
    aids = evaluate.gather_aids(config, tmp_path, mesh, skipped, protocol)
    assert skipped == {}
    assert protocol['memorisation'] == {
        'features': 'pixels8', 'faces': 20, 'data': 'procedural'
    }  # fmt: skip
    trained = EvalExamples(make_source(config.data, 'train'), config, 'none', 20, 1)

    def copier(batch, placed):
        copies = np.stack([[trained[int(i) % 20]['image']] for i in batch['index']])
        return tuple(
            sharding.shard_batch({'x': copies, 'ok': np.ones(len(copies), bool)}, mesh).values()
        )

    rows = {'samples': wanderer(mesh), 'copies': copier, 'truth': None}
    rows['truth'] = evaluate.baseline_rows(mesh, photo())['truth']
    config.eval.split = 'test'
    source = make_source(config.data, 'test')
    examples = EvalExamples(source, config, 'mixture', 11, 8)
    names, _ = evaluate.describe(source, examples.count)
    found = scoring.measure(
        examples, rows, {'num_samples': 1, 'method': 'm'}, config, mesh, names, {}, skipped, aids
    )
    distance = {row: cells['train_distance_pixels8'] for row, cells in found.scores.items()}
    assert (distance['copies'] == 0).all() and distance['samples'].min() > 0
    np.testing.assert_array_equal(
        distance['truth'], found.scores['copies']['train_distance_pixels8/photo']
    )
    summary = summaries.summarise(found)['memorisation']
    assert summary['copies']['copies'] == 1 and summary['copies']['ratio']['median'] == 0
    assert summary['samples']['ratio']['low'] > 0.5 and 'truth' not in summary


def test_points_are_scored_like_faces_into_another_folder(detector_run, tmp_path):
    config = landmarks.get_config('tiny')
    config.eval.limit, config.eval.batch_size, config.data.length = 8, 8, 160
    before = sorted(detector_run.iterdir())
    table = tasks.evaluate_run(config, detector_run, tmp_path)
    saved = json.loads((tmp_path / 'eval' / 'test_mixture.json').read_text())
    assert saved['protocol']['step'] == 7 and saved['protocol']['num_images'] == 8
    assert saved['scores']['all']['nme']['mean'] == pytest.approx(table['all']['nme']['mean'])
    assert sorted(detector_run.iterdir()) == before


def test_training_data_that_are_gone_cost_the_comparison_alone(tmp_path):
    config = a_config(metrics='memorisation')
    config.data.source, config.data.path = 'zip', str(tmp_path / 'gone.zip')
    record_run(config, tmp_path)
    skipped = {}
    assert evaluate.gather_aids(config, tmp_path, sharding.make_mesh(), skipped, {}) == {}
    assert 'gone.zip' in skipped['memorisation']
    config.eval.memorisation = 0
    assert evaluate.gather_aids(config, tmp_path, sharding.make_mesh(), {}, {}) == {}


def test_an_evaluation_survives_the_way_to_the_disk(results, tmp_path):
    res.save(results, tmp_path / 'e.npz')
    back = res.load(tmp_path / 'e.npz')
    assert back.protocol == results.protocol and back.skipped == results.skipped
    for row, scores in results.scores.items():
        for name, values in scores.items():
            np.testing.assert_array_equal(back.scores[row][name], values)
    assert [f.why for f in back.gallery] == [f.why for f in results.gallery]
    np.testing.assert_array_equal(
        back.gallery[0].pictures['truth'], results.gallery[0].pictures['truth']
    )
    old = dict(np.load(tmp_path / 'e.npz'))
    head = json.loads(str(old['head'])) | {'sets': {'samples': {'fid': 3.0}}}  # as once written
    np.savez(tmp_path / 'old.npz', **(old | {'head': np.array(json.dumps(head))}))
    (tmp_path / 'e.npz').write_bytes(b'no zip')
    for name in ('e', 'old'):
        with pytest.raises(ValueError, match=rf'{name}\.npz: is no evaluation'):
            res.load(tmp_path / f'{name}.npz')


def test_the_gallery_shows_best_and_worst_by_score(results):
    ranked = results.scores['samples']['psnr_hole/mean']
    by_why = {face.why: face for face in results.gallery}
    assert by_why['best'].name == results.names[np.nanargmax(ranked)]
    assert by_why['worst'].name == results.names[np.nanargmin(ranked)]
    assert by_why['first'].name == results.names[0]
    shown = by_why['best'].pictures
    assert list(shown) == ['input', 'sample 1', 'sample 2', 'truth']


# --------------------------------------------------------------------------------- folders


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = pixels[..., 0] if pixels.shape[-1] == 1 else pixels[..., ::-1]
    assert cv2.imwrite(str(path), np.ascontiguousarray(pixels))


def write_folders(root, layout, count=3, num_samples=2):
    mesh = one_device()
    config = a_config()
    source = make_source(config.data, 'all')
    examples = EvalExamples(source, config, 'mixture', count, 1)
    for i in range(count):
        x = examples[i]
        batch = {k: np.asarray(v)[None] for k, v in x.items()}
        samples = np.asarray(wanderer(mesh, num_samples)(batch, None)[0])[0]
        key = f'face_{i:02d}'
        if layout == 'nested':  # as --mode=sample writes it
            save(root / key / 'truth.png', x['image'])
            save(root / key / 'hole.png', x['hole'] * 255)
            save(root / key / 'input.png', x['image'])
            names = [root / key / f'sample_{n:02d}.png' for n in range(num_samples)]
        else:
            save(root / 'truth' / f'{key}.png', x['image'])
            save(root / 'holes' / f'{key}.png', x['hole'] * 255)
            names = [root / 'out' / f'{key}_{n:02d}.png' for n in range(num_samples)]
        for name, sample in zip(names, samples, strict=True):
            save(name, sample)
    if layout == 'nested':
        return str(root), '', ''
    return str(root / 'out'), str(root / 'truth'), str(root / 'holes')


@pytest.mark.parametrize('layout', ['nested', 'flat'])
def test_folders_of_another_program_score_as_the_run_itself(layout, results, tmp_path):
    folders = write_folders(tmp_path / 'data', layout)
    config = a_config(baselines=False)
    found = evaluate.evaluate_folders(folders, config, tmp_path / 'out')
    assert found.protocol['num_samples'] == 2 and len(found.names) == 3
    np.testing.assert_array_equal(found.fingerprint, results.fingerprint[:3])
    for name, values in found.scores['samples'].items():
        np.testing.assert_allclose(values, results.scores['samples'][name][:3], rtol=1e-5)
    assert (tmp_path / 'out' / 'report' / 'folder.html').exists()
    saved = json.loads((tmp_path / 'out' / 'eval' / 'folder.json').read_text())
    assert saved['rows']['samples']['all']['psnr/mean']['count'] == 3


def folder_examples(folders):
    return FolderExamples(*(f or folders[0] for f in folders), limit=0, multiple=1)


def test_visible_pixels_are_pasted_and_inverted_holes_are_noticed(tmp_path):
    folders = write_folders(tmp_path, 'flat', count=2)
    examples = folder_examples(folders)
    assert visible_change(examples)['outside'] == 0
    for path in (tmp_path / 'holes').iterdir():
        save(path, 255 - cv2.imread(str(path))[..., :1])
    change = visible_change(folder_examples(folders))
    assert change['outside'] > change['inside']
    x = folder_examples(folders)[0]
    visible = x['hole'][..., 0] == 0
    np.testing.assert_array_equal(x['samples'][:, visible], x['image'][None, visible][[0, 0]])


@pytest.mark.parametrize('name', ['{}', '{}_mask', '{}_mask001', '{}-hole'])
@pytest.mark.parametrize('levels', [1, 255])
def test_holes_are_read_under_the_names_and_levels_that_people_give_them(name, levels, tmp_path):
    folders = write_folders(tmp_path, 'flat', count=2)
    before = [x['hole'] for x in map(folder_examples(folders).__getitem__, range(2))]
    assert before[0].any()
    for path in list((tmp_path / 'holes').iterdir()):
        hole = cv2.imread(str(path))[..., :1] // 255 * levels
        path.unlink()
        save(path.with_stem(name.format(path.stem)), hole)
    examples = folder_examples(folders)
    assert examples.keys == ['face_00', 'face_01']
    for i in range(2):
        np.testing.assert_array_equal(examples[i]['hole'], before[i])


@pytest.mark.parametrize(
    ('spoil', 'words'),
    [
        (lambda root: [save(p, photo()[..., :1] * 0) for p in (root / 'holes').iterdir()],
         "--holes_dir=.*nothing is missing in 'face_00' and others; white = missing"),
        (lambda root: (root / 'holes' / 'face_01.png').unlink(), "--holes_dir=.*'face_01'"),
        (lambda root: (root / 'out' / 'face_01_01.png').unlink(), "1 samples of 'face_01' and 2"),
        (lambda root: save(root / 'out' / 'face_00_00.png', photo()[:16]), '_00_00.png is 32x16'),
        (lambda root: save(root / 'holes' / 'face_00.png', photo()[:16]), 'holes_dir: face_00.png'),
        (lambda root: [p.rename(p.with_name('x' + p.name)) for p in (root / 'out').iterdir()],
         'no image has samples; expected NAME_00.png'),
    ],
    ids=['nothing_missing', 'no_hole', 'fewer', 'size', 'hole_size', 'no_samples'],
)  # fmt: skip
def test_folders_that_do_not_fit_are_named(spoil, words, tmp_path):
    folders = write_folders(tmp_path, 'flat', count=2)
    spoil(tmp_path)
    with pytest.raises(ValueError, match=words):
        folder_examples(folders)[0]


def test_samples_may_lie_apart_from_a_folder_that_has_samples_of_its_own(tmp_path):
    write_folders(tmp_path / 'ours', 'nested', count=2)
    for n in range(3):
        save(tmp_path / 'theirs' / 'face_01' / f'sample_{n:02d}.png', photo(n))
    ours = str(tmp_path / 'ours')
    examples = folder_examples((str(tmp_path / 'theirs'), ours, ours))
    assert examples.keys == ['face_01'] and examples.num_samples == 3
    assert examples.without_samples == 1
    np.testing.assert_array_equal(examples.images('face_01')[2][2], photo(2))


def test_a_name_that_ends_in_a_number_is_no_sample_of_another():
    class Names:
        names = ('Ann_0001.png', 'Ann_0002_00.png', 'Ann_0002_01.png')

    found = _numbered(Names, {'Ann_0001': 0, 'Ann_0002': 1, 'Ann': 2})
    assert found == {'Ann_0001': [0], 'Ann_0002': [1, 2]}


# ------------------------------------------------------------------------------- comparing


def test_runs_are_compared_on_what_they_share():
    a, b = made_up(n=24), made_up(n=24, seed=1)
    order = np.random.default_rng(0).permutation(24)[:20]
    fewer = {row: {m: v[order] for m, v in s.items()} for row, s in b.scores.items()}
    b = res.dataclasses.replace(
        b, names=b.names[order], fingerprint=b.fingerprint[order], scores=fewer,
        attributes={}, area=b.area[order], kind=b.kind[order], holes=b.holes[order],
    )  # fmt: skip
    both = comparison.compare({'a': a, 'b': b})
    assert both.primary == ['a', 'b'] and list(both.scores) == ['a', 'b', 'telea', 'truth']
    assert len(both.names) == 20 and 'different numbers' in both.skipped['metrics of whole sets']
    first = np.flatnonzero(order == 3)
    if len(first):
        at = both.names.tolist().index('003.png')
        assert both.scores['b']['l1_hole/mean'][at] == b.scores['samples']['l1_hole/mean'][first[0]]
    assert set(summaries.summarise(both)['paired']) == {'b', 'telea'}
    apart = res.dataclasses.replace(b, fingerprint=b.fingerprint + np.uint64(1000))
    with pytest.raises(ValueError, match='no image and hole in common'):
        comparison.compare({'a': a, 'b': apart})


def test_columns_that_were_measured_unlike_are_not_compared():
    def read_by(run, seed):
        results = made_up(seed=seed)
        for cells in results.scores.values():
            cells['landmark_error/mean'] = np.ones(24)
        results.protocol.update(landmark_detector={'run': run}, landmarks='data', gates={})
        return results

    alike = comparison.compare({'a': read_by('lm', 0), 'b': read_by('lm', 1)})
    assert 'landmark_error/mean' in alike.scores['b']
    other = comparison.compare({'a': read_by('lm', 0), 'b': read_by('other', 1)})
    assert 'landmark_error/mean' not in other.scores['b'] | other.scores['a']
    assert 'psnr_hole/mean' in other.scores['b']
    assert [why for why in other.skipped.values() if 'other landmark detectors' in why]


def run(*flags):
    env = dict(os.environ, JAX_PLATFORMS='cpu')
    return subprocess.run(
        [sys.executable, '-m', 'fi_jax.evaluate', *flags],
        cwd=ROOT, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_the_command_compares_runs_and_needs_no_config(tmp_path):
    for name, seed in (('a', 0), ('b', 1)):
        res.save(made_up(seed=seed), tmp_path / name / 'eval' / 'test_mixture.npz')
    both = [str(tmp_path / name) for name in 'ab']
    for given in (['--compare', *both], [f'--compare={name}' for name in both]):
        done = run(*given, f'--workdir={tmp_path / "o"}')
        assert done.returncode == 0, done.stderr
        page = tmp_path / 'o' / 'report' / 'compare_test_mixture.html'
        assert 'a · b' in page.read_text()
        page.unlink()
    files = [str(tmp_path / name / 'eval' / 'test_mixture.npz') for name in 'ab']
    assert run('--compare', *files).returncode == 0
    assert (tmp_path / 'a' / 'report' / 'compare_files.html').is_file()
    alone = run('--compare', str(tmp_path / 'a'), str(tmp_path / 'c'))
    assert alone.returncode == 1 and 'share no evaluation' in alone.stderr
    assert alone.stderr.strip().count('\n') == 0


def test_a_training_outlives_its_metrics(tmp_path):
    """A wrong metric name fails validation and evaluation: both are named, the run ends well."""
    from fi_jax.train import train_and_evaluate

    config = masked_autoencoder.get_config('tiny')
    config.batch_size = config.eval.batch_size = 8
    config.eval.metrics = 'image,nonsense'
    state = train_and_evaluate(config, tmp_path)
    assert int(state.step) == 6
    assert not (tmp_path / 'eval').exists()
    lines = [json.loads(x) for x in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
    assert [x['val/failures'] for x in lines if 'val/failures' in x] == [0, 0, 0]


def test_validation_of_weights_that_are_nan_says_so_and_goes_on():
    config = a_config()
    mesh = sharding.make_mesh()
    examples = EvalExamples(make_source(config.data, 'all'), config, 'mixture', 8, 8)

    def broken(nets, batch, keys):
        return {'image': batch['image'] * jnp.nan}

    method = Method({}, lambda _: {}, {}, sample=broken)
    means = evaluate.mean_scores(method, examples, config, mesh, 2)({})
    assert np.isnan(means['psnr_hole/mean'])
    skipped = {}
    with scoring.record_failure(skipped, 'validation'):
        raise FloatingPointError('bad weather')
    assert skipped == {'validation': 'FloatingPointError: bad weather'}
