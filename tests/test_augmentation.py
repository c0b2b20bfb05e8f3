"""Augmentation on the devices: who decides an example, geometry, holes like those of the host."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import landmarks, stage1
from fi_jax import augmentation, sharding
from fi_jax import landmarks as lm
from fi_jax.augmentation import holes, looks, places
from fi_jax.augmentation.draws import Draws
from fi_jax.features import draw_hull, sample_at
from fi_jax.input_pipeline import holes as host
from fi_jax.input_pipeline import reading
from fi_jax.input_pipeline.procedural.faces import ProceduralFaces
from fi_jax.state import example_batch

ROWS = 8


@pytest.fixture(scope='module')
def config():
    config = stage1.get_config('tiny')
    config.batch_size, config.data.augment.expression_warp = ROWS, 0.4
    return config


@pytest.fixture(scope='module')
def batches(config):
    source = reading.SkipBadImages(ProceduralFaces(20, size=32), 0.0)
    steps = reading.Steps(source, config)
    return [steps[k] for k in range(6)]


def augmented(config, batch, devices=1):
    mesh = sharding.make_mesh(devices=jax.devices()[:devices])
    augment = augmentation.make_augment(config, mesh)
    return jax.device_get(augment(sharding.shard_batch(batch, mesh)))


def rows_of(batch):
    return {int(i): {n: x[row] for n, x in batch.items()} for row, i in enumerate(batch['index'])}


def same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


# -------------------------------------------------------------------------- who decides


def test_a_batch_has_the_shapes_and_types_that_the_state_is_made_for(config, batches):
    expected = {k: (v.shape, v.dtype) for k, v in example_batch(config.res, ROWS).items()}
    batch = augmented(config, batches[0])
    assert {k: (v.shape, v.dtype) for k, v in batch.items()} == expected
    for name in ('hole', 'face_mask', 'landmark_map'):
        assert set(np.unique(batch[name])) <= {0, 1}
    empty = batch['hole_kind'] == host.KINDS.index('none')
    np.testing.assert_array_equal(batch['hole'].any((1, 2, 3)), ~empty)


@pytest.mark.parametrize('devices', [2, 4])
def test_devices_and_the_order_of_a_batch_change_nothing(config, batches, devices):
    whole = augmented(config, batches[0])
    parted = augmented(config, batches[0], devices)
    # A warped face's pixels: a compiler may round a sum of another loop otherwise.
    image = parted.pop('image').astype(int) - whole['image']
    assert np.abs(image).max() <= 1 and np.mean(image != 0) < 1e-3
    same(parted, {n: x for n, x in whole.items() if n != 'image'})
    order = np.random.default_rng(0).permutation(ROWS)
    mixed = augmented(config, {n: x[order] for n, x in batches[0].items()})
    same(mixed, {n: x[order] for n, x in whole.items()})


def test_each_epoch_and_each_seed_draw_anew(config, batches):
    first = augmented(config, batches[0])
    later = augmented(config, batches[0] | {'epoch': batches[0]['epoch'] + 1})
    other = config.copy_and_resolve_references()
    other.seed = 1
    for changed in (later, augmented(other, batches[0])):
        pair = first['hole'], changed['hole']
        assert np.mean([np.any(a != b) for a, b in zip(*pair, strict=True)]) > 0.5


def test_all_at_once_as_one_by_one(config, batches):
    """As an accelerator draws them: the same choices; sums may be rounded otherwise."""
    config = config.copy_and_resolve_references()
    config.data.augment.update(
        expression_warp=0.4, rotate=20.0, colour=0.3, blur=1.0, occlusion=0.4
    )
    batch = reading.Steps(reading.SkipBadImages(ProceduralFaces(20, size=32), 0.0), config)[0]
    bank = holes.bank(holes.BANKED, 32, 0)
    example = augmentation.make_example(config)
    together = jax.jit(jax.vmap(example, (None, 0)))(bank, batch)
    apart = augmented(config, batch)
    for name in ('hole_kind', 'index', 'has_landmarks'):
        np.testing.assert_array_equal(together[name], apart[name])
    np.testing.assert_allclose(together['landmarks'], apart['landmarks'], atol=1e-3)
    assert np.mean(together['hole'] != apart['hole']) < 1e-3
    away = np.abs(together['image'].astype(int) - apart['image'])
    assert away.max() <= 2 and away.mean() < 0.01


# -------------------------------------------------------------------------- geometry


def test_flips_mirror_the_image_and_renumber_the_points(config, batches):
    config = config.copy_and_resolve_references()
    config.data.augment.expression_warp = 0.0
    flipped = 0
    for batch in batches[:3]:
        seen = augmented(config, batch)
        for read, x in zip(rows_of(batch).values(), rows_of(seen).values(), strict=True):
            turned = not np.array_equal(x['image'], read['image'])
            flipped += turned
            points = lm.flip(read['landmarks'], 32) if turned else read['landmarks']
            image = read['image'][:, ::-1] if turned else read['image']
            np.testing.assert_array_equal(x['image'], image)
            np.testing.assert_allclose(x['landmarks'], points, atol=1e-5)
            drawn = lm.draw_points(x['landmarks'], (32, 32))
            np.testing.assert_array_equal(x['landmark_map'], drawn)
    assert 4 < flipped < 20
    config.data.flip = False
    np.testing.assert_array_equal(augmented(config, batches[0])['image'], batches[0]['image'])


def amounts(**given):
    none = dict(
        rotate=0,
        scale=0,
        shift=0,
        unmoved=0,
        expression_warp=0,
        colour=0,
        blur=0,
        noise=0,
        occlusion=0,
    )
    return ConfigDict(none | given)


def dots(points, size):
    """A picture with a soft bright disc at each point."""
    image = np.zeros((*size, 3), np.uint8)
    for x, y in points:
        cv2.circle(image, (round(float(x) * 16), round(float(y) * 16)), 48, (255,) * 3, -1, shift=4)
    return cv2.GaussianBlur(image, (0, 0), 1.5)


def centre_of_light(image, at, reach):
    x, y = (round(float(v)) for v in at)
    window = image[y - reach : y + reach + 1, x - reach : x + reach + 1, 0].astype(float)
    rows, columns = np.indices(window.shape)
    found = np.array([(columns * window).sum(), (rows * window).sum()]) / window.sum()
    return found + np.array([x, y]) - reach


def test_moved_points_stay_on_the_pixels_they_name_and_some_faces_in_place():
    config = landmarks.get_config()
    config.data.augment = amounts(rotate=30, scale=0.3, shift=0.1, unmoved=0.4)
    margin = reading.margin_of(config)
    side = 64 + 2 * margin
    points = np.full((68, 2), (side - 1) / 2, np.float32)
    points[:4] += np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * 14
    image = dots(points[:4], (side, side))
    place = jax.jit(
        lambda key: places.placed(
            image, points, np.array(True), False, config.data.augment, 64, Draws.of(key)
        )
    )
    inner, still = image[margin:-margin, margin:-margin], 0
    for seed in range(40):
        moved, at, _ = place(jax.random.key(seed))
        if np.array_equal(moved, inner):
            still += 1
            np.testing.assert_allclose(at, points - margin, atol=1e-4)
            continue
        for point in np.asarray(at[:4]):
            if min(*point, *(63 - point)) < 8:
                continue
            away = centre_of_light(np.asarray(moved), point, 5) - point
            assert np.abs(away).max() < 0.6
    assert 8 <= still <= 24


def test_a_warped_face_keeps_its_points_on_the_pixels_they_name():
    """The outer corners of eyes and mouth, the chin and the nose's tip, drawn as dots."""
    marked, points = [8, 30, 36, 45, 48, 54], lm.mean_landmarks((128, 128))
    image, farthest = dots(points[marked], (128, 128)), 0.0
    shown = jnp.asarray(image)
    warp = jax.jit(lambda key: places.warp(shown, points, places.expression(points, Draws.of(key))))
    for seed in range(20):
        warped, at = map(np.asarray, warp(jax.random.key(seed)))
        farthest = max(farthest, np.linalg.norm(at - points, axis=1).max())
        for point in at[marked]:
            if max(point) > 119:  # its dot may be cut off by the edge
                continue
            assert np.abs(centre_of_light(warped, point, 5) - point).max() < 1.0
    assert farthest > 4  # of 128 pixels: it is another expression


def test_a_warped_face_is_left_alone_far_from_its_points():
    image = np.random.default_rng(0).integers(256, size=(128, 128, 3), dtype=np.uint8)
    points = lm.mean_landmarks((128, 128))
    warped, _ = places.warp(image, points, places.expression(points, Draws.of(jax.random.key(0))))
    np.testing.assert_array_equal(warped[:30], image[:30])
    np.testing.assert_array_equal(warped[:, :8], image[:, :8])


def test_edits_are_those_of_the_topology():
    """They are taken as linear in the points, so one face tells for all."""
    points = lm.mean_landmarks((64, 64)) + np.random.default_rng(0).normal(0, 2, (68, 2))
    for name, edit in zip(lm.EDITS, places._EDITS, strict=True):
        moved = points + 0.7 * np.einsum('kpc,k->pc', edit, points.reshape(-1))
        np.testing.assert_allclose(moved, lm.edit(points, name, 0.7), atol=1e-4)


def test_sampling_between_pixels_is_that_of_opencv():
    generator = np.random.default_rng(0)
    image = generator.integers(256, size=(20, 24, 3), dtype=np.uint8)
    at = generator.uniform(-3, 26, (17, 11, 2)).astype(np.float32)
    expected = cv2.remap(
        image.astype(np.float32), at, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    # cv2 reads at 32nds of a pixel.
    assert np.abs(np.asarray(sample_at(image, at), float) - expected).mean() < 2
    whole = np.stack(np.meshgrid(np.arange(24), np.arange(20)), -1).astype(np.float32)
    np.testing.assert_array_equal(sample_at(image, whole), image)


# -------------------------------------------------------------------------- looks


def test_no_amounts_change_no_pixel():
    image = np.random.default_rng(0).integers(256, size=(32, 32, 3), dtype=np.uint8)
    draws = Draws.of(jax.random.key(0))
    assert looks.recoloured(image, amounts(), draws, jax.random.key(0)) is image


def test_colours_change_and_places_do_not():
    image = np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8)
    image = cv2.GaussianBlur(image, (0, 0), 3)
    change = jax.jit(
        lambda key: looks.recoloured(
            image, amounts(colour=0.3, blur=1.2, noise=12), Draws.of(key), key
        )
    )
    after = np.stack([change(jax.random.key(seed)) for seed in range(20)])
    assert after.dtype == np.uint8
    assert np.abs(after.astype(int) - image).mean((1, 2, 3)).min() > 0
    alike = [np.corrcoef(x.mean(-1).ravel(), image.mean(-1).ravel())[0, 1] for x in after]
    assert min(alike) > 0.5


def test_patches_hide_part_of_a_face():
    image = np.zeros((64, 64, 3), np.uint8)
    patch = jax.jit(lambda key: looks.recoloured(image, amounts(occlusion=0.5), Draws.of(key), key))
    shares = [np.asarray(patch(jax.random.key(seed))).any(-1).mean() for seed in range(60)]
    # A patch of a colour of the photo, here black, is not seen.
    assert 0.1 < np.mean(np.array(shares) > 0) < 0.6 and max(shares) < 0.3


# -------------------------------------------------------------------------- maps and holes


@pytest.mark.parametrize('size', [64, 128])
@pytest.mark.parametrize('extended', [False, True])
def test_the_hull_is_that_of_the_host_but_for_its_edge(size, extended):
    generator, areas = np.random.default_rng(0), []
    for _ in range(20):
        angle = generator.uniform(-0.5, 0.5)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        points = lm.mean_landmarks((size, size)) + generator.normal(0, size / 60, (68, 2))
        points = (points - size / 2) @ turn.T + size / 2 + generator.normal(0, size / 8, 2)
        points = points.astype(np.float32)
        ours = np.asarray(draw_hull(points, (size, size), extended=extended))
        theirs = lm.draw_hull(points, (size, size), extended=extended)[..., 0] > 0
        assert (ours & theirs).sum() / (ours | theirs).sum() > 0.95
        areas.append(ours.sum() / theirs.sum())
    assert abs(np.mean(areas) - 1) < 0.01


@pytest.mark.parametrize('kind', host.KINDS)
def test_holes_are_those_of_the_host(kind):
    """In the mean of many: where they lie, and how large they are."""
    count, size = 300, (64, 64)
    generator = np.random.default_rng(0)
    points = lm.mean_landmarks(size) + generator.normal(0, 1, (count, 68, 2)).astype(np.float32)
    draw = holes.make_draw({kind: 1.0}, {'none': 1.0}, 64)
    bank = jnp.asarray(holes.bank([kind], 64, 0))

    @jax.jit
    def many(points, keys):
        def one(x):
            return draw(x[0], np.array(True), np.array(False), bank, Draws.of(x[1]))[0]

        return jax.lax.map(one, (points, keys))

    keys = jax.vmap(jax.random.key)(np.arange(count))
    ours = np.asarray(many(points.astype(np.float32), keys))
    drawn = [host.draw(kind, np.random.default_rng(k), size, points[k]) for k in range(count)]
    theirs = np.array(drawn)[..., 0]
    shares = ours.mean((1, 2)), theirs.mean((1, 2))
    assert shares[0].mean() == pytest.approx(shares[1].mean(), rel=0.15, abs=1e-6)
    assert shares[0].std() == pytest.approx(shares[1].std(), rel=0.3, abs=3e-3)
    assert np.abs(ours.mean(0) - theirs.mean(0)).max() < 0.2
    assert np.abs(ours.mean(0) - theirs.mean(0)).mean() < 0.04
    if kind != 'none':
        assert shares[0].min() >= host.MIN_SHARE and shares[0].max() <= host.MAX_SHARE


def test_kinds_follow_the_weights_and_warped_faces_have_their_own():
    weights, warped_weights = {'mouth': 2.0, 'none': 1.0, 'centre': 5.0}, {'eyes': 1.0}
    draw = holes.make_draw(weights, warped_weights, 32)
    points = lm.mean_landmarks((32, 32))
    keys = jax.vmap(jax.random.key)(np.arange(800))

    @jax.jit
    def kinds(keys, warped):
        def one(key):
            return draw(points, np.array(True), warped, np.zeros(0, np.uint8), Draws.of(key))[1]

        return jax.lax.map(one, keys)

    found = np.asarray(kinds(keys, np.array(False)))
    for kind in host.KINDS:
        share = weights.get(kind, 0.0) / 8
        assert abs(np.mean(found == host.KINDS.index(kind)) - share) <= 4 * np.sqrt(share / 800)
    assert set(np.asarray(kinds(keys, np.array(True)))) == {host.KINDS.index('eyes')}
    with pytest.raises(ValueError, match="'lip'"):
        holes.make_draw({'lip': 1.0}, warped_weights, 32)


@pytest.mark.parametrize('change', [lambda p: p + 1e4, lambda p: p * 1e6 - 3e7, lambda p: p * 0])
def test_a_face_that_cannot_lead_gives_way_to_the_mean_face(change):
    points = change(lm.mean_landmarks((64, 64)))
    for kind in ('eyes', 'lower_half', 'half_face', 'whole_face'):
        draw = holes.make_draw({kind: 1.0}, {kind: 1.0}, 64)
        for known in (True, False):
            hole, _ = draw(
                points, np.array(known), np.array(False), np.zeros(0), Draws.of(jax.random.key(1))
            )
            assert host.MIN_SHARE <= np.mean(hole) <= host.MAX_SHARE


def test_faces_without_landmarks_have_blank_maps_are_not_warped_and_have_holes(config, batches):
    config = config.copy_and_resolve_references()
    config.data.augment.expression_warp, config.data.flip = 1.0, False
    config.data.warped_holes = {'none': 1.0}
    bare = batches[0] | {'has_landmarks': np.zeros(ROWS, np.float32)}
    batch = augmented(config, bare)
    for name in ('landmarks', 'landmark_map', 'face_mask'):
        assert not batch[name].any()
    np.testing.assert_array_equal(batch['image'], bare['image'])
    assert batch['hole'].any()
    assert not augmented(config, batches[0])['hole'].any()  # warped, all of them
