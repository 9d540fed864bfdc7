"""From a configuration to the splits of a data set and the batches of a training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader

from retrieval.config.imports import absolute, call_object, import_object, is_import_path
from retrieval.config.mistakes import mistakes_in
from retrieval.config.schema import Config, LossTerm
from retrieval.data import (
    Augmentation,
    HierarchicalSampler,
    ImageSet,
    MPerClassSampler,
    Preprocessing,
    fold_classes,
    make_augmentation,
    read_dataset,
    require_pairs,
    split_classes,
    training_loader,
)
from retrieval.errors import ConfigError, DatasetError
from retrieval.training import distributed

Term = TypeVar("Term", bound=LossTerm)

# Splits whose images are queries against the images of another split.
GALLERIES = {"query": "gallery"}


def read_splits(config: Config, data: Any = None) -> dict[str, ImageSet]:
    """Reads the images of a configuration.

    Args:
        config: The configuration.
        data: The images in place of those that the configuration names: an `ImageSet`, a `torch.utils.data.Dataset` of
            (image, label), or a dict of these by split.

    Returns:
        "train" and "test" (or "query" and "gallery"), and "validation" where training classes are held out.

    Raises:
        ConfigError: An option of the data section cannot be used.
        DatasetError: The images cannot be read.
    """
    try:
        splits = _read_named(config) if data is None else read_dataset(data)
    except (ValueError, TypeError) as error:  # a TypeError: an option of a type that its reader does not expect
        raise ConfigError(f"data: {error}") from error
    if config.data.lone_classes == "refuse":
        try:
            require_pairs(splits["train"], "train")
        except DatasetError as error:
            raise DatasetError(f"{error}, or set data.lone_classes to leave_out") from error
    kept, held_out = _hold_out(config, splits["train"])
    splits |= {"train": kept} | ({"validation": held_out} if held_out else {})
    for name in sorted(splits.keys() - {"train", "gallery"}):
        _check_ks(max(config.evaluation.ks), name, splits)
    return splits


def named_reader(config: Config) -> Any:
    """The name of the data set, or the function that an import path names."""
    return import_object(config.data.name) if is_import_path(config.data.name) else config.data.name


def _read_named(config: Config) -> dict[str, ImageSet]:
    """The splits of the data set that the configuration names."""
    reader, settings = named_reader(config), config.data
    if not is_import_path(settings.name):
        return read_dataset(reader, settings.root, **settings.options)
    splits: dict[str, ImageSet] = call_object(settings.name, read_dataset, reader, settings.root, **settings.options)
    return splits


def measured_splits(splits: Mapping[str, ImageSet]) -> tuple[str, str]:
    """The names of the splits of the test queries and of their gallery; usually both are "test"."""
    return ("query", GALLERIES["query"]) if "query" in splits else ("test", "test")


def with_absolute_paths(config: Config) -> Config:
    """The configuration as it can be used from any folder: paths of images, weights and code are absolute."""
    data, model, loss, training = config.data, config.model, config.loss, config.training
    data = data.model_copy(update={"name": absolute(data.name)})
    if data.root is not None:
        data = data.model_copy(update={"root": str(Path(data.root).expanduser().resolve())})
    model = model.model_copy(update={"backbone": absolute(model.backbone)})
    if isinstance(model.pretrained, str):
        model = model.model_copy(update={"pretrained": str(Path(model.pretrained).expanduser().resolve())})
    terms = [_with_absolute_names(term) for term in loss.terms]
    loss = _with_absolute_names(loss).model_copy(update={"terms": terms})
    callbacks = [
        absolute(item) if isinstance(item, str) else item.model_copy(update={"name": absolute(item.name)})
        for item in training.callbacks
    ]
    training = training.model_copy(update={"optimizer": absolute(training.optimizer), "callbacks": callbacks})
    return config.model_copy(update={"data": data, "model": model, "loss": loss, "training": training})


def _with_absolute_names(term: Term) -> Term:
    miner = None if term.miner is None else absolute(term.miner)
    return term.model_copy(update={"name": absolute(term.name), "miner": miner})


def build_sampler(config: Config, images: ImageSet) -> MPerClassSampler:
    """The sampler of this process's part of the training batches."""
    batch = config.batch
    share = {"seed": config.seed, "rank": distributed.rank(), "world_size": distributed.world_size()}
    with mistakes_in("batch"):
        if batch.sampler == "m_per_class":
            return MPerClassSampler(images.labels, batch.size, batch.samples_per_class, **share)
        if images.super_labels is None:
            raise ValueError(f"sampler is hierarchical, but {config.data.name} has no super-classes; use m_per_class")
        return HierarchicalSampler(
            images.labels, images.super_labels, batch.size, batch.samples_per_class, batch.super_classes, **share
        )


def build_augmentation(config: Config, preprocessing: Preprocessing) -> Augmentation:
    """How training prepares an image."""
    with mistakes_in("image.augmentation_options"):
        return make_augmentation(config.image.augmentation, preprocessing, **config.image.augmentation_options)


def build_training_loader(
    config: Config, images: ImageSet, augmentation: Augmentation, sampler: MPerClassSampler, start_step: int
) -> DataLoader[tuple[torch.Tensor, torch.Tensor]]:
    """The batches from `start_step` to the end of the last epoch."""
    return training_loader(
        images,
        _batches(sampler, start_step, config.training.epochs),
        augmentation,
        seed=config.seed,
        workers=config.data.workers,
        timeout=config.data.timeout,
    )


def name_images(images: ImageSet, sampler: MPerClassSampler) -> Callable[[int], list[str]]:
    """A function from the number of a step to the paths of this process's images in it."""

    def names(step: int) -> list[str]:
        epoch, batch = divmod(step, sampler.steps_per_epoch)
        return [images.paths[index] for index in sampler.epoch(epoch)[batch]]

    return names


def _hold_out(config: Config, images: ImageSet) -> tuple[ImageSet, ImageSet | None]:
    data = config.data
    if data.folds:
        with mistakes_in("data.folds"):
            return fold_classes(images, data.folds, data.fold, seed=data.split_seed)
    if data.validation_share:
        with mistakes_in("data.validation_share"):
            return split_classes(images, data.validation_share, seed=data.split_seed)
    return images, None


def _check_ks(largest: int, name: str, splits: dict[str, ImageSet]) -> None:
    others = len(splits[GALLERIES[name]]) if name in GALLERIES else len(splits[name]) - 1
    if largest > others:
        raise ConfigError(
            f"evaluation.ks: k is {largest}, but a query of the {name} split has {others} others to find; "
            "lower the largest k, or change data.validation_share"
        )


def _batches(sampler: MPerClassSampler, start_step: int, epochs: int) -> Iterator[tuple[int, np.ndarray]]:
    """(step, indices) of every step from `start_step` on; the step seeds the augmentation."""
    for epoch in range(start_step // sampler.steps_per_epoch, epochs):
        first = epoch * sampler.steps_per_epoch
        for step, indices in enumerate(sampler.epoch(epoch), start=first):
            if step >= start_step:
                yield step, indices
