"""Packs faces, with what is joined to them, into a TFDS data set of ArrayRecords.

    fi-jax prepare --source=zip --path=FACES.zip --name=my_faces --out=DIR

then train with --config.data.source=tfds --config.data.name=my_faces --config.data.data_dir=DIR.

--source is a folder, a zip, a data set of TFDS (--set=celeb_a --data_dir=...), or the official
files of celeba, celeba_hq or ffhq, which are checked first and refused, with what is missing, if
partial or damaged. Files are kept byte for byte; their official splits too, else a split is cut by
person (--identities) or by name. --align=SIZE instead cuts each face out, turned upright and scaled
to a canonical square, and stores the way back into the photo (feature to_source).

Images that cannot be decoded are left out and listed in DIR/NAME/bad.jsonl. Nothing needs
TensorFlow. Exit codes: 0 done, 1 refused, 2 too many bad images.
"""

import argparse
import concurrent.futures
import contextlib
import dataclasses
import hashlib
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from fi_jax.input_pipeline import alignment, decoded, joins, landmark_shards, sources
from fi_jax.input_pipeline.offline import landmark_pages, shard_pool
from fi_jax.input_pipeline.records import BadImage, Record, Source, decode
from fi_jax.input_pipeline.tfds import tfds_source

NO_LANDMARKS = 'no landmarks to align by'

_CHUNK = 256  # images checked in one task


class TooManyBad(ValueError):
    """More undecodable images than allowed."""


def prepare(
    source: Source,
    name: str,
    out_dir: str | os.PathLike[str],
    *,
    val_share: float = 0.05,
    test_share: float = 0.05,
    max_bad: float = 0.01,
    align: int = 0,
    res: int = 0,
    margin: int = 0,
) -> dict[str, Any]:
    """Writes `source` as the TFDS data set out_dir/name/1.0.0, complete or not at all.

    With res, as the set of decoded squares out_dir/name instead: see `input_pipeline.decoded`.

    Images that cannot be decoded are left out and listed, with the reason, in
    out_dir/name/bad.jsonl. Splits are those of the source if it has any, else those of
    `joins.split_indices` over all images, bad ones included. How they were cut, their sizes and a
    digest of their names are in the set's metadata.json.

    Args:
        source: records with encoded images.
        name: lower-case letters, digits and underscores.
        out_dir: the `data_dir` for reading.
        val_share: share of the images for 'val', likewise test_share.
        test_share: likewise, for 'test'.
        max_bad: refused above this share of undecodable images.
        align: side of the canonical square to cut faces to, JPEG of quality 95; 0 keeps the files.
            Images without landmarks are then left out, and listed, too.
        res: side of decoded squares, and margin what is kept around them; 0 keeps files.

    Returns:
        {'splits': {split: count}, 'bad': count, 'data_dir': folder of the set, 'metadata': ...}.

    Raises:
        TooManyBad: above max_bad; bad.jsonl is there, the data set is not.
        FileExistsError: the set is there already.
        ValueError: a bad name, bad shares, or nothing left.
    """
    if not re.fullmatch('[a-z][a-z0-9_]*', name):
        raise ValueError(f'--name={name}: expected lower-case letters, digits and underscores')
    if res and (align or not 16 <= res <= 4096 or not 0 <= margin <= res):
        raise ValueError(
            f'--decoded --res={res} --margin={margin} --align={align}: expected 16 to 4096 '
            'pixels a side, a margin up to the side, and no --align'
        )
    if not 0 <= max_bad <= 1:
        raise ValueError(f'--max_bad={max_bad}: expected a share in [0, 1]')
    folder = os.path.join(os.path.abspath(os.path.expanduser(os.fspath(out_dir))), name)
    target = folder
    if not res:
        # TFDS is asked for only where its format is written.
        from fi_jax.input_pipeline.offline import tfds_writer

        target = os.path.join(folder, tfds_writer.VERSION)
    if os.path.exists(os.path.join(target, 'about.json') if res else target):
        raise FileExistsError(f'--out: {target} is there already; remove it or choose another name')
    joins.split_indices((), None, val_share, test_share)  # refuse bad shares before the work
    os.makedirs(folder, exist_ok=True)

    names, identities, bad, attributed = _check(source, align)
    _list_bad(os.path.join(folder, 'bad.jsonl'), bad)
    broken = sum(1 for entry in bad.values() if entry['reason'] != NO_LANDMARKS)
    if broken > max_bad * len(names):
        raise TooManyBad(
            f'{broken} of {len(names)} images cannot be decoded, above --max_bad={max_bad}; '
            f'they are listed in {os.path.join(folder, "bad.jsonl")}'
        )
    official = getattr(source, 'splits', None)
    whole = official or joins.split_indices(names, identities, val_share, test_share)
    cut = {split: [int(i) for i in ix if int(i) not in bad] for split, ix in whole.items()}
    if not any(cut.values()):
        raise ValueError('no image is left to write; see bad.jsonl')
    rule = getattr(source, 'split_rule', 'as the source has them' if official else '')
    metadata = {
        'split_rule': rule
        or f'by a hash of the person or name, val {val_share}, test {test_share}',
        'splits': {split: len(ix) for split, ix in cut.items()},
        'splits_of_source': {split: len(ix) for split, ix in whole.items()},
        'split_names_sha256': {
            split: hashlib.sha256('\n'.join(names[i] for i in ix).encode()).hexdigest()
            for split, ix in cut.items()
        },
        'align': align,
        'terms': getattr(source, 'terms', ''),
    }
    if res:
        decoded.write(
            source, cut, folder, res=res, margin=margin, attributes=attributed, about=metadata
        )
        return {
            'splits': metadata['splits'], 'bad': len(bad), 'data_dir': folder, 'metadata': metadata,
        }  # fmt: skip
    total = sum(len(indices) for indices in cut.values())
    progress = shard_pool.progress_bar('write', total)
    splits = {s: (_read(source, ix, progress, align), len(ix)) for s, ix in cut.items() if ix}
    tfds_writer.write(folder, name, splits, attributed, metadata, to_source=bool(align))
    progress.close()
    return {
        'splits': {split: len(indices) for split, indices in cut.items()},
        'bad': len(bad),
        'data_dir': target,
        'metadata': metadata,
    }


def _check(
    source: Source, align: int
) -> tuple[list[str], list[int | None], dict[int, dict[str, str]], tuple[str, ...]]:
    """Decodes all: names, identities, index -> what is wrong, and the attributes that all have."""
    n = len(source)
    names: list[str] = [''] * n
    identities: list[int | None] = [None] * n
    bad: dict[int, dict[str, str]] = {}
    attributes: list[frozenset[str]] = [frozenset()] * n

    def check(start: int) -> int:
        stop = min(start + _CHUNK, n)
        for i in range(start, stop):
            try:
                record = source[i]
                names[i], identities[i] = record.name, record.identity
                attributes[i] = frozenset(record.attributes or ())
                decode(record.image, record.name)
                if align and record.landmarks is None:
                    bad[i] = {'name': record.name, 'reason': NO_LANDMARKS}
            except BadImage as error:
                # A record that cannot even be read still has its name in the source.
                names[i] = names[i] or getattr(source, 'names', {i: f'#{i}'})[i]
                bad[i] = {'name': names[i], 'reason': str(error)}
        return stop - start

    progress = shard_pool.progress_bar('check', n)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for done in pool.map(check, range(0, n, _CHUNK)):
            progress.update(done)
    progress.close()
    good = [attributes[i] for i in range(n) if i not in bad]
    common = frozenset.intersection(*good) if good else frozenset()
    return names, identities, bad, tuple(sorted(common))


def _read(source: Source, indices: Iterable[int], progress: tqdm, align: int) -> Iterator[Record]:
    for i in indices:
        record = source[int(i)]
        if align:
            record = aligned(record, align)
        elif isinstance(record.image, np.ndarray):
            record = dataclasses.replace(record, image=_encoded('.png', record.image))
        yield record
        progress.update(1)


def aligned(record: Record, size: int) -> Record:
    """The record cut to the canonical square of `size` pixels, with the way back in `to_source`."""
    assert record.landmarks is not None, record.name
    image = decode(record.image, record.name)
    transform = alignment.to_canonical(record.landmarks, size)
    back = alignment.invert(transform)
    if record.to_source is not None:
        back = alignment.compose(record.to_source, back)
    return dataclasses.replace(
        record,
        image=_encoded('.jpg', alignment.warp(image, transform, (size, size))),
        landmarks=alignment.apply(transform, record.landmarks),
        to_source=back,
    )


def _encoded(kind: str, image: np.ndarray) -> bytes:
    _, data = cv2.imencode(kind, image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
    return data.tobytes()


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


def _export(args: argparse.Namespace) -> None:
    packed = tfds_source(args.name, 'all', args.out)
    rows = landmark_shards.rows_of(packed)
    landmark_pages.export_features(packed, rows, args.export_features, args.hull, args.export_limit)


def main(argv: list[str] | None = None) -> int:
    """The command line; 0 if done, 1 if refused, 2 if too many images are bad."""
    parser = argparse.ArgumentParser(
        prog='fi-jax prepare',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sources.add_flags(parser)
    add = parser.add_argument_group('data set').add_argument
    add('--name', required=True, help='name of the data set to make')
    add('--out', required=True, help='folder of data sets (data.data_dir)')
    add('--landmarks', help='folder of landmark shards, .npz or .json')
    add('--identities', help="list of persons, such as CelebA's, or re:PATTERN of the names")
    add('--attributes', help="list of attributes, such as CelebA's, or re:PATTERN of the names")
    add('--val_share', type=float, default=0.05, help='if the source is not cut (%(default)s)')
    add('--test_share', type=float, default=0.05, help='if the source is not cut (%(default)s)')
    add('--max_bad', type=float, default=0.01, help='share of bad images allowed (%(default)s)')
    add('--align', type=int, default=0, metavar='SIZE', help='cut faces to a canonical square')
    add('--decoded', action='store_true', help='write raw squares of --res pixels, quick to read')
    add('--res', type=int, default=64, help='of --decoded: side of the squares (%(default)s)')
    add('--margin', type=int, default=0, help='of --decoded: pixels kept around (%(default)s)')
    add('--export_features', metavar='DIR', help='also PNGs: landmarks, mask and part of each face')
    add('--hull', default='face68', choices=('face68', 'extended'), help='extended: with forehead')
    add('--export_limit', type=int, default=100, help='faces to export, 0 = all (%(default)s)')
    args = parser.parse_args(argv)
    try:
        source = sources.make_source(sources.from_flags(args), 'all')
        done = prepare(
            source, args.name, args.out, val_share=args.val_share, test_share=args.test_share,
            max_bad=args.max_bad, align=args.align, res=args.res if args.decoded else 0,
            margin=args.margin,
        )  # fmt: skip
        if args.export_features and not args.decoded:
            _export(args)
    except TooManyBad as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    except (ValueError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    counts = ', '.join(f'{split} {count:,}' for split, count in done['splits'].items())
    print(f'{done["data_dir"]}: {counts}; {done["bad"]} images left out.')
    print(f'Splits: {done["metadata"]["split_rule"]}')
    if args.decoded:
        print(f'Read it with data.source=decoded data.path={done["data_dir"]}')
    else:
        print(f'Read it with data.source=tfds data.name={args.name} data.data_dir={args.out}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
