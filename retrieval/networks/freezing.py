"""Keeping parts of a model as they are while the rest is trained."""

from __future__ import annotations

from torch import nn

from retrieval.networks.embedder import Embedder

BATCHNORM_MODES = ("none", "statistics", "affine")


def freeze_batchnorm(model: nn.Module, mode: str) -> None:
    """Freezes every BatchNorm of a model; call it after each `model.train()`, which would undo it.

    Args:
        model: any model.
        mode: "none" changes nothing; "statistics" normalises by the running statistics and keeps them, while scale and shift are
            trained; "affine" keeps scale and shift too.

    Raises:
        ValueError: an unknown mode.
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
                    parameter.grad = None  # an optimiser would go on with it


def set_backbone_trainable(model: Embedder, trainable: bool) -> None:
    """Freezes the backbone, so that only pooling and head learn, or sets it free.

    A frozen backbone is a fixed function: it also stays in evaluation mode, so neither BatchNorm nor dropout changes its features.
    Setting it free frees the parameters of BatchNorm with it: call `freeze_batchnorm` afterwards.

    Args:
        model: in the mode, training or evaluation, that it is to stay in.
        trainable: False freezes the backbone.
    """
    for parameter in model.backbone.parameters():
        parameter.requires_grad_(trainable)
        if not trainable:
            parameter.grad = None  # an optimiser would go on with it
    model.train(model.training)
