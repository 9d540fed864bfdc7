"""The folds of the training images, on which a search compares configurations."""

from __future__ import annotations

from typing import Any

import numpy as np

from retrieval.config.mistakes import mistakes_in
from retrieval.config.reading import load
from retrieval.config.schema import Config
from retrieval.config.splits import is_open, read_splits
from retrieval.data import ImageSet, fold_classes, fold_images


def read_folds(config: Config, folds: int, data: Any = None) -> list[dict[str, ImageSet]]:
    """Divides the training images of a configuration into folds.

    The folds are of classes where the tested classes are other ones than the training classes, and of images where every class
    trains, as the validation images of a run. Tested images are in none, and so are validation images that the data set brings.

    Args:
        config: The configuration. `data.split_seed` is the seed of the division.
        folds: The number of folds, at least 2.
        data: See `retrieval.config.splits.read_splits`.

    Returns:
        For each fold, "train" and "validation": the training images without it, and its own.

    Raises:
        ConfigError: There are too few classes for so many folds.
        DatasetError: The images cannot be read.
    """
    whole = {"data.validation_share": 0.0, "data.folds": None, "data.fold": 0, "training.patience": None}
    splits = read_splits(load(config, whole), data)
    images, seed = splits["train"], config.data.split_seed
    divide = _fold_classes if is_open(splits) else fold_images
    with mistakes_in("folds"):
        parts = [divide(images, folds, fold, seed=seed) for fold in range(folds)]
    return [{"train": kept, "validation": held_out} for kept, held_out in parts]


def _fold_classes(images: ImageSet, folds: int, fold: int, *, seed: int) -> tuple[ImageSet, ImageSet]:
    """As `fold_classes`, of the classes with two or more images; the others stay in the kept part."""
    pairs = images.select(np.flatnonzero(images.class_sizes()[images.labels] > 1))
    _, held_out = fold_classes(pairs, folds, fold, seed=seed)
    return images.select(np.flatnonzero(~np.isin(images.paths, held_out.paths))), held_out
