"""The loop of an evaluation: a method, baselines and the truth scored on every example, once."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.sharding import Mesh
from tqdm import tqdm

from fi_jax import pictures, sharding
from fi_jax.evaluation import results as res
from fi_jax.evaluation.results import Results
from fi_jax.input_pipeline import holes
from fi_jax.input_pipeline.loader import Example, eval_batches
from fi_jax.metrics import diversity, identity, suite
from fi_jax.metrics.bootstrap import Estimate

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
    `evaluate.gather_aids`. Where no landmarks came with the images, those that the detector finds
    in the originals stand for them. Memory grows with the number of images by their scores and hole
    bits, and not with the number of samples. Scores are finite or NaN.
    """
    skipped, aids = {} if skipped is None else skipped, dict(aids or {})
    replicated = sharding.replicated(mesh)
    wanted, first = config.eval.metrics, examples[0]
    height, width = first['image'].shape[:2]
    came = located(examples)  # landmarks, with the images
    evaluators = suite.face_evaluators(wanted, came, skipped, **aids)
    chosen = suite.example_metrics(wanted, min(height, width), skipped, evaluators)
    of_photos = jax.jit(suite.of_photos, out_shardings=sharding.by_example(mesh))
    joint = ', '.join(evaluators)
    seen = _SCORED if came or 'landmarks' not in evaluators else _SCORED[:2]
    metrics = {
        name: (jax.jit(score, out_shardings=replicated), weights)
        for name, (score, weights) in chosen.items()
    }
    sets = suite.set_metrics(wanted, skipped)
    embed = jax.jit(lambda features, x: features(x), out_shardings=replicated)
    fetch = _fetcher(mesh)
    count = examples.count
    meta: dict[str, np.ndarray] = {}
    scores: dict[str, res.Scores] = {row: {} for row in rows}
    not_finite: dict[str, list[int]] = {row: [] for row in rows}
    # delay: none where it is soon done, as in a validation.
    every, quiet = 1.0 if sys.stderr.isatty() else 30.0, jax.process_index() > 0
    bar = tqdm(
        total=count, desc='scored', unit=' images', mininterval=every, delay=5, disable=quiet
    )
    for batch in batches(examples, config):
        known = fetch(sharding.shard_batch(_meta(batch), mesh))
        real = known['weight'] > 0
        at = known['index'][real]
        for name, values in known.items():
            _put(meta, name, values[real], at, count)
        placed = sharding.shard_batch(batch, mesh)
        known_of = {k: x for k, x in placed.items() if k in seen}
        known_of['hole'] = placed['hole'].astype(jnp.float32)
        if evaluators and joint not in skipped:
            with record_failure(skipped, joint):
                known_of = of_photos(evaluators, known_of)
        for row, draw in rows.items():
            if row in skipped:
                continue
            with record_failure(skipped, row):
                samples, ok = draw(batch, placed)
                ok = fetch(ok)[real]
                not_finite[row] += at[~ok].tolist()
                for name, (score, weights) in metrics.items():
                    what = f'{row}: {name}'
                    if {name, what} & set(skipped):
                        continue
                    with record_failure(skipped, what):
                        found = jax.device_get(score(weights, samples, known_of))
                        for key, values in found.items():
                            values = np.where(ok, values[real].astype(np.float64), np.nan)
                            values = np.where(np.isfinite(values), values, np.nan)
                            _put(scores[row], key, values, at, count)
                for name, one in sets.items():
                    if f'{row}: {name}' not in skipped:
                        with record_failure(skipped, f'{row}: {name}'):
                            rows_of = jax.device_get(embed(one.features, samples[:, 0]))
                            one.add(row, rows_of[real], at, ok)
        for name, one in sets.items():
            if name not in skipped:
                with record_failure(skipped, name):
                    rows_of = jax.device_get(embed(one.features, placed['image']))
                    one.add('', rows_of[real], at, np.ones(len(at)))
        bar.update(int(real.sum()))
    bar.close()
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
                with record_failure(skipped, f'{row}: {name}'):
                    values_of_sets[row] |= one.compute(row, skipped)
    found_by = 'landmark_detector' if 'landmarks' in evaluators else ''
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
            'landmarks': 'data' if came else found_by,
            'gates': {k: most for k, most in GATES.items() if k in evaluators},
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
        with record_failure(skipped, 'gallery'):
            faces = choose_faces(found, config.eval.gallery)
            drawn = draw_faces(examples, rows, faces, found, config, mesh)
            return dataclasses.replace(found, gallery=drawn)
    return found


@contextlib.contextmanager
def record_failure(skipped: dict[str, str], what: str) -> Iterator[None]:
    """What fails inside is logged and noted in skipped with its reason, and ends nothing."""
    try:
        yield
    except Exception as error:  # whatever a metric may meet, the run goes on
        reason = ' '.join(str(error).split()) or type(error).__name__
        known = isinstance(error, ImportError | LookupError | ValueError | FileNotFoundError)
        skipped[what] = reason if known else f'{type(error).__name__}: {reason}'
        logging.warning('%s is left out: %s', what, skipped[what])


def batches(examples: Any, config: Any) -> Iterator[Example]:
    """This host's share of an `EvalExamples` or `FolderExamples`, in equal batches."""
    hosts = jax.process_index(), jax.process_count()
    return eval_batches(examples, config, config.eval.batch_size, *hosts)


def located(examples: Any, look_at: int = 16) -> bool:
    """Whether landmarks came with any of the first examples."""
    first = (examples[i] for i in range(min(look_at, examples.count)))
    return any(example.get('has_landmarks', 0) > 0 for example in first)


def _fetcher(mesh: Mesh) -> Callable[[Any], Any]:
    """A function that gathers arrays, sharded over the devices of all hosts, to each host."""
    gather = jax.jit(lambda x: x, out_shardings=sharding.replicated(mesh))
    return lambda x: jax.device_get(gather(x))


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


# -------------------------------------------------------------------------------- the gallery


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
    fetch = _fetcher(mesh)
    ranked = results.scores.get(PRIMARY, {}).get(RANKED_BY)
    variants = results.protocol.get('variants', ())
    faces = []
    for start in range(0, len(chosen), size):
        part = list(chosen[start : start + size])
        padded = [examples[i] for _, i in part + part[:1] * (size - len(part))]
        batch = {name: np.stack([x[name] for x in padded[mine]]) for name in padded[0]}
        placed = sharding.shard_batch(batch, mesh)
        drawn = {
            row: fetch(rows[row](batch, placed)[0])
            for row in (PRIMARY, *variants)
            if row in rows and row in results.scores
        }
        for k, (why, index) in enumerate(part):
            x, hole = padded[k]['image'], padded[k]['hole']
            shown = {'input': pictures.with_hole(x, hole)}
            if PRIMARY in drawn:
                shown |= {f'sample {n + 1}': y for n, y in enumerate(drawn[PRIMARY][k])}
            shown |= {name: drawn[name][k, 0] for name in variants if name in drawn}
            score = float(ranked[index]) if ranked is not None else float('nan')
            shown['truth'] = x
            faces.append(res.Face(why, str(results.names[index]), score, shown))
    return tuple(faces)
