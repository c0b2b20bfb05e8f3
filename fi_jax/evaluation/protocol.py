"""The protocol: rows (a method, baselines, the truth) scored on the same holes, image by image.

Its commands are in fi_jax/evaluate.py; see docs/evaluation.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.sharding import Mesh

from fi_jax import features, sharding
from fi_jax.evaluation import comparison, report, summaries
from fi_jax.evaluation import results as res
from fi_jax.evaluation.results import Results
from fi_jax.evaluation.scoring import PRIMARY, Draw, batches, located, measure, record_failure
from fi_jax.input_pipeline.folders import FolderExamples, visible_change
from fi_jax.input_pipeline.loader import EvalExamples, Example
from fi_jax.input_pipeline.records import BadImage, Source
from fi_jax.input_pipeline.sources import make_source
from fi_jax.methods import Method, predicted_landmarks
from fi_jax.metrics import baselines, feature_networks, image, suite
from fi_jax.pretrained import placed
from fi_jax.run.folder import (
    data_name,
    examples_of,
    load_predictor,
    protocol_of,
    results_of,
    saved_config,
    training_data,
)
from fi_jax.run.writers import save_json
from fi_jax.state import NetState, bind_ema
from fi_jax.steps import Sampler

# -------------------------------------------------------------------------- what is evaluated


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
    if options.baselines:
        # The mean is of training faces where they are at hand, else of the faces themselves.
        faces = make_source(config.data, 'train' if split == 'test' else split)
        # Of four times as many faces as are scored: what it errs is lost in the scores' own error.
        average = mean_face(faces, config, limit=min(4 * examples.count, 1000))
        rows |= baseline_rows(mesh, average)
    protocol = protocol_of(config, split, step) | {
        'run': Path(workdir).resolve().name, 'variants': list(method.variants)
    }  # fmt: skip
    names, attributes = describe(source, examples.count)
    skipped: dict[str, str] = {}
    aids = gather_aids(config, workdir, mesh, skipped, protocol)
    found = measure(examples, rows, protocol, config, mesh, names, attributes, skipped, aids)
    write(found, out or results_of(workdir), options.name or f'{split}_{options.holes}')
    return found


def describe(source: Source, count: int) -> tuple[list[str], dict[str, np.ndarray]]:
    """Names of the first images of a source, and the groups that its attributes make of them.

    A group is (n,) of 1, 0, and -1 for images whose attribute is not known; see `attribute_groups`.
    """
    names: list[str] = []
    known: list[Mapping[str, int]] = []
    for i in range(count):
        try:
            record = source[i]
            name, attributes = record.name, record.attributes or {}
        except BadImage:  # it will be left out, by its own name
            name, attributes = getattr(source, 'names', {i: f'#{i}'})[i], {}
        names.append(name)
        known.append(attributes)
    found: dict[str, np.ndarray] = {}
    for attribute in sorted(set().union(*known)):
        found |= attribute_groups(attribute, [x.get(attribute) for x in known])
    return names, found


def attribute_groups(name: str, values: Sequence[int | None]) -> dict[str, np.ndarray]:
    """Groups (n,) of 1, 0 and -1, not known, that the whole numbers of an attribute make.

    Of 1 and 0, or 1 and -1 as in CelebA's files, one; of up to eight numbers one each, 'Origin 2';
    of more four of like size, 'Age 26 to 34'.
    """
    some = np.array([v is not None for v in values])
    numbers = np.array([v or 0 for v in values])
    seen = np.unique(numbers[some])
    if set(seen.tolist()) <= {-1, 0, 1}:
        return {name: np.where(some, numbers > 0, -1)}
    place = np.searchsorted(np.quantile(numbers[some], [0.25, 0.5, 0.75]), numbers)
    if len(seen) <= 8:
        place = np.searchsorted(seen, numbers)
    groups = {}
    for k in np.unique(place[some]):
        inside = numbers[some & (place == k)]
        low, high = inside.min(), inside.max()
        title = f'{name} {low}' if low == high else f'{name} {low} to {high}'
        groups[title] = np.where(some, place == k, -1)
    return groups


def mean_scores(
    method: Method, examples: EvalExamples, config: Any, mesh: Mesh, num_samples: int
) -> Callable[[Mapping[str, NetState]], dict[str, float]]:
    """A function of the nets: the image metrics' means over examples, for use during a training.

    NaN where a metric has no value.
    """

    sampler = Sampler(method, config.seed, num_samples, sharding.by_example(mesh))

    def of(drawn: features.Batch) -> dict[str, jax.Array]:
        hole = drawn['hole'].astype(jnp.float32)
        values = image.score(drawn['composite'], drawn['image'], hole)
        keep = drawn['finite'].all(axis=1) & (drawn['weight'] > 0)
        return {name: jnp.where(keep, x, jnp.nan) for name, x in values.items()}

    score = jax.jit(of, out_shardings=sharding.replicated(mesh))

    def means(nets: Mapping[str, NetState]) -> dict[str, float]:
        found = [
            jax.device_get(score(sampler(nets, sharding.shard_batch(batch, mesh))))
            for batch in batches(examples, config)
        ]
        joined = {name: np.concatenate([x[name] for x in found]) for name in found[0]}
        finite = {name: x[np.isfinite(x)].astype(np.float64) for name, x in joined.items()}
        return {name: float(x.mean()) if x.size else np.nan for name, x in finite.items()}

    return means


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
    if options.baselines:
        count = min(examples.count, 1000)
        rows |= baseline_rows(mesh, baselines.mean_face(examples[i]['image'] for i in range(count)))
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


def compare_runs(runs: Sequence[str], config: Any, workdir: str | Path) -> Results:
    """Evaluations of several runs, side by side -> report/compare_<name>.html of workdir.

    Where workdir is an evaluation's file, as the first run may be, the page goes to its run folder.
    """
    name = config.eval.name or comparison.common_name(runs)
    paths = [comparison.find(run, name) for run in runs]
    labels = [p.parents[1].resolve().name if p.parent.name == 'eval' else p.stem for p in paths]
    if len(set(labels)) < len(labels):
        labels = [str(run) for run in runs]
    if len(set(labels)) < len(labels):
        raise ValueError(f'--compare {" ".join(runs)}: one run is given twice')
    loaded = {label: res.load(path) for label, path in zip(labels, paths, strict=True)}
    found = comparison.compare(loaded)
    workdir = Path(workdir)
    if workdir.is_file():
        workdir = workdir.parents[1] if workdir.parent.name == 'eval' else workdir.parent
    write(found, workdir, f'compare_{name or "files"}', keep_arrays=False)
    logging.info('%s\n%s', ' against '.join(labels), as_text(found))
    return found


# ----------------------------------------------------------------------------------- the rows


def method_rows(
    method: Method, nets: Mapping[str, NetState], config: Any, mesh: Mesh
) -> dict[str, Draw]:
    """The method's draws, and one draw of each of its variants."""

    def row(num_samples: int, variant: str = '') -> Draw:
        placement = sharding.by_example(mesh)
        sampler = Sampler(method, config.seed, num_samples, placement, variant=variant)

        def draw(_: Example, placed: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
            drawn = sampler(nets, placed)
            return drawn['composite'], drawn['finite'].all(axis=1)

        return draw

    return {
        PRIMARY: row(config.eval.num_samples),
        **{name: row(1, name) for name in method.variants},
    }


def baseline_rows(mesh: Mesh, mean_image: np.ndarray) -> dict[str, Draw]:
    """The rows of every evaluation: baselines without a network, on the host, and the truth."""

    def row(fill: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Draw:
        def draw(batch: Example, _: Any) -> tuple[jax.Array, jax.Array]:
            pairs = zip(batch['image'], batch['hole'], strict=True)
            filled = np.stack([fill(x, hole) for x, hole in pairs])[:, None]
            placed = sharding.shard_batch({'x': filled, 'ok': np.ones(len(filled), bool)}, mesh)
            return placed['x'], placed['ok']

        return draw

    return {
        'mean_face': row(lambda x, hole: baselines.fill_mean(x, hole, mean_image)),
        'telea': row(baselines.fill_telea),
        'navier_stokes': row(baselines.fill_navier_stokes),
        'biharmonic': row(baselines.fill_biharmonic),
        'patch_match': row(baselines.fill_patch_match),
        'truth': row(lambda x, _: x),
    }


def mean_face(source: Source, config: Any, limit: int) -> np.ndarray:
    """The average of a source's first images, as the pipeline frames them; (res,res,3) uint8."""
    examples = EvalExamples(source, config, 'none', limit, 1)
    return baselines.mean_face(examples[i]['image'] for i in range(examples.count))


# --------------------------------------------------------------- what metrics of faces need


def gather_aids(
    config: Any,
    workdir: str | Path,
    mesh: Mesh,
    skipped: dict[str, str],
    protocol: dict[str, Any],
) -> dict[str, Any]:
    """The landmark detector and reference set that metrics of faces need, as arguments of
    `suite.face_evaluators`; what is missing is noted in skipped.

    What the report must say of them goes to protocol. workdir '': no run, hence no training faces.
    """
    wanted = suite.chosen(config.eval.metrics)
    aids: dict[str, Any] = {}
    if 'landmarks' in wanted:
        with record_failure(skipped, 'landmarks'):
            field = config.eval.landmark_detector
            aids['landmark_detector'], about = load_landmark_detector(field, mesh)
            leads = config.get('landmark_source') in predicted_landmarks.PREDICTED
            predictor = config.get('predictor') or workdir  # a file may hold one
            same = leads and Path(predictor).resolve() == Path(field).resolve()
            protocol['landmark_detector'] = {**about, 'leads_completions': same}
    if 'memorisation' in wanted and workdir and config.eval.memorisation:
        with record_failure(skipped, 'memorisation'):
            aids['reference'], protocol['memorisation'] = training_faces(
                config, workdir, mesh, aids.get('landmark_detector')
            )
    return aids


def load_landmark_detector(
    run: str, mesh: Mesh, field: str = 'config.eval.landmark_detector'
) -> tuple[suite.LandmarkDetector, dict[str, Any]]:
    """The landmark detector of a field, and what the protocol says of it.

    Its points are the most likely ones of a predictor that is given no hole. Raises LookupError
    where none is named, otherwise as `load_predictor`.
    """
    if not run:
        raise LookupError(
            'no landmark detector is named; train one with configs/landmarks.py and give its '
            'run folder as --config.eval.landmark_detector=runs/lm'
        )
    weights = load_predictor(run, field)
    method, res_read = weights.method, weights.config.res

    def find(nets: Any, images: jax.Array) -> jax.Array:
        assert method.predictor is not None
        seen = images / 127.5 - 1.0
        batch = {'image': seen, 'masked': seen, 'hole': jnp.zeros_like(seen[..., :1])}
        keys = jax.random.split(
            jax.random.key(0), (len(seen), 1)
        )  # of which the points do not depend
        return method.predictor.predict(bind_ema(method, nets), batch, keys)['points']

    about = {'run': weights.about['name'], 'res': res_read, 'step': weights.about['step']}
    return suite.LandmarkDetector(placed(weights.nets, mesh), find, res_read), about


def training_faces(
    config: Any, workdir: str | Path, mesh: Mesh, detector: suite.LandmarkDetector | None
) -> tuple[suite.ReferenceSet, dict[str, Any]]:
    """Features of config.eval.memorisation faces a run was trained on, and words on them.

    The data are those of the run's config.json, seen as they are stored: no hole, no flip. Features
    are dlib's where its weights are there and landmarks known or read, else 8x8 pixels. Raises
    FileNotFoundError or ValueError where the training data cannot be opened.
    """
    trained_on = saved_config(workdir).data if Path(workdir).is_dir() else None
    trained_on = trained_on or training_data(config, workdir)
    if trained_on is None:
        raise LookupError('a file of weights does not tell where the faces lie it was trained on')
    source = make_source(trained_on, 'train')
    options = config.eval
    examples = EvalExamples(source, config, 'none', options.memorisation, options.batch_size)
    known = located(examples)
    read = detector if not known else None
    ready = (known or read) and suite.CUT_OUT in feature_networks.available()
    features = feature_networks.make_features(suite.CUT_OUT if ready else 'pixels8')

    def described(
        features: Any, read: Any, batch: Mapping[str, jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        points = batch['landmarks'] if read is None else read(batch['image'])
        keep = batch['weight'] > 0
        if ready and read is None:
            keep &= batch['has_landmarks'] > 0
        return suite.describe(features, batch['image'], points), keep

    replicated = sharding.replicated(mesh)
    describe_all = jax.jit(described, out_shardings=replicated)
    rows = []
    logging.info('looking at %d training faces with %s', examples.count, features.name)
    for batch in batches(examples, config):
        placed = {k: batch[k] for k in ('image', 'landmarks', 'has_landmarks', 'weight')}
        placed = sharding.shard_batch(placed, mesh)
        found, keep = jax.device_get(describe_all(features, read, placed))
        rows.append(found[keep & np.isfinite(found).all(axis=1)])
    reference = np.concatenate(rows)
    about = {'features': features.name, 'faces': len(reference), 'data': data_name(trained_on)}
    return suite.ReferenceSet(features, jax.device_put(reference, replicated)), about


# --------------------------------------------------------------------------------- writing it


def write(results: Results, workdir: str | Path, name: str, keep_arrays: bool = True) -> None:
    """eval/<name>.{json,npz} and report/<name>.{html,csv,tex}; process 0 alone writes."""
    if jax.process_index():
        return
    folder = Path(workdir)
    summary = summaries.summarise(results)
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
