from __future__ import annotations

from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from retrieval.solvers import top_k


def plain_top_k(scores: list[float], k: int) -> list[float]:
    """The best of all k-subsets; of equally good ones the first in lexicographic order of indices."""
    best = max(combinations(range(len(scores)), k), key=lambda subset: sum(scores[i] for i in subset))
    return [float(i in best) for i in range(len(scores))]


@given(st.lists(st.integers(-2, 2), min_size=1, max_size=7), st.data())
def test_it_is_the_best_of_all_subsets_with_ties_towards_the_lower_index(scores, data):
    k = data.draw(st.integers(1, len(scores)))
    assert top_k(torch.tensor(scores, dtype=torch.float32), k).tolist() == plain_top_k(scores, k)


def test_it_works_along_the_last_dimension():
    scores = torch.randn(3, 2, 9, generator=torch.Generator().manual_seed(0))
    marks = top_k(scores, 4)
    assert marks.sum(dim=-1).eq(4).all()
    for row, expected in zip(scores.reshape(-1, 9), marks.reshape(-1, 9), strict=True):
        assert torch.equal(top_k(row, 4), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_result_has_the_dtype_of_the_scores_but_at_least_float32(dtype):
    marks = top_k(torch.tensor([0.0, 2.0, 1.0], dtype=dtype), 2)
    assert marks.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert marks.tolist() == [0, 1, 1]


def test_infinite_scores_have_their_place():
    assert top_k(torch.tensor([0.0, -torch.inf, torch.inf]), 2).tolist() == [1, 0, 1]


def test_scores_with_a_nan_have_no_subset():
    marks = top_k(torch.tensor([[0.0, torch.nan], [0.0, 1.0]]), 1)
    assert marks[0].isnan().all()
    assert marks[1].tolist() == [0, 1]


@pytest.mark.parametrize("k", [-1, 0, 4])
def test_k_out_of_range_is_refused(k):
    with pytest.raises(ValueError, match=f"k is {k}, expected 1 to 3"):
        top_k(torch.zeros(2, 3), k)
