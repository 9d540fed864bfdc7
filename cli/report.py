"""`retrieval report`."""

from __future__ import annotations

import click

from .recall import parse_ks


@click.command(
    "report",
    epilog="""\b
Examples:
  retrieval report runs/glyphs
  retrieval report runs/glyphs/index-test --out glyphs.html
  retrieval report received/index --images my/photos""",
)
@click.argument("source", metavar="RUN|INDEX", type=click.Path(file_okay=False))
@click.option(
    "--out", type=click.Path(dir_okay=False), help="The page.  [default: RUN/report.html, or INDEX-report.html]"
)
@click.option("--queries", type=click.Path(file_okay=False), help="An index whose images are the queries instead.")
@click.option("--images", type=click.Path(file_okay=False), help="Folder of the images.  [default: where they were]")
@click.option("--k", "ks", default="1,2,4,8", show_default=True, callback=parse_ks, help="Cut-offs of recall@k.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Of all that is drawn by lot.")
def command(
    source: str, out: str | None, queries: str | None, images: str | None, ks: tuple[int, ...], seed: int
) -> None:
    """Write a report on RUN or INDEX: one HTML page that needs no network, and its pictures as PNGs.

    Figures with their intervals, training curves, queries with what they found, the worst classes, a map, likely wrong labels.
    """
    from retrieval import recipes

    page, pictures = recipes.write_report(source, out, queries=queries, images=images, ks=ks, seed=seed)
    click.echo(f"report    {page}\npictures  {pictures}")
