"""Photos and holes as people have them -> arrays; the same limits as for training images."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageOps

from fi_jax.input_pipeline.archives import MAX_FILE_BYTES
from fi_jax.input_pipeline.records import MAX_PIXELS, BadImage, decode

ImageLike = Image.Image | np.ndarray | str | os.PathLike[str]


@dataclass(frozen=True)
class Photo:
    """A photo upright at its own size.

    pixels (H,W,3) uint8 RGB; alpha (H,W) uint8 where it has one; grey: its mode has no colour.
    info: what a copy of the file should keep (the colour profile). notes: what was changed.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    grey: bool = False
    info: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.pixels.shape[0], self.pixels.shape[1]

    def image(self, pixels: np.ndarray, drawn: np.ndarray) -> Image.Image:
        """Pixels (H,W,3) as a picture in the photo's own mode, with its alpha and profile.

        drawn (H,W) bool: what is opaque now, whatever it was.
        """
        out = Image.fromarray(np.ascontiguousarray(pixels[..., 0]) if self.grey else pixels)
        if self.alpha is not None:
            out.putalpha(Image.fromarray(np.where(drawn, np.uint8(255), self.alpha)))
        out.info.update(self.info)
        return out


def read_photo(photo: ImageLike | bytes, name: str = 'photo') -> Photo:
    """A PIL image, an array, a path or the bytes of a file -> a photo.

    Arrays are (H,W), (H,W,1), (H,W,3) or (H,W,4), uint8 or uint16. Files are what
    `records.decode` reads. An orientation that EXIF tells is applied; 16 bits become 8; palettes
    and CMYK become RGB.

    Raises:
        BadImage: not an image, damaged, or above the limits of `records.decode`.
        FileNotFoundError: no such file.
        TypeError: another kind of object.
    """
    if isinstance(photo, (str, os.PathLike)):
        name, photo = os.fspath(photo), _bytes_of(photo)
    if isinstance(photo, bytes):
        return _read_file(photo, name)
    if isinstance(photo, Image.Image):
        return _read_pil(photo, name)
    if isinstance(photo, np.ndarray):
        return _read_array(photo, name)
    raise TypeError(
        f'{name}: {type(photo).__name__}; give a PIL image, a numpy array, a path or bytes'
    )


def read_hole(hole: ImageLike | bytes, photo: Photo, invert: bool = False) -> np.ndarray:
    """Where pixels of a photo are missing, (H,W) bool; white is missing.

    hole: 'alpha', the photo's transparent pixels, or 'white', its pure white ones; or a picture of
    the photo's size: PIL, array, path or bytes. Of a picture with 0 and 1 alone, 1 is missing; of
    any other, values above 127; transparent pixels are not. Pictures of another size but the same
    shape are enlarged or reduced. invert: all others are missing.

    Raises:
        ValueError: no pixel is missing, or all are; another shape; no alpha.
        BadImage, FileNotFoundError, TypeError: as `read_photo`.
    """
    if isinstance(hole, str) and hole == 'alpha':
        if photo.alpha is None:
            raise ValueError("hole='alpha': the photo has no alpha channel; give a hole of its own")
        missing = photo.alpha < 128
    elif isinstance(hole, str) and hole == 'white':
        missing = (photo.pixels == 255).all(-1)
    else:
        missing = _missing(hole)
        if missing.shape != photo.size:
            missing = _fitted(missing, photo.size)
    missing = missing != invert
    if not missing.any():
        raise ValueError('hole: no pixel of it is white, so nothing is missing; white = missing')
    if missing.all():
        raise ValueError(
            'hole: all of it is white, so nothing of the photo is left; white = missing'
        )
    return missing


def _missing(hole: ImageLike | bytes) -> np.ndarray:
    if isinstance(hole, np.ndarray) and hole.dtype == bool:
        hole = hole.astype(np.uint8)
    picture = read_photo(hole, 'hole')
    values = picture.pixels.max(-1)
    if picture.alpha is not None:
        values = np.where(picture.alpha < 128, 0, values)
    return values > (0 if values.max() <= 1 else 127)


def _fitted(missing: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A hole of the photo's shape at the photo's size; ValueError where the shapes differ."""
    (h, w), (height, width) = missing.shape, size
    if abs(h * width - w * height) > max(h * width, w * height) * 0.02:
        hint = ' (upright, as its EXIF orientation says)' if (w, h) == size else ''
        raise ValueError(
            f'hole: {w}x{h} pixels, and the photo is {width}x{height}{hint}; give a hole of the '
            "photo's size"
        )
    enlarged = cv2.resize(missing.astype(np.uint8), (width, height), interpolation=cv2.INTER_AREA)
    return enlarged > 0


def _bytes_of(path: str | os.PathLike[str]) -> bytes:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'{path}: no such file; check the path')
    if path.stat().st_size > MAX_FILE_BYTES:
        raise BadImage(
            f'{path}: {path.stat().st_size:,} bytes; at most {MAX_FILE_BYTES:,} are read'
        )
    return path.read_bytes()


def _read_file(data: bytes, name: str) -> Photo:
    pixels = decode(data, name)  # the limits are checked in here
    with Image.open(io.BytesIO(data)) as header:
        mode, info = header.mode, _kept(header)
        alpha = None
        if 'A' in mode or 'transparency' in header.info:
            try:
                alpha = _alpha(ImageOps.exif_transpose(header))
            except Exception as error:  # PIL's parsers raise many kinds
                raise BadImage(f'{name}: damaged image ({error})') from error
    deep = mode.startswith('I') or (
        mode == 'RGB' and data[24:25] == b'\x10' and data[1:4] == b'PNG'
    )
    notes = (f'{name}: 16 bits a channel; read, and given back, at 8',) if deep else ()
    return Photo(pixels, alpha, mode in ('1', 'L', 'LA') or mode.startswith('I'), info, notes)


def _read_pil(image: Image.Image, name: str) -> Photo:
    if image.height * image.width > MAX_PIXELS:
        raise BadImage(
            f'{name}: {image.width}x{image.height}; at most {MAX_PIXELS:,} pixels are read'
        )
    image = ImageOps.exif_transpose(image)
    if image.mode == 'F':
        raise BadImage(f'{name}: mode F; convert it to L or RGB')
    info = _kept(image)
    if image.mode.startswith('I'):  # 16 bits
        pixels = (np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
        notes = (f'{name}: 16 bits a channel; read, and given back, at 8',)
        return Photo(np.repeat(pixels[..., None], 3, -1), None, True, info, notes)
    alpha = _alpha(image) if 'A' in image.getbands() or 'transparency' in image.info else None
    grey = image.mode in ('1', 'L', 'LA')
    if image.mode in ('LA', 'PA', 'RGBA', 'La', 'RGBa'):
        image = image.convert('RGBA')
    return Photo(np.array(image.convert('RGB')), alpha, grey, info)


def _read_array(array: np.ndarray, name: str) -> Photo:
    notes: tuple[str, ...] = ()
    if array.dtype == np.uint16:
        array = (array >> 8).astype(np.uint8)
        notes = (f'{name}: 16 bits a channel; read, and given back, at 8',)
    pixels = decode(array, name)
    alpha = array[..., 3].copy() if array.ndim == 3 and array.shape[2] == 4 else None
    return Photo(pixels, alpha, array.ndim == 2 or array.shape[2] == 1, {}, notes)


def _alpha(image: Image.Image) -> np.ndarray:
    return np.array(image.convert('RGBA').getchannel('A'))


def _kept(image: Image.Image) -> dict[str, Any]:
    return {'icc_profile': p} if (p := image.info.get('icc_profile')) else {}
