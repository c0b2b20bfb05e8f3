"""Where images come from: `make_source` opens what a config names, joined and cut to a split."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import logging

from fi_jax.input_pipeline import archives, joins, landmark_shards, lists, published, tfds
from fi_jax.input_pipeline.decoded import Decoded
from fi_jax.input_pipeline.joins import SPLITS
from fi_jax.input_pipeline.mixture import Mixture, read_sets
from fi_jax.input_pipeline.procedural.faces import ProceduralFaces
from fi_jax.input_pipeline.records import Source

SOURCES = (
    'procedural',
    'folder',
    'zip',
    'tfds',
    'celeba',
    'celeba_hq',
    'ffhq',
    'decoded',
    'mixture',
)


class NoSplit(ValueError):
    """A set that has no images in the split asked for."""


def make_source(data: Any, split: str) -> Source:
    """Opens the source that a config names, joined and cut to a split.

    Args:
        data: attributes `source` (one of SOURCES); `path` (folder, zip and published sets); `name`,
            `data_dir` (tfds); `length`, `size`, `seed` (procedural); `sets` (mixture); and for all,
            optional, `landmarks`, `identities`, `attributes`, `partition` (lists to join), `frame`,
            `val_share` and `test_share`.
        split: 'train', 'val', 'test' or 'all'.

    Returns:
        The source. A published or TFDS data set that has the split is read as it is cut there;
        everything else is cut by its partition, else by `split_indices`.

    Raises:
        ValueError, FileNotFoundError: naming the field of `data` to mend.
    """
    if split not in (*SPLITS, 'all'):
        raise ValueError(f'split {split!r} is unknown; expected one of {(*SPLITS, "all")}')
    source, is_cut = _open(data, split)
    if path := getattr(data, 'landmarks', None):
        table = landmark_shards.read_table(path)
        source = joins.with_landmarks(source, table, field=f'data.landmarks={path}')
    persons: Mapping[str, int] | None = None
    if path := getattr(data, 'identities', None):
        where = f'data.identities={path}'
        persons = lists.read_identities(path)
        source = joins.with_values(source, persons, 'identity', where=where)
    if path := getattr(data, 'attributes', None):
        where = f'data.attributes={path}'
        attributes = lists.read_attributes(path)
        source = joins.with_values(source, attributes, 'attributes', where=where)
    if frame := getattr(data, 'frame', None):
        source = joins.with_frame(source, frame)
    if split == 'all' or is_cut:
        return source
    indices = _cut(source, data, persons)[split]
    if not len(indices):
        path = getattr(data, 'partition', None)
        shares = (f'data.{k}={getattr(data, k, 0.0)}' for k in ('val_share', 'test_share'))
        rule = f'data.partition={path}' if path else f'{", ".join(shares)}; raise the share'
        raise NoSplit(f'split {split!r} is empty, of {len(source)} images: {rule}')
    return joins.subset(source, indices)


def _cut(source: Source, data: Any, persons: Mapping[str, int] | None) -> dict[str, np.ndarray]:
    """Split -> indices: by data.partition where it is set, else by persons and shares."""
    names = getattr(source, 'names', None)
    if names is None and data.source == 'procedural':
        # A drawn face is its index: no need to draw all of them to learn their names.
        names = tuple(str(i) for i in range(len(source)))
    identities: list[int | None] | None = None
    if names is None:
        names, identities = joins.names_and_identities(source)
    elif persons is not None:
        persons = joins.for_source(source, persons, f'data.identities={data.identities}')
        identities = [persons.get(name) for name in names]
    if path := getattr(data, 'partition', None):
        parts = joins.for_source(source, lists.read_partition(path), f'data.partition={path}')
        return {s: np.flatnonzero([parts.get(name) == s for name in names]) for s in SPLITS}
    shares = getattr(data, 'val_share', 0.0), getattr(data, 'test_share', 0.0)
    return joins.split_indices(names, identities, *shares)


def _mixture(data: Any, split: str) -> Mixture:
    """The sets of a file, each opened as a source of its own, weighted in training."""
    path = getattr(data, 'sets', None)
    if not path:
        raise ValueError('data.sets is not set; data.source=mixture needs it')
    opened, weights = {}, {}
    for given in read_sets(path):
        title, weight = given.pop('title'), given.pop('weight')
        shares = {k: getattr(data, k, 0.0) for k in ('val_share', 'test_share')}
        kind = 'folder' if os.path.isdir(given.get('path', '')) else 'zip'
        one = argparse.Namespace(**({'source': kind} | shares | given))
        if one.source == 'mixture':
            raise ValueError(f'data.sets={path}: {title}: a mixture in a mixture; list its sets')
        try:
            opened[title], weights[title] = make_source(one, split), weight
        except NoSplit as error:
            logging.info('data.sets=%s: %s: %s.', path, title, error)
        except (ValueError, OSError) as error:
            absent = isinstance(error, FileNotFoundError)
            message = f'data.sets={path}: {title}: {error}'
            raise (FileNotFoundError if absent else ValueError)(message) from error
    if not opened:
        raise NoSplit(f'data.sets={path}: no set has images in the split {split!r}')
    mixture = Mixture(opened, list(weights.values()) if split == 'train' else None)
    listed = ', '.join(f'{title} {share:.1%}' for title, share in mixture.shares().items())
    logging.info('data.sets=%s: %s: %d images an epoch: %s.', path, split, len(mixture), listed)
    return mixture


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of the offline jobs that name a source; see `from_flags`."""
    add = parser.add_argument_group('source').add_argument
    add('--source', required=True, choices=SOURCES[:-1])  # a mixture's frames would be lost
    add('--path', help='the folder or zip; for celeba, celeba_hq and ffhq that of official files')
    add('--set', help='tfds: name of the data set, such as celeb_a')
    add('--data_dir', help='tfds: folder of data sets (~/tensorflow_datasets)')
    add('--length', type=int, default=1000, help='procedural: faces to draw (%(default)s)')
    add('--size', type=int, default=128, help='procedural: their side in pixels (%(default)s)')
    add('--seed', type=int, default=0, help='procedural: which faces (%(default)s)')


def from_flags(args: argparse.Namespace) -> argparse.Namespace:
    """What `make_source` reads, of parsed flags."""
    return argparse.Namespace(**(vars(args) | {'name': args.set}))


def _open(data: Any, split: str) -> tuple[Source, bool]:
    """The source as stored, and whether it is already cut to the split."""
    kind = getattr(data, 'source', None)
    if kind == 'mixture':
        return _mixture(data, split), True
    if kind == 'procedural':
        kwargs = {
            k: getattr(data, k) for k in ('size', 'seed') if getattr(data, k, None) is not None
        }
        return ProceduralFaces(data.length, **kwargs), False
    if kind in ('folder', 'zip'):
        path = getattr(data, 'path', None)
        if not path:
            raise ValueError(f'data.path is not set; data.source={kind} needs it')
        return (archives.Folder if kind == 'folder' else archives.Zip)(path), False
    if kind == 'tfds':
        name = getattr(data, 'name', None)
        if not name:
            raise ValueError('data.name is not set; data.source=tfds needs it')
        return tfds.open_set(name, getattr(data, 'data_dir', None), split)
    if kind in SOURCES:
        path = getattr(data, 'path', None)
        if not path:
            raise ValueError(f'data.path is not set; data.source={kind} needs it')
        whole = (published.SETS | {'decoded': Decoded})[kind](os.fspath(path))
        if split not in (*whole.splits, 'all'):
            raise NoSplit(f'data.source={kind}: no split {split!r}; it has {sorted(whole.splits)}')
        return (whole if split == 'all' else joins.subset(whole, whole.splits[split])), True
    raise ValueError(f'data.source={kind!r} is unknown; expected one of {", ".join(SOURCES)}')
