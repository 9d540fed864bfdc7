from __future__ import annotations

import pytest
import torch

from retrieval.solvers import normalize, rank, solve, standardize, two_point


def test_the_gradient_is_minus_the_incoming_one_for_an_argmin_solver_and_plus_for_argmax():
    costs = torch.tensor([0.3, 0.1, 0.2], requires_grad=True)
    incoming = torch.tensor([1.0, -2.0, 3.0])
    for maximize, sign in ((False, -1), (True, 1)):
        solution = solve(costs, rank, maximize=maximize)
        (gradient,) = torch.autograd.grad(solution, costs, incoming)
        assert torch.equal(gradient, sign * incoming)


@pytest.mark.parametrize("projection", [normalize, standardize])
def test_with_a_projection_the_gradient_is_minus_its_jacobian_transposed_times_the_incoming_one(projection):
    generator = torch.Generator().manual_seed(0)
    costs = torch.randn(6, generator=generator, dtype=torch.float64, requires_grad=True)
    incoming = torch.randn(6, generator=generator, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(solve(projection(costs), rank), costs, incoming.float())
    jacobian = torch.autograd.functional.jacobian(projection, costs)
    torch.testing.assert_close(gradient, -jacobian.T @ incoming.float().double())


def test_the_solver_is_called_once_and_without_gradient():
    calls = []

    def solver(costs: torch.Tensor) -> torch.Tensor:
        calls.append(torch.is_grad_enabled())
        return rank(costs)

    solve(torch.randn(4, requires_grad=True), solver).sum().backward()
    assert calls == [False]


def test_a_second_derivative_is_a_clear_error():
    costs = torch.randn(4, requires_grad=True)
    (gradient,) = torch.autograd.grad((solve(costs, rank) ** 2).sum(), costs, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_two_point_noise_has_the_two_values_and_repeats_with_its_generator():
    like = torch.zeros(50, 40, dtype=torch.float64)
    noise = two_point(like, 0.2, generator=torch.Generator().manual_seed(3))
    assert sorted(noise.unique().tolist()) == [-0.1, 0.1]
    assert abs(noise.mean()) < 0.01
    assert noise.dtype == like.dtype
    assert torch.equal(noise, two_point(like, 0.2, generator=torch.Generator().manual_seed(3)))
    with pytest.raises(ValueError, match="at least 0"):
        two_point(like, -1.0)
