"""What every request passes: the token, the limits of size and time, the headers of every answer, and the counters."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from typing import Any

from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from retrieval.serving.metrics import Metrics
from retrieval.serving.settings import Settings

log = logging.getLogger("retrieval")

_PRIVATE = ("/v1/", "/metrics")
_DRAINED = 4  # times `max_bytes` that are read and dropped, so that a client that only sends sees why it is refused
_DRAIN_SECONDS = 5.0
_CLOSE = {"Connection": "close"}
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}


def error_response(status: int, text: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """The answer to a request that fails: {"error": text}."""
    return JSONResponse({"error": text}, status, headers)


class Guard:
    """An ASGI app around another one.

    Args:
        app: The other app.
        settings: The limits and the token.
        metrics: The counters.
    """

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics) -> None:
        self._app, self._settings, self._metrics = app, settings, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin = time.perf_counter()
        body, answer = _Body(receive, self._settings.max_bytes), _Answer(send)
        try:
            await self._answer(scope, body, answer)
        except ClientDisconnect:
            answer.status = 499  # the client has gone, and gets no answer
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.observe_request(route, answer.status, time.perf_counter() - begin)

    async def _answer(self, scope: Scope, body: _Body, answer: _Answer) -> None:
        error: HTTPException | None = None
        try:
            async with asyncio.timeout(self._settings.timeout):
                self._require_token(scope)
                await body.require_small(scope)
                await self._app(scope, body.receive, answer.send)
        except TimeoutError:
            seconds = f"{self._settings.timeout:g} s"
            if body.is_complete:
                error = HTTPException(504, f"the answer took longer than {seconds}")
            else:
                error = HTTPException(408, f"the request did not arrive within {seconds}", _CLOSE)
        except HTTPException as refused:
            error = refused
        except ClientDisconnect:
            raise
        except Exception as fault:
            log.exception("%s %s: %s", scope["method"], scope["path"], type(fault).__name__)
            error = HTTPException(500, "the service has failed; its log says more")
        if error is not None and not answer.status:
            response = error_response(error.status_code, error.detail, dict(error.headers or {}))
            await response(scope, body.receive, answer.send)

    def _require_token(self, scope: Scope) -> None:
        token = self._settings.token
        if token is None or not scope["path"].removeprefix(scope.get("root_path", "")).startswith(_PRIVATE):
            return
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        scheme, _, word = given.partition(b" ")
        if scheme.lower() != b"bearer" or not hmac.compare_digest(word.strip(), token.encode()):
            headers = {"WWW-Authenticate": "Bearer", **_CLOSE}
            raise HTTPException(401, "a bearer token is needed: Authorization: Bearer TOKEN", headers)


class _Body:
    """The body of a request, up to a limit."""

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive, self._limit, self._size = receive, limit, 0
        self.is_complete = False

    async def require_small(self, scope: Scope) -> None:
        """Refuses a request whose headers tell that it is too large."""
        for name, value in scope["headers"]:
            if name == b"content-length" and (not value.isdigit() or len(value) > 18 or int(value) > self._limit):
                await self._refuse()

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._size += len(message.get("body", b""))
            self.is_complete = not message.get("more_body", False)
            if self._size > self._limit:
                await self._refuse()
        return message

    async def _refuse(self) -> None:
        """Reads on for a moment: a client that is cut off while it sends would not see the answer."""
        try:
            async with asyncio.timeout(_DRAIN_SECONDS):
                while not self.is_complete and self._size <= _DRAINED * self._limit:
                    message = await self._receive()
                    if message["type"] != "http.request":
                        raise ClientDisconnect
                    self._size += len(message.get("body", b""))
                    self.is_complete = not message.get("more_body", False)
        except TimeoutError:
            pass
        raise HTTPException(413, f"the request is larger than {self._limit:,} bytes; send a smaller image", _CLOSE)


class _Answer:
    """Passes an answer on, with the headers that every answer has."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers: list[Any] = list(message.get("headers", ()))
            names = {name.lower() for name, _ in headers}
            headers += [(key.encode(), value.encode()) for key, value in _HEADERS.items() if key.encode() not in names]
            if b"cache-control" not in names:
                headers.append((b"cache-control", b"no-store"))
            message = {**message, "headers": headers}
        await self._send(message)
