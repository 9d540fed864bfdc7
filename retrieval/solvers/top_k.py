"""The k-subset solver."""

from __future__ import annotations

import torch
from torch import Tensor


def top_k(scores: Tensor, k: int) -> Tensor:
    """Marks the k highest scores along the last dimension: argmax over the k-subsets y of <scores, y>.

    Args:
        scores: any shape (..., n). Of equal scores the one of the lower index goes first.
        k: size of the subset, 1 to n.

    Returns:
        Ones and zeros of the same shape, in the dtype of the scores, at least float32. Scores with a NaN among them have no
        order: all of their row is NaN, so that a diverged network shows in the loss.

    Raises:
        ValueError: k out of range.
    """
    if not 1 <= k <= scores.shape[-1]:
        raise ValueError(f"k is {k}, expected 1 to {scores.shape[-1]}, the number of scores")
    chosen = scores.argsort(dim=-1, descending=True, stable=True)[..., :k]
    marks = torch.zeros_like(scores, dtype=torch.promote_types(scores.dtype, torch.float32)).scatter(-1, chosen, 1)
    return marks.masked_fill(scores.isnan().any(dim=-1, keepdim=True), torch.nan)
