"""Web pages in one design that need nothing else: the templates, and the tiles that show images."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from retrieval.errors import plural
from retrieval.report.thumbnail import data_uri, read_picture

_SIDE = 256  # pixels of a picture, which a click enlarges


@dataclass(frozen=True)
class Tile:
    """An image on a page.

    Args:
        uri: The picture; None where there is none.
        kind: "query"; or "right", "wrong" or "unknown" by the class of a neighbour.
        name: The name of its class, or of the query.
        path: Its path.
        score: The score of a neighbour.
    """

    uri: str | None
    kind: str
    name: str
    path: str
    score: float | None = None


def picture_uri(source: Path | bytes) -> str | None:
    """A small picture of an image as an address that holds it; None where it cannot be read."""
    picture = read_picture(source, _SIDE)
    return None if picture is None else data_uri(picture)


def render(template: str, **values: Any) -> str:
    """The page of a template.

    Args:
        template: The file name of the template.
        values: What it names. `has_pictures` tells whether tiles keep a place for a picture.
    """
    environment = Environment(
        loader=PackageLoader("retrieval.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": _percent, "shown": _shown, "plural": plural, "breakable": _breakable}
    return environment.get_template(template).render(values)


def _shown(value: Any) -> str:
    """A value as pages write it: times in UTC, and numbers in groups of three digits."""
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _percent(value: float, digits: int = 1) -> str:
    return f"{100 * value:.{digits}f}"


def _breakable(name: str, most: int = 80) -> Markup:
    """A name, shortened, that may be broken after its separators."""
    shortened = name if len(name) <= most else name[: most - 1] + "…"
    return Markup("<wbr>").join(escape(part) for part in re.split(r"(?<=[_/\\-])", shortened))
