"""Holes: what is missing from an image, drawn by kind from a random generator.

Every kind draws its numbers as fractions of the frame or of the face, in an order that does not
depend on the size, so one seed gives the same hole at 64, 128 and 256 pixels.
"""

from collections.abc import Callable, Mapping

import cv2
import numpy as np

from fi_jax.landmarks import REGIONS, draw_hull, draw_region, mean_landmarks, validate

# A hole outside these shares of the frame is drawn again.
MIN_SHARE = 0.002
MAX_SHARE = 0.9
_MIN_SIDE = 16
_TRIES = 8

Size = tuple[int, int]


def draw(
    kind: str, rng: np.random.Generator, size: Size, landmarks: np.ndarray | None = None
) -> np.ndarray:
    """One hole of a kind of KINDS.

    size (H,W), at least 16 each; landmarks (68,2) x,y pixels place the kinds that follow the face,
    None = the mean face. -> (H,W,1) uint8, 1 = missing, a share of 0.002 to 0.9 of the frame
    ('none': empty). ValueError on an unknown kind, a bad size or bad landmarks.
    """
    if kind not in _DRAW:
        raise ValueError(f'hole kind {kind!r}: unknown; expected one of {", ".join(KINDS)}')
    if min(size) < _MIN_SIDE:
        raise ValueError(f'hole size={size}: expected at least {_MIN_SIDE} pixels a side')
    mean = mean_landmarks(size)
    if kind == 'none':
        return _none(rng, size, mean)
    points = mean if landmarks is None else validate(landmarks)
    for attempt in range(_TRIES):
        # A face (nearly) outside the frame, or larger than it, cannot place a hole.
        hole = _DRAW[kind](rng, size, points if attempt < _TRIES // 2 else mean)
        if MIN_SHARE <= hole.mean() <= MAX_SHARE:
            return hole
    return _centre(rng, size, mean)


def draw_mixture(
    weights: Mapping[str, float],
    rng: np.random.Generator,
    size: Size,
    landmarks: np.ndarray | None = None,
) -> tuple[np.ndarray, int]:
    """One hole of a kind drawn by weight, and the kind's index into KINDS.

    weights by name of kind, 0 or more, not all 0; they need not sum to 1 and their order does not
    matter. size, landmarks and the hole as in `draw`. ValueError on unknown kinds or bad weights.
    """
    shares = shares_of(weights)
    edges = np.cumsum(shares)
    index = int(np.searchsorted(edges, rng.random() * edges[-1], side='right'))
    return draw(KINDS[index], rng, size, landmarks), index


def shares_of(weights: Mapping[str, float]) -> np.ndarray:
    """Weights by name of kind, in the order of KINDS; ValueError on unknown or bad ones."""
    unknown = sorted(set(weights) - set(KINDS))
    if unknown:
        raise ValueError(
            f'hole weights: unknown kind {", ".join(map(repr, unknown))}; '
            f'expected some of {", ".join(KINDS)}'
        )
    shares = np.array([weights.get(kind, 0.0) for kind in KINDS], np.float64)
    if not (np.isfinite(shares).all() and (shares >= 0).all() and shares.any()):
        raise ValueError(
            f'hole weights={dict(weights)}: expected finite numbers of 0 or more, not all 0'
        )
    return shares


def fixed(
    seed: int,
    index: int,
    kinds: str | Mapping[str, float],
    size: Size,
    landmarks: np.ndarray | None = None,
) -> tuple[np.ndarray, int]:
    """The evaluation hole of image `index`: a function of (seed, index), whatever batch or order.

    seed and index 0 or more; kinds = one kind or weights as in `draw_mixture`. -> the hole (H,W,1)
    uint8 and its index into KINDS. ValueError as in `draw` and `draw_mixture`.
    """
    if seed < 0 or index < 0:
        raise ValueError(f'hole seed={seed}, index={index}: expected 0 or more')
    rng = np.random.default_rng([seed, index])
    if isinstance(kinds, str):
        hole = draw(kinds, rng, size, landmarks)
        return hole, KINDS.index(kinds)
    return draw_mixture(kinds, rng, size, landmarks)


# ------------------------------------------------------------------ shapes that ignore the face


def _none(rng: np.random.Generator, size: Size, landmarks: np.ndarray) -> np.ndarray:
    return np.zeros((*size, 1), np.uint8)


def _centre(rng: np.random.Generator, size: Size, landmarks: np.ndarray) -> np.ndarray:
    height, width = size
    top, left = (height - height // 2) // 2, (width - width // 2) // 2
    hole = np.zeros((height, width, 1), np.uint8)
    hole[top : top + height // 2, left : left + width // 2] = 1
    return hole


def _rectangle(rng: np.random.Generator, size: Size, landmarks: np.ndarray) -> np.ndarray:
    side = rng.uniform(0.2, 0.6, 2)
    centre = rng.uniform(0.38, 0.62, 2)
    start = np.rint((centre - side / 2) * size).astype(int)
    stop = np.rint((centre + side / 2) * size).astype(int)
    hole = np.zeros((*size, 1), np.uint8)
    hole[start[0] : stop[0], start[1] : stop[1]] = 1
    return hole


def _strokes(rng: np.random.Generator, size: Size, landmarks: np.ndarray) -> np.ndarray:
    """A thick brush dragged back and forth (free-form masks of DeepFill v2, Yu et al. 2019)."""
    canvas, unit = _canvas(size)
    frame = np.array(canvas.shape[::-1])
    for _ in range(rng.integers(1, 5)):
        point = rng.uniform(0.1, 0.9, 2) * frame
        width = _pixels(rng.uniform(0.05, 0.14) * unit)
        heading = rng.uniform(0, 2 * np.pi)
        path = [point]
        for turn in range(rng.integers(2, 8)):
            # Alternate turns make the zigzag of a hand that rubs something out.
            heading += np.pi * (turn % 2) + rng.normal(0, 0.5)
            reach = rng.uniform(0.1, 0.35) * unit
            point = point + reach * np.array([np.cos(heading), np.sin(heading)])
            point = point.clip(0, frame - 1)
            path.append(point)
        cv2.polylines(canvas, [np.rint(path).astype(np.int32)], False, 255, width)
    return _reduced(canvas, size)


def _scratches(rng: np.random.Generator, size: Size, landmarks: np.ndarray) -> np.ndarray:
    """Thin, long, slightly curved lines that mostly share one direction, as on a worn print."""
    canvas, unit = _canvas(size)
    frame = np.array(canvas.shape[::-1])
    heading = rng.uniform(0, np.pi)
    for _ in range(rng.integers(3, 9)):
        way = heading + rng.normal(0, 0.25) + (rng.random() < 0.2) * rng.uniform(0, np.pi)
        along = np.array([np.cos(way), np.sin(way)])
        across = np.array([-along[1], along[0]])
        length = rng.uniform(0.3, 1.2) * unit
        bow, wobble = rng.normal(0, 0.06, 2) * length
        middle = rng.uniform(0.1, 0.9, 2) * frame
        t = np.linspace(-1, 1, 11)[:, None]
        path = middle + t * length / 2 * along + (bow * t**2 + wobble * t**3) * across
        width = _pixels(rng.uniform(0.012, 0.028) * unit)
        cv2.polylines(canvas, [np.rint(path).astype(np.int32)], False, 255, width)
    return _reduced(canvas, size)


_FONTS = (
    cv2.FONT_HERSHEY_SIMPLEX,
    cv2.FONT_HERSHEY_DUPLEX,
    cv2.FONT_HERSHEY_COMPLEX,
    cv2.FONT_HERSHEY_TRIPLEX,
)
_LETTERS = np.array(list('ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789'))


def _text(rng: np.random.Generator, size: Size, landmarks: np.ndarray) -> np.ndarray:
    """Lines of random words printed over the picture."""
    canvas, unit = _canvas(size)
    height, width = canvas.shape
    font = _FONTS[rng.integers(len(_FONTS))]
    letter = rng.uniform(0.1, 0.17)
    thickness = _pixels(letter * unit * rng.uniform(0.12, 0.2))
    lines = rng.integers(2, 6)
    pitch = letter * rng.uniform(1.4, 2.0)
    first = rng.uniform(letter, max(letter, 1 - (lines - 1) * pitch))
    letters = rng.choice(_LETTERS, (lines, int(1.4 / letter)))
    letters[rng.random(letters.shape) < 0.2] = ' '
    for line, left in enumerate(rng.uniform(-0.1, 0.25, lines)):
        at = (round(left * width), round(first * height + line * pitch * unit))
        # A Hershey capital is about 22 pixels high at scale 1.
        scale = letter * unit / 22
        cv2.putText(canvas, ''.join(letters[line]), at, font, scale, 255, thickness)
    return _reduced(canvas, size)


def _blocks(rng: np.random.Generator, size: Size, landmarks: np.ndarray) -> np.ndarray:
    """Macroblocks lost in transmission: runs along rows of a grid of eighths of the frame."""
    side = min(size) / 8
    rows, columns = (round(length / side) for length in size)
    lost = np.zeros((rows, columns), np.uint8)
    for _ in range(rng.integers(2, 8)):
        row, start = rng.integers(rows), rng.integers(columns)
        lost[row, start : start + rng.integers(1, columns + 1)] = 1
    y = np.arange(size[0]) * rows // size[0]
    x = np.arange(size[1]) * columns // size[1]
    return lost[np.ix_(y, x)][:, :, None]


# ------------------------------------------------------------------ shapes placed by the face


def _hull(*names: str, grow: tuple[float, float]) -> Callable[..., np.ndarray]:
    """A kind: the hull of some regions, grown by a random share of the face's side."""
    indices = np.concatenate([REGIONS[name] for name in names])

    def region(rng: np.random.Generator, size: Size, landmarks: np.ndarray) -> np.ndarray:
        return draw_region(
            landmarks, size, indices, rng.uniform(*grow) * _face_side(landmarks, size)
        )

    return region


def _lower_half(rng: np.random.Generator, size: Size, landmarks: np.ndarray) -> np.ndarray:
    # Jaw points 2 and 14 are level with the middle of the nose, 28 to 30 run down its bridge.
    indices = np.array([*range(2, 15), rng.integers(28, 31)])
    return draw_region(
        landmarks, size, indices, rng.uniform(0.01, 0.07) * _face_side(landmarks, size)
    )


def _half_face(rng: np.random.Generator, size: Size, landmarks: np.ndarray) -> np.ndarray:
    face = _whole_face(rng, size, landmarks)
    # The midline runs from the top of the nose to the chin.
    (x, y), (along_x, along_y) = landmarks[27], landmarks[8] - landmarks[27]
    rows, columns = np.ogrid[: size[0], : size[1]]
    beyond = (columns - x) * along_y - (rows - y) * along_x >= 0
    return face * (beyond == (rng.random() < 0.5)).astype(np.uint8)[:, :, None]


def _whole_face(rng: np.random.Generator, size: Size, landmarks: np.ndarray) -> np.ndarray:
    extended = bool(rng.random() < 0.5)
    dilate = 1 + 2 * round(rng.uniform(0.01, 0.05) * _face_side(landmarks, size))
    return draw_hull(landmarks, size, extended=extended, dilate=dilate)


def _face_side(landmarks: np.ndarray, size: Size) -> float:
    # Points far outside the frame must not make a brush larger than the frame.
    return min(float(np.ptp(landmarks, axis=0).max()), max(size))


# ------------------------------------------------------------------ drawing finer than the frame


def _canvas(size: Size) -> tuple[np.ndarray, int]:
    """A canvas a whole number of times the frame, near 256 pixels, and its shorter side."""
    times = max(1, round(256 / min(size)))
    canvas = np.zeros((size[0] * times, size[1] * times), np.uint8)
    return canvas, min(canvas.shape)


def _reduced(canvas: np.ndarray, size: Size) -> np.ndarray:
    shrunk = cv2.resize(canvas, size[::-1], interpolation=cv2.INTER_AREA)
    return (shrunk > 127).astype(np.uint8)[:, :, None]


def _pixels(length: float) -> int:
    return max(1, round(length))


_DRAW: dict[str, Callable[..., np.ndarray]] = {
    'none': _none,
    'centre': _centre,
    'rectangle': _rectangle,
    'strokes': _strokes,
    'eyes': _hull('right_brow', 'left_brow', 'right_eye', 'left_eye', grow=(0.03, 0.1)),
    'nose': _hull('nose', grow=(0.04, 0.1)),
    'mouth': _hull('mouth', grow=(0.03, 0.1)),
    'lower_half': _lower_half,
    'half_face': _half_face,
    'whole_face': _whole_face,
    'scratches': _scratches,
    'text': _text,
    'blocks': _blocks,
}
KINDS: tuple[str, ...] = tuple(_DRAW)
