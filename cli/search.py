"""`retrieval search`."""

from __future__ import annotations

import click

from .output import print_json


@click.command(
    "search",
    epilog="""\b
Examples:
  retrieval search runs/glyphs/index-test photo.png
  retrieval search runs/glyphs/index-test a.png b.png --k 5 --picture found.png""",
)
@click.argument("index", type=click.Path(file_okay=False))
@click.argument("images", nargs=-1, required=True, type=click.Path())
@click.option("--k", default=10, show_default=True, type=click.IntRange(min=1), help="Number of neighbours.")
@click.option("--picture", type=click.Path(dir_okay=False), help="Draw queries and neighbours into a PNG file.")
@click.option("--json", "as_json", is_flag=True, help="Print the neighbours as JSON.")
def command(index: str, images: tuple[str, ...], k: int, picture: str | None, as_json: bool) -> None:
    """Find the nearest neighbours of IMAGES in INDEX."""
    from retrieval import recipes

    found = recipes.search(index, images, k=k)
    if picture:
        recipes.draw_search(index, found, picture)
    if as_json:
        print_json(found)
        return
    for result in found:
        click.echo(f"{result['query']}\n  rank  score   class / path")
        for neighbour in result["neighbours"]:
            click.echo(
                f"  {neighbour['rank']:4d}  {neighbour['score']:6.4f}  {neighbour['class']}  {neighbour['path']}"
            )
    if picture:
        click.echo(f"picture   {picture}")
