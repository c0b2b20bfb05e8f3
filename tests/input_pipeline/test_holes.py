"""Every kind of hole, mixtures, and the fixed holes of an evaluation."""

import cv2
import numpy as np
import pytest

from fi_jax.input_pipeline import holes
from fi_jax.landmarks import FLIP, REGIONS, draw_hull, mean_landmarks

SIZES = [(64, 64), (128, 128), (256, 256), (89, 89), (64, 96), (112, 64)]
FACE_KINDS = ('eyes', 'nose', 'mouth', 'lower_half', 'half_face', 'whole_face')
RANDOM_KINDS = tuple(kind for kind in holes.KINDS if kind not in ('none', 'centre'))


def rng(seed=0):
    return np.random.default_rng(seed)


def covers(hole, points):
    """Whether the hole covers the pixel of each point."""
    x, y = np.rint(points).astype(int).T
    return hole[y, x, 0] == 1


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('kind', holes.KINDS)
def test_every_draw_is_a_valid_hole(kind, size):
    for seed in range(25):
        landmarks = None
        if seed % 2:
            noise = rng(seed).normal(0, 0.02 * min(size), (68, 2))
            landmarks = (mean_landmarks(size) + noise).astype(np.float32)
        hole = holes.draw(kind, rng(seed), size, landmarks)
        assert hole.shape == (*size, 1) and hole.dtype == np.uint8 and hole.flags.c_contiguous
        assert hole.max() <= 1
        if kind == 'none':
            assert not hole.any()
        else:
            assert holes.MIN_SHARE <= hole.mean() <= holes.MAX_SHARE


def test_kinds_are_those_of_the_reports():
    assert holes.KINDS == (
        'none', 'centre', 'rectangle', 'strokes', 'eyes', 'nose', 'mouth', 'lower_half',
        'half_face', 'whole_face', 'scratches', 'text', 'blocks',
    )  # fmt: skip


def test_centre_is_a_quarter_of_the_frame():
    hole = holes.draw('centre', rng(), (64, 64))
    assert hole[16:48, 16:48].all() and hole.sum() == 32 * 32
    assert holes.draw('centre', rng(5), (128, 128)).mean() == 0.25


def test_rectangle_is_one_rectangle_near_the_centre():
    for seed in range(50):
        hole = holes.draw('rectangle', rng(seed), (64, 64))[:, :, 0]
        rows, columns = hole.any(1).sum(), hole.any(0).sum()
        assert hole.sum() == rows * columns
        assert 12 <= rows <= 39 and 12 <= columns <= 39
        y, x = np.nonzero(hole)
        assert abs(y.mean() - 31.5) < 9 and abs(x.mean() - 31.5) < 9


@pytest.mark.parametrize('kind', RANDOM_KINDS)
def test_a_draw_is_a_function_of_its_generator(kind):
    size = (64, 64)
    first = [holes.draw(kind, rng(seed), size) for seed in range(10)]
    again = [holes.draw(kind, rng(seed), size) for seed in reversed(range(10))][::-1]
    np.testing.assert_array_equal(first, again)
    assert len({hole.tobytes() for hole in first}) >= 3


@pytest.mark.parametrize('kind', RANDOM_KINDS)
def test_one_seed_gives_one_hole_at_every_size(kind):
    overlaps, shares = [], []
    for seed in range(40):
        small, large = (holes.draw(kind, rng(seed), (side, side)) for side in (64, 128))
        shrunk = large.reshape(64, 2, 64, 2).mean((1, 3)) >= 0.5
        small = small[:, :, 0] == 1
        overlaps.append((small & shrunk).sum() / (small | shrunk).sum())
        shares.append((small.mean(), large.mean()))
    assert np.mean(overlaps) > 0.75
    of_small, of_large = np.mean(shares, 0)
    assert of_small == pytest.approx(of_large, rel=0.1)


def test_face_kinds_cover_what_they_are_called():
    size = (64, 64)
    points = mean_landmarks(size) + np.float32([2, -3])
    eyes = np.concatenate([REGIONS[name] for name in REGIONS if 'eye' in name or 'brow' in name])
    expected = {
        'eyes': (eyes, REGIONS['mouth']),
        'nose': (REGIONS['nose'], [8, 17, 26, 36, 45, 57]),
        'mouth': (REGIONS['mouth'], eyes),
        'lower_half': ([*REGIONS['mouth'], *range(4, 13), 33], eyes),
        'whole_face': (np.arange(68), []),
    }
    for kind, (inside, outside) in expected.items():
        for seed in range(20):
            hole = holes.draw(kind, rng(seed), size, points)
            assert covers(hole, points[inside]).all(), kind
            assert not covers(hole, points[outside]).any() if len(outside) else True, kind


@pytest.mark.parametrize('turn', [0.0, 0.4])
def test_half_face_takes_either_side_of_the_midline(turn):
    size = (64, 64)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    points = ((mean_landmarks(size) - 31.5) @ (0.8 * rotation).T + 31.5).astype(np.float32)
    sides = {'right_eye': 0, 'left_eye': 0}
    for seed in range(40):
        hole = holes.draw('half_face', rng(seed), size, points)
        right, left = (covers(hole, points[REGIONS[eye]]) for eye in sides)
        assert right.all() != left.all() and right.any() != left.any()
        sides['right_eye' if right.all() else 'left_eye'] += 1
        covered = covers(hole, points)
        off_midline = np.flatnonzero(np.arange(68) != FLIP)
        wide = [i for i in off_midline if abs(points[i] - points[FLIP[i]]).max() > 4]
        assert (covered[wide] != covered[FLIP[wide]]).all()
    assert min(sides.values()) >= 10


@pytest.mark.parametrize('kind', FACE_KINDS)
def test_face_kinds_follow_the_face(kind):
    # Smaller than the frame and on whole pixels, so that moving it clips and rounds nothing.
    points = np.rint(mean_landmarks((64, 64)) * 0.5 + 14).astype(np.float32)
    for seed in range(10):
        hole = holes.draw(kind, rng(seed), (64, 64), points)
        moved = holes.draw(kind, rng(seed), (64, 64), points + np.float32([5, -3]))
        np.testing.assert_array_equal(moved, np.roll(hole, (-3, 5), (0, 1)))


@pytest.mark.parametrize('kind', holes.KINDS)
def test_no_landmarks_means_the_mean_face(kind):
    unknown = holes.draw(kind, rng(1), (64, 64), None)
    np.testing.assert_array_equal(
        unknown, holes.draw(kind, rng(1), (64, 64), mean_landmarks((64, 64)))
    )


@pytest.mark.parametrize('kind', FACE_KINDS)
@pytest.mark.parametrize('change', [
    lambda p: p + 1e4, lambda p: p * 1e6 - 3e7, lambda p: p * 0, lambda p: (p - 32) * 8 + 32,
])  # fmt: skip
def test_a_face_that_cannot_lead_still_gives_a_hole(kind, change):
    points = change(mean_landmarks((64, 64)).astype(np.float64))
    for seed in range(5):
        hole = holes.draw(kind, rng(seed), (64, 64), points)
        assert holes.MIN_SHARE <= hole.mean() <= holes.MAX_SHARE


@pytest.mark.parametrize('kind', FACE_KINDS)
def test_a_face_outside_the_frame_gives_way_to_the_mean_face(kind):
    mean = mean_landmarks((64, 64))
    inside = draw_hull(mean, (64, 64), extended=True, dilate=9)
    centre = holes.draw('centre', rng(), (64, 64))
    for seed in range(5):
        hole = holes.draw(kind, rng(seed), (64, 64), mean + 200)
        assert (hole <= inside).all() and not np.array_equal(hole, centre)


def test_landmarks_are_not_changed():
    points = mean_landmarks((64, 64))
    before = points.copy()
    for kind in holes.KINDS:
        holes.draw(kind, rng(), (64, 64), points)
    np.testing.assert_array_equal(points, before)


@pytest.mark.parametrize(('side', 'block'), [(64, 8), (128, 16)])
def test_blocks_are_whole_and_aligned(side, block):
    widest = 0
    for seed in range(20):
        hole = holes.draw('blocks', rng(seed), (side, side))[:, :, 0]
        cells = hole.reshape(8, block, 8, block).mean((1, 3))
        assert set(np.unique(cells)) == {0, 1}
        widest = max(widest, int(cells.sum(1).max()))
    assert widest > 4


def test_scratches_and_letters_are_thin_and_spread_out():
    for kind in ('scratches', 'text'):
        for seed in range(20):
            hole = holes.draw(kind, rng(seed), (64, 64))[:, :, 0]
            core = cv2.erode(hole, np.ones((5, 5), np.uint8))
            assert core.sum() < 0.1 * hole.sum()
            assert max(np.ptp(np.nonzero(hole), axis=1)) > 24


def test_mixture_follows_its_weights():
    weights = {'mouth': 2.0, 'none': 1.0, 'rectangle': 5.0, 'centre': 0.0, 'nose': 2.0}
    generator = rng(7)
    count = np.zeros(len(holes.KINDS))
    draws = 3000
    for _ in range(draws):
        hole, index = holes.draw_mixture(weights, generator, (32, 32))
        assert hole.any() == (holes.KINDS[index] != 'none')
        count[index] += 1
    share = np.array([weights.get(kind, 0) for kind in holes.KINDS]) / 10
    # Four standard deviations of a binomial share.
    assert (np.abs(count / draws - share) <= 4 * np.sqrt(share * (1 - share) / draws)).all()


def test_weights_need_no_order_and_no_sum():
    weights = {'mouth': 0.2, 'strokes': 0.5, 'text': 0.3}
    same = {kind: 10 * weights[kind] for kind in reversed(weights)}
    for index in range(20):
        one, kind_of_one = holes.fixed(3, index, weights, (64, 64))
        other, kind_of_other = holes.fixed(3, index, same, (64, 64))
        assert kind_of_one == kind_of_other
        np.testing.assert_array_equal(one, other)


def test_a_mixture_of_one_kind_is_that_kind():
    for kind in holes.KINDS:
        _, index = holes.draw_mixture({kind: 0.3}, rng(), (64, 64))
        assert holes.KINDS[index] == kind


@pytest.mark.parametrize('kinds', ['strokes', {'strokes': 1, 'blocks': 1}])
def test_fixed_holes_depend_on_seed_and_index_alone(kinds):
    forth = [holes.fixed(0, index, kinds, (64, 64)) for index in range(12)]
    back = [holes.fixed(0, index, kinds, (64, 64)) for index in reversed(range(12))][::-1]
    for (one, kind_of_one), (other, kind_of_other) in zip(forth, back, strict=True):
        assert kind_of_one == kind_of_other
        np.testing.assert_array_equal(one, other)
    assert len({hole.tobytes() for hole, _ in forth}) == 12
    assert not np.array_equal(forth[1][0], holes.fixed(1, 0, kinds, (64, 64))[0])


def test_fixed_names_the_kind():
    hole, index = holes.fixed(0, 9, 'eyes', (64, 64))
    assert holes.KINDS[index] == 'eyes'
    np.testing.assert_array_equal(hole, holes.draw('eyes', rng([0, 9]), (64, 64)))


def test_errors_name_the_fault_and_the_mend():
    with pytest.raises(ValueError, match=r"'center'.*none, centre, .*blocks"):
        holes.draw('center', rng(), (64, 64))
    with pytest.raises(ValueError, match=r"'center'.*none, centre, .*blocks"):
        holes.fixed(0, 0, 'center', (64, 64))
    with pytest.raises(ValueError, match=r"'eye', 'lip'.*none, centre, .*blocks"):
        holes.draw_mixture({'lip': 1, 'mouth': 1, 'eye': 0}, rng(), (64, 64))
    for weights in ({}, {'mouth': 0}, {'mouth': 1, 'nose': -0.1}, {'mouth': np.nan}):
        with pytest.raises(ValueError, match='not all 0'):
            holes.draw_mixture(weights, rng(), (64, 64))
    with pytest.raises(ValueError, match='at least 16'):
        holes.draw('centre', rng(), (8, 64))
    with pytest.raises(ValueError, match='seed=-1'):
        holes.fixed(-1, 0, 'centre', (64, 64))
    with pytest.raises(ValueError, match='index=-4'):
        holes.fixed(0, -4, 'centre', (64, 64))
    for kind in holes.KINDS[1:]:
        with pytest.raises(ValueError, match='not finite'):
            holes.draw(kind, rng(), (64, 64), np.full((68, 2), np.nan))
        with pytest.raises(ValueError, match=r'expected \(68, 2\)'):
            holes.draw(kind, rng(), (64, 64), np.zeros((5, 2)))
