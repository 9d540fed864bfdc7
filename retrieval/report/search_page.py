"""Queries and their neighbours as one web page that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from retrieval.files import write_text
from retrieval.report.gallery import GalleryRow, Neighbour
from retrieval.report.thumbnail import data_uri, read_thumbnail

_SIDE = 96  # pixels of a picture

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title><style>
:root {{ color-scheme: light dark; font: 14px/1.4 system-ui, sans-serif }}
body {{ margin: 1rem auto; max-width: 72rem; padding: 0 1rem }}
section {{ border-top: 1px solid #8886; padding: .8rem 0 }}
h2 {{ font-size: 1rem; overflow-wrap: anywhere }}
ol {{ display: flex; flex-wrap: wrap; gap: .8rem; list-style: none; margin: 0; padding: 0 }}
li {{ width: 96px; overflow-wrap: anywhere; font-size: .8rem }}
img, .missing {{ width: 96px; height: 96px; object-fit: contain; background: #8882 }}
.missing {{ display: grid; place-items: center }}
</style></head><body><h1>{title}</h1>
{sections}
</body></html>
"""


def write_search_page(rows: Sequence[GalleryRow], file: str | Path, *, title: str) -> None:
    """Writes queries and their neighbours as a page. An image that cannot be read is shown as "missing".

    Args:
        rows: The queries with their neighbours.
        file: The file.
        title: The heading of the page.
    """
    sections = "\n".join(map(_section, rows))
    write_text(file, _PAGE.format(title=escape(title), sections=sections))


def _section(row: GalleryRow) -> str:
    items = "".join(_item(rank, neighbour) for rank, neighbour in enumerate(row.neighbours, start=1))
    return f"<section><h2>{escape(row.query_label)}</h2>{_image(row.query)}<ol>{items}</ol></section>"


def _item(rank: int, neighbour: Neighbour) -> str:
    lines = (
        _image(neighbour.path),
        f"{rank}. {neighbour.score:.4f}",
        f"<b>{escape(neighbour.label)}</b>",
        escape(neighbour.name),
    )
    return f"<li>{'<br>'.join(lines)}</li>"


def _image(source: Path | bytes) -> str:
    image = read_thumbnail(source, _SIDE)
    return '<div class="missing">missing</div>' if image is None else f'<img alt="" src="{data_uri(image)}">'
