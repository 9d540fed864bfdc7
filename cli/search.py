"""`retrieval search`."""

from __future__ import annotations

from pathlib import Path

import click

from .output import neighbours_table, paste, print_json
from .parameters import FILE, FOLDER, PLACE, Count, Place, device_option, json_option, overwrite_option
from .recall import ranking_options, require_weighted


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
@click.option("--exact", is_flag=True, help="Look at every vector, whatever the type of the index.")
@ranking_options
@device_option()
@click.option(
    "--picture", type=Place(".png", dir_okay=False), metavar="FILE.png", help="Draw queries and neighbours into it."
)
@click.option("--html", type=FILE, help="Write them as a web page of one file.")
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

    What --qe, --dba and --rerank gain on this index, `retrieval recall` shows.
    """
    if picture and html and Path(picture).resolve() == Path(html).resolve():
        raise click.UsageError("--picture and --html are the same file; give two")
    require_weighted(qe, dba)
    from retrieval import recipes

    files = {"picture": picture, "page": html}
    for file in files.values():
        if file:
            recipes.require_free_file(file, overwrite)
    ranking = recipes.Ranking(qe, alpha, dba, rerank)
    found = recipes.search(index, images, k=k, device=device, exact=exact, ranking=ranking)
    if picture:
        recipes.claim_file(picture, overwrite)
        recipes.draw_search(index, found, picture)
    if html:
        recipes.claim_file(html, overwrite)
        recipes.write_page(index, found, html)
    if as_json:
        print_json(found)
        return
    for result in found:
        click.echo(neighbours_table(result))
    for what, file in files.items():
        if file:
            click.echo(f"{what:9} {paste(file)}")
