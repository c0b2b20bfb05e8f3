"""The loader: one stream of batches for any number of hosts, exact resume, geometry, bad images."""

import contextlib
import dataclasses
import multiprocessing
import os
import signal

import cv2
import numpy as np
import pytest

from fi_jax.input_pipeline import holes, loader
from fi_jax.input_pipeline.procedural.faces import ProceduralFaces
from fi_jax.input_pipeline.records import BadImage, Record
from fi_jax.input_pipeline.workers import WorkerLost
from fi_jax.state import example_batch

FACES = 20  # so that batches of 8 cross the epoch's end in the third step
BATCH = 8


class Records(list):
    """A list of records is a source."""


@pytest.fixture(scope='module')
def faces():
    return Records(ProceduralFaces(FACES, size=32)[i] for i in range(FACES))


@pytest.fixture
def config(tiny_config):
    config = tiny_config('stage1')
    config.batch_size = BATCH
    return config


def take(source, config, steps, process=0, count=1, state=None, workers=0):
    """The first batches of a host, and the iterator's state after each."""
    source = loader.SkipBadImages(source, config.data.max_bad_share)
    iterator = loader.train_iterator(source, config, process, count, workers)
    with contextlib.closing(iterator):
        if state is not None:
            iterator.set_state(state)
        out = [(dict(next(iterator)), iterator.get_state()) for _ in range(steps)]
    return [batch for batch, _ in out], [state for _, state in out]


def same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def by_index(batches):
    """index -> example; a later one replaces an earlier one."""
    return {
        int(index): {name: value[row] for name, value in batch.items()}
        for batch in batches
        for row, index in enumerate(batch['index'])
        if batch.get('weight', np.ones(len(batch['index'])))[row]
    }


# ------------------------------------------------------------------------------ the stream


@pytest.mark.parametrize('hosts', [2, 4])
def test_global_batches_hold_the_same_examples_for_any_number_of_hosts(faces, config, hosts):
    alone, _ = take(faces, config, 6)  # 48 examples: past two ends of an epoch
    parts = [take(faces, config, 6, process, hosts)[0] for process in range(hosts)]
    for step, batch in enumerate(alone):
        together = by_index([part[step] for part in parts])
        assert together.keys() == by_index([batch]).keys()
        for index, example in by_index([batch]).items():
            same(example, together[index])


@pytest.mark.parametrize('hosts', [2, 4])
def test_global_batches_keep_their_order_for_any_number_of_hosts(faces, config, hosts):
    """The shares stand one after the other in the global array, and the noise of the losses is
    drawn by row: in another order, two hosts would train another network than one."""
    alone, _ = take(faces, config, 3)
    parts = [take(faces, config, 3, process, hosts)[0] for process in range(hosts)]
    for step, batch in enumerate(alone):
        together = np.concatenate([part[step]['index'] for part in parts])
        np.testing.assert_array_equal(together, batch['index'])


def test_each_epoch_holds_each_image_once(faces, config):
    batches, _ = take(faces, config, 5)
    order = np.concatenate([batch['index'] for batch in batches])
    assert sorted(order[:FACES]) == sorted(order[FACES : 2 * FACES]) == list(range(FACES))
    assert list(order[:FACES]) != list(order[FACES : 2 * FACES])
    assert list(order[:FACES]) != list(range(FACES))


@pytest.mark.parametrize('hosts', [1, 2])
def test_the_state_is_the_step(faces, config, hosts):
    _, states = take(faces, config, 4, hosts - 1, hosts)
    assert states == [{'next_index': k} for k in (1, 2, 3, 4)]


def test_resume_gives_the_batches_that_would_have_come(faces, config):
    batches, states = take(faces, config, 5)
    for step in (1, 3):  # within an epoch, and after its end
        resumed, _ = take(faces, config, 2, state=states[step - 1])
        for a, b in zip(resumed, batches[step : step + 2], strict=True):
            same(a, b)


def test_threads_change_nothing_and_seeds_do(faces, config):
    batches, _ = take(faces, config, 2)
    config.data.num_threads = 5
    for a, b in zip(take(faces, config, 2)[0], batches, strict=True):
        same(a, b)
    config.seed = 1
    assert np.any(take(faces, config, 1)[0][0]['index'] != batches[0]['index'])


def test_a_batch_that_does_not_divide_by_the_hosts_is_refused(faces, config):
    with pytest.raises(ValueError, match=r'config\.batch_size=8 does not divide by 3 hosts'):
        loader.train_iterator(loader.SkipBadImages(faces, 0.0), config, 0, 3)


def test_batches_of_an_evaluation_have_the_shapes_that_the_state_is_made_for(faces, config):
    expected = {k: (v.shape, v.dtype) for k, v in example_batch(config.res, BATCH).items()}
    examples = loader.EvalExamples(faces, config, 'mixture', BATCH, BATCH)
    for batch in loader.eval_batches(examples, config, BATCH):
        assert {k: (v.shape, v.dtype) for k, v in batch.items()} == expected
        for name in ('hole', 'face_mask', 'landmark_map'):
            assert set(np.unique(batch[name])) <= {0, 1}
        shares = batch['hole'].mean(axis=(1, 2, 3))
        empty = batch['hole_kind'] == holes.KINDS.index('none')
        np.testing.assert_array_equal(shares == 0, empty)


# ------------------------------------------------------------------------------ processes


@pytest.mark.parametrize('workers', [1, 2, 4])
def test_processes_change_nothing_and_resume_anywhere(faces, config, workers):
    """Begun by threads, gone on with by processes, whose number no state knows."""
    batches, states = take(faces, config, 6)
    read, positions = take(faces, config, 6 - workers, state=states[workers - 1], workers=workers)
    for a, b in zip(read, batches[workers:], strict=True):
        same(a, b)
    assert positions == states[workers:]


def test_a_host_s_processes_read_the_host_s_part(faces, config):
    batches, _ = take(faces, config, 2)
    parts = [take(faces, config, 2, process, 2, workers=2)[0] for process in range(2)]
    for step, batch in enumerate(batches):
        same(batch, {n: np.concatenate([part[step][n] for part in parts]) for n in batch})


def test_a_killed_process_is_named_at_once(faces, config):
    iterator = loader.train_iterator(loader.SkipBadImages(faces, 0.0), config, 0, 1, 2)
    with contextlib.closing(iterator):
        next(iterator)
        (victim,) = (p for p in multiprocessing.active_children() if p.name == 'data worker 1')
        os.kill(victim.pid, signal.SIGKILL)
        with pytest.raises(WorkerLost, match=rf'worker 1 of 2 \(process {victim.pid}\).*SIGKILL'):
            for _ in range(8):
                next(iterator)
    assert not [p for p in multiprocessing.active_children() if p.name.startswith('data worker')]


def test_an_error_in_a_process_is_raised_and_its_bad_images_are_counted(faces, config):
    config.data.max_bad_share = 0.1
    source = loader.SkipBadImages(spoiled(faces, 3, 8), 0.1)
    with contextlib.closing(loader.train_iterator(source, config, 0, 1, 2)) as iterator:
        batches = [next(iterator) for _ in range(3)]
    assert sorted(source.bad) == [3, 8]
    for a, b in zip(batches, take(spoiled(faces, 3, 8), config, 3)[0], strict=True):
        same(a, b)
    config.data.max_bad_share = 0.05
    with pytest.raises(BadImage, match='2 bad of 20 images and 1 are allowed'):
        take(spoiled(faces, 3, 8), config, 3, workers=2)


# ------------------------------------------------------------------------------ geometry


@pytest.mark.parametrize('res', [32, 89, 128])
@pytest.mark.parametrize('size', [(109, 89), (90, 111), (178, 218), (89, 89)])
def test_landmarks_follow_the_crop(size, res):
    """A bright disc and the landmark on it stay together, whatever the frame."""
    height, width = size
    points = np.tile(np.float32([width / 2, height / 2]), (68, 1))
    for x, y in ((0.5, 0.5), (0.3, 0.42), (0.61, 0.7)):
        centre = np.float32([width * x, height * y])
        grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1)
        disc = np.exp(-((grid - centre) ** 2).sum(-1) / (2 * (min(size) / 16) ** 2))
        image = np.repeat((255 * disc).round().astype(np.uint8)[..., None], 3, 2)
        points[7] = centre
        cut, moved = loader.square(image, points, res)
        assert cut.shape == (res, res, 3)
        assert moved.dtype == np.float32
        weight = cut[..., 0].astype(np.float64)
        seen = [(weight.sum(axis) * np.arange(res)).sum() / weight.sum() for axis in (0, 1)]
        np.testing.assert_allclose(moved[7], seen, atol=0.1)


def test_a_crop_of_its_own_size_copies_pixels():
    image = np.random.default_rng(0).integers(0, 256, (109, 89, 3)).astype(np.uint8)
    cut, points = loader.square(image, np.zeros((68, 2), np.float32), 89)
    np.testing.assert_array_equal(cut, image[10:99])
    np.testing.assert_allclose(points, np.tile([0, -10], (68, 1)))
    assert loader.square(image, None, 89)[1] is None


def framed(source, frame):
    frame = np.array(frame, np.float32)
    return Records(dataclasses.replace(record, frame=frame) for record in source)


@pytest.mark.parametrize('frame', [(4, 8, 16), (-4, -8, 48), (0.125, 0.25, 0.5)])
def test_a_record_s_own_frame_is_cut_in_training_and_evaluation(faces, config, frame):
    """Pixels and points agree with the centred square of a photo cut by hand."""
    config.data.flip = False
    left, top, side = (int(32 * v) for v in frame) if frame[2] <= 1 else frame
    by_hand = Records()
    for record in faces:
        wide = cv2.copyMakeBorder(record.image, 16, 16, 16, 16, cv2.BORDER_REPLICATE)
        cut = wide[16 + top : 16 + top + side, 16 + left : 16 + left + side]
        points = record.landmarks - np.float32([left, top])
        by_hand.append(dataclasses.replace(record, image=cut, landmarks=points))
    ours = framed(faces, frame)
    training, _ = take(ours, config, 3)
    for one, other in zip(training, take(by_hand, config, 3)[0], strict=True):
        same(one, other)
    one, other = (loader.EvalExamples(s, config, 'centre', 0, 4, True) for s in (ours, by_hand))
    same(one[3] | {'frame': 0}, other[3] | {'frame': 0})
    back = loader.unsquare(one[3]['landmarks'], one[3]['frame'], 32)
    np.testing.assert_allclose(back, faces[3].landmarks, atol=1e-4)


def test_between_two_frames_training_draws_and_evaluation_takes_the_first(faces, config):
    config.data.flip = False
    wide, tight = (0, 0, 32), (8, 8, 16)
    batches, _ = take(framed(faces, (wide, tight)), config, 4)
    again, _ = take(framed(faces, (wide, tight)), config, 4)
    eyes = []
    for batch, repeated in zip(batches, again, strict=True):
        same(batch, repeated)
        for index, example in by_index([batch]).items():
            stored, seen = faces[index].landmarks, example['landmarks']
            eyes.append(np.ptp(seen[[36, 45]], axis=0)[0] / np.ptp(stored[[36, 45]], axis=0)[0])
    assert min(eyes) >= 1 and max(eyes) <= 2 and np.std(eyes) > 0.2
    both, first = (
        loader.EvalExamples(framed(faces, f), config, 'mixture', 0, 4)[5]
        for f in ((wide, tight), wide)
    )
    same(both, first)


def test_a_margin_shows_what_lies_around_the_frame(faces, config):
    """Out of it the devices move the frame; within it the photo is as without."""
    config.data.augment.update(rotate=10.0, scale=0.1, shift=0.1)
    ours, by_hand = framed(faces, (8, 8, 16)), framed(faces, (0, 0, 32))
    batch = take(ours, config, 1)[0][0]
    side = batch['image'].shape[1]
    margin = (side - 32) // 2
    assert batch['image'].shape == (BATCH, side, side, 3) and margin >= 5
    config.data.augment.update(rotate=0.0, scale=0.0, shift=0.0)
    plain = take(ours, config, 1)[0][0]
    wide = take(by_hand, config, 1)[0][0]
    for row in range(BATCH):
        # The stored pixels around the 16 of the frame, twice as large.
        seen = cv2.resize(batch['image'][row], (side // 2, side // 2), interpolation=cv2.INTER_AREA)
        stored = wide['image'][row][
            16 - side // 4 : 16 + side // 4, 16 - side // 4 : 16 + side // 4
        ]
        assert np.abs(seen.astype(int) - stored).mean() < 12
    middle = batch['image'][:, margin:-margin, margin:-margin]
    assert np.abs(middle.astype(int) - plain['image']).mean() < 6
    np.testing.assert_allclose(batch['landmarks'] - margin, plain['landmarks'], atol=0.6)


def test_the_forehead_is_added_by_config(faces, config):
    config.data.hull = 'face68'
    plain = loader.EvalExamples(faces, config, 'none', 1, 1)[0]['face_mask']
    config.data.hull = 'extended'
    wide = loader.EvalExamples(faces, config, 'none', 1, 1)[0]['face_mask']
    assert np.all(wide >= plain)
    assert wide.sum() > plain.sum()


def test_a_face_without_landmarks_has_blank_maps_and_a_hole_all_the_same(faces, config):
    bare = Records(dataclasses.replace(face, landmarks=None) for face in faces)
    bare[3] = faces[3]
    for index, example in by_index(take(bare, config, 3)[0]).items():
        assert example['has_landmarks'] == example['landmarks'].any() == (index == 3)
    (batches,) = evaluate(bare, config, 4)[1]
    for index, example in by_index(batches).items():
        for name in ('landmarks', 'landmark_map', 'face_mask'):
            assert example[name].any() == (index == 3)
        assert example['hole'].any() == (holes.KINDS[example['hole_kind']] != 'none')
    # The kinds that follow a face follow the mean face.
    hole = loader.EvalExamples(bare, config, 'eyes', 1, 1)[0]['hole']
    assert 0 < hole.mean() < 0.5


def test_attributes_come_along_where_they_are_asked_for(faces, config):
    known = Records(
        dataclasses.replace(r, attributes={'Male': i % 2, 'Age': 20 + i} if i % 4 else None)
        for i, r in enumerate(faces)
    )
    assert not {'attributes', 'has_attributes'} & set(take(known, config, 1)[0][0])
    config.data.labels = 'Age,Male'
    trained = by_index(take(known, config, 3)[0])
    examples = loader.EvalExamples(known, config, 'centre', 0, 4)
    for i in range(FACES):
        for example in (trained[i], examples[i]):
            assert example['attributes'].tolist() == ([20 + i, i % 2] if i % 4 else [0, 0])
            assert example['has_attributes'].tolist() == [float(i % 4 > 0)] * 2
    config.data.labels = 'Age,Smiling'
    with pytest.raises(ValueError, match=r"no image has 'Smiling'; there are \['Age', 'Male'\]"):
        take(known, config, 1)


# ------------------------------------------------------------------------------ evaluation


def evaluate(source, config, batch_size, kind='mixture', limit=0, hosts=1):
    examples = loader.EvalExamples(source, config, kind, limit, batch_size)
    shares = [
        list(loader.eval_batches(examples, config, batch_size, process, hosts))
        for process in range(hosts)
    ]
    return examples, shares


@pytest.mark.parametrize('hosts', [1, 2])
@pytest.mark.parametrize('batch_size', [4, 6])
def test_evaluation_examples_depend_on_seed_and_index_alone(faces, config, batch_size, hosts):
    _, (reference,) = evaluate(faces, config, 5)
    reference = by_index(reference)
    assert sorted(reference) == list(range(FACES))
    _, shares = evaluate(faces, config, batch_size, hosts=hosts)
    found = by_index([batch for share in shares for batch in share])
    assert found.keys() == reference.keys()
    for index in found:
        same(found[index], reference[index])


def test_evaluation_holes_are_the_fixed_ones_and_change_with_the_seed(faces, config):
    _, (batches,) = evaluate(faces, config, 4)
    weights = config.data.holes.to_dict()
    for index, example in by_index(batches).items():
        hole, kind = holes.fixed(config.seed, index, weights, (32, 32), faces[index].landmarks)
        np.testing.assert_array_equal(example['hole'], hole)
        assert example['hole_kind'] == kind
        np.testing.assert_array_equal(example['image'], faces[index].image)
    config.seed = 1
    _, (others,) = evaluate(faces, config, 4)
    assert any(np.any(a['hole'] != b['hole']) for a, b in zip(batches, others, strict=True))


def test_evaluation_of_one_kind(faces, config):
    _, (batches,) = evaluate(faces, config, 4, kind='mouth')
    assert {int(k) for b in batches for k in b['hole_kind']} == {holes.KINDS.index('mouth')}


@pytest.mark.parametrize(('limit', 'count'), [(0, 20), (10, 10), (99, 20), (16, 16)])
@pytest.mark.parametrize('hosts', [1, 2])
def test_the_last_batch_is_filled_with_rows_of_no_weight(faces, config, limit, count, hosts):
    examples, shares = evaluate(faces, config, 8, limit=limit, hosts=hosts)
    assert examples.count == count
    sizes = {len(batch['index']) for share in shares for batch in share}
    assert sizes == {8 // hosts}
    assert len({len(share) for share in shares}) == 1  # else hosts would wait for ever
    weights = np.concatenate([batch['weight'] for share in shares for batch in share])
    assert set(weights) <= {0.0, 1.0}
    assert weights.sum() == count
    real = by_index([batch for share in shares for batch in share])
    assert sorted(real) == list(range(count))


# ------------------------------------------------------------------------------ bad images


def spoiled(faces, *bad):
    out = Records(faces)
    for index in bad:
        out[index] = Record(b'no image', f'bad_{index}.jpg')
    return out


def test_bad_images_are_replaced_by_their_neighbour_counted_and_named(faces):
    source = loader.SkipBadImages(spoiled(faces, 3, 4, 19), 0.15)  # 3 of 20 are allowed
    for index, stand_in in ((3, 5), (4, 5), (19, 0), (7, 7)):
        given, record, pixels = source[index]
        assert given == index
        assert record.name == faces[stand_in].name
        np.testing.assert_array_equal(pixels, faces[stand_in].image)
    assert sorted(source.bad) == [3, 4, 19]
    assert all(f'bad_{index}.jpg' in message for index, message in source.bad.items())


def test_a_training_stream_goes_on_over_bad_images(faces, config):
    config.data.max_bad_share = 0.1
    examples = by_index(take(spoiled(faces, 3, 8), config, 3)[0])
    config.data.max_bad_share = 0.0
    clean = by_index(take(faces, config, 3)[0])
    assert examples.keys() == clean.keys() == set(range(FACES))
    for index in set(clean) - {3, 8}:
        same(examples[index], clean[index])


def test_too_many_bad_images_are_one_clear_error(faces, config):
    source = loader.SkipBadImages(spoiled(faces, 3, 8), 0.05)
    source[3]
    message = r'^bad_8\.jpg: .*That makes 2 bad of 20 images and 1 are allowed; .*max_bad_share$'
    with pytest.raises(BadImage, match=message):
        source[8]
    config.data.max_bad_share = 0.0
    with pytest.raises(BadImage, match=r'bad_3\.jpg.*1 bad of 20 images and 0 are allowed'):
        take(spoiled(faces, 3), config, 3)
    with pytest.raises(BadImage, match=r'bad_0\.jpg.*0 are allowed'):
        evaluate(spoiled(faces, 0), config, 4)


def test_what_stands_in_for_a_bad_image_counts_for_nothing_in_an_evaluation(faces, config):
    broken = Records(faces)
    broken[3] = dataclasses.replace(faces[3], image=b'broken')
    examples = loader.EvalExamples(broken, config, 'centre', 0, 8, max_bad_share=0.05)
    whole = loader.EvalExamples(faces, config, 'centre', 0, 8)
    for i in range(len(whole)):
        if i == 3:
            assert examples[i]['weight'] == 0 and set(examples.bad) == {3}
        else:
            same(examples[i], whole[i])


def test_nothing_but_bad_images_is_one_clear_error(faces):
    with pytest.raises(BadImage, match=r'bad_\d+\.jpg'):
        loader.SkipBadImages(spoiled(faces, *range(FACES)), 1.0)[0]


def test_encoded_images_are_decoded(faces, config):
    encoded = Records(
        dataclasses.replace(face, image=cv2.imencode('.png', face.image[..., ::-1])[1].tobytes())
        for face in faces
    )
    for a, b in zip(take(encoded, config, 1)[0], take(faces, config, 1)[0], strict=True):
        same(a, b)
