"""Queries and their neighbours as one web page that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from retrieval.files import write_text
from retrieval.report.gallery import GalleryRow, Neighbour
from retrieval.report.page import Tile, picture_uri, render

SEARCH_MARK = '<meta name="generator" content="retrieval search">'
_KINDS = {True: "right", False: "wrong", None: "unknown"}


def write_search_page(
    rows: Sequence[GalleryRow],
    file: str | Path,
    *,
    title: str,
    lines: Mapping[str, Any] | None = None,
    limit: str = "",
) -> None:
    """Writes queries and their neighbours as a page. A query without neighbours is said to have no similar image.

    Args:
        rows: The queries with their neighbours.
        file: The file.
        title: The heading of the page.
        lines: Names and values to show below it.
        limit: Which neighbours were left out for their score, and why.
    """
    found = [(_query(row), [_neighbour(neighbour) for neighbour in row.neighbours]) for row in rows]
    tiles = [tile for query, neighbours in found for tile in (query, *neighbours)]
    has_pictures = any(tile.uri is not None for tile in tiles)
    facts = {"title": title, "lines": lines or {}, "limit": limit}
    write_text(file, render("search.html", **facts, rows=found, has_pictures=has_pictures, mark=Markup(SEARCH_MARK)))


def _query(row: GalleryRow) -> Tile:
    return Tile(picture_uri(row.query), "query", Path(row.query_label).name, row.query_label)


def _neighbour(neighbour: Neighbour) -> Tile:
    kind = _KINDS[neighbour.correct]
    return Tile(picture_uri(neighbour.path), kind, neighbour.label, neighbour.name, neighbour.score)
