"""Records written as a TFDS data set of ArrayRecords, without TensorFlow."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from fi_jax.input_pipeline.records import Record

VERSION = '1.0.0'


class _Faces(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """The TFDS side: writes given records as they come."""

    VERSION = tfds.core.Version(VERSION)
    # Nothing is downloaded, and TFDS 4.9.10 would look for checksums by way of a package,
    # importlib_resources, which it does not ask for.
    url_infos = None

    def __init__(
        self,
        name: str,
        splits: dict[str, Any],
        more: dict[str, Any],
        metadata: dict[str, Any],
        **kwargs: Any,
    ):
        self.name = name
        self._record_splits, self._more, self._about = splits, more, metadata
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description='Face images with 68 landmarks (iBUG order), packed by fi_jax.',
            features=tfds.features.FeaturesDict(
                {
                    'name': tfds.features.Text(),
                    'image': tfds.features.Image(shape=(None, None, 3)),
                    'has_landmarks': np.bool_,
                    'landmarks': tfds.features.Tensor(shape=(68, 2), dtype=np.float32),
                    'identity': np.int64,  # -1: unknown
                    **self._more,
                }
            ),
            metadata=tfds.core.MetadataDict(self._about),
            disable_shuffling=True,  # the order of the source; the loader shuffles
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        del dl_manager
        return {s: self._generate_examples(*given) for s, given in self._record_splits.items()}

    def _generate_examples(
        self, records: Iterable[Record], total: int
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        # TFDS sorts by key in 1000 buckets of the 128-bit range; small keys would all fall into
        # the first, and be sorted in memory.
        step = (1 << 128) // total
        for i, record in enumerate(records):
            assert isinstance(record.image, bytes), 'checked before'
            known = record.landmarks is not None
            yield (
                i * step,
                {
                    'name': record.name,
                    'image': io.BytesIO(record.image),
                    'has_landmarks': known,
                    'landmarks': record.landmarks if known else np.zeros((68, 2), np.float32),
                    'identity': -1 if record.identity is None else record.identity,
                    **{k: getattr(record, k) for k in self._more},
                },
            )


def write(
    folder: str | os.PathLike[str],
    name: str,
    splits: Mapping[str, tuple[Iterable[Record], int]],
    attributes: Sequence[str],
    metadata: Mapping[str, Any],
    to_source: bool,
) -> None:
    """Write splits, {split: (records, their number)}, as the data set `name` in folder.

    attributes: names of those that all records have. to_source: whether records tell the way back
    to their photo.
    """
    more: dict[str, Any] = {}
    if attributes:
        more['attributes'] = {key: np.int64 for key in attributes}
    if to_source:
        more['to_source'] = tfds.features.Tensor(shape=(2, 3), dtype=np.float64)
    builder = _Faces(
        name,
        dict(splits),
        more,
        dict(metadata),
        data_dir=os.path.dirname(folder),
        file_format=tfds.core.FileFormat.ARRAY_RECORD,
    )
    tfds.disable_progress_bar()
    # TFDS tells of a download, which there is not.
    with contextlib.redirect_stdout(io.StringIO()), tempfile.TemporaryDirectory() as unused:
        builder.download_and_prepare(download_dir=unused)
