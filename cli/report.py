"""`retrieval report`."""

from __future__ import annotations

import click

from .output import print_json, print_places
from .parameters import FILE, FOLDER, device_option, json_option, k_option, seed_option


@click.command(
    "report",
    short_help="Write a report on a run or an index as a web page.",
    epilog="""\b
Examples:
  retrieval report runs/glyphs
  retrieval report runs/glyphs/index-test --out glyphs.html
  retrieval report received/index --images my/photos""",
)
@click.argument("source", metavar="RUN|INDEX", type=FOLDER)
@click.option("--out", type=FILE, help="The page.  [default: RUN/report.html, or INDEX-report.html]")
@click.option("--queries", type=FOLDER, help="Index whose images are the queries instead.")
@click.option("--images", type=FOLDER, help="Folder of the images.  [default: as recorded in the index]")
@k_option("1,2,4,8")
@seed_option("everything that is sampled at random")
@device_option(None, "For a run without an index: auto, cpu, cuda, ...  [default: that of the run]")
@json_option("Print JSON: the paths of the page and the pictures.")
def command(
    source: str,
    out: str | None,
    queries: str | None,
    images: str | None,
    ks: tuple[int, ...],
    seed: int,
    device: str | None,
    as_json: bool,
) -> None:
    """Write a report on RUN or INDEX: one HTML page that needs no network, and its pictures as PNGs.

    The page begins with recall@1 and how far it is above or below the frozen features. It has figures with their intervals,
    training curves, queries with their neighbours, the worst classes, a map of the vectors and likely wrong labels.
    """
    from retrieval.runs import report

    page, pictures = report(source, out, queries=queries, images=images, ks=ks, seed=seed, device=device)
    if as_json:
        print_json({"report": str(page), "pictures": str(pictures)})
    else:
        print_places(report=page, pictures=pictures)
