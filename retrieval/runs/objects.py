"""Objects that a caller gives in place of names in the configuration."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from retrieval.config import Config
from retrieval.config.trainer import OptimizerFactory

log = logging.getLogger("retrieval")

# The options that an object replaces.
_REPLACED = {
    "data": ("data.name", "data.root", "data.options"),
    "network": (
        *("model.backbone", "model.backbone_options", "model.pretrained", "model.embedding_dim"),
        *("model.pooling", "model.layer_norm", "model.gradient_checkpointing"),
    ),
    "loss": ("loss",),
    "optimizer": ("training.optimizer", "training.optimizer_options"),
}
_KEPT = ("loss.lr_multiplier",)


@dataclass(frozen=True)
class Objects:
    """Objects in place of names in the configuration; None where the configuration decides.

    Args:
        data: An `ImageSet`, a `torch.utils.data.Dataset` of (image, label), or a dict of these by split.
        network: A module from images (batch, 3, height, width) to vectors (batch, dim), trained as it is.
        loss: A module or function of embeddings (batch, dim) and labels (batch,).
        optimizer: A function from parameter groups to an optimiser, or an optimiser.
        callbacks: Callbacks besides those of the configuration.

    Raises:
        ValueError: An object is of the wrong type.
    """

    data: Any = None
    network: nn.Module | None = None
    loss: nn.Module | None = None
    optimizer: OptimizerFactory | torch.optim.Optimizer | None = None
    callbacks: tuple[object, ...] = ()

    def __post_init__(self) -> None:
        for name in ("network", "loss"):
            value = getattr(self, name)
            if isinstance(value, type):
                raise ValueError(f"{name} is the class {value.__name__}; give an object: {value.__name__}()")
        if self.network is not None and not isinstance(self.network, nn.Module):
            raise ValueError(f"network is of type {type(self.network).__name__}; give a torch.nn.Module")
        for name in ("loss", "optimizer"):
            value = getattr(self, name)
            if value is not None and not callable(value) and not isinstance(value, torch.optim.Optimizer):
                raise ValueError(f"{name} is of type {type(value).__name__}, which cannot be called")
        if self.loss is not None and not isinstance(self.loss, nn.Module):
            object.__setattr__(self, "loss", FunctionLoss(self.loss))

    def warn_of_options(self, keys: Iterable[str]) -> None:
        """Logs a warning for options of the configuration that an object replaces.

        Args:
            keys: The options that the caller has given, such as "model.embedding_dim".
        """
        keys = [key for key in keys if key not in _KEPT]
        for name, replaced in _REPLACED.items():
            unused = [key for key in keys if any(f"{key}.".startswith(f"{option}.") for option in replaced)]
            if unused and getattr(self, name) is not None:
                log.warning("%s: without effect beside the argument %s", ", ".join(unused), name)

    def describe(self, config: Config) -> Config:
        """The configuration with "<module.MyNet>" in place of the name of a part that is given as an object."""
        if self.data is not None:
            data: dict[str, Any] = {"name": _name(self.data), "root": None, "options": {}}
            config = config.model_copy(update={"data": config.data.model_copy(update=data)})
        if self.network is not None:
            whole = {"embedding_dim": None, "pooling": None, "layer_norm": False, "pretrained": False}
            model: dict[str, Any] = {"backbone": _name(self.network), "backbone_options": {}, **whole}
            config = config.model_copy(update={"model": config.model.model_copy(update=model)})
        if self.loss is not None:
            options = {"name": _name(self.loss), "lr_multiplier": config.loss.lr_multiplier}
            config = config.model_copy(update={"loss": type(config.loss)().model_copy(update=options)})
        if self.optimizer is not None:
            settings = config.training.model_copy(update={"optimizer": _name(self.optimizer), "optimizer_options": {}})
            config = config.model_copy(update={"training": settings})
        return config

    def missing_parts(self) -> tuple[str, ...]:
        """The parts that are not given as objects; see `retrieval.config.check`."""
        return (*(name for name in _REPLACED if getattr(self, name) is None), "callbacks")


class FunctionLoss(nn.Module):
    """A function of embeddings and labels as a module.

    Args:
        function: The function.
    """

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The loss."""
        return self.function(embeddings, labels)


def _name(value: object) -> str:
    """The name of an object for a configuration, in angle brackets: no name that can be looked up has these."""
    value = value.function if isinstance(value, FunctionLoss) else value
    kind = value if hasattr(value, "__qualname__") else type(value)
    return f"<{kind.__module__}.{kind.__qualname__}>"
