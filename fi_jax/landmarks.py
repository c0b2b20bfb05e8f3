"""The 68-point face topology (iBUG order): regions, mirror image, mean face, drawing."""

import cv2
import numpy as np

NUM_POINTS = 68

# "right" and "left" are the person's own, so the right eye is on the left of the picture.
REGIONS: dict[str, np.ndarray] = {
    'jaw': np.arange(0, 17),
    'right_brow': np.arange(17, 22),
    'left_brow': np.arange(22, 27),
    'nose': np.arange(27, 36),
    'right_eye': np.arange(36, 42),
    'left_eye': np.arange(42, 48),
    'mouth': np.arange(48, 68),
}

# fmt: off
FLIP: np.ndarray = np.array([
    *range(16, -1, -1),                              # jaw
    *range(26, 16, -1),                              # brows
    27, 28, 29, 30, 35, 34, 33, 32, 31,              # nose
    45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40,  # eyes
    *range(54, 47, -1), *range(59, 54, -1),          # outer lips
    *range(64, 59, -1), *range(67, 64, -1),          # inner lips
])

# Mean of 8,913 CelebA faces found by machine, symmetrised: a fraction of the side of the centred
# square crop (89x89 of 89x109), where pixel x of a crop of side S lies at (x + 0.5) / S.
MEAN_SHAPE: np.ndarray = np.array(
    [
        (0.2526, 0.5273), (0.2545, 0.5922), (0.2617, 0.6573), (0.2745, 0.7214),
        (0.2991, 0.7810), (0.3377, 0.8334), (0.3852, 0.8779), (0.4392, 0.9144),
        (0.5000, 0.9249), (0.5608, 0.9144), (0.6148, 0.8779), (0.6623, 0.8334),
        (0.7009, 0.7810), (0.7255, 0.7214), (0.7383, 0.6573), (0.7455, 0.5922),
        (0.7474, 0.5273), (0.3018, 0.4745), (0.3331, 0.4504), (0.3745, 0.4441),
        (0.4170, 0.4508), (0.4573, 0.4678), (0.5427, 0.4678), (0.5830, 0.4508),
        (0.6255, 0.4441), (0.6669, 0.4504), (0.6982, 0.4745), (0.5000, 0.5170),
        (0.5000, 0.5596), (0.5000, 0.6025), (0.5000, 0.6460), (0.4529, 0.6734),
        (0.4755, 0.6823), (0.5000, 0.6902), (0.5245, 0.6823), (0.5471, 0.6734),
        (0.3506, 0.5229), (0.3769, 0.5073), (0.4089, 0.5081), (0.4356, 0.5286),
        (0.4061, 0.5342), (0.3751, 0.5338), (0.5644, 0.5286), (0.5911, 0.5081),
        (0.6231, 0.5073), (0.6494, 0.5229), (0.6249, 0.5338), (0.5939, 0.5342),
        (0.4022, 0.7494), (0.4374, 0.7341), (0.4735, 0.7277), (0.5000, 0.7336),
        (0.5265, 0.7277), (0.5626, 0.7341), (0.5978, 0.7494), (0.5642, 0.7868),
        (0.5286, 0.8032), (0.5000, 0.8062), (0.4714, 0.8032), (0.4358, 0.7868),
        (0.4175, 0.7521), (0.4733, 0.7493), (0.5000, 0.7518), (0.5267, 0.7493),
        (0.5825, 0.7521), (0.5272, 0.7703), (0.5000, 0.7735), (0.4728, 0.7703),
    ],
    dtype=np.float32,
)
# fmt: on

# cv2 draws polygons in fixed point; four bits place a corner within 1/32 pixel.
_SHIFT = 4
# Farther points than this overflow fixed point, and say nothing about the frame.
_FAR = 1e5
# The forehead's height above the line between the ears, against the chin's depth below it.
FOREHEAD = 0.8


def validate(landmarks: np.ndarray) -> np.ndarray:
    """The landmarks as given, if they are 68 finite points; else ValueError naming the fault.

    landmarks (68,2) x,y pixels; points outside the frame are in order.
    """
    points = np.asarray(landmarks)
    if points.shape != (NUM_POINTS, 2):
        raise ValueError(f'landmarks of shape {points.shape}: expected (68, 2), x and y in pixels')
    finite = np.isfinite(points).all(1)
    if not finite.all():
        raise ValueError(
            f'landmarks: points {np.flatnonzero(~finite).tolist()} are not finite; '
            'give None where the points are unknown'
        )
    return points


def flip(landmarks: np.ndarray, width: int) -> np.ndarray:
    """Landmarks of the mirror image: x -> width - 1 - x, and left and right points change places.

    landmarks (68,2) x,y pixels -> (68,2) of the same dtype. Its own inverse. ValueError on any
    other shape or on non-finite values.
    """
    mirrored = validate(landmarks)[FLIP]
    mirrored[:, 0] = width - 1 - mirrored[:, 0]
    return mirrored


def mean_landmarks(size: tuple[int, int]) -> np.ndarray:
    """The mean face in a frame (H, W), in the centred square of side min(H, W): (68,2) pixels."""
    side = min(size)
    corner = np.array([size[1] - side - 1, size[0] - side - 1], np.float32) / 2
    return MEAN_SHAPE * side + corner


def draw_points(
    landmarks: np.ndarray, size: tuple[int, int], radius: float | None = None
) -> np.ndarray:
    """The points as discs: every pixel whose centre lies within `radius` of a point.

    landmarks (68,2) x,y pixels, outside the frame allowed; size (H,W); radius in pixels, None =
    max(1, H/128), never so small that a point vanishes. -> (H,W,1) uint8, 0/1. ValueError on bad
    landmarks.
    """
    points = validate(landmarks).clip(-_FAR, _FAR)
    height, width = size
    radius = max(1.0, height / 128) if radius is None else radius
    # The nearest pixel centre is at most sqrt(1/2) away.
    squared = max(radius * radius, 0.5) + 1e-4
    reach = np.arange(-int(squared**0.5 + 0.5), int(squared**0.5 + 0.5) + 1)
    around = np.rint(points).astype(np.int64)[:, :, None] + reach
    away = np.square(around - points[:, :, None])
    x, y = around[:, 0, None, :], around[:, 1, :, None]
    near = away[:, 0, None, :] + away[:, 1, :, None] <= squared
    near &= (x >= 0) & (x < width) & (y >= 0) & (y < height)
    drawn = np.zeros(height * width, np.uint8)
    drawn[(y * width + x)[near]] = 1
    return drawn.reshape(height, width, 1)


def draw_hull(
    landmarks: np.ndarray,
    size: tuple[int, int],
    *,
    extended: bool = False,
    dilate: int | None = None,
) -> np.ndarray:
    """The face mask: the filled convex hull of the 68 points, dilated by a square.

    landmarks (68,2) x,y pixels, outside the frame allowed; size (H,W); dilate = odd side of the
    square in pixels (1 = none), None = 5 at H=128 and in proportion; extended adds the forehead,
    which the 68 points leave out. -> (H,W,1) uint8, 0/1. ValueError on bad landmarks or dilate.
    """
    points = validate(landmarks)
    if dilate is None:
        dilate = 1 + 2 * max(1, round(size[0] / 64))
    if dilate < 1 or dilate % 2 == 0:
        raise ValueError(f'dilate={dilate}: expected an odd side of at least 1 pixel')
    if extended:
        points = np.concatenate([points, forehead(points)])
    return cv2.dilate(_filled(points, size), np.ones((dilate, dilate), np.uint8))[:, :, None]


def draw_region(
    landmarks: np.ndarray, size: tuple[int, int], indices: np.ndarray, grow: float = 0.0
) -> np.ndarray:
    """The filled convex hull of some of the points, grown by a disc of radius `grow` pixels.

    landmarks (68,2) x,y pixels, outside the frame allowed; size (H,W); indices (k,) of points.
    -> (H,W,1) uint8, 0/1. ValueError on bad landmarks or negative grow.
    """
    points = validate(landmarks)[indices]
    if not grow >= 0:
        raise ValueError(f'grow={grow}: expected a radius of 0 pixels or more')
    region = _filled(points, size)
    if grow >= 1:
        away = cv2.distanceTransform(1 - region, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        region = (away <= grow).astype(np.uint8)
    return region[:, :, None]


def forehead(landmarks: np.ndarray) -> np.ndarray:
    """Where the outline of the forehead may run: the jaw mirrored in the line between its ends.

    landmarks (68,2) x,y pixels -> (17,2), at 0.8 of the chin's distance from that line; follows
    turned and tilted heads. ValueError on bad landmarks.
    """
    jaw = validate(landmarks)[REGIONS['jaw']]
    along = jaw[16] - jaw[0]
    normal = np.array([-along[1], along[0]]) / max(float(np.hypot(*along)), 1e-6)
    depth = (jaw - jaw[0]) @ normal
    return jaw - np.outer((1 + FOREHEAD) * depth, normal).astype(jaw.dtype)


EDITS = ('smile', 'mouth_open', 'eyes_closed', 'jaw_left')
_MOUTH = {  # share of a corner's way that each point of the mouth goes along
    48: 1.0, 60: 1.0, 54: 1.0, 64: 1.0, 49: 0.5, 59: 0.5, 53: 0.5, 55: 0.5,
}  # fmt: skip
_LOWER_LIP = (55, 56, 57, 58, 59, 65, 66, 67)
_LIDS = ((37, 41), (38, 40), (43, 47), (44, 46))


def edit(landmarks: np.ndarray, name: str, strength: float = 1.0) -> np.ndarray:
    """The face with some points moved, for a person or a test to condition a completion on.

    landmarks (68,2) x,y pixels -> (68,2); name is one of EDITS; strength 1 is a clear but natural
    change, 0 none, negative the opposite. Moves follow the tilt of the eyes. ValueError on bad
    landmarks or an unknown name.
    """
    points = validate(landmarks).astype(np.float32).copy()
    if name not in EDITS:
        raise ValueError(f'edit {name!r} is unknown; there are {list(EDITS)}')
    across = points[45] - points[36]  # between the outer corners of the eyes
    down = np.array([-across[1], across[0]])
    if name == 'smile':
        for i, share in _MOUTH.items():
            outwards = 1 if i in (53, 54, 55, 64) else -1
            points[i] += strength * share * (0.08 * outwards * across - 0.07 * down)
    elif name == 'mouth_open':
        points[list(_LOWER_LIP)] += strength * 0.16 * down
        points[5:12] += strength * 0.10 * down
    elif name == 'eyes_closed':
        for upper, lower in _LIDS:
            points[upper] += strength * 0.85 * (points[lower] - points[upper])
    else:
        points[2:15] -= strength * 0.10 * across
        points[48:68] -= strength * 0.05 * across
    return points


def _filled(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    height, width = size
    hull = cv2.convexHull(points.clip(-_FAR, _FAR).astype(np.float32))
    corners = np.rint(hull * (1 << _SHIFT)).astype(np.int32)
    mirrored = corners.copy()
    mirrored[..., 0] = ((width - 1) << _SHIFT) - corners[..., 0]
    # cv2 rounds left edges unlike right ones; drawn both ways, a mirrored face has a mirrored hull.
    one, other = np.zeros((2, height, width), np.uint8)
    cv2.fillConvexPoly(one, corners, 1, shift=_SHIFT)
    cv2.fillConvexPoly(other, mirrored, 1, shift=_SHIFT)
    return one | other[:, ::-1]
