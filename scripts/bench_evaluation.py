"""What an exact evaluation costs: time, memory and recall@1, ours and others' side by side.

    python scripts/bench_evaluation.py --out bench  # the sizes of CUB-200 and of Online Products, and one between
    python scripts/bench_evaluation.py --sizes 60502 --threads 2 --only evaluate faiss

Every item is a query against all others; the embeddings are random around one centre a class. The unit is "one product": all
n x n scores, in tiles that are dropped at once.
- Memory and the first time are taken in a fresh process: what a call adds to the peak of a process that has the embeddings and
  has evaluated a few of them, so that loading libraries does not count.
- Candidates that took less than `--once` seconds then take turns for `--repeats` rounds; seconds are medians. The others have
  been measured once. The clock is processor time on one thread, which hardly notices what else the machine does, and wall time
  on several.
- A candidate that needs more than `--memory-gb`, computed from its measured need for each pair of items, is not started.
`--out` is the folder of the table, bench_evaluation.csv.
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from retrieval.evaluation import METRICS, evaluate

PRODUCT = "one product"
KS = (1, 10, 100, 1000)
CUB = 5_924
SMALL = 6_000  # items above which the NumPy reference is left out


@dataclass
class Row:
    """A line of the table; what was not measured is None."""

    candidate: str
    items: int
    seconds: float | None = None
    ratio: float | None = None
    peak_mib: float | None = None
    recall_at_1: float | None = None
    note: str = ""


Candidate = Callable[[np.ndarray, np.ndarray], float | None]  # from embeddings and labels; returns recall@1


def product(embeddings: np.ndarray, labels: np.ndarray) -> None:
    rows, tile = torch.from_numpy(embeddings), torch.empty(1024, 4096)
    for queries in rows.split(1024):
        for items in rows.split(4096):
            torch.mm(queries, items.T, out=tile[: len(queries), : len(items)])


def all_metrics(embeddings: np.ndarray, labels: np.ndarray) -> float:
    return evaluate(embeddings, labels, ks=usable(embeddings), metrics=METRICS)["recall@1"]


def recall_only(embeddings: np.ndarray, labels: np.ndarray) -> float:
    return evaluate(embeddings, labels, ks=usable(embeddings), metrics=("recall",))["recall@1"]


def faiss_flat(embeddings: np.ndarray, labels: np.ndarray) -> float:
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexFlatIP(embeddings.shape[1])
    index.add(embeddings)
    _, neighbours = index.search(embeddings, max(usable(embeddings)) + 1)
    return first_is_right(neighbours, labels)


def torch_top_k(embeddings: np.ndarray, labels: np.ndarray) -> float:
    rows = torch.from_numpy(embeddings)
    found = [(block @ rows.T).topk(max(usable(embeddings)) + 1).indices for block in rows.split(1024)]
    return first_is_right(torch.cat(found).numpy(), labels)


def calculator(k: str | None) -> Candidate:
    def measure(embeddings: np.ndarray, labels: np.ndarray) -> float:
        from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

        names = ("precision_at_1", "mean_average_precision_at_r", "r_precision")
        return float(AccuracyCalculator(include=names, k=k).get_accuracy(embeddings, labels)["precision_at_1"])

    return measure


def numpy_reference(embeddings: np.ndarray, labels: np.ndarray) -> float:
    return first_is_right((-embeddings @ embeddings.T).argsort(axis=1), labels)


def usable(embeddings: np.ndarray) -> tuple[int, ...]:
    return tuple(k for k in KS if k < len(embeddings))


def first_is_right(neighbours: np.ndarray, labels: np.ndarray) -> float:
    """recall@1 from neighbours (num_items, 2 or more) of which an item itself is one of the first two."""
    own = neighbours[:, 0] == np.arange(len(labels))
    return float((labels[np.where(own, neighbours[:, 1], neighbours[:, 0])] == labels).mean())


# What there is to measure, and the bytes that it holds for each pair of items.
CANDIDATES: dict[str, tuple[Candidate, float]] = {
    PRODUCT: (product, 0),
    "evaluate, all metrics": (all_metrics, 0),
    "evaluate, recall only": (recall_only, 0),
    "faiss IndexFlatIP k=1001": (faiss_flat, 0),
    "torch matmul + topk k=1001": (torch_top_k, 0),
    "AccuracyCalculator": (calculator(None), 65),
    "AccuracyCalculator max_bin_count": (calculator("max_bin_count"), 2.5),
    "NumPy argsort": (numpy_reference, 24),
}


def make_embeddings(items: int, options: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors around one centre a class, in random order; classes of CUB-200's size at its number of items."""
    generator = np.random.default_rng(0)
    labels = generator.permutation(np.arange(items) // (59 if items == CUB else options.per_class))
    vectors = generator.standard_normal((items, options.dim), dtype=np.float32)
    vectors += generator.standard_normal((labels.max() + 1, options.dim), dtype=np.float32)[labels] / options.spread
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors, labels


def measure(candidate: Candidate, data: tuple[np.ndarray, np.ndarray], threads: int) -> tuple[float, float | None]:
    """Seconds, and recall@1."""
    clock = time.process_time if threads == 1 else time.perf_counter
    start = clock()
    value = candidate(*data)
    return clock() - start, value


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def try_once(name: str, items: int, options: argparse.Namespace) -> Row:
    """The first time and the memory of a candidate."""
    torch.set_num_threads(options.threads)
    candidate, _ = CANDIDATES[name]
    data = make_embeddings(items, options)
    candidate(data[0][:64], np.arange(64) // 2)
    before = peak()
    row = Row(name, items)
    row.seconds, row.recall_at_1 = measure(candidate, data, options.threads)
    row.peak_mib = (peak() - before) / 2**20
    row.note = "once"
    return row


def try_safely(name: str, items: int, options: argparse.Namespace) -> Row:
    """`try_once` in a fresh process, or a row that says why not."""
    need = CANDIDATES[name][1] * items**2
    if need > options.memory_gb * 1e9:
        return Row(name, items, note=f"skipped: needs {need / 1e9:.3g} GB (computed)")
    if name.startswith("NumPy") and items > SMALL:
        return Row(name, items, note=f"skipped: for at most {SMALL:,} items")
    try:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            return process.submit(try_once, name, items, options).result()
    except BrokenProcessPool:
        return Row(name, items, note="failed: the process was killed, most likely for want of memory")


def bench(items: int, options: argparse.Namespace) -> list[Row]:
    """The table of one size."""
    names = [n for n in CANDIDATES if n == PRODUCT or not options.only or any(part in n for part in options.only)]
    table = [try_safely(name, items, options) for name in names]
    data = make_embeddings(items, options)
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
    print(f"\n{table[0].items:,} items, d = {options.dim}, threads: {options.threads}")
    print(f"{'':34}{'seconds':>9}{'ratio':>8}{'MiB':>8}{'recall@1':>10}")
    for row in table:
        cells = [(row.seconds, "9.2f"), (row.ratio, "8.2f"), (row.peak_mib, "8.0f"), (row.recall_at_1, "10.5f")]
        text = "".join(
            f"{'-':>{int(form.split('.')[0])}}" if cell is None else f"{cell:{form}}" for cell, form in cells
        )
        print(f"{row.candidate:34}{text}  {row.note}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[CUB, 11_000, 60_502], help="numbers of items")
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
