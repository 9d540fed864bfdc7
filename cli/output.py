"""Results on the screen."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import click

COUNTS = ("queries", "left_out", "ties")


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


def runs_table(runs: Sequence[Mapping[str, Any]]) -> str:
    """One row a run: recall@1 and MAP@R on the test classes, in percent, of the three epochs that people ask for."""
    kinds = ("last", "best by validation", "best on test")
    width = max(len("run"), *(len(run["path"]) for run in runs)) if runs else 3
    lines = [f"{'run':{width}} {'state':8} {'epochs':>6} " + " ".join(f"{kind:>18}" for kind in kinds)]
    for run in runs:
        cells = (_pair(run["results"].get(kind)) for kind in kinds)
        lines.append(f"{run['path']:{width}} {run['state']:8} {run['epochs']:6} " + " ".join(cells))
    return "\n".join([*lines, "recall@1 and MAP@R on the test classes, in percent"])


def _pair(figures: Mapping[str, float] | None) -> str:
    return f"{100 * figures['recall@1']:9.2f} {100 * figures['map@r']:8.2f}" if figures else f"{'-':>18}"
