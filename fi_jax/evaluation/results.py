"""What an evaluation leaves behind: scores of each image, their summaries, and comparisons."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fi_jax.metrics import bootstrap, diversity
from fi_jax.metrics.groups import AREA_NAMES, groups_of
from fi_jax.run.files import whole

Scores = dict[str, np.ndarray]  # metric -> (n,), NaN where it is not defined
TRAIN_DISTANCE = 'train_distance_'  # then the name of the features
MIN_GROUP = 10  # images of an attribute below which it says nothing
_ARRAYS = ('names', 'fingerprint', 'area', 'kind', 'holes')


@dataclasses.dataclass(frozen=True)
class Metric:
    """How a metric is shown; better is 'higher', 'lower' or '' where neither is."""

    title: str
    unit: str = ''
    better: str = ''
    digits: int = 3


_SHOWN = {
    'psnr_hole/mean': Metric('hole PSNR', 'dB', 'higher', 2),
    'psnr_hole/best': Metric('hole PSNR, best of N', 'dB', 'higher', 2),
    'ssim_hole/mean': Metric('hole SSIM', '', 'higher'),
    'ssim_hole/best': Metric('hole SSIM, best of N', '', 'higher'),
    'l1_hole/mean': Metric('hole L1', 'grey levels', 'lower', 2),
    'l1_hole/best': Metric('hole L1, best of N', 'grey levels', 'lower', 2),
    'psnr/mean': Metric('PSNR', 'dB', 'higher', 2),
    'psnr/best': Metric('PSNR, best of N', 'dB', 'higher', 2),
    'ssim/mean': Metric('SSIM', '', 'higher'),
    'ssim/best': Metric('SSIM, best of N', '', 'higher'),
    'l1/mean': Metric('L1', 'grey levels', 'lower', 2),
    'l1/best': Metric('L1, best of N', 'grey levels', 'lower', 2),
    'pair_distance': Metric('pair distance', 'of [-1,1]', '', 4),
    'pair_distance_hole': Metric('pair distance in the hole', 'of [-1,1]', ''),
    'pair_distance_hole_passed': Metric('pair distance of those that pass', 'of [-1,1]'),
    'identity_gt/mean': Metric('identity, cosine to the truth', '', 'higher'),
    'identity_gt/best': Metric('identity, best of N', '', 'higher'),
    'identity_gt_distance': Metric('identity, distance to the truth', '', 'lower'),
    'identity_div': Metric('identity, 1 - cosine between samples'),
    'identity_passed': Metric('pass the face gate', 'share', 'higher'),
    'landmark_passed': Metric('pass the landmark gate', 'share', 'higher'),
    'passed': Metric('pass all gates', 'share', 'higher'),
    'landmark_error/mean': Metric('landmark error', 'of the eyes', 'lower', 4),
    'landmark_error/best': Metric('landmark error, best of N', 'of the eyes', 'lower', 4),
    'landmark_error_hole/mean': Metric('hole landmark error', 'of the eyes', 'lower', 4),
    'landmark_error_hole/best': Metric('hole landmark error, best of N', 'of the eyes', 'lower', 4),
    'landmark_spread': Metric('landmark spread', 'of the eyes', '', 4),
    'landmark_spread_hole': Metric('landmark spread in the hole', 'of the eyes', '', 4),
    'seam': Metric('seam', 'grey levels', '', 2),
    'ms_ssim/mean': Metric('MS-SSIM', '', 'higher'),
    'ms_ssim/best': Metric('MS-SSIM, best of N', '', 'higher'),
}


_NETWORKS = {'lpips': 'LPIPS', 'stlpips': 'ST-LPIPS'}
_HIGHER = (
    'precision',
    'recall',
    'density',
    'coverage',
    'P-IDS',
    'U-IDS',
    'ssim',
    'psnr',
    'identity',
)
_LOWER = ('FID', 'KID', 'FD-', 'KD-', 'seam', 'landmark')


def shown(name: str) -> Metric:
    """The title, unit and direction of a metric; of one unknown here, what its name tells."""
    if name in _SHOWN:
        return _SHOWN[name]
    head, _, over = name.partition('/')
    family, _, rest = head.partition('_')
    best = ', best of N' if over == 'best' else ''
    if family in _NETWORKS:
        # Distance to the truth and distance between samples never share a column.
        trunk, _, what = rest.partition('_')
        to = 'to the truth' if what.startswith('gt') else 'between samples'
        where = 'hole ' if what.endswith('_hole') else ''
        title = f'{where}{_NETWORKS[family]} {trunk}, {to}{best}'
        return Metric(title, '', 'lower' if what.startswith('gt') else '')
    if head.startswith(TRAIN_DISTANCE):
        net = head.removeprefix(TRAIN_DISTANCE).replace('_', ' ')
        of = ', of the photo' if over == 'photo' else ''
        return Metric(f'nearest training face, {net}{of}', '', '', 2 if 'pixels' in net else 3)
    title = head.replace('_', ' ') + best
    better = 'higher' if any(word in head for word in _HIGHER) else ''
    better = 'lower' if any(word in head for word in _LOWER) else better
    digits = 2 if head.startswith(('FID', 'clean-FID', 'FD-')) else 3
    return Metric(title, '', better, 4 if head.startswith(('KID', 'clean-KID', 'KD-')) else digits)


@dataclasses.dataclass(frozen=True)
class Face:
    """One row of the gallery: why it is there, and pictures (H,W,3) uint8 by title."""

    why: str
    name: str
    score: float
    pictures: Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Results:
    """An evaluation: n examples, rows (a method or a fill each) and their scores.

    fingerprint (n,) uint64 of truth and hole, area (n,) missing pixels, kind (n,) index into
    protocol['kinds'], holes (n,bytes) uint8 packed bits, attributes name -> (n,) 0 or 1. sets holds
    the metrics of a whole row. skipped says what is missing and why.
    """

    protocol: dict[str, Any]
    names: np.ndarray
    fingerprint: np.ndarray
    area: np.ndarray
    kind: np.ndarray
    holes: np.ndarray
    attributes: dict[str, np.ndarray]
    scores: dict[str, Scores]
    sets: dict[str, dict[str, bootstrap.Estimate]]
    skipped: dict[str, str]
    gallery: tuple[Face, ...] = ()

    @property
    def primary(self) -> list[str]:
        """The rows the evaluation is about; the first is the one compared with all others."""
        return [row for row in self.protocol['primary'] if row in self.scores]

    @property
    def pixels(self) -> int:
        """Pixels of a frame."""
        height, width = self.protocol['size']
        return height * width

    def groups(self) -> dict[str, np.ndarray]:
        """Members (n,) of 'all', of each area bin and of each hole kind that has any."""
        found = groups_of(self.area, self.kind, self.pixels, self.protocol['kinds'])
        return {name: member for name, member in found.items() if member.any()}


def fingerprint(image: np.ndarray, hole: np.ndarray) -> int:
    """64 bits that tell whether two evaluations saw the same truth and the same hole."""
    shape = np.array(image.shape, np.int64).tobytes()
    digest = hashlib.sha256(shape + image.tobytes() + np.packbits(hole > 0).tobytes()).digest()
    return int.from_bytes(digest[:8], 'little')


def holes_sha256(holes: np.ndarray) -> str:
    """The hash of all holes, packed bits (n,bytes), in order."""
    return hashlib.sha256(np.ascontiguousarray(holes).tobytes()).hexdigest()


# ---------------------------------------------------------------------------------- summaries


def summarise(results: Results) -> dict[str, Any]:
    """Plain data for eval/<name>.json: protocol, rows, sets, paired and the sections below."""
    draws = results.protocol['bootstrap']
    groups = results.groups()
    rows = {
        row: {
            group: {name: dataclasses.asdict(e) for name, e in cells.items()}
            for group, cells in bootstrap.estimates(scores, groups, draws).items()
        }
        for row, scores in results.scores.items()
    }
    return {
        'protocol': results.protocol,
        'rows': rows,
        'sets': {r: {m: _plain(x) for m, x in cells.items()} for r, cells in results.sets.items()},
        'paired': paired(results),
        'calibration': calibration(results),
        'memorisation': memorisation(results),
        'attributes': attribute_gaps(results),
        'skipped': results.skipped,
    }


def paired(results: Results) -> dict[str, dict[str, Any]]:
    """Row -> metric -> the first primary row minus that row, on the same images and holes.

    Each an `Estimate` as a dict, with `wins`: the share of images on which the first is better.
    """
    if not results.primary:
        return {}
    first = results.scores[results.primary[0]]
    out = {}
    for row, scores in results.scores.items():
        if row in (results.primary[0], 'truth'):
            continue
        differences = {m: first[m] - scores[m] for m in first if m in scores}
        differences = {m: d for m, d in differences.items() if np.isfinite(d).any()}
        everyone = {'all': np.ones(len(results.names), bool)}
        found = bootstrap.estimates(differences, everyone, results.protocol['bootstrap'])
        cells = {}
        for name, one in found.get('all', {}).items():
            sign = {'higher': 1, 'lower': -1}.get(shown(name).better, 0)
            known = differences[name][np.isfinite(differences[name])]
            wins = float(np.mean(sign * known > 0)) if sign else float('nan')
            cells[name] = dataclasses.asdict(one) | {'wins': wins}
        out[row] = cells
    return out


def calibration(results: Results) -> dict[str, dict[str, Any]]:
    """Row -> area bin -> spread, error and their ratio, with intervals.

    spread is the mean L1 of two samples inside the hole, error that of a sample and the truth, both
    of [-1,1]. Where the truth is one more draw of the same law they are equal: a ratio of 1; below
    it the samples agree more than they are right. whole_frame: the rank correlation of area and
    spread over the frame, and where the line through the smaller holes meets area 0.
    """
    out = {}
    areas = {k: m for k, m in results.groups().items() if k in ('all', *AREA_NAMES)}
    for row, scores in results.scores.items():
        if 'pair_distance_hole' not in scores or 'l1_hole/mean' not in scores:
            continue
        spread, error = scores['pair_distance_hole'], scores['l1_hole/mean'] / 127.5
        known = np.isfinite(spread) & np.isfinite(error)
        if not known.any():
            continue
        values = np.where(known, np.stack([spread, error]), np.nan)
        mean, count, draws = bootstrap.resampled_means(
            values, np.stack(list(areas.values())), results.protocol['bootstrap']
        )
        cells: dict[str, Any] = {}
        for g, group in enumerate(areas):
            if not count[0, g]:
                continue
            with np.errstate(invalid='ignore', divide='ignore'):
                ratio = mean[0, g] / mean[1, g], draws[:, 0, g] / draws[:, 1, g]
            # The mean share of the frame, to draw the bin where its images are.
            share = results.area[areas[group] & known].mean() / results.pixels
            whole = scores.get('pair_distance') if group == 'all' else None
            if whole is not None:
                law = diversity.calibration(results.area / results.pixels, whole)
                cells['whole_frame'] = {
                    'rank_correlation': law.rank_correlation,
                    'at_zero': law.at_zero,
                    'at_zero_interval': _at_zero(results, whole),
                }
            cells[group] = {
                'area': float(share),
                'spread': _plain(bootstrap.estimate(mean[0, g], draws[:, 0, g], count[0, g])),
                'error': _plain(bootstrap.estimate(mean[1, g], draws[:, 1, g], count[1, g])),
                'ratio': _plain(bootstrap.estimate(*ratio, count[0, g])),
            }
        out[row] = cells
    return out


def _at_zero(results: Results, whole: np.ndarray) -> list[float]:
    """The 95 % interval of `diversity.calibration`'s at_zero over images."""
    area = results.area / results.pixels

    def one(drawn: np.ndarray) -> float:
        return diversity.calibration(area[drawn], whole[drawn]).at_zero

    return _interval(one, len(area), min(results.protocol['bootstrap'], 500))


def _interval(value: Callable[[np.ndarray], float], count: int, draws: int) -> list[float]:
    """Percentiles 2.5 and 97.5 of a value of resampled indices (count,); NaN for fewer than two."""
    if count < 2:
        return [float('nan')] * 2
    rng = np.random.default_rng(0)
    values = [value(rng.integers(count, size=count)) for _ in range(draws)]
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', RuntimeWarning)  # all of them NaN
        low, high = np.nanquantile(values, [0.025, 0.975])
    return [float(low), float(high)]


def memorisation(results: Results) -> dict[str, dict[str, Any]]:
    """Row -> how near its first samples lie to training faces, beside the photos themselves.

    ratio: the median over images of a sample's distance to its nearest training face over that of
    its own photo, with its interval; below 1 the samples are drawn towards training faces. copies:
    the share of samples nearer to a training face than any photo is. distance, photo: medians.
    """
    out = {}
    for row, scores in results.scores.items():
        for name in (n for n in scores if n.startswith(TRAIN_DISTANCE) and '/' not in n):
            distance, photo = scores[name], scores[f'{name}/photo']
            known = np.isfinite(distance) & np.isfinite(photo) & (photo > 0)
            if row == 'truth' or not known.any():
                continue
            distance, photo = distance[known], photo[known]
            ratio = distance / photo

            def median(drawn: np.ndarray, ratio: np.ndarray = ratio) -> float:
                return float(np.median(ratio[drawn]))

            low, high = _interval(median, len(ratio), results.protocol['bootstrap'])
            out[row] = {
                'features': name.removeprefix(TRAIN_DISTANCE),
                'count': len(ratio),
                'ratio': {'median': float(np.median(ratio)), 'low': low, 'high': high},
                'copies': float(np.mean(distance < photo.min())),
                'distance': float(np.median(distance)),
                'photo': float(np.median(photo)),
            }
    return out


def attribute_gaps(results: Results, metric: str = 'psnr_hole/mean') -> dict[str, Any]:
    """The first primary row's metric by attribute: with, without, the gap, and the worst group.

    Attributes with fewer than MIN_GROUP images on either side are left out.
    """
    if not results.primary or metric not in results.scores[results.primary[0]]:
        return {}
    values = results.scores[results.primary[0]][metric][None]
    cells = {}
    for name, has in results.attributes.items():
        member = np.stack([has > 0, has <= 0])
        mean, count, draws = bootstrap.resampled_means(
            values, member, results.protocol['bootstrap']
        )
        if count.min() < MIN_GROUP:
            continue
        gap = mean[0, 0] - mean[0, 1], draws[:, 0, 0] - draws[:, 0, 1]
        cells[name] = {
            'with': _plain(bootstrap.estimate(mean[0, 0], draws[:, 0, 0], count[0, 0])),
            'without': _plain(bootstrap.estimate(mean[0, 1], draws[:, 0, 1], count[0, 1])),
            'gap': _plain(bootstrap.estimate(*gap, int(count.sum()))),
        }
    if not cells:
        return {}
    sides = [(cells[n][s]['mean'], n, s) for n in cells for s in ('with', 'without')]
    worst = min(sides) if shown(metric).better == 'higher' else max(sides)
    return {
        'metric': metric,
        'worst': {'attribute': worst[1], 'side': worst[2], 'mean': worst[0]},
        'by_attribute': cells,
    }


def _plain(one: bootstrap.Estimate) -> dict[str, Any]:
    return dataclasses.asdict(one)


# ------------------------------------------------------------------------- saving and loading


def save(results: Results, path: str | Path) -> None:
    """Write an .npz with everything of an evaluation; whole or not at all."""
    head = {
        'protocol': results.protocol,
        'sets': {r: {m: _plain(x) for m, x in cells.items()} for r, cells in results.sets.items()},
        'skipped': results.skipped,
        'scores': {row: list(scores) for row, scores in results.scores.items()},
        'attributes': list(results.attributes),
        'gallery': [[f.why, f.name, f.score, list(f.pictures)] for f in results.gallery],
    }
    arrays = {name: getattr(results, name) for name in _ARRAYS}
    for r, scores in enumerate(results.scores.values()):
        arrays[f'scores_{r}'] = np.array(list(scores.values()), np.float64)
    if results.attributes:
        arrays['attributes'] = np.array(list(results.attributes.values()), np.int8)
    for f, face in enumerate(results.gallery):
        arrays[f'gallery_{f}'] = np.array(list(face.pictures.values()), np.uint8)
    with whole(path) as part, open(part, 'wb') as file:
        np.savez_compressed(file, head=np.array(json.dumps(head)), **arrays)


def load(path: str | Path) -> Results:
    """The evaluation saved in an .npz; FileNotFoundError, or ValueError where it is another."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'{path}: no such evaluation; run python -m fi_jax.evaluate on it')
    try:
        with np.load(path, allow_pickle=False) as file:
            head = json.loads(str(file['head']))
            scores = {
                row: dict(zip(metrics, file[f'scores_{r}'], strict=True))
                for r, (row, metrics) in enumerate(head['scores'].items())
            }
            names = head['attributes']
            attributes = dict(zip(names, file['attributes'], strict=True)) if names else {}
            gallery = tuple(
                Face(why, name, score, dict(zip(titles, file[f'gallery_{f}'], strict=True)))
                for f, (why, name, score, titles) in enumerate(head['gallery'])
            )
            return Results(
                protocol=head['protocol'],
                **{name: file[name] for name in _ARRAYS},
                attributes=attributes,
                scores=scores,
                sets={
                    row: {m: bootstrap.Estimate(**x) for m, x in cells.items()}
                    for row, cells in head['sets'].items()
                },
                skipped=head['skipped'],
                gallery=gallery,
            )
    except (KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f'{path}: is no evaluation of fi_jax ({error})') from error


# --------------------------------------------------------------------------------- comparing


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

    Their primary rows take the names given here; the fills are those of the first. Raises
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
    for face in (f for f in head.gallery if f.why == 'first'):
        pictures: dict[str, np.ndarray] = {}
        for label, results in evaluations.items():
            same = [f for f in results.gallery if (f.why, f.name) == (face.why, face.name)]
            if same:
                drawn = {k: v for k, v in same[0].pictures.items() if k.startswith('sample')}
                pictures |= {f'{label}: {k}': v for k, v in list(drawn.items())[:3]}
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
    'reader': (('landmark_', 'passed', 'pair_distance_hole_passed'), 'read by other readers'),
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
