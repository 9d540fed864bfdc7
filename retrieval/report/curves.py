"""How a training run went, in one picture."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from retrieval.files import write_bytes
from retrieval.report.colors import BLUE, GRID, INK, ORANGE

_FIGURES = {"recall@1": ("recall@1", BLUE, "o"), "map@r": ("MAP@R", ORANGE, "s")}


def plot_training(rows: Sequence[Mapping[str, float]], path: str | Path) -> None:
    """Draws the loss and the validation figures over the epochs as a PNG, and the test figures where there are any.

    Args:
        rows: one per epoch: "epoch", "loss" and, where it was measured, "recall@1" and "map@r" (0 to 1), with or without
            "validation " before the name; test figures with "test " before it. A value that is left out or NaN is not drawn.
        path: the file.

    Raises:
        ValueError: there is no row.
        RetrievalError: the file cannot be written.
    """
    if not rows:
        raise ValueError("no rows to draw; train at least one epoch")
    was_tested = any(f"test {name}" in row for row in rows for name in _FIGURES)
    splits = ("validation", "test") if was_tested else ("validation",)
    figure = Figure(figsize=(5 * (1 + len(splits)), 3.8), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    loss, *panels = figure.subplots(1, 1 + len(splits))
    draw_loss(loss, rows)
    for panel, split in zip(panels, splits, strict=True):
        draw_figures(panel, rows, split)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_bytes(path, buffer.getvalue())


def draw_loss(axes: Axes, rows: Sequence[Mapping[str, float]]) -> None:
    """Draws the training loss over the epochs; see `plot_training`."""
    _draw(axes, _points(rows, "loss"), "loss", INK, "o")
    _decorate(axes, rows, "Training loss", "mean of the epoch")


def draw_figures(axes: Axes, rows: Sequence[Mapping[str, float]], split: str) -> None:
    """Draws recall@1 and MAP@R of a split over the epochs; see `plot_training`."""
    drawn = [_draw_figure(axes, rows, split, name) for name in _FIGURES]
    _decorate(axes, rows, f"{split.capitalize()} classes", "%")
    if any(drawn):
        axes.legend(frameon=False, loc="best")
    else:
        axes.text(0.5, 0.5, "not measured", color="0.4", ha="center", va="center", transform=axes.transAxes)
        axes.set_yticks([])


def _draw_figure(axes: Axes, rows: Sequence[Mapping[str, float]], split: str, name: str) -> bool:
    """Draws one figure in percent, its highest point ringed; returns whether there was any."""
    points = [(epoch, 100 * value) for key in (name, f"{split} {name}") for epoch, value in _points(rows, key)]
    if not points:
        return False
    label, color, marker = _FIGURES[name]
    epoch, value = max(points, key=lambda point: point[1])
    _draw(axes, points, f"{label}, highest {value:.1f} at epoch {epoch:g}", color, marker)
    axes.plot(epoch, value, "o", markersize=11, markerfacecolor="none", markeredgecolor=color, clip_on=False)
    return True


def _draw(axes: Axes, points: Sequence[tuple[float, float]], label: str, color: str, marker: str) -> None:
    few = len(points) <= 60  # more markers than that hide the line
    epochs, values = [point[0] for point in points], [point[1] for point in points]
    axes.plot(epochs, values, color=color, marker=marker if few else "", markersize=4, linewidth=1.8, label=label)


def _points(rows: Sequence[Mapping[str, float]], key: str) -> list[tuple[float, float]]:
    return [(row["epoch"], row[key]) for row in rows if key in row and math.isfinite(row[key])]


def _decorate(axes: Axes, rows: Sequence[Mapping[str, float]], title: str, unit: str) -> None:
    axes.set_title(title, loc="left", fontweight="bold")
    axes.set_xlabel("epoch")
    epochs = [row["epoch"] for row in rows]
    axes.set_xlim(min(epochs) - 0.5, max(epochs) + 0.5)
    axes.set_ylabel(unit)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(axis="y", color=GRID)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
