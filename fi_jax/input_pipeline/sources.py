"""Where images come from: `make_source` opens what a config names, joined and cut to a split."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable
from typing import Any

from fi_jax.input_pipeline import archives, joins, landmark_shards, published, tfds
from fi_jax.input_pipeline.joins import SPLITS
from fi_jax.input_pipeline.procedural.faces import ProceduralFaces
from fi_jax.input_pipeline.records import Source

SOURCES = ('procedural', 'folder', 'zip', 'tfds', 'celeba', 'celeba_hq', 'ffhq')


def make_source(data: Any, split: str) -> Source:
    """Opens the source that a config names, joined and cut to a split.

    Args:
        data: attributes `source` (one of SOURCES); `path` (all but tfds and procedural); `name`,
            `data_dir` (tfds);
            `length`, `size`, `seed` (procedural); and for all, optional, `landmarks` and
            `identities` (files to join), `val_share` and `test_share`.
        split: 'train', 'val', 'test' or 'all'.

    Returns:
        The source. A published or TFDS data set that has the split is read as it is cut there;
        everything else is cut by `split_indices`.

    Raises:
        ValueError, FileNotFoundError: naming the field of `data` to mend.
    """
    if split not in (*SPLITS, 'all'):
        raise ValueError(f'split {split!r} is unknown; expected one of {(*SPLITS, "all")}')
    source, is_cut = _open(data, split)
    if path := getattr(data, 'landmarks', None):
        table = landmark_shards.read_table(path)
        source = joins.with_landmarks(source, table, field=f'data.landmarks={path}')
    identities: dict[str, int] = {}
    if path := getattr(data, 'identities', None):
        identities = joins.read_identities(path)
        source = joins.with_identities(source, identities, field=f'data.identities={path}')
    if split == 'all' or is_cut:
        return source
    persons: Iterable[int | None]
    names = getattr(source, 'names', None)
    if names is None and data.source == 'procedural':
        # A drawn face is its index: no need to draw all of them to learn their names.
        names = tuple(str(i) for i in range(len(source)))
    if names is None:
        names, persons = joins.names_and_identities(source)
    else:
        persons = (identities.get(name) for name in names)
    val_share, test_share = getattr(data, 'val_share', 0.0), getattr(data, 'test_share', 0.0)
    indices = joins.split_indices(names, list(persons), val_share, test_share)[split]
    if not len(indices):
        raise ValueError(
            f'split {split!r} is empty: data.val_share={val_share}, data.test_share={test_share} '
            f'of {len(names)} images; raise the share'
        )
    return joins.subset(source, indices)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of the offline jobs that name a source; see `from_flags`."""
    add = parser.add_argument_group('source').add_argument
    add('--source', required=True, choices=SOURCES)
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
        whole = published.SETS[kind](os.fspath(path))
        if split not in (*whole.splits, 'all'):
            raise ValueError(
                f'data.source={kind}: no split {split!r}; it has {sorted(whole.splits)}'
            )
        return (whole if split == 'all' else joins.subset(whole, whole.splits[split])), True
    raise ValueError(f'data.source={kind!r} is unknown; expected one of {", ".join(SOURCES)}')
