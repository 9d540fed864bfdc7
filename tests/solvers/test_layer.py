from __future__ import annotations

import inspect
from functools import partial

import pytest
import torch

from retrieval.solvers import Blackbox, Identity, center, match, matching, rank, ranking, solve, top_k

RULES = [Identity(), Blackbox(3.0)]


def rows(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("rule", [*RULES, "identity"])
@pytest.mark.parametrize(("solver", "maximize"), [(rank, False), (partial(top_k, k=2), True), (match, False)])
def test_the_solution_is_the_solvers_own_whatever_the_gradient(rule, solver, maximize):
    costs = rows(3, 5, 4).requires_grad_()
    solution = solve(costs, solver, gradient=rule, maximize=maximize)
    assert torch.equal(solution, solver(costs.detach()))
    (gradient,) = torch.autograd.grad(solution.square().mul(rows(3, 5, 4, seed=1)).sum(), costs)
    assert gradient.shape == costs.shape
    assert gradient.isfinite().all()
    assert gradient.ne(0).any()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("solver", "maximize"), [(partial(top_k, k=3), True), (lambda c: top_k(-c, 3), False)])
def test_descent_leads_to_the_wanted_subset_whatever_the_rule_and_the_convention(rule, solver, maximize):
    costs = rows(20).requires_grad_()
    wanted = torch.zeros(20, dtype=torch.float64)
    wanted[[2, 11, 17]] = 1
    for _ in range(100):
        loss = (solve(costs, solver, gradient=rule, projection=center, maximize=maximize) - wanted).square().sum()
        (gradient,) = torch.autograd.grad(loss, costs)
        costs = (costs - 0.1 * gradient).detach().requires_grad_()
    assert loss == 0
    assert gradient.eq(0).all()


@pytest.mark.parametrize("rule", RULES)
def test_descent_leads_to_the_wanted_assignment_whatever_the_rule(rule):
    costs = rows(6, 6).requires_grad_()
    wanted = torch.eye(6, dtype=torch.float64).roll(2, dims=0)
    for _ in range(100):
        loss = (solve(costs, match, gradient=rule) - wanted).square().sum()
        (gradient,) = torch.autograd.grad(loss, costs)
        costs = (costs - 0.1 * gradient).detach().requires_grad_()
    assert loss == 0


@pytest.mark.parametrize("rule", RULES)
def test_a_projection_is_solved_through_and_differentiated(rule):
    costs, incoming = rows(4, 7).requires_grad_(), rows(4, 7, seed=1)
    inside = solve(costs, rank, gradient=rule, projection=center)
    outside = solve(center(costs), rank, gradient=rule)
    assert torch.equal(inside, outside)
    gradients = [torch.autograd.grad(solution, costs, incoming.float())[0] for solution in (inside, outside)]
    assert torch.equal(*gradients)
    torch.testing.assert_close(gradients[0].sum(dim=1), torch.zeros(4, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("rule", RULES)
def test_the_gradient_has_the_dtype_of_the_costs(rule, dtype):
    costs = rows(3, 5, dtype=torch.float32).to(dtype).requires_grad_()
    for maximize in (False, True):
        solution = solve(costs, rank, gradient=rule, maximize=maximize)
        assert solution.dtype == torch.float32
        (gradient,) = torch.autograd.grad(solution.square().sum(), costs)
        assert gradient.dtype == dtype


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("maximize", [False, True])
def test_a_second_derivative_is_a_clear_error(rule, maximize):
    costs = torch.randn(4, requires_grad=True)
    loss = (solve(costs, rank, gradient=rule, maximize=maximize) ** 2).sum()
    with pytest.raises(RuntimeError, match="differentiated once only"):
        torch.autograd.grad(loss, costs, create_graph=True)


def test_identity_keeps_no_tensor_for_the_backward_pass():
    costs = torch.randn(4, requires_grad=True)
    assert solve(costs, rank).grad_fn.saved_tensors == ()
    assert len(solve(costs, rank, gradient=Blackbox(1.0)).grad_fn.saved_tensors) == 2


def test_an_unknown_gradient_is_named():
    with pytest.raises(ValueError, match=r"gradient is 'blackbox', expected 'identity' or a rule such as Blackbox"):
        solve(torch.zeros(3), rank, gradient="blackbox")


@pytest.mark.parametrize("module", [ranking, matching, inspect.getmodule(top_k)])
def test_solvers_never_mention_autograd(module):
    assert "grad" not in inspect.getsource(module)
