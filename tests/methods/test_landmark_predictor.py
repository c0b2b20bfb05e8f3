"""The landmark predictor: geometry, likelihoods, distributions of shapes, faults, mode predict."""

import json
import math
import zipfile

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import landmarks
from fi_jax import config as common
from fi_jax import features, sharding, steps
from fi_jax import landmarks as lm
from fi_jax.evaluation.tasks import evaluate_run
from fi_jax.input_pipeline import holes, loader
from fi_jax.methods import landmarks as method
from fi_jax.methods import make_method
from fi_jax.nets.landmark_predictor import MobileNetPredictor
from fi_jax.nets.shapes import DIM, Flow, LowRankMixture
from fi_jax.optim import make_optimizers
from fi_jax.predict import predict_run
from fi_jax.state import bind, init_state
from fi_jax.train import train_and_evaluate


def tiny():
    """The tiny config, in batches that eight devices share."""
    config = landmarks.get_config('tiny')
    config.batch_size = config.eval.batch_size = config.predict.batch_size = 8
    return config


@pytest.fixture(scope='module')
def config():
    return tiny()


@pytest.fixture(scope='module')
def made(config):
    """The method and a fresh state of the tiny config."""
    system = make_method(config)
    optimizers = make_optimizers(config, system.nets)
    return system, jax.jit(lambda: init_state(system, optimizers, config.res, 0))()


def batch_of(image, hole, points=None):
    """A batch of the pipeline of one image (res,res,3) uint8 under one hole (res,res,1)."""
    example = loader.face_maps(points, len(image), 'face68')
    example |= {'image': image, 'hole': hole, 'weight': np.float32(1)}
    example |= {'index': np.int32(0), 'hole_kind': np.int32(0)}
    return {name: np.asarray(x)[None] for name, x in example.items()}


# -------------------------------------------------------------------------------- configuration


def test_presets_are_what_is_run():
    for name, changes in method.PRESETS.items():
        flat = common.flat(landmarks.get_config(f'preset={name}'))
        assert all(flat[path] == value for path, value in changes.items()), name
    with pytest.raises(ValueError, match=r"preset=seed: choose from \['lafin', 'modern'\]"):
        landmarks.get_config('preset=seed')


@pytest.mark.parametrize(
    ('path', 'value'),
    [('net', 'large'), ('loss', 'l1'), ('shapes', ('cauchy',)), ('shapes', ('flow', 'flow'))],
)
def test_an_unknown_switch_is_named(path, value):
    config = landmarks.get_config('tiny')
    config.landmarks[path] = value
    with pytest.raises(ValueError, match=rf'config\.landmarks\.{path}=.*choose of \['):
        make_method(config)


@pytest.mark.parametrize('res', [64, 128, 256])
@pytest.mark.parametrize('preset', ['modern', 'lafin'])
def test_every_size_gives_points_for_its_frame(res, preset):
    config = landmarks.get_config(f'res={res},preset={preset}')
    system = make_method(config)
    optimizers = make_optimizers(config, system.nets)
    batch = batch_of(np.zeros((res, res, 3), np.uint8), np.zeros((res, res, 1), np.uint8))

    def answer(batch):
        state = init_state(system, optimizers, res, 0)
        keys = jax.random.split(jax.random.key(0), (1, 3))
        return system.predictor.predict(bind(system, state.nets), features.prepare(batch), keys)

    shapes = {name: x.shape for name, x in jax.eval_shape(answer, batch).items()}
    assert shapes == {'points': (1, 68, 2), 'sigma': (1, 68), 'samples': (1, 3, 68, 2)}


def test_lafin_has_the_size_of_its_paper():
    masked, hole = jnp.zeros((1, 64, 64, 3)), jnp.zeros((1, 64, 64, 1))
    shapes = jax.eval_shape(MobileNetPredictor().init, jax.random.key(0), masked, hole)
    count = sum(x.size for x in jax.tree.leaves(shapes['params']))
    added = 68 * 321 + 9 * 32  # the log-scales, and the hole as a fourth channel
    assert count - added == pytest.approx(2.555e6, rel=0.01)


@pytest.mark.parametrize('size', [(109, 89), (64, 100), (64, 64)])
def test_unsquare_undoes_square(size):
    points = np.random.default_rng(0).uniform(0, 60, (68, 2)).astype(np.float32)
    _, small = loader.square(np.zeros((*size, 3), np.uint8), points, 64)
    back = loader.unsquare(small, np.array(loader.frame_of(size)), 64)
    np.testing.assert_allclose(back, points, atol=1e-4)


def test_finer_images_are_seen_as_their_means(config, made):
    system, state = made
    rng = np.random.default_rng(3)
    image = rng.integers(0, 256, (32, 32, 3), np.uint8)
    hole = np.zeros((32, 32, 1), np.uint8)
    hole[8:20, 10:24] = 1
    keys = jax.random.split(jax.random.key(0), (1, 2))

    def answer(image, hole):
        batch = features.prepare(batch_of(image, hole))
        return system.predictor.predict(bind(system, state.nets), batch, keys)

    twice = [np.repeat(np.repeat(x, 2, 0), 2, 1) for x in (image, hole)]
    coarse, fine = answer(image, hole), answer(*twice)
    np.testing.assert_allclose(fine['points'], 2 * coarse['points'] + 0.5, rtol=1e-4)
    np.testing.assert_allclose(fine['samples'], 2 * coarse['samples'] + 0.5, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(fine['sigma'], 2 * coarse['sigma'], rtol=1e-4)


# -------------------------------------------------------------------------------- distributions


HEADS = {
    'gaussian': LowRankMixture(1, 12, 4, 16),
    'mixture': LowRankMixture(3, 12, 4, 16),
    'flow': Flow(3, 16),
}


def normal_logpdf(x, mean, cov):
    """Log-density (N,) of a Gaussian at x (N,D), in float64."""
    away = np.asarray(x, np.float64) - np.asarray(mean, np.float64)
    cov = np.asarray(cov, np.float64)
    square = (away * np.linalg.solve(cov, away.T).T).sum(1)
    return -0.5 * (square + np.linalg.slogdet(cov)[1] + cov.shape[0] * math.log(2 * math.pi))


@pytest.fixture(scope='module', params=HEADS)
def fitted(request):
    """A head with parameters far from their start, and a context."""
    head = HEADS[request.param]
    context = jax.random.normal(jax.random.key(1), (2, 10))
    params = head.init(jax.random.key(0), context, jnp.zeros((2, DIM)))
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    leaves = [x + 0.1 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    return head, jax.tree.unflatten(tree, leaves), context


def test_the_density_is_that_of_the_draws(fitted):
    """The draws are likelier under it than under their best Gaussian, and unlikely when moved."""
    head, params, context = fitted
    noise = jax.random.normal(jax.random.key(3), (2, 4000, DIM + 5))
    draws = head.apply(params, context, noise, sample=True)
    one = context[:1]

    def density(u):
        return head.apply(params, jnp.broadcast_to(one, (len(u), 10)), u)

    x = draws[0]
    centre, spread = np.mean(x, 0), np.cov(x.T)
    gaussian = normal_logpdf(x, centre, spread)
    log_p = density(x)
    # E log p is at least E log q for any other density q, such as the Gaussian of the moments.
    # (The moments are fitted to these draws: worth about D^2 / 4N nats.)
    assert float((log_p - gaussian).mean()) > -4.0
    # Moved away by three deviations, the draws are unlikely.
    away = x + 3 * jnp.sqrt(jnp.diagonal(spread))[None].astype(x.dtype)
    assert float((log_p - density(away)).mean()) > 5


def test_the_gaussian_s_density_is_the_closed_form(config):
    head = HEADS['gaussian']
    context = jax.random.normal(jax.random.key(1), (1, 10))
    params = head.init(jax.random.key(0), context, jnp.zeros((1, DIM)))
    unit = jnp.eye(DIM + 5)
    zero = head.apply(params, context, jnp.zeros((1, 1, DIM + 5)), sample=True)[0, 0]
    columns = head.apply(params, context, unit[None], sample=True)[0] - zero[None]
    u = jax.random.normal(jax.random.key(4), (1, DIM))
    expected = normal_logpdf(u, zero, columns.T @ columns)[0]
    assert float(head.apply(params, context, u)[0]) == pytest.approx(float(expected), rel=1e-4)


def test_the_flow_inverts(config):
    head = HEADS['flow']
    context = jax.random.normal(jax.random.key(1), (1, 10))
    params = head.init(jax.random.key(0), context, jnp.zeros((1, DIM)))
    params = jax.tree.map(lambda x: x + 0.05, params)
    z = jax.random.normal(jax.random.key(3), (1, 1, DIM))
    u = head.apply(params, context, z, sample=True)[:, 0]
    jacobian = jax.jacobian(
        lambda n: head.apply(params, context, n[None, None], sample=True)[0, 0]
    )(z[0, 0])
    expected = jax.scipy.stats.norm.logpdf(z).sum() - jnp.linalg.slogdet(jacobian)[1]
    assert float(head.apply(params, context, u)[0]) == pytest.approx(float(expected), rel=1e-4)


def test_regions_hold_what_they_say():
    rng = np.random.default_rng(0)
    draw = rng.standard_normal((400, 101, 68, 2)) @ np.array([[2.0, 1.0], [0.0, 0.5]])
    outer = method.quantile_of(jnp.asarray(draw[:, 0]), jnp.asarray(draw[:, 1:]))
    for level in method.LEVELS:
        assert float((outer <= level / 100).mean()) == pytest.approx(level / 100, abs=0.02)
    far = method.quantile_of(jnp.full((1, 68, 2), 50.0), jnp.asarray(draw[:1, 1:]))
    assert float(far.min()) == 1.0


# -------------------------------------------------------------------------------- losses, answers


def test_a_fresh_net_answers_with_the_mean_face(config, made):
    system, state = made
    res = config.res
    batch = batch_of(np.full((res, res, 3), 90, np.uint8), np.zeros((res, res, 1), np.uint8))
    out = steps.make_predict_step(system, 0, 3)(state.nets, batch)
    assert np.abs(out['points'][0] - lm.mean_landmarks((res, res))).max() < 0.5
    assert out['samples'].shape == (1, 3, 68, 2)


def test_what_lies_under_the_hole_changes_no_answer(config, made):
    system, state = made
    rng, res = np.random.default_rng(0), config.res
    image = rng.integers(256, size=(res, res, 3), dtype=np.uint8)
    hole = holes.draw('centre', rng, (res, res))
    other = np.where(hole > 0, rng.integers(256, size=image.shape, dtype=np.uint8), image)
    run = jax.jit(steps.make_predict_step(system, 0, 2))
    one, two = (run(state.nets, batch_of(x, hole)) for x in (image, other))
    for name in ('points', 'sigma', 'samples'):
        np.testing.assert_array_equal(one[name], two[name])


def test_the_laplace_loss_is_least_at_the_truth_and_at_its_mean_error(config):
    system = method.Landmarks(config)
    truth = jnp.zeros((1, 68, 2))
    error = jnp.array([0.02, -0.01])

    def loss(shift, scale):
        points = truth + shift * error[None, None]
        return float(
            system.point_loss(method.Faces(points, jnp.full((1, 68), scale), truth), truth)[0]
        )

    assert loss(0.0, 0.01) < loss(1.0, 0.01) < loss(2.0, 0.01)
    # 2 coordinates: the best scale is the mean of |dx| and |dy|.
    assert loss(1.0, 0.015) < min(loss(1.0, 0.012), loss(1.0, 0.018))
    assert loss(1.0, 0.015) == pytest.approx(2.0 + 2 * math.log(0.015))


def test_faces_without_landmarks_move_nothing(config, made):
    system, state = made
    rng, res = np.random.default_rng(0), config.res
    image = rng.integers(256, size=(res, res, 3), dtype=np.uint8)
    known = batch_of(image, np.zeros((res, res, 1), np.uint8), lm.mean_landmarks((res, res)))
    unknown = batch_of(image[::-1], np.zeros((res, res, 1), np.uint8))
    both = {k: np.concatenate([known[k], unknown[k]]) for k in known}
    (phase,) = system.stages['landmarks']
    wild = {
        **both,
        'landmarks': both['landmarks']
        + both['landmarks'].mean() * (np.arange(2)[:, None, None] > 0),
    }
    quiet = landmarks.get_config('tiny')
    quiet.landmarks.unseen_share = 0.0
    loss = make_method(quiet).stages['landmarks'][0].loss
    nets = bind(system, state.nets)
    values = [
        float(loss(nets, features.prepare(b), jax.random.key(0), jnp.zeros(()))[0])
        for b in (both, {k: v.astype(both[k].dtype) for k, v in wild.items()})
    ]
    assert values[0] == values[1]
    assert phase.nets == ('predictor', 'shape_flow')


def test_shuffled_blocks_keep_the_pixels_and_lose_the_face():
    image = jax.random.uniform(jax.random.key(0), (2, 32, 32, 3))
    shuffled = method.shuffled_blocks(image, jax.random.key(1))
    np.testing.assert_array_equal(np.sort(shuffled, axis=None), np.sort(image, axis=None))
    assert float(jnp.abs(shuffled - image).mean()) > 0.1


# -------------------------------------------------------------------------------- faults


@pytest.mark.parametrize('what', ['no visible part', 'black', 'noise', 'two faces', 'profile'])
def test_strange_pictures_get_finite_answers(config, made, what):
    system, state = made
    rng, res = np.random.default_rng(0), config.res
    hole = np.zeros((res, res, 1), np.uint8)
    image = rng.integers(256, size=(res, res, 3), dtype=np.uint8)
    if what == 'no visible part':
        hole[:] = 1
    elif what == 'black':
        image[:] = 0
    elif what == 'two faces':
        image = np.concatenate([image[:, ::2], image[:, ::2]], axis=1)
    elif what == 'profile':
        image[:, res // 2 :] = 0
    out = jax.jit(steps.make_predict_step(system, 0, 4))(state.nets, batch_of(image, hole))
    for name in ('points', 'sigma', 'samples'):
        assert np.isfinite(out[name]).all()
    # No truth, no score; and the sheet is drawn all the same.
    assert np.isnan(out['scores']['nme'])
    assert system.predictor.sheet(jax.device_get(out)).dtype == np.uint8


def test_image_methods_do_not_predict_and_predictors_do_not_draw(config, made, tiny_config):
    system, _ = made
    keypoint = make_method(tiny_config('stage1'))
    with pytest.raises(ValueError, match='predicts no points; use --mode=sample'):
        steps.make_predict_step(keypoint, 0, 1)
    with pytest.raises(ValueError, match='draws no image; use --mode=predict'):
        steps.Sampler(system, 0, 1)


# -------------------------------------------------------------------------------- from end to end


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """A run of four steps on drawn faces."""
    workdir = tmp_path_factory.mktemp('lm')
    train_and_evaluate(tiny(), workdir)
    return workdir


def test_a_run_trains_is_shown_validated_and_evaluated(run):
    lines = [json.loads(line) for line in (run / 'metrics.jsonl').read_text().splitlines()]
    assert any('val/nme' in line and line['val/failures'] == 0 for line in lines)
    assert len(list((run / 'samples').glob('faces_*.png'))) == 3
    (path,) = (run / 'eval').glob('*.json')
    assert json.loads(path.read_text())['scores']['all']['nme']['count'] == 8


def test_mode_eval_scores_by_hole(run):
    config = tiny()
    config.eval.holes = 'centre'
    table = evaluate_run(config, run)
    assert set(table) >= {'all', 'centre'}
    assert 0 < table['all']['nme_hidden']['mean'] < 1000


def test_mode_predict_answers_in_pixels_of_the_stored_image(run, tmp_path):
    """As written in the issue: only data.path is given, and the photos have their own sizes."""
    sizes = {'a.png': (109, 89), 'sub/b.png': (60, 90), 'c.png': (32, 32)}
    with zipfile.ZipFile(tmp_path / 'other.zip', 'w') as archive:
        for name, size in sizes.items():
            image = np.full((*size, 3), 120, np.uint8)
            archive.writestr(name, cv2.imencode('.png', image)[1].tobytes())
    config = tiny()
    config.data.path = str(tmp_path / 'other.zip')
    config.predict.holes = 'lower_half'
    config.predict.out = str(tmp_path / 'points.npz')
    found = np.load(predict_run(config, run))
    assert list(found['name']) == sorted(sizes)
    assert found['points'].shape == (3, 68, 2)
    assert found['sigma'].shape == (3, 68)
    assert found['samples'].shape == (3, 8, 68, 2)
    assert set(found['hole_kind']) == {'lower_half'}
    for name, points in zip(found['name'], found['points'], strict=True):
        # Four steps leave the net near the mean face, here in the stored photo's own square.
        side = min(sizes[str(name)])
        assert np.abs(points - lm.mean_landmarks(sizes[str(name)])).max() < 0.1 * side
    sheet = cv2.imread(str(tmp_path / 'points.png'))
    assert (sheet.shape[0] - 16) // 194 == 3  # no row for what fills the batch


def test_the_predict_step_is_the_same_on_any_number_of_devices(config, made):
    system, state = made
    rng, res = np.random.default_rng(0), config.res
    rows = [
        batch_of(
            rng.integers(256, size=(res, res, 3), dtype=np.uint8),
            holes.draw('centre', rng, (res, res)),
        )
        for _ in range(8)
    ]
    batch = {k: np.concatenate([row[k] for row in rows]) for k in rows[0]}
    run = jax.jit(steps.make_predict_step(system, 0, 2))
    alone = run(state.nets, batch)
    spread = run(state.nets, sharding.shard_batch(batch, sharding.make_mesh()))
    np.testing.assert_allclose(alone['points'], spread['points'], atol=1e-3)
