"""The trainer: loss, optimiser and schedule around a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from timm.optim import create_optimizer_v2, list_optimizers
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3
from torch import nn

from retrieval.building.losses import build_loss
from retrieval.building.mistakes import mistakes_in
from retrieval.config import Config
from retrieval.errors import ConfigError, did_you_mean
from retrieval.models import Embedder, freeze_batchnorm, parameter_groups, set_backbone_trainable
from retrieval.training import SiMix, Trainer


def build_trainer(
    config: Config,
    model: Embedder,
    *,
    num_classes: int,
    steps_per_epoch: int,
    name_images: Callable[[int], Sequence[object]] | None = None,
) -> Trainer:
    """The trainer of a model that is on its device.

    Args:
        config: see there.
        model: what is trained.
        num_classes: of the training images.
        steps_per_epoch: the schedule counts in epochs.
        name_images: from a step to the names of its images, to tell where the numbers went wrong.
    """
    device = next(model.parameters()).device
    loss = build_loss(config.loss, num_classes=num_classes, embedding_dim=model.embedding_dim).to(device)
    optimizer = _build_optimizer(config, model, loss)
    return Trainer(
        model,
        SiMix(loss) if config.batch.simix else loss,
        optimizer,
        _build_schedule(config, optimizer, steps_per_epoch),
        training_mode=_training_mode(config),
        precision="float32" if config.training.amp == "none" else config.training.amp,
        clip_norm=config.training.clip_norm,
        chunk_size=config.batch.chunk,
        average=ModelEmaV3(model, decay=config.model.ema) if config.model.ema else None,
        seed=config.seed,
        name_images=name_images,
    )


def _build_optimizer(config: Config, model: Embedder, loss: nn.Module) -> torch.optim.Optimizer:
    settings, words = config.training, config.model
    if settings.optimizer not in list_optimizers():
        hint = did_you_mean(settings.optimizer, list_optimizers())
        raise ConfigError(f"training.optimizer: {settings.optimizer!r} is not an optimiser of timm{hint}")
    with mistakes_in("model"):
        groups = parameter_groups(
            model,
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
            layer_decay=words.layer_decay,
            head=words.head_lr_multiplier,
            pooling=words.pooling_lr_multiplier,
            extra={"loss": (loss, config.loss.lr_multiplier)},
        )
    try:
        return create_optimizer_v2(
            groups,
            opt=settings.optimizer,
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
            **settings.optimizer_options,
        )
    except (TypeError, ValueError) as error:
        raise ConfigError(f"training.optimizer_options: {settings.optimizer} refuses them ({error})") from error


def _build_schedule(config: Config, optimizer: torch.optim.Optimizer, steps_per_epoch: int) -> Any:
    settings = config.training
    lowest = min(group["lr"] for group in optimizer.param_groups)
    scheduler, _ = create_scheduler_v2(
        optimizer,
        # A schedule of steps without a step is constant after the warm-up, in every version of timm.
        sched="multistep" if settings.schedule == "constant" else settings.schedule,
        num_epochs=settings.epochs,
        decay_epochs=settings.decay_epochs[0] if settings.schedule == "step" else 1,
        decay_milestones=settings.decay_epochs,
        decay_rate=settings.decay_rate,
        min_lr=settings.min_learning_rate,
        warmup_epochs=settings.warmup_epochs,
        warmup_lr=lowest / 100,
        step_on_epochs=False,
        updates_per_epoch=steps_per_epoch,
    )
    scheduler.step_update(0)
    return scheduler


def _training_mode(config: Config) -> Callable[[nn.Module, int], None]:
    """What puts a model into training mode after so many epochs: with frozen parts, by the configuration."""
    words = config.model

    def training_mode(model: nn.Module, epoch: int) -> None:
        model.train()
        if words.freeze_backbone_epochs:
            assert isinstance(model, Embedder)
            set_backbone_trainable(model, epoch >= words.freeze_backbone_epochs)
        freeze_batchnorm(model, words.freeze_batchnorm)

    return training_mode
