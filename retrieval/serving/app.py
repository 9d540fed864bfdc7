"""The ASGI app."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from retrieval import __version__
from retrieval.errors import ConfigError, DatasetError, RetrievalError, brief
from retrieval.index import Index
from retrieval.serving import endpoints, pages
from retrieval.serving.gallery import Gallery, IndexGallery
from retrieval.serving.guard import Guard, error_response
from retrieval.serving.service import Service
from retrieval.serving.settings import Settings

log = logging.getLogger("retrieval")


def create_app(index: Index | Gallery, settings: Settings | None = None) -> FastAPI:
    """Makes the ASGI app that serves an index: the endpoints of /docs, and the page at /.

    The model is built and prepared here, which can take some seconds.

    Args:
        index: The index, or another `Gallery`.
        settings: The limits; by default those of `Settings`.

    Raises:
        RetrievalError: The index has no model.
    """
    settings = Settings() if settings is None else settings
    gallery: Gallery = IndexGallery(index) if isinstance(index, Index) else index
    service = Service(gallery, settings)
    app = FastAPI(
        title="retrieval",
        version=__version__,
        description="Image search by the vectors of a trained model.",
        docs_url=None,
        redoc_url=None,
        lifespan=service.lifespan,
    )
    app.state.service = service
    app.include_router(endpoints.router)
    app.include_router(pages.router)
    app.add_middleware(Guard, settings=settings, metrics=service.metrics)
    app.add_exception_handler(RetrievalError, _unusable)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    return app


def _unusable(request: Request, error: Exception) -> Response:
    """An image or a class that cannot be used: 422 with the line of the library. Anything else is a fault of the service."""
    if isinstance(error, (ConfigError, DatasetError)):
        return error_response(422, str(error))
    log.error("%s", error)  # it may name files and servers that are nobody's business
    return error_response(503, "the index cannot be read now; the log of the service says why")


def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers: Mapping[str, str] = error.headers or {}
    return error_response(error.status_code, str(error.detail), dict(headers))


def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return error_response(422, "; ".join(map(_line, error.errors())))


def _line(fault: Mapping[str, Any]) -> str:
    return f"{fault['loc'][-1]} is {brief(fault.get('input'))}: {fault['msg']}"
