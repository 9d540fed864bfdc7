"""The ranking solver."""

from __future__ import annotations

import torch
from torch import Tensor


def rank(scores: Tensor) -> Tensor:
    """Ranks along the last dimension, 1 for the highest score.

    Without ties this is argmin over the permutations y of 1..n of <scores, y> (Rolinek et al., "Optimizing Rank-based Metrics
    with Blackbox Differentiation", CVPR 2020, proposition 1). Tied scores share the worst of their ranks, the number of scores
    that are at least as high: the result does not depend on the order of the entries, and equal scores rank nothing first.

    Args:
        scores: any shape (..., n) of floats; -inf is allowed and ranks last.

    Returns:
        Ranks of the same shape, float32 whatever the dtype of the scores: half precision cannot count past 2,048. Scores with
        a NaN among them have no order: their ranks are NaN too, so that a diverged network shows in the loss.
    """
    ordered = scores.sort(dim=-1).values
    below = torch.searchsorted(ordered.contiguous(), scores.contiguous())
    ranks = (scores.shape[-1] - below).to(torch.float32)
    return ranks.masked_fill(scores.isnan().any(dim=-1, keepdim=True), torch.nan)
