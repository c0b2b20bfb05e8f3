"""Published face sets read from their official files: CelebA, CelebA-HQ and FFHQ.

Each is checked on opening, before any image is decoded: every image that must be there is, the
lists are the official ones by their md5, and the splits have the sizes that papers compare on. A
wrong or partial download is refused with what is missing. Nothing is downloaded here.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Mapping, Sequence

import numpy as np

from fi_jax.input_pipeline import archives, lists
from fi_jax.input_pipeline.records import Record, Source


@dataclasses.dataclass(frozen=True)
class Facts:
    """What a set must be."""

    title: str
    images: tuple[str, ...]  # where its images may be: zips or folders, tried in this order
    stem: str  # format of an image's number
    first: int  # number of the first image
    ends: Mapping[str, int]  # split -> how many images there are up to its end, in its own order
    rule: str
    terms: str
    md5: Mapping[str, str] = dataclasses.field(default_factory=dict)  # of its lists

    @property
    def count(self) -> int:
        return max(self.ends.values())

    @property
    def sizes(self) -> dict[str, int]:
        ends = [0, *self.ends.values()]
        return {s: b - a for s, a, b in zip(self.ends, ends, ends[1:], strict=False)}


_CELEBA_TERMS = (
    'Non-commercial research only; no part may be published or distributed further '
    '(Liu et al., ICCV 2015).'
)
CELEBA = Facts(
    'CelebA',
    ('img_align_celeba.zip', 'img_align_celeba'),
    '{:06d}',
    1,
    {'train': 162_770, 'val': 182_637, 'test': 202_599},
    'official list_eval_partition.txt',
    _CELEBA_TERMS,
    {
        'list_eval_partition.txt': 'd32c9cbf5e040fd4025c592c306e6668',
        'identity_CelebA.txt': '32bd1bd63d3c78cd57e08160ec5ed1e2',
        'list_attr_celeba.txt': '75e246fa4810816ffd6ee81facbd244c',
    },
)
CELEBA_HQ = Facts(
    'CelebA-HQ',
    ('CelebA-HQ-img', 'CelebA-HQ-img.zip'),
    '{:d}',
    0,
    {'train': 24_183, 'val': 27_176, 'test': 30_000},
    "CelebA's official partition, by CelebA-HQ-to-CelebA-mapping.txt",
    _CELEBA_TERMS,
)
FFHQ = Facts(
    'FFHQ',
    ('.', 'images1024x1024', 'thumbnails128x128'),
    '{:05d}',
    0,
    {'train': 60_000, 'val': 70_000},
    'official: the first 60,000 for training, the last 10,000 for validation',
    'CC BY-NC-SA 4.0; each photograph under its own licence (Karras et al., CVPR 2019).',
)


class PublishedSet:
    """A source with official splits; names are those of the image files, without folders."""

    def __init__(
        self,
        images: Source,
        names: Sequence[str],
        splits: Mapping[str, np.ndarray],
        facts: Facts,
        identities: Mapping[str, int] | None = None,
        attributes: Mapping[str, Mapping[str, int]] | None = None,
    ):
        self._images = images
        self.names = tuple(names)
        self.splits = dict(splits)
        self.terms, self.split_rule = facts.terms, facts.rule
        self._identities, self._attributes = identities or {}, attributes or {}

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Record:
        name = self.names[index]
        return Record(
            self._images[index].image,
            name,
            identity=self._identities.get(name),
            attributes=self._attributes.get(name),
        )


def celeba(path: str, facts: Facts = CELEBA) -> PublishedSet:
    """CelebA, aligned and cropped: img_align_celeba(.zip) and three lists, also in Img, Anno, Eval.

    Raises FileNotFoundError or ValueError with what is missing or wrong.
    """
    images, names, _ = _images(path, facts)
    where = {name: _list(path, name, facts) for name in facts.md5}
    positions = dict(zip(names, range(len(names)), strict=True))
    cut: dict[str, list[int]] = {split: [] for split in facts.ends}
    for name, split in lists.read_partition(where['list_eval_partition.txt']).items():
        if name in positions:
            cut[split].append(positions[name])
    identities = lists.read_identities(where['identity_CelebA.txt'])
    attributes = lists.read_attributes(where['list_attr_celeba.txt'])
    titles = next(iter(attributes.values()))
    if len(titles) != 40 or len(attributes) != facts.count:
        raise ValueError(
            f'data.path={path}: list_attr_celeba.txt has {len(titles)} attributes of '
            f'{len(attributes):,} images; expected 40 of {facts.count:,}'
        )
    return PublishedSet(images, names, _checked(path, cut, facts), facts, identities, attributes)


def celeba_hq(path: str, facts: Facts = CELEBA_HQ, parent: Facts = CELEBA) -> PublishedSet:
    """CelebA-HQ as CelebAMask-HQ has it: CelebA-HQ-img, CelebA-HQ-to-CelebA-mapping.txt.

    With CelebA's identity_CelebA.txt beside them, persons too. Raises as `celeba`.
    """
    images, names, order = _images(path, facts)
    with open(_list(path, 'CelebA-HQ-to-CelebA-mapping.txt', facts), encoding='utf-8') as file:
        rows = [row.split() for row in file if row.strip()][1:]
    originals = {int(number): original for number, _, original in rows}
    if set(originals) != set(order):
        raise ValueError(
            f'data.path={path}: CelebA-HQ-to-CelebA-mapping.txt has {len(originals):,} rows; '
            f'expected one for each of {facts.count:,} images'
        )
    cut: dict[str, list[int]] = {split: [] for split in facts.ends}
    for position, number in enumerate(order):
        original = int(os.path.splitext(originals[number])[0])
        split = next((s for s, end in parent.ends.items() if original <= end), 'test')
        cut[split].append(position)
    identities = None
    if _find(path, 'identity_CelebA.txt'):
        known = lists.read_identities(_list(path, 'identity_CelebA.txt', parent))
        identities = {n: known[originals[k]] for n, k in zip(names, order, strict=True)}
    return PublishedSet(images, names, _checked(path, cut, facts), facts, identities)


def ffhq(path: str, facts: Facts = FFHQ) -> PublishedSet:
    """FFHQ at any size: 00000.png ... 69999.png, in one folder or in folders of 1,000.

    Raises as `celeba`.
    """
    images, names, order = _images(path, facts)
    cut: dict[str, list[int]] = {split: [] for split in facts.ends}
    for position, number in enumerate(order):
        cut[next(s for s, end in facts.ends.items() if number < end)].append(position)
    return PublishedSet(images, names, _checked(path, cut, facts), facts)


SETS = {'celeba': celeba, 'celeba_hq': celeba_hq, 'ffhq': ffhq}


def _images(path: str, facts: Facts) -> tuple[Source, list[str], list[int]]:
    """The images, their names without folders, and their numbers."""
    where = f'data.path={path}'
    if not os.path.isdir(path):
        kind = 'is a file; give the folder it is in' if os.path.exists(path) else 'no such folder'
        raise FileNotFoundError(f'{where}: {kind}; expected the official files of {facts.title}')
    place = next((p for p in (_find(path, name) for name in facts.images) if p), None)
    if place is None:
        raise FileNotFoundError(
            f'{where}: no {" or ".join(facts.images)} in it; see docs/data.md for where '
            f'the files of {facts.title} come from'
        )
    images = archives.Folder(place) if os.path.isdir(place) else archives.Zip(place)
    names = [name.rpartition('/')[2] for name in images.names]
    stems = {os.path.splitext(name)[0]: name for name in names}
    expected = [facts.stem.format(facts.first + i) for i in range(facts.count)]
    missing = [stem for stem in expected if stem not in stems]
    if missing:
        raise ValueError(
            f'{where}: {len(missing):,} of {facts.count:,} images of {facts.title} are missing, '
            f'such as {", ".join(missing[:3])}; download it again, or read what is there with '
            'data.source=folder'
        )
    if len(names) != facts.count:
        strange = sorted(set(stems) - set(expected))[:3] or 'some twice'
        raise ValueError(
            f'{where}: {len(names):,} images where {facts.title} has {facts.count:,}; '
            f'not of the set: {strange}'
        )
    return images, names, [int(os.path.splitext(name)[0]) for name in names]


def _find(path: str, name: str) -> str | None:
    """A file or folder of the set, in its folder or one of the official sub-folders."""
    for folder in ('', 'Img', 'Anno', 'Eval'):
        place = os.path.normpath(os.path.join(path, folder, name))
        if os.path.exists(place):
            return place
    return None


def _list(path: str, name: str, facts: Facts) -> str:
    """Where a list of the set is, its md5 checked."""
    place = _find(path, name)
    if place is None:
        raise FileNotFoundError(
            f'data.path={path}: no {name}; it belongs to the official files of {facts.title}'
        )
    with open(place, 'rb') as file:
        raw = file.read()
    wanted = facts.md5.get(name)
    if wanted and hashlib.md5(raw, usedforsecurity=False).hexdigest() != wanted:
        raise ValueError(
            f'data.path={path}: {place} is not the official file (md5 differs from '
            f'{wanted[:12]}...); download it again'
        )
    return place


def _checked(path: str, cut: Mapping[str, list[int]], facts: Facts) -> dict[str, np.ndarray]:
    sizes = {split: len(indices) for split, indices in cut.items()}
    if sizes != facts.sizes:
        raise ValueError(
            f'data.path={path}: splits {sizes} are not the official {facts.sizes} of '
            f'{facts.title}; the lists are damaged'
        )
    return {split: np.array(sorted(indices), np.int64) for split, indices in cut.items()}
