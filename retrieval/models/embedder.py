"""The embedding model: a timm backbone, a linear head, unit vectors."""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from timm.data import resolve_model_data_config
from torch import Tensor, nn
from torch.nn import functional

from retrieval.errors import CheckpointError, RetrievalError, did_you_mean


class Embedder(nn.Module):
    """Images to unit vectors.

    Args:
        backbone: maps images (batch, 3, height, width) to features (batch, width).
        width: number of features.
        embedding_dim: dimension of the vectors; None leaves out the head and keeps the features' own dimension.
    """

    def __init__(self, backbone: nn.Module, width: int, embedding_dim: int | None) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Identity() if embedding_dim is None else nn.Linear(width, embedding_dim)
        self.embedding_dim = embedding_dim or width

    def forward(self, images: Tensor) -> Tensor:
        """Embeds images (batch, 3, height, width) as float32 vectors of unit length (batch, embedding_dim)."""
        return functional.normalize(self.head(self.backbone(images)).float(), dim=1)


def create_embedder(
    backbone: str, *, pretrained: bool | str | Path = False, embedding_dim: int | None = 512, image_size: int = 224
) -> Embedder:
    """Builds an `Embedder` from the name of a timm model.

    Args:
        backbone: a name of `timm.list_models()`.
        pretrained: False for random weights, True for timm's own from the hub, or a local weights file.
        embedding_dim: see `Embedder`.
        image_size: side of the images that it will see, for backbones that must know it (vision transformers).

    Raises:
        ValueError: an unknown backbone; the message has the nearest names.
        CheckpointError: the weights file is missing or does not fit.
        RetrievalError: the hub cannot be reached.
    """
    if not timm.is_model(backbone):
        hint = did_you_mean(backbone, timm.list_models())
        raise ValueError(f"backbone {backbone!r} is not a model of timm {timm.__version__}{hint}")
    network = _create_backbone(backbone, pretrained, image_size)
    return Embedder(network, _feature_width(network, image_size), embedding_dim)


def pretraining_statistics(model: Embedder) -> tuple[tuple[float, ...], tuple[float, ...], str]:
    """Mean, standard deviation and resizing filter that the backbone was (or would be) pretrained with."""
    found = resolve_model_data_config(model.backbone)
    return tuple(found["mean"]), tuple(found["std"]), str(found["interpolation"])


def _create_backbone(name: str, pretrained: bool | str | Path, image_size: int) -> nn.Module:
    options: dict[str, Any] = {"num_classes": 0}
    if isinstance(pretrained, (str, Path)):
        if not Path(pretrained).is_file():
            raise CheckpointError(f"{pretrained}: no such weights file; model.pretrained takes true, false or a path")
        options["pretrained_cfg_overlay"] = {"file": str(pretrained)}
    try:
        if timm.models.get_pretrained_cfg(name).fixed_input_size:
            options["img_size"] = image_size
        return timm.create_model(name, pretrained=bool(pretrained), **options)
    except (OSError, RuntimeError, KeyError, UnpicklingError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if isinstance(pretrained, bool):
            raise RetrievalError(
                f"weights of {name} cannot be fetched ({reason}); set model.pretrained to the path of a local file, or to false"
            ) from error
        raise CheckpointError(f"{pretrained}: these weights do not fit {name} ({reason})") from error


def _feature_width(network: nn.Module, image_size: int) -> int:
    """The number of features, by a dry forward: timm's `num_features` is wrong for some poolings."""
    training = network.training
    network.eval()
    with torch.no_grad():
        features = network(torch.zeros(1, 3, image_size, image_size))
    network.train(training)
    return int(features.shape[1])
