"""`retrieval compare`."""

from __future__ import annotations

import click

from .output import comparison_table, print_json
from .recall import parse_ks


@click.command(
    "compare",
    epilog="""\b
Examples:
  retrieval compare runs/none/index-test runs/std/index-test
  retrieval compare runs/*/index-test --k 1,10 --json""",
)
@click.argument("indices", nargs=-1, required=True, type=click.Path(file_okay=False), metavar="INDEX INDEX...")
@click.option("--k", "ks", default="1", show_default=True, callback=parse_ks, help="Cut-offs of recall@k.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Of the lots.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: fractions of 1.")
def command(indices: tuple[str, ...], ks: tuple[int, ...], seed: int, as_json: bool) -> None:
    """Compare each INDEX with the first one, over the queries that all have, by path.

    The interval of a difference is of the paired bootstrap, p of the paired permutation test: how often chance alone makes a
    difference as large.
    """
    if not 2 <= len(indices) <= 26:
        raise click.UsageError(f"{len(indices)} INDEX given; give 2 to 26")
    from retrieval import recipes

    result = recipes.compare(indices, ks, seed=seed)
    if as_json:
        print_json(result)
    else:
        click.echo(comparison_table(result))
