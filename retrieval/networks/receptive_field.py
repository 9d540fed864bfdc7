"""Which part of an image a network sees."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call

NOISE = 0.02  # added to the parameters; residual branches often start as zeros, which hide what they see


def unseen_border(network: nn.Module, size: int) -> int:
    """The number of last rows or columns of an image that the output of a network does not depend on.

    A network of patches or of strided convolutions without padding drops what is left over at the right and at the bottom. The
    gradient of the output is exactly zero there. Rows that a network skips at regular intervals, as in subsampling, do not count.

    Args:
        network: A module from images (batch, 3, size, size) to a tensor.
        size: The side of the images in pixels.

    Returns:
        The larger of the two numbers; 0 also if the gradient cannot be computed.
    """

    def unseen(noise: float) -> int:
        return max(map(_last_zeros, _seen(network, size, noise)), default=0)

    return unseen(0) and unseen(NOISE)


def _seen(network: nn.Module, size: int, noise: float) -> list[Tensor]:
    """How much the output depends on each row and on each column of a random image: two tensors (size,), or none."""
    generator = torch.Generator().manual_seed(0)
    parameters = {}
    for name, value in network.named_parameters():
        shift = noise * torch.randn(value.shape, generator=generator) if noise else torch.zeros(())
        parameters[name] = value.detach() + shift.to(value)
    device = next((value.device for value in parameters.values()), None)
    image = torch.randn(1, 3, size, size, generator=generator).to(device).requires_grad_()
    training = network.training
    network.eval()
    try:
        output = functional_call(network, parameters, (image,))
        weights = torch.randn(output.shape, generator=generator).to(output)
        (gradient,) = torch.autograd.grad((output * weights).sum(), image)
    except RuntimeError:  # it turns gradients off, or has a step without one
        return []
    finally:
        network.train(training)
    strength = gradient.abs().sum((0, 1))
    return [strength.sum(1), strength.sum(0)]


def _last_zeros(strength: Tensor) -> int:
    """The number of zeros at the end, if they are more than those between any two other values; otherwise 0."""
    places = strength.nonzero().flatten()
    if not len(places):
        return 0
    gap = int(places.diff().max()) - 1 if len(places) > 1 else 0
    zeros = len(strength) - 1 - int(places[-1])
    return zeros if zeros > gap else 0
