"""`retrieval runs`."""

from __future__ import annotations

import click

from .output import paste, print_json, runs_table
from .parameters import FOLDER, json_option


@click.command(
    "runs",
    short_help="List runs with their best figures.",
    epilog="""\b
Examples:
  retrieval runs
  retrieval runs experiments --json""",
)
@click.argument("folder", type=FOLDER, default="runs")
@json_option("Print JSON: the state and all figures of every run.")
def command(folder: str, as_json: bool) -> None:
    """List the runs in FOLDER (runs, if left out) with their best figures."""
    from retrieval.runs import list_runs

    runs = [run.to_dict() for run in list_runs(folder)]
    if as_json:
        print_json(runs)
    elif runs:
        click.echo(runs_table(runs))
    else:
        click.echo(f"no run in {paste(folder)}")
