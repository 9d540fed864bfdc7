"""Networks for embedding: their BatchNorm layers are folded into the convolutions before them.

In evaluation mode, BatchNorm multiplies and shifts every channel by constants. The weights of a convolution can hold both, so the
layer needs no time of its own. The vectors change by rounding only.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

TOLERANCE = 1e-4  # of a component of a unit vector
PROBES = 2  # images that a folded network is compared by


def fold_batchnorm(network: nn.Module, images: Tensor) -> nn.Module:
    """A copy of a network in evaluation mode, with BatchNorm layers folded into the convolutions before them.

    A layer is folded if its input is the output of a convolution, and both are used once. The copy is compared with the network.

    Args:
        network: A network in evaluation mode, which is not changed.
        images: Some images (batch, 3, height, width), as the network takes them.

    Returns:
        The copy; the network itself if nothing can be folded, or if a component of a unit vector would change by more than 1e-4.
    """
    if not any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
        return network
    probes = images[:PROBES]
    try:
        folded = copy.deepcopy(network)
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):  # bfloat16 would hide what is wrong
            with _recorded(folded) as pairs:
                expected = network(probes)
                folded(probes)
            for convolution, norm in pairs:
                _fold(convolution, norm)
            _replace(folded, {norm: _rest(norm) for _, norm in pairs})
            difference = (unit(folded(probes)) - unit(expected)).abs().max()
    except (
        RuntimeError,
        AttributeError,
        TypeError,
        ValueError,
    ):  # a network that reads the weights of its layers itself
        return network
    return folded if pairs and difference <= TOLERANCE else network


@contextmanager
def _recorded(network: nn.Module) -> Iterator[list[tuple[nn.Conv2d, nn.BatchNorm2d]]]:
    """The pairs of a convolution and the BatchNorm that takes its output, once the network has been called in the block."""
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []
    outputs: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # with the tensor, whose id would be given again
    calls: dict[nn.Module, int] = {}

    def after_convolution(module: Any, _: Any, output: Tensor) -> None:
        calls[module] = calls.get(module, 0) + 1
        outputs[id(output)] = module, output

    def before_norm(module: Any, inputs: tuple[Tensor, ...]) -> None:
        calls[module] = calls.get(module, 0) + 1
        if id(inputs[0]) in outputs and module.running_mean is not None:
            pairs.append((outputs[id(inputs[0])][0], module))

    handles = [
        module.register_forward_hook(after_convolution)
        if isinstance(module, nn.Conv2d)
        else module.register_forward_pre_hook(before_norm)
        for module in network.modules()
        if isinstance(module, (nn.Conv2d, nn.BatchNorm2d))
    ]
    try:
        yield pairs
    finally:
        for handle in handles:
            handle.remove()
        pairs[:] = [pair for pair in pairs if all(calls[module] == 1 for module in pair)]


def _fold(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = (norm.running_var + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight
    bias = -norm.running_mean if convolution.bias is None else convolution.bias - norm.running_mean
    bias = bias * scale if norm.bias is None else bias * scale + norm.bias
    convolution.weight.mul_(scale[:, None, None, None])
    convolution.bias = nn.Parameter(bias, requires_grad=False)


def _rest(norm: nn.BatchNorm2d) -> nn.Module:
    """What timm's BatchNorm layers do besides normalising: dropout and an activation."""
    parts = [getattr(norm, name) for name in ("drop", "act") if isinstance(getattr(norm, name, None), nn.Module)]
    return nn.Sequential(*parts).eval() if parts else nn.Identity()


def _replace(network: nn.Module, new: dict[nn.Module, nn.Module]) -> None:
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if child in new:
                setattr(module, name, new[child])


def unit(vectors: Tensor) -> Tensor:
    """The vectors divided by their length, as float64."""
    return nn.functional.normalize(vectors.double(), dim=1)
