"""From a configuration to the splits of a data set and the batches of a training."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader

from retrieval.config.imports import absolute, call_object, import_object, is_import_path
from retrieval.config.mistakes import mistake, mistakes_in
from retrieval.config.schema import BatchConfig, Config, DataConfig, LossTerm
from retrieval.data import (
    Augmentation,
    HierarchicalSampler,
    ImageSet,
    MPerClassSampler,
    Preprocessing,
    check_options,
    fold_classes,
    hold_out_images,
    is_published,
    make_augmentation,
    require_pairs,
    split_classes,
    training_loader,
)
from retrieval.data.registry import read_data
from retrieval.data.unreadable import Unreadable
from retrieval.errors import ConfigError, DatasetError
from retrieval.files.repository import is_hub_place
from retrieval.training import distributed

log = logging.getLogger("retrieval")

Term = TypeVar("Term", bound=LossTerm)


def find_unreadable(config: Config, data: Any = None) -> dict[str, str]:
    """Opens every image and returns the reasons why some cannot be read, by their paths; empty unless `data.unreadable` is "skip".

    Args:
        config: The configuration.
        data: See `read_splits`.

    Raises:
        RetrievalError: See `read_splits`.
    """
    if config.data.unreadable == "refuse":
        return {}

    def find() -> dict[str, str]:
        unreadable = Unreadable(config.data.workers, max_pixels=config.image.max_pixels)
        level = log.level
        log.info("opening every image once, to skip those that cannot be read (data.unreadable=skip)")
        log.setLevel(max(level, logging.WARNING))  # the other lines are those of `read_splits`, which follows
        try:
            _read(config, data, unreadable)
        finally:
            log.setLevel(level)
        return unreadable.faults

    return distributed.on_main(find)


def read_splits(config: Config, data: Any = None, unreadable: Mapping[str, str] | None = None) -> dict[str, ImageSet]:
    """Reads the images of a configuration.

    Args:
        config: The configuration.
        data: The images in place of those that the configuration names: an `ImageSet`, a `torch.utils.data.Dataset` of
            (image, label), or a dict of these by split.
        unreadable: The images that `find_unreadable` has found, which are left out; it is called if this is None.

    Returns:
        "train"; "test", or "query" and "gallery", unless nothing is tested; and "validation" where the images bring it or some of
        the training images are held out. Classes of the same name are the same class in all splits.

    Raises:
        ConfigError: An option of the data section cannot be used.
        DatasetError: The images cannot be read.
    """
    unreadable = find_unreadable(config, data) if unreadable is None else unreadable
    splits = _read(config, data, Unreadable(known=unreadable))
    if config.data.lone_classes == "refuse":
        try:
            require_pairs(splits["train"], "train")
        except DatasetError as error:
            raise DatasetError(f"{error}, or set data.lone_classes to leave_out") from error
    if "validation" not in splits:
        kept, held_out = _hold_out(config, splits)
        splits |= {"train": kept} | ({"validation": held_out} if held_out else {})
    elif config.data.folds:
        raise ConfigError("data.folds: the images bring validation images of their own; leave out the folds")
    if not is_published(config.data.name):
        _log_lone_classes(splits)
    return splits


def named_reader(config: Config) -> Any:
    """The name of the data set, or the function that an import path names."""
    return import_object(config.data.name) if is_import_path(config.data.name) else config.data.name


def _read(config: Config, data: Any, unreadable: Unreadable) -> dict[str, ImageSet]:
    """The splits of the data set that is given or named by the configuration, before anything is held out."""
    try:
        return _read_named(config, unreadable) if data is None else read_data(data, None, _division(config), unreadable)
    except (ValueError, TypeError) as error:  # a TypeError: an option of a type that its reader does not expect
        raise ConfigError(mistake("data", error, DataConfig.model_fields, config.data.options)) from error


def _read_named(config: Config, unreadable: Unreadable) -> dict[str, ImageSet]:
    reader, settings = named_reader(config), config.data
    check_options(reader, settings.options, settings.split)
    options = _division(config) | settings.options
    if not is_import_path(settings.name):
        return read_data(reader, settings.root, options, unreadable)
    splits: dict[str, ImageSet] = call_object(settings.name, read_data, reader, settings.root, options, unreadable)
    return splits


def _division(config: Config) -> dict[str, Any]:
    """The option `split` of `read_dataset`, which published data sets do not have, unless it is the default."""
    return {} if config.data.split == "classes" else {"split": config.data.split}


def measured_splits(splits: Mapping[str, ImageSet]) -> tuple[str, str] | None:
    """The names of the splits of the queries and of their gallery that the results of a run are measured on.

    The queries are "query" or "test", or "validation" where nothing is tested. None: the run has only training images.
    """
    return next(((name, gallery_of(name, splits)) for name in ("query", "test", "validation") if name in splits), None)


def gallery_of(name: str, splits: Mapping[str, ImageSet]) -> str:
    """The split that the images of a split are searched in: "query" in "gallery", and others among themselves.

    Validation images of training classes are searched in "train", which has more images of every class to find.
    """
    if name == "query":
        return "gallery"
    images = splits[name]
    if name == "validation" and 2 * np.isin(images.class_names, splits["train"].class_names)[images.labels].sum() > len(
        images
    ):
        return "train"
    return name


def is_open(splits: Mapping[str, ImageSet]) -> bool:
    """Whether the tested classes are other ones than the training classes."""
    tested = splits.get("query", splits.get("test"))
    return tested is not None and set(tested.class_names).isdisjoint(splits["train"].class_names)


def with_absolute_paths(config: Config) -> Config:
    """The configuration as it can be used from any folder: paths of images, weights and code are absolute."""
    data, model, loss, training = config.data, config.model, config.loss, config.training
    data = data.model_copy(update={"name": absolute(data.name)})
    if data.root is not None:
        data = data.model_copy(update={"root": str(Path(data.root).expanduser().resolve())})
    model = model.model_copy(update={"backbone": absolute(model.backbone)})
    if isinstance(model.pretrained, str) and not is_hub_place(model.pretrained):
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
    if batch.sampler == "m_per_class":
        with mistakes_in("batch.size"):
            return MPerClassSampler(images.labels, batch.size, batch.samples_per_class, **share)
    with mistakes_in("batch", BatchConfig.model_fields):
        if images.super_labels is None:
            raise ValueError(f"sampler is hierarchical, but {config.data.name} has no super-classes; use m_per_class")
        return HierarchicalSampler(
            images.labels, images.super_labels, batch.size, batch.samples_per_class, batch.super_classes, **share
        )


def build_augmentation(config: Config, preprocessing: Preprocessing) -> Augmentation:
    """How training prepares an image."""
    with mistakes_in("image.augmentation_options", config.image.augmentation_options):
        return make_augmentation(config.image.augmentation, preprocessing, **config.image.augmentation_options)


def build_training_loader(
    config: Config, images: ImageSet, augmentation: Augmentation, sampler: MPerClassSampler, start_step: int
) -> DataLoader[tuple[torch.Tensor, torch.Tensor]]:
    """The batches from `start_step` to the end of the last epoch."""
    return training_loader(
        images,
        _batches(sampler, start_step, config.training.num_epochs),
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


def _hold_out(config: Config, splits: Mapping[str, ImageSet]) -> tuple[ImageSet, ImageSet | None]:
    """Divides the training images into (kept, held out for validation).

    Classes are held out where the tested classes are other ones than the training classes, and images where every class trains.
    """
    data, images = config.data, splits["train"]
    if data.folds and not is_open(splits):
        raise ConfigError(
            "data.folds: folds are of classes, but the tested classes are training classes; leave out the folds"
        )
    if data.folds:
        with mistakes_in("data.folds"):
            return fold_classes(images, data.folds, data.fold, seed=data.split_seed)
    if not data.validation_share:
        return images, None
    if not is_open(splits):
        kept, held_out = hold_out_images(images, data.validation_share, seed=data.split_seed)
        if held_out is None:
            log.info("no validation: it needs a class with three or more images; the last epoch is kept")
        return kept, held_out
    if is_published(data.name):
        with mistakes_in("data.validation_share"):
            return split_classes(images, data.validation_share, seed=data.split_seed)
    return _hold_out_few_classes(images, data.validation_share, seed=data.split_seed)


def _hold_out_few_classes(images: ImageSet, share: float, *, seed: int) -> tuple[ImageSet, ImageSet | None]:
    """As `split_classes`, from classes with two or more images, and with two classes in each part where the share is less."""
    candidates = images.select(np.flatnonzero(images.class_sizes()[images.labels] > 1))
    count = candidates.num_classes
    if count < 4:
        message = (
            "no validation: it needs four training classes of two or more images, there are %d; the last epoch is kept"
        )
        log.info(message, count)
        return images, None
    num_held_out = min(max(2, round(share * count)), count - 2)
    if num_held_out != round(share * count):
        log.info("validation: %d of %d training classes are held out", num_held_out, count)
    _, held_out = split_classes(candidates, num_held_out / count, seed=seed)
    return images.select(np.flatnonzero(~np.isin(images.paths, held_out.paths))), held_out


def _log_lone_classes(splits: Mapping[str, ImageSet]) -> None:
    """Counts the classes of a single image, which has no other one to find, where images are searched among their own split."""
    for name in ("train", "validation", "test"):
        searched = name in splits and gallery_of(name, splits) == name
        lone = int((splits[name].class_sizes() < 2).sum()) if searched else 0
        if lone:
            log.info(
                "%s: %d of %d classes have a single image, which is left out", name, lone, splits[name].num_classes
            )


def _batches(sampler: MPerClassSampler, start_step: int, epochs: int) -> Iterator[tuple[int, np.ndarray]]:
    """(step, indices) of every step from `start_step` on; the step seeds the augmentation."""
    for epoch in range(start_step // sampler.steps_per_epoch, epochs):
        first = epoch * sampler.steps_per_epoch
        for step, indices in enumerate(sampler.epoch(epoch), start=first):
            if step >= start_step:
                yield step, indices
