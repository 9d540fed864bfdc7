"""How a training run went: its loss and its figures over the epochs."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from retrieval.errors import plural
from retrieval.files import write_bytes
from retrieval.report.charts import Chart, fit_percentages, name_axes, put_legend_below
from retrieval.report.colors import BLUE, INK, ORANGE

Rows = Sequence[Mapping[str, float]]
Results = Mapping[str, Mapping[str, float]]
Point = tuple[float, float]

# Name, color and marker of a figure in a chart, and its name in the file of the chart.
_FIGURES = {"recall@1": ("recall@1", BLUE, "o", "recall"), "map@r": ("MAP@R", ORANGE, "s", "map")}
_SPLITS = ("validation", "test")
# Name of a figure of the training batches, its title, its unit, by what it is multiplied, and its name in the file of the chart.
_GAUGE = (
    ("score_spread", "Spread of a query's scores", "standard deviation", 1, "spread"),
    ("mean_intruders", "Intruders above a relevant item", "mean of the training batches", 1, "intruders"),
    ("perfect_queries", "Perfect queries", "% of the training batches", 100, "perfect"),
)
_MOST_MARKERS = 60  # more of them hide the line
_INCHES = (3.6, 3.2)  # three of them lie side by side


def plot_training(rows: Rows, results: Results, path: str | Path, *, chosen: float | None = None) -> None:
    """Draws the loss and the figures over the epochs as a PNG.

    Each figure of a split has a chart of its own: recall@1 and MAP@R, validation above test. The frozen features are a dashed
    line. So is the untrained network, dotted, if it differs and its figures are no row. The test figures of a run that measured
    them only before and after the training are two points. The chosen epoch is a wide grey line in every chart. The last row of
    charts has the figures of the training batches: the spread of the scores, the intruders and the share of perfect queries.

    Args:
        rows: One per epoch, from 0 (the start) or 1: "epoch", and "loss", "validation recall@1", "validation map@r", "test
            recall@1" and "test map@r" (0 to 1) where they were measured, and "score_spread", "mean_intruders" and "perfect_queries"
            of the training batches. A value that is left out or NaN is not drawn.
        results: Figures on the test images by what was measured ("frozen features", "untrained", "last"), and on the validation
            images with " (validation)" behind the name. All of them may be left out.
        path: The file.
        chosen: The epoch whose weights the run hands over, the best by validation; None where none was chosen.

    Raises:
        ValueError: There is no row.
        RetrievalError: The file cannot be written.
    """
    if not rows:
        raise ValueError("no rows to draw; train at least one epoch")
    loss, *figures = charts_training(rows, results, chosen)
    names = {name for *_, name in _GAUGE}
    gauge = [chart for chart in figures if chart.name in names]
    figures = [chart for chart in figures if chart.name not in names]
    # The loss and two figures side by side, two more below these, and last those of the batches.
    grid: list[list[Chart | None]] = [[loss, *figures[:2]]]
    grid += [[None, *figures[2:]]] if figures[2:] else []
    grid += [list(gauge)] if gauge else []
    columns, lines = max(map(len, grid)), len(grid)
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12)
    figure = Figure(figsize=(4.6 * columns, 3.9 * lines), dpi=150, layout=layout)
    FigureCanvasAgg(figure)
    panels = figure.subplots(lines, columns, squeeze=False)
    for line, charts in zip(panels, grid, strict=True):
        for panel, chart in zip(line, [*charts, *[None] * (columns - len(charts))], strict=True):
            panel.set_axis_off() if chart is None else chart.draw_on(panel)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_bytes(path, buffer.getvalue())


def charts_training(rows: Rows, results: Results, chosen: float | None = None) -> list[Chart]:
    """The charts of `plot_training`: the loss, recall@1 and MAP@R of each split that was measured, the figures of the batches."""
    epochs = plural(len({row["epoch"] for row in rows} - {0}), "epoch")
    said = "" if chosen is None else f"; {_name_of(chosen)}"
    draw_loss = partial(_draw_loss, rows=rows, chosen=chosen)
    charts = [Chart("loss", f"training loss over {epochs}{said}", draw_loss, _INCHES)]
    for split in _SPLITS:
        points = {figure: _values(rows, results, split, figure) for figure in _FIGURES}
        for figure, (title, *_, name) in _FIGURES.items() if all(points.values()) else ():
            levels = _levels(results, split, figure, points[figure])
            options: dict[str, Any] = {"levels": levels, "split": split, "figure": figure, "chosen": chosen}
            draw = partial(_draw_figure, rows=rows, points=points[figure], **options)
            described = f"{title} on the {split} images over the epochs{said}"
            charts.append(Chart(f"{split}-{name}", described, draw, _INCHES))
    for figure, title, unit, factor, name in _GAUGE:
        if of_batches := [(epoch, factor * value) for epoch, value in _points(rows, figure)]:
            draw = partial(_draw_gauge, rows=rows, points=of_batches, title=title, unit=unit, chosen=chosen)
            charts.append(Chart(name, f"{title.lower()} in the training batches over {epochs}{said}", draw, _INCHES))
    return charts


def result_of(results: Results, what: str, split: str) -> Mapping[str, float]:
    """The figures of `what` on a split; empty where they were not measured."""
    return results.get(what if split == "test" else f"{what} ({split})", {})


def _draw_loss(axes: Axes, rows: Rows, chosen: float | None) -> None:
    _draw(axes, _points(rows, "loss"), INK, "o")
    _mark(axes, chosen)
    _decorate(axes, rows, "Training loss", "mean of the epoch")
    if chosen is not None:
        put_legend_below(axes)


def _draw_gauge(axes: Axes, rows: Rows, points: Sequence[Point], title: str, unit: str, chosen: float | None) -> None:
    _draw(axes, points, INK, "o")
    _mark(axes, chosen)
    _decorate(axes, rows, title, unit)
    axes.set_ylim(bottom=0)
    if chosen is not None:
        put_legend_below(axes)


def _mark(axes: Axes, chosen: float | None) -> None:
    """Draws the chosen epoch, if any, behind the curves."""
    if chosen is not None:
        axes.axvline(chosen, color=INK, alpha=0.2, linewidth=7, zorder=0.5, label=_name_of(chosen))


def _name_of(chosen: float) -> str:
    return f"chosen: epoch {chosen:g}" if chosen else "chosen: the start, epoch 0"


def _draw_figure(
    axes: Axes,
    rows: Rows,
    points: Sequence[Point],
    levels: Mapping[str, float],
    split: str,
    figure: str,
    chosen: float | None,
) -> None:
    """Draws one figure of a split in percent, its highest point ringed, and what it is compared with as lines."""
    title, color, marker, _ = _FIGURES[figure]
    if _points(rows, f"{split} {figure}"):
        epoch, value = max(points, key=lambda point: point[1])
        _draw(axes, points, color, marker, label=f"highest {value:.1f} at epoch {epoch:g}")
        axes.plot(epoch, value, "o", markersize=11, markerfacecolor="none", markeredgecolor=color, clip_on=False)
    else:
        values = " and ".join(f"{value:.1f}" for _, value in points)
        label = f"{'before and after' if len(points) > 1 else 'after the training'}: {values}"
        _draw(axes, points, color, marker, label=label, line="")
    _mark(axes, chosen)
    for what, level in levels.items():
        line = "--" if what == "frozen features" else ":"
        axes.axhline(level, color=INK, linewidth=1.4, linestyle=line, label=f"{what} {level:.1f}")
    _decorate(axes, [{"epoch": points[0][0]}, *rows], f"{title}, {split} images", "%")
    fit_percentages(axes, [*(value for _, value in points), *levels.values()])
    put_legend_below(axes)


def _values(rows: Rows, results: Results, split: str, figure: str) -> list[Point]:
    """The values of a figure in percent by epoch; those before and after the training where no others were measured."""
    points = _points(rows, f"{split} {figure}")
    if not points and split == "test" and figure in results.get("last", {}):
        start = results.get("untrained", results.get("frozen features", {}))  # the same without a head
        ends = ((0, start), (max(row["epoch"] for row in rows), results["last"]))
        points = [(epoch, figures[figure]) for epoch, figures in ends if figure in figures]
    return [(epoch, 100 * value) for epoch, value in points]


def _levels(results: Results, split: str, figure: str, points: Sequence[Point]) -> dict[str, float]:
    """The frozen features in percent, and the untrained network if that is neither the same nor the first point."""
    found = {what: result_of(results, what, split) for what in ("frozen features", "untrained")}
    levels = {what: 100 * figures[figure] for what, figures in found.items() if figure in figures}
    if (points[:1] and points[0][0] == 0) or levels.get("untrained") == levels.get("frozen features"):
        levels.pop("untrained", None)
    return levels


def _draw(axes: Axes, points: Sequence[Point], color: str, marker: str, *, label: str = "", line: str = "-") -> None:
    axes.plot(
        [epoch for epoch, _ in points],
        [value for _, value in points],
        color=color,
        marker=marker if len(points) <= _MOST_MARKERS else "",
        markersize=4 if line else 6,
        linewidth=1.8,
        linestyle=line,
        label=label,
        clip_on=False,
    )


def _points(rows: Rows, key: str) -> list[Point]:
    return [(row["epoch"], row[key]) for row in rows if key in row and math.isfinite(row[key])]


def _decorate(axes: Axes, rows: Rows, title: str, unit: str) -> None:
    name_axes(axes, title, "epoch", unit)
    epochs = [row["epoch"] for row in rows]
    axes.set_xlim(min(epochs) - 0.5, max(epochs) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
