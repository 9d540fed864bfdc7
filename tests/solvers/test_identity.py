from __future__ import annotations

import pytest
import torch

from retrieval.solvers import Identity, normalize, rank, solve, standardize


def test_the_gradient_is_minus_the_incoming_one_for_an_argmin_solver_and_plus_for_argmax():
    costs = torch.tensor([0.3, 0.1, 0.2], requires_grad=True)
    incoming = torch.tensor([1.0, -2.0, 3.0])
    for maximize, sign in ((False, -1), (True, 1)):
        solution = solve(costs, rank, gradient=Identity(), maximize=maximize)
        (gradient,) = torch.autograd.grad(solution, costs, incoming)
        assert torch.equal(gradient, sign * incoming)


@pytest.mark.parametrize("projection", [normalize, standardize])
def test_with_a_projection_the_gradient_is_minus_its_jacobian_transposed_times_the_incoming_one(projection):
    generator = torch.Generator().manual_seed(0)
    costs = torch.randn(6, generator=generator, dtype=torch.float64, requires_grad=True)
    incoming = torch.randn(6, generator=generator, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(solve(costs, rank, projection=projection), costs, incoming.float())
    jacobian = torch.autograd.functional.jacobian(projection, costs)
    torch.testing.assert_close(gradient, -jacobian.T @ incoming.float().double())


def test_the_solver_is_called_once_and_without_gradient():
    calls = []

    def solver(costs: torch.Tensor) -> torch.Tensor:
        calls.append(torch.is_grad_enabled())
        return rank(costs)

    solve(torch.randn(4, requires_grad=True), solver).sum().backward()
    assert calls == [False]
