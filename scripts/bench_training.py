"""What training costs beyond its bare work: a step of the trainer, and the reading of images.

    python scripts/bench_training.py --out bench                  # MobileNetV2, 128 px, on one thread
    python scripts/bench_training.py --root CUB_200_2011/images --backbone resnet50 --size 224 --batch 32 --threads 2

The images are those of a folder of class folders, or drawn: smooth noise, 500 x 375 pixels, JPEG. Model, loss, optimiser and
loaders are built from a configuration as `retrieval train` builds them, and the process is prepared as the command line does it.
- A step: the trainer fed by its loader (augmentation "photo", the last of `--workers`), the trainer on the same tensors in
  memory, and a bare loop of an equal model, loss and optimiser on them, take turns batch by batch for `--steps` rounds after one
  of warming up. Seconds are medians, ratios are to the bare loop; equal losses show that all three do the same work. The clock
  is processor time of this process on one thread, and wall time on several. Wall time holds what the workers take from the
  processor, also from the bare loop where they need longer for a batch than a step lasts: leave them cores of their own.
- Reading: the loaders, evaluation's and training's, and a bare loop that decodes, resizes with antialiasing, crops and converts
  to float in one process, take turns over the same `--images` files for `--repeats` rounds after one of warming up. The clock is
  wall time, from the first batch of every worker on, since the start of a process says nothing of its speed. Speeds are
  medians, ratios are of speeds, to the bare loop.
The workers have the time of three steps for a batch, so a step hardly waits for them here. Whether they keep up with training is
what the last line compares: the loader has to give more images per second than the trainer takes.
`--out` is the folder of the table, bench_training.csv.
"""
# ruff: noqa: E402 - torch reads the settings of the process when it is loaded

from __future__ import annotations

from retrieval.cli import processor

processor.prepare()

import argparse
import csv
import io
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from retrieval import ImageSet, Preprocessing, RetrievalError
from retrieval.config import Config
from retrieval.config.network import build_network, build_preprocessing
from retrieval.config.splits import build_augmentation, build_sampler, build_training_loader
from retrieval.config.trainer import build_trainer
from retrieval.data import Augmentation, evaluation_loader, read_dataset, training_loader

BARE = "bare loop"
PER_CLASS = 4
READ_AT_ONCE = 16  # images of a batch when reading is measured: few, so that all workers end at about the same time


@dataclass
class Row:
    """A line of a table; seconds are of a step, or of reading an image."""

    table: str
    candidate: str
    seconds: float
    images_per_second: float
    ratio: float
    loss: float | None = None


def take_turns(candidates: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[Any]]:
    """What each candidate returned in the rounds after the first."""
    results = [{name: candidate() for name, candidate in candidates.items()} for _ in range(1 + rounds)][1:]
    return {name: [result[name] for result in results] for name in candidates}


def timed(step: Callable[[], float], clock: Callable[[], float]) -> tuple[float, float]:
    """The seconds of a step, and its loss."""
    start = clock()
    loss = step()
    return clock() - start, loss


def measure_steps(
    config: Config, images: ImageSet, augmentation: Augmentation, options: argparse.Namespace
) -> list[Row]:
    """The table of training steps."""
    sampler = build_sampler(config, images)
    loader = build_training_loader(config, images, augmentation, sampler, start_step=0)
    batch: tuple[Tensor, Tensor]  # that the loader gave last

    def from_loader() -> Iterator[tuple[Tensor, Tensor]]:
        nonlocal batch
        for given in loader:
            batch = given
            yield given

    def from_memory() -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield batch

    def make_trainer() -> Any:
        torch.manual_seed(config.seed)
        network = build_network(config)
        return build_trainer(config, network, num_classes=images.num_classes, steps_per_epoch=sampler.steps_per_epoch)

    # The trainer pauses after an epoch, so here each step is one.
    fed = make_trainer().epochs(from_loader(), 1)
    unfed = make_trainer().epochs(from_memory(), 1)
    bare = make_trainer()
    parts = bare.model.train(), bare.loss_function, bare.optimizer
    clock = time.process_time if options.threads == 1 else time.perf_counter
    candidates = {
        f"trainer, its loader ({config.data.workers} workers)": partial(timed, lambda: next(fed)[1], clock),
        "trainer, tensors in memory": partial(timed, lambda: next(unfed)[1], clock),
        BARE: partial(timed, lambda: take_bare_step(*parts, *batch), clock),
    }
    steps = take_turns(candidates, options.steps)
    seconds = {name: statistics.median(second for second, _ in steps[name]) for name in reversed(candidates)}
    return [
        Row("step", name, second, config.batch.size / second, second / seconds[BARE], steps[name][-1][1])
        for name, second in seconds.items()
    ]


def take_bare_step(
    model: nn.Module, loss_function: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor
) -> float:
    """A training step without the trainer; returns the loss."""
    optimizer.zero_grad()
    loss = loss_function(model(images), labels)
    loss.backward()
    optimizer.step()
    return loss.item()


def measure_reading(
    images: ImageSet, preprocessing: Preprocessing, augmentation: Augmentation, options: argparse.Namespace
) -> list[Row]:
    """The table of loaders."""
    images = images.select(np.arange(min(len(images), options.images)))
    indices = np.arange(len(images))
    batches = list(enumerate(np.split(indices, indices[READ_AT_ONCE::READ_AT_ONCE])))
    candidates: dict[str, Callable[[], float]] = {BARE: partial(read_bare, images, preprocessing)}
    for workers in options.workers:
        evaluation = evaluation_loader(images, preprocessing, batch_size=READ_AT_ONCE, workers=workers)
        training = training_loader(images, batches, augmentation, seed=0, workers=workers)
        candidates[f"evaluation, {workers} workers"] = partial(read, evaluation, batches, workers)
        candidates[f"training, {workers} workers"] = partial(read, training, batches, workers)
    speeds = {name: statistics.median(found) for name, found in take_turns(candidates, options.repeats).items()}
    return [Row("reading", name, 1 / speed, speed, speed / speeds[BARE]) for name, speed in speeds.items()]


def read(loader: Iterable[object], batches: Sequence[tuple[int, np.ndarray]], workers: int) -> float:
    """Images per second, once every worker has given a batch."""
    first = max(workers, 1)
    arrivals = [time.perf_counter() for _ in loader]
    return sum(len(indices) for _, indices in batches[first:]) / (arrivals[-1] - arrivals[first - 1])


def read_bare(images: ImageSet, preprocessing: Preprocessing) -> float:
    """Images per second of as few calls as make pixels of the right size from a file."""
    size, start = preprocessing.size, time.perf_counter()
    for path in images.paths:
        with Image.open(images.root / path) as file:
            image = file if file.mode == "RGB" else file.convert("RGB")
            scale = preprocessing.resize / min(image.size)
            width, height = (round(scale * side) for side in image.size)
            image = image.resize((width, height), Image.Resampling[preprocessing.interpolation.upper()])
        left, top = (width - size) // 2, (height - size) // 2
        _ = np.asarray(image.crop((left, top, left + size, top + size)), dtype=np.float32) / 255
    return len(images) / (time.perf_counter() - start)


def draw_images(root: Path, count: int) -> Path:
    """Smooth noise, coarse and fine, of as many bytes as a photograph; and the few test images that a data set must have."""
    generator = np.random.default_rng(0)
    for number in range(count + 2 * PER_CLASS):
        folder = root / ("train" if number < count else "test") / str(number // PER_CLASS)
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.full((375, 500, 3), 128.0)
        for columns, strength in ((4, 48), (16, 32), (64, 24), (250, 20)):
            noise = generator.normal(128, strength, (3 * columns // 4, columns, 3)).clip(0, 255).astype(np.uint8)
            pixels += np.asarray(Image.fromarray(noise).resize((500, 375), Image.Resampling.BICUBIC)) - 128.0
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.jpg", quality=90)
    return root


def configure(root: Path, options: argparse.Namespace) -> Config:
    return Config.model_validate(
        {
            "device": "cpu",
            "data": {"name": "folder", "root": str(root), "workers": options.workers[-1]},
            "image": {"resize": round(options.size * 8 / 7), "size": options.size},
            "model": {"backbone": options.backbone, "pretrained": False},
            "loss": {"noise": 0.0},  # which the candidates would draw in turns
            "batch": {"size": options.batch, "samples_per_class": PER_CLASS},
            "training": {"epochs": 1 + options.steps, "schedule": "constant"},
        }
    )


def measure(root: Path, options: argparse.Namespace) -> list[Row]:
    """Both tables, printed as they come."""
    config = configure(root, options)
    images = read_dataset(config.data.name, root)["train"]
    least = READ_AT_ONCE * (1 + max(options.workers)) + 1
    if min(len(images), options.images) < least:
        raise RetrievalError(
            f"{root}: reading is measured on at least {least} training images; give more, or fewer workers"
        )
    preprocessing = build_preprocessing(config, build_network(config))
    augmentation = build_augmentation(config, preprocessing)
    clock = "processor time" if options.threads == 1 else "wall time"
    work = f"{options.backbone}, {options.size} px"
    steps = measure_steps(config, images, augmentation, options)
    show(steps, f"Steps of {options.batch} images, {work}, threads: {options.threads}, {clock}")
    reading = measure_reading(images, preprocessing, augmentation, options)
    show(reading, f"Reading, {options.size} px, wall time")
    print(
        f"\nThe trainer takes {steps[-1].images_per_second:,.1f} images/s, "
        f"its loader of {options.workers[-1]} workers alone gives {reading[-1].images_per_second:,.1f}."
    )
    return steps + reading


def show(table: Sequence[Row], heading: str) -> None:
    """Prints a table."""
    print(f"\n{heading}\n{'':34}{'ms':>10}{'images/s':>11}{'ratio':>8}{'loss':>10}")
    for row in table:
        loss = "" if row.loss is None else f"{row.loss:.5f}"
        print(
            f"{row.candidate:34}{1000 * row.seconds:10,.1f}{row.images_per_second:11,.1f}{row.ratio:8.3f}{loss:>10}",
            flush=True,
        )


def write(table: Sequence[Row], folder: Path) -> None:
    """Writes bench_training.csv."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [column.name for column in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in table)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bench_training.csv").write_text(text.getvalue(), encoding="utf-8", newline="")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="folder of class folders, or of train and test; drawn if left out")
    parser.add_argument("--images", type=int, default=256, help="images to draw, and to read; 256 if left out")
    parser.add_argument("--backbone", default="mobilenetv2_100", help="a model of timm; mobilenetv2_100 if left out")
    for name, default in (("size", 128), ("batch", 80), ("steps", 5), ("repeats", 5), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{default} if left out")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2], help="numbers of data workers")
    parser.add_argument("--out", type=Path, help="folder of the table")
    return parser.parse_args()


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        try:
            table = measure(options.root or draw_images(Path(folder), options.images), options)
        except RetrievalError as error:
            sys.exit(f"error: {error}")
    if options.out:
        write(table, options.out)


if __name__ == "__main__":
    main()
