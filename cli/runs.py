"""`retrieval runs`."""

from __future__ import annotations

import click

from .output import print_json, runs_table


@click.command(
    "runs",
    epilog="""\b
Examples:
  retrieval runs
  retrieval runs experiments --json""",
)
@click.argument("folder", type=click.Path(file_okay=False), default="runs")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: of every run its state and all its figures.")
def command(folder: str, as_json: bool) -> None:
    """List the runs in FOLDER (runs, if left out) with their best figures."""
    from retrieval import recipes

    runs = recipes.list_runs(folder)
    if as_json:
        print_json(runs)
    else:
        click.echo(runs_table(runs))
