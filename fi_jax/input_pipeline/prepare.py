"""Packs a folder or zip of faces, with what is joined to it, into a TFDS data set of ArrayRecords.

    python -m fi_jax.input_pipeline.prepare --source=zip --path=FACES.zip --name=my_faces --out=DIR

Encoded images are kept byte for byte. `sources.tfds_source(name, split, DIR)` reads the set back;
neither way needs TensorFlow.
"""

import argparse
import concurrent.futures
import contextlib
import io
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from fi_jax.input_pipeline import sources

VERSION = '1.0.0'

_CHUNK = 256  # images checked in one task


class _Faces(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """The TFDS side: writes given records as they come."""

    VERSION = tfds.core.Version(VERSION)
    # Nothing is downloaded, and TFDS 4.9.10 would look for checksums by way of a package,
    # importlib_resources, which it does not ask for.
    url_infos = None

    def __init__(self, name: str, splits: dict[str, Any], **kwargs: Any):
        self.name = name
        self._record_splits = splits
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
                }
            ),
            disable_shuffling=True,  # the order of the source; the loader shuffles
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        del dl_manager
        return {s: self._generate_examples(*given) for s, given in self._record_splits.items()}

    def _generate_examples(
        self, records: Iterable[sources.Record], total: int
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
                },
            )


class TooManyBad(ValueError):
    """More undecodable images than allowed."""


def prepare(
    source: sources.Source,
    name: str,
    out_dir: str | os.PathLike[str],
    *,
    val_share: float = 0.05,
    test_share: float = 0.05,
    max_bad: float = 0.01,
) -> dict[str, Any]:
    """Writes `source` as the TFDS data set out_dir/name/1.0.0, complete or not at all.

    Images that cannot be decoded are left out and listed, with the reason, in
    out_dir/name/bad.jsonl. Splits are those of `sources.split_indices` over all images, bad ones
    included, so that they are the splits of the source itself.

    Args:
        source: records with encoded images.
        name: lower-case letters, digits and underscores.
        out_dir: the `data_dir` for reading.
        val_share: share of the images for 'val', likewise test_share.
        test_share: likewise, for 'test'.
        max_bad: refused above this share of undecodable images.

    Returns:
        {'splits': {split: count}, 'bad': count, 'data_dir': folder of the set}.

    Raises:
        TooManyBad: above max_bad; bad.jsonl is there, the data set is not.
        FileExistsError: the set is there already.
        ValueError: a bad name, bad shares, or nothing left.
    """
    if not re.fullmatch('[a-z][a-z0-9_]*', name):
        raise ValueError(f'--name={name}: expected lower-case letters, digits and underscores')
    if not 0 <= max_bad <= 1:
        raise ValueError(f'--max_bad={max_bad}: expected a share in [0, 1]')
    folder = os.path.join(os.path.abspath(os.path.expanduser(os.fspath(out_dir))), name)
    target = os.path.join(folder, VERSION)
    if os.path.exists(target):
        raise FileExistsError(f'--out: {target} is there already; remove it or choose another name')
    sources.split_indices((), None, val_share, test_share)  # refuse bad shares before the work
    os.makedirs(folder, exist_ok=True)

    names, identities, bad = _check(source)
    _list_bad(os.path.join(folder, 'bad.jsonl'), bad)
    if len(bad) > max_bad * len(names):
        raise TooManyBad(
            f'{len(bad)} of {len(names)} images cannot be decoded, above --max_bad={max_bad}; '
            f'they are listed in {os.path.join(folder, "bad.jsonl")}'
        )
    cut = {
        split: [i for i in indices if i not in bad]
        for split, indices in sources.split_indices(
            names, identities, val_share, test_share
        ).items()
    }
    if not any(cut.values()):
        raise ValueError('no image can be decoded, nothing to write')
    total = sum(len(indices) for indices in cut.values())
    progress = _Progress('write', total)
    splits = {s: (_read(source, ix, progress), len(ix)) for s, ix in cut.items() if ix}
    builder = _Faces(
        name,
        splits,
        data_dir=os.path.dirname(folder),
        file_format=tfds.core.FileFormat.ARRAY_RECORD,
    )
    tfds.disable_progress_bar()
    # TFDS tells of a download, which there is not.
    with contextlib.redirect_stdout(io.StringIO()), tempfile.TemporaryDirectory() as unused:
        builder.download_and_prepare(download_dir=unused)
    progress.close()
    return {
        'splits': {split: len(indices) for split, indices in cut.items()},
        'bad': len(bad),
        'data_dir': target,
    }


def _check(source: sources.Source) -> tuple[list[str], list[int | None], dict[int, dict[str, str]]]:
    """Decodes all: names, identities, and index -> what is wrong for those that fail."""
    n = len(source)
    names: list[str] = [''] * n
    identities: list[int | None] = [None] * n
    bad: dict[int, dict[str, str]] = {}

    def check(start: int) -> int:
        stop = min(start + _CHUNK, n)
        for i in range(start, stop):
            try:
                record = source[i]
                names[i], identities[i] = record.name, record.identity
                if not isinstance(record.image, bytes):
                    raise ValueError(f'{record.name}: an array; only encoded images are packed')
                sources.decode(record.image, record.name)
            except sources.BadImage as error:
                # A record that cannot even be read still has its name in the source.
                names[i] = names[i] or getattr(source, 'names', {i: f'#{i}'})[i]
                bad[i] = {'name': names[i], 'reason': str(error)}
        return stop - start

    progress = _Progress('check', n)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for done in pool.map(check, range(0, n, _CHUNK)):
            progress.add(done)
    progress.close()
    return names, identities, bad


def _read(
    source: sources.Source, indices: Iterable[int], progress: '_Progress'
) -> Iterator[sources.Record]:
    for i in indices:
        yield source[int(i)]
        progress.add(1)


def _list_bad(path: str, bad: dict[int, dict[str, str]]) -> None:
    """Writes one JSON line a bad image, or takes an old list away."""
    if not bad:
        with contextlib.suppress(FileNotFoundError):
            os.remove(path)
        return
    with open(path + '.tmp', 'w', encoding='utf-8') as file:
        for i in sorted(bad):
            file.write(json.dumps(bad[i], ensure_ascii=False) + '\n')
    os.replace(path + '.tmp', path)


class _Progress:
    """A line on stderr with count, rate and ETA; rewritten on a terminal, every 10 s elsewhere."""

    def __init__(self, label: str, total: int):
        self._label, self._total, self._done = label, total, 0
        self._start = self._shown = time.monotonic()
        self._terminal = sys.stderr.isatty()

    def add(self, count: int) -> None:
        self._done += count
        now = time.monotonic()
        if now - self._shown > (0.5 if self._terminal else 10):
            self._shown = now
            self._show('\r' if self._terminal else '\n')

    def close(self) -> None:
        self._show('\n')

    def _show(self, end: str) -> None:
        seconds = max(time.monotonic() - self._start, 1e-6)
        rate = self._done / seconds
        eta = round((self._total - self._done) / max(rate, 1e-6))
        text = (
            f'{self._label} {self._done:,}/{self._total:,} images, {rate:,.0f}/s, '
            f'ETA {eta // 60}:{eta % 60:02d}'
        )
        # Padded, to cover the longer line before it.
        print(f'{text:<72}' if self._terminal else text, end=end, file=sys.stderr, flush=True)


def main(argv: list[str] | None = None) -> int:
    """The command line; 0 if done, 1 if refused, 2 if too many images are bad."""
    parser = argparse.ArgumentParser(
        prog='python -m fi_jax.input_pipeline.prepare', description=str(__doc__).partition('\n')[0]
    )
    parser.add_argument('--source', required=True, choices=('folder', 'zip'))
    parser.add_argument('--path', required=True, help='the folder or zip')
    parser.add_argument('--name', required=True, help='name of the data set to make')
    parser.add_argument('--out', required=True, help='folder of data sets (data.data_dir)')
    parser.add_argument('--landmarks', help='folder of landmark shards, or .npz')
    parser.add_argument('--identities', help='CSV file with columns file,identity')
    parser.add_argument('--val_share', type=float, default=0.05)
    parser.add_argument('--test_share', type=float, default=0.05)
    parser.add_argument('--max_bad', type=float, default=0.01)
    args = parser.parse_args(argv)
    try:
        source = sources.make_source(args, 'all')
        done = prepare(
            source, args.name, args.out, val_share=args.val_share, test_share=args.test_share,
            max_bad=args.max_bad,
        )  # fmt: skip
    except TooManyBad as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    except (ValueError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    counts = ', '.join(f'{split} {count:,}' for split, count in done['splits'].items())
    print(f'{done["data_dir"]}: {counts}; {done["bad"]} bad images left out.')
    print(f'Read it with data.source=tfds data.name={args.name} data.data_dir={args.out}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
