"""Which loss trains the best embeddings at an equal budget? Every run of docs/study.md, and nothing else.

    python scripts/study_losses.py --data DATA --weights mobilenetv2_100.safetensors --out study  # goes on where it was stopped
    python scripts/study_losses.py --quick --out study  # minutes, on generated glyphs: no data, no weights
    python scripts/study_tables.py study                # the tables and the pictures

DATA holds the folders cub200/CUB_200_2011, cars196 and omniglot. Every run is a line of results.jsonl in the folder `--out`: what
was run and what came out. A run that has its line is not repeated, so that a study can be stopped and continued.

The same network, sampler, batch, number of steps and schedule for all losses of a task. For each loss:
- search: as many trials for each, 4 learning rates x 3 settings, on thirds of the *training classes* (Omniglot: of the
  training alphabets): trained on two, measured on the third. The trial with the best mean of recall@1 + MAP@R is chosen.
  For whole networks 3 learning rates, with the setting that was best on the frozen features.
- final: the chosen setting, trained on all training classes and measured on the test classes after the last step; seeds 0 to 4,
  or 2 for whole networks. On frozen features also the setting with the best sum over both data sets, and a learning rate for each.
Then some of them with other sizes of batch and class, and with a memory (`curves`).
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import multiprocessing
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_metric_learning import losses, miners
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from retrieval import Preprocessing, evaluate
from retrieval.data import MPerClassSampler, read_dataset
from retrieval.data.transforms import resize_and_crop
from retrieval.losses import CrossBatchMemory, RecallLoss, RecallSurrogateLoss, SmoothAPLoss
from retrieval.networks import create_embedder
from retrieval.solvers import Blackbox

DIM = 128
PROXIES = 10  # by how much faster than the network proxies learn
IMAGENET = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])


@dataclass(frozen=True)
class Task:
    """A data set, what is trained on it, and the budget.

    Args:
        dataset: its name in `retrieval.data`, and the options of its reader.
        network: "head" (a linear layer on frozen features), "conv4" (four convolutions, from scratch) or "whole" (all of the
            pretrained network, on random crops).
        size: of the images; frozen features come from images of this size.
        learning_rates: of all losses' trials.
        folds: how many of the three folds of the training classes the search uses.
    """

    dataset: str
    options: dict[str, Any]
    network: str
    size: int
    resize: int
    steps: int
    learning_rates: tuple[float, ...]
    folds: int
    batch: int = 128
    seeds: int = 5


CUB = {"train_classes": [1, 25], "test_classes": [26, 50]}
CARS = {"halves": ["train"]}
RATES = (1e-4, 3e-4, 1e-3, 3e-3)
TASKS = {
    "cub200_features": Task("cub200", CUB, "head", 128, 146, 150, (3e-5, 1e-4, 3e-4, 1e-3), 3),
    "cars196_features": Task("cars196", CARS, "head", 128, 128, 300, RATES, 2),
    "omniglot": Task("omniglot", {}, "conv4", 28, 28, 200, (1e-3, 3e-3, 5e-3, 1e-2), 3),
    "cub200_whole": Task("cub200", CUB, "whole", 96, 112, 60, (1e-4, 3e-4, 1e-3), 1, batch=64, seeds=3),
    "cars196_whole": Task("cars196", CARS, "whole", 96, 112, 60, (1e-4, 3e-4, 1e-3), 1, batch=64, seeds=3),
}
HEADS = tuple(name for name, task in TASKS.items() if task.network == "head")
QUICK = {"glyphs": Task("glyphs", {}, "conv4", 28, 28, 20, (3e-3,), 1)}

Make = Callable[..., nn.Module]  # from a setting's words
Setting = dict[str, Any]


def settings(**words: Iterable[Any]) -> list[Setting]:
    """All combinations of the words' values."""
    return [dict(zip(words, values, strict=True)) for values in itertools.product(*words.values())]


WEIGHTINGS = ("loglog", "log", "sqrt", "linear")
PROJECTIONS = ("none", "mean", "norm", "std")


def blackbox(lambda_: float, **options: Any) -> RecallLoss:
    return RecallLoss(weighting="loglog", gradient=Blackbox(lambda_), **options)


# name: how a loss is made, and its three settings
LOSSES: dict[str, tuple[Make, list[Setting]]] = {
    "softmax": (functools.partial(RecallLoss, "softmax", "sqrt"), settings(temperature=(0.35, 0.7, 2.0))),
    "local": (
        functools.partial(RecallLoss, "local"),
        [
            {"weighting": "linear", "local_margin": 0.5},
            {"weighting": "sqrt", "local_margin": 1.0},
            {"weighting": "log", "local_margin": 2.0},
        ],
    ),
    **{
        name: (functools.partial(RecallLoss, name), settings(weighting=("loglog", "sqrt", "linear")))
        for name in PROJECTIONS
    },
    **{
        f"blackbox {name}": (functools.partial(blackbox, projection=name), settings(lambda_=(4.0, 40.0, 400.0)))
        for name in PROJECTIONS
    },
    "cut-offs": (functools.partial(RecallLoss, "std", ks=(1, 2, 4, 8)), settings(tau=(0.5, 1.0, 2.0))),
    "std, noise": (functools.partial(RecallLoss, "std", "sqrt"), settings(noise=(0.02, 0.1, 0.3))),
    "std, margin": (functools.partial(RecallLoss, "std", "sqrt"), settings(margin=(0.02, 0.1, 0.3))),
    "Smooth-AP": (SmoothAPLoss, settings(tau=(0.01, 0.03, 0.1))),
    "RS@k": (RecallSurrogateLoss, settings(tau_rank=(0.01, 0.03, 0.1))),
    "MultiSimilarity": (losses.MultiSimilarityLoss, settings(base=(0.3, 0.5, 0.7))),
    "triplet": (losses.TripletMarginLoss, settings(margin=(0.05, 0.1, 0.2))),
    "contrastive": (losses.ContrastiveLoss, settings(neg_margin=(0.3, 0.5, 0.7))),
    "SupCon": (losses.SupConLoss, settings(temperature=(0.05, 0.1, 0.2))),
    "FastAP": (losses.FastAPLoss, settings(num_bins=(5, 10, 20))),
    "ProxyAnchor": (losses.ProxyAnchorLoss, settings(alpha=(16, 32, 64))),
    "normalised softmax": (losses.NormalizedSoftmaxLoss, settings(temperature=(0.05, 0.1, 0.2))),
    "ArcFace": (losses.ArcFaceLoss, settings(margin=(5.0, 15.0, 28.6), scale=(16,))),
}
OURS = ("softmax", "local", *PROJECTIONS)
PEERS = tuple(LOSSES)[tuple(LOSSES).index("Smooth-AP") :]
WITH_PROXIES = ("ProxyAnchor", "normalised softmax", "ArcFace")  # parameters of their own, for each class
FINALISTS = ("softmax", "std", "MultiSimilarity", "SupCon", "normalised softmax")
STAGES = ("gauge", "main", "curves")
GAUGE = {  # what is recorded of the scores while these train
    "none": {"projection": "none"},
    "none, noise": {"projection": "none", "noise": 0.1},
    "std": {"projection": "std"},
    "std, noise": {"projection": "std", "noise": 0.1},
}


@dataclass(frozen=True)
class Run:
    """What is run: all that its outcome depends on."""

    stage: str
    task: str
    loss: str
    setting: Setting
    learning_rate: float
    steps: int
    batch: int
    seed: int
    fold: int | None = None  # of the training classes, to be measured on; None: the test classes
    per_class: int = 4
    memory: int = 0

    def key(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)


def make_loss(run: Run, num_classes: int, dim: int) -> nn.Module:
    """The loss of a run, from embeddings (batch, dim) and labels."""
    make, _ = LOSSES[run.loss] if run.stage != "gauge" else (RecallLoss, None)
    if run.loss in WITH_PROXIES:
        return make(num_classes, dim, **run.setting)
    loss, miner = make(**run.setting), None
    if run.loss == "MultiSimilarity":
        miner = miners.MultiSimilarityMiner(epsilon=0.1)
    if run.loss == "triplet":
        miner = miners.TripletMarginMiner(run.setting["margin"], type_of_triplets="semihard")
    if run.memory:
        return CrossBatchMemory(loss, dim, run.memory, miner)
    return Mined(loss, miner) if miner else loss


class Mined(nn.Module):
    """A loss on the pairs or triplets that its miner finds."""

    def __init__(self, loss: nn.Module, miner: nn.Module) -> None:
        super().__init__()
        self.loss, self.miner = loss, miner

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        loss: Tensor = self.loss(embeddings, labels, self.miner(embeddings, labels))
        return loss


def make_network(task: Task, weights: Path | None) -> nn.Module:
    if task.network == "head":
        return nn.Linear(1280, DIM)
    if task.network == "whole":
        network = create_embedder("mobilenetv2_100", pretrained=weights, embedding_dim=None, image_size=task.size)
        return network.to(memory_format=torch.channels_last)
    layers: list[nn.Module] = []
    for channels in (1, 64, 64, 64):
        layers += [nn.Conv2d(channels, 64, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * 64, DIM))


def arrays(task: Task, options: argparse.Namespace) -> dict[str, np.ndarray]:
    """Images or features, labels, and groups that folds keep together, of both splits; from a file, made where it is missing."""
    kind = "features" if task.network == "head" else "images"
    path = options.out / f"{task.dataset}_{kind}_{task.size}_grouped.npz"
    if not path.exists():
        made = {}
        for split, images in read_dataset(task.dataset, find(options.data, task.dataset), **task.options).items():
            preprocessing = Preprocessing(task.resize, task.size, (0, 0, 0), (1, 1, 1))  # to cut only
            pixels = np.stack([resize_and_crop(images.load(i), preprocessing) for i in tqdm(range(len(images)))])
            made[f"{split} labels"] = images.labels
            made[f"{split} groups"] = images.labels
            if task.dataset == "omniglot":  # the test has other alphabets
                made[f"{split} groups"] = np.array([Path(path).parent.parent.name for path in images.paths])
            made[split] = features(pixels, task, options.weights) if kind == "features" else pixels
            if task.network == "conv4":
                made[split] = pixels[..., 0]
        np.savez(path, **made)
    with np.load(path) as file:
        return dict(file)


def find(data: Path | None, dataset: str) -> Path | None:
    """The folder of a data set; None for one that makes its own images."""
    if data is None:
        return None
    return data / "cub200" / "CUB_200_2011" if dataset == "cub200" else data / dataset


def features(pixels: np.ndarray, task: Task, weights: Path) -> np.ndarray:
    network = make_network(replace(task, network="whole"), weights).eval()
    with torch.inference_mode():
        return torch.cat([network(to_float(torch.from_numpy(part))) for part in np.array_split(pixels, 32)]).numpy()


def to_float(pixels: Tensor) -> Tensor:
    """Batches (n, height, width, 3) of bytes as a pretrained network takes them; grey ones (n, height, width) as ink."""
    if pixels.ndim == 3:
        return 1 - pixels[:, None] / 255
    return (
        ((pixels / 255 - IMAGENET[0]) / IMAGENET[1]).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
    )


def random_views(images: Tensor, generator: torch.Generator) -> Tensor:
    """Crops of 40 to 100 % of the area, resized, half of them mirrored."""
    count = len(images)
    scale = (0.4 + 0.6 * torch.rand(count, generator=generator)).sqrt()
    turn = torch.randint(0, 2, (count,), generator=generator) * 2 - 1
    shift = (torch.rand(count, 2, generator=generator) * 2 - 1) * (1 - scale)[:, None]
    zeros = torch.zeros(count)
    frame = torch.stack([scale * turn, zeros, shift[:, 0], zeros, scale, shift[:, 1]], dim=1).reshape(count, 2, 3)
    grid = functional.affine_grid(frame, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def divide(data: dict[str, np.ndarray], fold: int | None) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """What is trained on and what is measured, as inputs and labels."""
    inputs, labels = data["train"], data["train labels"]
    if fold is None:
        return (inputs, labels), (data["test"], data["test labels"])
    groups = np.random.default_rng(0).permutation(np.unique(data["train groups"]))
    held = np.isin(data["train groups"], groups[fold::3])
    return (inputs[~held], labels[~held]), (inputs[held], labels[held])


def measure(run: Run, options: argparse.Namespace) -> dict[str, Any]:
    """Trains and evaluates; one line of the results."""
    torch.set_num_threads(options.threads)
    task = (TASKS | QUICK)[run.task]
    (inputs, labels), (others, other_labels) = divide(arrays(task, options), run.fold)
    _, labels = np.unique(labels, return_inverse=True)
    num_classes = int(labels.max()) + 1
    torch.manual_seed(run.seed)
    generator = torch.Generator().manual_seed(run.seed)
    network = make_network(task, options.weights)
    train_on, measure_on = torch.from_numpy(inputs), torch.from_numpy(others)
    if task.network == "head":  # features around their mean, of norm 1 on the average
        mean = train_on.mean(0)
        scale = (train_on - mean).norm(dim=1).mean()
        train_on, measure_on = (train_on - mean) / scale, (measure_on - mean) / scale
    dim = 1280 if task.network == "whole" else DIM
    loss = make_loss(run, num_classes, dim)
    groups = [{"params": list(network.parameters()), "lr": run.learning_rate}]
    if proxies := list(loss.parameters()):
        groups.append({"params": proxies, "lr": PROXIES * run.learning_rate, "weight_decay": 0.0})
    optimizer = torch.optim.AdamW(groups, weight_decay=1e-4)
    rates = [group["lr"] for group in groups]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, run.steps, pct_start=0.1)
    batch = min(run.batch, run.per_class * num_classes) // run.per_class * run.per_class
    sampler = MPerClassSampler(labels, batch, run.per_class, seed=run.seed)
    batches = itertools.chain.from_iterable(sampler.epoch(epoch) for epoch in itertools.count())

    def embed(rows: Tensor) -> Tensor:
        rows = rows if rows.is_floating_point() else to_float(rows)
        if task.network == "whole" and network.training:
            rows = random_views(rows, generator)
        return functional.normalize(network(rows), dim=1)

    def figures() -> dict[str, float]:
        network.eval()
        with torch.inference_mode():
            embeddings = torch.cat([embed(rows) for rows in measure_on.split(256)]).numpy()
        network.train()
        found = evaluate(embeddings, other_labels, ks=(1,), metrics=("recall", "map@r"))
        return {name: round(100 * found[name], 3) for name in ("recall@1", "map@r")}

    network.train()
    seconds, curve = 0.0, []
    every = max(1, run.steps // 6)
    for step, rows in enumerate(itertools.islice(batches, run.steps), start=1):
        start = time.process_time()
        indices = torch.from_numpy(rows)
        embeddings = embed(train_on[indices])
        value = loss(embeddings, torch.from_numpy(labels)[indices])
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        schedule.step()
        seconds += time.process_time() - start
        if run.stage == "gauge" and (step == 1 or step % max(1, run.steps // 30) == 0):
            curve.append({"step": step} | gauge(embeddings.detach(), labels[rows]))
        if run.stage == "final" and step % every == 0 and step < run.steps:
            curve.append({"step": step, "seconds": round(seconds, 2)} | figures())
    last = figures()
    curve.append({"step": run.steps, "seconds": round(seconds, 2)} | last)
    return asdict(run) | last | {"seconds": round(seconds, 2), "curve": curve}


def gauge(embeddings: Tensor, labels: np.ndarray) -> dict[str, float]:
    """How far the scores of a batch have collapsed: their spread, and the intruders above a relevant item."""
    judge = RecallLoss("std", collect_stats=True)
    with torch.no_grad():
        judge(embeddings, torch.from_numpy(labels))
    return {"spread": judge.score_spread, "intruders": judge.mean_intruders}


def search(
    results: list[dict[str, Any]], names: Iterable[str], tasks: Iterable[str], known: dict[str, Task]
) -> Iterator[Run]:
    for task_name, name in itertools.product(tasks, names):
        task, tried = known[task_name], LOSSES[name][1]
        if task.network == "whole":  # what was best on the frozen features of the same data set
            features = f"{task.dataset}_features"
            tried = [choose(results, [features], name)[features][0]]
        for setting, rate, fold in itertools.product(tried, task.learning_rates, range(task.folds)):
            yield Run("search", task_name, name, setting, rate, task.steps, task.batch, seed=0, fold=fold)


def trials(results: Iterable[dict[str, Any]], task: str, loss: str) -> dict[str, float]:
    """The mean of recall@1 + MAP@R over the folds, by setting and learning rate as JSON."""
    found: dict[str, list[float]] = {}
    for row in results:
        if (row["stage"], row["task"], row["loss"]) == ("search", task, loss):
            trial = json.dumps([row["setting"], row["learning_rate"]], sort_keys=True)
            found.setdefault(trial, []).append(row["recall@1"] + row["map@r"])
    return {trial: float(np.mean(values)) for trial, values in found.items()}


def choose(results: Iterable[dict[str, Any]], tasks: Iterable[str], loss: str) -> dict[str, tuple[Setting, float]]:
    """For each task the setting with the best sum over all of them, and the best learning rate with it.

    Raises:
        SystemExit: the loss has no trials on one of them.
    """
    best = {task: by_setting(results, task, loss) for task in tasks}
    for task, settings_of in best.items():
        if not settings_of:
            raise SystemExit(
                f"error: there are no trials of {loss} on {task} yet; run --stages main with that task first"
            )
    shared = set.intersection(*map(set, best.values()))
    first = max(sorted(shared), key=lambda setting: sum(of_task[setting][0] for of_task in best.values()))
    return {task: (json.loads(first), of_task[first][1]) for task, of_task in best.items()}


def by_setting(results: Iterable[dict[str, Any]], task: str, loss: str) -> dict[str, tuple[float, float]]:
    """The best of the means of `trials` for each setting, as JSON, and its learning rate."""
    best: dict[str, tuple[float, float]] = {}
    for trial, mean in trials(results, task, loss).items():
        setting, rate = json.loads(trial)
        name = json.dumps(setting)
        best[name] = max(best.get(name, (-np.inf, 0.0)), (mean, rate))
    return best


def final(
    results: list[dict[str, Any]], names: Iterable[str], tasks: Iterable[str], known: dict[str, Task]
) -> Iterator[Run]:
    for task_name, name in itertools.product(tasks, names):
        task = known[task_name]
        chosen = [choose(results, [task_name], name)[task_name]]
        if task.network == "head" and all(trials(results, head, name) for head in HEADS):
            together = choose(results, HEADS, name)[task_name]
            chosen += [together] if together not in chosen else []
        for (setting, rate), seed in itertools.product(chosen, range(task.seeds)):
            yield Run("final", task_name, name, setting, rate, task.steps, task.batch, seed)


def curves(results: list[dict[str, Any]], names: Iterable[str], tasks: Iterable[str]) -> Iterator[Run]:
    """Losses on frozen features, with one thing changed at a time, and the settings as they were chosen for both."""
    changes = [{"batch": n} for n in (64, 256, 512, 1024)] + [{"per_class": m} for m in (2, 8, 16)]
    for task_name, name in itertools.product(tasks, names):
        task = TASKS[task_name]
        setting, rate = choose(results, HEADS, name)[task_name]
        run = Run("curves", task_name, name, setting, rate, task.steps, task.batch, seed=0)
        memories = [] if name in WITH_PROXIES else [{"memory": 1024}]
        for change, seed in itertools.product(changes + memories, range(3)):
            yield replace(run, seed=seed, **change)


def gauges(tasks: Iterable[str], known: dict[str, Task]) -> Iterator[Run]:
    for task_name, (name, words) in itertools.product(tasks, GAUGE.items()):
        task = known[task_name]
        rate = task.learning_rates[len(task.learning_rates) // 2]
        setting = {"weighting": "loglog"} | words
        yield Run("gauge", task_name, name, setting, rate, task.steps, task.batch, seed=0)


def carry_out(runs: Iterable[Run], results: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """Adds what is missing to the results and to their file."""
    fields = Run.__dataclass_fields__
    done = {json.dumps({word: row[word] for word in fields}, sort_keys=True) for row in results}
    missing = [run for run in runs if run.key() not in done]
    if not missing:
        return
    for name in dict.fromkeys(run.task for run in missing):
        arrays((TASKS | QUICK)[name], options)  # once, not in every process
    with (
        ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn")) as processes,
        (options.out / "results.jsonl").open("a", encoding="utf-8") as file,
    ):
        waiting = [processes.submit(measure, run, options) for run in missing]
        try:
            for future in tqdm(as_completed(waiting), total=len(waiting), desc=missing[0].stage):
                results.append(future.result())
                file.write(json.dumps(results[-1]) + "\n")
                file.flush()
        except BaseException:  # an error or Ctrl-C: without this, all that waits would be run first, and lost
            processes.shutdown(wait=False, cancel_futures=True)
            raise


def read_results(out: Path) -> list[dict[str, Any]]:
    """All complete lines of the results; one that a kill has cut off is run again."""
    path = out / "results.jsonl"
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    if text and not text.endswith("\n"):
        text = text[: text.rfind("\n") + 1]
        path.write_text(text, encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--data", type=Path, help="folder of the data sets")
    parser.add_argument("--weights", type=Path, help="file of the MobileNetV2")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time; 2 if left out")
    parser.add_argument("--threads", type=int, default=1, help="of each run; 1 if left out")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), help="all if left out")
    parser.add_argument("--losses", nargs="+", choices=LOSSES, help="all if left out; a few with --quick")
    parser.add_argument("--stages", nargs="+", default=list(STAGES), choices=STAGES, help="all if left out")
    parser.add_argument("--quick", action="store_true", help="a few steps of a few losses on generated glyphs")
    options = parser.parse_args()
    if not options.quick and (options.data is None or options.weights is None):
        parser.error("--data and --weights are needed, or --quick")
    options.out.mkdir(parents=True, exist_ok=True)
    known = QUICK if options.quick else {name: TASKS[name] for name in options.tasks}
    names = options.losses or (["softmax", "MultiSimilarity"] if options.quick else list(LOSSES))
    results = read_results(options.out)
    fast = [name for name, task in known.items() if task.network != "whole"]
    whole = [name for name in known if name not in fast]
    finalists = [name for name in names if name in FINALISTS]
    if "gauge" in options.stages:
        carry_out(gauges(fast, known), results, options)
    if "main" in options.stages:
        for some, tasks in ((names, fast), (finalists, whole)):
            carry_out(search(results, some, tasks, known), results, options)
            carry_out(final(results, some, tasks, known), results, options)
    if "curves" in options.stages:
        carry_out(curves(results, finalists, [name for name in fast if name in HEADS]), results, options)


if __name__ == "__main__":
    main()
