"""RaMBO: the recall loss with blackbox differentiation and an informed margin, the predecessor of identity with projection."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from retrieval.losses.mean_gradient import MeanGradient
from retrieval.losses.score_matrix import ScoreMatrixLoss, check_masks, rank_as_scores, reduce_queries
from retrieval.solvers import Blackbox, solve


def rambo_loss(
    scores: Tensor,
    relevant: Tensor,
    irrelevant: Tensor | None = None,
    *,
    margin: float = 0.02,
    lambda_: float = 4.0,
    reduction: str = "mean",
) -> Tensor:
    """The recall loss of a matrix of scores by blackbox differentiation.

    The mean over relevant items of log(1 + log(1 + r)) for r irrelevant items above, counted after the scores of irrelevant
    items are raised by margin / 2 and those of relevant items lowered by as much (Rolinek et al., "Optimizing Rank-based
    Metrics with Blackbox Differentiation", CVPR 2020, equation 14).

    Args:
        scores: (num_queries, num_references), higher is closer.
        relevant: boolean mask of the same shape.
        irrelevant: boolean mask of the same shape; everything that is not relevant if left out. Items in neither mask (the
            query itself, above all) are not ranked and receive no gradient.
        margin: the informed margin, in units of scores; at least 0.
        lambda_: of `retrieval.solvers.Blackbox`, above 0. As in the released code it applies to ranks divided by the number
            of references: the ranks themselves see lambda_ x num_references.
        reduction: "mean" over the queries that have a relevant item (0 if none has), or "none": one loss a query (num_queries,),
            0 for those without a relevant item. lambda_ is that of the mean: what multiplies the losses multiplies the gradient.

    Returns:
        The loss in the dtype of the scores, at least float32.

    Raises:
        ValueError: shapes that differ, masks that are not boolean or overlap, a bad margin, lambda_ or reduction.
    """
    _check_margin(margin)
    scores, relevant, irrelevant = check_masks(scores, relevant, irrelevant)
    shifted = torch.where(relevant, scores - margin / 2, scores + margin / 2).masked_fill(
        ~(relevant | irrelevant), -torch.inf
    )
    mean_gradient = MeanGradient()
    shifted = mean_gradient.before_solver(shifted)
    rank_among_all = solve(shifted, rank_as_scores, gradient=Blackbox(lambda_ * max(1, scores.shape[1])))
    rank_among_relevant = rank_as_scores(shifted.detach().masked_fill(~relevant, -torch.inf))
    intruders = (rank_among_all - rank_among_relevant).masked_fill(~relevant, 0)
    losses = torch.log1p(torch.log1p(intruders)).sum(dim=1) / relevant.sum(dim=1).clamp(min=1)
    return reduce_queries(mean_gradient.after_solver(losses, relevant.any(dim=1)), relevant, reduction)


class RamboLoss(ScoreMatrixLoss):
    """`rambo_loss` as a loss of pytorch-metric-learning; for classes of any size, in any order.

    Args:
        margin: the informed margin.
        lambda_: how far blackbox differentiation moves the scores.
        **kwargs: `distance` (cosine similarity by default), `reducer`, `embedding_regularizer` and what else its losses take.
    """

    def __init__(self, margin: float = 0.02, lambda_: float = 4.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        _check_margin(margin)
        Blackbox(lambda_)
        self.margin = margin
        self.lambda_ = lambda_
        self.add_to_recordable_attributes(list_of_names=["margin", "lambda_"], is_stat=False)

    def losses_of_queries(self, scores: Tensor, relevant: Tensor, irrelevant: Tensor) -> Tensor:
        return rambo_loss(scores, relevant, irrelevant, margin=self.margin, lambda_=self.lambda_, reduction="none")


def _check_margin(margin: float) -> None:
    if not margin >= 0:
        raise ValueError(f"margin is {margin}, expected at least 0")
