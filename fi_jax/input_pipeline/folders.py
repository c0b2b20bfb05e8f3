"""Folders of images of any program, to be scored: samples, their truths and their holes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fi_jax.input_pipeline import landmark_shards
from fi_jax.input_pipeline.archives import Folder
from fi_jax.input_pipeline.joins import with_landmarks
from fi_jax.input_pipeline.loader import Example
from fi_jax.input_pipeline.records import decode, missing


class FolderExamples:
    """Samples, truths and holes from folders of images, with the interface of `EvalExamples`.

    truth_dir: NAME.png, or NAME/truth.png. holes_dir: NAME.png, NAME_mask.png, NAME_hole.png (a
    number may follow, NAME_mask001.png) or NAME/hole.png; white = missing, or 1 in pictures of 0
    and 1. samples_dir: NAME_00.png, NAME_01.png, ... or NAME/sample_00.png, ..., or one NAME.png.
    Any image format that the sources read will do. landmarks: shards or an .npz of the files of
    truth_dir, in their pixels. Raises ValueError or FileNotFoundError that name what is missing or
    of another size.
    """

    def __init__(
        self,
        samples_dir: str,
        truth_dir: str,
        holes_dir: str,
        limit: int,
        multiple: int,
        landmarks: str = '',
    ):
        flags = {'--samples_dir': samples_dir, '--truth_dir': truth_dir, '--holes_dir': holes_dir}
        for flag, path in flags.items():
            if not Path(path).is_dir():
                raise FileNotFoundError(f'{flag}={path}: no such folder; check the path')
        self._folders: dict[str, Any] = {flag: Folder(path) for flag, path in flags.items()}
        self._landmarks = bool(landmarks)
        if landmarks:
            table = landmark_shards.read_table(landmarks)
            self._folders['--truth_dir'] = with_landmarks(
                self._folders['--truth_dir'], table, field=f'data.landmarks={landmarks}'
            )
        self._truths = _keyed(self._folders['--truth_dir'], 'truth')
        self._holes = _holes(self._folders['--holes_dir'], self._truths)
        self._samples = _numbered(self._folders['--samples_dir'], self._truths)
        named = f'--truth_dir={truth_dir}, --samples_dir={samples_dir}'
        self.keys = sorted(k for k in self._truths if k in self._samples)
        if not self.keys:
            raise ValueError(
                f'{named}: no image has samples; expected NAME_00.png or NAME/sample_00.png for '
                f'NAME such as {next(iter(self._truths))!r}'
            )
        if holeless := [k for k in self.keys if k not in self._holes]:
            raise ValueError(
                f'--holes_dir={holes_dir}: no hole for {holeless[0]!r}, nor for '
                f'{len(holeless) - 1} others; expected NAME.png, NAME_mask.png or '
                'NAME/hole.png, white = missing'
            )
        self.without_samples = len(self._truths) - len(self.keys)
        self.num_samples = len(self._samples[self.keys[0]])
        if limit:
            self.keys = self.keys[:limit]
        for key in self.keys:
            if len(self._samples[key]) != self.num_samples:
                raise ValueError(
                    f'--samples_dir={samples_dir}: {len(self._samples[key])} samples of {key!r} '
                    f'and {self.num_samples} of {self.keys[0]!r}; give the same number of each'
                )
        self.count = len(self.keys)
        self._padded = -(-self.count // multiple) * multiple
        self._size = self._read('--truth_dir', self._truths[self.keys[0]]).shape
        if not any(self._hole(key).any() for key in self.keys[:16]):
            raise ValueError(
                f'--holes_dir={holes_dir}: nothing is missing in {self.keys[0]!r} and others; '
                'white = missing, or 1 in pictures of 0 and 1'
            )

    def __len__(self) -> int:
        return self._padded

    def __getitem__(self, position: int) -> Example:
        real = position < self.count
        key = self.keys[position if real else 0]
        truth, hole, samples = self.images(key)
        example = {
            'image': truth,
            'hole': hole,
            'hole_kind': np.int32(-1),
            'index': np.int32(position if real else 0),
            'weight': np.float32(real),
            'samples': paste(samples, truth, hole),
        }
        if self._landmarks:
            points = self._folders['--truth_dir'][self._truths[key]].landmarks
            example['has_landmarks'] = np.float32(points is not None)
            example['landmarks'] = np.zeros((68, 2), np.float32) if points is None else points
        return example

    def images(self, key: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Truth (H,W,3), hole (H,W,1) of 0 and 1, samples (N,H,W,3) as they are in their files."""
        truth = self._read('--truth_dir', self._truths[key])
        samples = [self._read('--samples_dir', i) for i in self._samples[key]]
        return truth, self._hole(key), np.stack(samples)

    def _hole(self, key: str) -> np.ndarray:
        return missing(self._read('--holes_dir', self._holes[key]))

    def _read(self, flag: str, index: int) -> np.ndarray:
        record = self._folders[flag][index]
        pixels = decode(record.image, record.name)
        expected = getattr(self, '_size', pixels.shape)
        if pixels.shape != expected:
            raise ValueError(
                f'{flag}: {record.name} is {pixels.shape[1]}x{pixels.shape[0]} and the first '
                f'truth {expected[1]}x{expected[0]}; resize all images to one size'
            )
        return pixels


def paste(samples: np.ndarray, truth: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Samples (N,H,W,3) with the truth's own pixels outside the hole."""
    return np.where(hole[None] > 0, samples, truth[None])


def _keyed(folder: Any, stem: str) -> dict[str, int]:
    """Key -> index: folders with a file called `stem` where there are any, else files by name."""
    paths = [Path(name) for name in folder.names]
    nested = {
        p.parent.as_posix(): i for i, p in enumerate(paths) if p.stem == stem and p.parent.name
    }
    return nested or {p.with_suffix('').as_posix(): i for i, p in enumerate(paths)}


def _holes(folder: Any, keys: Mapping[str, int]) -> dict[str, int]:
    """Key -> index of its hole."""
    found = _keyed(folder, 'hole')
    for name in [name for name in found if name not in keys]:
        found.setdefault(re.sub(r'[_-](mask|hole)[_-]?\d*$', '', name), found[name])
    return found


def _numbered(folder: Folder, keys: Mapping[str, int]) -> dict[str, list[int]]:
    """Key -> indices of its samples, in the order of their numbers."""
    found: dict[str, dict[int, int]] = {}
    for index, name in enumerate(folder.names):
        stem = Path(name).with_suffix('').as_posix()
        split = re.fullmatch(r'(.+?)(?:/sample)?[_/-](\d+)', stem)
        if stem in keys:
            found.setdefault(stem, {})[0] = index
        elif split and split[1] in keys:
            found.setdefault(split[1], {})[int(split[2])] = index
    return {key: [numbers[n] for n in sorted(numbers)] for key, numbers in found.items()}


def visible_change(examples: FolderExamples, limit: int = 16) -> dict[str, float]:
    """Mean absolute difference of samples and truth in grey levels, inside and outside the hole."""
    sums = {'inside': [0.0, 0.0], 'outside': [0.0, 0.0]}
    for key in examples.keys[:limit]:
        truth, hole, samples = examples.images(key)
        difference = np.abs(samples.astype(np.float64) - truth).mean(axis=(0, 3))
        for name, where in (('inside', hole[..., 0] > 0), ('outside', hole[..., 0] == 0)):
            sums[name][0] += difference[where].sum()
            sums[name][1] += where.sum()
    return {name: total / max(pixels, 1) for name, (total, pixels) in sums.items()}
