"""The gradient of a rule that is not linear, such as blackbox, made linear in what multiplies the losses."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from retrieval.solvers.layer import refuse_second_derivative


class MeanGradient:
    """Lets the solver inside a loss see the gradient of the mean of the losses, whatever is done with them outside.

    Blackbox differentiation solves again after a step of lambda times the incoming gradient. A factor between the loss and the
    backward pass (the scale of float16 training, the weight of a term, the number of processes) would act as another lambda. The
    losses of a batch are independent rows, so the row of a query is divided by its incoming gradient behind the solver and
    multiplied by it again in front.
    """

    def __init__(self) -> None:
        self._factor: Tensor | None = None  # (num_queries,) between the two steps of a backward pass

    def before_solver(self, scores: Tensor) -> Tensor:
        """Returns the scores (num_queries, any); multiplies their gradient."""
        found: Tensor = _Multiply.apply(scores, self)
        return found

    def after_solver(self, losses: Tensor, counts: Tensor) -> Tensor:
        """Returns the losses (num_queries,) that were computed from these scores; divides their gradient.

        Args:
            losses: (num_queries,).
            counts: boolean (num_queries,), the queries over which the mean is taken.
        """
        found: Tensor = _Divide.apply(losses, counts, self)
        return found


class _Multiply(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, shared: MeanGradient) -> Tensor:
        ctx.shared = shared
        return scores.view_as(scores)

    @staticmethod
    def backward(ctx: Any, incoming: Tensor) -> tuple[Tensor, None]:
        refuse_second_derivative()
        factor, ctx.shared._factor = ctx.shared._factor, None
        return incoming * factor[:, None], None


class _Divide(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, losses: Tensor, counts: Tensor, shared: MeanGradient) -> Tensor:
        ctx.save_for_backward(counts)
        ctx.shared = shared
        return losses.view_as(losses)

    @staticmethod
    def backward(ctx: Any, incoming: Tensor) -> tuple[Tensor, None, None]:
        refuse_second_derivative()
        (counts,) = ctx.saved_tensors
        number = counts.sum().clamp(min=1)
        ctx.shared._factor = incoming * number
        return counts / number.to(incoming.dtype), None, None
