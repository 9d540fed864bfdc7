"""The embedding model: a timm backbone, pooling, a linear head, unit vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from timm.data import resolve_model_data_config
from timm.layers import AttentionPool2d, AttentionPoolLatent, RotAttentionPool2d
from torch import Tensor, nn
from torch.nn import functional

from retrieval.models.backbone import create_backbone
from retrieval.models.pooling import Pooling

ATTENTION_POOLINGS = (AttentionPool2d, AttentionPoolLatent, RotAttentionPool2d)


class Embedder(nn.Module):
    """Images to unit vectors.

    Args:
        backbone: maps images (batch, 3, height, width) to features (batch, width).
        width: number of features.
        embedding_dim: dimension of the vectors; None leaves out the head and keeps the features' own dimension.
        pooling: used between the backbone's `forward_features` and `forward_head`; None calls the backbone as it is.
        layer_norm: normalise the features before the head.
        description: what `describe` returns.
    """

    def __init__(
        self,
        backbone: nn.Module,
        width: int,
        embedding_dim: int | None,
        *,
        pooling: Pooling | None = None,
        layer_norm: bool = False,
        description: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.pooling = pooling
        self.norm = nn.LayerNorm(width) if layer_norm else nn.Identity()
        self.head = nn.Identity() if embedding_dim is None else nn.Linear(width, embedding_dim)
        self.embedding_dim = embedding_dim or width
        self._description = description

    def forward(self, images: Tensor) -> Tensor:
        """Embeds images (batch, 3, height, width) as vectors of unit length (batch, embedding_dim), float32 under autocast too."""
        vectors = self.head(self.norm(_features(self.backbone, self.pooling, images)))
        return functional.normalize(vectors.to(torch.promote_types(vectors.dtype, torch.float32)), dim=1)

    def train(self, mode: bool = True) -> Embedder:
        """Training or evaluation mode; a backbone that is frozen as a whole stays in evaluation mode."""
        super().train(mode)
        if not any(parameter.requires_grad for parameter in self.backbone.parameters()):
            self.backbone.eval()
        return self

    def describe(self) -> dict[str, Any]:
        """What to give to `create_embedder` to build this model again, without its weights: words and numbers only.

        Raises:
            ValueError: it was not built by `create_embedder`.
        """
        if self._description is None:
            raise ValueError("this embedder was not built by create_embedder, so there are no words that describe it")
        return dict(self._description)


def create_embedder(
    backbone: str,
    *,
    pretrained: bool | str | Path = False,
    embedding_dim: int | None = 512,
    image_size: int = 224,
    pooling: str | None = None,
    layer_norm: bool = False,
    gradient_checkpointing: bool = False,
) -> Embedder:
    """Builds an `Embedder` from the name of a timm model.

    Args:
        backbone: a name of `timm.list_models()`.
        pretrained: False for random weights, True for timm's own from the hub, or a local weights file.
        embedding_dim: see `Embedder`.
        image_size: side of the images that it will see, for backbones that must know it (vision transformers).
        pooling: None for the backbone's own, or one of `Pooling`: "avg", "max", "avgmax", "gem", "cls".
        layer_norm: see `Embedder`.
        gradient_checkpointing: work out the backbone's inner features twice instead of keeping them: a larger batch in the same
            memory, for a third more time. BatchNorm that is not frozen updates its statistics twice a step.

    Raises:
        ValueError: an unknown backbone (the message has the nearest names), or one that lacks what is asked for or
            cannot take images of that size.
        CheckpointError: the weights file is missing or does not fit.
        RetrievalError: the hub cannot be reached.
    """
    network = create_backbone(backbone, pretrained, image_size)
    pool = None if pooling is None else _create_pooling(backbone, network, pooling)
    if gradient_checkpointing:
        _checkpoint_gradients(backbone, network)
    description = {
        "backbone": backbone,
        "embedding_dim": embedding_dim,
        "image_size": image_size,
        "pooling": pooling,
        "layer_norm": layer_norm,
    }
    width = _feature_width(backbone, network, pool, image_size)
    return Embedder(network, width, embedding_dim, pooling=pool, layer_norm=layer_norm, description=description)


def pretraining_statistics(model: Embedder) -> tuple[tuple[float, ...], tuple[float, ...], str]:
    """Mean, standard deviation and resizing filter that the backbone was (or would be) pretrained with."""
    found = resolve_model_data_config(model.backbone)
    return tuple(found["mean"]), tuple(found["std"]), str(found["interpolation"])


def _features(backbone: Any, pooling: Pooling | None, images: Tensor) -> Tensor:
    """The backbone's features (batch, width); what it does after its own pooling, e.g. ConvNeXt's norm, it does after ours too."""
    if pooling is None:
        return cast(Tensor, backbone(images))
    return cast(Tensor, backbone.forward_head(pooling(backbone.forward_features(images))))


def _create_pooling(name: str, network: nn.Module, kind: str) -> Pooling:
    if any(isinstance(module, ATTENTION_POOLINGS) for module in network.modules()):
        raise ValueError(f"pooling is {kind!r}, but {name} pools by attention that it has learned; leave pooling to it")
    return Pooling(
        kind, getattr(network, "num_prefix_tokens", 0), channels_last=getattr(network, "output_fmt", "") == "NHWC"
    )


def _checkpoint_gradients(name: str, network: Any) -> None:
    try:
        network.set_grad_checkpointing(True)
    except (AttributeError, AssertionError) as error:
        raise ValueError(f"{name} has no gradient checkpointing in timm; leave it off") from error


def _feature_width(name: str, network: nn.Module, pooling: Pooling | None, image_size: int) -> int:
    """The number of features, by a dry forward: timm's `num_features` is wrong for some poolings."""
    training = network.training
    network.eval()
    try:
        with torch.no_grad():
            features = _features(network, pooling, torch.zeros(1, 3, image_size, image_size))
    except (AssertionError, RuntimeError) as error:
        raise ValueError(f"{name} cannot take images of {image_size} x {image_size} pixels ({error})") from error
    network.train(training)
    return int(features.shape[1])
