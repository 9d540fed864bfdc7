"""Fits a configuration to the number of images: the epochs, and, for own images, the batch and the cut-offs of recall@k."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from retrieval.config.reading import load
from retrieval.config.schema import Config
from retrieval.config.splits import gallery_of
from retrieval.data import ImageSet, is_published
from retrieval.errors import ConfigError
from retrieval.training import distributed

log = logging.getLogger("retrieval")

# `training.epochs: auto` shows about this many images, in no fewer and no more epochs.
IMAGES_SEEN = 10_000
LEAST_EPOCHS, MOST_EPOCHS = 2, 30


def fit(config: Config, splits: Mapping[str, ImageSet]) -> Config:
    """The configuration that a run of these images uses.

    `training.epochs: auto` becomes a number. For own images, a batch that the classes cannot fill and cut-offs that exceed the
    images to find are lowered, with a line in the log for each; a published data set refuses them.

    Args:
        config: The configuration.
        splits: The splits; see `retrieval.config.splits.read_splits`.

    Raises:
        ConfigError: An option cannot be used with these images.
    """
    changes: dict[str, Any] = {}
    if config.training.patience and "validation" not in splits:
        raise ConfigError("training.patience: watches validation images, but there are none; leave it out")
    if config.training.epochs == "auto":
        changes["training.epochs"] = max(choose_epochs(len(splits["train"])), config.training.warmup_epochs + 1)
    ks = _fitting_ks(config, splits)
    if is_published(config.data.name):
        _refuse_large_ks(config, splits)
    else:
        if (size := _fitting_batch(config, splits["train"])) < config.batch.size:
            log.info("batch.size: %d instead of %d, which the classes cannot fill", size, config.batch.size)
            changes["batch.size"] = size
        if ks != config.evaluation.ks:
            log.info("evaluation.ks: %s instead of %s, which exceeds the images to find", ks, config.evaluation.ks)
            changes["evaluation.ks"] = ks
    return load(config, changes)


def choose_epochs(num_images: int) -> int:
    """The number of epochs of `training.epochs: auto`: about `IMAGES_SEEN` images, from `LEAST_EPOCHS` to `MOST_EPOCHS` epochs."""
    return min(max(round(IMAGES_SEEN / num_images), LEAST_EPOCHS), MOST_EPOCHS)


def _fitting_batch(config: Config, images: ImageSet) -> int:
    """The largest batch that is not larger than `batch.size` and that the classes can fill, in whole classes where possible."""
    batch = config.batch
    sizes = images.class_sizes()
    most = int(np.minimum(sizes[sizes > 1], batch.samples_per_class).sum())
    if most >= batch.size:
        return batch.size
    processes = distributed.world_size()
    unit = int(np.lcm(batch.samples_per_class, processes))
    size = most - most % (unit if most >= unit else processes)
    if size < 4:
        raise ConfigError(
            f"batch.size: the classes fill a batch of {size} in {processes} processes, expected 4 or more"
        )
    return size


def _fitting_ks(config: Config, splits: Mapping[str, ImageSet]) -> list[int]:
    most = min(_others(name, splits) for name in _queries(splits)) if _queries(splits) else max(config.evaluation.ks)
    return [k for k in config.evaluation.ks if k <= most] or [1]


def _refuse_large_ks(config: Config, splits: Mapping[str, ImageSet]) -> None:
    for name in _queries(splits):
        if (largest := max(config.evaluation.ks)) > (others := _others(name, splits)):
            raise ConfigError(
                f"evaluation.ks: k is {largest}, but a query of the {name} split has {others} others to find; "
                "lower the largest k, or change data.validation_share"
            )


def _queries(splits: Mapping[str, ImageSet]) -> list[str]:
    """The splits whose images are queries."""
    return sorted(splits.keys() - {"train", "gallery"})


def _others(name: str, splits: Mapping[str, ImageSet]) -> int:
    """The number of images that a query of a split can find."""
    gallery = gallery_of(name, splits)
    return len(splits[gallery]) - (gallery == name)
