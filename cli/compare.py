"""`retrieval compare`."""

from __future__ import annotations

import click

from .output import cautions_lines, comparison_table, print_json
from .parameters import FOLDER, json_option, k_option, seed_option


@click.command(
    "compare",
    short_help="Compare indices of the same images with the first one.",
    epilog="""\b
Examples:
  retrieval compare runs/none/index-test runs/std/index-test
  retrieval compare runs/*/index-test --k 1,10 --json""",
)
@click.argument("indices", nargs=-1, required=True, type=FOLDER, metavar="INDEX INDEX...")
@k_option("1")
@seed_option("the bootstrap and the permutations")
@json_option("Print JSON: fractions of 1.")
def command(indices: tuple[str, ...], ks: tuple[int, ...], seed: int, as_json: bool) -> None:
    """Compare each INDEX with the first one, over the queries that are in all of them, matched by path.

    The interval of a difference is that of the paired bootstrap. p is that of the paired permutation test: the probability of a
    difference at least as large by chance.
    """
    if not 2 <= len(indices) <= 26:
        raise click.UsageError(f"{len(indices)} INDEX given; give 2 to 26")
    from retrieval.index import Index

    first, *others = indices
    opened = Index.open(first)
    result = opened.compare(*others, ks=ks, seed=seed)
    if as_json:
        print_json(result | ({"caution": opened.caution} if opened.caution else {}))
    else:
        click.echo("\n".join([comparison_table(result), *cautions_lines([opened.caution])]))
