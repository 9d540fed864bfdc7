from __future__ import annotations

import pytest
import torch
from torch.autograd import gradcheck

from retrieval.solvers import center, match, normalize, rank, solve, standardize, whole

ALL = [center, normalize, standardize]


def rows(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("projection", ALL)
def test_a_projection_leaves_the_ranking_as_it_is(projection):
    scores = rows(7, 11)
    assert torch.equal(rank(projection(scores)), rank(scores))


@pytest.mark.parametrize("projection", ALL)
def test_a_projection_applied_twice_changes_nothing_more(projection):
    once = projection(rows(3, 8))
    torch.testing.assert_close(projection(once), once)


def test_standardized_rows_sum_to_zero_and_have_unit_length():
    out = standardize(rows(5, 9))
    torch.testing.assert_close(out.sum(dim=1), torch.zeros(5, dtype=torch.float64))
    torch.testing.assert_close(out.norm(dim=1), torch.ones(5, dtype=torch.float64))


def test_gradients_through_standardize_sum_to_zero_and_are_orthogonal_to_the_scores():
    scores = rows(5, 9).requires_grad_()
    (gradient,) = torch.autograd.grad((standardize(scores) * rows(5, 9, seed=1)).sum(), scores)
    zeros = torch.zeros(5, dtype=torch.float64)
    torch.testing.assert_close(gradient.sum(dim=1), zeros)
    torch.testing.assert_close((gradient * scores).sum(dim=1), zeros)


@pytest.mark.parametrize("projection", ALL)
def test_the_derivative_is_right(projection):
    mask = torch.tensor([[True, False, True, True, True], [True, True, True, False, True]])
    assert gradcheck(projection, (rows(2, 5).requires_grad_(),))
    assert gradcheck(lambda scores: projection(scores, mask), (rows(2, 5).requires_grad_(),))


@pytest.mark.parametrize("projection", ALL)
def test_masked_entries_take_no_part(projection):
    scores, mask = rows(2, 6), torch.tensor([[True] * 4 + [False] * 2] * 2)
    torch.testing.assert_close(projection(scores, mask)[:, :4], projection(scores[:, :4]))
    assert projection(scores, mask)[:, 4:].eq(0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, 1e-30, 1e6])
def test_a_flat_row_gives_zeros_and_a_zero_gradient(dtype, value):
    for projection in ALL:
        scores = torch.full((1, 7), value, dtype=dtype, requires_grad=True)
        out = projection(scores)
        (gradient,) = torch.autograd.grad((out * rows(1, 7, dtype=dtype)).sum(), scores)
        assert out.isfinite().all()
        assert gradient.isfinite().all()
        if projection is standardize:
            assert out.eq(0).all()
            assert gradient.eq(0).all()


@pytest.mark.parametrize("projection", ALL)
def test_an_empty_mask_gives_zeros(projection):
    assert projection(rows(2, 3), torch.zeros(2, 3, dtype=torch.bool)).eq(0).all()


@pytest.mark.parametrize("projection", [normalize, standardize])
def test_row_by_row_a_projection_changes_the_assignment_and_over_the_whole_it_does_not(projection):
    costs = torch.tensor([[3.0, 5.0, 9.0], [10.0, 13.0, 90.0]])
    assert match(costs).argmax(dim=1).tolist() == [1, 0]
    assert solve(costs, match, projection=projection).argmax(dim=1).tolist() == [0, 1]
    assert solve(costs, match, projection=whole(projection)).argmax(dim=1).tolist() == [1, 0]


@pytest.mark.parametrize("projection", ALL)
@pytest.mark.parametrize("shape", [(5, 5), (4, 7), (7, 4)])
def test_a_projection_of_whole_problems_leaves_every_assignment_as_it_is(projection, shape):
    costs = rows(20, *shape)
    assert torch.equal(match(whole(projection)(costs)), match(costs))
    assert torch.equal(match(whole(projection)(costs.mT)), match(costs.mT))


@pytest.mark.parametrize("projection", ALL)
def test_over_the_whole_a_projection_is_that_of_all_costs_in_one_row(projection):
    costs = rows(2, 3, 4, 5)
    out = whole(projection)(costs)
    for i in range(2):
        for j in range(3):
            torch.testing.assert_close(out[i, j].reshape(20), projection(costs[i, j].reshape(20)))
    assert gradcheck(whole(projection), (rows(2, 3, 4).requires_grad_(),))
