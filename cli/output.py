"""Results on the screen."""

from __future__ import annotations

import csv
import io
import json
import shlex
import sys
import textwrap
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from retrieval.errors import plural
from retrieval.files.cells import guard
from retrieval.files.control import escape

COUNTS = ("queries", "left_out", "not_in_gallery", "ties")
_WIDTH = 80
_NAME = 24  # characters of a name that are always shown
_INLINE = 32  # characters of a name beside its columns; a longer one has a line of its own
_ENDS = (" low", "high")


def print_json(value: Any) -> None:
    """Prints strict JSON to stdout."""
    is_unicode = ((sys.__stdout__ is not None and sys.__stdout__.encoding) or "utf-8").lower().startswith("utf")
    click.echo(json.dumps(value, indent=2, ensure_ascii=not is_unicode, allow_nan=False))


def print_csv(rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints rows as CSV to stdout, with the keys of the first row as header; see `retrieval.files.cells.guard`."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: guard(value) for name, value in row.items()} for row in rows)
    click.echo(text.getvalue(), nl=False)


def paste(path: str | Path) -> str:
    """A path quoted for a shell, on one line."""
    return shlex.quote(escape(str(path)))


def print_places(**places: str | Path | Sequence[Path]) -> None:
    """Prints a line for each result: its name, and a path, several paths or a command."""
    for name, place in places.items():
        paths = (
            place if isinstance(place, str) else "  ".join(map(paste, [place] if isinstance(place, Path) else place))
        )
        click.echo(f"{name:9} {paths}")


def print_weights(source: Mapping[str, Any]) -> None:
    """Prints which checkpoint of a run the weights of a model are, if they are of one."""
    if "checkpoint" in source:
        click.echo(f"weights   {source['checkpoint']} checkpoint, step {source['step']:,}")


def precision_line(cost: Mapping[str, Any]) -> str:
    """The precision of an index, and the share of float32's nearest neighbours that it finds."""
    shares = [f"{100 * value:.2f} % of the first {key[7:]}" for key, value in cost.items() if key.startswith("recall@")]
    found = f": finds {', '.join(shares)} of float32" if shares else ""
    return f"precision {cost['name']}{found} ({plural(cost['images'], 'image')})"


def threshold_line(calibration: Mapping[str, Any]) -> str:
    """The threshold of `search --min-score auto`, and the shares of queries of unknown and of known classes that it accepts."""
    wrong, right = calibration["false_accept_rate"], calibration["right_accept_rate"]
    rest = "" if right is None else f", {100 * right:.1f} % of known"
    origin = f"auto, {plural(calibration['queries'], 'query', 'queries')}"
    return f"min-score {calibration['threshold']:.4f} ({origin}): accepts {100 * wrong:g} % of unknown{rest}"


def cautions_lines(cautions: Iterable[str]) -> list[str]:
    """The lines of cautions, in 80 columns; none for an empty one."""
    options: dict[str, Any] = {"initial_indent": "caution   ", "subsequent_indent": 10 * " ", "break_on_hyphens": False}
    return [line for caution in cautions if caution for line in textwrap.wrap(caution, _WIDTH, **options)]


def figures_table(results: Mapping[str, Mapping[str, float]], heading: str = "") -> str:
    """A row for each result, in percent; the counts below."""
    figures = next(iter(results.values()))
    rows = [{heading: name, **{key: value[key] for key in figures}} for name, value in results.items()]
    ties = figures.get("ties", 0) if len(results) == 1 else 0  # each result has its own
    return f"{_table(rows, heading)}\n{_counts({**figures, 'ties': ties})}"


def one_table(figures: Mapping[str, float]) -> str:
    """A row for each figure, in percent, with its mean over the classes and its interval if present; the counts below."""
    names = [
        name for name in figures if name not in COUNTS and not name.startswith("macro ") and name[-4:] not in _ENDS
    ]
    with_macro = f"macro {names[0]}" in figures
    with_interval = f"{names[0]} low" in figures
    width = max(12, *map(len, names))
    lines = [f"{'':{width}} {'percent':>8}" + "   95 % interval" * with_interval + "  macro" * with_macro]
    for name in names:
        line = f"{name:{width}} {100 * figures[name]:8.2f}"
        if with_interval:
            low, high = (f"{100 * figures[f'{name}{end}']:.2f}" for end in (" low", " high"))
            line += f"  {low:>6} - {high:>6}"
        lines.append(line + (f" {100 * figures[f'macro {name}']:6.2f}" if with_macro else ""))
    return "\n".join([*lines, _counts(figures)])


def server_table(figures: Mapping[str, float]) -> str:
    """A row for each k: recall@k of a server and of the exact search, and the share of the exact neighbours that are found."""
    lines = [f"{'':12} {'server':>8} {'exact':>8} {'found':>8}"]
    for name in figures:
        if name.startswith("recall@"):
            values = (figures[name], figures[f"exact {name}"], figures[f"found@{name[7:]}"])
            lines.append(f"{name:12}" + "".join(f" {100 * value:8.2f}" for value in values))
    return "\n".join([*lines, _counts(figures)])


def class_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A row for each class, in percent."""
    each = "the class" if len(rows) == 1 else f"each of {len(rows)} classes"
    return f"{_table(rows, 'class')}\nin percent, over the queries of {each}"


def rankings_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A row for each ranking, in percent."""
    return f"{_table(rows, 'ranking')}\n{_counts(rows[0])}"


def comparison_table(result: Mapping[str, Any]) -> str:
    """For each figure, a row for each index: value, difference from the first index, its interval and p."""
    names = [name for name in result["first"] if name != "index"]
    places = [result["first"]["index"], *(other["index"] for other in result["others"])]
    lines = [f"{letter}  {paste(place)}" for letter, place in zip(_letters(), places, strict=False)]
    width = max(12, *(len(name) + 1 for name in names))
    queries = (
        "the 1 query that is in all" if result["queries"] == 1 else f"the {result['queries']} queries that are in all"
    )
    lines += ["", f"{'':{width}}{'percent':>10}{'less A':>9}   95 % interval         p"]
    for name in names:
        lines.append(f"{name:{width}}A {100 * result['first'][name]:8.2f}")
        for letter, other in zip(_letters()[1:], result["others"], strict=False):
            entry = other[name]
            value, difference, low, high = (100 * entry[key] for key in ("value", "difference", "low", "high"))
            lines.append(
                f"{'':{width}}{letter} {value:8.2f}{difference:+9.2f}  {low:+7.2f} to {high:+6.2f}  {entry['p']:8.4f}"
            )
    return "\n".join([*lines, f"over {queries}; p by a paired permutation test"])


def _letters() -> str:
    return "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def _table(rows: Sequence[Mapping[str, Any]], heading: str) -> str:
    """Rows whose first column is a name and whose others are fractions or counts, in 80 columns.

    Names are shortened; columns that still do not fit are printed below the others.
    """
    columns = [name for name in rows[0] if name != heading and not (name in COUNTS and heading != "class")]
    widths = {column: max(7, len(column) + 1) for column in columns}
    room = max(_NAME, _WIDTH - sum(widths.values()))
    names = [_cut(escape(str(row[heading])), room) for row in rows]
    first = max(len(heading), *map(len, names))
    parts = []
    for part in _side_by_side(widths, _WIDTH - first):
        lines = [f"{heading:{first}}" + "".join(f"{column:>{widths[column]}}" for column in part)]
        for name, row in zip(names, rows, strict=True):
            lines.append(f"{name:{first}}" + "".join(_cell(column, row[column], widths[column]) for column in part))
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _side_by_side(widths: Mapping[str, int], room: int) -> Iterator[list[str]]:
    """The columns in groups that fit the width."""
    part: list[str] = []
    for column, width in widths.items():
        if part and sum(widths[other] for other in part) + width > room:
            yield part
            part = []
        part.append(column)
    yield part


def _cell(column: str, value: float, width: int) -> str:
    return f"{value:{width}d}" if column in COUNTS else f"{100 * value:{width}.2f}"


def _cut(name: str, width: int) -> str:
    return name if len(name) <= width else f"{name[: width - 1]}…"


def _counts(figures: Mapping[str, float]) -> str:
    parts = [f"in percent, over {figures['queries']:.0f} {'query' if figures['queries'] == 1 else 'queries'}"]
    missing = figures.get("not_in_gallery", 0)
    for count, reason in (
        (figures["left_out"] - missing, "alone in their class"),
        (missing, "class not in the gallery"),
    ):
        if count:
            parts.append(f"{count:.0f} left out ({reason})")
    if figures.get("ties"):
        parts.append(f"{figures['ties']:.0f} decided by a tie")
    return ", ".join(parts)


def text_table(rows: Sequence[Mapping[str, str]], left: Collection[str] = ()) -> str:
    """Rows of text whose first column is a name, in 80 columns. Columns that do not fit are printed below the others.

    Args:
        rows: The texts by column.
        left: The columns that are aligned left.
    """
    rows = [{column: escape(text) for column, text in row.items()} for row in rows]
    heading, *columns = rows[0]
    names = [row[heading] for row in rows]
    first = max((len(name) for name in (heading, *names) if len(name) <= _INLINE), default=0)
    widths = {column: 2 + max(len(column), *(len(row[column]) for row in rows)) for column in columns}
    parts = []
    for part in _side_by_side(widths, _WIDTH - first):
        lines = []
        for row in ({name: name for name in rows[0]}, *rows):
            name = row[heading] if len(row[heading]) <= first else f"{row[heading]}\n{'':{first}}"  # on its own line
            cells = (f"  {row[column]:{'<' if column in left else '>'}{widths[column] - 2}}" for column in part)
            lines.append(f"{name:{first}}{''.join(cells)}".rstrip())
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def markdown_table(rows: Sequence[Mapping[str, str]], left: Collection[str] = ()) -> str:
    """Rows of text as a table in Markdown; columns other than those of `left` are aligned right."""
    lines = [list(rows[0]), ["---" if column in left else "---:" for column in rows[0]]]
    lines += [[escape(cell).replace("|", "\\|") for cell in row.values()] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def neighbours_table(result: Mapping[str, Any]) -> str:
    """A query, and a row for each neighbour. Paths are those of the index, not shortened; class names are shortened."""
    neighbours = result["neighbours"]
    if not neighbours:
        reason = f" (no score is {result['min_score']:.4f} or more)" if "min_score" in result else ""
        return f"{paste(result['query'])}\n  no similar image{reason}"
    names = [_cut(escape(neighbour["class"]), _NAME) for neighbour in neighbours]
    width = max(map(len, ("class", *names)))
    lines = [paste(result["query"]), f"  rank   score  {'class':{width}}  path"]
    for name, neighbour in zip(names, neighbours, strict=True):
        rank, score, path = neighbour["rank"], neighbour["score"], paste(neighbour["path"])
        lines.append(f"  {rank:4d} {score:7.4f}  {name:{width}}  {path}")
    return "\n".join(lines)
