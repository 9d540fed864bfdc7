from __future__ import annotations

import subprocess
import sys
from itertools import permutations

import pytest
import torch

from retrieval.solvers import match


def plain_cost(costs: torch.Tensor) -> float:
    """The cost of the cheapest assignment of all rows of a matrix that is not higher than wide, by trying all."""
    rows, columns = costs.shape
    return min(sum(costs[i, j].item() for i, j in enumerate(choice)) for choice in permutations(range(columns), rows))


@pytest.mark.parametrize("shape", [(1, 1), (4, 4), (3, 5), (5, 3), (1, 4), (5, 5)])
def test_it_is_the_cheapest_of_all_assignments(shape):
    costs = torch.randn(6, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for problem, marks in zip(costs, match(costs), strict=True):
        assert set(marks.unique().tolist()) <= {0.0, 1.0}
        assert marks.sum() == min(shape)
        assert marks.sum(dim=0).max() == marks.sum(dim=1).max() == 1
        cheapest = plain_cost(problem if shape[0] <= shape[1] else problem.T)
        assert (problem * marks).sum().item() == pytest.approx(cheapest)


def test_a_batch_of_any_shape_is_solved_one_by_one():
    costs = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    marks = match(costs)
    assert marks.shape == costs.shape
    for i in range(2):
        for j in range(3):
            assert torch.equal(marks[i, j], match(costs[i, j]))


def test_transposed_costs_have_the_transposed_solution():
    costs = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(match(costs.T), match(costs).T)


@pytest.mark.parametrize("shape", [(0, 3, 3), (2, 0, 3), (2, 3, 0)])
def test_nothing_to_match_gives_no_mark(shape):
    assert torch.equal(match(torch.ones(shape)), torch.zeros(shape))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_result_has_the_dtype_of_the_costs_but_at_least_float32(dtype):
    marks = match(torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=dtype, requires_grad=True))
    assert marks.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert marks.tolist() == [[0, 1], [1, 0]]
    assert not marks.requires_grad


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_costs_that_are_not_finite_are_refused(value):
    with pytest.raises(ValueError, match="not finite"):
        match(torch.tensor([[0.0, value], [1.0, 2.0]]))


def test_a_single_row_of_costs_is_refused():
    with pytest.raises(ValueError, match=r"shape \(3,\), expected \(\.\.\., rows, columns\)"):
        match(torch.zeros(3))


@pytest.mark.slow
def test_importing_the_solvers_does_not_import_scipys_optimizers():
    program = "import sys, retrieval.solvers; sys.exit('scipy.optimize' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
