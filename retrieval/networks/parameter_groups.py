"""Learning rate and weight decay of every parameter of a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from timm.models import group_parameters
from torch import nn

from retrieval.networks.embedder import Embedder


def parameter_groups(
    model: Embedder,
    *,
    learning_rate: float,
    weight_decay: float,
    layer_decay: float | None = None,
    head: float = 1.0,
    pooling: float = 1.0,
    extra: Mapping[str, tuple[nn.Module, float]] | None = None,
) -> list[dict[str, Any]]:
    """Returns the parameter groups for an optimiser.

    Every parameter is in exactly one group. This includes frozen parameters: an optimiser skips them as long as they have no
    gradient, and they may be unfrozen later. Vectors and scalars (norms, biases, the power of GeM) have no weight decay, nor do
    the parameters that a `no_weight_decay` of the backbone (position embeddings) or of a further module (proxies) exempts.

    Args:
        model: The network to train.
        learning_rate: Learning rate of the backbone's last layer.
        weight_decay: Weight decay of matrices.
        layer_decay: Learning rate of a backbone layer, as a multiple of the rate of the next layer. With None, all layers have
            the same rate.
        head: Learning rate of head and LayerNorm, as a multiple of `learning_rate`.
        pooling: Learning rate of the pooling's parameters, as a multiple of `learning_rate`.
        extra: Further modules by name, with their multiples: `{"proxies": (loss, 100.0)}`.

    Returns:
        Groups with the keys "params", "lr", "weight_decay" and "name".

    Raises:
        ValueError: A multiple is negative, the layer decay is outside (0, 1], or timm does not know the backbone's layers.
    """
    backbone: Any = model.backbone
    modules = {
        "backbone": (backbone, 1.0),
        "pooling": (model.pooling or nn.Identity(), pooling),
        "head": (model.head, head),
        "norm": (model.norm, head),
        **{f"extra.{name}": module for name, module in (extra or {}).items()},
    }
    for name, (_, multiple) in modules.items():
        if multiple < 0:
            raise ValueError(f"the learning rate of {name} is {multiple} times the model's, expected 0 or more")
    layers = {} if layer_decay is None else _layers(backbone, layer_decay)
    groups: dict[str, dict[str, Any]] = {}
    for part, (module, multiple) in modules.items():
        in_backbone = module is backbone
        exempt = _exempt({"": module} if in_backbone else dict(module.named_modules()))
        for name, parameter in module.named_parameters():
            layer, scale = layers[name] if in_backbone and layers else (part, multiple)
            decays = parameter.ndim > 1 and name not in exempt
            key = layer if decays else f"{layer} without decay"
            options = {"lr": learning_rate * scale, "weight_decay": weight_decay if decays else 0.0, "name": key}
            groups.setdefault(key, {"params": [], **options})["params"].append(parameter)
    return list(groups.values())


def _exempt(modules: Mapping[str, Any]) -> set[str]:
    """The names of the parameters that modules exempt from weight decay by timm's method for that."""
    exempting = {name: module for name, module in modules.items() if hasattr(module, "no_weight_decay")}
    return {f"{name}.{own}".lstrip(".") for name, module in exempting.items() for own in module.no_weight_decay()}


def _layers(backbone: Any, layer_decay: float) -> dict[str, tuple[str, float]]:
    """For every parameter name, the name of its layer and the multiple of its learning rate. Layer 0 is next to the image."""
    if not 0 < layer_decay <= 1:
        raise ValueError(f"layer_decay is {layer_decay}, expected above 0 and at most 1")
    if not hasattr(backbone, "group_matcher"):
        raise ValueError(f"timm does not know the layers of {type(backbone).__name__}; leave out layer_decay")
    numbers = group_parameters(backbone, backbone.group_matcher(coarse=False), reverse=True)
    last = max(numbers.values())
    return {name: (f"backbone.{number}", layer_decay ** (last - number)) for name, number in numbers.items()}
