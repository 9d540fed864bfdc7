"""What a step of a loss costs: time, memory and value, ours and its peers' side by side.

    python scripts/bench_loss.py --out bench                       # n = 512 .. 8192 on one thread
    python scripts/bench_loss.py --sizes 1024 --per-class 2 4 16 64 128 512 --threads 1 2 --only RecallLoss Contrastive
    python scripts/bench_loss.py --large --threads 2               # n = 65,536, and 512 queries against 60,000 references
    python scripts/bench_loss.py --device cuda --memory-gb 60 --out bench

A step goes from raw float32 embeddings, `--per-class` of a class, through their normalisation to the loss, and back to the
gradient of the embeddings (and of the proxies, where there are some). The unit is "one product": all n x n scores of unit rows.
There is a table for each size, number of images a class and number of threads. Class sizes that do not divide a size are left out.
- In each table all candidates take turns for `--repeats` rounds after a round of warming up. Seconds are medians; ratios are to
  the median of the one product. The clock is processor time on one thread, which hardly notices what else the machine does, and
  wall time on several threads and on CUDA, where the device is waited for before and after a step.
- Memory is what a step adds to the peak of a fresh process that has made the inputs, and done a step of 16 classes so that loading
  libraries does not count; on CUDA, to the allocated memory. `--quick` leaves it out.
- A candidate that took more than `--limit` seconds is left out at larger sizes of the same class size and threads. One that needs
  more than `--memory-gb`, computed from the sizes of what it holds at a time, is not started. The note says so. Values compare
  within the recall losses only, which have no noise but where the name says so: there, the default.
`--out` is the folder of the table, bench_loss.csv, and of a plot. torchsort comes with the extra `bench`.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from bench_plot import Row, show, write
from pytorch_metric_learning import losses as pml
from torch import Tensor
from torch.nn.functional import normalize

from retrieval.losses import RecallLoss, RecallSurrogateLoss, SmoothAPLoss, recall_loss
from retrieval.losses.recall import PROJECTIONS
from retrieval.losses.score_matrix import relevance_masks
from retrieval.solvers import Blackbox, solve

PRODUCT = "one product"
NEAR: dict[str, Any] = {
    "projection": "softmax",
    "relevant_temperature": 1.0,
    "spreading": 0.5,
}  # the options of the README


class Batch(NamedTuple):
    """What a loss is given. Without references, the queries rank one another."""

    embeddings: Tensor
    labels: Tensor
    ref_emb: Tensor | None = None
    ref_labels: Tensor | None = None


Step = Callable[[], Tensor | None]
Build = Callable[[Batch], Step]  # makes a step to be done again and again
Need = Callable[[int, int], float]  # bytes that a step holds at a time, from the numbers of queries and references


def candidates(dim: int, per_class: int) -> dict[str, tuple[Build, Need]]:
    """All there is to measure, in the order of the table. The needs were measured at n = 1024 and 2048."""
    return {
        PRODUCT: (all_scores, matrices(1)),
        **{f"RecallLoss {name}": (of_loss(partial(RecallLoss, name, noise=0)), rows(7 * dim)) for name in PROJECTIONS},
        **{
            f"{name} with noise": (of_loss(partial(RecallLoss, name)), rows(7 * dim))
            for name in ("none", "std", "softmax")
        },
        "softmax with noise, near": (of_loss(partial(RecallLoss, **NEAR)), rows(7 * dim)),
        "definition std": (of_scores(partial(recall_loss, projection="std", noise=0)), matrices(18)),
        "definition local": (of_scores(partial(recall_loss, projection="local", noise=0)), matrices(24)),
        **{
            f"RecallLoss {name}, blackbox": (
                of_loss(partial(RecallLoss, name, gradient="blackbox", noise=0)),
                matrices(18),
            )
            for name in PROJECTIONS
            if name not in ("local", "softmax")
        },
        "RaMBO (double argsort)": (of_scores(rambo), matrices(23)),
        "SmoothAPLoss": (of_loss(SmoothAPLoss), matrices(7)),
        "RecallSurrogateLoss": (of_loss(RecallSurrogateLoss), matrices(8)),
        "ContrastiveLoss": (of_loss(pml.ContrastiveLoss), matrices(9)),
        "MultiSimilarityLoss": (of_loss(pml.MultiSimilarityLoss), matrices(17)),
        "FastAPLoss": (of_loss(pml.FastAPLoss), matrices(47)),
        "TripletMarginLoss": (of_loss(pml.TripletMarginLoss), matrices(14 * (per_class - 1))),
        **{
            f"ProxyAnchorLoss {count:,}": (of_loss(partial(pml.ProxyAnchorLoss, count, dim), count), rows(10 * count))
            for count in (100, 11_318)
        },
        "torchsort soft_rank": (of_scores(soft_ranks), matrices(15)),
    }


def matrices(count: float) -> Need:
    """The need of so many float32 matrices of scores."""
    return lambda queries, references: 4 * count * queries * references


def rows(width: float) -> Need:
    """The need of so many float32 numbers for each row."""
    return lambda queries, references: 4 * width * max(queries, references)


def all_scores(batch: Batch) -> Step:
    queries = normalize(batch.embeddings.detach())
    references = queries if batch.ref_emb is None else normalize(batch.ref_emb)

    def step() -> None:
        queries @ references.T

    return step


def of_loss(make: Callable[[], torch.nn.Module], num_labels: int | None = None) -> Callable[[Batch], Step]:
    """A step of a loss of pytorch-metric-learning, with labels below `num_labels`."""

    def build(batch: Batch) -> Step:
        loss = make().to(batch.embeddings.device)
        labels = batch.labels if num_labels is None else batch.labels % num_labels

        def step() -> Tensor:
            value = loss(batch.embeddings, labels, ref_emb=batch.ref_emb, ref_labels=batch.ref_labels)
            torch.autograd.grad(value, [batch.embeddings, *loss.parameters()])
            return value.detach()

        return step

    return build


def of_scores(loss: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Callable[[Batch], Step]:
    """A step of a function of scores and the masks of the relevant and the irrelevant."""

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
    """RaMBO as published (Rolinek et al., CVPR 2020): it ranks three times, once of it backward, by sorting twice."""
    shifted = torch.where(relevant, scores - margin / 2, scores + margin / 2)
    shifted = shifted.masked_fill(~(relevant | irrelevant), -torch.inf)
    among_all = solve(shifted, rank_by_sorting_twice, gradient=Blackbox(lambda_ * scores.shape[1]))
    among_relevant = rank_by_sorting_twice(shifted.detach().masked_fill(~relevant, -torch.inf))
    intruders = (among_all - among_relevant).masked_fill(~relevant, 0)
    return (torch.log1p(torch.log1p(intruders)).sum(1) / relevant.sum(1)).mean()


def rank_by_sorting_twice(scores: Tensor) -> Tensor:
    return scores.argsort(dim=1, descending=True).argsort(dim=1).to(scores.dtype) + 1


def soft_ranks(scores: Tensor, relevant: Tensor, irrelevant: Tensor) -> Tensor:
    """The mean logarithm of the soft ranks (Blondel et al., ICML 2020) of the relevant items."""
    import torchsort

    ascending = torchsort.soft_rank(scores.masked_fill(~(relevant | irrelevant), -2.0), regularization_strength=0.1)
    return torch.log1p((scores.shape[1] - ascending[relevant]).clamp(min=0)).mean()


def make_batch(queries: int, references: int, options: argparse.Namespace) -> Batch:
    """Classes side by side, in random order, of which a part is easy to find: the first row is in all others, a little.

    With references (0 for none), the queries are other views of some of them.
    """
    generator = torch.Generator().manual_seed(0)
    size = references or queries
    labels = torch.randperm(size // options.per_class, generator=generator).repeat_interleave(options.per_class)
    embeddings = torch.randn(size, options.dim, generator=generator)
    classes = embeddings.view(-1, options.per_class, options.dim)
    classes[:, 1:].add_(classes[:, :1], alpha=0.2)  # in place: memory freed here would be used by a step uncounted
    embeddings, labels = embeddings.to(options.device), labels.to(options.device)
    if not references:
        return Batch(embeddings.requires_grad_(), labels)
    views = embeddings[:queries] + torch.randn(queries, options.dim, generator=generator).to(options.device)
    return Batch(views.requires_grad_(), labels[:queries], embeddings, labels)


def seconds(step: Callable[[], object], options: argparse.Namespace) -> float:
    clock = time.process_time if options.device == "cpu" and options.threads == 1 else time.perf_counter
    wait = torch.cuda.synchronize if options.device == "cuda" else lambda: None
    wait()
    start = clock()
    step()
    wait()
    return clock() - start


def peak(options: argparse.Namespace) -> int:
    """The most bytes of memory there were."""
    if options.device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def prepare(options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    logging.getLogger("retrieval").setLevel(logging.ERROR)  # that blackbox has no closed form is no news here


def new_row(name: str, queries: int, references: int, options: argparse.Namespace, note: str = "") -> Row:
    """A row of the table without measurements."""
    return Row(name, queries, references or queries, options.per_class, options.threads, note=note)


def try_once(name: str, queries: int, references: int, options: argparse.Namespace) -> Row:
    """The first step of a candidate, and the memory it takes."""
    prepare(options)
    build, _ = candidates(options.dim, options.per_class)[name]
    build(make_batch(16 * options.per_class, 16 * options.per_class if references else 0, options))()
    step, values = build(make_batch(queries, references, options)), []
    if options.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    before = peak(options)
    row = new_row(name, queries, references, options)
    row.seconds = seconds(lambda: values.append(step()), options)
    row.peak_mib = None if options.quick else (peak(options) - before) / 2**20
    row.value = None if values[0] is None else values[0].item()
    return row


def try_safely(name: str, need: float, queries: int, references: int, options: argparse.Namespace) -> Row:
    """`try_once`, in a fresh process where memory is measured by that, or a row that says why not."""
    given = name, queries, references, options
    if need > options.memory_gb * 1e9:
        return new_row(name, queries, references, options, f"skipped: needs {need / 1e9:.3g} GB (computed)")
    try:
        if options.quick or options.device == "cuda":
            return try_once(*given)
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["retrieval.losses", "pytorch_metric_learning.losses"])
        with ProcessPoolExecutor(1, context) as process:
            return process.submit(try_once, *given).result()
    except ModuleNotFoundError:
        note = "not installed"
    except BrokenProcessPool:
        note = "failed: the process was killed, most likely for want of memory"
    except (RuntimeError, ValueError) as error:  # torch.OutOfMemoryError is a RuntimeError
        note = str(error).splitlines()[0][:80]
    return new_row(name, queries, references, options, note)


def measure(queries: int, references: int, slow: dict[str, str], options: argparse.Namespace) -> list[Row]:
    """The table of one size; adds to `slow` what is to be left out at larger sizes, and why."""
    table, steps = [], {}
    batch = make_batch(queries, references, options)
    for name, (build, need) in candidates(options.dim, options.per_class).items():
        if options.only and not any(part in name for part in (PRODUCT, *options.only)):
            continue
        row = new_row(name, queries, references, options, slow.get(name, ""))
        if not row.note:
            row = try_safely(name, need(queries, references or queries), queries, references, options)
        table.append(row)
        if row.seconds is not None and row.seconds > options.limit:
            row.note, slow[name] = "one step", f"skipped: took {row.seconds:.0f} s at n = {queries:,}"
        elif row.seconds is not None:
            steps[name] = build(batch)
    rounds = [{name: seconds(step, options) for name, step in steps.items()} for _ in range(1 + options.repeats)][1:]
    for row in table:
        if row.candidate in steps:
            row.seconds = statistics.median(times[row.candidate] for times in rounds)
        row.ratio = row.seconds / table[0].seconds if row.seconds and table[0].seconds else None
    return table


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 1024, 2048, 4096, 8192], help="numbers of rows")
    for name, default in (("dim", 512), ("repeats", 5)):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{default} if left out")
    parser.add_argument("--per-class", type=int, nargs="+", default=[4], help="images a class, 4 if left out")
    parser.add_argument("--threads", type=int, nargs="+", default=[1], help="1 if left out")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--limit", type=float, default=60, help="seconds of a step, above which it is the last")
    parser.add_argument("--memory-gb", type=float, default=12, help="computed need above which a step is not done")
    parser.add_argument("--only", nargs="+", default=[], help="parts of the names of candidates")
    parser.add_argument("--large", action="store_true", help="n = 65,536, and 512 queries against 60,000 references")
    parser.add_argument("--quick", action="store_true", help="do not measure memory")
    parser.add_argument("--out", type=Path, help="folder of the table and the plot")
    options = parser.parse_args()
    if not all(any(size % count == 0 for count in options.per_class) for size in options.sizes):
        parser.error(f"--sizes {options.sizes}: not all are multiples of a --per-class of {options.per_class}")
    return options


def main() -> None:
    given = parse()
    shapes = [(512, 60_000), (65_536, 0)] if given.large else [(size, 0) for size in sorted(given.sizes)]
    tables = list[Row]()
    for threads, per_class in product(sorted(given.threads), sorted(given.per_class)):
        options = argparse.Namespace(**vars(given) | {"threads": threads, "per_class": per_class})
        prepare(options)
        slow = dict[str, str]()
        for queries, references in shapes:
            if (references or queries) % per_class == 0:
                table = measure(queries, references, slow, options)
                show(table, f"d = {options.dim}, {per_class} a class, {options.device}, threads: {threads}")
                tables += table
    if given.out:
        write(tables, given.out)


if __name__ == "__main__":
    main()
