"""Procedural faces: pure, varied, and with landmarks that lie where the picture shows them."""

import cv2
import numpy as np
import pytest

from fi_jax import landmarks as topology
from fi_jax.input_pipeline.procedural.faces import ProceduralFaces, face
from fi_jax.input_pipeline.records import Record

FACES = 150


@pytest.fixture(scope='module')
def faces() -> list[tuple[np.ndarray, np.ndarray]]:
    return [face(3, i) for i in range(FACES)]


@pytest.fixture(scope='module')
def points(faces) -> np.ndarray:
    return np.stack([marks for _, marks in faces])


@pytest.fixture(scope='module')
def records() -> list[Record]:
    source = ProceduralFaces(length=60, size=256, seed=5)
    return [source[i] for i in range(60)]


def _inside(polygon: np.ndarray, size: int, erode: int = 0) -> np.ndarray:
    """Pixels whose centre lies within a polygon, less a rim."""
    drawn = np.zeros((size, size), np.uint8)
    cv2.fillPoly(drawn, [np.rint(polygon * 16).astype(np.int32)], 1, cv2.LINE_8, 4)
    if erode:
        drawn = cv2.erode(drawn, np.ones((2 * erode + 1, 2 * erode + 1), np.uint8))
    return drawn.astype(bool)


def test_shapes_and_types(faces):
    for image, marks in faces:
        assert image.shape == (64, 64, 3) and image.dtype == np.uint8
        assert image.flags.c_contiguous
        assert marks.shape == (68, 2) and marks.dtype == np.float32


def test_a_face_is_a_function_of_its_arguments(faces):
    for i in (7, 2, 7, 140):  # out of order, with others in between
        image, marks = face(3, i)
        assert image.tobytes() == faces[i][0].tobytes()
        assert marks.tobytes() == faces[i][1].tobytes()


def test_faces_differ_by_index_and_by_seed(faces):
    assert len({image.tobytes() for image, _ in faces}) == FACES
    assert len({marks.tobytes() for _, marks in faces}) == FACES
    assert face(4, 0)[0].tobytes() != faces[0][0].tobytes()
    # Not just noise: pictures differ as much as photographs of different people do.
    stack = np.stack([image for image, _ in faces]).astype(np.float64)
    assert stack.std(axis=0).mean() > 35


@pytest.mark.parametrize('size', [32, 48, 100, 128, 200])
def test_sizes_differ_in_sampling_only(faces, size):
    for i in (0, 5, 11):
        image, marks = face(3, i, size)
        small, expected = faces[i]
        np.testing.assert_allclose(marks, (expected + 0.5) * (size / 64) - 0.5, atol=1e-3)
        side = min(size, 32)
        a, b = (cv2.resize(x, (side, side), interpolation=cv2.INTER_AREA) for x in (image, small))
        assert np.abs(a.astype(float) - b).mean() < 4


def test_framing_is_like_celeb_a(points):
    inside = (points >= -0.5) & (points <= 63.5)
    assert inside.all(axis=(1, 2)).mean() >= 0.98
    centred = (points + 0.5) / 64
    apart = np.linalg.norm(centred[:, 45] - centred[:, 36], axis=1)
    assert 0.27 < apart.mean() < 0.33
    eyes = centred[:, 36:48].mean(axis=(0, 1))
    assert 0.47 < eyes[0] < 0.53 and 0.44 < eyes[1] < 0.50
    # The mean is a face: the mean shape of photographs, up to place and scale.
    mean = centred.mean(axis=0)
    a, b = (x - x.mean(axis=0) for x in (mean, topology.MEAN_SHAPE.astype(np.float64)))
    scale = (a * b).sum() / (a * a).sum()
    error = np.linalg.norm(scale * a - b, axis=1) / np.linalg.norm(b[45] - b[36])
    assert error.mean() < 0.06 and error.max() < 0.20


def test_pose_varies(points):
    between = points[:, [36, 45]]
    roll = np.arctan2(*(between[:, 1] - between[:, 0]).T[::-1])
    assert np.degrees(roll).std() > 2 and np.degrees(np.abs(roll)).max() < 20
    turn = (points[:, 30, 0] - points[:, [0, 16], 0].mean(axis=1)) / 64
    assert turn.std() > 0.02 and turn.min() < -0.04 and turn.max() > 0.04


def test_topology_of_every_face(points):
    upright = []
    for p in points:
        angle = np.arctan2(*(p[45] - p[36])[::-1])
        c, s = np.cos(angle), np.sin(angle)
        upright.append(p @ np.array([[c, -s], [s, c]]))
    p = np.stack(upright)
    x, y = p[..., 0], p[..., 1]
    for row in ([17, 18, 19, 20, 21, 22, 23, 24, 25, 26], [31, 32, 33, 34, 35], [48, 51, 54]):
        assert (np.diff(x[:, row], axis=1) > 0).all(), row
    assert (np.diff(x[:, [36, 37, 38, 39, 42, 43, 44, 45]], axis=1) > 0).all()
    for column in ([27, 28, 29, 30, 33, 51, 57, 8], [37, 41], [38, 40], [43, 47], [44, 46]):
        assert (np.diff(y[:, column], axis=1) > 0).all(), column
    assert (y[:, [62]] <= y[:, [66]]).all()
    assert (y[:, 17:27].max(axis=1) < y[:, 36:48].min(axis=1) + 2).all()
    # Where the head looks ahead, the jaw runs from ear to ear.
    frontal = np.abs(x[:, 30] - x[:, [0, 16]].mean(axis=1)) < 0.01 * 64
    assert frontal.sum() > 10
    assert (np.diff(x[frontal, :17], axis=1) > 0).all()


def test_the_mirror_image_keeps_left_and_right(faces):
    for _, p in faces[:20]:
        q = topology.flip(p, 64)
        for right, left in (('right_eye', 'left_eye'), ('right_brow', 'left_brow')):
            for marks in (p, q):
                a, b = marks[topology.REGIONS[right]], marks[topology.REGIONS[left]]
                assert a[:, 0].max() < b[:, 0].min()
        np.testing.assert_allclose(q[8], [63 - p[8, 0], p[8, 1]], atol=1e-4)


def _bare(record: Record) -> bool:
    a = record.attributes
    return not (a['glasses'] or a['closed_eyes'] or a['fringe'] or a['beard'] or a['moustache'])


def test_eyes_are_painted_inside_their_landmarks(records):
    """White and pupil make the opening of the eye differ from the lid around it."""
    checked = 0
    for record in filter(_bare, records):
        image = record.image.astype(np.float64)
        grey = image.mean(axis=2)
        for eye in (slice(36, 42), slice(42, 48)):
            polygon = record.landmarks[eye]
            inside = _inside(polygon, 256, 1)
            if inside.sum() < 25:
                continue
            checked += 1
            box = np.concatenate([polygon.min(axis=0), polygon.max(axis=0)]).round().astype(int)
            window = np.s_[box[1] - 6 : box[3] + 9, box[0] : box[2] + 1]
            # Eye white is the least coloured thing there, and the pupil is dark.
            colour = (image.max(axis=2) - image.min(axis=2)) / (image.max(axis=2) + 1)
            assert grey[inside].min() < 75
            assert colour[inside].min() < np.percentile(colour[window], 20)
    assert checked > 20


def test_lips_are_painted_inside_their_landmarks(records):
    """Redness jumps at the outer contour of the mouth: as far as three pixels out it is skin."""
    gains = []
    for record in filter(_bare, records):
        image = record.image.astype(np.float64)
        red = (image[..., 0] - image[..., 1]) / (image.sum(axis=2) + 1)
        outer, inner = record.landmarks[48:60], record.landmarks[60:68]
        mouth = _inside(outer, 256)
        lips = _inside(outer, 256, 2) & ~_inside(inner, 256)
        ring = cv2.dilate(mouth.astype(np.uint8), np.ones((13, 13), np.uint8)).astype(bool)
        ring &= ~cv2.dilate(mouth.astype(np.uint8), np.ones((7, 7), np.uint8)).astype(bool)
        gains.append(np.median(red[lips]) - np.median(red[ring]))
    assert len(gains) > 15
    assert min(gains) > 0.01 and np.mean(gains) > 0.04


def test_landmarks_are_exact_and_not_merely_near(records):
    """Moving the mouth's landmarks either way fits the picture worse than leaving them."""
    shifts = [(dx, dy) for dx in (-5, -2, 0, 2, 5) for dy in (-5, -2, 0, 2, 5)]
    votes = np.zeros(len(shifts))
    for record in filter(_bare, records):
        image = record.image.astype(np.float64)
        red = (image[..., 0] - image[..., 1]) / (image.sum(axis=2) + 1)
        scores = []
        for shift in shifts:
            outer = record.landmarks[48:60] + np.array(shift, np.float32)
            inner = record.landmarks[60:68] + np.array(shift, np.float32)
            lips = _inside(outer, 256) & ~_inside(inner, 256)
            ring = cv2.dilate(lips.astype(np.uint8), np.ones((9, 9), np.uint8)).astype(bool)
            ring &= ~_inside(outer, 256)
            scores.append(red[lips].mean() - red[ring].mean())
        votes += np.array(scores)
    assert shifts[int(votes.argmax())] == (0, 0)


def test_records_of_the_source():
    source = ProceduralFaces(length=40, size=64, seed=3)
    assert len(source) == 40
    record = source[12]
    image, marks = face(3, 12)
    assert record.name == 'procedural_3_000012'
    assert record.image.tobytes() == image.tobytes()
    np.testing.assert_array_equal(record.landmarks, marks)
    assert record.identity is None
    assert set(record.attributes.values()) <= {0, 1}
    names = [source[i].name for i in range(len(source))]
    assert len(set(names)) == 40


def test_attributes_vary(records):
    keys = set(records[0].attributes)
    assert all(set(r.attributes) == keys for r in records)
    for key in ('smile', 'mouth_open', 'glasses', 'fringe', 'beard'):
        assert 0 < sum(r.attributes[key] for r in records) < len(records)
    for r in records:  # an open mouth shows in the landmarks
        gap = r.landmarks[66, 1] - r.landmarks[62, 1]
        assert (gap > 1.0) == bool(r.attributes['mouth_open'])


@pytest.mark.parametrize('index', [5, 6, -1])
def test_an_index_past_the_end_is_an_error(index):
    with pytest.raises(IndexError, match=rf'\[{index}\].*\[0, 5\)'):
        ProceduralFaces(length=5)[index]


def test_iteration_ends():
    assert [r.name for r in ProceduralFaces(length=2, size=32)] == [
        'procedural_0_000000',
        'procedural_0_000001',
    ]
