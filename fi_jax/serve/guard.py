"""What stands before the server: whom it answers, how much it reads, what a browser may do."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# The page runs its own script and style alone, talks to this server alone, and stands in no frame.
_HEADERS = {
    'Content-Security-Policy': (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    'Cross-Origin-Opener-Policy': 'same-origin',
    'Cross-Origin-Resource-Policy': 'same-origin',
    'Referrer-Policy': 'no-referrer',
    'X-Content-Type-Options': 'nosniff',
    'Cache-Control': 'no-store',
}
_SAFE = ('GET', 'HEAD')


class _Refused(Exception):
    def __init__(self, status: int, detail: str, **headers: str) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers = status, detail, headers


class Guard:
    """ASGI middleware: refuses a request before its body is read, or while it is.

    421 for another Host than `hosts` (a page elsewhere whose name was pointed at this machine), 403
    for a write that a page of another origin sent, 411 and 413 for a body of unknown length or
    above max_bytes, 408 for one not there within `seconds`, 503 for more than max_uploads at once.
    """

    def __init__(
        self, app: ASGIApp, hosts: Iterable[str], max_bytes: int, seconds: float, max_uploads: int
    ) -> None:
        self.app, self.hosts = app, frozenset(host.lower() for host in hosts)
        self.max_bytes, self.seconds, self.max_uploads = max_bytes, seconds, max_uploads
        self.uploads = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope['type'] != 'http':
            if scope['type'] == 'lifespan':
                await self.app(scope, receive, send)
            return  # no websocket is spoken here
        refused: list[_Refused] = []
        started = False

        async def guarded_send(message: Message) -> None:
            nonlocal started
            if refused:
                return  # the app answers a body that it did not get
            if message['type'] == 'http.response.start':
                started = True
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        holds_upload = False
        try:
            headers = Headers(scope=scope)
            self._check(scope['method'], headers)
            if scope['method'] not in _SAFE and headers.get('content-length', '0') != '0':
                if self.uploads >= self.max_uploads:
                    raise _Refused(
                        503, 'too many uploads at once; try again', **{'Retry-After': '1'}
                    )
                holds_upload, self.uploads = True, self.uploads + 1
                receive = self._timed(receive, refused)
            await self.app(scope, receive, guarded_send)
        except _Refused as error:
            refused.append(error)
        finally:
            self.uploads -= holds_upload
        if refused and not started:
            first = refused[0]
            # Closing, for what is left of the body is not to be read as the next request.
            response = JSONResponse(
                {'detail': first.detail},
                first.status,
                {**_HEADERS, **first.headers, 'Connection': 'close'},
            )
            await response(scope, receive, send)

    def _check(self, method: str, headers: Headers) -> None:
        if headers.get('host', '').lower() not in self.hosts:
            raise _Refused(421, 'this server is not the Host asked for; see --allow_host')
        if method in _SAFE:
            return
        origin = headers.get('origin')
        if origin is not None and origin.lower().partition('://')[2] not in self.hosts:
            raise _Refused(403, 'a page of another origin may not write here')
        if headers.get('sec-fetch-site', 'same-origin') not in ('same-origin', 'none'):
            raise _Refused(403, 'a page of another site may not write here')
        if 'transfer-encoding' in headers:
            raise _Refused(411, 'send the length of the body (Content-Length)')
        length = headers.get('content-length', '0')
        if not (length.isascii() and length.isdigit()):
            raise _Refused(400, 'Content-Length is not a number')
        if len(length) > 18 or int(length) > self.max_bytes:
            raise _Refused(413, f'body of {length[:20]} bytes; at most {self.max_bytes:,} are read')

    def _timed(self, receive: Receive, refused: list[_Refused]) -> Receive:
        """The body, whole within `seconds`; after it, the wait for a client to leave has no end."""
        loop = asyncio.get_running_loop()
        deadline, more = loop.time() + self.seconds, True

        async def timed() -> Any:
            nonlocal more
            if not more:
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                error = _Refused(408, f'the body took more than {self.seconds:g} s')
                refused.append(error)
                raise error from None
            more = message.get('more_body', False)
            return message

        return timed
