"""Data sets prepared by TFDS in ArrayRecord format, read without TensorFlow."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from fi_jax.input_pipeline.records import BadImage, Record, Source

_CELEB_A_COUNTS = {'train': 162_770, 'validation': 19_867, 'test': 19_962}


class _Tfds:
    """Records of one split of a prepared TFDS data set."""

    def __init__(self, builder: Any, split: str):
        import tensorflow_datasets as tfds

        name, features = builder.info.name, builder.info.features
        images = [k for k, f in features.items() if isinstance(f, tfds.features.Image)]
        if not images:
            raise ValueError(f'data.name={name}: no image among its features {sorted(features)}')
        self._image = 'image' if 'image' in images else images[0]
        decoders = {self._image: tfds.decode.SkipDecoding()}
        try:
            self._data = builder.as_data_source(split, decoders=decoders)
        except NotImplementedError as error:
            raise ValueError(
                f'data.name={name}: {builder.data_dir} is not in ArrayRecord format; prepare it '
                'with --file_format=array_record'
            ) from error
        self._name = next((k for k in ('name', 'filename', 'file_name') if k in features), None)
        self._aligned = 'to_source' in features
        self._landmarks = 'landmarks' in features and features['landmarks'].shape == (68, 2)
        self._pickled = os.fspath(builder.data_dir), split
        self.splits: dict[str, np.ndarray]  # set by `_whole` alone

    def __reduce__(self) -> tuple[Any, ...]:
        return _tfds_reopen, self._pickled

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> Record:
        if not -len(self) <= index < len(self):
            raise IndexError(f'index {index} of {len(self)} records')
        try:
            example = self._data[int(index) % len(self)]
        except RuntimeError as error:  # ArrayRecord's own word for a damaged file
            folder, split = self._pickled
            why = ' '.join(str(error).split())[:120]
            raise BadImage(
                f'{folder}: record {index} of {split} is damaged ({why}); prepare the set again'
            ) from error
        image = example[self._image]
        if self._name is None:
            raw = image if isinstance(image, bytes) else np.ascontiguousarray(image).tobytes()
            name = hashlib.sha256(raw).hexdigest()[:16]
        else:
            name = example[self._name]
            name = name.decode() if isinstance(name, bytes) else str(name)
        landmarks = None
        if self._landmarks and example.get('has_landmarks', True):
            landmarks = np.asarray(example['landmarks'], np.float32)
        identity = example.get('identity')
        if isinstance(identity, Mapping):  # celeb_a: {'Identity_No': ...}
            identity = next(iter(identity.values()), None)
        identity = None if identity is None or int(identity) < 0 else int(identity)
        attributes = example.get('attributes')
        if isinstance(attributes, Mapping):
            attributes = {key: int(value) for key, value in attributes.items()}
        else:
            attributes = None
        to_source = np.asarray(example['to_source'], np.float64) if self._aligned else None
        return Record(image, name, landmarks, identity, attributes, to_source)


@contextlib.contextmanager
def _quiet_protobuf() -> Iterator[None]:
    """TFDS 4.9.10 reads its metadata through a call that protobuf has since deprecated."""
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', message='label', category=DeprecationWarning)
        yield


def _tfds_reopen(directory: str, split: str) -> _Tfds:
    import tensorflow_datasets as tfds

    with _quiet_protobuf():
        return _Tfds(tfds.builder_from_directory(directory), split)


def _tfds_builder(name: str, data_dir: str | None) -> Any:
    # Imported here: it takes a second, and most runs read a folder, a zip or drawn faces.
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import read_only_builder

    data_dir = os.path.expanduser(data_dir or os.path.join('~', 'tensorflow_datasets'))
    try:
        with _quiet_protobuf():
            builder = read_only_builder.builder_from_files(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        raise FileNotFoundError(
            f'data.name={name}: not prepared in data.data_dir={data_dir}; run '
            f'`tfds build {name.partition(":")[0]} --data_dir={data_dir} '
            '--file_format=array_record`, or for your own images '
            '`python -m fi_jax.input_pipeline.prepare`'
        ) from error
    counts = {split: info.num_examples for split, info in builder.info.splits.items()}
    if builder.info.name == 'celeb_a' and counts != _CELEB_A_COUNTS:
        raise ValueError(
            f'data.name=celeb_a: splits {counts} are not the official {_CELEB_A_COUNTS}; '
            f'remove {builder.data_dir} and prepare it again'
        )
    return builder


def _tfds_split(builder: Any, split: str) -> str:
    """Our name of a split -> that of the data set."""
    for name in (split, 'validation' if split == 'val' else split):
        if name in builder.info.splits:
            return name
    raise ValueError(
        f'data.name={builder.info.name}: no split {split!r}; it has {sorted(builder.info.splits)}'
    )


def _whole(builder: Any) -> _Tfds:
    """All splits of a data set, one after the other, with `splits` to tell them apart."""
    counts = {split: info.num_examples for split, info in builder.info.splits.items()}
    whole = _Tfds(builder, '+'.join(counts))
    ends = list(itertools.accumulate(counts.values()))
    whole.splits = {
        'val' if split == 'validation' else split: np.arange(end - counts[split], end)
        for split, end in zip(counts, ends, strict=True)
    }
    return whole


def open_set(name: str, data_dir: str | None, split: str) -> tuple[Source, bool]:
    """A data set as stored, and whether it is already cut to the split.

    One with a single split is not; the arguments and errors are those of `tfds_source`.
    """
    builder = _tfds_builder(name, data_dir)
    if len(builder.info.splits) == 1:
        return _Tfds(builder, 'all'), False
    if split == 'all':
        return _whole(builder), True
    return _Tfds(builder, _tfds_split(builder, split)), True


def tfds_source(name: str, split: str = 'train', data_dir: str | None = None) -> Source:
    """A split of a data set prepared by TFDS in ArrayRecord format, read without TensorFlow.

    A record's name is the feature 'name', 'filename' or 'file_name', else the first 16 hex digits
    of the sha256 of the encoded image. It has no `names`: see `names_and_identities`.

    Args:
        name: as in `tfds.load`: 'celeb_a', 'name/config', 'name:1.0.0'.
        split: 'train', 'val' (also finds 'validation'), 'test', 'all', or a TFDS slice.
        data_dir: folder given to TFDS; None is ~/tensorflow_datasets.

    Raises:
        FileNotFoundError: not prepared there.
        ValueError: no such split, no image feature, not ArrayRecord, or celeb_a of a wrong size.
    """
    builder = _tfds_builder(name, data_dir)
    if split != 'all' and '[' not in split and '+' not in split:
        split = _tfds_split(builder, split)
    return _Tfds(builder, split)
