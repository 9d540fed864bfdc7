"""The ranking solver."""

from __future__ import annotations

import torch
from torch import Tensor


def rank(scores: Tensor) -> Tensor:
    """Ranks along the last dimension, 1 for the highest score.

    Without ties this is argmin over the permutations y of 1..n of <scores, y> (Rolinek et al., "Optimizing Rank-based Metrics
    with Blackbox Differentiation", CVPR 2020, proposition 1). Tied scores share the best of their ranks, so that the
    result never depends on the order of the entries.

    Args:
        scores: any shape (..., n) of floats; -inf is allowed and ranks last.

    Returns:
        Ranks of the same shape, float32 whatever the dtype of the scores: half precision cannot count past 2,048.

    Raises:
        ValueError: a score is NaN, which has no place in an order.
    """
    if scores.isnan().any():
        raise ValueError("scores contain NaN, which cannot be ranked; look for a diverged network or a zero vector")
    ordered = scores.sort(dim=-1).values
    not_above = torch.searchsorted(ordered.contiguous(), scores.contiguous(), right=True)
    return (scores.shape[-1] + 1 - not_above).to(torch.float32)
