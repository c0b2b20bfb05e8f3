"""The keys of a batch, each with its shape, type and meaning; and a check that names what differs.

Sizes: B examples, R pixels of a side, S = R + twice the margin out of which augmentation moves the
frame, K attributes of config.data.labels. Images are RGB; points are x, y in pixels of the image;
the marks of a hole, mask or map are 1.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Spec:
    """One key of a batch: sizes are numbers or names; an optional one may be absent."""

    shape: tuple[int | str, ...]
    dtype: str
    meaning: str
    optional: bool = False


Specs = Mapping[str, Spec]

_COMMON = {
    'landmarks': Spec(('B', 68, 2), 'float32', 'points of the face, 0 where they are unknown'),
    'has_landmarks': Spec(('B',), 'float32', '1 where they are known, else 0'),
    'index': Spec(('B',), 'int32', 'the place of the image in its split'),
    'attributes': Spec(('B', 'K'), 'float32', 'values as they are listed', True),
    'has_attributes': Spec(('B', 'K'), 'float32', '1 where a value is known, else 0', True),
}
# As the host reads it for training; all else is drawn on the devices.
READ: Specs = {
    'image': Spec(('B', 'S', 'S', 3), 'uint8', 'the photo with a margin'),
    'epoch': Spec(('B',), 'int32', 'how often the split has been read before'),
    **_COMMON,
}
# As the augmentation, an evaluation and a person's own photo give it to a step.
BATCH: Specs = {
    'image': Spec(('B', 'R', 'R', 3), 'uint8', 'the photo'),
    'hole': Spec(('B', 'R', 'R', 1), 'uint8', 'missing pixels'),
    'hole_kind': Spec(('B',), 'int32', 'an index into holes.KINDS, -1 for any other'),
    'face_mask': Spec(('B', 'R', 'R', 1), 'uint8', 'the hull of the points'),
    'landmark_map': Spec(('B', 'R', 'R', 1), 'uint8', 'a disc at each point'),
    'weight': Spec(('B',), 'float32', '0 for rows that count in no score'),
    'frame': Spec(('B', 3), 'float32', 'left, top, side of the crop in the stored image', True),
    'guidance': Spec(
        ('B',), 'float32', 'the scale of guidance, in place of that of the config', True
    ),
    'steps': Spec((), 'int32', 'how many steps a sample takes, in place of the config', True),
    **_COMMON,
}
# As `features.prepare` gives it to a method: image in [-1,1], maps in {0,1}.
PREPARED: Specs = {
    **BATCH,
    'image': Spec(('B', 'R', 'R', 3), 'float32', 'the photo in [-1,1]'),
    'hole': Spec(('B', 'R', 'R', 1), 'float32', BATCH['hole'].meaning),
    'face_mask': Spec(('B', 'R', 'R', 1), 'float32', BATCH['face_mask'].meaning),
    'landmark_map': Spec(('B', 'R', 'R', 1), 'float32', BATCH['landmark_map'].meaning),
    'masked': Spec(('B', 'R', 'R', 3), 'float32', 'the image, 0 inside the hole'),
    'face_part': Spec(('B', 'R', 'R', 3), 'float32', 'the image, -1 outside face_mask'),
}


def label_names(config: Any) -> list[str]:
    """The attributes that a batch carries, in their order."""
    return [label for label in config.data.labels.split(',') if label]


def shapes(specs: Specs, **sizes: int) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """(shape, dtype) of each key under these sizes; optional ones only where K is among them."""
    return {
        name: (
            tuple(n if isinstance(n, int) else sizes[n] for n in spec.shape),
            np.dtype(spec.dtype),
        )
        for name, spec in specs.items()
        if not spec.optional or ('K' in spec.shape and sizes.get('K'))
    }


def zeros(specs: Specs, **sizes: int) -> dict[str, np.ndarray]:
    """A batch of zeros."""
    return {name: np.zeros(*found) for name, found in shapes(specs, **sizes).items()}


def check(
    batch: Mapping[str, Any], specs: Specs, required: Collection[str] | None = None, **sizes: int
) -> None:
    """ValueError where a key is missing, or its shape or type is another, naming all of it.

    Arrays, or what stands for them in a trace. A size not given is that of the first key that has
    it. required: keys that must be there; by default all that are not optional. Other keys pass.
    """
    for name, spec in specs.items():
        if name not in batch:
            if not spec.optional if required is None else name in required:
                raise ValueError(
                    f'batch has no {name!r}; expected {_text(spec, sizes)}, {spec.meaning}'
                )
            continue
        shape, dtype = tuple(batch[name].shape), np.dtype(batch[name].dtype)
        fits = len(shape) == len(spec.shape) and dtype == spec.dtype
        if fits:
            for size, wanted in zip(shape, spec.shape, strict=True):
                known = sizes.setdefault(wanted, size) if isinstance(wanted, str) else wanted
                fits &= size == known
        if not fits:
            raise ValueError(
                f'batch[{name!r}] is {shape} {dtype}; expected {_text(spec, sizes)}, {spec.meaning}'
            )


def _text(spec: Spec, sizes: Mapping[str, int]) -> str:
    named = (f'{n}={sizes[n]}' if isinstance(n, str) and n in sizes else str(n) for n in spec.shape)
    return f'({", ".join(named)}) {spec.dtype}'
