"""Draws queries and their hits, as a picture or a web page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from retrieval.data import to_image
from retrieval.errors import DatasetError
from retrieval.index.bundle import Bundle
from retrieval.index.hits import Hit
from retrieval.index.thumbnails import thumbnail
from retrieval.report import GalleryRow, Neighbour, plot_gallery, write_search_page


def draw(bundle: Bundle, queries: Sequence[Any], hits: Sequence[Sequence[Hit]], file: Path) -> None:
    """Writes queries and their hits into a file: a page if its name ends in .html, else a PNG.

    Args:
        bundle: The bundle that was searched. Its thumbnails are drawn, or else the files of its images.
        queries: The queries: paths, or images of another form.
        hits: The hits of every query.
        file: The file.
    """
    position = {int(id_): row for row, id_ in enumerate(bundle.ids)}
    rows = [
        GalleryRow(
            _query_picture(query),
            str(query) if isinstance(query, (str, Path)) else f"query {number}",
            tuple(
                Neighbour(bundle.picture(position[hit.id]), hit.class_name, hit.score, None, name=hit.path)
                for hit in found
            ),
        )
        for number, (query, found) in enumerate(zip(queries, hits, strict=True), start=1)
    ]
    title = f"Nearest neighbours in {bundle}"
    if file.suffix.lower() == ".html":
        write_search_page(rows, file, title=title)
    else:
        named = [GalleryRow(row.query, Path(row.query_label).name, row.neighbours) for row in rows]
        plot_gallery(named, file, title=title, columns=max(1, *(len(row.neighbours) for row in rows)))


def _query_picture(query: Any) -> Path | bytes:
    if isinstance(query, (str, Path)):
        return Path(query)
    try:
        return thumbnail(to_image(query))
    except (ValueError, DatasetError):  # a vector has no picture
        return b""
