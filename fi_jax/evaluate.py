"""The protocol: rows (a method, fills, the truth) scored on the same holes, image by image.

python -m fi_jax.evaluate --config=configs/stage2.py:res=64 --checkpoint=runs/s2
python -m fi_jax.evaluate --samples_dir=DIR --truth_dir=DIR --holes_dir=DIR --workdir=OUT
python -m fi_jax.evaluate --compare runs/a runs/b

The first is `fi_jax.main --mode=eval`. See docs/evaluation.md.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.sharding import Mesh
from ml_collections import ConfigDict

from fi_jax import features, guidance, pictures, report, sharding
from fi_jax import results as res
from fi_jax.checkpoint import Checkpointer
from fi_jax.input_pipeline import holes, landmark_shards
from fi_jax.input_pipeline.loader import EvalExamples, Example, eval_batches
from fi_jax.input_pipeline.sources import Folder, Source, decode, make_source, with_landmarks
from fi_jax.methods import Method, make_method
from fi_jax.metrics import distribution, diversity, fills, identity, image, suite
from fi_jax.metrics.bootstrap import Estimate
from fi_jax.optim import make_optimizers
from fi_jax.results import Results
from fi_jax.state import NetState, TrainState, bind_ema, init_state
from fi_jax.steps import draw_samples
from fi_jax.writers import save_json

# (batch on the host, the same placed) -> samples (B,N,H,W,3) uint8, and ok (B,): all were finite.
Draw = Callable[[Example, Mapping[str, jax.Array]], tuple[jax.Array, jax.Array]]

PRIMARY = 'samples'
_SCORED = ('image', 'hole', 'landmarks', 'has_landmarks')  # what metrics may see of a batch
GATES = {'landmarks': diversity.MAX_LANDMARK_ERROR, 'identity': identity.SAME_PERSON}
RANKED_BY = 'psnr_hole/mean'  # best, median and worst faces of the gallery
UNITS = (
    'composites rounded to 8 bits; PSNR in dB, data range 255; SSIM with a Gaussian window of 11 '
    'pixels, sigma 1.5, mean of RGB; L1 in grey levels of 255; pair distances: mean L1 over the '
    'pairs of samples of one input, images in [-1,1]'
)


# ------------------------------------------------------------------------------------- a run


def load_run(config: Any, workdir: str | Path, mesh: Mesh) -> tuple[Method, TrainState]:
    """The method of a config, led as config.landmark_source says, and the newest state of a run.

    Raises FileNotFoundError where the run has none, ValueError where it does not fit the config.
    """
    if not (Path(workdir) / 'checkpoints').is_dir():
        raise FileNotFoundError(f'--workdir={workdir}: no checkpoints there; train this run first')
    method = make_method(config)
    optimizers = make_optimizers(config, method.nets)

    def init() -> TrainState:
        return init_state(method, optimizers, config.res, config.seed)

    replicated = sharding.replicated(mesh)
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated), jax.eval_shape(init)
    )
    with Checkpointer(workdir) as checkpointer:
        state = checkpointer.restore(like)[0]
    if config.get('landmark_source') in guidance.PREDICTED:
        saved, predictor, nets, _ = load_predictor(config.predictor, 'config.predictor', mesh)
        if saved.res != config.res:
            raise ValueError(
                f'config.predictor={config.predictor!r} sees {saved.res} px, this run '
                f'{config.res}; name a predictor of the same size'
            )
        method = guidance.led(method, predictor, nets, config.landmark_source)
    return method, state


def load_predictor(
    run: str, field: str, mesh: Mesh
) -> tuple[Any, Method, Mapping[str, NetState], int]:
    """Config, method, networks and step of a run of configs/landmarks.py.

    Raises FileNotFoundError or ValueError, naming the field, where run is none.
    """
    if not run or not (Path(run) / 'config.json').is_file():
        raise FileNotFoundError(
            f'{field}={run!r}: not a run folder; name one of configs/landmarks.py'
        )
    saved = ConfigDict(json.loads((Path(run) / 'config.json').read_text()))
    method, state = load_run(saved, run, mesh)
    if method.predictor is None:
        raise ValueError(
            f'{field}={run!r}: a run of {saved.method}, which predicts no points; name one of '
            'configs/landmarks.py'
        )
    return saved, method, jax.device_get(state.nets), int(state.step)


def load_reader(run: str, mesh: Mesh) -> tuple[suite.Reader, dict[str, Any]]:
    """The landmark reader of config.eval.reader, and what the protocol says of it.

    Its points are the most likely ones of a predictor that is told of no hole. Raises LookupError
    where none is named, otherwise as `load_predictor`.
    """
    if not run:
        raise LookupError(
            'no reader of landmarks is named; train one with configs/landmarks.py and give its '
            'run folder as --config.eval.reader=runs/lm'
        )
    saved, method, nets, step = load_predictor(run, 'config.eval.reader', mesh)

    def find(nets: Any, images: jax.Array) -> jax.Array:
        assert method.predictor is not None
        seen = images / 127.5 - 1.0
        batch = {'image': seen, 'masked': seen, 'hole': jnp.zeros_like(seen[..., :1])}
        noise = jnp.zeros((len(seen), 1, method.noise_dim))
        return method.predictor.predict(bind_ema(method, nets), batch, noise)['points']

    about = {'run': Path(run).resolve().name, 'res': saved.res, 'step': step}
    placed = jax.device_put(nets, sharding.replicated(mesh))
    return suite.Reader(placed, find, saved.res), about


def training_faces(
    config: Any, workdir: str | Path, mesh: Mesh, reader: suite.Reader | None
) -> tuple[suite.Bank, dict[str, Any]]:
    """Features of config.eval.memorisation faces a run was trained on, and words on them.

    The data are those of the run's config.json, seen as they are stored: no hole, no flip. Features
    are dlib's where its weights are there and landmarks known or read, else 8x8 pixels. Raises
    FileNotFoundError or ValueError where the training data cannot be opened.
    """
    trained_on = ConfigDict(json.loads((Path(workdir) / 'config.json').read_text())['data'])
    source = make_source(trained_on, 'train')
    options = config.eval
    examples = EvalExamples(source, config, 'none', options.memorisation, options.batch_size)
    known = located(examples)
    read = reader if not known else None
    ready = (known or read) and suite.CUT_OUT in distribution.available()
    features = distribution.make_features(suite.CUT_OUT if ready else 'pixels8')

    def described(features: Any, read: Any, batch: Mapping[str, jax.Array]) -> jax.Array:
        points = batch['landmarks'] if read is None else read(batch['image'])
        return suite.describe(features, batch['image'], points)

    describe_all = jax.jit(described, out_shardings=sharding.replicated(mesh))
    gather = jax.jit(lambda x: x, out_shardings=sharding.replicated(mesh))
    rows = []
    logging.info('looking at %d training faces with %s', examples.count, features.name)
    for batch in _batches(examples, config):
        placed = {k: batch[k] for k in ('image', 'landmarks', 'has_landmarks', 'weight')}
        placed = sharding.shard_batch(placed, mesh)
        found, known_of, weight = jax.device_get(
            (
                describe_all(features, read, placed),
                gather(placed['has_landmarks']),
                gather(placed['weight']),
            )
        )
        keep = weight > 0 if read is not None or not ready else (weight > 0) & (known_of > 0)
        rows.append(found[keep & np.isfinite(found).all(axis=1)])
    bank = np.concatenate(rows)
    data = trained_on.path or trained_on.name or trained_on.source
    about = {'features': features.name, 'faces': len(bank), 'data': Path(data).name}
    return suite.Bank(features, jax.device_put(bank, sharding.replicated(mesh))), about


def located(examples: Any, look_at: int = 16) -> bool:
    """Whether landmarks came with any of the first examples."""
    first = (examples[i] for i in range(min(look_at, examples.count)))
    return any(example.get('has_landmarks', 0) > 0 for example in first)


def evaluate_run(config: Any, workdir: str | Path, out: str | Path = '') -> Results:
    """Mode eval: `evaluate_split` on the newest checkpoint of a run folder, printed.

    Results go to the run folder itself, or to out.
    """
    mesh = sharding.make_mesh()
    method, state = load_run(config, workdir, mesh)
    found = evaluate_split(method, state.nets, config, workdir, mesh, int(state.step), out)
    logging.info('evaluation of %s at step %d\n%s', workdir, int(state.step), as_text(found))
    return found


def evaluate_split(
    method: Method,
    nets: Mapping[str, NetState],
    config: Any,
    workdir: str | Path,
    mesh: Mesh,
    step: int = 0,
    out: str | Path = '',
) -> Results:
    """All rows of the protocol on a split -> eval/<name>.{json,npz} and report/<name>.html.

    Written to the run folder workdir, or to out.
    The split is config.eval.split; 'auto' takes test of the data the run was trained on, and all
    of any other data.
    """
    options = config.eval
    split, source, examples = examples_of(config, workdir)
    rows = method_rows(method, nets, config, mesh)
    if options.fills:
        # The mean is of training faces where they are at hand, else of the faces themselves.
        average = mean_face(make_source(config.data, 'train' if split == 'test' else split), config)
        rows |= fill_rows(mesh, average)
    data = config.data.path or config.data.name or config.data.source
    protocol: dict[str, Any] = {
        'method': config.method,
        'run': Path(workdir).resolve().name,
        'step': step,
        'data': Path(data).name,
        'split': split,
        'holes': options.holes,
        'num_samples': options.num_samples,
        'seed': config.seed,
        'res': config.res,
    }
    names, attributes = describe(source, examples.count)
    skipped: dict[str, str] = {}
    aids = gather_aids(config, workdir, mesh, skipped, protocol)
    found = measure(examples, rows, protocol, config, mesh, names, attributes, skipped, aids)
    write(found, out or workdir, options.name or f'{split}_{options.holes}')
    return found


def examples_of(config: Any, workdir: str | Path) -> tuple[str, Source, EvalExamples]:
    """The split that config.eval asks for, its source, and its faces under their holes."""
    options = config.eval
    split = resolve_split(config, workdir, options.split)
    source = make_source(config.data, split)
    examples = EvalExamples(source, config, options.holes, options.limit, options.batch_size)
    return split, source, examples


def resolve_split(config: Any, workdir: str | Path, split: str) -> str:
    """'auto' -> 'test' where the data are those of the run's config.json, else 'all'."""
    if split != 'auto':
        return split
    trained_on = json.loads((Path(workdir) / 'config.json').read_text())['data']
    same = all(trained_on[k] == config.data[k] for k in ('source', 'name', 'seed'))
    same &= Path(trained_on['path']).resolve() == Path(config.data.path).resolve()
    return 'test' if same else 'all'


def describe(source: Source, count: int) -> tuple[list[str], dict[str, np.ndarray]]:
    """Names of the first images of a source, and attributes (n,) of 0 and 1 where it has them."""
    names = getattr(source, 'names', None)
    first = source[0]
    if names is not None and first.attributes is None:
        return list(names[:count]), {}
    records = [first, *(source[i] for i in range(1, count))]
    common = set.intersection(*(set(r.attributes or ()) for r in records))
    # CelebA's files say -1 and 1, its TFDS version 0 and 1.
    attributes = {
        name: np.array([int((r.attributes or {})[name] > 0) for r in records])
        for name in sorted(common)
    }
    return [r.name for r in records], attributes


def gather_aids(
    config: Any,
    workdir: str | Path,
    mesh: Mesh,
    skipped: dict[str, str],
    protocol: dict[str, Any],
) -> dict[str, Any]:
    """The `reader` and `bank` that metrics of faces need; what is missing is noted in skipped.

    What the report must say of them goes to protocol. workdir '': no run, hence no training faces.
    """
    wanted = suite.chosen(config.eval.metrics)
    aids: dict[str, Any] = {}
    if 'landmarks' in wanted:
        with tolerate(skipped, 'landmarks'):
            aids['reader'], protocol['reader'] = load_reader(config.eval.reader, mesh)
            leads = config.get('landmark_source') in guidance.PREDICTED
            same = leads and Path(config.predictor).resolve() == Path(config.eval.reader).resolve()
            protocol['reader']['interested'] = same
    if 'memorisation' in wanted and workdir and config.eval.memorisation:
        with tolerate(skipped, 'memorisation'):
            aids['bank'], protocol['memorisation'] = training_faces(
                config, workdir, mesh, aids.get('reader')
            )
    return aids


# ------------------------------------------------------------------------------------ the rows


def method_rows(
    method: Method, nets: Mapping[str, NetState], config: Any, mesh: Mesh
) -> dict[str, Draw]:
    """The method's draws, and the one draw of z = 0."""

    def row(num_samples: int, zero: bool) -> Draw:
        draw = jax.jit(
            lambda nets, batch: _drawn(method, nets, batch, config.seed, num_samples, zero),
            out_shardings=sharding.by_example(mesh),
        )
        return lambda _, placed: draw(nets, placed)

    return {PRIMARY: row(config.eval.num_samples, False), 'z=0': row(1, True)}


def _drawn(
    method: Method, nets: Any, batch: features.Batch, seed: int, num_samples: int, zero: bool
) -> tuple[jax.Array, jax.Array]:
    drawn = draw_samples(method, nets, features.prepare(batch), seed, num_samples, zero)
    # Rounding to bytes would hide a NaN as a black pixel.
    return drawn['composite'], jnp.isfinite(drawn['image']).all(axis=(1, 2, 3, 4))


def fill_rows(mesh: Mesh, mean_image: np.ndarray) -> dict[str, Draw]:
    """The rows that always stand, computed on the host: fills without a network, and the truth."""

    def row(fill: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Draw:
        def draw(batch: Example, _: Any) -> tuple[jax.Array, jax.Array]:
            pairs = zip(batch['image'], batch['hole'], strict=True)
            filled = np.stack([fill(x, hole) for x, hole in pairs])[:, None]
            placed = sharding.shard_batch({'x': filled, 'ok': np.ones(len(filled), bool)}, mesh)
            return placed['x'], placed['ok']

        return draw

    return {
        'mean_face': row(lambda x, hole: fills.fill_mean(x, hole, mean_image)),
        'telea': row(fills.fill_telea),
        'navier_stokes': row(fills.fill_navier_stokes),
        'biharmonic': row(fills.fill_biharmonic),
        'patch_match': row(fills.fill_patch_match),
        'truth': row(lambda x, _: x),
    }


def mean_face(source: Source, config: Any, limit: int = 1000) -> np.ndarray:
    """The average of a source's first images, as the pipeline frames them; (res,res,3) uint8."""
    examples = EvalExamples(source, config, 'none', limit, 1)
    return fills.mean_face(examples[i]['image'] for i in range(examples.count))


# --------------------------------------------------------------------------------- measuring


@contextlib.contextmanager
def tolerate(skipped: dict[str, str], what: str) -> Iterator[None]:
    """What fails inside is logged and noted in skipped with its reason, and ends nothing."""
    try:
        yield
    except Exception as error:  # whatever a metric may meet, the run goes on
        reason = ' '.join(str(error).split()) or type(error).__name__
        known = isinstance(error, ImportError | LookupError | ValueError | FileNotFoundError)
        skipped[what] = reason if known else f'{type(error).__name__}: {reason}'
        logging.warning('%s is left out: %s', what, skipped[what])


def measure(
    examples: Any,
    rows: Mapping[str, Draw],
    protocol: Mapping[str, Any],
    config: Any,
    mesh: Mesh,
    names: Sequence[str],
    attributes: Mapping[str, np.ndarray],
    skipped: dict[str, str] | None = None,
    aids: Mapping[str, Any] | None = None,
) -> Results:
    """Scores of every row on every example, in one pass; a row or metric that fails is left out.

    examples: an `EvalExamples` or `FolderExamples`; skipped: what is missing already; aids: as of
    `gather_aids`. Where no landmarks came with the images, those that the reader finds in the
    originals stand for them. Memory grows with the number of images by their scores and hole bits,
    and not with the number of samples. Scores are finite or NaN.
    """
    skipped, aids = {} if skipped is None else skipped, dict(aids or {})
    replicated = sharding.replicated(mesh)
    wanted, first = config.eval.metrics, examples[0]
    height, width = first['image'].shape[:2]
    came = located(examples)  # landmarks, with the images
    judges = suite.face_judges(wanted, came, skipped, **aids)
    chosen = suite.example_metrics(wanted, min(height, width), skipped, judges)
    of_photos = jax.jit(suite.of_photos, out_shardings=sharding.by_example(mesh))
    joint = ', '.join(judges)
    seen = _SCORED if came or 'landmarks' not in judges else _SCORED[:2]
    metrics = {
        name: (jax.jit(score, out_shardings=replicated), weights)
        for name, (score, weights) in chosen.items()
    }
    sets = suite.set_metrics(wanted, skipped)
    embed = jax.jit(lambda features, x: features(x), out_shardings=replicated)
    gather = jax.jit(lambda x: x, out_shardings=replicated)
    count = examples.count
    meta: dict[str, np.ndarray] = {}
    scores: dict[str, res.Scores] = {row: {} for row in rows}
    not_finite: dict[str, list[int]] = {row: [] for row in rows}
    progress = _Progress(count)
    for batch in _batches(examples, config):
        known = jax.device_get(gather(sharding.shard_batch(_meta(batch), mesh)))
        real = known['weight'] > 0
        at = known['index'][real]
        for name, values in known.items():
            _put(meta, name, values[real], at, count)
        placed = sharding.shard_batch(batch, mesh)
        known_of = {k: x for k, x in placed.items() if k in seen}
        known_of['hole'] = placed['hole'].astype(jnp.float32)
        if judges and joint not in skipped:
            with tolerate(skipped, joint):
                known_of = of_photos(judges, known_of)
        for row, draw in rows.items():
            if row in skipped:
                continue
            with tolerate(skipped, row):
                samples, ok = draw(batch, placed)
                ok = jax.device_get(gather(ok))[real]
                not_finite[row] += at[~ok].tolist()
                for name, (score, weights) in metrics.items():
                    what = f'{row}: {name}'
                    if {name, what} & set(skipped):
                        continue
                    with tolerate(skipped, what):
                        found = jax.device_get(score(weights, samples, known_of))
                        for key, values in found.items():
                            values = np.where(ok, values[real].astype(np.float64), np.nan)
                            values = np.where(np.isfinite(values), values, np.nan)
                            _put(scores[row], key, values, at, count)
                for name, one in sets.items():
                    if f'{row}: {name}' not in skipped:
                        with tolerate(skipped, f'{row}: {name}'):
                            rows_of = jax.device_get(embed(one.features, samples[:, 0]))
                            one.add(row, rows_of[real], at, ok)
        for name, one in sets.items():
            if name not in skipped:
                with tolerate(skipped, name):
                    rows_of = jax.device_get(embed(one.features, placed['image']))
                    one.add('', rows_of[real], at, np.ones(len(at)))
        progress(meta)
    for row, indices in not_finite.items():
        if indices:
            listed = ', '.join(names[i] for i in indices[:5])
            more = f' and {len(indices) - 5} more' if len(indices) > 5 else ''
            skipped[f'{row}: images'] = (
                f'{len(indices)} of {count} have samples that are not finite ({listed}{more}) and '
                'count in no score'
            )
            logging.warning('%s: %s', row, skipped[f'{row}: images'])
    scores = {row: _defined(cells) for row, cells in scores.items() if row not in skipped}
    values_of_sets: dict[str, dict[str, Estimate]] = {row: {} for row in scores}
    for name, one in sets.items():
        for row in scores:
            if not {name, f'{row}: {name}'} & set(skipped):
                with tolerate(skipped, f'{row}: {name}'):
                    values_of_sets[row] |= one.compute(row, skipped)
    found = Results(
        protocol={
            **protocol,
            'size': [height, width],
            'num_images': count,
            'kinds': list(holes.KINDS),
            'holes_sha256': res.holes_sha256(meta['holes']),
            'bootstrap': config.eval.bootstrap,
            'primary': [PRIMARY],
            'units': UNITS,
            'landmarks': 'data' if came else 'reader' if 'landmarks' in judges else '',
            'gates': {k: most for k, most in GATES.items() if k in judges},
        },
        names=np.array(names, str),
        fingerprint=meta['fingerprint'].view(np.uint64)[:, 0],
        area=meta['area'],
        kind=meta['hole_kind'],
        holes=meta['holes'],
        attributes={name: np.asarray(values) for name, values in attributes.items()},
        scores={row: cells for row, cells in scores.items() if cells},
        sets={row: values for row, values in values_of_sets.items() if values},
        skipped=skipped,
    )
    if config.eval.gallery and rows:
        with tolerate(skipped, 'gallery'):
            faces = choose_faces(found, config.eval.gallery)
            drawn = draw_faces(examples, rows, faces, found, config, mesh)
            return dataclasses.replace(found, gallery=drawn)
    return found


def mean_scores(
    method: Method, examples: EvalExamples, config: Any, mesh: Mesh, num_samples: int
) -> Callable[[Mapping[str, NetState]], dict[str, float]]:
    """A function of the nets: the image metrics' means over examples, for use during a training.

    NaN where a metric has no value.
    """

    def step(nets: Any, batch: features.Batch) -> dict[str, jax.Array]:
        samples, ok = _drawn(method, nets, batch, config.seed, num_samples, False)
        values = image.score(samples, batch['image'], batch['hole'].astype(jnp.float32))
        keep = ok & (batch['weight'] > 0)
        return {name: jnp.where(keep, x, jnp.nan) for name, x in values.items()}

    score = jax.jit(step, out_shardings=sharding.replicated(mesh))

    def means(nets: Mapping[str, NetState]) -> dict[str, float]:
        found = [
            jax.device_get(score(nets, sharding.shard_batch(batch, mesh)))
            for batch in _batches(examples, config)
        ]
        joined = {name: np.concatenate([x[name] for x in found]) for name in found[0]}
        finite = {name: x[np.isfinite(x)].astype(np.float64) for name, x in joined.items()}
        return {name: float(x.mean()) if x.size else np.nan for name, x in finite.items()}

    return means


def _batches(examples: Any, config: Any) -> Iterator[Example]:
    hosts = jax.process_index(), jax.process_count()
    return eval_batches(examples, config, config.eval.batch_size, *hosts)


def _meta(batch: Example) -> dict[str, np.ndarray]:
    """What is kept of each example of a batch, beside its scores."""
    hole = batch['hole'] > 0
    pairs = zip(batch['image'], hole, strict=True)
    prints = np.array([res.fingerprint(x, h) for x, h in pairs], np.uint64)
    return {
        'index': batch['index'],
        'weight': batch['weight'],
        'hole_kind': batch['hole_kind'],
        'area': hole.sum(axis=(1, 2, 3)).astype(np.int32),
        'holes': np.packbits(hole.reshape(len(hole), -1), axis=1),
        'fingerprint': prints[:, None].view(np.uint32),  # JAX has no 64-bit integers by default
    }


def _put(
    table: dict[str, np.ndarray], name: str, values: np.ndarray, at: np.ndarray, count: int
) -> None:
    """Write values (b,...) at rows `at` of the table's array (count,...)."""
    if name not in table:
        empty = np.nan if values.dtype.kind == 'f' else 0
        table[name] = np.full((count, *values.shape[1:]), empty, values.dtype)
    table[name][at] = values


def _defined(scores: res.Scores) -> res.Scores:
    """Without the metrics that have no value at all: pairs of a single sample."""
    return {name: values for name, values in scores.items() if np.isfinite(values).any()}


class _Progress:
    """A line now and then: images done, and the time that is left."""

    def __init__(self, count: int, every: float = 30.0):
        self._count, self._every = count, every
        self._begin = self._last = time.monotonic()
        self._done = 0

    def __call__(self, meta: Mapping[str, np.ndarray]) -> None:
        self._done = int((meta['weight'] > 0).sum())
        now = time.monotonic()
        if now - self._last > self._every and self._done:
            left = (now - self._begin) / self._done * (self._count - self._done)
            logging.info('%d of %d images scored, %.0f s left', self._done, self._count, left)
            self._last = now


# ------------------------------------------------------------------------------- the gallery


def choose_faces(results: Results, each: int) -> list[tuple[str, int]]:
    """(why, index): the best, median and worst faces of the primary row, and the first ones."""
    scores = results.scores.get(PRIMARY, {}).get(RANKED_BY)
    if scores is None:
        return [('first', i) for i in range(min(each, len(results.names)))]
    order = np.argsort(-scores, kind='stable')
    order = order[np.isfinite(scores[order])]
    middle = max(0, len(order) // 2 - each // 2)
    picks = {'best': order[:each], 'median': order[middle:][:each], 'worst': order[::-1][:each]}
    picks['first'] = np.arange(min(each, len(results.names)))
    return [(why, int(i)) for why, indices in picks.items() for i in indices]


def draw_faces(
    examples: Any,
    rows: Mapping[str, Draw],
    chosen: Sequence[tuple[str, int]],
    results: Results,
    config: Any,
    mesh: Mesh,
) -> tuple[res.Face, ...]:
    """The chosen faces once more: any image can be drawn again from (seed, index)."""
    size = config.eval.batch_size
    share = size // jax.process_count()
    mine = slice(jax.process_index() * share, (jax.process_index() + 1) * share)
    gather = jax.jit(lambda x: x, out_shardings=sharding.replicated(mesh))
    ranked = results.scores.get(PRIMARY, {}).get(RANKED_BY)
    faces = []
    for start in range(0, len(chosen), size):
        part = list(chosen[start : start + size])
        padded = [examples[i] for _, i in part + part[:1] * (size - len(part))]
        batch = {name: np.stack([x[name] for x in padded[mine]]) for name in padded[0]}
        placed = sharding.shard_batch(batch, mesh)
        drawn = {
            row: jax.device_get(gather(rows[row](batch, placed)[0]))
            for row in (PRIMARY, 'z=0')
            if row in rows and row in results.scores
        }
        for k, (why, index) in enumerate(part):
            x, hole = padded[k]['image'], padded[k]['hole']
            shown = {'input': pictures.with_hole(x, hole)}
            if PRIMARY in drawn:
                shown |= {f'sample {n + 1}': y for n, y in enumerate(drawn[PRIMARY][k])}
            if 'z=0' in drawn:
                shown['z = 0'] = drawn['z=0'][k, 0]
            score = float(ranked[index]) if ranked is not None else float('nan')
            shown['truth'] = x
            faces.append(res.Face(why, str(results.names[index]), score, shown))
    return tuple(faces)


# ----------------------------------------------------------------- folders of any framework


class FolderExamples:
    """Samples, truths and holes from folders of images, with the interface of `EvalExamples`.

    truth_dir: NAME.png, or NAME/truth.png. holes_dir: NAME.png or NAME/hole.png, white = missing.
    samples_dir: NAME_00.png, NAME_01.png, ... or NAME/sample_00.png, ..., or one NAME.png. Any
    image format that the sources read will do. landmarks: shards or an .npz of the files of
    truth_dir, in their pixels. Raises ValueError or FileNotFoundError that name what is missing or
    of another size.
    """

    def __init__(
        self,
        samples_dir: str,
        truth_dir: str,
        holes_dir: str,
        limit: int,
        multiple: int,
        landmarks: str = '',
    ):
        flags = {'--samples_dir': samples_dir, '--truth_dir': truth_dir, '--holes_dir': holes_dir}
        for flag, path in flags.items():
            if not Path(path).is_dir():
                raise FileNotFoundError(f'{flag}={path}: no such folder; check the path')
        self._folders: dict[str, Any] = {flag: Folder(path) for flag, path in flags.items()}
        self._landmarks = bool(landmarks)
        if landmarks:
            table = landmark_shards.read_table(landmarks)
            self._folders['--truth_dir'] = with_landmarks(
                self._folders['--truth_dir'], table, field=f'data.landmarks={landmarks}'
            )
        self._truths = _keyed(self._folders['--truth_dir'], 'truth')
        self._holes = _keyed(self._folders['--holes_dir'], 'hole')
        self._samples = _numbered(self._folders['--samples_dir'], self._truths)
        named = f'--truth_dir={truth_dir}, --samples_dir={samples_dir}'
        self.keys = sorted(k for k in self._truths if k in self._samples)
        if not self.keys:
            raise ValueError(
                f'{named}: no image has samples; expected NAME_00.png or NAME/sample_00.png for '
                f'NAME such as {next(iter(self._truths))!r}'
            )
        if holeless := [k for k in self.keys if k not in self._holes]:
            raise ValueError(
                f'--holes_dir={holes_dir}: no hole for {holeless[0]!r}, nor for '
                f'{len(holeless) - 1} others; expected NAME.png or NAME/hole.png, white = missing'
            )
        self.without_samples = len(self._truths) - len(self.keys)
        self.num_samples = len(self._samples[self.keys[0]])
        if limit:
            self.keys = self.keys[:limit]
        for key in self.keys:
            if len(self._samples[key]) != self.num_samples:
                raise ValueError(
                    f'--samples_dir={samples_dir}: {len(self._samples[key])} samples of {key!r} '
                    f'and {self.num_samples} of {self.keys[0]!r}; give the same number of each'
                )
        self.count = len(self.keys)
        self._padded = -(-self.count // multiple) * multiple
        self._size = self._read('--truth_dir', self._truths[self.keys[0]]).shape

    def __len__(self) -> int:
        return self._padded

    def __getitem__(self, position: int) -> Example:
        real = position < self.count
        key = self.keys[position if real else 0]
        truth, hole, samples = self.images(key)
        example = {
            'image': truth,
            'hole': hole,
            'hole_kind': np.int32(-1),
            'index': np.int32(position if real else 0),
            'weight': np.float32(real),
            'samples': paste(samples, truth, hole),
        }
        if self._landmarks:
            points = self._folders['--truth_dir'][self._truths[key]].landmarks
            example['has_landmarks'] = np.float32(points is not None)
            example['landmarks'] = np.zeros((68, 2), np.float32) if points is None else points
        return example

    def images(self, key: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Truth (H,W,3), hole (H,W,1) of 0 and 1, samples (N,H,W,3) as they are in their files."""
        truth = self._read('--truth_dir', self._truths[key])
        hole = self._read('--holes_dir', self._holes[key])[..., :1] > 127
        samples = [self._read('--samples_dir', i) for i in self._samples[key]]
        return truth, hole.astype(np.uint8), np.stack(samples)

    def _read(self, flag: str, index: int) -> np.ndarray:
        record = self._folders[flag][index]
        pixels = decode(record.image, record.name)
        expected = getattr(self, '_size', pixels.shape)
        if pixels.shape != expected:
            raise ValueError(
                f'{flag}: {record.name} is {pixels.shape[1]}x{pixels.shape[0]} and the first '
                f'truth {expected[1]}x{expected[0]}; resize all images to one size'
            )
        return pixels


def paste(samples: np.ndarray, truth: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Samples (N,H,W,3) with the truth's own pixels outside the hole."""
    return np.where(hole[None] > 0, samples, truth[None])


def _keyed(folder: Any, stem: str) -> dict[str, int]:
    """Key -> index: folders with a file called `stem` where there are any, else files by name."""
    paths = [Path(name) for name in folder.names]
    nested = {
        p.parent.as_posix(): i for i, p in enumerate(paths) if p.stem == stem and p.parent.name
    }
    return nested or {p.with_suffix('').as_posix(): i for i, p in enumerate(paths)}


def _numbered(folder: Folder, keys: Mapping[str, int]) -> dict[str, list[int]]:
    """Key -> indices of its samples, in the order of their numbers."""
    found: dict[str, dict[int, int]] = {}
    for index, name in enumerate(folder.names):
        stem = Path(name).with_suffix('').as_posix()
        split = re.fullmatch(r'(.+?)(?:/sample)?[_/-](\d+)', stem)
        if stem in keys:
            found.setdefault(stem, {})[0] = index
        elif split and split[1] in keys:
            found.setdefault(split[1], {})[int(split[2])] = index
    return {key: [numbers[n] for n in sorted(numbers)] for key, numbers in found.items()}


def evaluate_folders(folders: tuple[str, str, str], config: Any, workdir: str | Path) -> Results:
    """The protocol on folders of images, see `FolderExamples` -> eval/ and report/ of workdir.

    folders: samples, truths, holes; the last two, where empty, are the first, as --mode=sample
    writes it. The composite is always pasted: pixels outside the hole never count.
    """
    options = config.eval
    mesh = sharding.make_mesh()
    samples_dir = folders[0]
    folders = samples_dir, folders[1] or samples_dir, folders[2] or samples_dir
    examples = FolderExamples(*folders, options.limit, options.batch_size, config.data.landmarks)
    if examples.without_samples:
        logging.warning(
            '%d truths have no samples and are left out; the first scored is %s',
            examples.without_samples, examples.keys[0],
        )  # fmt: skip
    changed = visible_change(examples)
    if changed['outside'] > changed['inside']:
        logging.warning(
            'samples differ from the truth more outside the holes (%.1f grey levels) than inside '
            '(%.1f): are the holes inverted? White must be what is missing',
            changed['outside'], changed['inside'],
        )  # fmt: skip

    def draw(_: Example, placed: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        return placed['samples'], placed['weight'] >= 0

    rows: dict[str, Draw] = {PRIMARY: draw}
    if options.fills:
        count = min(examples.count, 1000)
        rows |= fill_rows(mesh, fills.mean_face(examples[i]['image'] for i in range(count)))
    protocol: dict[str, Any] = {
        'method': Path(samples_dir).name,
        'run': Path(samples_dir).name,
        'data': Path(folders[1]).name,
        'holes': f'files of {Path(folders[2]).name}',
        'num_samples': examples.num_samples,
        'mean_change_of_visible_pixels_before_pasting': changed['outside'],
    }
    skipped: dict[str, str] = {}
    aids = gather_aids(config, '', mesh, skipped, protocol)
    found = measure(examples, rows, protocol, config, mesh, examples.keys, {}, skipped, aids)
    write(found, workdir, options.name or 'folder')
    logging.info('evaluation of %s\n%s', samples_dir, as_text(found))
    return found


def visible_change(examples: FolderExamples, limit: int = 16) -> dict[str, float]:
    """Mean absolute difference of samples and truth in grey levels, inside and outside the hole."""
    sums = {'inside': [0.0, 0.0], 'outside': [0.0, 0.0]}
    for key in examples.keys[:limit]:
        truth, hole, samples = examples.images(key)
        difference = np.abs(samples.astype(np.float64) - truth).mean(axis=(0, 3))
        for name, where in (('inside', hole[..., 0] > 0), ('outside', hole[..., 0] == 0)):
            sums[name][0] += difference[where].sum()
            sums[name][1] += where.sum()
    return {name: total / max(pixels, 1) for name, (total, pixels) in sums.items()}


# ------------------------------------------------------------------------------- writing it


def compare_runs(runs: Sequence[str], config: Any, workdir: str | Path) -> Results:
    """Evaluations of several runs, side by side -> report/compare_<name>.html of workdir."""
    name = config.eval.name or res.common_name(runs)
    paths = [res.find(run, name) for run in runs]
    labels = [p.parents[1].resolve().name if p.parent.name == 'eval' else p.stem for p in paths]
    if len(set(labels)) < len(labels):
        labels = [str(run) for run in runs]
    if len(set(labels)) < len(labels):
        raise ValueError(f'--compare {" ".join(runs)}: one run is given twice')
    loaded = {label: res.load(path) for label, path in zip(labels, paths, strict=True)}
    found = res.compare(loaded)
    write(found, workdir, f'compare_{name or "files"}', keep_arrays=False)
    logging.info('%s\n%s', ' against '.join(labels), as_text(found))
    return found


def write(results: Results, workdir: str | Path, name: str, keep_arrays: bool = True) -> None:
    """eval/<name>.{json,npz} and report/<name>.{html,csv,tex}; process 0 alone writes."""
    if jax.process_index():
        return
    folder = Path(workdir)
    summary = res.summarise(results)
    if keep_arrays:
        res.save(results, folder / 'eval' / f'{name}.npz')
    save_json(folder / 'eval' / f'{name}.json', summary)
    page = report.write(results, summary, folder / 'report', name)
    logging.info('report: %s', page)


HEADLINE = ('psnr_hole/mean', 'psnr_hole/best', 'psnr/mean', 'ssim/mean', 'ssim_hole/mean',
            'l1_hole/mean', 'pair_distance_hole')  # fmt: skip


def as_text(results: Results) -> str:
    """A table of the headline scores over all examples, one line a row, and what was left out."""
    lines = [f'{"":16s}' + ''.join(f'{name:>20s}' for name in HEADLINE)]
    for row, scores in results.scores.items():
        means = [
            float(np.nanmean(scores[name])) if name in scores else float('nan') for name in HEADLINE
        ]
        lines.append(f'{row:16s}' + ''.join(f'{mean:20.4f}' for mean in means))
    lines += [f'skipped: {what}: {why}' for what, why in results.skipped.items()]
    return '\n'.join(lines)


if __name__ == '__main__':
    from fi_jax.main import console

    console('eval')
