"""A training run on drawings of polygons that takes seconds, for the tests of the command line."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from retrieval import cli
from retrieval.config import Config

SMALL = [
    "data.name=folder",
    "image.size=32",
    "image.resize=32",
    "image.augmentation=character",
    "model.backbone=test_resnet",
    "model.pretrained=false",
    "model.embedding_dim=16",
    "data.validation_share=0.25",
    "data.workers=0",
    "batch.size=8",
    "batch.samples_per_class=2",
    "training.epochs=2",
    "device=cpu",
]


def draw_images(root: Path) -> Path:
    """Eight training and four test classes of seven noisy drawings each, in a folder for each class."""
    generator = np.random.default_rng(0)
    for split, classes in (("train", range(8)), ("test", range(8, 12))):
        for class_ in classes:
            folder = root / split / f"class {class_:02d}"
            folder.mkdir(parents=True)
            corners = generator.integers(4, 36, (3, 2))
            for i in range(7):
                image = Image.new("RGB", (40, 40), "white")
                shaken = corners + generator.integers(-2, 3, (3, 2))
                ImageDraw.Draw(image).polygon([tuple(map(int, corner)) for corner in shaken], "black")
                image.save(folder / f"{i}.png")
    return root


def arguments(root: Path, out: Path, *more: str) -> list[str]:
    """The arguments of a training command; `more` are options and overrides."""
    return ["train", "--config", "glyphs", "--out", str(out), f"data.root={root}", *SMALL, *more]


def call(capsys, *words: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command."""
    capsys.readouterr()
    code = cli.run(list(words))
    out, err = capsys.readouterr()
    return code, out, err


def record_training(monkeypatch) -> list[tuple[Config, str, dict[str, Any]]]:
    """Replaces `retrieval.runs.train`: the configuration, folder and options of every call are recorded, nothing is trained."""
    calls = []

    def train(config: Config, out: str, **options: Any) -> SimpleNamespace:
        calls.append((config, out, options))
        results = {"last": {"recall@1": 0.5, "queries": 4, "left_out": 0}}
        return SimpleNamespace(
            path=Path(out),
            results=results,
            measured_on="test classes",
            pictures=[],
            summary=SimpleNamespace(headline={}),
        )

    monkeypatch.setattr("retrieval.runs.train", train)
    return calls
