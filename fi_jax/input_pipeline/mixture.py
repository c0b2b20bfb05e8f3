"""Several sets read as one, each with its own crop, landmarks, persons and splits.

A file lists them, a table `[[set]]` each, in TOML. Its fields are those of `config.data` (source,
path, landmarks, identities, attributes, partition, frame, val_share, test_share, ...), with paths
relative to the file, and:

    title   what begins the names of its images, title/name; unique
    weight  how often each of its images comes in training, where 1 is the default

One epoch of training holds each image of the least weight once, and those of other sets as many
times more as their weight is greater; where that is no whole number, some images come once more
than others. In other splits each image comes once. The order is fixed, and such that the first
images of a mixture, however many, are a fair sample of all sets, and of each from end to end.
"""

from __future__ import annotations

import dataclasses
import os
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fi_jax.input_pipeline.lists import number_of
from fi_jax.input_pipeline.records import Record, Source

FIELDS = (
    'source', 'path', 'name', 'data_dir', 'landmarks', 'identities', 'attributes', 'partition',
    'frame', 'val_share', 'test_share', 'length', 'size', 'seed',
)  # fmt: skip
_PATHS = ('path', 'data_dir', 'landmarks', 'identities', 'attributes', 'partition')


class Mixture:
    """Sources drawn by weight; see above. Weights of None: each image once."""

    def __init__(self, sources: Mapping[str, Source], weights: Sequence[float] | None = None):
        self._titles, self._sources = tuple(sources), tuple(sources.values())
        weights = weights or [1.0] * len(self._sources)
        pairs = zip(self._sources, weights, strict=True)
        images = [_repeated(len(source), weight / min(weights)) for source, weight in pairs]
        sets = np.repeat(np.arange(len(images), dtype=np.int16), [len(i) for i in images])
        # Where in the epoch, from 0 to 1, each would lie if its set were alone.
        places = np.concatenate([(np.arange(len(i)) + 0.5) / max(len(i), 1) for i in images])
        order = np.argsort(places, kind='stable')
        self._set, self._image = sets[order], np.concatenate(images)[order]
        if all(hasattr(source, 'names') for source in self._sources):
            self.names: tuple[str, ...] = tuple(
                f'{self._titles[k]}/{self._sources[k].names[i]}'
                for k, i in zip(self._set.tolist(), self._image.tolist(), strict=True)
            )

    def __len__(self) -> int:
        return len(self._set)

    def __getitem__(self, index: int) -> Record:
        title = self._titles[self._set[index]]
        record = self._sources[self._set[index]][int(self._image[index])]
        identity = record.identity
        if identity is not None:
            identity = number_of(f'{title} {identity}')
        return dataclasses.replace(record, name=f'{title}/{record.name}', identity=identity)

    def shares(self) -> dict[str, float]:
        """Title -> share of the images of an epoch."""
        counts = np.bincount(self._set, minlength=len(self._titles))
        return dict(zip(self._titles, (counts / max(len(self), 1)).tolist(), strict=True))


def _repeated(count: int, times: float) -> np.ndarray:
    """Indices 0..count-1, each `times` times, spread evenly where that is no whole number.

    By multiples of the golden ratio: the first of them lie evenly in the set, whose names may sort
    by age.
    """
    ends = np.floor(np.arange(1, count + 1) * times + 1e-9).astype(np.int64)
    order = np.argsort(np.arange(count) * (5**0.5 - 1) / 2 % 1)
    return np.repeat(order, np.diff(ends, prepend=0)[order])


def read_sets(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The sets of a file, their paths made absolute; see above.

    Raises:
        FileNotFoundError: absent.
        ValueError: not TOML, no set, an unknown field, a title twice, or a weight that is none.
    """
    where = f'data.sets={os.fspath(path)}'
    if not os.path.isfile(path):
        raise FileNotFoundError(f'{where}: no such file; check the path')
    try:
        with open(path, 'rb') as file:
            found = tomllib.load(file)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f'{where}: not a readable TOML file ({error})') from error
    sets = found.get('set')
    if set(found) != {'set'} or not isinstance(sets, list) or not sets:
        raise ValueError(f'{where}: has {sorted(found)}; expected one table [[set]] for each set')
    for given in sets:
        title, weight = given.get('title'), given.setdefault('weight', 1.0)
        known = ('title', 'weight', *FIELDS)
        if unknown := set(given) - set(known):
            raise ValueError(f'{where}: unknown {sorted(unknown)}; a set has {known}')
        if not isinstance(title, str) or not title or '/' in title:
            raise ValueError(f'{where}: title={title!r}; expected a short name for each set')
        if sum(other.get('title') == title for other in sets) > 1:
            raise ValueError(f'{where}: two sets are called {title}; rename one')
        if not isinstance(weight, int | float) or not 0 < weight < float('inf'):
            raise ValueError(f'{where}: {title}: weight={weight!r}; expected a number above 0')
        for field in _PATHS:
            value = given.get(field)
            if value and not value.startswith('re:'):
                given[field] = os.path.join(os.path.dirname(os.path.abspath(path)), value)
    return sets
