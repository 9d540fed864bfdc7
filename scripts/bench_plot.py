"""How the measurements of bench_loss.py are shown: as text, as CSV, as a plot.

python scripts/bench_plot.py bench/bench_loss.csv    # draws bench/bench_loss.png anew
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter


@dataclass
class Row:
    """A line of the table; what was not measured is None."""

    candidate: str
    queries: int
    references: int
    per_class: int
    threads: int
    seconds: float | None = None
    ratio: float | None = None
    peak_mib: float | None = None
    value: float | None = None
    note: str = ""


# Okabe and Ito's colours, told apart by colour-blind readers: blue for the closed form, green for the same loss without it, others
# for the peers. The markers tell the lines apart without colour.
STYLES = {
    "RecallLoss mean": ("#0072B2", "v", "-"),
    "RecallLoss std": ("#0072B2", "o", "-"),
    "RecallLoss local": ("#0072B2", "s", "-"),
    "RecallLoss softmax": ("#0072B2", "D", "-"),
    "definition std": ("#009E73", "o", "--"),
    "RecallLoss std, blackbox": ("#009E73", "X", "--"),
    "ProxyAnchorLoss 100": ("#56B4E9", "<", ":"),
    "ProxyAnchorLoss 11,318": ("#56B4E9", ">", ":"),
    "ContrastiveLoss": ("#E69F00", "D", "--"),
    "MultiSimilarityLoss": ("#E69F00", "P", "--"),
    "torchsort soft_rank": ("#CC79A7", "h", "--"),
    "RaMBO (double argsort)": ("#D55E00", "^", "--"),
    "SmoothAPLoss": ("#000000", "d", ":"),
    "RecallSurrogateLoss": ("#000000", "p", ":"),
    "FastAPLoss": ("#CC79A7", "*", "--"),
    "TripletMarginLoss": ("#D55E00", "x", "--"),
}


def show(table: Sequence[Row], conditions: str) -> None:
    """Prints the table of one size."""
    queries, references = table[0].queries, table[0].references
    size = f"n = {queries:,}" if queries == references else f"{queries:,} queries x {references:,} references"
    print(f"\n{size}, {conditions}\n{'':26}{'ms':>12}{'ratio':>9}{'peak MiB':>10}{'value':>10}")
    for row in table:
        milliseconds = None if row.seconds is None else 1000 * row.seconds
        cells = [
            f"{'-' if number is None else format(number, form):>{width}}"
            for number, form, width in (
                (milliseconds, ",.2f", 12),
                (row.ratio, ",.2f", 9),
                (row.peak_mib, ",.0f", 10),
                (row.value, ".5f", 10),
            )
        ]
        print(f"{row.candidate:26}{''.join(cells)}  {row.note}".rstrip(), flush=True)


def write(table: Sequence[Row], folder: Path) -> None:
    """Writes bench_loss.csv and bench_loss.png."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [column.name for column in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in table)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bench_loss.csv").write_text(text.getvalue(), encoding="utf-8", newline="")
    plot(folder / "bench_loss.csv")


def plot(path: Path) -> None:
    """Draws a table, time on the left and memory on the right, into a PNG beside it.

    Over the number of rows, for the fewest images a class and threads; where there is one number of rows only, over the images a
    class.
    """
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["queries"] == row["references"]]
    over = "queries" if len({row["queries"] for row in rows}) > 1 else "per_class"
    for column in {"threads", "per_class"} - {over}:
        rows = [row for row in rows if int(row[column]) == min(int(each[column]) for each in rows)]
    figure = Figure(figsize=(13, 6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    time, memory = figure.subplots(1, 2)
    _draw(time, rows, over, "ratio", "Time of a step, in products of all scores")
    _draw(memory, rows, over, "peak_mib", "Peak memory of a step, MiB")
    lines = sorted((line for line in time.lines if line.get_xdata().size), key=lambda line: -line.get_ydata()[-1])
    figure.legend(handles=lines, loc="outside right center", frameon=False, fontsize=11)
    figure.savefig(path.with_suffix(".png"))


def _draw(axes: Axes, rows: Sequence[dict[str, str]], over: str, column: str, title: str) -> None:
    for name, (color, marker, line) in STYLES.items():
        points = [(int(row[over]), float(row[column])) for row in rows if row["candidate"] == name and row[column]]
        sizes, numbers = [point[0] for point in points], [point[1] for point in points]
        axes.plot(
            sizes,
            numbers,
            line,
            color=color,
            marker=marker,
            markersize=7,
            linewidth=2.5 if line == "-" else 1.5,
            label=name,
        )
    if any(row[column] for row in rows):
        axes.set_yscale("log")
    axes.set_xscale("log", base=2)
    plain = FuncFormatter(lambda number, _: f"{number:,g}")
    axes.xaxis.set_major_formatter(plain)
    axes.yaxis.set_major_formatter(plain)
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_title(title, loc="left", fontweight="bold")
    axes.set_xlabel("rows in the batch" if over == "queries" else "images a class")
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    plot(Path(sys.argv[1]))
