"""Results on the screen."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import click

COUNTS = ("queries", "left_out")


def print_json(value: Any) -> None:
    """Prints strict JSON to stdout."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def figures_table(results: Mapping[str, Mapping[str, float]], heading: str = "") -> str:
    """One row a result; fractions as percentages, and the counts below."""
    columns = [name for name in next(iter(results.values())) if name not in COUNTS]
    width = max(len(name) for name in (*results, heading))
    lines = [" ".join([f"{heading:{width}}", *(f"{column:>12}" for column in columns)])]
    lines += [
        " ".join([f"{name:{width}}", *(f"{100 * figures[column]:12.2f}" for column in columns)])
        for name, figures in results.items()
    ]
    figures = next(iter(results.values()))
    left_out = f", {figures['left_out']:.0f} left out (alone in their class)" if figures["left_out"] else ""
    return "\n".join([*lines, f"in percent, over {figures['queries']:.0f} queries{left_out}"])
