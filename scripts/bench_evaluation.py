"""What an exact evaluation costs: time, memory and recall@1, ours and others' side by side.

    python scripts/bench_evaluation.py --out bench  # the sizes of CUB-200 and of Online Products, and one between
    python scripts/bench_evaluation.py --sizes 60502 --threads 2 --only evaluate faiss
    python scripts/bench_evaluation.py --sizes 10000 --gallery 1000000 --dim 256 --threads 2 --only evaluate faiss

Every item is a query against all others, or against a gallery of `--gallery` more; the embeddings are random around one centre a
class. The unit is "one product": the scores of all pairs, in tiles that are dropped at once.
- Memory and the first time are taken in a fresh process. "MiB" is what a call adds to a process that has the embeddings and has
  evaluated a few of them, so that loading libraries does not count (where a peak cannot be restarted, which is Linux's, making
  the embeddings may hide some of it); "in all" is the peak of the whole process.
- Candidates that took less than `--once` seconds then take turns for `--repeats` rounds; seconds are medians. The others have
  been measured once. The clock is processor time on one thread, which hardly notices what else the machine does, and wall time
  on several.
- A candidate that needs more than `--memory-gb`, computed from its measured need for each pair of items, is not started.
`--out` is the folder of the table, bench_evaluation.csv.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import multiprocessing
import re
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from retrieval import evaluate

PRODUCT = "one product"
METRICS = ("recall", "precision", "map@r", "r_precision", "mrr")
KS = (1, 10, 100, 1000)
CUB = 5_924
SMALL = 6_000  # items above which the NumPy reference is left out
ROWS = 4_096  # of the embeddings that are made at a time


@dataclass
class Row:
    """A line of the table; what was not measured is None."""

    candidate: str
    items: int
    gallery: int
    seconds: float | None = None
    ratio: float | None = None
    peak_mib: float | None = None
    process_mib: float | None = None
    recall_at_1: float | None = None
    note: str = ""


class Data(NamedTuple):
    """Items, and a gallery or None: they are their own."""

    embeddings: np.ndarray
    labels: np.ndarray
    gallery: np.ndarray | None = None
    gallery_labels: np.ndarray | None = None

    @property
    def searched(self) -> np.ndarray:
        return self.embeddings if self.gallery is None else self.gallery

    @property
    def ks(self) -> tuple[int, ...]:
        return tuple(k for k in KS if k < len(self.searched))


Candidate = Callable[[Data], float | None]  # returns recall@1


def product(data: Data) -> None:
    tile = torch.empty(1024, 4096)
    for queries in torch.from_numpy(data.embeddings).split(1024):
        for items in torch.from_numpy(data.searched).split(4096):
            torch.mm(queries, items.T, out=tile[: len(queries), : len(items)])


def ours(metrics: Sequence[str]) -> Candidate:
    def measure(data: Data) -> float:
        embeddings, labels, gallery, gallery_labels = data
        figures = evaluate(
            embeddings, labels, ks=data.ks, gallery=gallery, gallery_labels=gallery_labels, metrics=metrics
        )
        return figures["recall@1"]

    return measure


def faiss_flat(data: Data) -> float:
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexFlatIP(data.embeddings.shape[1])
    index.add(data.searched)
    _, neighbours = index.search(data.embeddings, max(data.ks) + 1)
    return first_is_right(neighbours, data)


def torch_top_k(data: Data) -> float:
    items = torch.from_numpy(data.searched)
    blocks = torch.from_numpy(data.embeddings).split(1024)
    found = [(block @ items.T).topk(max(data.ks) + 1).indices for block in blocks]
    return first_is_right(torch.cat(found).numpy(), data)


def calculator(k: str | None) -> Candidate:
    def measure(data: Data) -> float:
        from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

        names = ("precision_at_1", "mean_average_precision_at_r", "r_precision")
        given = [array for array in data if array is not None]
        return float(AccuracyCalculator(include=names, k=k).get_accuracy(*given)["precision_at_1"])

    return measure


def numpy_reference(data: Data) -> float:
    return first_is_right((-data.embeddings @ data.searched.T).argsort(axis=1), data)


def first_is_right(neighbours: np.ndarray, data: Data) -> float:
    """recall@1 from neighbours (num_items, 2 or more), of which an item that is its own gallery is one of the first two."""
    if data.gallery_labels is not None:
        return float((data.gallery_labels[neighbours[:, 0]] == data.labels).mean())
    own = neighbours[:, 0] == np.arange(len(data.labels))
    return float((data.labels[np.where(own, neighbours[:, 1], neighbours[:, 0])] == data.labels).mean())


# What there is to measure, and the bytes that it holds for each pair of items.
CANDIDATES: dict[str, tuple[Candidate, float]] = {
    PRODUCT: (product, 0),
    "evaluate, all metrics": (ours(METRICS), 0),
    "evaluate, recall only": (ours(("recall",)), 0),
    "faiss IndexFlatIP k=1001": (faiss_flat, 0),
    "torch matmul + topk k=1001": (torch_top_k, 0),
    "AccuracyCalculator": (calculator(None), 65),
    "AccuracyCalculator max_bin_count": (calculator("max_bin_count"), 2.5),
    "NumPy argsort": (numpy_reference, 24),
}


def make_data(items: int, options: argparse.Namespace) -> Data:
    """Unit vectors around one centre a class, in random order; classes of CUB-200's size at its number of items."""
    generator = np.random.default_rng(0)
    per_class = 59 if items == CUB and not options.gallery else options.per_class
    labels = generator.permutation(np.arange(items + options.gallery) // per_class)
    centres = generator.standard_normal((labels.max() + 1, options.dim), dtype=np.float32) / options.spread
    vectors = np.empty((len(labels), options.dim), dtype=np.float32)
    for start in range(0, len(labels), ROWS):
        rows = slice(start, start + ROWS)
        generator.standard_normal(out=vectors[rows], dtype=np.float32)
        vectors[rows] += centres[labels[rows]]
        vectors[rows] /= np.linalg.norm(vectors[rows], axis=1, keepdims=True)
    if not options.gallery:
        return Data(vectors, labels)
    return Data(vectors[:items], labels[:items], vectors[items:], labels[items:])


def measure(candidate: Candidate, data: Data, threads: int) -> tuple[float, float | None]:
    """Seconds, and recall@1."""
    clock = time.process_time if threads == 1 else time.perf_counter
    start = clock()
    value = candidate(data)
    return clock() - start, value


def restart_peak() -> None:
    """Lets the peak start from what the process has now, where the system can do that."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """Bytes. On Linux not those of getrusage, which include what the parent had when it started this process."""
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s*(\d+) kB", status.read_text()) if status.exists() else None
    if found:
        return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def try_once(name: str, items: int, options: argparse.Namespace) -> Row:
    """The first time and the memory of a candidate."""
    torch.set_num_threads(options.threads)
    candidate, _ = CANDIDATES[name]
    data = make_data(items, options)
    some = data.embeddings[:64], np.arange(64) // 2
    candidate(Data(*some, *some) if options.gallery else Data(*some))
    restart_peak()
    before = peak()
    row = Row(name, items, options.gallery)
    row.seconds, row.recall_at_1 = measure(candidate, data, options.threads)
    row.peak_mib, row.process_mib = (peak() - before) / 2**20, peak() / 2**20
    row.note = "once"
    return row


def try_safely(name: str, items: int, options: argparse.Namespace) -> Row:
    """`try_once` in a fresh process, or a row that says why not."""
    need = CANDIDATES[name][1] * items * (options.gallery or items)
    if need > options.memory_gb * 1e9:
        return Row(name, items, options.gallery, note=f"skipped: needs {need / 1e9:.3g} GB (computed)")
    if name.startswith("NumPy") and max(items, options.gallery) > SMALL:
        return Row(name, items, options.gallery, note=f"skipped: for at most {SMALL:,} items")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["retrieval.evaluation", "pytorch_metric_learning.utils.accuracy_calculator"])
    try:
        with ProcessPoolExecutor(1, context) as process:
            return process.submit(try_once, name, items, options).result()
    except BrokenProcessPool:
        return Row(name, items, options.gallery, note="failed: the process was killed, most likely for want of memory")


def bench(items: int, options: argparse.Namespace) -> list[Row]:
    """The table of one size."""
    names = [n for n in CANDIDATES if n == PRODUCT or not options.only or any(part in n for part in options.only)]
    table = [try_safely(name, items, options) for name in names]
    data = make_data(items, options)
    again = [row for row in table if row.seconds is not None and row.seconds < options.once]
    times: dict[str, list[float]] = {row.candidate: [] for row in again}
    for _ in range(options.repeats):
        for row in again:
            times[row.candidate].append(measure(CANDIDATES[row.candidate][0], data, options.threads)[0])
    for row in again if options.repeats else []:
        row.seconds, row.note = statistics.median(times[row.candidate]), ""
    for row in table:
        row.ratio = row.seconds / table[0].seconds if row.seconds and table[0].seconds else None
    return table


def show(table: list[Row], options: argparse.Namespace) -> None:
    gallery = f" against a gallery of {options.gallery:,}" if options.gallery else ""
    print(f"\n{table[0].items:,} items{gallery}, d = {options.dim}, threads: {options.threads}")
    print(f"{'':34}{'seconds':>9}{'ratio':>8}{'MiB':>8}{'in all':>8}{'recall@1':>10}")
    for row in table:
        cells = [(row.seconds, "9.2f"), (row.ratio, "8.2f"), (row.peak_mib, "8.0f"), (row.process_mib, "8.0f")]
        cells.append((row.recall_at_1, "10.5f"))
        text = "".join(
            f"{'-':>{int(form.split('.')[0])}}" if cell is None else f"{cell:{form}}" for cell, form in cells
        )
        print(f"{row.candidate:34}{text}  {row.note}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[CUB, 11_000, 60_502], help="numbers of items")
    parser.add_argument(
        "--gallery", type=int, default=0, help="items of a gallery; 0, if left out: the items themselves"
    )
    for name, default in (("dim", 512), ("per-class", 5), ("repeats", 3), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{default} if left out")
    parser.add_argument(
        "--spread", type=float, default=3, help="spread of a class by that of the centres; 3 if left out"
    )
    parser.add_argument("--once", type=float, default=20, help="seconds above which a candidate is measured once")
    parser.add_argument("--memory-gb", type=float, default=12, help="computed need above which nothing is started")
    parser.add_argument("--only", nargs="+", default=[], help="parts of the names of candidates")
    parser.add_argument("--out", type=Path, help="folder of the table")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows: list[Row] = []
    for items in options.sizes:
        table = bench(items, options)
        show(table, options)
        rows += table
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        with (options.out / "bench_evaluation.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(asdict(rows[0])), lineterminator="\n")
            writer.writeheader()
            writer.writerows(asdict(row) for row in rows)


if __name__ == "__main__":
    main()
