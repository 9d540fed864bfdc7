"""Charts, each for a page and as a PNG."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from matplotlib.transforms import ScaledTranslation

from retrieval.errors import plural
from retrieval.report.colors import BLUE, GRID, INK, ORANGE

# Upper ends of the groups of ranks that are counted together.
_RANKS = (1, 2, 4, 8, 16, 32, 64, 128)
_WIDTHS = (1, 2, 5, 10)  # of the bars of `chart_classes`, in percent


@dataclass(frozen=True)
class Chart:
    """A chart.

    Args:
        name: of its file.
        description: what it shows, for those who cannot see it.
        draw: draws it.
        inches: width and height; text of a chart this wide can be read on a phone.
    """

    name: str
    description: str
    draw: Callable[[Axes], None]
    inches: tuple[float, float] = (4.8, 3.1)

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
        figure = Figure(figsize=self.inches, layout="constrained")
        FigureCanvasAgg(figure)
        with rc_context({"axes.titlesize": 10, "legend.fontsize": 9}):
            self.draw_on(figure.subplots())
        return figure

    def draw_on(self, axes: Axes) -> None:
        """Draws the chart, its grid and its frame."""
        self.draw(axes)
        axes.grid(axis="y", color=GRID)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)


def chart_recall(first_rank: np.ndarray) -> Chart:
    """recall@k over k, from the rank of each query's nearest relevant image."""
    ranks = np.sort(first_rank)
    ks = np.unique(np.geomspace(1, max(10, ranks[-1]), 300).round())  # a curve of all ranks would be megabytes
    recall = 100 * np.searchsorted(ranks, ks, side="right") / len(ranks)

    def draw(axes: Axes) -> None:
        axes.plot(ks, recall, color=BLUE, linewidth=1.8, drawstyle="steps-post", clip_on=False)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.set_xlim(0.9, float(ks[-1]) * 1.1)
        fit_percentages(axes, recall)
        name_axes(axes, "recall@k for every k", "k", "% of queries")

    return Chart("recall", f"recall@k is {recall[0]:.1f} % at k = 1, and 100 % from k = {ranks[-1]}", draw)


def chart_ranks(first_rank: np.ndarray) -> Chart:
    """How many queries have their nearest relevant image at which rank, by groups of ranks.

    Rank 1 is described, but not drawn: it would make the others too small to be seen.
    """
    ends = [*(end for end in _RANKS if end < first_rank.max()), max(int(first_rank.max()), 1)]
    starts = [1, *(end + 1 for end in ends[:-1])]
    shares = [
        100 * float(((first_rank >= start) & (first_rank <= end)).mean())
        for start, end in zip(starts, ends, strict=True)
    ]
    names = [f"{start}" if start == end else f"{start}-{end}" for start, end in zip(starts, ends, strict=True)]

    def draw(axes: Axes) -> None:
        name_axes(axes, "Where the nearest relevant image is not first", "its rank", "% of queries")
        if len(names) == 1:
            axes.set(xticks=[], yticks=[])
            axes.text(0.5, 0.5, "always first", ha="center", va="center", color=INK, transform=axes.transAxes)
            return
        bars = axes.bar(names[1:], shares[1:], color=BLUE)
        axes.bar_label(bars, [f"{share:.1f}" for share in shares[1:]], fontsize=8)
        axes.tick_params(axis="x", labelrotation=30 if len(names) > 6 else 0, labelsize=8)
        axes.set_xlim(-0.8, max(len(names) - 1.2, 2.8))  # a single bar is no wall
        axes.margins(y=0.12)

    described = ", ".join(f"rank {name}: {share:.1f} %" for name, share in zip(names, shares, strict=True))
    return Chart("ranks", f"rank of the first relevant image: {described}", draw)


def chart_classes(recall: np.ndarray) -> Chart:
    """How many classes have which recall@1. The axis begins near the worst class."""
    percent = 100 * recall
    start = 10 * int(min(percent.min(), 90) // 10)
    width = min(width for width in _WIDTHS if width * 10 >= 100 - start)
    edges = np.arange(100, start - width, -width)[::-1]
    counts = np.histogram(percent, bins=edges)[0]

    def draw(axes: Axes) -> None:
        bars = axes.bar(edges[:-1], counts, width=0.92 * width, align="edge", color=BLUE)
        axes.bar_label(bars, [f"{count}" if count else "" for count in counts], fontsize=8)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.margins(y=0.12)
        name_axes(axes, "Classes by their recall@1", "recall@1 of the class, %", "classes")

    return Chart(
        "classes",
        f"{plural(len(recall), 'class', 'classes')} by recall@1; {(percent < 10).sum()} of them below 10 %, "
        f"{(percent >= 90).sum()} at 90 % or above",
        draw,
    )


def chart_scores(positive: np.ndarray, negative: np.ndarray, threshold: float | None = None) -> Chart:
    """How scores of pairs of one class and of two classes are spread, and the threshold of the index."""
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
        if threshold is not None:
            axes.axvline(threshold, color=INK, linewidth=1.4, linestyle=":", label=f"threshold {threshold:.3f}")
        name_axes(axes, "Scores of pairs", "score (cosine)", "% of the pairs")
        put_legend_below(axes, columns=3)

    described = (
        f"median score {np.median(positive):.3f} of pairs of one class, {np.median(negative):.3f} of two classes"
    )
    if threshold is not None:
        described += f"; the threshold of the index is {threshold:.3f}"
    return Chart("scores", described, draw)


def fit_percentages(axes: Axes, values: Sequence[float] | np.ndarray) -> None:
    """Limits the vertical axis to the values, with at least a percent to show, and to 0 to 100."""
    low, high = float(min(values)), float(max(values))
    space = max(0.08 * (high - low), 0.5)
    axes.set_ylim(max(low - space, 0), min(high + space, 100))


def put_legend_below(axes: Axes, *, columns: int = 1) -> None:
    """Puts the legend below the name of the horizontal axis, where it covers nothing."""
    below = axes.transAxes + ScaledTranslation(-0.1, -0.42, axes.figure.dpi_scale_trans)
    axes.legend(
        frameon=False,
        loc="upper left",
        bbox_to_anchor=(0, 0),
        bbox_transform=below,
        labelspacing=0.25,
        columnspacing=1.2,
        ncols=columns,
    )


def name_axes(axes: Axes, title: str, across: str, up: str) -> None:
    """Writes the title and the names of the axes."""
    axes.set_title(title, loc="left", fontweight="bold", pad=9)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
