"""From a configuration to the trainer: loss, optimiser and schedule around a network."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from timm.optim import create_optimizer_v2, list_optimizers
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3
from torch import nn

from retrieval.config.imports import call_object, import_object, is_import_path
from retrieval.config.losses import build_loss
from retrieval.config.mistakes import mistakes_in
from retrieval.config.schema import Config, TrainingConfig
from retrieval.errors import ConfigError, did_you_mean
from retrieval.losses import Gauge
from retrieval.losses.proxy_list import ProxyListLoss
from retrieval.networks import Embedder, freeze_batchnorm, parameter_groups, set_backbone_trainable
from retrieval.training import SiMix, Trainer

log = logging.getLogger("retrieval")

OptimizerFactory = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]

_PIECE = 16  # images; a step of MobileNetV2 takes two thirds of the time of one with 64


def build_trainer(
    config: Config,
    model: Embedder,
    *,
    num_classes: int,
    steps_per_epoch: int,
    name_images: Callable[[int], Sequence[object]] | None = None,
    loss: nn.Module | None = None,
    optimizer: OptimizerFactory | torch.optim.Optimizer | None = None,
) -> Trainer:
    """Builds the trainer of a network that is on its device.

    Args:
        config: The configuration.
        model: The network to train.
        num_classes: Number of training classes.
        steps_per_epoch: Steps of an epoch, the unit of the learning-rate schedule.
        name_images: From a step to the names of its images, for the message of a step that failed.
        loss: A loss in place of the one that the configuration names.
        optimizer: A function from parameter groups to an optimiser, or an optimiser, in place of the one that the configuration
            names.

    Raises:
        ConfigError: An option cannot be used, or the optimiser holds no parameter of the network.
    """
    device = next((parameter.device for parameter in model.parameters()), None)
    if device is None:
        raise ConfigError("network: has no parameters, so it cannot be trained")
    if loss is None:
        loss = build_loss(config.loss, num_classes=num_classes, embedding_dim=model.embedding_dim)
    loss = loss.to(device)
    built = _build_optimizer(config, model, loss, optimizer)
    return Trainer(
        model,
        SiMix(loss) if config.batch.simix else loss,
        built,
        _build_schedule(config, built, steps_per_epoch),
        training_mode=_training_mode(config),
        precision="float32" if config.training.amp == "none" else config.training.amp,
        clip_norm=config.training.clip_norm,
        chunk_size=config.batch.chunk,
        piece_size=_piece_size(config, model, device),
        average=ModelEmaV3(model, decay=config.model.ema) if config.model.ema else None,
        seed=config.seed,
        gauge=Gauge(),
        name_images=name_images,
    )


def _piece_size(config: Config, model: nn.Module, device: torch.device) -> int | None:
    """Images of a piece of a batch, if pieces make no difference but in time: on a CPU, with frozen statistics of BatchNorm."""
    is_independent = isinstance(model, Embedder) and model.is_described and config.model.freeze_batchnorm != "none"
    return _PIECE if device.type == "cpu" and is_independent else None


def create_optimizer(settings: TrainingConfig, groups: Sequence[Mapping[str, Any]]) -> torch.optim.Optimizer:
    """The optimiser of a configuration, over parameter groups.

    Raises:
        ConfigError: There is no such optimiser, or it refuses an option.
    """
    name = settings.optimizer
    try:
        if is_import_path(name):
            factory = import_object(name)
            rates = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay}
            known = inspect.signature(factory).parameters
            options = {key: value for key, value in rates.items() if key in known} | settings.optimizer_options
            optimizer: torch.optim.Optimizer = call_object(name, factory, groups, **options)
            return optimizer
    except ValueError as error:
        raise ConfigError(f"training.optimizer: {error}") from error
    if name not in list_optimizers():
        hint = did_you_mean(name, list_optimizers())
        raise ConfigError(f"training.optimizer: {name!r} is not an optimiser of timm{hint}")
    try:
        return create_optimizer_v2(
            groups,
            opt=name,
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
            **settings.optimizer_options,
        )
    except (TypeError, ValueError) as error:
        raise ConfigError(f"training.optimizer_options: {name} refuses them ({error})") from error


def _build_optimizer(
    config: Config, model: Embedder, loss: nn.Module, optimizer: OptimizerFactory | torch.optim.Optimizer | None
) -> torch.optim.Optimizer:
    settings, options = config.training, config.model
    with mistakes_in("model"):
        groups = parameter_groups(
            model,
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
            layer_decay=options.layer_decay,
            head=options.head_lr_multiplier,
            pooling=options.pooling_lr_multiplier,
            extra={"loss": (loss, config.loss.lr_multiplier or _usual_multiplier(loss))},
        )
    if optimizer is None:
        return create_optimizer(settings, groups)
    built = optimizer if isinstance(optimizer, torch.optim.Optimizer) else optimizer(groups)
    if not isinstance(built, torch.optim.Optimizer):
        raise ConfigError(
            f"optimizer: returns a value of type {type(built).__name__}, expected a torch.optim.Optimizer"
        )
    trained = {id(parameter) for group in built.param_groups for parameter in group["params"]}
    if not any(id(parameter) in trained for parameter in model.parameters()):
        raise ConfigError("optimizer: holds no parameter of the network; make it over the parameters of `network`")
    if any(id(parameter) not in trained for parameter in loss.parameters()):
        log.warning("the optimizer does not hold the parameters of the loss, so they are not trained")
    return built


def _usual_multiplier(loss: nn.Module) -> float:
    """How many times as fast as the network the parameters of a loss learn if nothing is said."""
    has_proxies = any(isinstance(part, ProxyListLoss) and part.proxies is not None for part in loss.modules())
    return 10.0 if has_proxies else 1.0


def _build_schedule(config: Config, optimizer: torch.optim.Optimizer, steps_per_epoch: int) -> Any:
    settings = config.training
    lowest = min(group["lr"] for group in optimizer.param_groups)
    scheduler, _ = create_scheduler_v2(
        optimizer,
        # A schedule of steps without a step is constant after the warm-up, in every version of timm.
        sched="multistep" if settings.schedule == "constant" else settings.schedule,
        num_epochs=settings.num_epochs,
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
    """A function that puts a network into training mode for an epoch and freezes the parts that the configuration freezes."""
    options = config.model

    def training_mode(model: nn.Module, epoch: int) -> None:
        model.train()
        if options.freeze_backbone_epochs:
            assert isinstance(model, Embedder)
            set_backbone_trainable(model, epoch >= options.freeze_backbone_epochs)
        freeze_batchnorm(model, options.freeze_batchnorm)

    return training_mode
