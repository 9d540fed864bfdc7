"""The page for the browser, and the page of the endpoints. Both are whole without anything from elsewhere."""

from __future__ import annotations

from importlib import resources
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined

from retrieval import __version__
from retrieval.serving.service import service_of
from retrieval.serving.settings import LARGEST_K

router = APIRouter(include_in_schema=False)
_environment = Environment(
    loader=PackageLoader("retrieval.serving", "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


@router.get("/")
async def page(request: Request) -> Response:
    """The page to search with."""
    settings = service_of(request).settings
    facts = {"max_bytes": settings.max_bytes, "needs_token": settings.token is not None, "largest_k": LARGEST_K}
    return HTMLResponse(_environment.get_template("search.html").render(facts, version=__version__))


@router.get("/docs")
async def docs(request: Request) -> Response:
    """The endpoints, as a page that is made of /openapi.json."""
    endpoints = [
        {"method": method.upper(), "path": path, **operation}
        for path, methods in request.app.openapi()["paths"].items()
        for method, operation in methods.items()
    ]
    return HTMLResponse(_environment.get_template("docs.html").render(endpoints=endpoints, type_of=_type_of))


@router.get("/page.css")
async def style() -> Response:
    """The style of the report, with that of the page after it."""
    report = resources.files("retrieval.report").joinpath("templates/page.css").read_text(encoding="utf-8")
    own = resources.files("retrieval.serving").joinpath("templates/serving.css").read_text(encoding="utf-8")
    return Response(report + own, media_type="text/css")


@router.get("/page.js")
async def script() -> Response:
    """The script of the page."""
    text = resources.files("retrieval.serving").joinpath("templates/search.js").read_text(encoding="utf-8")
    return Response(text, media_type="text/javascript")


def _type_of(schema: dict[str, Any]) -> str:
    """The type of a parameter in words."""
    kinds = [part.get("type", "") for part in schema.get("anyOf", [schema])]
    text = " or ".join(kind for kind in kinds if kind and kind != "null")
    inner = next((part for part in schema.get("anyOf", [schema]) if part.get("type") != "null"), schema)
    bounds = [f"{word} {inner[key]}" for key, word in (("minimum", "from"), ("maximum", "to")) if key in inner]
    return " ".join([text, *bounds])
