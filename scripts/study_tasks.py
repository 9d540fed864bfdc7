"""The tasks of the study of losses: images or features with labels, from files that are made once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from unpack_test_data import UNPACK, unpack

from retrieval import Preprocessing
from retrieval.data import ImageSet, read_dataset
from retrieval.data.transforms import resize_and_crop
from retrieval.networks import create_embedder, freeze_batchnorm, start_head

DIM = 128
CHANNELS = 24  # of the network that is trained from scratch


@dataclass(frozen=True)
class Task:
    """A data set, what is trained on it, and the budget.

    Args:
        dataset: Its name in `retrieval.data`.
        regime: "features" (a linear layer on frozen features), "scratch" (four convolutions) or "whole" (all of a pretrained
            network with its layer).
        size: The side of the images in pixels.
        steps: The number of steps.
        learning_rate: The middle of the first three that are tried.
        folds: How many of the three folds of the training classes the search uses.
        seeds: The number of final runs.
        backbone: A timm model, if it is pretrained.
        options: Of the reader.
        coarse: Whether a class is an alphabet, not a character. One of eight images is then measured.
        batch: Images of a step.
        per_class: Images of a class in a batch.
    """

    dataset: str
    regime: str
    size: int
    steps: int
    learning_rate: float
    folds: int
    seeds: int
    backbone: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    coarse: bool = False
    batch: int = 128
    per_class: int = 4

    @property
    def crops(self) -> bool:
        """Whether each step sees random crops."""
        return self.regime == "whole"

    @property
    def step(self) -> int:
        """Of the images that are measured, one of so many is."""
        return 8 if self.coarse else 1

    @property
    def together(self) -> int:
        """How many runs are computed at a time: as many as a processor's memory and caches take."""
        return {"features": 48, "scratch": 8, "whole": 1}[self.regime]

    @property
    def cache(self) -> str:
        """The name of the file with its arrays."""
        kind = self.backbone if self.regime == "features" else "pixels"
        return f"{self.dataset}_{kind}_{self.size}.npz"


CUB = {"train_classes": [1, 25], "test_classes": [26, 50]}
CARS = {"halves": ["train"]}
EMOJI = {"check_counts": False}
MOBILENET, LITE0 = "mobilenetv2_100", "tf_efficientnet_lite0"
TASKS = {
    "CUB, MobileNetV2": Task("cub200", "features", 128, 150, 1e-4, 3, 8, MOBILENET, CUB),
    "CUB, Lite0": Task("cub200", "features", 128, 150, 1e-4, 3, 8, LITE0, CUB),
    "Cars, MobileNetV2": Task("cars196", "features", 128, 300, 1e-3, 2, 8, MOBILENET, CARS),
    "Cars, Lite0": Task("cars196", "features", 128, 300, 1e-3, 2, 8, LITE0, CARS),
    "emoji, MobileNetV2": Task("emoji", "features", 96, 300, 1e-3, 2, 8, MOBILENET, EMOJI),
    "glyphs, MobileNetV2": Task("glyphs", "features", 96, 300, 1e-3, 2, 8, MOBILENET),
    "Omniglot, from scratch": Task("omniglot", "scratch", 28, 200, 3e-3, 1, 5),
    "alphabets, from scratch": Task("omniglot", "scratch", 28, 200, 3e-3, 1, 5, coarse=True),
    "Cars, from scratch": Task("cars196", "scratch", 32, 200, 3e-3, 1, 5, options=CARS),
    "CUB, whole network": Task("cub200", "whole", 96, 60, 1e-4, 1, 3, MOBILENET, CUB, batch=64),
    "Cars, whole network": Task("cars196", "whole", 96, 60, 1e-4, 1, 3, MOBILENET, CARS, batch=64),
}
QUICK = {"glyphs, from scratch": Task("glyphs", "scratch", 28, 20, 3e-3, 1, 2)}


@dataclass(frozen=True)
class Split:
    """Inputs (n, ...) as float32 features or pixels as bytes, and labels (n,) from 0 on."""

    inputs: Tensor
    labels: np.ndarray

    @property
    def num_classes(self) -> int:
        return int(self.labels.max()) + 1


def load(task: Task, folder: Path, data: Path | None) -> dict[str, np.ndarray]:
    """Inputs, labels, and groups that folds keep together, of both splits; from a file in `folder`, made where it is missing.

    Args:
        data: The folder with the archives of all data sets and the weights; None for glyphs, which are generated.
    """
    path = folder / task.cache
    if not path.exists():
        made = {}
        for split, images in _read(task, folder, data).items():
            made[f"{split} labels"] = made[f"{split} groups"] = images.labels
            if task.dataset == "omniglot":  # the test has other alphabets
                made[f"{split} groups"] = np.array([Path(path).parent.parent.name for path in images.paths])
            made[split] = _features(images, task, data) if task.regime == "features" else _pixels(images, task)
        np.savez(path, **made)
    with np.load(path) as file:
        arrays = dict(file)
    if task.coarse:
        arrays |= {f"{split} labels": arrays[f"{split} groups"] for split in ("train", "test")}
    return arrays


def divide(arrays: dict[str, np.ndarray], fold: int | None, step: int = 1) -> tuple[Split, Split]:
    """What is trained on and what is measured: a fold of the training classes, or the test classes for None.

    Args:
        step: Of the images that are measured, one of so many is.
    """
    inputs, labels = arrays["train"], arrays["train labels"]
    if fold is None:
        return _split(inputs, labels), _split(arrays["test"][::step], arrays["test labels"][::step])
    groups = np.random.default_rng(0).permutation(np.unique(arrays["train groups"]))
    held = np.isin(arrays["train groups"], groups[fold::3])
    return _split(inputs[~held], labels[~held]), _split(inputs[held][::step], labels[held][::step])


def make_network(task: Task, data: Path | None, train: Split | None = None) -> nn.Module:
    """The network of a task, its head started from the features of the training images where it is pretrained."""
    if task.regime == "features":
        assert train is not None
        head = nn.Linear(train.inputs.shape[1], DIM, bias=False)
        start_head(head, train.inputs, "whiten")
        return head
    if task.regime == "whole":
        network = create_embedder(
            task.backbone, pretrained=_weights(task, data), embedding_dim=DIM, image_size=task.size
        ).to(memory_format=torch.channels_last)
        if train is not None:
            start_head(network.head, apply(make_backbone(task, data), train.inputs, task), "whiten")
        return network
    layers: list[nn.Module] = []
    colors = 3 if task.dataset == "cars196" else 1
    for channels in (colors, CHANNELS, CHANNELS, CHANNELS):
        layers += [
            nn.Conv2d(channels, CHANNELS, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(CHANNELS),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * CHANNELS, DIM))


def make_backbone(task: Task, data: Path | None) -> nn.Module:
    """A pretrained network without a head."""
    network = create_embedder(task.backbone, pretrained=_weights(task, data), embedding_dim=None, image_size=task.size)
    return network.to(memory_format=torch.channels_last)


def train_mode(network: nn.Module, task: Task) -> None:
    """Training mode; the BatchNorm of a pretrained network keeps its statistics."""
    network.train()
    if task.regime == "whole":
        freeze_batchnorm(network, "statistics")


@torch.no_grad()
def apply(network: nn.Module, inputs: Tensor, task: Task) -> Tensor:
    """The outputs for all inputs, in evaluation mode."""
    network.eval()
    return torch.cat([network(to_float(rows, task)) for rows in inputs.split(256)])


def to_float(inputs: Tensor, task: Task) -> Tensor:
    """Features as they are; pixels (n, height, width, channels) of bytes as (n, channels, height, width)."""
    if inputs.is_floating_point():
        return inputs
    images = inputs.permute(0, 3, 1, 2).float().div_(255)
    if task.regime == "scratch":
        return 1 - images
    mean, std = (torch.tensor(values)[:, None, None] for values in _statistics(task))
    return ((images - mean) / std).contiguous(memory_format=torch.channels_last)


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


def _read(task: Task, folder: Path, data: Path | None) -> dict[str, ImageSet]:
    if data is None or task.dataset not in UNPACK:
        return read_dataset(task.dataset)
    root = unpack(task.dataset, data, folder / "images")
    if task.dataset == "cub200":
        root /= "CUB_200_2011"
    return read_dataset("sop" if task.dataset == "emoji" else task.dataset, root, **task.options)


def _pixels(images: ImageSet, task: Task) -> np.ndarray:
    """Bytes (n, size, size, channels)."""
    preprocessing = Preprocessing(task.size, task.size, (0, 0, 0), (1, 1, 1))  # to cut only
    pixels = np.stack([resize_and_crop(images.load(i), preprocessing) for i in range(len(images))])
    return pixels[..., :1] if task.dataset in ("omniglot", "glyphs") and task.regime == "scratch" else pixels


def _features(images: ImageSet, task: Task, data: Path | None) -> np.ndarray:
    """The pooled features (n, width), of norm 1."""
    features = apply(make_backbone(task, data), torch.from_numpy(_pixels(images, task)), task)
    return functional.normalize(features, dim=1).numpy()


def _weights(task: Task, data: Path | None) -> Path:
    if data is None:
        raise SystemExit("error: tasks with a pretrained network need --data")
    return data / "weights" / f"{task.backbone}.safetensors"


def _statistics(task: Task) -> tuple[tuple[float, ...], tuple[float, ...]]:
    half = (0.5, 0.5, 0.5)
    return (half, half) if task.backbone == LITE0 else ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def _split(inputs: np.ndarray, labels: np.ndarray) -> Split:
    return Split(torch.from_numpy(inputs), np.unique(labels, return_inverse=True)[1])
