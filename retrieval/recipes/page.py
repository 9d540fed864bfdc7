"""What a search has found as one web page that needs nothing else."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from retrieval.data import load_image
from retrieval.errors import DatasetError
from retrieval.files import write_text
from retrieval.index import read_bundle
from retrieval.index.thumbnails import thumbnail

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


def write_page(index: str | Path, found: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Writes what `search` returned as a page; pictures come from the index, or from where its images were.

    Args:
        index: folder of the bundle that was searched.
        found: what `search` returned.
        path: the file.
    """
    bundle = read_bundle(index)
    pictures = bundle.thumbnails()
    root = Path(bundle.manifest["images_root"])
    place = {int(id_): i for i, id_ in enumerate(bundle.ids)}

    def picture(neighbour: Mapping[str, Any]) -> str:
        return _image(lambda: pictures[place[neighbour["id"]]] if pictures else _read(root / neighbour["path"]))

    sections = "\n".join(_section(result, picture) for result in found)
    write_text(path, _PAGE.format(title=escape(f"Nearest neighbours in {index}"), sections=sections))


def _section(result: Mapping[str, Any], picture: Callable[[Mapping[str, Any]], str]) -> str:
    items = "".join(
        f"<li>{picture(neighbour)}<br>{neighbour['rank']}. {neighbour['score']:.4f}<br><b>{escape(neighbour['class'])}</b><br>"
        f"{escape(neighbour['path'])}</li>"
        for neighbour in result["neighbours"]
    )
    query = _image(lambda: _read(Path(result["query"])))
    return f"<section><h2>{escape(result['query'])}</h2>{query}<ol>{items}</ol></section>"


def _read(path: Path) -> bytes:
    return thumbnail(load_image(path))


def _image(content: Callable[[], bytes]) -> str:
    try:
        return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(content()).decode()}">'
    except DatasetError:
        return '<div class="missing">missing</div>'
