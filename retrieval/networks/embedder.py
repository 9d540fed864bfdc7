"""The embedding network: a backbone, pooling, a linear head and L2 normalisation."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from timm.data import resolve_model_data_config
from timm.layers import AttentionPool2d, AttentionPoolLatent, RotAttentionPool2d
from torch import Tensor, nn
from torch.nn import functional

from retrieval.networks.backbone import create_backbone
from retrieval.networks.pooling import Pooling

ATTENTION_POOLINGS = (AttentionPool2d, AttentionPoolLatent, RotAttentionPool2d)


class Embedder(nn.Module):
    """A network from images to unit vectors.

    Args:
        backbone: A module from images (batch, 3, height, width) to features (batch, width).
        width: Number of features.
        embedding_dim: Dimension of the vectors. With None there is no head, and the vectors have the dimension of the features.
        pooling: Applied between the backbone's `forward_features` and `forward_head`. With None, the backbone pools itself.
        layer_norm: Whether LayerNorm is applied to the features before the head.
        description: The value that `describe` returns.
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
        """Embeds images (batch, 3, height, width) as unit vectors (batch, embedding_dim), which are float32 under autocast too."""
        vectors = self.head(self.norm(_features(self.backbone, self.pooling, images)))
        return functional.normalize(vectors.to(torch.promote_types(vectors.dtype, torch.float32)), dim=1)

    def train(self, mode: bool = True) -> Embedder:
        """Sets training or evaluation mode. A backbone whose parameters are all frozen stays in evaluation mode."""
        super().train(mode)
        parameters = list(self.backbone.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            self.backbone.eval()
        return self

    def describe(self) -> dict[str, Any]:
        """Returns the arguments of `create_embedder` that build this network again, without its weights.

        Raises:
            ValueError: The backbone is not a model of timm, so no arguments describe it.
        """
        if self._description is None:
            raise ValueError(f"the backbone {type(self.backbone).__name__} is not a model of timm")
        return dict(self._description)

    @property
    def is_described(self) -> bool:
        """Whether the backbone is a model of timm, so that `describe` works."""
        return self._description is not None


def create_embedder(
    backbone: str | nn.Module,
    *,
    pretrained: bool | str | Path = False,
    embedding_dim: int | None = 512,
    image_size: int = 224,
    pooling: str | None = None,
    layer_norm: bool = False,
    gradient_checkpointing: bool = False,
) -> Embedder:
    """Builds an `Embedder` around a timm model or any other backbone.

    The weights of a timm model's convolutions are stored channels last. This layout makes convolutional networks faster. The output
    of a convolution has the layout of its weights, so the images can keep theirs. Any other backbone keeps its layout, because
    `view` fails on such an output, and a user's network may call it.

    Args:
        backbone: A name of `timm.list_models()`, or a module from images (batch, 3, height, width) to features (batch, width).
        pretrained: False for random weights, True for the pretrained weights of timm, a local weights file, or a repository of the
            hub, "hf-hub:user/name". Ignored for a module, which already has weights.
        embedding_dim: See `Embedder`.
        image_size: Side of the input images in pixels, for backbones with a fixed input size (vision transformers).
        pooling: None for the backbone's own pooling, or a kind of `Pooling`: "avg", "max", "avgmax", "gem", "cls".
        layer_norm: See `Embedder`.
        gradient_checkpointing: Recompute the backbone's activations in the backward pass. This saves memory and takes a third
            more time. BatchNorm layers that are not frozen update their statistics twice per step.

    Raises:
        ValueError: The backbone is unknown (the message lists similar names), does not support an option, or cannot take images
            of this size.
        CheckpointError: The weights file is missing or does not fit.
        RetrievalError: The hub cannot be reached.
    """
    if isinstance(backbone, nn.Module):
        name, network, description = type(backbone).__name__, backbone, None
    else:
        name, network = backbone, create_backbone(backbone, pretrained, image_size)
        description = {
            "backbone": backbone,
            "embedding_dim": embedding_dim,
            "image_size": image_size,
            "pooling": pooling,
            "layer_norm": layer_norm,
        }
    pool = None if pooling is None else _create_pooling(name, network, pooling)
    if gradient_checkpointing:
        _checkpoint_gradients(name, network)
    width = _feature_width(name, network, pool, image_size)
    made = Embedder(network, width, embedding_dim, pooling=pool, layer_norm=layer_norm, description=description)
    return made if description is None else made.to(memory_format=torch.channels_last)


def pretraining_statistics(network: nn.Module) -> tuple[tuple[float, ...], tuple[float, ...], str]:
    """Returns mean, standard deviation and interpolation of the backbone's pretraining, or those of ImageNet if timm has none."""
    config = resolve_model_data_config(getattr(network, "backbone", network))
    return tuple(config["mean"]), tuple(config["std"]), str(config["interpolation"])


def _features(backbone: Any, pooling: Pooling | None, images: Tensor) -> Tensor:
    """The backbone's features (batch, width). Its layers after the pooling, e.g. the norm of ConvNeXt, also run after ours."""
    if pooling is None:
        return cast(Tensor, backbone(images))
    return cast(Tensor, backbone.forward_head(pooling(backbone.forward_features(images))))


def _create_pooling(name: str, network: nn.Module, kind: str) -> Pooling:
    if not hasattr(network, "forward_features") or not hasattr(network, "forward_head"):
        raise ValueError(
            f"pooling is {kind!r}, but {name} has no forward_features and forward_head; set pooling to null to use its own"
        )
    if any(isinstance(module, ATTENTION_POOLINGS) for module in network.modules()):
        raise ValueError(f"pooling is {kind!r}, but {name} pools by attention; set pooling to null to use its own")
    return Pooling(
        kind, getattr(network, "num_prefix_tokens", 0), channels_last=getattr(network, "output_fmt", "") == "NHWC"
    )


def _checkpoint_gradients(name: str, network: Any) -> None:
    try:
        network.set_grad_checkpointing(True)
    except (AttributeError, AssertionError) as error:
        raise ValueError(f"{name} has no gradient checkpointing in timm; leave it off") from error


def _feature_width(name: str, network: nn.Module, pooling: Pooling | None, image_size: int) -> int:
    """The number of features, found by a forward pass because timm's `num_features` is wrong for some poolings."""
    training = network.training
    network.eval()
    device = next((parameter.device for parameter in network.parameters()), None)
    try:
        with torch.no_grad():
            features = _features(network, pooling, torch.zeros(1, 3, image_size, image_size, device=device))
    except (AssertionError, RuntimeError) as error:
        raise ValueError(f"{name} cannot take images of {image_size} x {image_size} pixels ({error})") from error
    network.train(training)
    if not isinstance(features, Tensor) or features.ndim != 2:
        made = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise ValueError(f"{name} returns {made} for one image, expected features (1, width)")
    return int(features.shape[1])
