"""`retrieval search`."""

from __future__ import annotations

import click

from .output import paste, print_json
from .recall import ranking_options


@click.command(
    "search",
    epilog="""\b
Examples:
  retrieval search runs/glyphs/index-test photo.png
  retrieval search runs/glyphs/index-test a.png folder --k 5 --html found.html
  retrieval search runs/glyphs/index-test a.png --qe 5 --rerank 20 --json""",
)
@click.argument("index", type=click.Path(file_okay=False))
@click.argument("images", nargs=-1, required=True, type=click.Path(), metavar="IMAGE|FOLDER...")
@click.option("--k", default=10, show_default=True, type=click.IntRange(min=1), help="Number of neighbours.")
@click.option("--exact", is_flag=True, help="Look at every vector, whatever the type of the index.")
@ranking_options
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, ...")
@click.option("--picture", type=click.Path(dir_okay=False), help="Draw queries and neighbours into a PNG file.")
@click.option("--html", type=click.Path(dir_okay=False), help="Write them as a web page of one file.")
@click.option("--json", "as_json", is_flag=True, help="Print the neighbours as JSON.")
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
    as_json: bool,
) -> None:
    """Find the nearest neighbours of IMAGES in INDEX.

    What --qe, --dba and --rerank gain on this index, `retrieval recall` shows.
    """
    from retrieval import recipes

    ranking = recipes.Ranking(qe, alpha, dba, rerank)
    found = recipes.search(index, images, k=k, device=device, exact=exact, ranking=ranking)
    if picture:
        recipes.draw_search(index, found, picture)
    if html:
        recipes.write_page(index, found, html)
    if as_json:
        print_json(found)
        return
    for result in found:
        click.echo(f"{paste(result['query'])}\n  rank  score   class / path")
        for neighbour in result["neighbours"]:
            click.echo(
                f"  {neighbour['rank']:4d}  {neighbour['score']:6.4f}  {neighbour['class']}  {neighbour['path']}"
            )
    for what, file in (("picture", picture), ("page", html)):
        if file:
            click.echo(f"{what:9} {paste(file)}")
