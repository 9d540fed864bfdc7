"""Results on the screen."""

from __future__ import annotations

import csv
import io
import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import click

COUNTS = ("queries", "left_out", "ties")
_WIDTH = 80
_ENDS = (" low", "high")


def print_json(value: Any) -> None:
    """Prints strict JSON to stdout."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def print_csv(rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints rows under the names of the first as CSV to stdout."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    click.echo(text.getvalue(), nl=False)


def paste(path: str) -> str:
    """A path as it can be pasted into a command."""
    return shlex.quote(path)


def figures_table(results: Mapping[str, Mapping[str, float]], heading: str = "") -> str:
    """One row a result; fractions as percentages, and the counts below."""
    figures = next(iter(results.values()))
    rows = [{heading: name, **{key: value[key] for key in figures}} for name, value in results.items()]
    ties = figures.get("ties", 0) if len(results) == 1 else 0  # each result has its own
    return f"{_table(rows, heading)}\n{_counts({**figures, 'ties': ties})}"


def one_table(figures: Mapping[str, float]) -> str:
    """One row a figure in percent; its mean over the classes and its interval, where there are these; the counts below."""
    names = [
        name for name in figures if name not in COUNTS and not name.startswith("macro ") and name[-4:] not in _ENDS
    ]
    with_macro = f"macro {names[0]}" in figures
    with_interval = f"{names[0]} low" in figures
    lines = [f"{'':12} {'percent':>8}" + "   95 % interval" * with_interval + "  macro" * with_macro]
    for name in names:
        line = f"{name:12} {100 * figures[name]:8.2f}"
        if with_interval:
            low, high = (f"{100 * figures[f'{name}{end}']:.2f}" for end in (" low", " high"))
            line += f"  {low:>6} - {high:>6}"
        lines.append(line + (f" {100 * figures[f'macro {name}']:6.2f}" if with_macro else ""))
    return "\n".join([*lines, _counts(figures)])


def class_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """One row a class, in percent."""
    return f"{_table(rows, 'class')}\nin percent, over the queries of each of {len(rows)} classes"


def rankings_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """One row a way of ranking, in percent."""
    return f"{_table(rows, 'ranking')}\n{_counts(rows[0])}"


def comparison_table(result: Mapping[str, Any]) -> str:
    """Of every figure one row an index: its value, the difference from the first, its interval and p."""
    names = [name for name in result["first"] if name != "index"]
    places = [result["first"]["index"], *(other["index"] for other in result["others"])]
    lines = [f"{letter}  {paste(place)}" for letter, place in zip(_letters(), places, strict=False)]
    lines += ["", f"{'':14}{'percent':>8}{'less A':>9}   95 % interval         p"]
    for name in names:
        lines.append(f"{name:12}A {100 * result['first'][name]:8.2f}")
        for letter, other in zip(_letters()[1:], result["others"], strict=False):
            found = other[name]
            value, difference, low, high = (100 * found[key] for key in ("value", "difference", "low", "high"))
            lines.append(
                f"{'':12}{letter} {value:8.2f}{difference:+9.2f}  {low:+7.2f} to {high:+6.2f}  {found['p']:8.4f}"
            )
    return "\n".join([*lines, f"over the {result['queries']} queries that all have; p by a paired permutation test"])


def _letters() -> str:
    return "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def _table(rows: Sequence[Mapping[str, Any]], heading: str) -> str:
    """Rows whose first column is a name, cut so that the table fits 80 columns, and whose others are fractions or counts."""
    columns = [name for name in rows[0] if name != heading and not (name in COUNTS and heading != "class")]
    widths = [max(7, len(column) + 1) for column in columns]
    room = max(12, _WIDTH - sum(widths))
    names = [_cut(str(row[heading]), room) for row in rows]
    first = max(len(heading), *map(len, names))
    lines = [
        f"{heading:{first}}" + "".join(f"{column:>{width}}" for column, width in zip(columns, widths, strict=True))
    ]
    for name, row in zip(names, rows, strict=True):
        cells = (
            f"{row[column]:{width}d}" if column in COUNTS else f"{100 * row[column]:{width}.2f}"
            for column, width in zip(columns, widths, strict=True)
        )
        lines.append(f"{name:{first}}" + "".join(cells))
    return "\n".join(lines)


def _cut(name: str, width: int) -> str:
    return name if len(name) <= width else f"{name[: width - 1]}…"


def _counts(figures: Mapping[str, float]) -> str:
    words = [f"in percent, over {figures['queries']:.0f} queries"]
    if figures["left_out"]:
        words.append(f"{figures['left_out']:.0f} left out (alone in their class)")
    if figures.get("ties"):
        words.append(f"{figures['ties']:.0f} decided by a tie")
    return ", ".join(words)


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
