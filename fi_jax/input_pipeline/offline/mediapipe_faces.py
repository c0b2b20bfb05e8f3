"""MediaPipe's Face Landmarker as a detector: 478 vertices of each face, taken to the 68 points."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import urllib.request
from collections.abc import Iterator, Sequence

import numpy as np

from fi_jax.input_pipeline.offline import detectors, vertex_map
from fi_jax.input_pipeline.offline.detectors import Face, View

MODEL_URL = (
    'https://storage.googleapis.com/mediapipe-models/face_landmarker/face_landmarker/float16/1/'
    'face_landmarker.task'
)
MODEL_SHA256 = '64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff'
MODEL = 'FI_JAX_FACE_LANDMARKER'  # environment variable


class MediaPipe:
    """MediaPipe's Face Landmarker: 478 vertices a face, taken to 68 points by a `vertex_map`."""

    name = 'mediapipe'
    # A border first: the finder wants the whole head in view. Then as it is, small within a wide
    # border, and for small faces in large photos the quarters and the centre: in small photos
    # those show what is no face.
    views: Sequence[View] = (
        View(0.25),
        View(0.0),
        View(0.6, sizes=(384, 1280)),
        *(View(0.0, (x, y, x + 0.5, y + 0.5), least=640) for x, y in
          ((0.25, 0.25), (0.0, 0.0), (0.5, 0.0), (0.0, 0.5), (0.5, 0.5))),
    )  # fmt: skip

    def __init__(self, model: str = '', kind: str = 'learned', max_faces: int = 4):
        self._map = vertex_map.load(kind)
        path = find_model(model)
        try:
            with _quiet_stderr():
                import mediapipe
                from mediapipe.tasks.python import BaseOptions, vision
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "--detector=mediapipe needs MediaPipe: pip install 'fi_jax[landmarks]'"
            ) from error
        self.version = f'{mediapipe.__version__}+{MODEL_SHA256[:8]}+{kind}-{self._map.version}'
        self._image = functools.partial(mediapipe.Image, mediapipe.ImageFormat.SRGB)
        options = vision.FaceLandmarkerOptions(
            base_options=BaseOptions(model_asset_path=path), num_faces=max_faces
        )
        with _quiet_stderr():
            self._landmarker = vision.FaceLandmarker.create_from_options(options)
            self._landmarker.detect(self._image(np.zeros((64, 64, 3), np.uint8)))

    def close(self) -> None:
        """Ends it; to be called before Python ends."""
        self._landmarker.close()

    def vertices(self, image: np.ndarray) -> list[np.ndarray]:
        """All faces as (478,2) x,y pixels, pixel centres at whole numbers."""
        height, width = image.shape[:2]
        found = self._landmarker.detect(self._image(np.ascontiguousarray(image))).face_landmarks
        scale = np.array([width, height])
        return [np.array([(p.x, p.y) for p in face]) * scale - 0.5 for face in found]

    def __call__(self, image: np.ndarray, name: str) -> list[Face]:
        return [Face(self._map(v)) for v in self.vertices(image)]


def find_model(model: str = '') -> str:
    """The checked model file: as given, as FI_JAX_FACE_LANDMARKER says, or fetched once.

    Raises FileNotFoundError, ValueError (another sha256) or OSError (it cannot be fetched).
    """
    path = model or os.environ.get(MODEL, '')
    if path:
        detectors.check_sha256(path, MODEL_SHA256, '--model' if model else MODEL)
        return path
    path = os.path.expanduser('~/.cache/fi_jax/face_landmarker.task')
    if not os.path.exists(path):
        print(f'Fetching {MODEL_URL} to {path}', file=sys.stderr)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        part = f'{path}.tmp-{os.getpid()}'
        try:
            with urllib.request.urlopen(MODEL_URL, timeout=60) as answer, open(part, 'wb') as file:
                file.write(answer.read(1 << 26))
            detectors.check_sha256(part, MODEL_SHA256, '--model')
            os.replace(part, path)
        except OSError as error:
            raise OSError(
                f'--model is not set and cannot be fetched ({error}); get {MODEL_URL} and name it '
                f'by --model=FILE or {MODEL}=FILE'
            ) from error
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.remove(part)
    detectors.check_sha256(path, MODEL_SHA256, '--model')
    return path


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
    """The native libraries write notes past Python, in the middle of the progress line."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, 'wb') as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
