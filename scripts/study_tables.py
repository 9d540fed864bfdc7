"""The tables and the picture of docs/study.md, from what scripts/study_losses.py has found.

    python scripts/study_tables.py study --page docs/study.md --picture docs/study_differences.png

Prints Markdown, or puts it between the marks of a page. Differences are paired by seed, with 95 % intervals (Student's t).
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import matplotlib
import numpy as np
from interval import half_width
from study_losses import LOSSES, MEASURES, OURS, PEERS, STARTS, AtTheEdge, Choice, Missing, Row, read_rows
from study_tasks import QUICK, TASKS

matplotlib.use("Agg")
from matplotlib import pyplot as plt

BEGIN, END = "<!-- tables -->", "<!-- end of tables -->"
NAMES = {"recall@1": "R@1", "map@r": "MAP@R"}
Finals = dict[str, list[Row]]  # the final runs of each loss, by seed


def finals(task: str, rows: list[Row]) -> Finals:
    """The losses whose runs on a task are complete."""
    found = {}
    for loss in LOSSES:
        try:
            found[loss] = Choice((TASKS | QUICK)[task], loss, rows).final()
        except (AtTheEdge, Missing):
            continue
    return found


def values(rows: list[Row], measure: str) -> np.ndarray:
    return np.array([row[measure] for row in rows])


def difference(found: Finals, ours: str, other: str, measure: str) -> np.ndarray:
    """By how much a loss is above another one, by seed."""
    return values(found[ours], measure) - values(found[other], measure)


def show(numbers: np.ndarray, sign: str = "") -> str:
    half = half_width(numbers) if len(numbers) > 1 else math.nan
    return f"{numbers.mean():{sign}.2f}" + ("" if math.isnan(half) else f" ± {half:.2f}")


def bold(name: str) -> str:
    return f"**{name}**" if name in OURS else name


def table_of_task(task: str, rows: list[Row], found: Finals, ours: str) -> list[str]:
    lines = [
        f"\n### {task}\n",
        f"| loss | R@1 | MAP@R | {ours} is above it by R@1 | MAP@R | chosen |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        if row["loss"] in STARTS:
            lines.append(f"| {row['loss']}, no training | {row['recall@1']:.2f} | {row['map@r']:.2f} | | | |")
    for name in sorted(found, key=lambda name: -sum(values(found[name], measure).mean() for measure in MEASURES)):
        cells = [show(values(found[name], measure)) for measure in MEASURES]
        same = name == ours or ours not in found
        cells += ["" if same else show(difference(found, ours, name, measure), "+") for measure in MEASURES]
        chosen = found[name][0]
        words = [f"{word} {value}" for word, value in chosen["setting"].items()]
        cells.append(", ".join([*words, f"rate {chosen['learning_rate']:g}"]))
        lines.append(f"| {bold(name)} | {' | '.join(cells)} |")
    return lines


def table_of_all(known: dict[str, Finals], ours: str) -> list[str]:
    """The losses by their averages over the tasks, with what one of ours is above them by.

    ± is an interval over seeds, for these tasks; in brackets is half of that over tasks, as for other data.
    """
    shared = [name for name in LOSSES if all(name in found for found in known.values())]
    lines = [
        f"| loss | mean R@1 | MAP@R | {ours} is above it by R@1 | MAP@R | tasks above / below, R@1 | MAP@R |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]

    def mean(name: str, measure: str) -> float:
        return float(np.mean([values(found[name], measure).mean() for found in known.values()]))

    for name in sorted(shared, key=lambda name: -sum(mean(name, measure) for measure in MEASURES)):
        cells = [f"{mean(name, measure):.2f}" for measure in MEASURES]
        if name == ours:
            cells += [""] * 4
        else:
            by_task = {
                measure: [difference(found, ours, name, measure) for found in known.values()] for measure in MEASURES
            }
            for parts in by_task.values():
                seeds = min(map(len, parts))
                by_seed = np.mean([part[:seeds] for part in parts], axis=0)
                others = half_width([part.mean() for part in parts]) if len(parts) > 1 else math.nan
                cells.append(f"{show(by_seed, '+')} ({others:.2f})")
            for parts in by_task.values():
                above = sum(part.mean() > half_width(part) for part in parts)
                below = sum(-part.mean() > half_width(part) for part in parts)
                cells.append(f"{above} / {below}")
        lines.append(f"| {bold(name)} | {' | '.join(cells)} |")
    return lines


def draw(known: dict[str, Finals], ours: str, path: Path) -> None:
    """What a loss is above each peer by, in each task."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 5.5), sharey=True, layout="constrained")
    for axis, measure in zip(axes, MEASURES, strict=True):
        for offset, (task, found) in enumerate(known.items()):
            shown = [name for name in PEERS if name in found]
            gaps = [difference(found, ours, name, measure) for name in shown]
            places = [PEERS.index(name) + 0.75 * (offset / max(1, len(known) - 1) - 0.5) for name in shown]
            axis.errorbar(
                [gap.mean() for gap in gaps],
                places,
                xerr=[half_width(gap) for gap in gaps],
                fmt="o",
                markersize=3,
                linewidth=1,
                label=task,
                color=plt.get_cmap("tab10")(offset % 10),
            )
        axis.axvline(0, color="0.5", linewidth=1)
        axis.set_xscale("symlog", linthresh=2)
        axis.set_xticks([-5, -2, -1, 0, 1, 2, 5, 10, 20])
        axis.xaxis.set_major_formatter("{x:g}")
        axis.set_xlabel(f"points of {NAMES[measure]} above the peer")
        axis.set_yticks(range(len(PEERS)), PEERS)
        axis.grid(axis="x", color="0.9")
    axes[0].invert_yaxis()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Writes what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="folder of the results")
    parser.add_argument("--page", type=Path, help="a Markdown file, whose tables between its marks are replaced")
    parser.add_argument("--picture", type=Path, help="the file of the picture")
    parser.add_argument("--ours", choices=LOSSES, default="near", help="the loss that the others are compared with")
    options = parser.parse_args()
    rows = {task: read_rows(options.results / f"{task}.jsonl") for task in TASKS | QUICK}
    known = {task: finals(task, found) for task, found in rows.items() if found}
    compared = {task: found for task, found in known.items() if options.ours in found}
    complete = {task: found for task, found in compared.items() if set(PEERS) <= set(found)}
    lines = table_of_all(complete, options.ours) if complete else []
    for task, found in known.items():
        lines += table_of_task(task, rows[task], found, options.ours)
    text = "\n".join(lines) + "\n"
    print(text)
    if options.page:
        before, rest = options.page.read_text(encoding="utf-8").split(BEGIN)
        options.page.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{rest.split(END)[1]}", encoding="utf-8")
    if options.picture:
        draw(compared, options.ours, options.picture)


if __name__ == "__main__":
    main()
