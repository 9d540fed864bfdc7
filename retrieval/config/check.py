"""Checks that everything a configuration names exists, by resolving it as a run does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from retrieval.config.imports import call_object, import_object, is_import_path
from retrieval.config.losses import build_loss
from retrieval.config.mistakes import mistake
from retrieval.config.network import find_backbone
from retrieval.config.schema import CallbackConfig, Config, DataConfig
from retrieval.config.splits import build_augmentation, named_reader
from retrieval.config.trainer import create_optimizer
from retrieval.data import Preprocessing
from retrieval.data.registry import check_options, find_reader
from retrieval.errors import ConfigError, RetrievalError, did_you_mean
from retrieval.files.repository import Repository, is_hub_place
from retrieval.networks import check_name
from retrieval.training.callbacks import CALLBACKS, Callbacks

# Sections whose names a run resolves; an object that is given in place of one needs no check.
PARTS = ("data", "network", "loss", "optimizer", "callbacks")


def check(config: Config, parts: tuple[str, ...] = PARTS, *, pretrained: bool = True) -> None:
    """Resolves the data set, backbone, loss, miner, optimiser, callbacks and augmentation of a configuration.

    The folder of the images must exist, but they are not read, and no weights are loaded.

    Args:
        config: The configuration.
        parts: The parts to resolve.
        pretrained: Whether the file of pretrained weights must exist; a resumed run does not need it.

    Raises:
        ConfigError: With one line for every name, option or file that does not exist.
    """
    checks: dict[str, Callable[[Config], object]] = {
        "data": _check_data,
        "network": lambda config: _check_network(config, pretrained),
        "loss": lambda config: build_loss(config.loss, num_classes=2, embedding_dim=config.model.embedding_dim or 8),
        "optimizer": lambda config: create_optimizer(
            config.training, [{"params": [torch.zeros(1, requires_grad=True)]}]
        ),
        "callbacks": build_callbacks,
        "augmentation": _check_augmentation,
    }
    mistakes: list[str] = []
    for part in (*parts, "augmentation"):
        try:
            checks[part](config)
        except RetrievalError as error:  # also of a package that a callback needs
            mistakes += error.mistakes if isinstance(error, ConfigError) else [str(error)]
    if mistakes:
        raise ConfigError(mistakes)


def names_in(config: Config, parts: tuple[str, ...] = PARTS) -> list[str]:
    """The names by which a configuration names its parts; some may be import paths."""
    terms = (config.loss, *config.loss.terms)
    names: dict[str, list[str | None]] = {
        "data": [config.data.name],
        "network": [config.model.backbone],
        "loss": [name for term in terms for name in (term.name, term.miner)],
        "optimizer": [config.training.optimizer],
        "callbacks": [entry if isinstance(entry, str) else entry.name for entry in config.training.callbacks],
    }
    return [name for part in parts for name in names[part] if name is not None]


def build_callbacks(config: Config) -> list[Any]:
    """The callbacks of a configuration.

    Raises:
        ConfigError: There is no such callback, or it refuses an option.
        RetrievalError: A package that a callback needs is not installed.
    """
    callbacks, mistakes = [], []
    for entry in config.training.callbacks:
        item = entry if isinstance(entry, CallbackConfig) else CallbackConfig(name=entry)
        try:
            callback = call_object(item.name, _find_callback(item.name), **item.options)
            Callbacks([callback])  # an error if it has no method of a callback
            callbacks.append(callback)
        except ValueError as error:
            mistakes.append(f"training.callbacks: {item.name}: {error}")
    if mistakes:
        raise ConfigError(mistakes)
    return callbacks


def _find_callback(name: str) -> Callable[..., Any]:
    if is_import_path(name):
        return import_object(name)
    if name not in CALLBACKS:
        known = f"; known are {', '.join(CALLBACKS)}, and import paths such as my_hooks:Log"
        raise ValueError(f"there is no such callback{did_you_mean(name, CALLBACKS) or known}")
    return CALLBACKS[name]


def _check_data(config: Config) -> None:
    try:
        check_options(find_reader(named_reader(config)), config.data.options, config.data.split)
    except ValueError as error:
        raise ConfigError(mistake("data", error, DataConfig.model_fields, config.data.options)) from error
    root, is_own = config.data.root, is_import_path(config.data.name)
    if root is not None and not is_own and not Path(root).expanduser().is_dir():
        raise ConfigError(f"data.root: {root}: no such folder; give the folder of the images")


def _check_augmentation(config: Config) -> None:
    any_numbers = (0.5, 0.5, 0.5)
    build_augmentation(config, Preprocessing(config.image.resize, config.image.size, any_numbers, any_numbers))


def _check_network(config: Config, pretrained: bool) -> None:
    options = config.model
    mistakes = []
    try:
        if is_import_path(options.backbone):
            find_backbone(options)
        else:
            check_name(options.backbone)
    except ValueError as error:
        mistakes.append(f"model: {error}")
    if pretrained and isinstance(options.pretrained, str) and (found := _mistake_in_weights(options.pretrained)):
        mistakes.append(f"model.pretrained: {found}")
    if mistakes:
        raise ConfigError(mistakes)


def _mistake_in_weights(pretrained: str) -> str:
    """What is wrong with the path of a weights file or the name of a repository; "" where nothing is."""
    if not is_hub_place(pretrained):
        missing = not Path(pretrained).expanduser().is_file()
        return f"{pretrained}: no such weights file; give true, false or a path" if missing else ""
    try:
        repository = Repository.parse(pretrained)
    except ValueError as error:
        return str(error)
    return "" if repository.kind == "model" else f"{pretrained}: is no repository of a model; give hf-hub:user/name"
