"""Small networks, images and models for the tests of models and indexes."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from retrieval.data import Preprocessing
from retrieval.model import Model
from retrieval.networks import Embedder, create_embedder

SIDE, DIMENSION = 32, 8
PREPARE = Preprocessing(resize=36, size=SIDE, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))


class Means(nn.Module):
    """A network of the user: mean colours of a grid, times a matrix of random numbers, not of unit length."""

    def __init__(self, dimension: int = DIMENSION, seed: int = 0) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(4)
        self.norm = nn.BatchNorm2d(3)
        self.head = nn.Linear(48, dimension)
        with torch.no_grad():
            weights = torch.randn(self.head.weight.shape, generator=torch.Generator().manual_seed(seed))
            self.head.weight.copy_(weights)
            self.head.bias.zero_()

    def forward(self, images: Tensor) -> Tensor:
        return 3 * self.head(self.pool(self.norm(images)).flatten(1))


@functools.cache
def _embedder(seed: int) -> Embedder:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = create_embedder("test_resnet", embedding_dim=DIMENSION, image_size=SIDE)
        for buffer in network.buffers():  # statistics that differ from those of a new network
            if buffer.is_floating_point():
                buffer.add_(0.1 * torch.rand_like(buffer))
    return network.eval()


def timm_model(seed: int = 0, **options: Any) -> Model:
    """A model of a network of timm."""
    return Model(_embedder(seed), PREPARE, **options)


def own_model(seed: int = 0, **options: Any) -> Model:
    """A model of a user's own module."""
    return Model(Means(seed=seed), PREPARE, **options)


def mean_color(images: list[Image.Image]) -> np.ndarray:
    """A function of the user: the mean colours of the quarters of an image."""
    small = [np.asarray(image.resize((2, 2), Image.Resampling.BOX), dtype=np.float64) for image in images]
    return np.stack([pixels.ravel() + 1 for pixels in small])


def pixels_of(seed: int, height: int = 40, width: int = 48) -> np.ndarray:
    """The pixels of an image: random rectangles."""
    random = np.random.default_rng(seed)
    pixels = np.full((height, width, 3), random.integers(256, size=3), dtype=np.uint8)
    for _ in range(6):
        top, left = random.integers(height - 8), random.integers(width - 8)
        pixels[top : top + 16, left : left + 20] = random.integers(256, size=3)
    return pixels


def draw_folder(root: Path, classes: int = 4, of_each: int = 3) -> Path:
    """A folder of PNG images, a folder for each class."""
    for class_ in range(classes):
        folder = root / f"class {class_}"
        folder.mkdir(parents=True)
        for i in range(of_each):
            Image.fromarray(pixels_of(100 * class_ + i)).save(folder / f"{i}.png")
    return root
