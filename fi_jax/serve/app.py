"""The server: `create_app` for any ASGI server, `main` for the command fi-jax serve.

    GET    /                                   the page
    GET    /api/info                           the network, its limits, the regions of the landmarks
    POST   /api/faces                          photo [hole] -> faces with 68 landmarks each
    POST   /api/completions                    photo, hole, settings -> 202 and an id
    GET    /api/completions/ID                 how far it is, then what it is
    DELETE /api/completions/ID                 cancels it, or forgets it
    GET    /api/completions/ID/images/K        completion K at the photo's size
    GET    /api/completions/ID/previews/K      the part around the face, for a screen
    GET    /api/completions/ID/uncertainty     how far the completions differ there
    GET    /api/openapi.json                   all of this, by OpenAPI

Uploads are files in a form: no path and no address of elsewhere is taken, and nothing is written
to disk but what the form parser spools, which goes with the request.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import anyio
import cv2
import numpy as np
import uvicorn
from annotated_types import Len
from fastapi import FastAPI, Form, HTTPException, Request, Response, UploadFile
from fastapi import Path as UrlPath
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, TypeAdapter, ValidationError

from fi_jax import landmarks
from fi_jax.photo import finding
from fi_jax.photo.blending import around
from fi_jax.photo.reading import read_hole, read_photo
from fi_jax.photo.restorer import load
from fi_jax.run.writers import write_png
from fi_jax.serve.guard import Guard
from fi_jax.serve.jobs import Full, Job, Queue, State

_STATIC = Path(__file__).parent / 'static'
_FORMATS = ('JPEG', 'PNG', 'WEBP', 'BMP')
_PREVIEW = 1024  # the longer side, pixels
_LOOPBACK = ('127.0.0.1', 'localhost', '[::1]')

Coordinate = Annotated[float, Field(ge=-1e5, le=1e5, allow_inf_nan=False)]  # photo pixels
Point = tuple[Coordinate, Coordinate]
Points = Annotated[list[Point], Len(landmarks.NUM_POINTS, landmarks.NUM_POINTS)]
Box = tuple[Coordinate, Coordinate, Coordinate, Coordinate]
_POINTS, _BOX, _FACE = TypeAdapter(Points), TypeAdapter(Box), TypeAdapter(Points | Box)


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one request may ask, and what all may at once.

    bytes: of a whole request; pixels: of its photo, by the file's header; samples: of a photo;
    queue: completions that wait; kept: finished ones that can still be fetched, of kept_bytes in
    all; uploads: bodies read at once, each within upload_seconds.
    """

    bytes: int = 32 << 20
    pixels: int = 50_000_000
    samples: int = 16
    queue: int = 8
    kept: int = 8
    kept_bytes: int = 1 << 29
    uploads: int = 8
    upload_seconds: float = 60


class FacesForm(BaseModel):
    """A photo, and where something of it is missing: a picture of its shape, white = missing."""

    model_config = ConfigDict(extra='forbid')
    photo: UploadFile
    hole: UploadFile | None = None
    box: str | None = Field(None, description='[left, top, right, bottom] of a face, as JSON')


class CompletionsForm(BaseModel):
    """A photo, its hole (white = missing) and how to fill it; see `fi_jax.load`."""

    model_config = ConfigDict(extra='forbid')
    photo: UploadFile
    hole: UploadFile
    num_samples: int = Field(4, ge=1)
    seed: int = Field(0, ge=0, lt=2**32)
    landmarks: str | None = Field(None, description='68 [x, y], photo pixels, as JSON')
    face: str | None = Field(
        None, description='the face to complete, as JSON: 68 points of /api/faces, or its box'
    )
    structure: FiniteFloat = Field(1.0, ge=0, le=1)
    appearance: FiniteFloat = Field(1.0, ge=0, le=1)
    keep: int | None = Field(None, ge=0, description='the sample of this seed to stay near to')
    guidance: FiniteFloat | None = Field(None, ge=0, le=4)
    steps: int | None = Field(None, ge=1, le=100)


class Face(BaseModel):
    box: Box
    landmarks: Points


class Faces(BaseModel):
    width: int
    height: int
    faces: list[Face]


class Status(BaseModel):
    """state: queued, running, done or failed. window: left, top, right, bottom of the previews."""

    id: str
    state: State
    ahead: int
    done: int
    total: int
    error: str = ''
    notes: list[str] = []
    seed: int | None = None
    window: tuple[int, int, int, int] | None = None
    landmarks: list[Points] = []


@dataclasses.dataclass
class Answer:
    """A finished completion: the restorer's result, and the same around its faces alone."""

    result: Any
    near: Any
    window: tuple[int, int, int, int]

    @property
    def nbytes(self) -> int:
        whole, near = self.result, self.near
        holes = whole.hole.nbytes * (1 + len(whole.parts))
        return 2 * whole.photo.pixels.nbytes + holes + 2 * near.photo.pixels.nbytes


def create_app(restorer: Any, hosts: Iterable[str], limits: Limits | None = None) -> Guard:
    """The ASGI app of a restorer (`fi_jax.load`), which answers to these Host headers alone."""
    limits = limits or Limits()
    finder, completer = Queue(limits.queue), Queue(limits.queue, limits.kept, limits.kept_bytes)
    renderers = anyio.CapacityLimiter(2)  # a large photo takes memory while it is encoded

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        finder.close()
        completer.close()

    api = FastAPI(
        title='fi_jax', version='1', openapi_url='/api/openapi.json', docs_url=None, redoc_url=None,
        description='Completions of faces in photos. Plausible, not the true face.',
        lifespan=lifespan,
    )  # fmt: skip

    @api.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        # Fields and reasons; what was sent is not echoed.
        reasons = [f'{".".join(str(x) for x in e["loc"][1:])}: {e["msg"]}' for e in error.errors()]
        return JSONResponse({'detail': '; '.join(reasons[:8])}, 422)

    @api.exception_handler(Full)
    async def full(_: Request, error: Full) -> JSONResponse:
        headers = {'Retry-After': str(error.retry_after)}
        return JSONResponse({'detail': str(error)}, 429, headers)

    @api.get('/', include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(_STATIC / 'index.html')

    @api.get('/api/info')
    async def info() -> dict[str, Any]:
        """The network, what may be asked, and which of the 68 points are which part."""
        return {
            'network': restorer.about,
            'res': restorer.res,
            'limits': dataclasses.asdict(limits),
            'guidance': restorer.config.get('guidance', 1.0),
            'regions': {name: points.tolist() for name, points in landmarks.REGIONS.items()},
        }

    @api.post('/api/faces', response_model=Faces)
    async def faces(form: Annotated[FacesForm, Form()]) -> Any:
        """The faces of a photo, the one that the hole is of first."""
        photo = await _read(form.photo, 'photo', limits)
        hole = await _read(form.hole, 'hole', limits) if form.hole else None
        box = _parsed(_BOX, form.box, 'box')
        job = finder.submit(lambda _: _find(restorer, photo, hole, box))
        await anyio.to_thread.run_sync(job.finished.wait)
        finder.remove(job)
        if job.state != 'done':
            raise HTTPException(422 if job.state == 'failed' else 503, job.error or job.state)
        return job.result

    @api.post('/api/completions', status_code=202)
    async def complete(form: Annotated[CompletionsForm, Form()], response: Response) -> Status:
        """Queue completions of a photo; ask for its status until state is done."""
        if form.num_samples > limits.samples:
            raise HTTPException(422, f'num_samples: at most {limits.samples}')
        photo = await _read(form.photo, 'photo', limits)
        hole = await _read(form.hole, 'hole', limits)
        settings = form.model_dump(exclude={'photo', 'hole', 'face', 'landmarks'})
        if (points := _parsed(_POINTS, form.landmarks, 'landmarks')) is not None:
            settings['landmarks'] = np.array(points, np.float32)
        if (face := _parsed(_FACE, form.face, 'face')) is not None:
            settings['face'] = (
                face if len(face) == 4 else finding.Face.of(np.array(face, np.float32))
            )

        def work(job: Job) -> Answer:
            result = restorer(photo, hole, on_progress=job.progress, **settings)
            return _answer(result)

        job = completer.submit(work)
        job.total = form.num_samples
        response.headers['Location'] = f'/api/completions/{job.id}'
        return _status(job, completer.ahead(job))

    def known(name: str) -> Job:
        job = completer.get(name)
        if job is None:
            raise HTTPException(404, 'not known here, or no longer kept; complete it again')
        return job

    def answered(name: str, k: int = 0) -> Answer:
        job = known(name)
        if not isinstance(job.result, Answer) or not 0 <= k < len(job.result.result):
            raise HTTPException(404, f'no completion {k}; the job is {job.state}')
        return job.result

    async def rendered(encode: Callable[[], bytes], media: str, name: str = '') -> Response:
        body = await anyio.to_thread.run_sync(encode, limiter=renderers)
        headers = {'Content-Disposition': f'attachment; filename="{name}"'} if name else None
        return Response(body, media_type=media, headers=headers)

    @api.get('/api/completions/{name}')
    async def status(name: str) -> Status:
        job = known(name)
        return _status(job, completer.ahead(job))

    @api.delete('/api/completions/{name}', status_code=204)
    async def cancel(name: str) -> None:
        completer.remove(known(name))

    @api.get('/api/completions/{name}/images/{k}', response_class=Response)
    async def image(
        name: str, k: Annotated[int, UrlPath(ge=0)], format: Literal['png', 'jpeg'] = 'png'
    ) -> Response:
        """Completion k at the photo's size; as PNG, every pixel outside the hole is the photo's."""
        result = answered(name, k).result
        about = {'seed': result.seed, 'sample': k, 'network': restorer.about.get('sha256', '')}
        ending = {'png': 'png', 'jpeg': 'jpg'}[format]
        return await rendered(
            lambda: _encoded(result.image(k), format, about), f'image/{format}',
            f'completed_{k:02d}.{ending}',
        )  # fmt: skip

    @api.get('/api/completions/{name}/previews/{k}', response_class=Response)
    async def preview(name: str, k: Annotated[int, UrlPath(ge=0)]) -> Response:
        """Completion k inside the window, at most 1024 pixels a side, JPEG."""
        near = answered(name, k).near
        return await rendered(
            lambda: _encoded(Image.fromarray(_fitted(near.pixels(k))), 'jpeg'), 'image/jpeg'
        )

    @api.get('/api/completions/{name}/uncertainty', response_class=Response)
    async def uncertainty(name: str) -> Response:
        """Where the completions differ, inside the window: PNG, the more opaque the more."""
        near = answered(name).near
        return await rendered(lambda: _heat(_fitted(near.uncertainty)), 'image/png')

    api.mount('/static', StaticFiles(directory=_STATIC))
    return Guard(api, hosts, limits.bytes, limits.upload_seconds, limits.uploads)


def _parsed(kind: TypeAdapter[Any], text: str | None, name: str) -> Any:
    """A field of JSON; 422 where it is another thing."""
    if text is None:
        return None
    try:
        return kind.validate_json(text)
    except ValidationError as error:
        reason = error.errors(include_input=False, include_url=False)[0]
        raise HTTPException(422, f'{name}: {reason["msg"]}, at {reason["loc"]}') from error


async def _read(file: UploadFile, name: str, limits: Limits) -> bytes:
    """The bytes of an uploaded picture, refused by its header before a pixel is decoded."""
    data = await file.read()
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as header:
            width, height = header.size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise HTTPException(413, f'{name}: {error}') from error
    except Exception as error:  # PIL's parsers raise many kinds
        raise HTTPException(415, f'{name}: not a JPEG, PNG, WebP or BMP picture') from error
    if width * height > limits.pixels:
        detail = f'{name}: {width}x{height} pixels; at most {limits.pixels:,} are read'
        raise HTTPException(413, detail)
    return data


def _find(restorer: Any, photo: bytes, hole: bytes | None, box: Box | None) -> Faces:
    read = read_photo(photo)
    if box is None:
        found = restorer.find(read, hole)
    else:
        missing = np.zeros(read.size, bool) if hole is None else read_hole(hole, read)
        starts = [finding.mean_face(box)]
        found = finding.settle(read.pixels, missing, starts, restorer.predict, restorer.res)
    height, width = read.size
    return Faces(
        width=width,
        height=height,
        faces=[Face(box=face.box, landmarks=face.landmarks.tolist()) for face in found],
    )


def _answer(result: Any) -> Answer:
    """The result with its surroundings of faces and hole, on which previews are drawn quickly."""
    rows, columns = around(result.hole, 4)
    corners = np.concatenate([part.crop.corners for part in result.parts])
    (left, top), (right, bottom) = corners.min(0).astype(int), corners.max(0).astype(int) + 1
    height, width = result.photo.size
    top, left = max(0, min(rows.start, top)), max(0, min(columns.start, left))
    bottom, right = min(height, max(rows.stop, bottom)), min(width, max(columns.stop, right))
    window = slice(top, bottom), slice(left, right)
    shift = np.array([[0, 0, left], [0, 0, top]])

    def moved(part: Any) -> Any:
        crop = dataclasses.replace(part.crop, to_photo=part.crop.to_photo - shift)
        return dataclasses.replace(part, crop=crop, hole=part.hole[window].copy())

    near = dataclasses.replace(
        result,
        photo=dataclasses.replace(result.photo, pixels=result.photo.pixels[window].copy()),
        hole=result.hole[window].copy(),
        parts=tuple(moved(part) for part in result.parts),
    )
    return Answer(result, near, (int(left), int(top), int(right), int(bottom)))


def _status(job: Job, ahead: int) -> Status:
    about: dict[str, Any] = {}
    if isinstance(job.result, Answer):
        result = job.result.result
        about = {
            'seed': result.seed, 'notes': list(result.notes), 'window': job.result.window,
            'landmarks': result.landmarks.tolist(),
        }  # fmt: skip
    return Status(
        id=job.id, state=job.state, ahead=ahead, done=job.done, total=job.total, error=job.error,
        **about,
    )  # fmt: skip


def _fitted(image: np.ndarray) -> np.ndarray:
    """An image at the size of previews, where it is larger."""
    scale = _PREVIEW / max(image.shape[:2])
    if scale >= 1:
        return image
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _encoded(image: Image.Image, format: str, about: dict[str, Any] | None = None) -> bytes:
    out = io.BytesIO()
    if format == 'jpeg':
        profile = image.info.get('icc_profile')
        image.convert('RGB').save(out, 'JPEG', quality=95, subsampling=0, icc_profile=profile)
    else:
        write_png(out, image, {f'fi_jax {name}': str(x) for name, x in (about or {}).items()})
    return out.getvalue()


def _heat(spread: np.ndarray) -> bytes:
    """Standard deviations in grey levels (h,w) as a glow: opaque from 48 grey levels on."""
    strength = np.clip(spread / 48, 0, 1)
    levels = (strength * 255).astype(np.uint8)
    colours = cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO)[..., ::-1]
    opacity = (np.sqrt(strength) * 230).astype(np.uint8)
    return _encoded(Image.fromarray(np.dstack([colours, opacity])), 'png')


# ---------------------------------------------------------------------------------- the command


def main(arguments: Sequence[str] | None = None) -> int:
    """fi-jax serve -> exit code: 0 ended by the user, 1 refused."""
    limits = Limits()
    parser = argparse.ArgumentParser(prog='fi-jax serve', description=__doc__.partition('\n')[0])
    parser.add_argument(
        'weights', nargs='?', default='',
        help='a name, an exported file or a run folder (the weights that come along)',
    )  # fmt: skip
    parser.add_argument('--predictor', default='', help='landmarks, where the weights have none')
    parser.add_argument('--host', default='127.0.0.1', help='address to listen on (%(default)s)')
    parser.add_argument('--port', type=int, default=8000, help='(%(default)s); 0: any free one')
    parser.add_argument(
        '--allow_host', action='append', default=[], metavar='NAME[:PORT]',
        help='a Host header to answer to beside those of this machine, for --host=0.0.0.0',
    )  # fmt: skip
    for name, unit in (('bytes', 'of a request'), ('pixels', 'of a photo')):
        parser.add_argument(f'--max_{name}', type=int, default=getattr(limits, name), help=unit)
    parser.add_argument('--max_samples', type=int, default=limits.samples, help='of a photo')
    parser.add_argument('--queue', type=int, default=limits.queue, help='photos that may wait')
    options = parser.parse_args(arguments)
    limits = dataclasses.replace(
        limits, bytes=options.max_bytes, pixels=options.max_pixels, samples=options.max_samples,
        queue=options.queue,
    )  # fmt: skip
    family = socket.AF_INET6 if ':' in options.host else socket.AF_INET
    try:
        listener = socket.create_server((options.host, options.port), family=family)
    except OSError as error:
        print(
            f'error: {options.host}:{options.port}: {error.strerror}; try --port', file=sys.stderr
        )
        return 1
    with listener:
        port = listener.getsockname()[1]
        try:
            restorer = load(options.weights, options.predictor)
        except (ValueError, OSError) as error:
            print(f'error: {error}', file=sys.stderr)
            return 1
        app = create_app(restorer, [*hosts_of(port), *options.allow_host], limits)
        shown = '127.0.0.1' if options.host in ('0.0.0.0', '::') else options.host
        print(f'fi_jax serves http://{shown}:{port}/  (Ctrl+C ends it)', flush=True)
        if options.host not in ('127.0.0.1', 'localhost', '::1'):
            print(
                'Whoever reaches this address may use it: there is no password and no TLS.',
                flush=True,
            )
        server_of(app).run(sockets=[listener])
        return 0


def hosts_of(port: int) -> list[str]:
    """The Host headers by which a browser on this machine reaches a port of it."""
    return [f'{name}:{port}' for name in _LOOPBACK] + (list(_LOOPBACK) if port == 80 else [])


def server_of(app: Guard) -> uvicorn.Server:
    """uvicorn with bounds of its own: 64 connections, idle ones closed after 5 s."""
    return uvicorn.Server(
        uvicorn.Config(
            app, http='h11', ws='none', lifespan='on', log_level='warning', server_header=False,
            limit_concurrency=64, timeout_keep_alive=5, timeout_graceful_shutdown=3,
        )
    )  # fmt: skip
