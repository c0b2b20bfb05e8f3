"""A person's own photo: what is bit-exact, what is the same again, what is refused and how."""

import functools
import json
import threading

import cv2
import numpy as np
import pytest
from PIL import Image
from skimage import data

import fi_jax
from benchmarks import own_photos
from fi_jax import cli
from fi_jax.input_pipeline import alignment, landmark_shards
from fi_jax.input_pipeline.archives import Zip
from fi_jax.input_pipeline.records import decode
from fi_jax.landmarks import MEAN_SHAPE
from fi_jax.photo import blending, finding
from fi_jax.photo.finding import Face, NoFaceFound
from fi_jax.pretrained import shipped
from tests import tiny_weights


@pytest.fixture(scope='session')
def weights(tmp_path_factory):
    return tiny_weights.write(tmp_path_factory.mktemp('weights') / 'tiny.safetensors')


@pytest.fixture(scope='session')
def restorer(weights):
    return fi_jax.load(weights)


@pytest.fixture
def photo():
    """Noise in a photo of 150 x 200, and the landmarks of a face in it."""
    pixels = np.random.default_rng(0).integers(0, 255, (150, 200, 3), np.uint8)
    return pixels, MEAN_SHAPE * 100 + np.float32([50, 25])


@pytest.fixture
def hole():
    missing = np.zeros((150, 200), np.uint8)
    missing[85:110, 85:115] = 255
    return missing


def astronaut_hole():
    missing = np.zeros((512, 512), np.uint8)
    missing[120:160, 200:250] = 255
    return missing


# ------------------------------------------------------------------------------ what is exact


def test_outside_the_hole_every_pixel_is_the_photos_own(restorer, photo, hole):
    pixels, points = photo
    result = restorer(pixels, hole, 5, landmarks=points)
    assert len(result.images) == 5
    for image in result.images:
        out = np.asarray(image)
        assert out.shape == pixels.shape
        np.testing.assert_array_equal(out[hole == 0], pixels[hole == 0])
        assert (out[hole > 0] != pixels[hole > 0]).any()
    assert result.uncertainty.shape == hole.shape
    assert not result.uncertainty[hole == 0].any() and result.uncertainty[hole > 0].any()
    np.testing.assert_allclose(result.landmarks, np.stack([points] * 5), atol=1e-3)


def test_what_the_hole_hides_does_not_matter(restorer, photo, hole):
    pixels, points = photo
    other = np.where(hole[..., None] > 0, 255 - pixels, pixels)
    face = Face.of(points)
    one, two = (restorer(p, hole, 2, face=face) for p in (pixels, other))
    np.testing.assert_array_equal(one.pixels(1), two.pixels(1))


def test_a_sample_is_the_same_alone_or_among_others(restorer, photo, hole):
    pixels, points = photo
    box = Face.of(points).box
    one, many = (restorer(pixels, hole, n, seed=7, face=box) for n in (2, 6))
    np.testing.assert_array_equal(one.parts[0].completed, many.parts[0].completed[:2])
    np.testing.assert_array_equal(one.landmarks, many.landmarks[:2])
    other = restorer(pixels, hole, 2, seed=8, face=box)
    assert (other.parts[0].completed != one.parts[0].completed).any()


def test_one_compilation_for_all_photos_seeds_and_counts(restorer, photo, hole):
    pixels, points = photo
    for seed, count, size in ((0, 1, 150), (1, 9, 120)):
        restorer(pixels[:size], hole[:size], count, seed, face=Face.of(points))
        restorer(pixels[:size], hole[:size], count, seed, face=Face.of(points).box)
        restorer(pixels, hole, 1, face=Face.of(points), guidance=1.5 + seed)
    for guided in (False, True):
        assert restorer._samplers[guided]._cache_size() == 1
    assert restorer._points._cache_size() == 1


def test_structure_and_appearance_vary_apart_and_around_a_kept_sample(restorer, photo, hole):
    pixels, points = photo
    face = Face.of(points)
    free = restorer(pixels, hole, 3, face=face)
    same = restorer(pixels, hole, 3, face=face, structure=0.0, appearance=0.0, keep=2)
    assert (free.landmarks[0] != free.landmarks[2]).any()
    for k in range(3):
        np.testing.assert_array_equal(same.landmarks[k], free.landmarks[2])
        np.testing.assert_array_equal(same.parts[0].completed[k], free.parts[0].completed[2])
    half = restorer(pixels, hole, 3, face=face, structure=0.5, keep=2)
    np.testing.assert_allclose(
        half.landmarks[0], (free.landmarks[0] + free.landmarks[2]) / 2, atol=1e-3
    )


def test_points_that_the_photo_shows_are_alike_in_all_samples(restorer, photo):
    pixels, points = photo
    hole = np.zeros(pixels.shape[:2], np.uint8)
    hole[95:110, 93:107] = 255  # the mouth
    result = restorer(pixels, hole, 6, face=Face.of(points))
    away = cv2.distanceTransform((hole == 0).astype(np.uint8), cv2.DIST_L2, 5)
    x, y = np.round(result.landmarks.mean(0)).astype(int).T
    shown = away[y.clip(0, len(away) - 1), x.clip(0, away.shape[1] - 1)] > 5.5 * result.crop.factor
    spread = np.ptp(result.landmarks, axis=0).max(-1)
    assert shown.any() and not shown.all()
    assert spread[shown].max() < 1e-3 < spread.max()


def test_progress_is_reported_and_its_error_ends_the_call(restorer, photo, hole):
    pixels, points = photo
    reported = []
    restorer(pixels, hole, 6, landmarks=points, on_progress=lambda *x: reported.append(x))
    assert reported == [(0, 6), (4, 6), (6, 6)]

    class CancelledError(Exception):
        pass

    def cancel(done, total):
        if done:
            raise CancelledError

    with pytest.raises(CancelledError):
        restorer(pixels, hole, 6, landmarks=points, on_progress=cancel)


def test_threads_share_a_restorer(restorer, photo, hole):
    pixels, points = photo
    alone = [restorer(pixels, hole, 2, seed, landmarks=points).pixels(1) for seed in range(4)]
    found = {}

    def work(seed):
        found[seed] = restorer(pixels, hole, 2, seed, landmarks=points).pixels(1)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in range(4):
        np.testing.assert_array_equal(found[seed], alone[seed])


# --------------------------------------------------------------------------- the way of a photo


def astronaut_alone(crops, holes):
    """A reader that is sure of the astronaut's face, upright, and of nothing else."""
    frame = alignment.to_canonical(finding.in_square(220.0, 111.0, 190.0), 32)
    none = np.zeros((512, 512), bool)
    truth = blending.cut(data.astronaut(), none, alignment.invert(frame), 32)[0].astype(int)
    seen = 1 - holes
    far = (np.abs(crops - truth).mean(-1) * seen).sum((1, 2)) / seen.sum((1, 2))
    sigma = np.where(far < 60, 0.1, 50.0)[:, None]
    return np.stack([MEAN_SHAPE * 32 - 0.5] * len(crops)), np.repeat(sigma, 68, 1)


@pytest.mark.parametrize('turns', [0, 1, 2, 3])
def test_a_face_is_found_upright_or_lying(turns):
    hole = np.rot90(astronaut_hole(), turns) > 0
    photo = np.ascontiguousarray(np.rot90(data.astronaut(), turns))
    faces = finding.find(photo, np.ascontiguousarray(hole), astronaut_alone, 32)
    assert len(faces) == 1
    x, y, side = faces[0].square
    at = np.argwhere(hole).mean(0)[::-1]
    assert np.hypot(x - at[0], y - at[1]) < 0.3 * side
    across = faces[0].landmarks[45] - faces[0].landmarks[36]
    angle = np.degrees(np.arctan2(across[1], across[0]))
    assert round(angle) % 360 == -90 * turns % 360


def test_a_face_that_is_small_in_a_large_photo_is_found_at_its_hole():
    photo = np.full((3000, 4000, 3), 90, np.uint8)
    hole = np.zeros((3000, 4000), bool)
    photo[1000:1512, 3000:3512], hole[1000:1512, 3000:3512] = data.astronaut(), astronaut_hole() > 0
    photo = cv2.resize(photo, None, fx=2, fy=2, interpolation=cv2.INTER_LINEAR)
    hole = cv2.resize(hole.astype(np.uint8), None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST) > 0
    faces = finding.find(photo, hole, astronaut_alone, 32)
    x, y, side = faces[0].square
    assert np.hypot(x - 2 * 3220, y - 2 * 1111) < 0.2 * side < 0.2 * 500


def test_each_of_several_faces_is_completed_and_what_is_no_face_is_filled(restorer):
    pixels = np.concatenate([data.astronaut()] * 2, axis=1)
    hole = np.concatenate([astronaut_hole()] * 2, axis=1)
    hole[400:420, 40:60] = 255  # beside both
    result = restorer(pixels, hole, 2)
    assert len(result.parts) == 2
    out = result.pixels(0)
    np.testing.assert_array_equal(out[hole == 0], pixels[hole == 0])
    for part in result.parts:
        assert (out[part.hole] != pixels[part.hole]).any()


def test_no_face_and_a_hole_elsewhere_are_told_apart(restorer, monkeypatch):
    monkeypatch.setattr(restorer, 'predict', astronaut_alone)
    hole = np.zeros((512, 512), bool)
    hole[420:440, 20:40] = True
    with pytest.raises(NoFaceFound, match='of no face; the nearest'):
        restorer(data.astronaut(), hole)
    with pytest.raises(NoFaceFound, match='no face found'):
        restorer(np.zeros((64, 64, 3), np.uint8), np.eye(64, dtype=bool))
    assert restorer.find(np.zeros((2, 1), np.uint8)) == []


def test_holes_and_photos_of_any_kind_give_the_same(restorer, photo, hole, tmp_path):
    pixels, points = photo
    wanted = restorer(pixels, hole, 1, landmarks=points).pixels(0)
    Image.fromarray(pixels).save(tmp_path / 'photo.png')
    Image.fromarray(hole).save(tmp_path / 'hole.png')
    painted = np.zeros((150, 200, 4), np.uint8)
    painted[..., :3], painted[..., 3] = 255, hole  # white strokes on a clear layer
    for given in (
        hole > 0, hole // 255, Image.fromarray(hole), Image.fromarray(hole).convert('RGB'),
        painted, tmp_path / 'hole.png', str(tmp_path / 'hole.png'),
    ):  # fmt: skip
        for taken in (pixels, Image.fromarray(pixels), tmp_path / 'photo.png'):
            result = restorer(taken, given, 1, landmarks=points)
            np.testing.assert_array_equal(result.pixels(0), wanted)
    clear = np.dstack([pixels, 255 - hole])
    result = restorer(clear, 'alpha', 1, landmarks=points)
    np.testing.assert_array_equal(result.pixels(0), wanted)
    assert result.images[0].mode == 'RGBA'
    assert (np.asarray(result.images[0])[..., 3] == 255).all()  # what was drawn can be seen
    white = np.where(hole[..., None] > 0, np.uint8(255), pixels // 2)
    assert restorer(white, 'white', 1, landmarks=points).hole.sum() == (hole > 0).sum()


@pytest.mark.parametrize('mode', ['1', 'L', 'LA', 'P', 'RGBA', 'CMYK', 'I;16'])
def test_a_photo_keeps_its_mode_where_pictures_of_it_do(restorer, photo, hole, mode, tmp_path):
    pixels, points = photo
    image = Image.fromarray(pixels)
    if mode == 'I;16':
        image = Image.fromarray((pixels[..., 0].astype(np.uint16) << 8) + 3)
    else:
        image = image.convert('RGBA').convert(mode) if 'A' in mode else image.convert(mode)
    kept = {'P': 'RGB', 'CMYK': 'RGB', '1': 'L', 'I;16': 'L'}
    results = [restorer(image, hole, 1, landmarks=points)]
    if mode != 'CMYK':
        image.save(tmp_path / 'photo.png')
        results.append(restorer(tmp_path / 'photo.png', hole, 1, landmarks=points))
    for result in results:
        assert result.images[0].mode == kept.get(mode, mode)
        assert result.images[0].size == image.size
        assert (mode == 'I;16') == any('16 bits' in note for note in result.notes)
    np.testing.assert_array_equal(results[0].pixels(0), results[-1].pixels(0))


@pytest.mark.parametrize('orientation', [3, 6, 8])
def test_exif_turns_a_photo_upright(restorer, photo, hole, orientation, tmp_path):
    pixels, points = photo
    turns = {3: 2, 6: 1, 8: 3}[orientation]
    exif = Image.Exif()
    exif[0x112] = orientation
    stored = Image.fromarray(np.rot90(pixels, turns))
    stored.save(tmp_path / 'photo.png', exif=exif)
    with Image.open(tmp_path / 'photo.png') as opened:
        for given in (tmp_path / 'photo.png', opened):
            result = restorer(given, hole, 1, landmarks=points)
            np.testing.assert_array_equal(result.photo.pixels, pixels)


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ({'hole': np.zeros((150, 200), np.uint8)}, 'nothing is missing'),
        ({'hole': np.ones((150, 200), bool)}, 'nothing of the photo is left'),
        ({'hole': np.ones((90, 90), bool)}, "photo's size"),
        ({'hole': 'alpha'}, 'no alpha'),
        ({'hole': 'nowhere.png'}, 'no such file'),
        ({'num_samples': 0}, 'num_samples=0'),
        ({'num_samples': 10**6}, 'num_samples=1000000'),
        ({'seed': -1}, 'seed=-1'),
        ({'structure': 1.5}, 'structure=1.5'),
        ({'keep': 64}, 'keep=64'),
        ({'steps': 0}, 'steps=0'),
        ({'steps': 2}, 'draws in one'),
        ({'guidance': float('nan')}, 'guidance=nan'),
        ({'landmarks': np.full((68, 2), np.nan)}, 'not finite'),
        ({'landmarks': np.zeros((67, 2))}, 'expected .68, 2.'),
        ({'landmarks': np.zeros((68, 2))}, 'no face'),
        ({'landmarks': np.full((68, 2), 1e9) * MEAN_SHAPE}, 'beyond'),
        ({'landmarks': None, 'face': (5, 5, 1, 1)}, r'face=\(5'),
        ({'landmarks': None, 'face': (1, 2, 3)}, r'face=\(1'),
        ({'photo': np.zeros((150, 200, 3), np.float32)}, 'uint8'),
    ],
)
def test_what_is_wrong_is_named(restorer, photo, hole, change, words):
    pixels, points = photo
    given = {'photo': pixels, 'hole': hole, 'num_samples': 1, 'landmarks': points} | change
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        restorer(**given)


def test_a_hole_of_another_size_but_the_same_shape_is_fitted(restorer, photo, hole):
    pixels, points = photo
    result = restorer(pixels, np.repeat(np.repeat(hole, 2, 0), 2, 1), 1, landmarks=points)
    np.testing.assert_array_equal(result.hole, hole > 0)


def test_a_photo_too_large_is_refused_before_it_is_decoded(restorer, tmp_path):
    path = tmp_path / 'bomb.png'
    Image.new('1', (12_000, 12_000)).save(path)
    for given in (path, Image.new('1', (12_000, 12_000))):
        with pytest.raises(ValueError, match=r'12000x12000|144000000'):
            restorer(given, np.ones((10, 10), bool))


# ------------------------------------------------------------------------------- the command


def run(weights, *arguments):
    return cli.main(['inpaint', *map(str, arguments), '--weights', str(weights), '--quiet'])


@pytest.fixture
def folder(tmp_path):
    """Three photos of a face, a damaged file, one without a hole; and their holes."""
    photos, holes = tmp_path / 'photos', tmp_path / 'holes'
    (photos / 'more').mkdir(parents=True)
    (holes / 'more').mkdir(parents=True)
    for name, hole in (
        ('a', 'a'), ('b', 'b_mask'), ('more/ç', 'more/ç_mask001'), ('bad', 'bad'), ('bare', None),
    ):  # fmt: skip
        Image.fromarray(data.astronaut()).save(photos / f'{name}.png')
        if hole:
            Image.fromarray(astronaut_hole() // 255).save(holes / f'{hole}.png')
    (photos / 'bad.png').write_bytes((photos / 'a.png').read_bytes()[:2000])
    return tmp_path


def test_a_bad_file_among_good_ones_is_left_out_and_named(weights, folder, capsys):
    out = folder / 'out'
    code = run(weights, folder / 'photos', '--hole', folder / 'holes', '-n', 2, '-o', out)
    assert code == 2
    report = json.loads((out / 'report.json').read_text())
    status = {row['photo'].rpartition('photos/')[2]: row['status'] for row in report['photos']}
    assert status == {
        'a.png': 'done', 'b.png': 'done', 'more/ç.png': 'done', 'bad.png': 'failed',
        'bare.png': 'failed',
    }  # fmt: skip
    reported = capsys.readouterr().err
    assert 'bad.png: ' in reported and 'bare.png: no hole for it' in reported
    for name in ('a', 'b', 'more/ç'):
        made = {path.name for path in (out / name).iterdir()}
        assert made == {'00.png', '01.png', 'sheet.jpg', 'uncertainty.png', 'sidecar.json'}
    out_pixels = np.asarray(Image.open(out / 'a' / '01.png'))
    visible = astronaut_hole() == 0
    np.testing.assert_array_equal(out_pixels[visible], data.astronaut()[visible])
    sidecar = json.loads((out / 'a' / 'sidecar.json').read_text())
    assert len(sidecar['weights']['sha256']) == len(sidecar['photo_sha256']) == 64
    assert np.array(sidecar['faces'][0]['landmarks']).shape == (2, 68, 2)
    assert not (out / 'bad').exists()


def test_what_is_there_is_kept_or_drawn_again_as_asked(weights, folder):
    photo, hole, out = folder / 'photos/a.png', folder / 'holes/a.png', folder / 'out'
    assert run(weights, photo, '--hole', hole, '-n', 1, '-o', out) == 0
    before = (out / 'a/00.png').read_bytes()
    assert run(weights, photo, '--hole', hole, '-n', 1, '-o', out) == 2
    assert run(weights, photo, '--hole', hole, '-n', 1, '-o', out, '--if-exists=skip') == 0
    again = (*('--if-exists', 'overwrite'), '--seed', 1)
    assert (out / 'a/00.png').read_bytes() == before
    assert run(weights, photo, '--hole', hole, '-n', 1, '-o', out, *again) == 0
    assert (out / 'a/00.png').read_bytes() != before


def test_the_demo_needs_no_photo(weights, tmp_path):
    assert run(weights, '--demo', '-n', 1, '-o', tmp_path) == 0
    assert (tmp_path / 'astronaut' / 'sheet.jpg').exists()


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        ([], 'PHOTO... --hole HOLE'),
        (['nowhere.png', '--hole', 'alpha'], 'nowhere.png: no such file'),
        (['{}/photos', '--hole', 'nowhere'], '--hole=nowhere'),
        (['{}/photos', '--hole', '{}/holes', '--face', '1,2,3,4'], 'a box is of one photo'),
        (['{}/photos/a.png', '--hole', 'alpha', '--face', 'x'], '--face=x'),
        (['{}/photos/a.png', '{}/photos', '--hole', 'alpha'], 'both are named a'),
        (['{}/empty', '--hole', 'alpha'], 'empty: no images found'),
    ],
)
def test_what_cannot_begin_is_refused(weights, folder, capsys, arguments, words):
    (folder / 'empty').mkdir()
    assert run(weights, *(a.format(folder) for a in arguments)) == 1
    assert words in capsys.readouterr().err


# ------------------------------------------------------------------------------- real photographs


@pytest.mark.shared
@pytest.mark.skipif(not shipped.SHIPPED, reason='no weights come with this package')
def test_real_photos_are_completed_by_the_weights_that_come_along(shared):
    complete = functools.partial(fi_jax.load(), num_samples=1)
    source = Zip(shared / 'data/faces/lfw_deepfunneled_250.zip')
    table = landmark_shards.read_table(shared / 'data/faces/lfw_dlib68.npz')
    rows = []
    for index in range(0, len(source), 310):
        record = source[index]
        pixels, points = decode(record.image, record.name), table[record.name].points
        rows.append(own_photos.measure(complete, pixels, points, 'mouth', record.name))
    assert sum(row['found'] for row in rows) >= 0.8 * len(rows)
    assert all(row['outside'] == 0 for row in rows if 'outside' in row)
    assert np.mean([row['seam'] for row in rows if 'seam' in row]) < 2.0
