"""The offline landmark job: search, shards, kill and resume, dead workers, detectors, pages."""

import dataclasses
import importlib.util
import io
import json
import os
import signal
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fi_jax import landmarks as lm
from fi_jax.input_pipeline import alignment, archives, landmark_shards, records
from fi_jax.input_pipeline.landmark_shards import LandmarkRow
from fi_jax.input_pipeline.offline import (
    detectors,
    extract_landmarks,
    landmark_pages,
    mediapipe_faces,
    search,
    shard_pool,
    vertex_map,
)
from fi_jax.input_pipeline.procedural.faces import ProceduralFaces

ROOT = Path(__file__).parents[2]
COUNT = 24


def png(image, kind='PNG', **options):
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind, **options)
    return file.getvalue()


def bomb():
    """The beginning of a PNG of a gigapixel."""

    def chunk(kind, data):
        crc = struct.pack('>I', zlib.crc32(kind + data))
        return struct.pack('>I', len(data)) + kind + data + crc

    header = chunk(b'IHDR', struct.pack('>IIBBBBB', 32_768, 32_768, 8, 2, 0, 0, 0))
    return b'\x89PNG\r\n\x1a\n' + header + chunk(b'IDAT', zlib.compress(bytes(99)))


@pytest.fixture(scope='module')
def drawn(tmp_path_factory):
    """A zip of drawn faces, two of its members no images, and the points of all but one."""
    root = tmp_path_factory.mktemp('drawn')
    faces = ProceduralFaces(COUNT, size=48, seed=1)
    names = [f'd/{i:02d}.png' for i in range(COUNT)]
    with zipfile.ZipFile(root / 'faces.zip', 'w') as archive:
        for i, name in enumerate(names):
            data = {5: b'broken', 9: bomb()}.get(i) or png(faces[i].image)
            archive.writestr(name, data)
    points = np.stack([faces[i].landmarks for i in range(COUNT)])
    np.savez(root / 'points.npz', name=np.array(names), points=points,
             detected=np.arange(COUNT) != 7)  # fmt: skip
    return root, names, points


def command(root, out, *more):
    return [
        '--source=zip', f'--path={root / "faces.zip"}', '--detector=import',
        f'--points={root / "points.npz"}', f'--out={out}', '--num_workers=0', '--num_shards=5',
        '--max_bad=0.2', *more,
    ]  # fmt: skip


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes()
            for p in sorted(Path(folder).rglob('*')) if p.is_file()}  # fmt: skip


@pytest.fixture(scope='module')
def done(drawn, tmp_path_factory):
    """The folder of a whole job done in this process."""
    out = tmp_path_factory.mktemp('done') / 'out'
    npz = out.parent / 'flat.npz'
    assert extract_landmarks.main(command(drawn[0], out, f'--npz={npz}')) == 0
    return out, npz


# ---------------------------------------------------------------------------------- the job


def test_the_job_gives_each_image_its_row(drawn, done):
    _, names, points = drawn
    table = landmark_shards.read_table(done[0])
    assert list(table) == names
    for i, name in enumerate(names):
        row = table[name]
        assert row.found == (i not in (5, 7, 9))
        if row.found:
            assert np.array_equal(row.points, points[i]) and row.size == (48, 48)
            expected = alignment.to_canonical(points[i], 1).ravel()
            assert np.allclose(row.align, expected, atol=1e-6)
    assert table[names[7]].reason == 'no face'
    summary = json.loads((done[0] / 'summary.json').read_text())
    assert summary['found'] == COUNT - 3
    assert summary['not_found'] == {'bad image': 2, 'no face': 1}


def test_a_poisoned_image_costs_one_record_and_is_listed(drawn, done):
    lines = [json.loads(line) for line in (done[0] / 'bad.jsonl').read_text().splitlines()]
    assert [line['name'] for line in lines] == [drawn[1][5], drawn[1][9]]
    assert 'not a readable' in lines[0]['reason']
    assert 'limit' in lines[1]['reason'] or 'pixels' in lines[1]['reason']


def test_the_flat_file_equals_the_shards(done):
    flat, table = (landmark_shards.read_table(p) for p in (done[1], done[0]))
    assert list(flat) == list(table)
    for name in table:
        assert flat[name].found == table[name].found
        assert np.array_equal(flat[name].points, table[name].points)
    with np.load(done[1], allow_pickle=False) as fields:
        assert set(fields) == {'name', 'points', 'detected', 'score', 'box'}


def test_too_many_bad_images_end_with_code_2(drawn, tmp_path, capsys):
    assert extract_landmarks.main([*command(drawn[0], tmp_path / 'o'), '--max_bad=0.01']) == 2
    assert '2 of 24 images are bad' in capsys.readouterr().err


def test_processes_and_parts_give_the_same_bytes(drawn, done, tmp_path):
    pool, parts = tmp_path / 'pool', tmp_path / 'parts'
    assert extract_landmarks.main([*command(drawn[0], pool), '--num_workers=2']) == 0
    assert extract_landmarks.main(command(drawn[0], parts, '--shards=0:2')) == 0
    assert not (parts / landmark_shards.INDEX).exists()
    assert extract_landmarks.main(command(drawn[0], parts, '--shards=2:9')) == 0
    assert contents(pool) == contents(parts) == contents(done[0])


def test_a_finished_shard_is_not_made_again_and_a_missing_one_is(drawn, done, tmp_path):
    out = tmp_path / 'out'
    extract_landmarks.main(command(drawn[0], out))
    shards = sorted(out.glob('*.array_record'))
    times = {p: p.stat().st_mtime_ns for p in shards}
    shards[2].unlink()
    (out / (shards[2].name + '.tmp-1')).write_bytes(b'half')
    assert extract_landmarks.main(command(drawn[0], out)) == 0
    assert contents(out) == contents(done[0])
    assert [p for p in shards if p.stat().st_mtime_ns != times[p]] == [shards[2]]


def test_a_killed_job_goes_on_and_gives_the_same_bytes(drawn, done, tmp_path):
    out = tmp_path / 'out'
    slow = (
        'import sys, time\n'
        'from fi_jax.input_pipeline.offline import detectors, extract_landmarks\n'
        'call = detectors.Import.__call__\n'
        'def slow(*args):\n'
        '    time.sleep(0.15)\n'
        '    return call(*args)\n'
        'detectors.Import.__call__ = slow\n'
        'extract_landmarks.main(sys.argv[1:])\n'
    )
    kills, seen = 0, set()
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, '-c', slow, *command(drawn[0], out)], cwd=ROOT,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        began = len(list(out.glob('*.array_record'))) if out.exists() else 0
        while process.poll() is None:
            there = len(list(out.glob('*.array_record'))) if out.exists() else 0
            half = list(out.glob('*.tmp-*')) if out.exists() else []
            if there > began and half:
                process.send_signal(signal.SIGKILL)
                kills += 1
                break
            time.sleep(0.01)
        process.wait()
        seen.add(len(list(out.glob('*.array_record'))))
    assert kills >= 2 and max(seen) < 5
    assert not (out / landmark_shards.INDEX).exists()
    assert extract_landmarks.main(command(drawn[0], out)) == 0
    assert contents(out) == contents(done[0])


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (['--num_shards=4'], 'num_shards=5'),
        (['--max_pixels=1000'], 'max_pixels'),
    ],
)
def test_another_job_in_the_folder_is_refused(drawn, done, change, message, capsys):
    assert extract_landmarks.main([*command(drawn[0], done[0]), *change]) == 1
    assert message in capsys.readouterr().err


def test_a_folder_of_something_else_is_refused(drawn, tmp_path, capsys):
    (tmp_path / 'thesis.tex').write_text('x')
    assert extract_landmarks.main(command(drawn[0], tmp_path)) == 1
    assert 'no such job' in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ['thesis.tex']


@pytest.mark.parametrize('text', ['3', 'a:b', '4:2', '1:'])
def test_a_bad_part_is_refused(drawn, tmp_path, text, capsys):
    assert extract_landmarks.main(command(drawn[0], tmp_path / 'o', f'--shards={text}')) == 1
    assert f'--shards={text}: expected FIRST:END' in capsys.readouterr().err


def test_the_help_is_worth_reading():
    text = extract_landmarks.parser().format_help()
    assert all(word in text for word in ('resum', '--map', 'research', '--runner', 'Exit codes'))


# --------------------------------------------------------------------------------- the pool


@dataclasses.dataclass(frozen=True)
class Task:
    """Writes a file a shard; one of them goes wrong."""

    folder: str
    wrong: str = ''

    def __call__(self, shard, report):
        report(0, 10 * shard)
        if shard == 2 and self.wrong:
            if self.wrong == 'dies':
                os.kill(os.getpid(), signal.SIGKILL)
            if self.wrong == 'exits':
                os._exit(3)
            if self.wrong == 'hangs':
                time.sleep(600)
            raise OSError('the disk is full')
        (Path(self.folder) / str(shard)).write_text('x')
        report(1, 10 * shard)


@pytest.mark.parametrize(
    ('wrong', 'message'),
    [
        ('dies', 'ended by signal 9 .SIGKILL.*at record 20 of shard 2'),
        ('exits', 'exit code 3'),
        ('raises', 'OSError: the disk is full'),
        ('hangs', 'no image was done in 1 s .*record 20 of shard 2'),
    ],
)
def test_a_dead_or_hanging_worker_is_a_clear_error(tmp_path, wrong, message):
    with pytest.raises(shard_pool.WorkerFailed, match=message):
        # Patience must outlast the start of a process on a busy machine only for the last.
        shard_pool.run(Task(str(tmp_path), wrong), range(6), 2,
                       patience=1 if wrong == 'hangs' else 120)  # fmt: skip
    assert not (tmp_path / '2').exists()


def test_workers_share_the_shards(tmp_path):
    shard_pool.run(Task(str(tmp_path)), range(7), 3)
    assert sorted(p.name for p in tmp_path.iterdir()) == [str(i) for i in range(7)]


def test_without_beam_its_runner_says_what_to_install(drawn, tmp_path, capsys):
    if importlib.util.find_spec('apache_beam'):
        pytest.skip('Beam is installed')
    arguments = command(drawn[0], tmp_path / 'o', '--runner=beam')
    assert extract_landmarks.main(arguments) == 1
    assert 'fi_jax[beam]' in capsys.readouterr().err


@pytest.mark.slow
def test_beam_gives_the_same_bytes(drawn, done, tmp_path):
    pytest.importorskip('apache_beam')
    out = tmp_path / 'out'
    arguments = [*command(drawn[0], out), '--runner=beam', '--num_workers=2', '--patience=200']
    process = subprocess.run(
        [sys.executable, '-m', 'fi_jax.input_pipeline.offline.extract_landmarks', *arguments],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert contents(out) == contents(done[0])


# -------------------------------------------------------------------------------- one image


class Dark:
    """Takes the dark pixels for a face of one place, in pictures that are as it wants them."""

    name, version = 'dark', '1'

    def __init__(self, *views, wants=lambda seen: True):
        self.views, self._wants = views, wants

    def __call__(self, image, name):
        if not self._wants(image):
            return []
        y, x = np.argwhere(image[..., 0] < 60).mean(0)
        return [detectors.Face(np.tile(np.float32([x, y]), (68, 1)), 0.5, (x, y, x, y))]


VIEWS = [
    detectors.View(),
    detectors.View(0.25),
    detectors.View(0.6, sizes=(300, 400)),
    detectors.View(0.0, (0.25, 0.25, 0.75, 0.75)),
    detectors.View(0.1, sizes=(8, 48)),
]


@pytest.mark.parametrize('view', VIEWS)
@pytest.mark.parametrize(('height', 'width'), [(109, 89), (60, 120)])
def test_a_view_leads_back_to_the_pixels_of_the_image(view, height, width):
    image = np.full((height, width, 3), 255, np.uint8)
    y, x = height // 2 - 3, width // 2 + 5
    image[y - 5 : y + 6, x - 5 : x + 6] = 0
    faces, number = search.search(image, 'x', Dark(view))
    assert number == 0
    assert np.abs(faces[0].points - [x, y]).max() < (0.6 if view.sizes[1] > 48 else 2)
    assert np.allclose(faces[0].box, [*faces[0].points[0]] * 2, atol=1e-3)


def test_the_search_stops_at_the_first_view_that_has_a_face():
    detector = Dark(*VIEWS[:3], wants=lambda seen: max(seen.shape) >= 300)
    image = np.full((60, 60, 3), 255, np.uint8)
    image[30, 30] = 0
    assert search.search(image, 'x', detector)[1] == 2
    assert search.search(image, 'x', Dark(VIEWS[0], wants=lambda s: False)) == ([], 1)


@pytest.mark.parametrize('size', [(1, 1), (1, 400), (3, 2)])
def test_tiny_and_thin_images_can_be_viewed(size):
    for view in mediapipe_faces.MediaPipe.views:
        seen, _ = search.show(np.zeros((*size, 3), np.uint8), view)
        assert min(seen.shape[:2]) >= 1 and max(seen.shape[:2]) <= 1281


def test_a_detector_that_fails_costs_one_record():
    class Failing:
        name, version, views = 'failing', '1', (detectors.View(),)

        def __call__(self, image, name):
            raise RuntimeError('graph error')

    row = search.extract(ProceduralFaces(2, size=32), 1, Failing())
    assert not row.found and row.reason == 'detector failed: RuntimeError: graph error'


def test_the_large_face_in_the_middle_is_taken():
    mean = lm.mean_landmarks((100, 100))
    small, aside = mean * 0.2 + 40, mean * 0.9 - [70, 0]
    faces = [detectors.Face(p.astype(np.float32)) for p in (small, mean, aside)]
    assert search.main_face(faces, (100, 100)) is faces[1]


def test_doubts_name_what_is_odd():
    mean = lm.mean_landmarks((128, 128))
    assert search.doubts(mean, (128, 128), 1, 0) == ()
    assert search.doubts(mean, (128, 128), 2, 1) == ('many faces', 'second look')
    assert 'small' in search.doubts(mean * 0.2, (128, 128), 1, 0)
    assert 'cut off' in search.doubts(mean - [60, 0], (128, 128), 1, 0)
    broken = np.random.default_rng(0).permutation(mean)
    assert 'odd shape' in search.doubts(broken, (128, 128), 1, 0)


# -------------------------------------------------------------------- detectors and the maps


def test_points_files_count_from_one(tmp_path):
    points = np.random.default_rng(0).uniform(0, 50, (68, 2)).astype(np.float32)
    lines = '\n'.join(f'{x:.4f} {y:.4f}' for x, y in points + 1)
    (tmp_path / 'a').mkdir()
    (tmp_path / 'a' / 'x.pts').write_text(f'version: 1\nn_points: 68\n{{\n{lines}\n}}\n')
    detector = detectors.Import(str(tmp_path))
    (face,) = detector(np.zeros((9, 9, 3), np.uint8), 'a/x.jpg')
    assert np.allclose(face.points, points, atol=1e-3) and detector.name == 'pts'
    assert detector(np.zeros((9, 9, 3), np.uint8), 'y.jpg') == []
    (tmp_path / 'y.pts').write_text('{ 1 2 3 }')
    with pytest.raises(ValueError, match=r'y\.pts: no 68 points'):
        detectors.Import(str(tmp_path))


def test_five_points_are_completed_by_the_mean_face(tmp_path):
    turn = np.array([[0.9, -0.3], [0.3, 0.9]])
    face = lm.mean_landmarks((178, 178)) @ turn.T + [20, -30]
    assert np.abs(detectors.from_five(detectors.five_of(face)) - face).max() < 1e-2
    values = ' '.join(f'{v:.3f}' for v in detectors.five_of(face).ravel())
    titles = ' '.join(f'{p}_{c}' for p in detectors.FIVE for c in 'xy')
    path = tmp_path / 'list_landmarks_align_celeba.txt'
    path.write_text(f'1\n{titles}\n000001.jpg  {values}\n')
    detector = detectors.Import(str(path))
    (found,) = detector(np.zeros((9, 9, 3), np.uint8), '000001.jpg')
    assert np.abs(found.points - face).max() < 0.05 and detector.name == 'template5'
    path.write_text(f'1\n{titles}\n000001.jpg  1 2 3\n')
    with pytest.raises(ValueError, match='line 3'):
        detectors.Import(str(path))
    path.write_text('1\nlefteye_x\n')
    with pytest.raises(ValueError, match='not a list of five points'):
        detectors.Import(str(path))


def vertices(seed=0):
    return np.random.default_rng(seed).uniform(50, 200, (478, 2))


@pytest.mark.parametrize('kind', vertex_map.MAPS)
def test_the_map_turns_moves_and_scales_with_the_face(kind):
    to68, points = vertex_map.load(kind), vertices()
    angle = 0.7
    turn = 1.7 * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    moved = to68(points @ turn.T + [30, -80])
    assert to68(points).shape == (68, 2) and to68(points).dtype == np.float32
    assert np.abs(moved - (to68(points) @ turn.T + [30, -80])).max() < 2e-2


def test_the_maps_tell_their_terms_and_only_the_learned_is_for_research():
    assert 'no commercial use' in vertex_map.load('learned').terms
    assert 'commercial' not in vertex_map.load('fixed').terms
    with pytest.raises(ValueError, match='--map=best'):
        vertex_map.load('best')


def test_the_fit_finds_a_linear_rest():
    rng = np.random.default_rng(0)
    base = vertices()
    modes = rng.normal(0, 4, (3, 478, 2))
    effect = rng.normal(0, 2, (3, 68, 2))
    fixed = vertex_map.load('fixed')
    strength = rng.normal(0, 1, (100, 3))
    faces = base + np.einsum('nk,kvc->nvc', strength, modes)
    truth = np.stack([fixed(f) for f in faces]) + np.einsum('nk,kpc->npc', strength, effect)
    correction = vertex_map.fit(faces[:99], truth[:99], ridge=1e-6, rank=20, outlier=9)
    learned = vertex_map.VertexMap(fixed.average, '', '', correction)
    rest = [np.abs(m(f) - t).mean() for m in (fixed, learned)
            for f, t in zip(faces[99:], truth[99:], strict=True)]  # fmt: skip
    assert rest[1] < 0.2 * rest[0]


def test_a_wrong_model_file_is_refused(tmp_path, monkeypatch):
    wrong = tmp_path / 'face_landmarker.task'
    wrong.write_bytes(b'something else')
    with pytest.raises(ValueError, match=r'sha256 .* is not the pinned'):
        mediapipe_faces.find_model(str(wrong))
    monkeypatch.setenv(mediapipe_faces.MODEL, str(wrong))
    with pytest.raises(ValueError, match='FI_JAX_FACE_LANDMARKER='):
        mediapipe_faces.find_model()
    with pytest.raises(FileNotFoundError, match='--model=nowhere'):
        mediapipe_faces.find_model('nowhere')


# ------------------------------------------------------------------------------- alignment


def test_alignment_brings_eyes_and_mouth_to_their_place_and_back():
    mean = lm.mean_landmarks((64, 64))
    turn = np.array([[2.0, -0.8], [0.8, 2.0]])
    face = (mean @ turn.T + [40, 25]).astype(np.float32)
    transform = alignment.to_canonical(face, 64)
    assert np.abs(alignment.apply(transform, face) - mean).max() < 1e-3
    back = alignment.invert(transform)
    assert np.abs(alignment.apply(back, mean) - face).max() < 1e-3
    both = alignment.compose(back, transform)
    assert np.allclose(both, [[1, 0, 0], [0, 1, 0]], atol=1e-9)


def test_pasting_back_touches_the_hole_alone_and_returns_the_photo():
    y, x = np.mgrid[0:150, 0:200]
    wave = [128 + 90 * np.sin(x / (17 + 5 * c)) * np.cos(y / 23) for c in range(3)]
    photo = np.stack(wave, -1).astype(np.uint8)
    transform = np.array([[0.55, 0.2, -20.0], [-0.2, 0.55, 10.0]])
    crop = alignment.warp(photo, transform, (64, 64))
    hole = np.zeros((64, 64, 1), np.uint8)
    hole[20:40, 16:44] = 1
    to_photo = alignment.invert(transform)
    pasted = alignment.paste_back(crop, photo, to_photo, hole)
    changed = (pasted != photo).any(-1)
    inside = alignment.apply(transform, np.argwhere(changed)[:, ::-1].astype(float))
    assert changed.any() and inside.min() > 14 and inside.max() < 45
    assert np.abs(pasted.astype(int) - photo).max() < 12
    blank = alignment.paste_back(crop * 0, photo, to_photo, hole)
    assert 0.8 < (blank == 0).all(-1).sum() * np.linalg.det(transform[:, :2]) / hole.sum() < 1.2


# ----------------------------------------------------------------------------------- pages


def test_the_page_shows_what_was_found_and_what_was_not(drawn, done):
    page = (done[0] / 'page' / 'index.html').read_text()
    assert 'Not found' in page and 'no face' in page and 'found          21 of 24' in page
    for picture in ('any', 'oddest', 'not_found'):
        with Image.open(done[0] / 'page' / f'{picture}.jpg') as image:
            assert image.size[0] > 400


@pytest.mark.parametrize('hull', ['face68', 'extended'])
def test_exported_features_are_those_of_the_pipeline(drawn, done, tmp_path, hull):
    source, table = archives.Zip(drawn[0] / 'faces.zip'), landmark_shards.read_table(done[0])
    assert landmark_pages.export_features(source, table, str(tmp_path), hull, limit=4) == 4
    name = drawn[1][0]

    def read(kind):
        with Image.open(tmp_path / name / f'{kind}.png') as image:
            return np.array(image)

    mask = lm.draw_hull(table[name].points, (48, 48), extended=hull == 'extended')
    assert np.array_equal(read('mask'), 255 * mask[..., 0])
    points = lm.draw_points(table[name].points, (48, 48))
    assert np.array_equal(read('landmarks'), 255 * points[..., 0])
    image = records.decode(source[0].image, name)
    assert np.array_equal(read('part'), image * mask)
    assert read('points').shape == (48, 48, 3)


def test_export_never_leaves_its_folder(tmp_path):
    class Sly:
        def __len__(self):
            return 1

        def __getitem__(self, index):
            return records.Record(np.zeros((48, 48, 3), np.uint8), '../out.png')

    table = {'../out.png': LandmarkRow('../out.png', lm.mean_landmarks((48, 48)))}
    with pytest.raises(ValueError, match='leads outside'):
        landmark_pages.export_features(Sly(), table, str(tmp_path / 'in'))
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------- the real detectors, shared


@pytest.fixture(scope='module')
def mediapipe_model(shared):
    pytest.importorskip('mediapipe')
    return str(shared / 'models' / 'face_landmarker.task')


@pytest.mark.shared
def test_mediapipe_finds_small_photographs_as_people_would(shared, mediapipe_model):
    source = archives.Zip(shared / 'data' / 'faces' / 'celeba_aligned_89x109.zip')
    dlib = landmark_shards.read_table(shared / 'data' / 'faces' / 'celeba_dlib68.npz')
    detector = mediapipe_faces.MediaPipe(mediapipe_model)
    away, found = [], 0
    index = range(0, len(source), len(source) // 60)
    for i in index:
        row = search.extract(source, i, detector)
        found += row.found
        other = dlib[row.name]
        if row.found and other.found and other.score > 0:
            eyes = np.hypot(*(other.points[36] - other.points[45]))
            away.append(np.hypot(*(row.points - other.points).T).mean() / eyes)
    assert found >= len(index) - 2
    assert np.median(away) < 0.06


@pytest.mark.shared
def test_the_learned_map_holds_on_faces_it_was_not_fitted_to(shared, mediapipe_model):
    from benchmarks import landmarks as bench

    folder = shared / 'data' / 'landmarks68'
    faces = bench.Faces(
        str(folder / 'ibug_helen_train_afw_320.zip'), str(folder / 'ibug_helen_train_afw_320.json')
    )
    held = np.flatnonzero(faces.fold == bench.HELD_BACK)[::4].tolist()
    detector = mediapipe_faces.MediaPipe(mediapipe_model)
    error = {kind: [] for kind in vertex_map.MAPS}
    for i in held:
        found = faces.nearest(detector.vertices(faces.image(i)), i)
        if found is not None:
            for kind, kept in error.items():
                points = vertex_map.load(kind)(found)
                kept.append(bench.errors(points[None], faces.points[i][None]).mean())
    assert np.mean(error['learned']) < 4.0 < np.mean(error['fixed'])
