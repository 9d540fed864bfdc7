"""What a training is about to do, for a look at it before the first step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from retrieval.config import Config
from retrieval.config.schema import LossTerm
from retrieval.config.splits import gallery_of
from retrieval.data import ImageSet
from retrieval.training import distributed

ROLES = {
    "train": "trained on",
    "validation": "best epoch chosen on: each image against the others",
    "test": "tested: each image against the others",
    "query": "tested: queries",
    "gallery": "tested: gallery of the queries",
}


@dataclass(frozen=True)
class SplitSummary:
    """The images of a split.

    Args:
        images: Their number.
        classes: The number of classes.
        class_size: The smallest, the median and the largest number of images of a class.
        role: What they are used for.
    """

    images: int
    classes: int
    class_size: tuple[int, float, int]
    role: str


@dataclass(frozen=True)
class TrainingSummary:
    """What a training is about to do. `str` is a table of the splits with a line for each fact.

    Args:
        splits: The splits by name.
        facts: One line each: "network", "device", "pixels", "steps", "batch", "loss".
    """

    splits: dict[str, SplitSummary]
    facts: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """The values as JSON can hold them."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [f"{'':10} {'images':>9} {'classes':>8}  {'images a class':>16}  role"]
        for name, split in self.splits.items():
            sizes = "-".join(f"{size:,.6g}" for size in split.class_size)
            lines.append(f"{name:10} {split.images:9,} {split.classes:8,}  {sizes:>16}  {split.role}")
        return "\n".join([*lines, *(f"{name:10} {fact}" for name, fact in self.facts.items())])


def summarize_training(
    config: Config, splits: Mapping[str, ImageSet], network: nn.Module, device: torch.device, steps_per_epoch: int
) -> TrainingSummary:
    """The summary of a training whose parts are built.

    Args:
        config: The configuration, fitted to the images; see `retrieval.config.fitting`.
        splits: The images by split.
        network: The network.
        device: The device that it is on.
        steps_per_epoch: The number of batches of an epoch.
    """
    model, image, training, processes = config.model, config.image, config.training, distributed.world_size()
    parameters = sum(parameter.numel() for parameter in network.parameters())
    steps = training.num_epochs * steps_per_epoch
    facts = {
        "network": f"{model.backbone}, {parameters:,} parameters",
        "device": f"{device}" + (f", {processes} processes" if processes > 1 else ""),
        "pixels": f"{image.size} of {image.resize}, augmentation {image.augmentation}",
        "steps": f"{steps:,} = {training.num_epochs} epochs x {steps_per_epoch:,}",
        "batch": _describe_batch(config, splits["train"]),
        "loss": " + ".join(map(_describe_loss, config.loss.terms or [config.loss])),
    }
    if training.max_steps is not None and training.max_steps < steps:
        facts["steps"] += f", ends after {training.max_steps:,}"
    return TrainingSummary({name: _summarize_split(name, splits) for name in ROLES if name in splits}, facts)


def _summarize_split(name: str, splits: Mapping[str, ImageSet]) -> SplitSummary:
    images, role = splits[name], ROLES[name]
    sizes = images.class_sizes()
    if name == "validation" and gallery_of(name, splits) == "train":
        role = "best epoch chosen on: queries in train"
    return SplitSummary(
        len(images), images.num_classes, (int(sizes.min()), float(np.median(sizes)), int(sizes.max())), role
    )


def _describe_batch(config: Config, images: ImageSet) -> str:
    size, per_class, sizes = config.batch.size, config.batch.samples_per_class, images.class_sizes()
    if size % per_class or (sizes[sizes > 1] < per_class).any():
        return f"{size} images, up to {per_class} of a class"
    return f"{size} images = {size // per_class} classes x {per_class}"


def _describe_loss(term: LossTerm) -> str:
    if term.name != "recall":
        return term.name
    temperature = f", temperature {term.temperature:g}" if term.projection == "softmax" else ""
    return f"recall ({term.projection}, {term.weighting}{temperature})"
