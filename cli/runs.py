"""`retrieval runs`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import click

from .output import markdown_table, paste, print_csv, print_json, text_table
from .parameters import FOLDER, json_option

KINDS = {"last": "last", "best by validation": "by validation", "best on test": "on test"}
DESCRIPTION = {"dataset": "data set", "backbone": "backbone", "loss": "loss", "pixels": "pixels"}
FIGURES = ("recall@1", "map@r")
LEFT = ("run", "data set", "backbone", "loss", "state", "split", "options", "measured on")
RUNS_NOTE = "recall@1 / MAP@R{}, in percent: of the last and best epochs"
GROUPS_NOTE = "recall@1 and MAP@R in percent: the mean ± half its 95 % interval over the seeds"


@click.command(
    "runs",
    short_help="List runs with their best figures.",
    epilog="""\b
Examples:
  retrieval runs
  retrieval runs experiments --json
  retrieval runs experiments --group --format markdown""",
)
@click.argument("folder", type=FOLDER, default="runs")
@click.option("--group", is_flag=True, help="A row for each configuration: its means over the seeds.")
@click.option(
    "--format", "as_", type=click.Choice(["text", "csv", "markdown"]), help="CSV has fractions of 1.  [default: text]"
)
@json_option("Print JSON: the state and all figures of every run, as fractions of 1.")
def command(folder: str, group: bool, as_: str | None, as_json: bool) -> None:
    """List the runs in FOLDER (runs, if left out) with their best figures.

    With --group, the finished runs whose configurations differ in the seed only are one row: the mean, and half the 95 % interval
    of the mean by Student's t. The figures are those of the epoch that is best by validation, or else of the last one.
    """
    if as_ and as_json:
        raise click.UsageError("--format and --json exclude each other")
    from retrieval.runs import group_runs, list_runs

    runs = list_runs(folder)
    found = [item.to_dict() for item in (group_runs(runs) if group else runs)]
    if as_json:
        print_json(found)
    elif not found:
        click.echo(f"no {'finished ' * group}run in {paste(folder)}")
    elif as_ == "csv":
        print_csv([_group_values(one) if group else _run_values(one) for one in found])
    else:
        _print_table(found, group, markdown=as_ == "markdown")


def _print_table(found: Sequence[Mapping[str, Any]], group: bool, *, markdown: bool) -> None:
    rows = groups_rows(found) if group else runs_rows(found)
    if markdown:
        numberless = [{name: text for name, text in row.items() if name} for row in rows]
        click.echo(f"{markdown_table(numberless, LEFT)}\n")
    else:
        click.echo(text_table(rows, LEFT))
    click.echo(GROUPS_NOTE if group else runs_note(found))


def runs_note(runs: Sequence[Mapping[str, Any]]) -> str:
    """The line below the table of runs: of what their figures are. A column says so where they differ."""
    places = _tested_places(runs)
    return RUNS_NOTE.format(f" on the {' or '.join(places)}" if places else "")


def _tested_places(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the tested runs were tested on: "test classes", "query images" or both."""
    return sorted({run["measured_on"] for run in runs} & {"test classes", "query images"}, reverse=True)


def runs_rows(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """A row for each run: recall@1 and MAP@R in percent, of the last and the best epochs."""
    differ = len(_tested_places(runs)) > 1
    untested = any(run["validation"] and not run["results"].get("last") for run in runs)
    rows = []
    for run in runs:
        row = {"run": paste(run["path"]), **_description(run), "state": run["state"], "epochs": str(run["epochs"])}
        row |= {heading: _pair(run["results"].get(kind)) for kind, heading in KINDS.items()}
        row |= {"validation": _pair(run["validation"])} if untested else {}
        rows.append(row | ({"measured on": run["measured_on"] or "-"} if differ else {}))
    return rows


def groups_rows(groups: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """A row for each group: its number, means and intervals in percent, and the options that tell it from others."""
    rows = []
    for number, group in enumerate(groups, start=1):
        row = {"": str(number), **_description(group), "seeds": str(len(group["seeds"])), "split": group["split"]}
        row |= {name: _mean(group["figures"], name) for name in FIGURES}
        row["frozen features"] = _pair(group["frozen features"])
        if any(other["options"] for other in groups):
            row["options"] = _options(group["options"]) or "-"
        rows.append(row)
    return rows


def _run_values(run: Mapping[str, Any]) -> dict[str, Any]:
    names = ("path", "state", "epochs", *DESCRIPTION, "seed", "measured_on")
    kinds = ("frozen features", "untrained", *KINDS)
    validated = [f"{kind} (validation)" for kind in kinds if kind != "best on test"]  # of runs that tested nothing
    results = {kind: run["results"].get(kind, {}) for kind in (*kinds, *validated)} | {"validation": run["validation"]}
    figures = {f"{kind} {name}": found.get(name) for kind, found in results.items() for name in FIGURES}
    return {name: run[name] for name in names} | figures


def _group_values(group: Mapping[str, Any]) -> dict[str, Any]:
    values = {name: group[name] for name in DESCRIPTION}
    values |= {"options": _options(group["options"]), "seeds": len(group["seeds"]), "split": group["split"]}
    names = [f"{name}{end}" for name in FIGURES for end in ("", " low", " high")]
    values |= {name: group["figures"].get(name) for name in names}
    return values | {f"frozen features {name}": group["frozen features"].get(name) for name in FIGURES}


def _description(values: Mapping[str, Any]) -> dict[str, str]:
    """Data set, backbone, loss and pixels; code in files without the folder."""
    texts = {heading: "-" if values[name] is None else str(values[name]) for name, heading in DESCRIPTION.items()}
    return {heading: re.sub(r"\S*[/\\]", "", text) for heading, text in texts.items()}


def _options(options: Mapping[str, Any]) -> str:
    return " ".join(f"{key}={value}" for key, value in options.items())


def _pair(figures: Mapping[str, float] | None) -> str:
    return f"{100 * figures['recall@1']:.2f} / {100 * figures['map@r']:5.2f}" if figures else "-"


def _mean(figures: Mapping[str, float], name: str) -> str:
    """A mean and half its interval; "-" in place of that of one seed."""
    mean, high = figures[name], figures.get(f"{name} high")
    return f"{100 * mean:.2f} ± {'-' if high is None else f'{100 * (high - mean):.2f}'}"
