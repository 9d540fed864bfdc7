"""Images: splits, their preparation, and batches of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader

from retrieval.building.mistakes import mistakes_in
from retrieval.config import Config
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
from retrieval.models import Embedder, pretraining_statistics
from retrieval.training import distributed

# Splits that are ranked against one another instead of each against itself.
GALLERIES = {"query": "gallery"}


def read_splits(config: Config) -> dict[str, ImageSet]:
    """The splits "train" and "test" (or "query" and "gallery"), and "validation" where training classes are held out for it."""
    try:
        splits = read_dataset(config.data.name, config.data.root, **config.data.options)
    except (ValueError, TypeError) as error:  # a TypeError: an option of another type than its reader expects
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


def measured_splits(splits: Mapping[str, ImageSet]) -> tuple[str, str]:
    """The names of the queries and of the gallery that the figures on the test classes are of; twice "test" as a rule."""
    return ("query", GALLERIES["query"]) if "query" in splits else ("test", "test")


def with_absolute_paths(config: Config) -> Config:
    """The configuration as it can be used from any folder."""
    data, model = config.data, config.model
    if data.root is not None:
        data = data.model_copy(update={"root": str(Path(data.root).expanduser().resolve())})
    if isinstance(model.pretrained, str):
        model = model.model_copy(update={"pretrained": str(Path(model.pretrained).expanduser().resolve())})
    return config.model_copy(update={"data": data, "model": model})


def build_preprocessing(config: Config, model: Embedder) -> Preprocessing:
    """How evaluation prepares an image; what the configuration leaves open comes from the backbone's pretraining."""
    mean, std, interpolation = pretraining_statistics(model)
    with mistakes_in("image"):
        return Preprocessing(
            resize=config.image.resize,
            size=config.image.size,
            mean=_rgb(config.image.mean or mean),
            std=_rgb(config.image.std or std),
            interpolation=config.image.interpolation or interpolation,
        )


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
    """What training makes of an image."""
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
    """From the number of a step to the paths of this process's images in it."""

    def names(step: int) -> list[str]:
        epoch, place = divmod(step, sampler.steps_per_epoch)
        return [images.paths[index] for index in sampler.epoch(epoch)[place]]

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


def _rgb(values: Iterable[float]) -> tuple[float, float, float]:
    red, green, blue = values
    return red, green, blue
