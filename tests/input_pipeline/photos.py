"""Small images and the folders and zips they come in."""

import io
import struct
import types
import zipfile
import zlib

import numpy as np
from PIL import Image


def pixels(seed=0, height=12, width=8):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def encode(image, kind='PNG', **options):
    file = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(file, kind, **options)
    return file.getvalue()


def png_header(width, height):
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind, data):
        crc = struct.pack('>I', zlib.crc32(kind + data))
        return struct.pack('>I', len(data)) + kind + data + crc

    header = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    data = chunk(b'IHDR', header) + chunk(b'IDAT', zlib.compress(b'\0' * 100)) + chunk(b'IEND', b'')
    return b'\x89PNG\r\n\x1a\n' + data


def write_folder(root, images):
    for name, data in images.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def write_zip(path, images, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, 'w', compression) as archive:
        for name, data in images.items():
            archive.writestr(name, data)
    return path


IMAGES = {
    'b.png': encode(pixels(0)),
    'a/é 2.jpg': encode(pixels(1), 'JPEG'),
    'a/1.JPEG': encode(pixels(2), 'JPEG'),
    'c.webp': encode(pixels(3), 'WEBP'),
    'd.bmp': encode(pixels(4), 'BMP'),
}
STRAY = {'notes.txt': b'x', '.hidden.png': IMAGES['b.png'], '__MACOSX/a/._1.jpg': b'x'}


def points(seed=0):
    return np.random.default_rng(seed).uniform(0, 8, (68, 2)).astype(np.float32)


def config(**fields):
    defaults = {'landmarks': None, 'identities': None, 'val_share': 0.0, 'test_share': 0.0}
    return types.SimpleNamespace(**(defaults | fields))
