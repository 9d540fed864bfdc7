"""`retrieval search`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .output import neighbours_table, print_json, print_places
from .parameters import FILE, FOLDER, PLACE, Count, Place, device_option, json_option, overwrite_option
from .recall import ranking_options, require_weighted

if TYPE_CHECKING:
    from retrieval.index import Hit


@click.command(
    "search",
    epilog="""\b
Examples:
  retrieval search runs/glyphs/index-test photo.png
  retrieval search runs/glyphs/index-test a.png folder --k 5 --html found.html
  retrieval search runs/glyphs/index-test a.png --qe 5 --rerank 20 --json""",
)
@click.argument("index", type=FOLDER)
@click.argument("images", nargs=-1, required=True, type=PLACE, metavar="IMAGE|FOLDER...")
@click.option("--k", default=10, show_default=True, type=Count(1), metavar="N", help="Number of neighbours.")
@click.option("--exact", is_flag=True, help="Score every vector, whatever the type of the index.")
@ranking_options
@device_option()
@click.option(
    "--picture",
    type=Place(".png", dir_okay=False),
    metavar="FILE.png",
    help="Draw queries and neighbours as a picture.",
)
@click.option("--html", type=FILE, help="Write queries and neighbours as one HTML file.")
@overwrite_option("the files of --picture and --html")
@json_option("Print the neighbours as JSON.")
def command(
    index: str,
    images: tuple[str, ...],
    k: int,
    exact: bool,
    qe: int,
    alpha: float,
    dba: int,
    rerank: int,
    device: str,
    picture: str | None,
    html: str | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Find the nearest neighbours of IMAGES in INDEX.

    `retrieval recall` measures the gain of --qe, --dba and --rerank on this index.
    """
    _require_two_files(picture, html)
    require_weighted(qe, dba)
    from retrieval.data import image_files
    from retrieval.index import Index

    files = {name: Path(file) for name, file in (("picture", picture), ("page", html)) if file}
    for file in files.values():
        Index.require_drawable(file, overwrite=overwrite)
    opened, queries = Index.open(index, device=device), image_files(images)
    hits = opened.search(queries, k, exact=exact, qe=qe, alpha=alpha, dba=dba, rerank=rerank)
    for name, file in files.items():
        write = opened.draw if name == "picture" else opened.write_page
        write(queries, hits, file, overwrite=overwrite)
    results = [_to_dict(query, row) for query, row in zip(queries, hits, strict=True)]
    if as_json:
        print_json(results)
    else:
        click.echo("\n".join(map(neighbours_table, results)))
        print_places(**files)


def _to_dict(query: Path, hits: Sequence[Hit]) -> dict[str, Any]:
    return {"query": str(query), "neighbours": [hit.to_dict() for hit in hits]}


def _require_two_files(picture: str | None, html: str | None) -> None:
    if picture and html and Path(picture).resolve() == Path(html).resolve():
        raise click.UsageError("--picture and --html are the same file; give two")
