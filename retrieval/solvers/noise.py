"""Noise on costs: against their collapse, and to sample solutions instead of taking the best."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_HALF = 0x3F000000  # the bits of 0.5 in float32, of which the highest is the sign


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
    count = like.numel()
    # A random number for each entry would take several times as long: each bit of 64 is the sign of an entry.
    words = torch.empty(-(-count // 64), dtype=torch.int64, device=like.device).random_(
        -(2**63), None, generator=generator
    )
    places = torch.arange(32, dtype=torch.int32, device=like.device)[:, None]
    signs = (words.view(torch.int32) << places).bitwise_and_(-(2**31))
    halves = signs.bitwise_or_(_HALF).view(torch.float32).view(-1)[:count]
    return halves.to(like.dtype).mul_(alpha).view(like.shape)


def gumbel(like: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """Independent standard Gumbel draws: argmax(scores + noise) is then a sample from softmax(scores).

    Args:
        like: gives shape, dtype and device; drawn in float32 at least.
        generator: source of randomness on the same device; the global one if none is given.
    """
    draws = torch.empty_like(like, dtype=torch.promote_types(like.dtype, torch.float32))
    return draws.exponential_(generator=generator).log_().neg_().to(like.dtype)


def sum_of_gamma(
    like: Tensor, k: int, *, temperature: float = 1.0, terms: int = 10, generator: torch.Generator | None = None
) -> Tensor:
    """Independent draws of which any k sum to a Gumbel draw, up to the truncation of a series.

    temperature / k (sum over t = 1 .. terms of Gamma(1/k, scale k/t) - log(terms)): with it on the scores, the noise of a
    whole solution with k ones is Gumbel (Niepert et al., "Implicit MLE", NeurIPS 2021, section 4.1). The mean of such a sum
    is too high by about temperature / (2 terms).

    Args:
        like: gives shape, dtype and device; drawn in float32 at least.
        k: number of ones in a solution, at least 1.
        temperature: scale of the Gumbel distribution, above 0.
        terms: terms of the series, at least 1.
        generator: source of randomness on the same device; the global one if none is given.
    """
    if k < 1 or terms < 1 or not temperature > 0:
        raise ValueError(f"k, terms, temperature are {k}, {terms}, {temperature}; expected at least 1, 1, above 0")
    shape = torch.full_like(like, 1 / k, dtype=torch.promote_types(like.dtype, torch.float32))
    # torch.distributions draws its Gamma by this function too, but takes no generator.
    total = torch.full_like(shape, -math.log(terms) / k)
    for term in range(1, terms + 1):
        total += torch._standard_gamma(shape, generator=generator) / term
    return (temperature * total).to(like.dtype)
