"""Topology, mirror image and drawing of the 68 points."""

import cv2
import numpy as np
import pytest

from fi_jax import landmarks as lm

MIRROR = {
    'jaw': 'jaw',
    'right_brow': 'left_brow',
    'left_brow': 'right_brow',
    'nose': 'nose',
    'right_eye': 'left_eye',
    'left_eye': 'right_eye',
    'mouth': 'mouth',
}
SQUARES = [(64, 64), (128, 128), (256, 256)]


def face(rng, size, jitter=0.02):
    """The mean face moved, scaled, turned and with every point jittered."""
    points = lm.mean_landmarks(size)
    middle = points.mean(0)
    turn, scale = rng.uniform(-0.5, 0.5), rng.uniform(0.7, 1.2)
    rotation = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    noise = rng.normal(0, jitter * min(size), (68, 2))
    return ((points - middle) @ rotation.T + middle + noise).astype(np.float32)


def lone(x, y):
    """68 points of which only the first may be in the frame."""
    points = np.full((68, 2), -1000.0, np.float32)
    points[0] = x, y
    return points


def pixels(drawn):
    return {(int(x), int(y)) for y, x in zip(*np.nonzero(drawn[:, :, 0]), strict=True)}


def test_regions_share_out_the_points():
    indices = np.concatenate(list(lm.REGIONS.values()))
    assert sorted(indices) == list(range(lm.NUM_POINTS))


def test_flip_permutation_is_its_own_inverse_and_swaps_left_and_right():
    np.testing.assert_array_equal(lm.FLIP[lm.FLIP], np.arange(68))
    for name, other in MIRROR.items():
        assert set(lm.FLIP[lm.REGIONS[name]]) == set(lm.REGIONS[other])
    # Only the points on the midline stay: chin, bridge and base of the nose, middles of the lips.
    assert [i for i in range(68) if lm.FLIP[i] == i] == [8, 27, 28, 29, 30, 33, 51, 57, 62, 66]


@pytest.mark.parametrize('width', [64, 89])
def test_flip_twice_is_the_identity(width):
    points = np.random.default_rng(0).integers(-5, 70, (68, 2)).astype(np.float32)
    before = points.copy()
    flipped = lm.flip(points, width)
    assert flipped.dtype == points.dtype and not np.array_equal(flipped, points)
    np.testing.assert_array_equal(lm.flip(flipped, width), points)
    np.testing.assert_array_equal(points, before)


def test_flip_mirrors_each_region_onto_its_partner():
    points = face(np.random.default_rng(1), (64, 64))
    flipped = lm.flip(points, 64)
    for name, other in MIRROR.items():
        expected = points[lm.REGIONS[other]] * [-1, 1] + [63, 0]
        got = flipped[lm.REGIONS[name]]
        np.testing.assert_allclose(np.sort(got, 0), np.sort(expected, 0), atol=1e-5)
    # The person's right eye is on the left of either picture.
    for shape in (lm.mean_landmarks((64, 64)), lm.flip(lm.mean_landmarks((64, 64)), 64)):
        right, left = (shape[lm.REGIONS[eye], 0].mean() for eye in ('right_eye', 'left_eye'))
        assert right < left


def test_mean_shape_is_symmetric_and_a_face():
    mirrored = lm.MEAN_SHAPE[lm.FLIP] * [-1, 1] + [1, 0]
    np.testing.assert_allclose(mirrored, lm.MEAN_SHAPE, atol=1e-6)
    assert lm.MEAN_SHAPE.dtype == np.float32 and 0 < lm.MEAN_SHAPE.min() < lm.MEAN_SHAPE.max() < 1
    y = {name: lm.MEAN_SHAPE[indices, 1].mean() for name, indices in lm.REGIONS.items()}
    assert y['right_brow'] < y['right_eye'] < y['nose'] < y['mouth'] < lm.MEAN_SHAPE[8, 1]


@pytest.mark.parametrize('size', [(64, 64), (128, 128), (89, 89), (64, 96), (96, 64)])
def test_mean_landmarks_are_their_own_mirror_image_in_any_frame(size):
    points = lm.mean_landmarks(size)
    assert points.shape == (68, 2) and points.dtype == np.float32
    np.testing.assert_allclose(lm.flip(points, size[1]), points, atol=1e-4)
    # The centred square is centred along both axes: pixel centres at whole numbers.
    side = min(size)
    corner = (points - lm.MEAN_SHAPE * side)[0]
    np.testing.assert_allclose(corner, [(size[1] - side) / 2 - 0.5, (size[0] - side) / 2 - 0.5])


def test_a_disc_lies_at_its_very_pixel():
    plus = {(20, 10), (19, 10), (21, 10), (20, 9), (20, 11)}
    assert pixels(lm.draw_points(lone(20, 10), (64, 64))) == plus
    assert pixels(lm.draw_points(lone(20, 10), (128, 128))) == plus
    assert pixels(lm.draw_points(lone(20, 10), (64, 64), radius=0)) == {(20, 10)}
    square = {(20, 10), (21, 10), (20, 11), (21, 11)}
    assert pixels(lm.draw_points(lone(20.5, 10.5), (64, 64))) == square
    assert len(pixels(lm.draw_points(lone(20, 10), (256, 256)))) == 13


@pytest.mark.parametrize('radius', [0, 0.5, 1, 2.3, 4])
def test_discs_are_the_pixels_within_the_radius(radius):
    points = face(np.random.default_rng(2), (48, 64))
    y, x = np.mgrid[:48, :64]
    away = np.hypot(x[..., None] - points[:, 0], y[..., None] - points[:, 1]).min(-1)
    drawn = lm.draw_points(points, (48, 64), radius)[:, :, 0]
    assert drawn[away < radius - 1e-3].all()
    assert not drawn[away > max(radius, 0.708) + 1e-3].any()


def test_discs_are_clipped_at_the_frame():
    assert pixels(lm.draw_points(lone(0, 0), (64, 64))) == {(0, 0), (1, 0), (0, 1)}
    assert pixels(lm.draw_points(lone(64, 63), (64, 64))) == {(63, 63)}
    assert not lm.draw_points(lone(-2, 10), (64, 64)).any()
    assert not lm.draw_points(np.full((68, 2), 1e30), (64, 64)).any()


@pytest.mark.parametrize('size', [*SQUARES, (64, 96)])
def test_drawings_are_binary_maps(size):
    points = face(np.random.default_rng(3), size)
    for drawn in (
        lm.draw_points(points, size),
        lm.draw_hull(points, size),
        lm.draw_hull(points, size, extended=True),
        lm.draw_region(points, size, lm.REGIONS['mouth'], 3),
    ):
        assert drawn.shape == (*size, 1) and drawn.dtype == np.uint8
        assert drawn.flags.c_contiguous and set(np.unique(drawn)) == {0, 1}


@pytest.mark.parametrize('dilate', [1, None])
def test_the_hull_holds_every_point_and_is_convex(dilate):
    rng = np.random.default_rng(4)
    for _ in range(20):
        points = face(rng, (64, 64))
        hull = lm.draw_hull(points, (64, 64), dilate=dilate)[:, :, 0]
        inside = points[((points >= 0) & (points <= 63)).all(1)]
        x, y = np.floor(inside).astype(int).T
        cells = hull[y, x] | hull[y, (x + 1) % 64] | hull[(y + 1) % 64, x] | hull[
            (y + 1) % 64, (x + 1) % 64
        ]  # fmt: skip
        assert cells.all()
        around = cv2.convexHull(np.argwhere(hull.T).astype(np.int32))
        # A gap in a convex set would lie deep within the outline of its pixels.
        gaps = np.argwhere(hull.T == 0).astype(float)
        assert max(cv2.pointPolygonTest(around, gap, True) for gap in gaps[::3]) < 0.8
        for lines in (hull, hull.T):
            assert (np.abs(np.diff(np.pad(lines, ((0, 0), (1, 1))).astype(int))).sum(1) <= 2).all()


def test_the_hull_of_whole_points_holds_their_pixels():
    rng = np.random.default_rng(5)
    for _ in range(50):
        points = rng.integers(0, 64, (68, 2))
        hull = lm.draw_hull(points, (64, 64), dilate=1)
        assert hull[points[:, 1], points[:, 0]].all()


@pytest.mark.parametrize('width', [64, 65])
def test_drawing_commutes_with_the_mirror_image(width):
    rng = np.random.default_rng(6)
    size = (64, width)
    mouth = lm.REGIONS['mouth']
    draws = (
        lm.draw_points,
        lm.draw_hull,
        lambda p, s: lm.draw_hull(p, s, dilate=1),
        lambda p, s: lm.draw_region(p, s, mouth),
        lambda p, s: lm.draw_region(p, s, mouth, 4.3),
    )
    for _ in range(100):
        points = np.rint(face(rng, size)).astype(np.float32)
        for draw in draws:
            np.testing.assert_array_equal(
                draw(lm.flip(points, width), size), draw(points, size)[:, ::-1]
            )


@pytest.mark.parametrize(('side', 'kernel'), [(64, 3), (128, 5), (256, 9)])
def test_the_default_dilation_is_five_at_128(side, kernel):
    points = lm.mean_landmarks((side, side))
    bare = lm.draw_hull(points, (side, side), dilate=1)
    grown = cv2.dilate(bare, np.ones((kernel, kernel), np.uint8))[:, :, None]
    np.testing.assert_array_equal(lm.draw_hull(points, (side, side)), grown)


def test_the_face_mask_covers_the_same_share_at_every_size():
    shares = [lm.draw_hull(lm.mean_landmarks(size), size).mean() for size in SQUARES]
    assert max(shares) < 1.06 * min(shares)


@pytest.mark.parametrize('turn', [0, 0.6, -0.6])
def test_the_extended_hull_adds_the_forehead_alone(turn):
    size = (128, 128)
    points = lm.mean_landmarks(size)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    points = ((points - 63.5) @ (0.6 * rotation).T + 63.5).astype(np.float32)
    hull = lm.draw_hull(points, size)
    extended = lm.draw_hull(points, size, extended=True)
    assert (extended >= hull).all() and extended.sum() > 1.25 * hull.sum()
    # In the face's own upright frame the added part lies above the tip of the nose.
    y, x = np.nonzero((extended > hull)[:, :, 0])
    upright = (np.stack([x, y], 1) - points[30]) @ rotation
    assert upright[:, 1].max() < 0


def test_a_region_grows_by_its_radius():
    size, nose = (64, 64), lm.REGIONS['nose']
    points = lm.mean_landmarks(size)
    bare = lm.draw_region(points, size, nose)[:, :, 0]
    y, x = np.nonzero(bare)
    grid = np.stack(np.mgrid[:64, :64], -1)[:, :, None]
    away = np.sqrt(np.square(grid - np.stack([y, x], 1)).sum(-1).min(-1))
    for grow in (0.4, 1, 2.5, 6):
        grown = lm.draw_region(points, size, nose, grow)[:, :, 0]
        np.testing.assert_array_equal(grown, away <= grow)


def test_a_region_outside_the_frame_is_empty():
    points = lm.mean_landmarks((64, 64)) + 500
    assert not lm.draw_region(points, (64, 64), lm.REGIONS['nose'], 5).any()
    assert not lm.draw_hull(points, (64, 64)).any()


@pytest.mark.parametrize(
    'use',
    [
        lambda p: lm.validate(p),
        lambda p: lm.flip(p, 64),
        lambda p: lm.draw_points(p, (64, 64)),
        lambda p: lm.draw_hull(p, (64, 64)),
        lambda p: lm.draw_region(p, (64, 64), lm.REGIONS['nose']),
        lambda p: lm.forehead(p),
    ],
)
def test_bad_landmarks_are_refused(use):
    for shape in ((5, 2), (68, 3), (136,)):
        with pytest.raises(ValueError, match=r'expected \(68, 2\)'):
            use(np.zeros(shape, np.float32))
    for value in (np.nan, np.inf):
        points = lm.mean_landmarks((64, 64))
        points[41, 1] = value
        with pytest.raises(ValueError, match=r'points \[41\] are not finite'):
            use(points)


def test_bad_growth_is_refused():
    points = lm.mean_landmarks((64, 64))
    for dilate in (0, 4, -3):
        with pytest.raises(ValueError, match=f'dilate={dilate}'):
            lm.draw_hull(points, (64, 64), dilate=dilate)
    for grow in (-1.0, np.nan):
        with pytest.raises(ValueError, match='grow='):
            lm.draw_region(points, (64, 64), lm.REGIONS['nose'], grow)


# ------------------------------------------------------------------------------ edits


@pytest.mark.parametrize('name', lm.EDITS)
def test_an_edit_follows_the_head_and_vanishes_with_its_strength(name):
    face = lm.mean_landmarks((100, 100))
    angle = 0.4
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]], np.float32)
    moved = lm.edit(face, name)
    np.testing.assert_allclose(lm.edit(face @ turn, name), moved @ turn, atol=1e-3)
    np.testing.assert_allclose(lm.edit(1.5 * face, name), 1.5 * moved, atol=1e-3)
    np.testing.assert_array_equal(lm.edit(face, name, 0.0), face)
    assert 1.0 < np.abs(moved - face).max() < 20


@pytest.mark.parametrize('name', ['smile', 'mouth_open', 'eyes_closed'])
def test_symmetric_edits_keep_a_mirrored_face_mirrored(name):
    face = lm.mean_landmarks((100, 100)) + np.float32([3, -2])
    mirrored = lm.flip(lm.edit(face, name), 100)
    np.testing.assert_allclose(lm.edit(lm.flip(face, 100), name), mirrored, atol=1e-3)


def test_edits_do_what_they_say():
    face = lm.mean_landmarks((100, 100))

    def height(points, upper, lower):
        return float(points[lower, 1] - points[upper, 1])

    closed = lm.edit(face, 'eyes_closed')
    assert height(closed, 37, 41) < 0.2 * height(face, 37, 41)
    opened = lm.edit(face, 'mouth_open')
    assert height(opened, 62, 66) > height(face, 62, 66) + 4
    smile = lm.edit(face, 'smile')
    assert smile[54, 0] - smile[48, 0] > face[54, 0] - face[48, 0] + 4
    assert smile[48, 1] < face[48, 1]
    with pytest.raises(ValueError, match="edit 'wink' is unknown; there are"):
        lm.edit(face, 'wink')
