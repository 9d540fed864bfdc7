"""What one step of a loss costs: time, memory and value, ours and its peers' side by side.

    python scripts/bench_loss.py --out bench                       # n = 512 .. 8192 on one thread
    python scripts/bench_loss.py --large --threads 2               # n = 65,536, and 512 queries against 60,000 references
    python scripts/bench_loss.py --device cuda --memory-gb 60 --out bench

The protocol:

- A step goes from a batch of raw float32 embeddings, `--dim` numbers each, `--per-class` rows of a class, through their
  normalisation to the loss, and back to the gradient of the embeddings (and of the proxies, where a loss has some). The unit is
  "one product", all n x n scores of rows of norm 1, without gradient.
- At each size all candidates take turns for `--repeats` rounds after a round of warming up. Seconds are medians; ratios are to
  the median of the one product. The clock is the processor time of the process on one thread, which hardly notices what else the
  machine does, and wall time on several threads and on CUDA, where the device is waited for before and after a step.
- Memory is what a step adds to the peak of a fresh process that has made the inputs, and done a step of 64 rows so that loading
  libraries does not count; on CUDA, to the allocated memory. `--quick` leaves it out, and with it a process for every number.
- A candidate that took more than `--limit` seconds is left out at larger sizes; one that needs more than `--memory-gb`, computed
  from the sizes of what it holds at a time, is not started. The note says so. Values compare within the recall losses only.

torchsort is measured if it is there: `pip install --no-build-isolation "retrieval[bench]"`. `--out` writes bench_loss.csv and bench_loss.png.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import io
import logging
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import torch
from bench_plot import plot
from pytorch_metric_learning import losses as pml
from torch import Tensor
from torch.nn.functional import normalize

from retrieval.files import write_text
from retrieval.losses import RecallLoss, recall_loss
from retrieval.losses.recall import PROJECTIONS
from retrieval.losses.recall_surrogate import RecallSurrogateLoss
from retrieval.losses.score_matrix import relevance_masks
from retrieval.losses.smooth_ap import SmoothAPLoss
from retrieval.solvers import Blackbox, solve

PRODUCT = "one product"
COLUMNS = ("queries", "references", "candidate", "seconds", "ratio", "peak_mib", "value", "note")

Step = Callable[[], Tensor | None]
Need = Callable[[int, int, int], float]  # bytes held at a time, from the numbers of queries, references, and dimensions


@dataclass(frozen=True)
class Batch:
    """What a loss is given. Without references, the queries rank one another."""

    embeddings: Tensor
    labels: Tensor
    ref_emb: Tensor | None = None
    ref_labels: Tensor | None = None


@dataclass(frozen=True)
class Candidate:
    """What is measured: `build` makes a step of a batch, to be done again and again."""

    name: str
    build: Callable[[Batch], Step]
    need: Need
    takes_references: bool = True
    library: str = "torch"


@dataclass(frozen=True)
class Trial:
    """One step in a process of its own."""

    seconds: float
    peak_mib: float | None
    value: float | None


@dataclass
class Row:
    """A line of the table; what was not measured is None."""

    queries: int
    references: int
    candidate: str
    seconds: float | None = None
    ratio: float | None = None
    peak_mib: float | None = None
    value: float | None = None
    note: str = ""


def make_batch(queries: int, references: int, options: argparse.Namespace) -> Batch:
    """Classes side by side in random order. Their first row is like the others, the others are hardly like one another.

    Args:
        queries: number of rows, a multiple of `--per-class`.
        references: number of references, or 0 for none; the queries are then other views of some of them.
        options: of the command line.
    """
    generator = torch.Generator().manual_seed(0)
    rows = references or queries
    labels = torch.randperm(rows // options.per_class, generator=generator).repeat_interleave(options.per_class)
    embeddings = torch.randn(rows, options.dim, generator=generator)
    classes = embeddings.view(-1, options.per_class, options.dim)
    classes[:, 1:].add_(classes[:, :1], alpha=0.2)  # in place: freed memory would be used again, and not be counted
    embeddings, labels = embeddings.to(options.device), labels.to(options.device)
    if not references:
        return Batch(embeddings.requires_grad_(), labels)
    views = embeddings[:queries] + torch.randn(queries, options.dim, generator=generator).to(options.device)
    return Batch(views.requires_grad_(), labels[:queries], embeddings, labels)


def candidates(options: argparse.Namespace) -> list[Candidate]:
    """Everything there is to measure, in the order of the table. The needs are rounded measurements at n = 1024 .. 4096."""
    ours = [Candidate(f"RecallLoss {name}", of_loss(lambda name=name: RecallLoss(name)), rows(8)) for name in PROJECTIONS]
    blackbox = [
        Candidate(f"RecallLoss {name}, blackbox", of_loss(lambda name=name: RecallLoss(name, gradient="blackbox")), matrices(11))
        for name in PROJECTIONS
        if name != "local"
    ]
    definitions = [
        Candidate(f"definition {name}", of_scores(lambda *given, name=name: recall_loss(*given, projection=name)), matrices(count))
        for name, count in (("std", 11), ("local", 22))
    ]
    anchors = [
        Candidate(
            f"ProxyAnchorLoss {count:,}",
            of_loss(lambda count=count: pml.ProxyAnchorLoss(count, options.dim), num_labels=count),
            lambda queries, references, dim, count=count: 4 * 11 * queries * count,
            takes_references=False,
        )
        for count in (100, 11_318)
    ]
    return [
        Candidate(PRODUCT, product, matrices(1)),
        *ours,
        *definitions,
        *blackbox,
        Candidate("RaMBO (double argsort)", of_scores(rambo), matrices(12)),
        Candidate("SmoothAPLoss", of_loss(SmoothAPLoss), matrices(6)),
        Candidate("RecallSurrogateLoss", of_loss(RecallSurrogateLoss), matrices(6)),
        Candidate("ContrastiveLoss", of_loss(pml.ContrastiveLoss), matrices(9)),
        Candidate("MultiSimilarityLoss", of_loss(pml.MultiSimilarityLoss), matrices(14)),
        Candidate("FastAPLoss", of_loss(pml.FastAPLoss), matrices(47), takes_references=False),
        Candidate("TripletMarginLoss", of_loss(pml.TripletMarginLoss), lambda q, r, dim: q * r * min(r, 2**31 // (q * r))),
        *anchors,
        Candidate("torchsort soft_rank", of_scores(soft_ranks), matrices(14), library="torchsort"),
    ]


def matrices(count: float) -> Need:
    """The need of `count` float32 matrices of scores."""
    return lambda queries, references, dim: 4 * count * queries * references


def rows(count: float) -> Need:
    """The need of `count` float32 copies of all embeddings."""
    return lambda queries, references, dim: 4 * count * (queries + references) * dim


def product(batch: Batch) -> Step:
    left = normalize(batch.embeddings.detach())
    right = left if batch.ref_emb is None else normalize(batch.ref_emb)

    def step() -> None:
        left @ right.T

    return step


def of_loss(make: Callable[[], torch.nn.Module], num_labels: int | None = None) -> Callable[[Batch], Step]:
    """A step of a loss of pytorch-metric-learning, with labels below `num_labels`."""

    def build(batch: Batch) -> Step:
        loss = make().to(batch.embeddings.device)
        labels = batch.labels if num_labels is None else batch.labels % num_labels
        leaves = [batch.embeddings, *loss.parameters()]

        def step() -> Tensor:
            value = loss(batch.embeddings, labels, ref_emb=batch.ref_emb, ref_labels=batch.ref_labels)
            torch.autograd.grad(value, leaves)
            return value.detach()

        return step

    return build


def of_scores(loss: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Callable[[Batch], Step]:
    """A step of a function of scores and masks of the relevant and the irrelevant."""

    def build(batch: Batch) -> Step:
        embeddings, labels = batch.embeddings, batch.labels
        ref_emb = embeddings if batch.ref_emb is None else batch.ref_emb
        ref_labels = labels if batch.ref_labels is None else batch.ref_labels

        def step() -> Tensor:
            queries = normalize(embeddings)
            scores = queries @ (queries if batch.ref_emb is None else normalize(ref_emb)).T
            value = loss(scores, *relevance_masks(embeddings, labels, None, ref_emb, ref_labels))
            torch.autograd.grad(value, embeddings)
            return value.detach()

        return step

    return build


def rambo(scores: Tensor, relevant: Tensor, irrelevant: Tensor, margin: float = 0.02, lambda_: float = 4.0) -> Tensor:
    """RaMBO as published (Rolinek et al., CVPR 2020): each of its three ranks, one of them in the backward pass, sorts twice."""
    shifted = torch.where(relevant, scores - margin / 2, scores + margin / 2).masked_fill(~(relevant | irrelevant), -torch.inf)
    among_all = solve(shifted, rank_by_sorting_twice, gradient=Blackbox(lambda_ * scores.shape[1]))
    among_relevant = rank_by_sorting_twice(shifted.detach().masked_fill(~relevant, -torch.inf))
    intruders = (among_all - among_relevant).masked_fill(~relevant, 0)
    return (torch.log1p(torch.log1p(intruders)).sum(1) / relevant.sum(1)).mean()


def rank_by_sorting_twice(scores: Tensor) -> Tensor:
    return scores.argsort(dim=1, descending=True).argsort(dim=1).to(scores.dtype) + 1


def soft_ranks(scores: Tensor, relevant: Tensor, irrelevant: Tensor) -> Tensor:
    """The logarithm of the soft ranks (Blondel et al., ICML 2020) of the relevant items."""
    import torchsort

    ascending = torchsort.soft_rank(scores.masked_fill(~(relevant | irrelevant), -2.0), regularization_strength=0.1)
    return torch.log1p((scores.shape[1] - ascending[relevant]).clamp(min=0)).mean()


def seconds(step: Step, options: argparse.Namespace) -> float:
    clock = time.process_time if options.device == "cpu" and options.threads == 1 else time.perf_counter
    wait = torch.cuda.synchronize if options.device == "cuda" else lambda: None
    wait()
    start = clock()
    step()
    wait()
    return clock() - start


def try_once(name: str, queries: int, references: int, options: argparse.Namespace) -> Trial:
    """One step of a candidate with its peak of memory."""
    prepare(options)
    candidate = next(candidate for candidate in candidates(options) if candidate.name == name)
    candidate.build(make_batch(64, 64 if references else 0, options))()
    batch = make_batch(queries, references, options)
    step, values = candidate.build(batch), []
    before = peak_mib(options, start=True)
    taken = seconds(lambda: values.append(step()), options)
    added = peak_mib(options) - before
    return Trial(taken, None if options.quick else added, None if values[0] is None else values[0].item())


def peak_mib(options: argparse.Namespace, start: bool = False) -> float:
    """The most memory there was, in MiB; on CUDA since the last `start`."""
    if options.device == "cuda":
        if start:
            torch.cuda.reset_peak_memory_stats()
        return (torch.cuda.memory_allocated() if start else torch.cuda.max_memory_allocated()) / 2**20
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def try_safely(candidate: Candidate, queries: int, references: int, options: argparse.Namespace) -> Trial | str:
    """`try_once` in a fresh process where that is what memory is measured by, or the reason why not."""
    need = candidate.need(queries, references or queries, options.dim) / 1e9
    if importlib.util.find_spec(candidate.library) is None:
        return "not installed"
    if references and not candidate.takes_references:
        return "takes no references"
    if need > options.memory_gb:
        return f"skipped: needs {need:,.0f} GB (computed)"
    given = candidate.name, queries, references, options
    try:
        if options.quick or options.device == "cuda":
            return try_once(*given)
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as executor:
            return executor.submit(try_once, *given).result()
    except BrokenProcessPool:
        return "process was killed, most likely for want of memory"
    except RuntimeError as error:  # torch's, of which torch.OutOfMemoryError is one
        return f"failed: {str(error).splitlines()[0][:80]}"


def measure(queries: int, references: int, left_out: dict[str, str], options: argparse.Namespace) -> list[Row]:
    """The table of one size; adds to `left_out` the candidates that are too slow for the next, and why."""
    table, steps = [], {}
    batch = make_batch(queries, references, options)
    for candidate in candidates(options):
        if options.only and not any(part in candidate.name for part in [PRODUCT, *options.only]):
            continue
        found: Trial | str = left_out.get(candidate.name) or try_safely(candidate, queries, references, options)
        row = Row(queries, references or queries, candidate.name)
        table.append(row)
        if isinstance(found, str):
            row.note = found
            continue
        row.seconds, row.peak_mib, row.value = found.seconds, found.peak_mib, found.value
        if found.seconds > options.limit:
            row.note = "one step"
            left_out[candidate.name] = f"skipped: {found.seconds:.0f} s at n = {queries:,}"
        else:
            steps[candidate.name] = candidate.build(batch)
    rounds = [{name: seconds(step, options) for name, step in steps.items()} for _ in range(1 + options.repeats)][1:]
    for row in table:
        if row.candidate in steps:
            row.seconds = statistics.median(times[row.candidate] for times in rounds)
    unit = next((row.seconds for row in table if row.candidate == PRODUCT), None)
    for row in table:
        row.ratio = row.seconds / unit if row.seconds and unit else None
    return table


def show(table: Sequence[Row], options: argparse.Namespace) -> None:
    queries, references = table[0].queries, table[0].references
    size = f"n = {queries:,}" if queries == references else f"{queries:,} queries x {references:,} references"
    clock = "processor time" if options.device == "cpu" and options.threads == 1 else "wall time"
    print(f"\n{size}, d = {options.dim}, {options.per_class} a class, {options.device}, {options.threads} threads, {clock}")
    print(f"{'':26}{'ms':>12}{'ratio':>9}{'peak MiB':>10}{'value':>10}")
    for row in table:
        cells = (
            f"{'-' if number is None else format(number, form):>{width}}"
            for number, width, form in (
                (row.seconds and row.seconds * 1000, 12, ",.2f"),
                (row.ratio, 9, ",.2f"),
                (row.peak_mib, 10, ",.0f"),
                (row.value, 10, ".5f"),
            )
        )
        print(f"{row.candidate:26}{''.join(cells)}  {row.note}", flush=True)


def write(tables: Sequence[Row], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: getattr(row, name) for name in COLUMNS} for row in tables)
    write_text(folder / "bench_loss.csv", text.getvalue())
    plot(folder / "bench_loss.csv", folder / "bench_loss.png")


def prepare(options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    logging.getLogger("retrieval").setLevel(logging.ERROR)  # that there is no closed form with blackbox is no news here


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 1024, 2048, 4096, 8192], help="numbers of rows")
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--per-class", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--limit", type=float, default=60, help="seconds after which larger sizes are skipped")
    parser.add_argument("--memory-gb", type=float, default=12, help="computed need from which a candidate is skipped")
    parser.add_argument("--only", nargs="+", help="parts of names of the candidates to measure")
    parser.add_argument("--large", action="store_true", help="n = 65,536, and 512 queries against 60,000 references")
    parser.add_argument("--quick", action="store_true", help="without memory")
    parser.add_argument("--out", type=Path, help="folder of the table and the plot")
    options = parser.parse_args(arguments)
    if any(size % options.per_class for size in options.sizes):
        parser.error(f"--sizes {options.sizes}: not all are multiples of --per-class {options.per_class}")
    return options


def main() -> None:
    options = parse()
    prepare(options)
    left_out: dict[str, str] = {}
    shapes = [(65_536, 0), (512, 60_000)] if options.large else [(size, 0) for size in sorted(options.sizes)]
    tables: list[Row] = []
    for queries, references in shapes:
        table = measure(queries, references, left_out, options)
        show(table, options)
        tables += table
    if options.out:
        write(tables, options.out)


if __name__ == "__main__":
    main()
