"""Smooth-AP: one minus average precision, with every comparison of two scores softened by a sigmoid."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from retrieval.losses.score_matrix import ScoreMatrixLoss, check_masks, reduce_queries, sum_by_query

BLOCK = 2**18  # comparisons at a time: what fits a cache


def smooth_ap_loss(
    scores: Tensor, relevant: Tensor, irrelevant: Tensor | None = None, *, tau: float = 0.01, reduction: str = "mean"
) -> Tensor:
    """One minus the smooth average precision of a matrix of scores (Brown et al., "Smooth-AP", ECCV 2020).

    1 - mean over relevant p of R(p among the relevant) / R(p among all), with the soft rank
    R(p) = 1 + sum over the others j of sigmoid((s_j - s_p) / tau). The query is neither relevant nor a competitor.

    Args:
        scores: (num_queries, num_references), higher is closer.
        relevant: boolean mask of the same shape.
        irrelevant: boolean mask of the same shape; everything that is not relevant if left out. Items in neither mask (the
            query itself, above all) take no part and receive no gradient.
        tau: temperature of the sigmoid, in units of scores; above 0.
        reduction: "mean" over the queries that have a relevant item (0 if none has), or "none": one loss a query (num_queries,),
            0 for those without a relevant item.

    Returns:
        The loss in the dtype of the scores, at least float32. Time grows with (relevant pairs x references), memory does not.

    Raises:
        ValueError: shapes that differ, masks that are not boolean or overlap, a tau that is not above 0, an unknown reduction.
    """
    scores, relevant, irrelevant = check_masks(scores, relevant, irrelevant)
    above = count_above(scores, relevant, relevant, irrelevant, tau=tau)
    rank_among_relevant = above[0] + 0.5  # an item is compared with itself too, which counts 1/2
    precision = rank_among_relevant / (rank_among_relevant + above[1])
    losses = 1 - sum_by_query(precision, relevant) / relevant.sum(dim=1).clamp(min=1)
    return reduce_queries(losses, relevant, reduction)


class SmoothAPLoss(ScoreMatrixLoss):
    """`smooth_ap_loss` as a loss of pytorch-metric-learning; for classes of any size, in any order.

    Args:
        tau: temperature of the sigmoid.
        **kwargs: `distance` (cosine similarity by default), `reducer`, `embedding_regularizer` and what else its losses take.
    """

    def __init__(self, tau: float = 0.01, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_temperature(tau)
        self.tau = tau
        self.add_to_recordable_attributes(name="tau", is_stat=False)

    def losses_of_queries(self, scores: Tensor, relevant: Tensor, irrelevant: Tensor) -> Tensor:
        return smooth_ap_loss(scores, relevant, irrelevant, tau=self.tau, reduction="none")


def count_above(scores: Tensor, relevant: Tensor, *groups: Tensor, tau: float) -> Tensor:
    """The soft number of items above each relevant one: sum over the items j of a group of sigmoid((s_j - s_p) / tau).

    Compares row block by row block and again in the backward pass, so that memory does not grow with the number of pairs.

    Args:
        scores: (num_queries, num_references).
        relevant: boolean mask of the same shape.
        *groups: boolean masks of the same shape.
        tau: temperature, above 0.

    Returns:
        (num_groups, num_pairs), pairs in the order of `relevant.nonzero()`.
    """
    check_temperature(tau)
    most_relevant = max(relevant.sum(dim=1).tolist(), default=0)
    rows = max(1, BLOCK // max(1, scores.shape[1] * most_relevant))
    blocks = zip(*(tensor.split(rows) for tensor in (scores, relevant, *groups)), strict=True)
    counts = [checkpoint(_count_block, tau, *block, use_reentrant=False, preserve_rng_state=False) for block in blocks]
    return torch.cat(counts, dim=1)


def _count_block(tau: float, scores: Tensor, relevant: Tensor, *groups: Tensor) -> Tensor:
    query, item = relevant.nonzero(as_tuple=True)
    difference = scores.index_select(0, query) - scores[query, item].unsqueeze(1)
    above = torch.sigmoid(difference / tau)
    return torch.stack([above.masked_fill(~group[query], 0).sum(dim=1) for group in groups])


def check_temperature(tau: float) -> None:
    """ValueError unless tau is above 0."""
    if not tau > 0:
        raise ValueError(f"tau is {tau}, expected above 0")
