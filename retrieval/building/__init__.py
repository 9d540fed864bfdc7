"""From the words of a configuration to objects: the only place that knows both."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load as load_tensors
from timm.optim import create_optimizer_v2, list_optimizers
from timm.scheduler import create_scheduler_v2
from torch.utils.data import DataLoader
from tqdm import tqdm

from retrieval.config import Config
from retrieval.data import (
    ImageSet,
    MPerClassSampler,
    Preprocessing,
    evaluation_loader,
    make_augmentation,
    read_dataset,
    require_pairs,
    split_classes,
    training_loader,
)
from retrieval.errors import ConfigError, IndexFormatError, did_you_mean
from retrieval.index import Bundle
from retrieval.losses import RecallLoss
from retrieval.models import Embedder, create_embedder, embed, pretraining_statistics
from retrieval.training import Trainer


def pick_device(name: str) -> torch.device:
    """The device of that name; "auto" is the first CUDA GPU if there is one, else the CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.empty(0, device=name).device
        if device.type == "meta":
            raise RuntimeError("it holds no numbers")
        return device
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was compiled with CUDA
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device: {name!r} is not available ({reason}); use auto, cpu, or cuda") from error


def read_splits(config: Config) -> dict[str, ImageSet]:
    """The splits "train" and "test", and "validation" where some training classes are held out for it."""
    try:
        splits = read_dataset(config.data.name, config.data.root, **config.data.options)
    except (ValueError, TypeError) as error:  # a TypeError: an option of another type than its reader expects
        raise ConfigError(f"data: {error}") from error
    require_pairs(splits["train"], "train")
    if config.data.validation_share:
        with _mistakes_in("data.validation_share"):
            kept, held_out = split_classes(splits["train"], config.data.validation_share, seed=config.seed)
        splits |= {"train": kept, "validation": held_out}
    for name in sorted(splits.keys() - {"train"}):
        if max(config.evaluation.ks) >= len(splits[name]):
            raise ConfigError(
                f"evaluation.ks: k is {max(config.evaluation.ks)}, but a query of the {name} split has "
                f"{len(splits[name]) - 1} others to find; lower the largest k, or change data.validation_share"
            )
    return splits


def with_absolute_paths(config: Config) -> Config:
    """The configuration as it can be used from any folder."""
    data, model = config.data, config.model
    if data.root is not None:
        data = data.model_copy(update={"root": str(Path(data.root).expanduser().resolve())})
    if isinstance(model.pretrained, str):
        model = model.model_copy(update={"pretrained": str(Path(model.pretrained).expanduser().resolve())})
    return config.model_copy(update={"data": data, "model": model})


def build_model(config: Config, *, pretrained: bool = True) -> Embedder:
    """The embedding model, on the CPU; `pretrained=False` leaves out the weights, for a model that gets its own."""
    with _mistakes_in("model"):
        return create_embedder(
            config.model.backbone,
            pretrained=config.model.pretrained if pretrained else False,
            embedding_dim=config.model.embedding_dim,
            image_size=config.image.size,
        )


def build_preprocessing(config: Config, model: Embedder) -> Preprocessing:
    """How evaluation prepares an image; what the configuration leaves open comes from the backbone's pretraining."""
    mean, std, interpolation = pretraining_statistics(model)
    with _mistakes_in("image"):
        return Preprocessing(
            resize=config.image.resize,
            size=config.image.size,
            mean=_rgb(config.image.mean or mean),
            std=_rgb(config.image.std or std),
            interpolation=config.image.interpolation or interpolation,
        )


def build_sampler(config: Config, images: ImageSet) -> MPerClassSampler:
    """The sampler of training batches."""
    with _mistakes_in("batch"):
        return MPerClassSampler(images.labels, config.batch.size, config.batch.samples_per_class, seed=config.seed)


def build_training_loader(
    config: Config, images: ImageSet, preprocessing: Preprocessing, sampler: MPerClassSampler, start_step: int
) -> DataLoader[tuple[torch.Tensor, torch.Tensor]]:
    """The batches from `start_step` to the end of the last epoch."""
    return training_loader(
        images,
        _batches(sampler, start_step, config.training.epochs),
        make_augmentation(config.image.augmentation, preprocessing),
        seed=config.seed,
        workers=config.data.workers,
        timeout=config.data.timeout,
    )


def build_trainer(config: Config, model: Embedder, steps_per_epoch: int) -> Trainer:
    """Loss, optimiser and schedule around the model."""
    settings = config.training
    if settings.optimizer not in list_optimizers():
        hint = did_you_mean(settings.optimizer, list_optimizers())
        raise ConfigError(f"training.optimizer: {settings.optimizer!r} is not an optimiser of timm{hint}")
    optimizer = create_optimizer_v2(
        model, opt=settings.optimizer, lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    scheduler, _ = create_scheduler_v2(
        optimizer,
        sched="cosine",
        num_epochs=settings.epochs,
        warmup_epochs=settings.warmup_epochs,
        warmup_lr=settings.learning_rate / 100,
        step_on_epochs=False,
        updates_per_epoch=steps_per_epoch,
    )
    scheduler.step_update(0)
    with _mistakes_in("loss"):
        loss = RecallLoss(**config.loss.model_dump())
    return Trainer(model, loss, optimizer, scheduler, config.model.freeze_batchnorm, settings.clip_norm)


def embed_images(config: Config, model: Embedder, preprocessing: Preprocessing, images: ImageSet) -> np.ndarray:
    """Unit vectors (len(images), embedding_dim) of all images, in order."""
    loader = evaluation_loader(
        images,
        preprocessing,
        batch_size=config.evaluation.batch_size,
        workers=config.data.workers,
        timeout=config.data.timeout,
    )
    with ProgressBar(len(loader), "embedding") as bar:
        return embed(model, bar.each(loader))


def load_embedder(bundle: Bundle) -> tuple[Embedder, Preprocessing]:
    """The model of an index bundle and how it wants its images.

    Raises:
        IndexFormatError: the bundle has no model, or one that this version cannot build.
    """
    if bundle.model is None:
        raise IndexFormatError(f"{bundle.folder}: holds vectors without a model, so images cannot be searched in it")
    try:
        preprocessing = Preprocessing.from_dict(bundle.model["preprocessing"])
        model = create_embedder(
            bundle.model["backbone"], embedding_dim=bundle.model["embedding_dim"], image_size=preprocessing.size
        )
        model.load_state_dict(load_tensors(bundle.weights()))
    except (KeyError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise IndexFormatError(
            f"{bundle.folder}/model.json: its model cannot be built ({reason}); build the index again"
        ) from error
    return model, preprocessing


class ProgressBar(tqdm):
    """A progress bar on stderr that shows on a terminal only and vanishes when done."""

    def __init__(self, total: int, what: str, *, initial: int = 0) -> None:
        super().__init__(total=total, desc=what, initial=initial, leave=False, disable=None, dynamic_ncols=True)

    def each(self, batches: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        """Counts what passes through."""
        for batch in batches:
            yield batch
            self.update()


@contextlib.contextmanager
def _mistakes_in(section: str) -> Iterator[None]:
    """A wrong argument that came from the configuration is a mistake of the configuration."""
    try:
        yield
    except ValueError as error:
        raise ConfigError(f"{section}: {error}") from error


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
