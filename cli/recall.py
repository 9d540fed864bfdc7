"""`retrieval recall`."""

from __future__ import annotations

import click

from .output import figures_table, print_json


def parse_ks(context: click.Context, parameter: click.Parameter, value: str) -> tuple[int, ...]:
    """Reads "1,2,4,8"."""
    try:
        ks = tuple(int(word) for word in value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r}: expected whole numbers with commas, e.g. 1,2,4,8") from None
    if min(ks) < 1:
        raise click.BadParameter(f"{value!r}: every k is at least 1")
    return ks


@click.command(
    "recall",
    epilog="""\b
Examples:
  retrieval recall runs/glyphs/index-test
  retrieval recall runs/glyphs/index-test --k 1,10,100 --json
  retrieval recall runs/inshop/index-gallery --queries runs/inshop/index-query""",
)
@click.argument("index", type=click.Path(file_okay=False))
@click.option("--k", "ks", default="1,2,4,8", show_default=True, callback=parse_ks, help="Cut-offs of recall@k.")
@click.option("--queries", type=click.Path(file_okay=False), help="An index whose images are the queries instead.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: fractions of 1 under recall@1, ..., map@r.")
def command(index: str, ks: tuple[int, ...], queries: str | None, as_json: bool) -> None:
    """Measure INDEX: each image against all others, or those of another index against it.

    recall@k is the share of queries with at least one image of the same class among the first k.
    """
    from retrieval import recipes

    figures = recipes.evaluate(index, ks, queries=queries)
    if as_json:
        print_json(figures)
    else:
        click.echo(figures_table({index: figures}))
