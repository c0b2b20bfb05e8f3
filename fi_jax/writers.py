"""Where a run reports: metrics.jsonl, TensorBoard events, PNGs; process 0 alone writes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging
from PIL import Image


class Writer:
    """Scalars and pictures of a run. TensorBoard is fed where tensorboardX is installed."""

    def __init__(self, workdir: str | Path):
        self._folder = Path(workdir)
        self._active = jax.process_index() == 0
        self._events: Any = None
        if not self._active:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lines = open(self._folder / 'metrics.jsonl', 'a', buffering=1)  # noqa: SIM115
        try:
            from tensorboardX import SummaryWriter

            self._events = SummaryWriter(str(self._folder))
        except ImportError:
            logging.info('tensorboardX is not installed: no TensorBoard events')

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        if self._active:
            self._lines.close()
        if self._events:
            self._events.close()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """One line of metrics.jsonl, and a point on each curve; what is not finite becomes null."""
        if not self._active:
            return
        line = {k: v if math.isfinite(v) else None for k, v in values.items()}
        self._lines.write(json.dumps({'step': step, **line}) + '\n')
        if self._events:
            for name, value in line.items():
                if value is not None:
                    self._events.add_scalar(name, value, step)

    def vector(self, step: int, name: str, values: np.ndarray) -> None:
        """A line of metrics.jsonl with the values (D,), and their histogram in TensorBoard."""
        if not self._active:
            return
        rounded = [float(f'{v:.4g}') if math.isfinite(v) else None for v in values]
        self._lines.write(json.dumps({'step': step, name: rounded}) + '\n')
        if self._events and np.isfinite(values).all():
            self._events.add_histogram(name, values, step)

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        """samples/<name>_<step>.png and the same in TensorBoard; image (H,W,3) uint8."""
        if not self._active:
            return
        save_png(self._folder / 'samples' / f'{name}_{step:07d}.png', image)
        if self._events:
            self._events.add_image(name, image, step, dataformats='HWC')


def save_png(path: str | Path, image: np.ndarray) -> None:
    """Write (H,W,3) or (H,W,1) uint8, making the folder; whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + '.part')
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(part, format='PNG')
    part.replace(path)


def save_json(path: str | Path, value: Any) -> None:
    """Write a JSON file, making the folder; whole or not at all. NaN becomes null."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + '.part')
    part.write_text(json.dumps(_plain(value), indent=2, allow_nan=False) + '\n')
    part.replace(path)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value
