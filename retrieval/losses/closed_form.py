"""The recall loss from embeddings, without the matrix of scores.

The gradient of the loss with respect to the scores of one query, taken by identity with projection, is a sparse part (the slope
of the weighting at each relevant item), plus a constant, plus a multiple of the scores themselves. With G = A + c 1^T + diag(b) S,
where S = Q R^T, the gradients G R and G^T Q need only sums over the references and d x d matrices, never G or S. The forward pass
needs one number for each relevant pair, how many irrelevant references score as high, and counts it tile by tile. The projections
"local" and "softmax" add a part W that is not sparse; its tiles are made again in the backward pass and multiplied at once.

One product of all scores is all the arithmetic that grows with the square of the batch (three for those two projections), half of
it where a batch is its own reference. Memory grows with the rows, and with large classes by two bytes for every relevant pair, four
for "local". What is known of all relevant pairs is kept as floats only as far as it is a fraction of the matrix of scores: with
larger classes, strips of queries are finished one after the other, which takes the whole product.

The parts: `score_tiles` has the scores and what is known of each row, `tile` compares a tile with limits, `intruders` counts, and
`closed_form_gradients` goes back.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.linalg import vector_norm

from retrieval.losses.closed_form_gradients import gradients
from retrieval.losses.closed_form_settings import Settings
from retrieval.losses.intruders import count_intruders
from retrieval.losses.score_tiles import Scores
from retrieval.solvers.layer import refuse_second_derivative

__all__ = ["ClosedForm", "Settings", "closed_form"]


class ClosedForm(NamedTuple):
    """What the engine found for each query.

    Args:
        losses: (num_queries,), differentiable; 0 for a query without a relevant reference.
        num_relevant: (num_queries,).
        intruders: (num_queries,) irrelevant references above a relevant one, summed over the relevant ones.
        spread: (num_queries,) standard deviation of the candidates' scores; only with the settings of "std", "local" and "softmax".
    """

    losses: Tensor
    num_relevant: Tensor
    intruders: Tensor
    spread: Tensor


def closed_form(
    queries: Tensor,
    references: Tensor | None,
    labels: Tensor,
    ref_labels: Tensor,
    settings: Settings,
    own: Tensor | None = None,
) -> ClosedForm:
    """The loss of every query against references of its own and other labels.

    Args:
        queries: (num_queries, dim), float32 or float64; the score is the inner product.
        references: (num_references, dim); None for the queries themselves, each without its own entry.
        labels: (num_queries,) labels of the queries, of a signed or floating dtype.
        ref_labels: (num_references,) labels of the references in the same dtype, `labels` again if these are the queries.
        settings: projection, weighting, noise.
        own: (num_queries,) places of the queries' own copies, no candidates, among separate references; None if there are none.

    Scores that differ by no more than the rounding of an inner product are ties, and an irrelevant reference that ties with a
    relevant one counts as above it.
    """
    labels, order = labels.sort(stable=True)
    if references is None:
        ref_labels, own = labels, torch.arange(len(labels), device=labels.device)
    else:
        ref_labels, ref_order = ref_labels.sort(stable=True)
        references = _sorted_rows(references, ref_order, settings.unit)
        own = None if own is None else ref_order.argsort()[own[order]]
    queries = _sorted_rows(queries, order, settings.unit)
    found = _ClosedForm.apply(queries, references, labels, ref_labels, own, settings)
    return ClosedForm(*(torch.zeros_like(values).index_copy(0, order, values) for values in found))


def _sorted_rows(rows: Tensor, order: Tensor, unit: bool) -> Tensor:
    return cast(Tensor, _UnitRows.apply(rows, order)) if unit else rows.index_select(0, order)


class _UnitRows(torch.autograd.Function):
    """Rows in another order, of norm 1: one step with one copy, where fresh memory costs more than the arithmetic."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, order: Tensor) -> Tensor:
        found = rows.index_select(0, order)
        norms = vector_norm(found, dim=1, keepdim=True).clamp(min=1e-12)
        ctx.save_for_backward(found.div_(norms), norms, order)
        return found

    @staticmethod
    def backward(ctx: Any, incoming: Tensor) -> tuple[Tensor, None]:
        refuse_second_derivative()
        found, norms, order = ctx.saved_tensors
        # Not vecdot, which an autocast around the backward pass would round.
        along = (found * incoming).sum(1, keepdim=True)
        across = incoming.addcmul(along, found, value=-1).div_(norms)
        return torch.empty_like(across).index_copy_(0, order, across), None


class _ClosedForm(torch.autograd.Function):
    """Takes what `Scores` takes; returns the fields of `ClosedForm`, in sorted order."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, *others: Any) -> tuple[Tensor, ...]:
        scores = Scores(queries, *others)
        losses, intruders = count_intruders(scores)
        # Comparisons hide what is not finite; a diverged network must show in the loss.
        losses = losses + 0 * (queries.sum(1) + scores.references.sum())
        found = scores.num_relevant, intruders, scores.spread
        ctx.mark_non_differentiable(*found)
        tensors = {name: value for name, value in vars(scores).items() if isinstance(value, Tensor)}
        ctx.save_for_backward(*tensors.values())  # freed after the backward pass, unlike attributes of ctx
        ctx.names, ctx.others = list(tensors), {n: v for n, v in vars(scores).items() if n not in tensors}
        return losses, *found

    @staticmethod
    def backward(ctx: Any, grad_losses: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        refuse_second_derivative()
        scores = object.__new__(Scores)
        vars(scores).update(ctx.others, **dict(zip(ctx.names, ctx.saved_tensors, strict=True)))
        with torch.autocast(grad_losses.device.type, enabled=False):  # the backward pass may be called inside one
            grad_queries, grad_references = gradients(scores, grad_losses, of_references=ctx.needs_input_grad[1])
        return grad_queries, None if scores.symmetric else grad_references, None, None, None, None
