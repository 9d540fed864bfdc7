"""The recall@k surrogate (RS@k): recall at explicit cut-offs, with ranks and cut-offs softened by sigmoids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from retrieval.losses.score_matrix import ScoreMatrixLoss, check_masks, reduce_queries, sum_by_query
from retrieval.losses.smooth_ap import check_temperature, count_above


def recall_surrogate_loss(
    scores: Tensor,
    relevant: Tensor,
    irrelevant: Tensor | None = None,
    *,
    ks: Sequence[int] = (1, 2, 4, 8, 16),
    tau_k: float | Sequence[float] = 1.0,
    tau_rank: float = 0.01,
    count_query: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """RS@k of a matrix of scores (Patel et al., "Recall@k Surrogate Loss with Large Batches and Similarity Mixup", CVPR 2022).

    1 - mean over k of min(k, sum over relevant p of sigmoid((k - R(p)) / tau_k)) / min(k, number of relevant items), with the
    soft rank R(p) = 1 + sum over the others j of sigmoid((s_j - s_p) / tau_rank).
    With tau_k = 1 a perfect ranking is not at 0: a rank of 1 counts one half at k = 1.

    Args:
        scores: (num_queries, num_references), higher is closer.
        relevant: boolean mask of the same shape.
        irrelevant: boolean mask of the same shape; everything that is not relevant if left out. Items in neither mask (the
            query itself, above all) take no part and receive no gradient.
        ks: the cut-offs, each at least 1.
        tau_k: temperature at the cut-offs, in units of ranks; one for all or one for each. The released code takes tau_k = k.
        tau_rank: temperature of the ranks, in units of scores.
        count_query: lets items in neither mask compete for ranks. In a batch against itself that is the query, which
            outranks all others: what the released code does, and what shifts every rank by one.
        reduction: "mean" over the queries that have a relevant item (0 if none has), or "none": one loss a query (num_queries,),
            0 for those without a relevant item.

    Returns:
        The loss in the dtype of the scores, at least float32.

    Raises:
        ValueError: shapes that differ, masks that are not boolean or overlap, bad cut-offs, temperatures or reduction.
    """
    _check_cut_offs(ks, tau_k)
    scores, relevant, irrelevant = check_masks(scores, relevant, irrelevant)
    competitors = torch.ones_like(relevant) if count_query else relevant | irrelevant
    ranks = count_above(scores, relevant, competitors, tau=tau_rank)[0] + 0.5  # itself counted as 1/2 already
    cut_offs = torch.tensor(ks, dtype=scores.dtype, device=scores.device)
    softness = torch.tensor(tau_k, dtype=scores.dtype, device=scores.device)
    hits = sum_by_query(torch.sigmoid((cut_offs - ranks.unsqueeze(1)) / softness), relevant)
    possible = relevant.sum(dim=1, keepdim=True).clamp(min=1).minimum(cut_offs)
    return reduce_queries(1 - (hits.minimum(cut_offs) / possible).mean(dim=1), relevant, reduction)


class RecallSurrogateLoss(ScoreMatrixLoss):
    """`recall_surrogate_loss` as a loss of pytorch-metric-learning; for classes of any size, in any order.

    Args:
        ks: the cut-offs.
        tau_k: temperature at the cut-offs, one for all or one for each.
        tau_rank: temperature of the ranks.
        count_query: whether the query competes with its references, as in the released code.
        **kwargs: `distance` (cosine similarity by default), `reducer`, `embedding_regularizer` and what else its losses take.
    """

    def __init__(
        self,
        ks: Sequence[int] = (1, 2, 4, 8, 16),
        tau_k: float | Sequence[float] = 1.0,
        tau_rank: float = 0.01,
        count_query: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        _check_cut_offs(ks, tau_k)
        check_temperature(tau_rank)
        self.ks = ks
        self.tau_k = tau_k
        self.tau_rank = tau_rank
        self.count_query = count_query
        self.add_to_recordable_attributes(name="tau_rank", is_stat=False)

    def losses_of_queries(self, scores: Tensor, relevant: Tensor, irrelevant: Tensor) -> Tensor:
        return recall_surrogate_loss(
            scores,
            relevant,
            irrelevant,
            ks=self.ks,
            tau_k=self.tau_k,
            tau_rank=self.tau_rank,
            count_query=self.count_query,
            reduction="none",
        )


def _check_cut_offs(ks: Sequence[int], tau_k: float | Sequence[float]) -> None:
    if not ks or min(ks) < 1:
        raise ValueError(f"ks is {ks}, expected cut-offs of at least 1")
    temperatures = tau_k if isinstance(tau_k, Sequence) else [tau_k] * len(ks)
    if len(temperatures) != len(ks) or not all(tau > 0 for tau in temperatures):
        raise ValueError(f"tau_k is {tau_k}, expected a number above 0, or one for each of the {len(ks)} ks")
