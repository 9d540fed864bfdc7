"""Which loss trains the best embeddings at an equal budget? Every run of docs/study.md.

    python scripts/study_losses.py --data SHARED_DATA --out study  # goes on where it was stopped; hours on two cores
    python scripts/study_losses.py --quick --out study             # a minute, on generated glyphs
    python scripts/study_tables.py study                           # the tables

The same network, start, batches, number of steps and schedule for all losses of a task (see study_tasks.py). For each loss:
- search: on thirds of the *training classes* (Omniglot: of the training alphabets), trained on two and measured on the third. Three
  learning rates, half a decade apart, with the first setting; the range grows until the best is not at its edge. Then two more
  settings, and the neighbours of the rate if another setting is better. The best mean of recall@1 + MAP@R is chosen.
- final: the choice, trained on all training classes and measured on the test classes after the last step, for several seeds.

A result is a line of OUT/TASK.jsonl. A run that has its line is not repeated. Runs are computed many at a time (study_batched.py).
"""

from __future__ import annotations

import argparse
import copy
import functools
import itertools
import json
import multiprocessing
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import study_batched
import torch
from pytorch_metric_learning import losses, miners
from study_tasks import (
    DIM,
    QUICK,
    TASKS,
    Split,
    Task,
    apply,
    divide,
    load,
    make_backbone,
    make_network,
    random_views,
    to_float,
    train_mode,
)
from torch import Tensor, nn
from torch.nn import functional

from retrieval import evaluate
from retrieval.data import MPerClassSampler
from retrieval.losses import RecallLoss, RecallSurrogateLoss, SmoothAPLoss

PROXIES = 10  # by how much faster than the network proxies learn
MEASURES = ("recall@1", "map@r")
GRID = 0.5  # decades from one learning rate to the next
REACH = 6  # steps of the grid to either side, at most

Setting = dict[str, Any]
Row = dict[str, Any]


@dataclass(frozen=True)
class Loss:
    """A loss of the study.

    Args:
        original: Makes it from the words of a setting.
        batched: The same for many runs.
        settings: Those that are tried, the usual one first.
        has_proxies: Whether it learns a vector for each class.
        miner: Makes the miner from the words of a setting.
    """

    original: Callable[..., nn.Module]
    batched: Callable[..., Tensor]
    settings: list[Setting]
    has_proxies: bool = False
    miner: Callable[..., nn.Module] | None = None


def settings(name: str, *values: Any) -> list[Setting]:
    return [{name: value} for value in values]


def ours(tried: list[Setting], has_proxies: bool = False, **options: Any) -> Loss:
    make = functools.partial(RecallLoss, **options)
    return Loss(make, functools.partial(study_batched.recall, **options), tried, has_proxies)


NEAR = {"projection": "softmax", "relevant_temperature": 1.0, "spreading": 0.5}
TRIED = [
    {"temperature": 0.7, "weighting": "sqrt"},
    {"temperature": 0.35, "weighting": "sqrt"},
    {"temperature": 0.5, "weighting": "linear"},
]
LOSSES = {
    "near": ours(TRIED, **NEAR),
    "near, proxies": ours(TRIED, has_proxies=True, **NEAR),
    "near, no noise": ours(TRIED, noise=0.0, **NEAR),
    "near, noise 0.3": ours(TRIED, noise=0.3, **NEAR),
    "softmax": ours(settings("temperature", 0.7, 0.35, 2.0), projection="softmax"),
    "std": ours(settings("weighting", "sqrt", "linear", "loglog"), projection="std"),
    "none": ours(settings("weighting", "sqrt", "linear", "loglog"), projection="none"),
    "Smooth-AP": Loss(SmoothAPLoss, study_batched.smooth_ap, settings("tau", 0.03, 0.01, 0.1)),
    "RS@k": Loss(RecallSurrogateLoss, study_batched.recall_surrogate, settings("tau_rank", 0.03, 0.01, 0.1)),
    "MultiSimilarity": Loss(
        losses.MultiSimilarityLoss,
        study_batched.multi_similarity,
        settings("base", 0.5, 0.3, 0.7),
        miner=lambda base: miners.MultiSimilarityMiner(epsilon=0.1),
    ),
    "triplet": Loss(
        losses.TripletMarginLoss,
        study_batched.triplet,
        settings("margin", 0.1, 0.05, 0.2),
        miner=functools.partial(miners.TripletMarginMiner, type_of_triplets="semihard"),
    ),
    "contrastive": Loss(losses.ContrastiveLoss, study_batched.contrastive, settings("neg_margin", 0.5, 0.3, 0.7)),
    "NT-Xent": Loss(losses.NTXentLoss, study_batched.nt_xent, settings("temperature", 0.1, 0.05, 0.2)),
    "SupCon": Loss(losses.SupConLoss, study_batched.sup_con, settings("temperature", 0.1, 0.05, 0.2)),
    "Circle": Loss(losses.CircleLoss, study_batched.circle, settings("gamma", 80, 32, 256)),
    "FastAP": Loss(losses.FastAPLoss, study_batched.fast_ap, settings("num_bins", 10, 5, 20)),
    "ProxyAnchor": Loss(losses.ProxyAnchorLoss, study_batched.proxy_anchor, settings("alpha", 32, 16, 64), True),
    "normalised softmax": Loss(
        losses.NormalizedSoftmaxLoss, study_batched.normalised_softmax, settings("temperature", 0.1, 0.05, 0.2), True
    ),
    "ArcFace": Loss(
        functools.partial(losses.ArcFaceLoss, scale=16),
        study_batched.arc_face,
        settings("margin", 15.0, 5.0, 28.6),
        True,
    ),
}
OURS = tuple(itertools.takewhile(lambda name: name != "Smooth-AP", LOSSES))
PEERS = tuple(name for name in LOSSES if name not in OURS)
# With whole networks:
FINALISTS = ("near", "softmax", "NT-Xent", "contrastive", "MultiSimilarity", "SupCon", "normalised softmax")


class Mined(nn.Module):
    """A loss on the pairs or triplets that its miner finds."""

    def __init__(self, loss: nn.Module, miner: nn.Module) -> None:
        super().__init__()
        self.loss, self.miner = loss, miner

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        loss: Tensor = self.loss(embeddings, labels, self.miner(embeddings, labels))
        return loss


def original(name: str, setting: Setting, num_classes: int, dim: int) -> nn.Module:
    """The loss that `batched` stands for."""
    loss = LOSSES[name]
    proxies = {"num_classes": num_classes, "embedding_size": dim} if loss.has_proxies else {}
    made = loss.original(**setting, **proxies)
    return Mined(made, loss.miner(**setting)) if loss.miner else made


def batched(
    name: str,
    setting: Setting,
    embeddings: Tensor,
    per_class: int,
    proxies: Tensor | None,
    classes: Tensor,
    **more: Any,
) -> Tensor:
    """The losses (runs,) of embeddings (runs, batch, dim); see study_batched.py."""
    words = {"proxies": proxies, "classes": classes} if LOSSES[name].has_proxies else {}
    return LOSSES[name].batched(embeddings, per_class, **setting, **words, **more)


@dataclass(frozen=True)
class Run:
    """What is run: all that its outcome depends on."""

    loss: str
    setting: Setting = field(hash=False)
    learning_rate: float
    seed: int
    fold: int | None  # of the training classes, to be measured on; None: the test classes

    @property
    def group(self) -> str:
        """Equal for runs whose losses are computed together."""
        return json.dumps([self.loss, self.setting])


def train(task: Task, data: Path | None, split: Split, runs: list[Run]) -> list[nn.Module]:
    """The networks of some runs after the last step."""
    runs_of = [list(group) for _, group in itertools.groupby(runs, lambda run: run.group)]
    networks, starts = [], {}
    for run in runs:
        if run.seed not in starts:
            torch.manual_seed(run.seed)
            starts[run.seed] = make_network(task, data, split)
        networks.append(copy.deepcopy(starts[run.seed]))
        train_mode(networks[-1], task)
    proxies = [[make_proxies(run, split.num_classes) for run in group] for group in runs_of]
    groups: list[dict[str, Any]] = [
        {"params": list(network.parameters()), "lr": run.learning_rate, "weight_decay": 1e-4}
        for run, network in zip(runs, networks, strict=True)
    ]
    for run, found in zip(runs, itertools.chain.from_iterable(proxies), strict=True):
        if found is not None:
            groups.append({"params": [found], "lr": PROXIES * run.learning_rate, "weight_decay": 0.0})
    optimizer = torch.optim.AdamW(groups, fused=True)
    rates = [group["lr"] for group in groups]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, task.steps, pct_start=0.1)
    batches = {seed: Batches(task, split, seed) for seed in starts}
    for _ in range(task.steps):
        drawn = {seed: batch.draw() for seed, batch in batches.items()}
        outputs = iter(network(drawn[run.seed][0]) for run, network in zip(runs, networks, strict=True))
        value = torch.zeros(())
        for group, own in zip(runs_of, proxies, strict=True):
            embeddings = functional.normalize(torch.stack([next(outputs) for _ in group]), dim=2)
            stacked = functional.normalize(torch.stack(own), dim=2) if own[0] is not None else None
            classes = torch.stack([drawn[run.seed][1] for run in group])
            loss, setting = group[0].loss, group[0].setting
            value = value + batched(loss, setting, embeddings, task.per_class, stacked, classes).sum()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        schedule.step()
    return networks


class Batches:
    """The batches of a seed: inputs (batch, ...), those of a class together, and the classes (batch // per_class,)."""

    def __init__(self, task: Task, split: Split, seed: int) -> None:
        self.task, self.split = task, split
        self.generator = torch.Generator().manual_seed(seed)
        size = min(task.batch, task.per_class * split.num_classes)
        sampler = MPerClassSampler(split.labels, size, task.per_class, seed=seed)
        self.rows = itertools.chain.from_iterable(sampler.epoch(epoch) for epoch in itertools.count())

    def draw(self) -> tuple[Tensor, Tensor]:
        rows = next(self.rows)
        rows = rows[np.argsort(self.split.labels[rows], kind="stable")]
        images = to_float(self.split.inputs[rows], self.task)
        if self.task.crops:
            images = random_views(images, self.generator)
        return images, torch.from_numpy(self.split.labels[rows][:: self.task.per_class])


def make_proxies(run: Run, num_classes: int) -> Tensor | None:
    """The proxies (num_classes, DIM) as their loss begins with them; None for a loss without."""
    torch.manual_seed(run.seed)
    found = list(original(run.loss, run.setting, num_classes, DIM).parameters())
    if not found:
        return None
    (proxies,) = found
    rows = proxies.detach() if len(proxies) == num_classes else proxies.detach().T
    return rows.clone().requires_grad_()


def measure(network: nn.Module, task: Task, split: Split) -> Row:
    """recall@1 and MAP@R in percent; 0 for a network that has diverged."""
    embeddings = functional.normalize(apply(network, split.inputs, task), dim=1)
    if not embeddings.isfinite().all():
        return dict.fromkeys(MEASURES, 0.0)
    found = evaluate(embeddings.numpy(), split.labels, ks=(1,), metrics=("recall", "map@r"))
    return {name: round(100 * found[name], 3) for name in MEASURES}


class Missing(Exception):
    """Raised with the runs that a decision waits for."""


class AtTheEdge(Exception):
    """Raised where the best learning rate is at the edge of the grid, so that it cannot be said to be the best."""


class Choice:
    """The search for the setting and the learning rate of a loss, from the rows that are known.

    Args:
        task: The task.
        loss: The name of the loss.
        rows: Results of runs, by any loss.
    """

    def __init__(self, task: Task, loss: str, rows: Iterable[Row]) -> None:
        self.task, self.loss = task, loss
        self.rows = [row for row in rows if row["loss"] == loss]

    def missing(self) -> list[Run]:
        """The runs to make next; none if the final ones are known, or if there can be none."""
        try:
            self.final()
        except Missing as error:
            return list(error.args)
        except AtTheEdge:
            return []
        return []

    def final(self) -> list[Row]:
        """The results of the final runs, by seed.

        Raises:
            Missing: Not all results are known.
            AtTheEdge: There are no final runs.
        """
        setting, rate = self.choose()
        return self._find(Run(self.loss, setting, rate, seed, None) for seed in range(self.task.seeds))

    def choose(self) -> tuple[Setting, float]:
        first, *others = LOSSES[self.loss].settings
        step = self._best_step(first, 0)
        found = self._trials([(setting, step) for setting in (first, *others)])
        chosen = (first, *others)[int(np.argmax(found))]
        if chosen != first:
            step = self._best_step(chosen, step)
        return chosen, self._rate(step)

    def _best_step(self, setting: Setting, step: int) -> int:
        """The step of the grid of learning rates that is better than both of its neighbours."""
        while abs(step) < REACH:
            found = self._trials([(setting, other) for other in (step - 1, step, step + 1)])
            best = step + int(np.argmax(found)) - 1
            if best == step:
                return step
            step = best
        raise AtTheEdge(f"{self.loss}: the best learning rate {self._rate(step):g} is at the edge of the grid")

    def _rate(self, step: int) -> float:
        return float(f"{self.task.learning_rate * 10 ** (GRID * step):.2g}")

    def _trials(self, pairs: list[tuple[Setting, int]]) -> list[float]:
        """The means of recall@1 + MAP@R over the folds, of settings and steps of the grid."""
        folds = self.task.folds
        runs = [Run(self.loss, words, self._rate(step), 0, fold) for words, step in pairs for fold in range(folds)]
        sums = [sum(row[name] for name in MEASURES) for row in self._find(runs)]
        return np.reshape(sums, (len(pairs), folds)).mean(1).tolist()

    def _find(self, runs: Iterable[Run]) -> list[Row]:
        found = [(run, next((row for row in self.rows if asdict(run).items() <= row.items()), None)) for run in runs]
        if missing := [run for run, row in found if row is None]:
            raise Missing(*missing)
        return [row for _, row in found if row is not None]


def study(name: str, options: argparse.Namespace) -> str:
    """All runs of a task of which the results are not known."""
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)  # a run that diverges would take many times as long
    task, path = (TASKS | QUICK)[name], options.out / f"{name}.jsonl"
    rows, arrays = read_rows(path), load(task, options.out, options.data)

    def add(found: list[Row]) -> None:
        rows.extend(found)
        with path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in found)

    if not any(row["loss"] in STARTS for row in rows):
        add(measure_starts(task, options.data, *divide(arrays, None, task.step)))
    names = [loss for loss in options.losses if task.regime != "whole" or loss in FINALISTS]
    while missing := [run for loss in names for run in Choice(task, loss, rows).missing()]:
        fold = missing[0].fold
        together = [run for run in missing if run.fold == fold][: task.together]
        training, measured = divide(arrays, fold, task.step)
        networks = train(task, options.data, training, together)
        add([asdict(run) | measure(net, task, measured) for run, net in zip(together, networks, strict=True)])
    return name


STARTS = ("frozen features", "start")  # rows without training


def measure_starts(task: Task, data: Path | None, training: Split, measured: Split) -> list[Row]:
    """The rows of the frozen features, if there are any, and of the network at its start."""
    torch.manual_seed(0)
    networks = {"start": make_network(task, data, training)}
    if task.regime != "scratch":
        networks["frozen features"] = nn.Identity() if task.regime == "features" else make_backbone(task, data)
    return [
        {"loss": name, "seed": 0, "fold": None} | measure(network, task, measured) for name, network in networks.items()
    ]


def read_rows(path: Path) -> list[Row]:
    """The complete lines of a file; one that a kill has cut off is run again."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    if text and not text.endswith("\n"):
        text = text[: text.rfind("\n") + 1]
        path.write_text(text, encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def main() -> None:
    """Runs what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--data", type=Path, help="folder of the archives and weights")
    parser.add_argument("--jobs", type=int, default=2, help="tasks at a time; 2 if left out")
    parser.add_argument("--threads", type=int, default=1, help="of each task; 1 if left out")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), help="all if left out")
    parser.add_argument("--losses", nargs="+", choices=LOSSES, default=list(LOSSES), help="all if left out")
    parser.add_argument("--quick", action="store_true", help="a few steps of two losses on generated glyphs")
    options = parser.parse_args()
    if options.quick:
        options.tasks, options.losses = list(QUICK), ["softmax", "MultiSimilarity"]
    elif options.data is None:
        parser.error("--data is needed, or --quick")
    options.out.mkdir(parents=True, exist_ok=True)
    for task in options.tasks:
        load((TASKS | QUICK)[task], options.out, options.data)  # once, not in every process
    with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn")) as processes:
        waiting = [processes.submit(study, task, options) for task in options.tasks]
        try:
            for future in as_completed(waiting):
                print("finished:", future.result(), flush=True)
        except BaseException:  # without this, all that waits would be run first
            processes.shutdown(wait=False, cancel_futures=True)
            raise


if __name__ == "__main__":
    main()
