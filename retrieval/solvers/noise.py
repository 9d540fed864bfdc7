"""Noise that keeps costs from collapsing."""

from __future__ import annotations

import torch
from torch import Tensor


def two_point(like: Tensor, alpha: float, *, generator: torch.Generator | None = None) -> Tensor:
    """Independent draws of -alpha/2 or +alpha/2, to be added to the costs in training.

    Costs that differ by less than alpha change places now and then, which asks for a margin between right and wrong without
    looking at labels (Sahoo et al., ICLR 2023, section 3.6).

    Args:
        like: gives shape, dtype and device.
        alpha: the distance of the two points, in units of the costs it is added to; at least 0.
        generator: source of randomness on the same device; the global one if none is given.
    """
    if alpha < 0:
        raise ValueError(f"alpha is {alpha}, expected at least 0")
    signs = torch.randint(0, 2, like.shape, generator=generator, device=like.device)
    return (signs.to(like.dtype) - 0.5) * alpha
