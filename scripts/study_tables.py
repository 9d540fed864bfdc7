"""The tables and pictures of docs/study.md, from what scripts/study_losses.py has found.

    python scripts/study_tables.py study --pictures docs

Prints Markdown. Means over seeds with 95 % intervals (Student's t); differences are paired by seed.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from interval import half_width
from study_losses import FINALISTS, HEADS, LOSSES, OURS, PEERS, QUICK, TASKS, by_setting, choose, read_results, trials

matplotlib.use("Agg")
from matplotlib import pyplot as plt

MEASURES = ("recall@1", "map@r")
BEST = "softmax"  # what the others are compared with
COLORS = {
    "softmax": "#0072B2",
    "std": "#56B4E9",
    "MultiSimilarity": "#D55E00",
    "SupCon": "#009E73",
    "normalised softmax": "#999999",
}

Row = dict[str, Any]


def interval(values: Iterable[float]) -> tuple[float, float]:
    """Mean and half of its 95 % interval; nan for a single value."""
    numbers = np.array(list(values), dtype=float)
    return float(numbers.mean()), math.nan if len(numbers) < 2 else half_width(numbers)


def of(rows: list[Row], **wanted: Any) -> list[Row]:
    """Those with the given values, by seed."""
    found = (row for row in rows if all(row[word] == value for word, value in wanted.items()))
    return sorted(found, key=lambda row: row["seed"])


def finals(rows: list[Row], task: str, tasks: Iterable[str]) -> dict[str, list[Row]]:
    """The final runs on a task by loss, the best mean first; with the setting that was chosen on some tasks.

    Losses whose runs are not complete are left out.
    """
    found = {}
    for name in LOSSES:
        if all(trials(rows, searched, name) for searched in tasks):
            setting, rate = choose(rows, tasks, name)[task]
            found[name] = of(rows, stage="final", task=task, loss=name, setting=setting, learning_rate=rate)
    complete = {name: runs for name, runs in found.items() if len(runs) == (TASKS | QUICK)[task].seeds}
    return dict(
        sorted(complete.items(), key=lambda item: -np.mean([row["recall@1"] + row["map@r"] for row in item[1]]))
    )


def searched_on(task: str) -> Iterable[str]:
    """The tasks on which the settings of the main table of a task were chosen."""
    return HEADS if task in HEADS else [task]


def differences(rows: list[Row], best: list[Row], measure: str) -> tuple[float, float]:
    """How far the best is above the others, with its interval."""
    mine = {row["seed"]: row[measure] for row in best}
    return interval(mine[row["seed"]] - row[measure] for row in rows if row["seed"] in mine)


def to_most(row: Row) -> dict[str, float]:
    """The step and the seconds after which recall@1 was at 95 % of the run's best, of the steps where it was measured."""
    most = 0.95 * max(point["recall@1"] for point in row["curve"])
    return next(point for point in row["curve"] if point["recall@1"] >= most)


def show(mean: float, half: float, digits: int = 2) -> str:
    return f"{mean:.{digits}f}" if math.isnan(half) else f"{mean:.{digits}f} ± {half:.{digits}f}"


def bold(name: str) -> str:
    """The name of a loss; in bold type that of the recall loss by identity."""
    return name if name in PEERS or name.startswith("blackbox") else f"**{name}**"


def words(setting: Row, rate: float) -> str:
    named = [f"{word.rstrip('_')} {value}" for word, value in setting.items()]
    return ", ".join([*named, f"lr {rate:g}"])


def table_of_task(rows: list[Row], task: str, tasks: Iterable[str]) -> None:
    found = finals(rows, task, tasks)
    if not found:
        return
    chosen = "settings chosen on it alone" if tasks == [task] else "settings chosen on both data sets of features"
    print(f"\n### {task}, {(TASKS | QUICK)[task].seeds} seeds, {chosen}\n")
    print(f"| loss | R@1 | MAP@R | {BEST} is above it by R@1 | MAP@R | steps, seconds to 95 % | chosen |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, runs in found.items():
        cells = [show(*interval(row[measure] for row in runs)) for measure in MEASURES]
        for measure in MEASURES:
            known = name != BEST and BEST in found
            cells.append(show(*differences(runs, found[BEST], measure)) if known else "")
        most = [to_most(row) for row in runs]
        step, seconds = (float(np.mean([m[word] for m in most])) for word in ("step", "seconds"))
        cells.append(f"{step:.0f}, {seconds:.1f}")
        cells.append(words(runs[0]["setting"], runs[0]["learning_rate"]))
        print(f"| {bold(name)} | {' | '.join(cells)} |")


def table_of_all(rows: list[Row], tasks: list[str]) -> None:
    """The losses that were run on all tasks, by their average."""
    found = {task: finals(rows, task, searched_on(task)) for task in tasks}
    shared = [name for name in LOSSES if all(name in runs for runs in found.values())]
    means = {
        name: {
            (task, measure): float(np.mean([row[measure] for row in found[task][name]]))
            for task in tasks
            for measure in MEASURES
        }
        for name in shared
    }
    print("\n### Averages over the data sets\n")
    print("| loss | R@1 | MAP@R | " + " | ".join(tasks) + " |")
    print("| --- | --- | --- |" + " --- |" * len(tasks))
    for name in sorted(shared, key=lambda name: -sum(means[name].values())):
        averages = [f"{np.mean([means[name][task, measure] for task in tasks]):.2f}" for measure in MEASURES]
        each = [" / ".join(f"{means[name][task, measure]:.2f}" for measure in MEASURES) for task in tasks]
        print(f"| {bold(name)} | {' | '.join(averages + each)} |")
    for task in tasks:
        peers = [name for name in PEERS if name in found[task]]
        for measure in MEASURES if peers and BEST in found[task] else ():
            first = max(peers, key=lambda name: np.mean([row[measure] for row in found[task][name]]))
            gap = show(*differences(found[task][first], found[task][BEST], measure))
            print(f"\nBest peer on {task} in {measure}: {first}; {BEST} is above it by {gap}.", end="")
    print()


def table_of_settings(rows: list[Row], tasks: list[str]) -> None:
    """Every setting of the recall loss by its validation figures, the best learning rate for each: where the defaults come from."""
    figures = {}
    for name in OURS:
        found = [by_setting(rows, task, name) for task in tasks]
        for setting in set.intersection(*map(set, found)):
            figures[name, setting] = [of_task[setting][0] for of_task in found]
    print("\n### Recall@1 + MAP@R on the folds of the training classes, by setting\n")
    print("| loss | setting | " + " | ".join(tasks) + " | mean |")
    print("| --- | --- |" + " --- |" * (len(tasks) + 1))
    for (name, setting), values in sorted(figures.items(), key=lambda item: -sum(item[1])):
        shown = ", ".join(f"{word} {value}" for word, value in json.loads(setting).items())
        print(f"| {name} | {shown} | {' | '.join(f'{value:.1f}' for value in [*values, np.mean(values)])} |")


def curves(rows: list[Row], tasks: list[str], path: Path) -> None:
    """recall@1 and MAP@R against the batch and the samples of a class."""
    kinds = {"images in a batch": "batch", "images of a class": "per_class"}
    figure, axes = plt.subplots(len(tasks), 4, figsize=(13, 3.1 * len(tasks)), squeeze=False, layout="constrained")
    for line, task in enumerate(tasks):
        for column, (label, word) in enumerate((label, word) for label in kinds.items() for word in MEASURES):
            draw_curve(axes[line][column], rows, task, label, word)
    axes[0][0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=90)
    plt.close(figure)


def draw_curve(ax: Any, rows: list[Row], task: str, kind: tuple[str, str], measure: str) -> None:
    label, field = kind
    unchanged = finals(rows, task, HEADS)
    for name in FINALISTS:
        points: dict[int, list[float]] = {}
        for row in of(rows, stage="curves", task=task, loss=name, memory=0) + unchanged.get(name, []):
            if row["batch" if field == "per_class" else "per_class"] in (128, 4):
                points.setdefault(row[field], []).append(row[measure])
        numbers = sorted(points)
        means = [interval(points[number]) for number in numbers]
        ax.errorbar(
            numbers, [m for m, _ in means], [h for _, h in means], color=COLORS[name], label=name, capsize=2, lw=1.5
        )
    ax.set_xscale("log", base=2)
    ax.set_xticks(numbers, [str(number) for number in numbers])
    ax.set_xlabel(label)
    ax.set_title(f"{task}: {measure}", fontsize=9)


def table_of_memory(rows: list[Row], tasks: list[str]) -> None:
    print("\n### A memory of 1,024 earlier embeddings: what it adds\n")
    print("| loss | " + " | ".join(f"{task}: R@1 | MAP@R" for task in tasks) + " |")
    print("| --- |" + " --- | --- |" * len(tasks))
    for name in FINALISTS:
        cells = []
        for task in tasks:
            plain = finals(rows, task, HEADS).get(name, [])
            memory = [row for row in of(rows, stage="curves", task=task, loss=name) if row["memory"]]
            cells += [show(*differences(plain, memory, measure)) if memory else "-" for measure in MEASURES]
        print(f"| {name} | {' | '.join(cells)} |")


def gauge(rows: list[Row], tasks: list[str], path: Path) -> None:
    """Spread of the scores and intruders while training."""
    styles = {"none": ("#D55E00", "-"), "none, noise": ("#D55E00", "--"), "std": ("#0072B2", "-")}
    styles["std, noise"] = ("#0072B2", "--")
    figure, axes = plt.subplots(2, len(tasks), figsize=(4 * len(tasks), 5.2), squeeze=False, layout="constrained")
    readings: list[tuple[str, str, Callable[[Any], None]]] = [
        ("spread", "spread of a query's scores", lambda ax: ax.set_ylim(bottom=0)),
        ("intruders", "intruders of a relevant item", lambda ax: ax.set_yscale("log")),
    ]
    for line, (field, label, scale) in enumerate(readings):
        for column, task in enumerate(tasks):
            ax = axes[line][column]
            for name, (color, style) in styles.items():
                for run in of(rows, stage="gauge", task=task, loss=name):
                    points = [point for point in run["curve"] if field in point]
                    ax.plot([p["step"] for p in points], [p[field] for p in points], style, color=color, label=name)
            scale(ax)
            ax.set_xlabel("step")
            ax.set_title(task, fontsize=9)
        axes[line][0].set_ylabel(label)
    axes[0][0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=90)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the folder of the results")
    parser.add_argument("--pictures", type=Path, help="folder for the pictures; none are drawn if left out")
    options = parser.parse_args()
    rows = read_results(options.out)
    tasks = list(dict.fromkeys(row["task"] for row in rows if row["stage"] == "final"))
    fast = [task for task in tasks if not task.endswith("_whole")]
    if not fast:
        raise SystemExit(f"error: {options.out} has no final runs yet; run scripts/study_losses.py")
    for task in tasks:
        if task in HEADS:
            table_of_task(rows, task, HEADS)
        table_of_task(rows, task, [task])
    table_of_all(rows, fast)
    table_of_settings(rows, fast)
    with_curves = [task for task in fast if of(rows, stage="curves", task=task)]
    if with_curves:
        table_of_memory(rows, with_curves)
    if options.pictures:
        options.pictures.mkdir(parents=True, exist_ok=True)
        if with_curves:
            curves(rows, with_curves, options.pictures / "study_curves.png")
        with_gauge = [task for task in fast if of(rows, stage="gauge", task=task)]
        if with_gauge:
            gauge(rows, with_gauge, options.pictures / "study_collapse.png")


if __name__ == "__main__":
    main()
