"""The server: uvicorn in this process, until a signal."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import signal
import socket
import threading
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from retrieval.errors import RetrievalError
from retrieval.serving.service import Service

log = logging.getLogger("retrieval")

_KEEP_ALIVE = 5  # seconds that a connection without a request is kept
_CONNECTIONS = 512  # a process may often have 1024 open files
_HEADERS = 16 * 1024  # bytes of the headers of a request


def bind(host: str = "127.0.0.1", port: int = 8000) -> socket.socket:
    """Opens the socket that `serve` listens on; port 0 is a free one.

    Raises:
        RetrievalError: The address cannot be used.
    """
    listening = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # With the protocol, unlike by `socket.create_server`, asyncio sends the head and the body of an answer without a delay.
        listening = socket.socket(family, kind, protocol)
        if os.name == "posix":
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(2048)
        return listening
    except (OSError, OverflowError, UnicodeError) as error:
        if listening is not None:
            listening.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise RetrievalError(f"{host}:{port}: cannot be served at ({reason}); give another host or port") from error


def describe(app: FastAPI, listening: socket.socket) -> dict[str, Any]:
    """The address that a browser takes, the number of items, and what runs the network. An address without a token is warned of.

    Args:
        app: What `create_app` has made.
        listening: A socket of `bind`.
    """
    service: Service = app.state.service
    host, port = listening.getsockname()[:2]
    if service.settings.token is None and not ipaddress.ip_address(host).is_loopback:
        log.warning("%s can be reached from other machines, and no token is asked for; see --token-env", host)
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    return {"address": address, "items": len(service.state.gallery), "runtime": service.state.encoder.runtime}


def serve(app: FastAPI, listening: socket.socket | None = None, *, host: str = "127.0.0.1", port: int = 8000) -> None:
    """Serves the app until SIGTERM or Ctrl-C. Requests that are under way are answered first.

    Args:
        app: What `create_app` has made.
        listening: A socket of `bind`; by default one is opened.
        host: Its address.
        port: Its port.

    Raises:
        SystemExit: A signal has ended it; the code is 128 + the number of the signal.
    """
    listening = bind(host, port) if listening is None else listening
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _exit)  # uvicorn raises the signal again after it has ended
    server_of(app).run(sockets=[listening])


def server_of(app: FastAPI) -> uvicorn.Server:
    """The server of an app, with its time limit."""
    timeout = app.state.service.settings.timeout
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it warns of forms that are answered by 400
    config = uvicorn.Config(
        app,
        http=_protocol(timeout),
        ws="none",
        loop="asyncio",
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=int(timeout) + 1,
        limit_concurrency=_CONNECTIONS,
        h11_max_incomplete_event_size=_HEADERS,
    )
    return uvicorn.Server(config)


def _exit(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _protocol(seconds: float) -> type[asyncio.Protocol]:
    """uvicorn's protocol, which closes connections whose headers do not arrive in time. uvicorn itself would wait for ever."""

    class Protocol(H11Protocol):
        _patience: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._patience = self.loop.call_later(seconds, self._close)

        def data_received(self, data: bytes) -> None:
            if self._is_idle() and self._patience is None:
                self._patience = self.loop.call_later(seconds, self._close)
            super().data_received(data)
            if not self._is_idle():
                self._stop_waiting()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            super().connection_lost(exc)

        def _is_idle(self) -> bool:
            return self.cycle is None or self.cycle.response_complete

        def _stop_waiting(self) -> None:
            if self._patience is not None:
                self._patience.cancel()
                self._patience = None

        def _close(self) -> None:
            self._patience = None
            if self._is_idle() and not self.transport.is_closing():
                self.transport.close()

    return Protocol
