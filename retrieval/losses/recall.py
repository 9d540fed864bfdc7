"""The recall loss: how many wrong items stand above each right one, through the ranking solver.

For query i with relevant items P_i, an item p in P_i has r_p intruders: the irrelevant items that score higher. With the
ranking solver rk, r_p = rk(all scores)_p - rk(relevant scores)_p, and the loss of the query is the mean of w(r_p) over P_i
(Rolinek et al., CVPR 2020). Its gradient is taken by identity with projection (Sahoo et al., ICLR 2023).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from pytorch_metric_learning.distances import CosineSimilarity
from pytorch_metric_learning.losses import BaseMetricLossFunction
from pytorch_metric_learning.utils import common_functions
from torch import Tensor

from retrieval.solvers import center, normalize, rank, solve, standardize, two_point

PROJECTIONS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "none": lambda scores, candidates: scores,
    "mean": center,
    "norm": normalize,
    "std": standardize,
}

WEIGHTINGS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "loglog": lambda intruders: torch.log1p(torch.log1p(intruders)),  # ~ sum over K of (1 - recall@K) / (K log K)
    "log": torch.log1p,  # ~ sum over K of (1 - recall@K) / K
    "linear": lambda intruders: intruders,
}


def recall_loss(
    scores: Tensor,
    relevant: Tensor,
    irrelevant: Tensor | None = None,
    *,
    projection: str = "std",
    weighting: str = "loglog",
    noise: float = 0.0,
    generator: torch.Generator | None = None,
    reduction: str = "mean",
) -> Tensor:
    """The recall loss of a matrix of scores: the definition, which holds the whole matrix.

    Args:
        scores: (num_queries, num_references), higher is closer.
        relevant: boolean mask of the same shape.
        irrelevant: boolean mask of the same shape; everything that is not relevant if left out. Items in neither mask (the
            query itself, above all) are no candidates: they are not ranked and receive no gradient.
        projection: "none", "mean", "norm" or "std", see `retrieval.solvers.projections`; over the candidates of each query.
        weighting: w(r) for r intruders: "loglog" log(1 + log(1 + r)), "log" log(1 + r), "linear" r.
        noise: alpha of the two-point noise, added after the projection; see `retrieval.solvers.noise`.
        generator: source of the noise.
        reduction: "mean" over the queries that have a relevant item (0 if none has), or "none": one loss a query (num_queries,),
            0 for those without a relevant item.

    Returns:
        The loss in the dtype of the scores, at least float32. An irrelevant item that ties with a relevant one is not above it.
        NaN among the candidates' scores gives NaN.

    Raises:
        ValueError: shapes that differ, masks that are not boolean or overlap, unknown words.
    """
    _require("projection", projection, PROJECTIONS)
    _require("weighting", weighting, WEIGHTINGS)
    _require("reduction", reduction, ("mean", "none"))
    _check_mask("relevant", relevant, scores)
    irrelevant = ~relevant if irrelevant is None else irrelevant
    _check_mask("irrelevant", irrelevant, scores)
    if (relevant & irrelevant).any():
        raise ValueError("relevant and irrelevant overlap: an item cannot be both")
    if scores.dtype in (torch.float16, torch.bfloat16):
        scores = scores.float()

    candidates = relevant | irrelevant
    projected = PROJECTIONS[projection](scores, candidates)
    if noise:
        projected = projected + two_point(projected, noise, generator=generator)
    rank_among_all = solve(projected.masked_fill(~candidates, -torch.inf), _rank_as_scores)
    rank_among_relevant = _rank_as_scores(projected.detach().masked_fill(~relevant, -torch.inf))
    intruders = (rank_among_all - rank_among_relevant).masked_fill(~relevant, 0)

    num_relevant = relevant.sum(dim=1)
    losses = WEIGHTINGS[weighting](intruders).masked_fill(~relevant, 0).sum(dim=1) / num_relevant.clamp(min=1)
    if reduction == "none":
        return losses
    return losses.sum() / (num_relevant > 0).sum().clamp(min=1)


class RecallLoss(BaseMetricLossFunction):
    """`recall_loss` as a loss of pytorch-metric-learning: embeddings and labels in, a scalar out.

    Relevant are references with the query's label, except the query itself; with `indices_tuple` (a miner's pairs or triplets)
    exactly the mined pairs, and what is in neither list is no candidate. Queries without a relevant reference do not count.
    Scores and ranks are computed in float32 whatever autocast says.

    Args:
        projection: "none", "mean", "norm" or "std".
        weighting: "loglog", "log" or "linear".
        noise: alpha of the two-point noise, in units of the projected scores.
        generator: source of the noise.
        **kwargs: `distance` (cosine similarity by default; any other of pytorch-metric-learning), `reducer`,
            `embedding_regularizer`, `collect_stats` and what else its losses take.
    """

    def __init__(
        self,
        projection: str = "std",
        weighting: str = "loglog",
        noise: float = 0.0,
        *,
        generator: torch.Generator | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        _require("projection", projection, PROJECTIONS)
        _require("weighting", weighting, WEIGHTINGS)
        if noise < 0:
            raise ValueError(f"noise is {noise}, expected at least 0")
        self.projection = projection
        self.weighting = weighting
        self.noise = noise
        self.generator = generator
        self.add_to_recordable_attributes(list_of_names=["noise"], is_stat=False)

    def compute_loss(
        self, embeddings: Tensor, labels: Tensor | None, indices_tuple: Any, ref_emb: Tensor, ref_labels: Tensor | None
    ) -> dict[str, dict[str, Any]]:
        common_functions.labels_or_indices_tuple_required(labels, indices_tuple)
        relevant, irrelevant = relevance_masks(embeddings, labels, indices_tuple, ref_emb, ref_labels)
        with torch.autocast(embeddings.device.type, enabled=False):
            matrix = self.distance(_at_least_float32(embeddings), _at_least_float32(ref_emb))
            losses = recall_loss(
                matrix if self.distance.is_inverted else -matrix,
                relevant,
                irrelevant,
                projection=self.projection,
                weighting=self.weighting,
                noise=self.noise if self.training else 0.0,
                generator=self.generator,
                reduction="none",
            )
        queries = torch.where(relevant.any(dim=1))[0]
        if len(queries) == 0:
            return self.zero_losses()
        return {"loss": {"losses": losses[queries], "indices": queries, "reduction_type": "element"}}

    def get_default_distance(self) -> CosineSimilarity:
        return CosineSimilarity()


def relevance_masks(
    embeddings: Tensor, labels: Tensor | None, indices_tuple: Any, ref_emb: Tensor, ref_labels: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Two boolean masks (num_queries, num_references), of the relevant and of the irrelevant pairs, from what a loss is given."""
    if indices_tuple is None:
        assert labels is not None
        assert ref_labels is not None
        same = labels[:, None] == ref_labels[None, :]
        if ref_emb is not embeddings:
            return same, ~same
        own = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
        return same & ~own, ~same
    if len(indices_tuple) == 3:
        anchors, positives, negatives = indices_tuple
        indices_tuple = anchors, positives, anchors, negatives
    masks = torch.zeros(2, len(embeddings), len(ref_emb), dtype=torch.bool, device=embeddings.device)
    masks[0, indices_tuple[0], indices_tuple[1]] = True
    masks[1, indices_tuple[2], indices_tuple[3]] = True
    return masks[0], masks[1]


def _rank_as_scores(scores: Tensor) -> Tensor:
    """Ranks in the dtype of the scores, so that float64 scores get a float64 gradient."""
    return rank(scores).to(scores.dtype)


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _check_mask(name: str, mask: Tensor, scores: Tensor) -> None:
    if scores.ndim != 2:
        raise ValueError(f"scores have shape {tuple(scores.shape)}, expected (num_queries, num_references)")
    if mask.shape != scores.shape or mask.dtype != torch.bool:
        found = f"{mask.dtype} of shape {tuple(mask.shape)}"
        raise ValueError(f"{name} is {found}, expected torch.bool of the scores' {tuple(scores.shape)}")


def _require(argument: str, value: str, known: Any) -> None:
    if value not in known:
        raise ValueError(f"{argument} is {value!r}, expected one of {', '.join(known)}")
