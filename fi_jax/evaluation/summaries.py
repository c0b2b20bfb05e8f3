"""Summaries of an evaluation, as plain data: means, paired differences, calibration, groups."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from fi_jax.evaluation.metric_names import TRAIN_DISTANCE, shown
from fi_jax.evaluation.results import Results
from fi_jax.metrics import bootstrap, diversity
from fi_jax.metrics.groups import AREA_NAMES

MIN_GROUP = 10  # images of an attribute below which it says nothing


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
    """Primary row -> its metric by attribute: with, without, the gap, and the worst group.

    Attributes with fewer than MIN_GROUP images on either side are left out, and images of which an
    attribute is not known.
    """
    found = {}
    for row in results.primary:
        if metric in results.scores[row] and (one := _gaps(results, row, metric)):
            found[row] = one
    return found


def _gaps(results: Results, row: str, metric: str) -> dict[str, Any]:
    values = results.scores[row][metric][None]
    cells = {}
    for name, has in results.attributes.items():
        member = np.stack([has == 1, has == 0])
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
