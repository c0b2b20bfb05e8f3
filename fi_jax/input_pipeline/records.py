"""One stored image and what is known of it, and the only decoder of the project."""

from __future__ import annotations

import dataclasses
import io
import struct
from collections.abc import Mapping
from typing import Protocol

import cv2
import numpy as np
from PIL import Image

MAX_PIXELS = 64_000_000

_FORMATS = ('JPEG', 'PNG', 'WEBP', 'BMP', 'TIFF', 'GIF', 'PPM')


class BadImage(ValueError):
    """An image that cannot be read or decoded; the message names the record."""


@dataclasses.dataclass(frozen=True)
class Record:
    """One stored image and what is known of it."""

    image: bytes | np.ndarray  # encoded file, or (H,W,3) uint8 RGB
    name: str  # key of the image within the source, unique
    landmarks: np.ndarray | None = None  # (68,2) float32, pixels of the decoded image
    identity: int | None = None
    attributes: Mapping[str, int] | None = None
    to_source: np.ndarray | None = None  # (2,3), pixels of a crop -> of the photo it was cut from
    # Left, top and side of its square, in pixels or, up to 1, in shares of the width: (3,), or
    # (2,3), where training draws one between the two and all else takes the first.
    frame: np.ndarray | None = None  # None: the centred square


class Source(Protocol):
    """Random access to records.

    `names` (tuple of str) is there when it costs no decoding, `splits` (our name -> indices) when
    the set is cut already.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Record: ...


def decode(image: bytes | np.ndarray, name: str, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decodes one image, upright by its EXIF orientation; the only decoder of the project.

    Grey and palette images are spread to RGB, CMYK and 16 bits converted, alpha is dropped.

    Args:
        image: encoded JPEG, PNG, WebP, BMP, TIFF, GIF or PPM, of several pictures the first; or an
            array (H,W,3), (H,W,4), (H,W,1) or (H,W) uint8.
        name: key of the record, for messages.
        max_pixels: refused above this many, before any pixel is decoded.

    Returns:
        (H,W,3) uint8 RGB.

    Raises:
        BadImage: not an image, damaged, or too large.
    """
    if isinstance(image, np.ndarray):
        return _rgb(image, name, max_pixels)
    # cv2 has no header call and would decode a 1-gigapixel bomb, so the size is read first.
    size = _jpeg_size(image)
    try:
        if size is None:
            with Image.open(io.BytesIO(image), formats=_FORMATS) as header:
                size = header.size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadImage(f'{name}: {error}; make the image smaller') from error
    except Exception as error:  # PIL's parsers raise many kinds
        raise BadImage(f'{name}: not a readable image, as JPEG or PNG are') from error
    _check_pixels(size[1], size[0], name, max_pixels)
    try:
        pixels = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error as error:
        raise BadImage(f'{name}: damaged image ({error})') from error
    if pixels is None:
        raise BadImage(f'{name}: damaged or truncated image; replace or remove the file')
    return pixels


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Width and height by the frame header of a JPEG file; None where PIL is to look closer.

    Twenty times quicker than PIL, which reads the tables as well. As libjpeg, it goes from marker
    to marker; anything but segments before the frame header is left to PIL.
    """
    if data[:2] != b'\xff\xd8':
        return None
    at = 2
    while data[at : at + 1] == b'\xff' and at + 9 <= len(data):
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xC2:  # sequential and progressive, of Huffman's code
            height, width = struct.unpack_from('>HH', data, at + 5)
            return (width, height) if width and height else None
        if not (0xE0 <= marker <= 0xEF or marker in (0xC4, 0xDB, 0xDD, 0xFE)):
            return None
        at += 2 + int.from_bytes(data[at + 2 : at + 4], 'big')
    return None


def _rgb(image: np.ndarray, name: str, max_pixels: int) -> np.ndarray:
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or 0 in image.shape:
        raise BadImage(
            f'{name}: array {image.shape} {image.dtype} is no image; expected (H,W,3) uint8'
        )
    image = image[..., None] if image.ndim == 2 else image
    if image.shape[2] not in (1, 3, 4):
        raise BadImage(f'{name}: {image.shape[2]} channels; expected 3 (RGB)')
    _check_pixels(image.shape[0], image.shape[1], name, max_pixels)
    image = np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image[..., :3]
    return np.ascontiguousarray(image)


def _check_pixels(height: int, width: int, name: str, max_pixels: int) -> None:
    if height * width > max_pixels:
        raise BadImage(
            f'{name}: {width}x{height} is above the limit of {max_pixels:,} pixels; '
            'make the image smaller'
        )


def missing(hole: np.ndarray) -> np.ndarray:
    """A decoded picture of a hole (H,W,3) -> (H,W,1) uint8, 1 = missing.

    Values above 127 are missing; in a picture of 0 and 1 alone, those of 1.
    """
    values = hole.max(-1, keepdims=True)
    return (values > (0 if values.max() <= 1 else 127)).astype(np.uint8)
