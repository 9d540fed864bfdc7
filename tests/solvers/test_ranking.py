from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from retrieval.solvers import rank


def plain_ranks(scores: torch.Tensor) -> torch.Tensor:
    """The number of scores in the row that are at least as high, by a double loop."""
    ranks = [[0.0 + sum(other >= own for other in row) for own in row] for row in scores.tolist()]
    return torch.tensor(ranks).reshape(scores.shape)


@given(st.lists(st.lists(st.integers(-3, 3), min_size=5, max_size=5), min_size=1, max_size=4))
def test_ranks_equal_a_double_loop_with_ties(rows):
    scores = torch.tensor(rows, dtype=torch.float32)
    assert torch.equal(rank(scores), plain_ranks(scores))


def test_without_ties_the_ranks_minimise_the_product_with_the_scores():
    from itertools import permutations

    scores = torch.tensor([0.3, -1.0, 2.0, 0.9, 0.1])
    best = min(permutations(range(1, 6)), key=lambda y: float(scores @ torch.tensor(y, dtype=torch.float32)))
    assert rank(scores).tolist() == list(best)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_ranks_are_float32_for_every_dtype(dtype):
    ranks = rank(torch.arange(300, 0, -1).to(dtype).reshape(1, -1) / 300)
    assert ranks.dtype == torch.float32
    if dtype not in (torch.float16, torch.bfloat16):
        assert ranks[0].tolist() == list(range(1, 301))


def test_ranks_above_2048_stay_exact():
    assert torch.equal(rank(-torch.arange(5000.0)), torch.arange(1.0, 5001.0))


def test_ranking_is_permutation_equivariant_with_ties():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 4, (6, 9), generator=generator).float()
    order = torch.randperm(9, generator=generator)
    assert torch.equal(rank(scores[:, order]), rank(scores)[:, order])


def test_minus_infinity_ranks_last():
    assert rank(torch.tensor([-torch.inf, 0.0, 1.0])).tolist() == [3, 2, 1]


def test_scores_with_a_nan_have_no_ranks():
    ranks = rank(torch.tensor([[0.0, torch.nan], [0.0, 1.0]]))
    assert ranks[0].isnan().all()
    assert ranks[1].tolist() == [2, 1]
