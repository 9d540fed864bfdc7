"""From a configuration to the network and the preprocessing of its images."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from retrieval.config.imports import call_object, import_object, is_import_path
from retrieval.config.mistakes import mistakes_in
from retrieval.config.schema import Config, ModelConfig
from retrieval.data import Preprocessing
from retrieval.errors import ConfigError
from retrieval.networks import Embedder, create_embedder, pretraining_statistics, unseen_border

__all__ = [
    "Embedder",
    "build_network",
    "build_preprocessing",
    "find_backbone",
    "head_start",
    "own_network",
    "require_whole_image",
    "without_head",
]


def build_network(config: Config, *, pretrained: bool = True) -> Embedder:
    """Builds the network on the CPU; `pretrained=False` leaves out its weights, for a network that loads others.

    Raises:
        ConfigError: An option of the model section cannot be used.
        RetrievalError: The pretrained weights cannot be read or fetched.
    """
    options = config.model
    with mistakes_in("model"):
        network = create_embedder(
            _own_backbone(config, pretrained) if is_import_path(options.backbone) else options.backbone,
            pretrained=options.pretrained if pretrained else False,
            embedding_dim=options.embedding_dim,
            image_size=config.image.size,
            pooling=options.pooling,
            layer_norm=options.layer_norm,
            gradient_checkpointing=options.gradient_checkpointing,
        )
    return _in_layout(network, options)


def own_network(network: nn.Module, config: Config) -> Embedder:
    """A module from images to vectors as an `Embedder` without a head.

    Raises:
        ConfigError: The module does not make vectors of images of this size.
    """
    if not isinstance(network, Embedder):
        with mistakes_in("network"):
            network = create_embedder(network, embedding_dim=None, image_size=config.image.size)
    return _in_layout(network, config.model)


def require_whole_image(network: Embedder, config: Config) -> None:
    """Checks that a network sees the last rows and columns of an image, by the gradient of its output.

    Raises:
        ConfigError: It drops some, as a vision transformer does if `image.size` is no multiple of its patch.
    """
    size = config.image.size
    if unseen := unseen_border(network, size):
        patch = getattr(getattr(network.backbone, "patch_embed", None), "patch_size", None)
        larger = f" or {size - unseen + max(patch)}" if isinstance(patch, tuple) else ""
        raise ConfigError(
            f"image.size: {config.model.backbone} does not see the last {unseen} rows and columns of images of {size} x {size} "
            f"pixels; set image.size to {size - unseen}{larger}"
        )


def head_start(options: ModelConfig) -> str:
    """How the head starts; see `retrieval.networks.start_head`."""
    if options.embedding_dim is None:
        return "random"
    return options.head_init or ("whiten" if options.pretrained else "random")


def without_head(network: Embedder, *, norm: bool = False) -> Embedder:
    """The network without its head: the features of its backbone, with the same weights.

    Args:
        network: The network.
        norm: Keep the norm between features and head.
    """
    headless = Embedder(network.backbone, network.embedding_dim, None, pooling=network.pooling)
    if norm:
        headless.norm = network.norm
    return headless


def build_preprocessing(config: Config, network: nn.Module) -> Preprocessing:
    """How evaluation prepares an image. Options that are null come from the pretraining of the backbone."""
    mean, std, interpolation = pretraining_statistics(network)
    with mistakes_in("image"):
        return Preprocessing(
            resize=config.image.resize,
            size=config.image.size,
            mean=_rgb(config.image.mean or mean),
            std=_rgb(config.image.std or std),
            interpolation=config.image.interpolation or interpolation,
            max_pixels=config.image.max_pixels,
            decoding=config.image.decoding,
        )


def find_backbone(options: ModelConfig) -> Callable[..., Any]:
    """The class or function of a backbone given by an import path.

    Raises:
        ValueError: It cannot be imported, or does not take one of the options.
    """
    factory = import_object(options.backbone)
    parameters = inspect.signature(factory).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    unknown = [name for name in options.backbone_options if name not in parameters and not takes_any]
    if unknown:
        listed = ", ".join(parameters) or "none"
        raise ValueError(f"{options.backbone} has no option {unknown[0]!r}; its parameters are {listed}")
    given = {"pretrained", "image_size", *options.backbone_options}
    missing = [name for name, parameter in parameters.items() if _is_required(parameter) and name not in given]
    if missing:
        raise ValueError(f"{options.backbone} needs the option {missing[0]!r}; set it under model.backbone_options")
    if isinstance(options.pretrained, str) and "pretrained" not in parameters:
        raise ValueError(f"{options.backbone} has no parameter pretrained, so model.pretrained cannot be a path")
    return factory


def _in_layout(network: Embedder, options: ModelConfig) -> Embedder:
    """The network with its weights in the layout of the configuration; null keeps that of `create_embedder`."""
    layouts = {True: torch.channels_last, False: torch.contiguous_format}
    return network if options.channels_last is None else network.to(memory_format=layouts[options.channels_last])


def _own_backbone(config: Config, pretrained: bool) -> nn.Module:
    """The module that an own backbone makes; it is given `pretrained` and `image_size` if it has parameters of these names."""
    options = config.model
    factory = find_backbone(options)
    available = {"pretrained": options.pretrained if pretrained else False, "image_size": config.image.size}
    parameters = inspect.signature(factory).parameters
    given = {name: value for name, value in available.items() if name in parameters}
    backbone = call_object(options.backbone, factory, **given | options.backbone_options)
    if not isinstance(backbone, nn.Module):
        raise ValueError(
            f"{options.backbone} returned a value of type {type(backbone).__name__}, expected a torch.nn.Module"
        )
    return backbone


def _is_required(parameter: inspect.Parameter) -> bool:
    variable = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    return parameter.default is parameter.empty and not variable


def _rgb(values: Iterable[float]) -> tuple[float, float, float]:
    red, green, blue = values
    return red, green, blue
