"""Draws queries and their hits, as a picture or a web page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from retrieval.data import to_image
from retrieval.errors import DatasetError, RetrievalError, plural
from retrieval.files import require_mark
from retrieval.index.bundle import Bundle
from retrieval.index.reporting import describe
from retrieval.index.search import Hit
from retrieval.index.thumbnails import thumbnail
from retrieval.report import PICTURE_MARK, SEARCH_MARK, GalleryRow, Neighbour, plot_gallery, write_search_page


def draw(
    bundle: Bundle, queries: Sequence[Any], hits: Sequence[Sequence[Hit]], file: Path, *, least: float | None
) -> None:
    """Draws queries and their hits into a PNG.

    Args:
        bundle: The bundle that was searched. Its thumbnails are drawn, or else the files of its images.
        queries: The queries: paths, or images of another form.
        hits: The hits of every query.
        file: The PNG file.
        least: The score that hits had to have; None without a limit.
    """
    rows = [replace(row, query_label=Path(row.query_label).name) for row in _rows(bundle, queries, hits)]
    columns = max(1, *(len(row.neighbours) for row in rows))
    limit = "" if least is None else f" with a score of {least:.4f} or more"
    plot_gallery(rows, file, title=f"Nearest neighbours{limit} in {bundle}", columns=columns)


def write_page(
    bundle: Bundle,
    queries: Sequence[Any],
    hits: Sequence[Sequence[Hit]],
    file: Path,
    *,
    least: float | None,
    is_auto: bool,
) -> None:
    """Writes queries and their hits as a web page; see `draw`. `is_auto` tells whether `least` is the calibrated threshold."""
    lines = {"queries": len(queries), **describe(bundle)}
    limit = ""
    if least is not None:
        limit = f"Images with a score below {least:.4f}, the minimum score, are left out."
        lines["minimum score"] = f"{least:.4f}{' (auto)' * is_auto}"
    if is_auto and (calibration := bundle.calibration):
        rate, count = 100 * calibration.false_accept_rate, plural(calibration.queries, "image")
        limit += f" It was calibrated on {count} of the index: at most {rate:g} % of them reach it with an image of another class."
        limit += "".join(f" Caution: {caution}." for caution in calibration.cautions)
    rows, title = _rows(bundle, queries, hits), f"Nearest neighbours in {bundle}"
    write_search_page(rows, file, title=title, lines=lines, limit=limit)


def require_drawn(file: Path) -> None:
    """Checks that a file is a picture or page that `draw` or `write_page` has written.

    Raises:
        RetrievalError: It is another file, which would be lost.
    """
    require_mark(file, (PICTURE_MARK, SEARCH_MARK.encode()), "a picture or page of search results")


def _rows(bundle: Bundle, queries: Sequence[Any], hits: Sequence[Sequence[Hit]]) -> list[GalleryRow]:
    position = {int(id_): row for row, id_ in enumerate(bundle.ids)}

    def neighbour(hit: Hit) -> Neighbour:
        if hit.id not in position:
            raise RetrievalError(
                f"{bundle}: the item {hit.id} of a hit has been removed since the search; search again"
            )
        return Neighbour(bundle.picture(position[hit.id]), hit.class_name, hit.score, None, name=hit.path)

    return [
        GalleryRow(
            _query_picture(query),
            str(query) if isinstance(query, (str, Path)) else f"query {number}",
            tuple(map(neighbour, row)),
        )
        for number, (query, row) in enumerate(zip(queries, hits, strict=True), start=1)
    ]


def _query_picture(query: Any) -> Path | bytes:
    if isinstance(query, (str, Path)):
        return Path(query)
    try:
        return thumbnail(to_image(query))
    except (ValueError, DatasetError):  # a vector has no picture
        return b""
