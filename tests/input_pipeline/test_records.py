"""Decoding: one way for every kind of file, and what is refused."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from fi_jax.input_pipeline import records
from tests.input_pipeline.photos import (
    encode,
    pixels,
    png_header,
)


@pytest.mark.parametrize('kind', ['PNG', 'BMP', 'WEBP', 'JPEG', 'TIFF', 'GIF', 'PPM'])
def test_decode_agrees_with_pillow(kind):
    options = {'lossless': True} if kind == 'WEBP' else {}
    data = encode(pixels(5, 33, 21), kind, **options)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert('RGB'), int)
    decoded = records.decode(data, 'x')
    assert decoded.dtype == np.uint8 and decoded.shape == (33, 21, 3)
    # Two builds of a JPEG library may round differently.
    assert np.abs(decoded - expected).max() <= (2 if kind == 'JPEG' else 0)


@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'WEBP', 'TIFF'])
@pytest.mark.parametrize('orientation', range(1, 9))
def test_decode_turns_an_image_upright_by_its_exif(kind, orientation):
    corners = np.zeros((32, 64, 3), np.uint8)
    corners[:16, :32] = 255, 0, 0
    corners[16:, 32:] = 0, 0, 255
    exif = Image.Exif()
    exif[0x112] = orientation
    options = {'lossless': True} if kind == 'WEBP' else {}
    decoded = records.decode(encode(corners, kind, exif=exif.tobytes(), **options), 'x').astype(int)
    red = {1: (0, 0), 2: (0, 1), 3: (1, 1), 4: (1, 0), 5: (0, 0), 6: (0, 1), 7: (1, 1), 8: (1, 0)}
    assert decoded.shape == ((32, 64, 3) if orientation < 5 else (64, 32, 3))
    row, column = red[orientation]
    height, width = decoded.shape[:2]
    pixel = decoded[(height // 4) * (1 + 2 * row), (width // 4) * (1 + 2 * column)]
    assert np.abs(pixel - (255, 0, 0)).max() < 8


def test_decode_turns_other_kinds_of_pixels_into_rgb():
    image = Image.fromarray(pixels(6))
    rgb = np.asarray(image).astype(int)
    grey = np.asarray(image.convert('L')).astype(int)
    with_alpha = image.copy()
    with_alpha.putalpha(Image.fromarray(pixels(7)[..., 0]))
    sixteen = cv2.imencode('.png', rgb[..., ::-1].astype(np.uint16) * 257)[1].tobytes()
    cases = {
        'grey': (encode(image.convert('L')), grey[..., None]),
        'alpha': (encode(with_alpha), rgb),
        '16 bits': (sixteen, rgb),
        'palette': (encode(image.quantize(256)), np.asarray(image.quantize(256).convert('RGB'))),
        '1 bit': (encode(image.convert('1')), np.asarray(image.convert('1'))[..., None] * 255),
    }
    for name, (data, expected) in cases.items():
        decoded = records.decode(data, name)
        assert decoded.shape == (12, 8, 3) and decoded.dtype == np.uint8, name
        assert np.abs(decoded - np.broadcast_to(expected, (12, 8, 3))).max() == 0, name
    flat = Image.new('RGB', (16, 16), (200, 120, 40)).convert('CMYK')
    cmyk = records.decode(encode(flat, 'JPEG', quality=95), 'cmyk').astype(int)
    assert np.abs(cmyk - (200, 120, 40)).max() <= 4


def test_decode_takes_arrays():
    image = pixels(8)
    assert np.array_equal(records.decode(image, 'x'), image)
    assert np.array_equal(records.decode(image[..., :1], 'x'), np.repeat(image[..., :1], 3, 2))
    assert np.array_equal(records.decode(image[..., 0], 'x')[..., 2], image[..., 0])
    for bad in (image / 255.0, image[..., :2], image[:0], np.zeros((2, 3, 4, 3), np.uint8)):
        with pytest.raises(records.BadImage, match='face 7'):
            records.decode(bad, 'face 7')


@pytest.mark.parametrize(
    'data',
    [b'', b'hello', encode(pixels(9, 64, 64), 'ICO'), encode(pixels(9, 64, 64), 'TIFF')[:4000],
     encode(pixels(9, 64, 64))[:4000], encode(pixels(9, 64, 64), 'JPEG')[:700],
     encode(pixels(9, 64, 64), 'WEBP', lossless=True)[:4000], png_header(40, 40)],
    ids=['empty', 'text', 'ico', 'cut tiff', 'cut png', 'cut jpg', 'cut webp', 'hollow png'],
)  # fmt: skip
def test_what_is_no_image_is_refused_by_name(data):
    with pytest.raises(records.BadImage, match='face 7'):
        records.decode(data, 'face 7')


@pytest.mark.parametrize('side', [8_001, 12_000, 30_000, 60_000])
def test_a_bomb_is_refused_by_its_header(side):
    # Hollow, so that an error about its contents would mean that it was decoded.
    with pytest.raises(records.BadImage, match=r'face 7.*make the image smaller'):
        records.decode(png_header(side, side), 'face 7')


def test_the_limit_of_pixels_holds_for_arrays_and_files_alike():
    image = pixels(10, 10, 10)
    for data in (image, encode(image)):
        assert records.decode(data, 'x', max_pixels=100).shape == (10, 10, 3)
        with pytest.raises(records.BadImage, match=r'10x10 is above the limit of 99'):
            records.decode(data, 'x', max_pixels=99)
