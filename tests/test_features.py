"""The image algebra: exact ranges, composite, crops, and what `prepare` hides."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fi_jax import features, landmarks
from fi_jax.state import example_batch

crop_at = jax.jit(features.crop_at, static_argnums=2)
prepare = jax.jit(features.prepare)


def raw_batch(res=16, rows=2):
    """A batch of the pipeline: noise, a square hole, a square face."""
    rng = np.random.default_rng(0)
    batch = example_batch(res, rows)
    batch['image'] = rng.integers(0, 256, batch['image'].shape).astype(np.uint8)
    batch['hole'][:, 4:12, 2:9] = 1
    batch['face_mask'][:, 3:14, 3:14] = 1
    batch['landmark_map'][:, 5, 5] = 1
    return batch


# ------------------------------------------------------------------------------ ranges


def test_bytes_survive_the_way_to_float_and_back():
    values = np.arange(256, dtype=np.uint8)
    floats = features.to_float(values)
    assert floats.dtype == jnp.float32
    assert (float(floats[0]), float(floats[255])) == (-1.0, 1.0)
    np.testing.assert_array_equal(features.to_uint8(floats), values)
    # Compiled as one, XLA may turn the division into a product.
    there_and_back = jax.jit(lambda x: features.to_uint8(features.to_float(x)))
    np.testing.assert_array_equal(there_and_back(values), values)


def test_to_uint8_rounds_to_nearest_and_clips():
    values = jnp.array([-7.0, -1.0, 7.0, 0.4 / 127.5, 0.6 / 127.5])
    np.testing.assert_array_equal(features.to_uint8(values), [0, 0, 255, 128, 128])
    # Halfway is 127.5: the step to 127 lies just below 0.
    np.testing.assert_array_equal(features.to_uint8(jnp.array([-0.6 / 127.5])), [127])


def test_prepare_gives_the_ranges_of_the_vocabulary():
    raw = raw_batch()
    batch = prepare(raw)
    image = raw['image'] / 127.5 - 1.0
    np.testing.assert_allclose(batch['image'], image, atol=1e-6)
    for name in ('hole', 'face_mask', 'landmark_map'):
        assert batch[name].dtype == jnp.float32
        np.testing.assert_array_equal(batch[name], raw[name])
    np.testing.assert_array_equal(batch['masked'], np.where(raw['hole'], 0, batch['image']))
    np.testing.assert_array_equal(
        batch['face_part'], np.where(raw['face_mask'], batch['image'], -1)
    )
    for name in ('landmarks', 'has_landmarks', 'hole_kind', 'index', 'weight'):
        np.testing.assert_array_equal(batch[name], raw[name])


def test_masked_hides_what_is_in_the_hole():
    raw = raw_batch()
    other = raw | {'image': np.where(raw['hole'], 255 - raw['image'], raw['image'])}
    np.testing.assert_array_equal(prepare(raw)['masked'], prepare(other)['masked'])
    assert np.any(prepare(raw)['image'] != prepare(other)['image'])


def test_stack_has_eight_channels_in_minus_one_to_one():
    batch = prepare(raw_batch())
    names = ('image', 'landmark_map', 'face_mask', 'face_part')
    stack = features.stack(*(batch[name] for name in names))
    assert stack.shape == (2, 16, 16, 8)
    assert (float(stack.min()), float(stack.max())) == (-1.0, 1.0)
    for channel, name in ((3, 'landmark_map'), (4, 'face_mask')):
        np.testing.assert_array_equal(stack[..., channel : channel + 1], batch[name] * 2 - 1)
    np.testing.assert_array_equal(stack[..., :3], batch['image'])
    np.testing.assert_array_equal(stack[..., 5:], batch['face_part'])


# ------------------------------------------------------------------------------ composite


@pytest.mark.parametrize('dtype', [np.uint8, np.float32])
def test_composite_is_bit_exact(dtype):
    rng = np.random.default_rng(0)
    output, image = (
        (rng.random((2, 8, 8, 3)) * (255 if dtype == np.uint8 else 1)).astype(dtype) for _ in '12'
    )
    hole = rng.integers(0, 2, (2, 8, 8, 1)).astype(np.uint8)
    out = np.asarray(features.composite(output, image, hole))
    where = np.broadcast_to(hole > 0, out.shape)
    assert out.dtype == dtype
    np.testing.assert_array_equal(out[where], output[where])
    np.testing.assert_array_equal(out[~where], image[~where])


def test_composite_lets_no_gradient_and_no_nan_out_of_the_visible_pixels():
    image = jnp.full((1, 4, 4, 3), 0.5)
    hole = jnp.zeros((1, 4, 4, 1)).at[0, 1, 1].set(1.0)
    output = jnp.where(hole > 0, 0.25, jnp.nan)
    assert np.isfinite(features.composite(output, image, hole)).all()
    grad = jax.grad(lambda y: features.composite(y, image, hole).sum())(image)
    np.testing.assert_array_equal(grad, np.broadcast_to(hole, grad.shape))


# ------------------------------------------------------------------------------ crop at the hole


def test_crop_at_is_slicing():
    x = np.random.default_rng(0).normal(size=(3, 12, 16, 2)).astype(np.float32)
    centre = np.array([[6, 8], [4, 11], [5, 5]], np.float32)
    crop = crop_at(x, centre, 6)
    for i, (y, w) in enumerate(centre.astype(int)):
        np.testing.assert_array_equal(crop[i], x[i, y - 3 : y + 3, w - 3 : w + 3])


@pytest.mark.parametrize(
    ('centre', 'top', 'left'),
    [((0, 0), 0, 0), ((-50, 99), 0, 10), ((11, 15), 6, 10), ((2.9, 3.2), 0, 0), ((9.0, 3.6), 6, 1)],
)
def test_crop_at_stays_in_the_frame(centre, top, left):
    x = np.random.default_rng(0).normal(size=(1, 12, 16, 2)).astype(np.float32)
    crop = crop_at(x, np.array([centre], np.float32), 6)
    np.testing.assert_array_equal(crop, x[:, top : top + 6, left : left + 6])


def test_crop_at_of_the_whole_frame_is_the_image():
    x = np.random.default_rng(0).normal(size=(1, 8, 8, 3)).astype(np.float32)
    np.testing.assert_array_equal(crop_at(x, np.array([[1.0, 6.0]], np.float32), 8), x)


def test_crop_at_passes_its_gradient_back_to_the_window():
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype(np.float32)
    centre = np.array([[4, 4], [0, 7]], np.float32)
    weight = np.random.default_rng(1).normal(size=(2, 4, 4, 1)).astype(np.float32)
    grad = jax.grad(lambda x: (features.crop_at(x, centre, 4) * weight).sum())(x)
    expected = np.zeros_like(x)
    expected[0, 2:6, 2:6], expected[1, :4, 4:] = weight
    np.testing.assert_array_equal(grad, expected)


def test_hole_centre_is_the_centroid_and_the_middle_of_the_frame_where_there_is_none():
    hole = np.zeros((3, 8, 12, 1), np.float32)
    hole[0, 2:5, 6:8] = 1
    hole[1, 0, 0] = 1
    np.testing.assert_allclose(
        features.hole_centre(jnp.asarray(hole)), [[3, 6.5], [0, 0], [3.5, 5.5]]
    )


def test_the_local_crop_of_a_centred_hole_is_the_hole():
    hole = np.zeros((1, 16, 16, 1), np.float32)
    hole[:, 4:12, 4:12] = 1
    crop = crop_at(hole, features.hole_centre(jnp.asarray(hole)), 8)
    np.testing.assert_array_equal(crop, 1)


@pytest.mark.parametrize('size', [(32, 48), (64, 64), (256, 256)])
def test_landmarks_are_drawn_on_device_as_on_the_host(size):
    points = np.random.default_rng(0).uniform(-4, max(size) + 4, (3, 68, 2)).astype(np.float32)
    points[0, :4] = np.rint(points[0, :4])  # pixel centres, and the disc's edge
    ours = features.draw_landmarks(jnp.asarray(points), size)
    for row, expected in enumerate(points):
        np.testing.assert_array_equal(ours[row], landmarks.draw_points(expected, size))


def test_a_condition_is_zero_where_no_landmarks_are_given():
    points = jnp.asarray(landmarks.mean_landmarks((64, 64)))[None].repeat(2, 0)
    points = points.at[1].set(jnp.nan)
    maps = features.condition_maps(points, jnp.array([1.0, 0.0]), (64, 64))
    assert maps.shape == (2, 64, 64, features.CONDITION_CHANNELS)
    np.testing.assert_array_equal(maps[0, ..., -1], 1)
    np.testing.assert_array_equal(maps[1], 0)


@pytest.mark.parametrize('side', [64, 256])
def test_each_region_has_a_map_of_its_own_that_tells_places_between_pixels(side):
    points = landmarks.mean_landmarks((side, side))
    maps = np.asarray(
        features.condition_maps(jnp.asarray(points[None]), jnp.ones(1), (side, side))
    )[0]
    assert (maps[..., :-1].max((0, 1)) > 0.6).all()
    assert maps.min() >= 0 and maps.max() <= 1
    # Moving a region changes its map alone.
    for channel, region in enumerate(features.CONDITION_REGIONS):
        moved = points.copy()
        moved[region] += 0.3
        other = np.asarray(
            features.condition_maps(jnp.asarray(moved[None]), jnp.ones(1), (side, side))
        )[0]
        changed = np.abs(other - maps).max((0, 1)) > 1e-3
        np.testing.assert_array_equal(np.flatnonzero(changed), [channel])
    # The chin stands alone: the centre of its bump is the point.
    y, x = np.mgrid[:side, :side]
    near = maps[..., 0] * ((x - points[8, 0]) ** 2 + (y - points[8, 1]) ** 2 < (side / 24) ** 2)
    found = (x * near).sum() / near.sum(), (y * near).sum() / near.sum()
    np.testing.assert_allclose(found, points[8], atol=0.15 * side / 64)


def test_the_regions_of_the_condition_hold_each_point_once():
    np.testing.assert_array_equal(
        np.sort(np.concatenate(features.CONDITION_REGIONS)), np.arange(68)
    )


@pytest.mark.parametrize('side', [64, 256])
def test_nearness_to_landmarks_falls_from_each_point_alike_at_each_size(side):
    points = np.full((1, 68, 2), -10.0 * side, np.float32)
    points[0, 30] = side // 2, side // 4
    near = np.asarray(features.near_landmarks(jnp.asarray(points), (side, side)))[0, ..., 0]
    assert near[side // 4, side // 2] == pytest.approx(1)
    y, x = np.mgrid[:side, :side]
    away = np.hypot(x - side // 2, y - side // 4) / (side / 20)
    np.testing.assert_allclose(near, np.exp(-(away**2)), atol=1e-5)
    points[0, 31] = points[0, 30]  # two at one place: still no more than 1
    assert features.near_landmarks(jnp.asarray(points), (side, side)).max() == pytest.approx(1)
