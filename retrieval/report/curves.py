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

# Okabe and Ito's colours, told apart by colour-blind readers; the markers tell the lines apart without colour.
_FIGURES = {"recall@1": ("recall@1", "#0072B2", "o"), "map@r": ("MAP@R", "#D55E00", "s")}


def plot_training(rows: Sequence[Mapping[str, float]], path: str | Path) -> None:
    """Draws the loss and the validation figures over the epochs as a PNG.

    Args:
        rows: one per epoch: "epoch", "loss" and, where it was measured, "recall@1" and "map@r" (0 to 1), with or without
            "validation " before the name. A value that is left out or NaN is not drawn.
        path: the file.

    Raises:
        ValueError: there is no row.
        RetrievalError: the file cannot be written.
    """
    if not rows:
        raise ValueError("no rows to draw; train at least one epoch")
    figure = Figure(figsize=(10, 3.8), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    loss, validation = figure.subplots(1, 2)
    _draw(loss, _points(rows, "loss"), "loss", "#000000", "o")
    epochs = [row["epoch"] for row in rows]
    loss.set_xlim(min(epochs) - 0.5, max(epochs) + 0.5)
    _decorate(loss, "Training loss", "mean of the epoch")
    drawn = [_draw_figure(validation, rows, name) for name in _FIGURES]
    _decorate(validation, "Validation classes", "%")
    if any(drawn):
        validation.legend(frameon=False, loc="best")
    else:
        validation.text(0.5, 0.5, "not measured", color="0.4", ha="center", va="center", transform=validation.transAxes)
        validation.set_yticks([])
    validation.set_xlim(loss.get_xlim())
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_bytes(path, buffer.getvalue())


def _draw_figure(axes: Axes, rows: Sequence[Mapping[str, float]], name: str) -> bool:
    """Draws one validation figure in percent, its highest point ringed; returns whether there was any."""
    points = [(epoch, 100 * value) for key in (name, f"validation {name}") for epoch, value in _points(rows, key)]
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


def _decorate(axes: Axes, title: str, unit: str) -> None:
    axes.set_title(title, loc="left", fontweight="bold")
    axes.set_xlabel("epoch")
    axes.set_ylabel(unit)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
