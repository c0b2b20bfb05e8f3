"""Where a run reports: metrics.jsonl, PNGs, TensorBoard, a tracker; process 0 alone writes."""

from __future__ import annotations

import importlib
import json
import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import jax
import numpy as np
from absl import logging
from PIL import Image, PngImagePlugin

from fi_jax.run.files import atomic_write


class Writer:
    """Scalars and pictures of a run. TensorBoard is fed where tensorboardX is installed.

    tracker names a module with init(project, name, config), log(values, step) and finish(): wandb
    and trackio have them. Raises ValueError where it cannot be imported.
    """

    def __init__(
        self, workdir: str | Path, tracker: str = '', settings: Mapping[str, Any] | None = None
    ):
        self._folder = Path(workdir)
        self._active = jax.process_index() == 0
        self._events: Any = None
        self._tracker: Any = None
        if not self._active:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        if tracker:
            try:
                self._tracker = importlib.import_module(tracker)
            except ImportError as error:
                raise ValueError(
                    f'config.tracker={tracker!r}: {error}; pip install it, or leave it empty'
                ) from error
            begin, name = self._tracker.init, self._folder.resolve().name
            begin(project='fi_jax', name=name, config=dict(settings or {}))
        self._path = self._folder / 'metrics.jsonl'
        self._lines = open(self._path, 'a', buffering=1)  # noqa: SIM115
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
        if self._tracker:
            self._tracker.finish()

    def rewind(self, step: int) -> None:
        """Take back the lines of metrics.jsonl past a step that a resumed run does again."""
        if not self._active:
            return
        self._lines.close()
        kept = [line for line in self._path.read_text().splitlines(True) if _step_of(line) <= step]
        with atomic_write(self._path) as part:
            part.write_text(''.join(kept))
        self._lines = open(self._path, 'a', buffering=1)  # noqa: SIM115

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """One line of metrics.jsonl, and a point on each curve; what is not finite becomes null."""
        if not self._active:
            return
        line = {k: v if math.isfinite(v) else None for k, v in values.items()}
        self._lines.write(json.dumps({'step': step, **line}) + '\n')
        known = {name: value for name, value in line.items() if value is not None}
        if self._events:
            for name, value in known.items():
                self._events.add_scalar(name, value, step)
        if self._tracker:
            self._tracker.log(known, step=step)

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


def _step_of(line: str) -> float:
    try:
        return json.loads(line)['step']
    except (ValueError, KeyError, TypeError):
        return math.inf  # a line cut short by a kill


def save_png(path: str | Path, image: np.ndarray) -> None:
    """Write (H,W,3) or (H,W,1) uint8, making the folder; atomic."""
    with atomic_write(path) as part, open(part, 'wb') as file:
        write_png(file, Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image))


def write_png(file: BinaryIO, image: Image.Image, text: Mapping[str, str] | None = None) -> None:
    """Write a picture as PNG, with text chunks by name.

    Runs alone are looked for: of photos much faster than PIL's own choice, and hardly larger.
    """
    chunks = PngImagePlugin.PngInfo()
    for name, value in (text or {}).items():
        chunks.add_text(name, value)
    image.save(file, 'PNG', compress_type=zlib.Z_RLE, pnginfo=chunks)


def save_json(path: str | Path, value: Any) -> None:
    """Write a JSON file, making the folder; atomic. NaN becomes null."""
    with atomic_write(path) as part:
        part.write_text(json.dumps(_plain(value), indent=2, allow_nan=False) + '\n')


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value
