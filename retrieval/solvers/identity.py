"""Identity: a solver as a layer, at the price of no second solve."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class _Identity(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, costs: Tensor, solver: Callable[[Tensor], Tensor], maximize: bool) -> Tensor:
        ctx.maximize, ctx.dtype = maximize, costs.dtype
        return solver(costs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_solution: Tensor) -> tuple[Tensor, None, None]:
        grad = grad_solution.to(ctx.dtype)
        return (grad if ctx.maximize else -grad), None, None


def solve(costs: Tensor, solver: Callable[[Tensor], Tensor], *, maximize: bool = False) -> Tensor:
    """Solves in the forward pass and treats the solver as minus the identity in the backward pass.

    For y(w) = argmin <w, y> the gradient is dL/dw = -dL/dy, for an argmax solver dL/dw = dL/dy (Sahoo et al.,
    "Backpropagation through Combinatorial Algorithms: Identity with Projection Works", ICLR 2023, equation 3). Project the
    costs first (`retrieval.solvers.projections`): the bare identity moves them in directions that leave the solution as it is.

    Args:
        costs: the solver's input, any shape it accepts.
        solver: maps costs to a solution of the same shape; it is called once, without gradient.
        maximize: whether the solver maximises <costs, y> instead of minimising it.

    Returns:
        The solution. It can be differentiated once; a second derivative is a `RuntimeError`.
    """
    solution: Tensor = _Identity.apply(costs, solver, maximize)
    return solution
