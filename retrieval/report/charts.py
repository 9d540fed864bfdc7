"""The charts of a report, each for the page and as a PNG."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from retrieval.report.colors import BLUE, GRID, INK, ORANGE
from retrieval.report.curves import draw_figures, draw_loss

_INCHES = (4.8, 3.1)  # text of a chart this wide can be read on a phone
# Upper ends of the groups of ranks that are counted together.
_RANKS = (1, 2, 4, 8, 16, 32, 64, 128)


@dataclass(frozen=True)
class Chart:
    """A chart.

    Args:
        name: of its file.
        description: what it shows, for those who cannot see it.
        draw: draws it.
    """

    name: str
    description: str
    draw: Callable[[Axes], None]

    def png(self) -> bytes:
        """The chart on white."""
        buffer = io.BytesIO()
        self._figure().savefig(buffer, format="png", dpi=150)
        return buffer.getvalue()

    def svg(self) -> str:
        """The chart as an element of a page, in the page's font and colours, without a background."""
        buffer = io.StringIO()
        with rc_context(
            {"svg.fonttype": "none", "svg.hashsalt": self.name}
        ):  # the salt makes identifiers unique on the page
            nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
            self._figure().savefig(buffer, format="svg", transparent=True, metadata=nothing)
        text = buffer.getvalue()
        text = text[text.index("<svg") :]
        text = re.sub(
            r"<(metadata|style)\b.*?</\1>", "", text, flags=re.DOTALL
        )  # a style would hold for the whole page
        text = re.sub(r"; font-family: [^;\"]*", "", text)
        text = re.sub(r'<g id="[^"]*"', "<g", text)  # names of groups, the same in every chart
        text = re.sub(f"#000000|{INK}", "currentColor", text)
        for color, variable in ((GRID, "line"), (BLUE, "value"), (ORANGE, "wrong")):
            text = text.replace(color, f"var(--{variable})")
        box = re.search(r'viewBox="[^"]*"', text)
        return re.sub(r"<svg [^>]*>", f'<svg {box[0] if box else ""} class="chart" aria-hidden="true">', text, count=1)

    def _figure(self) -> Figure:
        figure = Figure(figsize=_INCHES, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        with rc_context({"axes.titlesize": 10, "legend.fontsize": 9}):
            self.draw(axes)
        axes.grid(axis="y", color=GRID)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        return figure


def chart_recall(first_rank: np.ndarray) -> Chart:
    """recall@k over k, from the rank of each query's nearest relevant image."""
    ranks = np.sort(first_rank)
    ks = np.unique(np.geomspace(1, max(10, ranks[-1]), 300).round())  # a curve of all ranks would be megabytes
    recall = 100 * np.searchsorted(ranks, ks, side="right") / len(ranks)

    def draw(axes: Axes) -> None:
        axes.plot(ks, recall, color=BLUE, linewidth=1.8, drawstyle="steps-post")
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.set_xlim(0.9, float(ks[-1]) * 1.1)
        axes.set_ylim(0, 103)
        _name(axes, "recall@k for every k", "k", "% of queries")

    return Chart("recall", f"recall@k is {recall[0]:.1f} % at k = 1, and 100 % from k = {ranks[-1]}", draw)


def chart_ranks(first_rank: np.ndarray) -> Chart:
    """How many queries have their nearest relevant image at which rank, by groups of ranks."""
    ends = [*(end for end in _RANKS if end < first_rank.max()), max(int(first_rank.max()), 1)]
    starts = [1, *(end + 1 for end in ends[:-1])]
    shares = [
        100 * float(((first_rank >= start) & (first_rank <= end)).mean())
        for start, end in zip(starts, ends, strict=True)
    ]
    names = [f"{start}" if start == end else f"{start}-{end}" for start, end in zip(starts, ends, strict=True)]

    def draw(axes: Axes) -> None:
        bars = axes.bar(names, shares, color=BLUE)
        axes.bar_label(bars, [f"{share:.1f}" for share in shares], fontsize=8)
        axes.tick_params(axis="x", labelrotation=30 if len(names) > 5 else 0, labelsize=8)
        axes.margins(y=0.12)
        _name(axes, "Rank of the first relevant image", "rank", "% of queries")

    described = ", ".join(f"rank {name}: {share:.1f} %" for name, share in zip(names, shares, strict=True))
    return Chart("ranks", f"rank of the first relevant image: {described}", draw)


def chart_classes(recall: np.ndarray) -> Chart:
    """How many classes have which recall@1."""
    counts, edges = np.histogram(100 * recall, bins=np.arange(0, 101, 10))

    def draw(axes: Axes) -> None:
        bars = axes.bar(edges[:-1], counts, width=9.2, align="edge", color=BLUE)
        axes.bar_label(bars, fontsize=8)
        axes.set_xticks(range(0, 101, 20))
        axes.margins(y=0.12)
        _name(axes, "Classes by their recall@1", "recall@1 of the class, %", "classes")

    return Chart(
        "classes",
        f"{len(recall)} classes by recall@1; {counts[0]} of them below 10 %, {counts[-1]} at 90 % or above",
        draw,
    )


def chart_scores(positive: np.ndarray, negative: np.ndarray) -> Chart:
    """How scores of pairs of one class and of two classes are spread."""
    low, high = (float(end) for end in (min(positive.min(), negative.min()), max(positive.max(), negative.max())))
    edges = np.linspace(low, max(high, low + 1e-3), 61)

    def draw(axes: Axes) -> None:
        for scores, color, label, hatch in (
            (negative, ORANGE, "two classes", "////"),
            (positive, BLUE, "one class", ""),
        ):
            shares = 100 * np.histogram(scores, edges)[0] / len(scores)
            axes.stairs(shares, edges, fill=True, color=color, alpha=0.25, hatch=hatch)
            axes.stairs(shares, edges, color=color, linewidth=1.8, linestyle="--" if hatch else "-", label=label)
        axes.legend(frameon=False)
        _name(axes, "Scores of pairs", "score (cosine)", "% of the pairs")

    described = (
        f"median score {np.median(positive):.3f} of pairs of one class, {np.median(negative):.3f} of two classes"
    )
    return Chart("scores", described, draw)


def charts_training(rows: Sequence[Mapping[str, float]]) -> list[Chart]:
    """Loss and figures over the epochs; see `plot_training`."""
    charts = [Chart("loss", f"training loss over {len(rows)} epochs", partial(draw_loss, rows=rows))]
    for split in ("validation", "test"):
        if any(f"{split} recall@1" in row for row in rows):
            described = f"recall@1 and MAP@R on the {split} classes over the epochs"
            charts.append(Chart(split, described, partial(draw_figures, rows=rows, split=split)))
    return charts


def _name(axes: Axes, title: str, across: str, up: str) -> None:
    axes.set_title(title, loc="left", fontweight="bold")
    axes.set_xlabel(across)
    axes.set_ylabel(up)
