"""w(r): what r irrelevant items above a relevant one cost. Each is a weighted sum over K of 1 - recall@K."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

WEIGHTINGS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "loglog": lambda intruders: torch.log1p(torch.log1p(intruders)),  # ~ sum over K of (1 - recall@K) / (K log K)
    "log": torch.log1p,  # ~ sum over K of (1 - recall@K) / K
    "sqrt": lambda intruders: torch.sqrt(1 + intruders) - 1,
    "linear": lambda intruders: intruders,
}


def soft_cut_offs(ks: Sequence[int], tau: float) -> Callable[[Tensor], Tensor]:
    """The mean over k of sigmoid((1 + r - k) / tau), a soft 1 - recall@k (Patel et al., CVPR 2022).

    Raises:
        ValueError: there is no cut-off, or one below 1.
    """
    if not ks or min(ks) < 1:
        raise ValueError(f"ks is {ks}, expected cut-offs of at least 1")

    def weigh(intruders: Tensor) -> Tensor:
        return torch.stack([torch.sigmoid((1 + intruders - k) / tau) for k in ks]).mean(0)

    return weigh
