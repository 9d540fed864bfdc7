"""The embedding model: where it runs, how it is built, and what it makes of images."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from safetensors.torch import load as load_tensors
from torch import nn

from retrieval.building.mistakes import mistakes_in
from retrieval.building.progress import ProgressBar
from retrieval.config import Config
from retrieval.data import ImageSet, Preprocessing, evaluation_loader
from retrieval.errors import ConfigError, IndexFormatError, reason_of
from retrieval.index import Bundle
from retrieval.models import Embedder, create_embedder, embed
from retrieval.training import distributed


def pick_device(name: str) -> torch.device:
    """The device of that name; "auto" is the first CUDA GPU if there is one, else the CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.empty(0, device=name).device
    except (RuntimeError, AssertionError):  # torch asserts that it was compiled with CUDA
        device = torch.device("meta")
    if device.type == "meta":  # whose tensors hold no numbers
        there = "auto, cpu or cuda" if torch.cuda.is_available() else "auto or cpu"
        raise ConfigError(f"device: {name!r} is not available on this machine; use {there}")
    return device


def build_model(config: Config, *, pretrained: bool = True) -> Embedder:
    """The embedding model, on the CPU; `pretrained=False` leaves out the weights, for a model that gets its own."""
    words = config.model
    with mistakes_in("model"):
        model = create_embedder(
            words.backbone,
            pretrained=words.pretrained if pretrained else False,
            embedding_dim=words.embedding_dim,
            image_size=config.image.size,
            pooling=words.pooling,
            layer_norm=words.layer_norm,
            gradient_checkpointing=words.gradient_checkpointing,
        )
    # Convolutions go by the layout of their weights, so the images need not be laid out likewise.
    return model.to(memory_format=torch.channels_last) if words.channels_last else model


def without_head(model: Embedder) -> Embedder:
    """The features that the head of a model gets, as unit vectors; a view of the same weights."""
    return Embedder(model.backbone, model.embedding_dim, None, pooling=model.pooling)


def embed_images(
    config: Config,
    model: nn.Module,
    preprocessing: Preprocessing,
    images: ImageSet,
    *,
    watch: Callable[[Iterable[torch.Tensor]], Iterable[torch.Tensor]] = lambda batches: batches,
) -> np.ndarray:
    """Unit vectors (len(images), embedding_dim) of all images, in order; several processes share the work and all have the result.

    Args:
        config: how large batches are, who reads them, and how precisely they are embedded.
        model: images to vectors.
        preprocessing: how an image becomes its input.
        images: what to embed.
        watch: the batches pass through this.
    """

    def embed_part(part: slice) -> np.ndarray:
        loader = evaluation_loader(
            images.select(np.arange(len(images))[part]),
            preprocessing,
            batch_size=config.evaluation.batch_size,
            workers=config.data.workers,
            timeout=config.data.timeout,
        )
        with ProgressBar(len(loader), "embedding") as bar:
            return embed(model, watch(bar.each(loader)), autocast=config.evaluation.amp == "bfloat16")

    return distributed.share_out(embed_part, len(images), config.evaluation.batch_size)


def describe_model(model: Embedder, preprocessing: Preprocessing) -> dict[str, Any]:
    """What an index bundle says of its model; `load_embedder` reads it."""
    return {**model.describe(), "preprocessing": preprocessing.to_dict()}


def load_embedder(bundle: Bundle) -> tuple[Embedder, Preprocessing]:
    """The model of an index bundle and how it wants its images.

    Raises:
        IndexFormatError: the bundle has no model, or one that this version cannot build.
    """
    if bundle.model is None:
        raise IndexFormatError(f"{bundle.folder}: holds vectors without a model, so images cannot be searched in it")
    try:
        words = dict(bundle.model)
        preprocessing = Preprocessing.from_dict(words.pop("preprocessing"))
        model = create_embedder(**{"image_size": preprocessing.size, **words})
        model.load_state_dict(load_tensors(bundle.weights()))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise IndexFormatError(
            f"{bundle.folder}/model.json: its model cannot be built ({reason_of(error)}); build the index again"
        ) from error
    return model, preprocessing
