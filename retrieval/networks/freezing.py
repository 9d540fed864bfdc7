"""Freezing parts of a model while the rest is trained."""

from __future__ import annotations

from torch import nn

from retrieval.networks.embedder import Embedder

BATCHNORM_MODES = ("none", "statistics", "affine")


def freeze_batchnorm(model: nn.Module, mode: str) -> None:
    """Freezes all BatchNorm layers of a model. `model.train()` undoes this, so call the function again after it.

    Args:
        model: Any model.
        mode: "none" changes nothing. "statistics" normalises by the running statistics and does not update them; scale and shift
            are still trained. "affine" also freezes scale and shift.

    Raises:
        ValueError: The mode is unknown.
    """
    if mode not in BATCHNORM_MODES:
        raise ValueError(f"BatchNorm's mode is {mode!r}, expected one of {', '.join(BATCHNORM_MODES)}")
    if mode == "none":
        return
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
            if mode == "affine":
                for parameter in module.parameters(recurse=False):
                    parameter.requires_grad_(False)
                    parameter.grad = None  # an optimiser would still apply an old gradient


def set_backbone_trainable(model: Embedder, trainable: bool) -> None:
    """Freezes or unfreezes the backbone. With a frozen backbone, only pooling and head are trained.

    A frozen backbone is a fixed function. It stays in evaluation mode, so neither BatchNorm nor dropout changes its features.
    Unfreezing also unfreezes the parameters of BatchNorm; call `freeze_batchnorm` afterwards.

    Args:
        model: The network. Its training or evaluation mode does not change.
        trainable: False freezes the backbone, True unfreezes it.
    """
    for parameter in model.backbone.parameters():
        parameter.requires_grad_(trainable)
        if not trainable:
            parameter.grad = None  # an optimiser would still apply an old gradient
    model.train(model.training)
