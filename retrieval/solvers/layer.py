"""A solver as a differentiable layer: any solver, any gradient rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from retrieval.solvers.identity import Identity

Solver = Callable[[Tensor], Tensor]


class GradientRule(Protocol):
    """How a gradient passes y(w) = argmin <w, y>; the solver is a function to it, to be called or not."""

    def save(self, costs: Tensor, solution: Tensor) -> tuple[Tensor, ...]:
        """What `gradient` will need: nothing, or the two."""

    def gradient(self, incoming: Tensor, saved: tuple[Tensor, ...], solver: Solver) -> Tensor:
        """dL/dw from `incoming`, which is dL/dy."""


def solve(
    costs: Tensor,
    solver: Solver,
    *,
    gradient: GradientRule | str = "identity",
    projection: Callable[[Tensor], Tensor] | None = None,
    maximize: bool = False,
) -> Tensor:
    """Solves in the forward pass, and lets the gradient pass the solver by a rule in the backward pass.

    Args:
        costs: the solver's input, any shape it accepts.
        solver: maps costs to a solution of the same shape, and leaves its argument as it is; called without gradient.
        gradient: "identity", or a rule: `Identity()`, `Blackbox(lambda_)`.
        projection: applied to the costs before they are solved, and differentiated as usual; must leave the solution
            unchanged (`retrieval.solvers.projections`).
        maximize: whether the solver maximises <costs, y>; it is then differentiated as the argmin solver of the negated costs.

    Returns:
        The solution. It can be differentiated once; a second derivative is a `RuntimeError`.

    Raises:
        ValueError: an unknown gradient.
    """
    rule = Identity() if gradient == "identity" else gradient
    if isinstance(rule, str):
        raise ValueError(f"gradient is {rule!r}, expected 'identity' or a rule such as Blackbox(lambda_=4.0)")
    if projection is not None:
        costs = projection(costs)
    if maximize:
        argmax = solver
        costs, solver = -costs, lambda negated: argmax(-negated)
    solution: Tensor = _Solve.apply(costs, solver, rule)
    return solution


class _Solve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, costs: Tensor, solver: Solver, rule: GradientRule) -> Tensor:
        solution = solver(costs)
        ctx.save_for_backward(*rule.save(costs, solution))
        ctx.solver, ctx.rule, ctx.dtype = solver, rule, costs.dtype
        return solution

    @staticmethod
    def backward(ctx: Any, incoming: Tensor) -> tuple[Tensor, None, None]:
        refuse_second_derivative()
        return ctx.rule.gradient(incoming, ctx.saved_tensors, ctx.solver).to(ctx.dtype), None, None


def refuse_second_derivative() -> None:
    """To be called in a backward pass: raises RuntimeError if it is itself recorded for differentiation.

    A gradient rule replaces a derivative that is zero or undefined; the derivative of the replacement means nothing.
    """
    if torch.is_grad_enabled():
        raise RuntimeError("a solver's gradient rule can be differentiated once only; leave out create_graph=True")
