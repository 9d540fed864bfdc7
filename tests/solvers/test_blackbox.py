from __future__ import annotations

from functools import partial
from itertools import permutations

import pytest
import torch

from retrieval.solvers import Blackbox, match, rank, solve, top_k

LAMBDA = 0.7
GENERATOR = torch.Generator().manual_seed(0)
COSTS = torch.randn(5, 4, 4, generator=GENERATOR, dtype=torch.float64)
INCOMING = torch.randn(5, 4, 4, generator=GENERATOR, dtype=torch.float64)


def minus_top_2(costs: torch.Tensor) -> torch.Tensor:
    return top_k(-costs, 2)


def rank64(scores: torch.Tensor) -> torch.Tensor:
    return rank(scores).double()


@pytest.mark.parametrize("solver", [rank64, minus_top_2, match])
def test_the_gradient_of_an_argmin_solver_is_the_difference_of_two_solutions(solver):
    costs = COSTS.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(solve(costs, solver, gradient=Blackbox(LAMBDA)), costs, INCOMING)
    torch.testing.assert_close(gradient, (solver(COSTS + LAMBDA * INCOMING) - solver(COSTS)) / LAMBDA)
    assert gradient.ne(0).any()


def test_argmax_is_argmin_of_the_negated_costs():
    costs = COSTS.clone().requires_grad_()
    top_2 = partial(top_k, k=2)
    solution = solve(costs, top_2, gradient=Blackbox(LAMBDA), maximize=True)
    (gradient,) = torch.autograd.grad(solution, costs, INCOMING)
    assert torch.equal(solution, top_2(COSTS))
    torch.testing.assert_close(gradient, (top_2(COSTS) - top_2(COSTS - LAMBDA * INCOMING)) / LAMBDA)
    (of_negated,) = torch.autograd.grad(solve(-costs, lambda c: top_2(-c), gradient=Blackbox(LAMBDA)), costs, INCOMING)
    assert torch.equal(gradient, of_negated)


def test_it_is_the_gradient_of_the_interpolated_loss():
    # f_lambda(w) = L(y(w)) - (<w, y(w)> - <w, y_lambda(w)>) / lambda with L linear in y (Vlastelica et al., equation 4)
    solutions = torch.tensor(list(permutations(range(1, 5))), dtype=torch.float64)
    incoming = INCOMING[0, 0]

    def interpolated(costs: torch.Tensor) -> torch.Tensor:
        moved = (solutions @ (costs + LAMBDA * incoming)).min()
        return (moved - (solutions @ costs).min()) / LAMBDA

    costs = COSTS[0, 0].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(solve(costs, rank64, gradient=Blackbox(LAMBDA)), costs, incoming)
    step = 1e-6
    for j, unit in enumerate(torch.eye(4, dtype=torch.float64)):
        difference = (interpolated(COSTS[0, 0] + step * unit) - interpolated(COSTS[0, 0] - step * unit)) / (2 * step)
        assert gradient[j].item() == pytest.approx(difference.item(), abs=1e-6)


def test_the_solver_is_called_once_more_in_the_backward_pass_and_never_with_gradient():
    calls = []

    def solver(costs: torch.Tensor) -> torch.Tensor:
        calls.append(torch.is_grad_enabled())
        return rank(costs)

    solution = solve(torch.randn(4, requires_grad=True), solver, gradient=Blackbox(1.0))
    assert calls == [False]
    solution.sum().backward()
    assert calls == [False, False]


@pytest.mark.parametrize("lambda_", [0.0, -1.0, float("nan")])
def test_lambda_must_be_above_zero(lambda_):
    with pytest.raises(ValueError, match="expected above 0"):
        Blackbox(lambda_)
