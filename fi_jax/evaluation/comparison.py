"""Evaluations of several runs brought together: on the images they share, row by row."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fi_jax.evaluation.metric_names import TRAIN_DISTANCE
from fi_jax.evaluation.results import Face, Results, Scores, holes_sha256
from fi_jax.metrics import bootstrap


def find(run: str | Path, name: str = '') -> Path:
    """The .npz of a run folder's evaluation: of that name, or its newest; a file stands for itself.

    Raises FileNotFoundError where there is none.
    """
    run = Path(run)
    if run.is_file():
        return run
    found = sorted((run / 'eval').glob(f'{name or "*"}.npz'), key=lambda p: p.stat().st_mtime)
    if not found:
        raise FileNotFoundError(
            f'{run}: no evaluation {name or ""} in its eval/; run python -m fi_jax.evaluate '
            f'--config=... --checkpoint={run} first'
        )
    return found[-1]


def common_name(runs: Sequence[str | Path]) -> str:
    """The newest evaluation that all these run folders have; '' where files are given."""
    folders = [Path(run) for run in runs if not Path(run).is_file()]
    if not folders:
        return ''
    stems = [{p.stem for p in (folder / 'eval').glob('*.npz')} for folder in folders]
    shared = set.intersection(*stems)
    if not shared:
        listed = '; '.join(
            f'{f}: {sorted(s) or "none"}' for f, s in zip(folders, stems, strict=True)
        )
        raise ValueError(f'--compare: the runs share no evaluation ({listed}); evaluate them alike')
    return max(shared, key=lambda stem: (folders[0] / 'eval' / f'{stem}.npz').stat().st_mtime)


def compare(evaluations: Mapping[str, Results]) -> Results:
    """Several evaluations side by side, on the images and holes that all of them have.

    Their primary rows take the names given here; the baselines are those of the first. Raises
    ValueError where they have nothing in common.
    """
    evaluations, differing = _alike(evaluations)
    labels, all_results = list(evaluations), list(evaluations.values())
    head = all_results[0]
    shared = set(head.fingerprint.tolist())
    for other in all_results[1:]:
        shared &= set(other.fingerprint.tolist())
    if not shared:
        raise ValueError(
            f'--compare {", ".join(labels)}: no image and hole in common; evaluate all with the '
            'same data, split, res, seed and holes'
        )
    keep = np.array([x in shared for x in head.fingerprint.tolist()])
    order = head.fingerprint[keep].tolist()
    whole = all(len(other.names) == len(order) for other in all_results)
    scores: dict[str, Scores] = {}
    sets: dict[str, dict[str, bootstrap.Estimate]] = {}
    skipped = dict(differing)
    standing: dict[str, Scores] = {}
    primary: list[str] = []
    gallery: list[Face] = []
    for label, results in evaluations.items():
        at = {x: i for i, x in enumerate(results.fingerprint.tolist())}
        picked = np.array([at[x] for x in order])
        skipped |= {f'{label}: {what}': why for what, why in results.skipped.items()}
        for row, cells in results.scores.items():
            moved = {name: values[picked] for name, values in cells.items()}
            own = row in results.primary
            if own or row in results.protocol.get('variants', ('z=0',)):
                renamed = label if own else f'{label}, {row}'
                renamed = f'{label}, {row}' if own and len(results.primary) > 1 else renamed
                scores[renamed] = moved
                sets[renamed] = results.sets.get(row, {}) if whole else {}
                primary += [renamed] if own else []
            elif results is head:
                standing[row] = moved
                sets[row] = results.sets.get(row, {}) if whole else {}
    if not whole:
        skipped['metrics of whole sets'] = 'the runs were evaluated on different numbers of images'
    shown = 3 if len(evaluations) <= 4 else 2  # samples of each, so that a page can hold them
    for face in (f for f in head.gallery if f.why == 'first'):
        pictures: dict[str, np.ndarray] = {}
        for label, results in evaluations.items():
            same = [f for f in results.gallery if (f.why, f.name) == (face.why, face.name)]
            if same:
                drawn = {k: v for k, v in same[0].pictures.items() if k.startswith('sample')}
                pictures |= {f'{label}: {k}': v for k, v in list(drawn.items())[:shown]}
        ends = face.pictures
        pictures = {'input': ends['input'], **pictures, 'truth': ends['truth']}
        gallery.append(Face('first', face.name, face.score, pictures))
    protocol = head.protocol | {
        'primary': primary,
        'num_images': len(order),
        'compared': {label: r.protocol.get('run', '') for label, r in evaluations.items()},
        'holes_sha256': holes_sha256(head.holes[keep]),
        'num_samples': ', '.join(str(r.protocol['num_samples']) for r in all_results)
        if len({r.protocol['num_samples'] for r in all_results}) > 1
        else head.protocol['num_samples'],
    }
    return Results(
        protocol=protocol,
        names=head.names[keep],
        fingerprint=head.fingerprint[keep],
        area=head.area[keep],
        kind=head.kind[keep],
        holes=head.holes[keep],
        attributes={name: values[keep] for name, values in head.attributes.items()},
        scores=scores | standing,
        sets={row: cells for row, cells in sets.items() if cells},
        skipped=skipped,
        gallery=tuple(gallery),
    )


# What must be equal for columns to be compared: protocol field -> (beginnings of names, words).
_ALIKE = {
    'landmark_detector': (
        ('landmark_', 'passed', 'pair_distance_hole_passed'),
        'read by other landmark detectors',
    ),
    'landmarks': (
        ('landmark_', 'identity', 'passed', 'pair_distance_hole_passed'),
        'measured against other points',
    ),
    'gates': (('passed', 'pair_distance_hole_passed'), 'passed through other gates'),
    'memorisation': ((TRAIN_DISTANCE,), 'compared with other training faces'),
}


def _alike(evaluations: Mapping[str, Results]) -> tuple[dict[str, Results], dict[str, str]]:
    """Evaluations without the columns that were not measured alike, and what was left out."""
    kept, skipped = dict(evaluations), {}
    for field, (heads, words) in _ALIKE.items():
        said = {label: r.protocol.get(field) for label, r in kept.items()}
        if len({json.dumps(x, sort_keys=True) for x in said.values() if x}) < 2:
            continue
        listed = '; '.join(f'{label}: {x or "none"}' for label, x in said.items())
        skipped[' and '.join(heads).replace('_', ' ')] = f'{words} ({listed})'
        for label, r in kept.items():
            scores = {
                row: {m: x for m, x in cells.items() if not m.startswith(heads)}
                for row, cells in r.scores.items()
            }
            kept[label] = dataclasses.replace(r, scores=scores)
    return kept, skipped
