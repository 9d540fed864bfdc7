"""What losses of a score matrix and two relevance masks share: their checks, their mean, their place in pytorch-metric-learning."""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

import torch
from pytorch_metric_learning.distances import CosineSimilarity
from pytorch_metric_learning.losses import BaseMetricLossFunction
from pytorch_metric_learning.utils import common_functions
from torch import Tensor

from retrieval.solvers import rank


class AllButOwn(NamedTuple):
    """In place of an `indices_tuple`: all pairs of queries and references but each query's with its own copy.

    Args:
        own: (num_queries,) the place of the copy among the references.
    """

    own: Tensor


class ScoreMatrixLoss(BaseMetricLossFunction):
    """Embeddings and labels in, one loss for every query that has a relevant reference out.

    Relevant are references with the query's label, except the query itself; with `indices_tuple` (a miner's pairs or triplets)
    exactly the mined pairs, and what is in neither list is no candidate. Scores are computed in float32 whatever autocast says.
    A subclass stores arguments and defines `losses_of_queries`.
    """

    def losses_of_queries(self, scores: Tensor, relevant: Tensor, irrelevant: Tensor) -> Tensor:
        """One loss a query (num_queries,) from scores (num_queries, num_references), higher is closer, and the two masks."""
        raise NotImplementedError

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor | None = None,
        indices_tuple: Any = None,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
    ) -> Any:
        queries = at_least_float32(embeddings)  # the host adds sub-losses in the dtype of the embeddings
        return super().forward(
            queries, labels, indices_tuple, queries if ref_emb is embeddings else ref_emb, ref_labels
        )

    def compute_loss(
        self, embeddings: Tensor, labels: Tensor | None, indices_tuple: Any, ref_emb: Tensor, ref_labels: Tensor | None
    ) -> dict[str, dict[str, Any]]:
        common_functions.labels_or_indices_tuple_required(labels, indices_tuple)
        relevant, irrelevant = relevance_masks(embeddings, labels, indices_tuple, ref_emb, ref_labels)
        with torch.autocast(embeddings.device.type, enabled=False):
            matrix = self.distance(at_least_float32(embeddings), at_least_float32(ref_emb))
            losses = self.losses_of_queries(matrix if self.distance.is_inverted else -matrix, relevant, irrelevant)
        return self.as_elements(losses, relevant.any(dim=1))

    def as_elements(self, losses: Tensor, counts: Tensor) -> dict[str, dict[str, Any]]:
        """The losses (num_queries,) of the queries that count (boolean, same shape), as reducers take them."""
        queries = torch.where(counts)[0]
        if len(queries) == 0:
            return self.zero_losses()
        return {"loss": {"losses": losses[queries], "indices": queries, "reduction_type": "element"}}

    def get_default_distance(self) -> CosineSimilarity:
        return CosineSimilarity()

    def extra_repr(self) -> str:
        classes = [kind for kind in type(self).__mro__ if issubclass(kind, ScoreMatrixLoss)]
        options = {name: vars(self).get(name) for kind in classes for name in inspect.signature(kind).parameters}
        return ", ".join(f"{name}={value!r}" for name, value in options.items() if value is not None)


def relevance_masks(
    embeddings: Tensor, labels: Tensor | None, indices_tuple: Any, ref_emb: Tensor, ref_labels: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Two boolean masks (num_queries, num_references), of the relevant and of the irrelevant pairs, from what a loss is given."""
    if indices_tuple is None or isinstance(indices_tuple, AllButOwn):
        if labels is None or ref_labels is None:
            raise ValueError("there are embeddings without labels; give labels and ref_labels, or an indices_tuple")
        labels, ref_labels = in_one_dtype(labels, ref_labels)
        same = labels[:, None] == ref_labels[None, :]
        if isinstance(indices_tuple, AllButOwn):
            return same.scatter(1, indices_tuple.own[:, None], False), ~same
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


def in_one_dtype(labels: Tensor, ref_labels: Tensor) -> tuple[Tensor, Tensor]:
    """Labels as int64, or in a floating dtype where they are: torch sorts, searches and mixes other integers only in part."""
    labels, ref_labels = (part if part.is_floating_point() else part.long() for part in (labels, ref_labels))
    common = torch.promote_types(labels.dtype, ref_labels.dtype)
    return labels.to(common), ref_labels.to(common)


def check_masks(scores: Tensor, relevant: Tensor, irrelevant: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """The three with what was left out filled in, scores in float32 at least; ValueError where they do not fit together."""
    if scores.ndim != 2:
        raise ValueError(f"scores have shape {tuple(scores.shape)}, expected (num_queries, num_references)")
    for name, mask in (("relevant", relevant), ("irrelevant", relevant if irrelevant is None else irrelevant)):
        if mask.shape != scores.shape or mask.dtype != torch.bool:
            found = f"{mask.dtype} of shape {tuple(mask.shape)}"
            raise ValueError(f"{name} is {found}, expected torch.bool of the scores' {tuple(scores.shape)}")
    irrelevant = ~relevant if irrelevant is None else irrelevant
    if (relevant & irrelevant).any():
        raise ValueError("relevant and irrelevant overlap: an item cannot be both")
    return at_least_float32(scores), relevant, irrelevant


def sum_by_query(values: Tensor, relevant: Tensor) -> Tensor:
    """Sums values (num_pairs, ...), in the order of `relevant.nonzero()`, to (num_queries, ...)."""
    return values.new_zeros(len(relevant), *values.shape[1:]).index_add(0, relevant.nonzero()[:, 0], values)


def reduce_queries(losses: Tensor, relevant: Tensor, reduction: str) -> Tensor:
    """The mean over the queries with a relevant item ("mean", 0 if none has), or the losses as they are ("none")."""
    if reduction not in ("mean", "none"):
        raise ValueError(f"reduction is {reduction!r}, expected one of mean, none")
    losses = losses.masked_fill(~relevant.any(dim=1), 0)
    return losses if reduction == "none" else losses.sum() / relevant.any(dim=1).sum().clamp(min=1)


def rank_as_scores(scores: Tensor) -> Tensor:
    """Ranks in the dtype of the scores, so that float64 scores get a float64 gradient."""
    return rank(scores).to(scores.dtype)


def at_least_float32(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


STATISTICS = ["perfect_queries", "mean_intruders", "score_spread"]


def statistics(intruders: Tensor, num_relevant: Tensor, spread: Tensor) -> dict[str, float]:
    """The `STATISTICS` by name, from intruders (num_queries, any) at relevant items, 0 elsewhere, and the others (num_queries,)."""
    counts = num_relevant > 0
    perfect = counts & (intruders.sum(1) == 0)
    shares = perfect.sum() / counts.sum().clamp(min=1), intruders.sum() / num_relevant.sum().clamp(min=1), spread.mean()
    return dict(zip(STATISTICS, torch.stack([share.to(spread) for share in shares]).tolist(), strict=True))


def record_statistics(loss: BaseMetricLossFunction, *given: Tensor) -> None:
    """Sets the `STATISTICS` of a loss; see `statistics` for what is given."""
    for name, value in statistics(*given).items():
        setattr(loss, name, value)
