from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from retrieval.evaluation.metrics import map_at_r, precision_at_k, r_precision, recall_at_k, reciprocal_rank

NONE = np.iinfo(np.int64).max
# The relevant items of four queries among their neighbours: right wrong right right, wrong right wrong right, and so on.
RANKS = np.array([[1, 3, 4, NONE], [2, 4, NONE, NONE], [9, NONE, NONE, NONE], [1, 2, 3, 4]])
R = np.array([3, 2, 1, 4])


def test_recall_at_k_is_whether_one_of_the_first_k_is_relevant():
    assert_array_equal(recall_at_k(RANKS, 1), [1, 0, 0, 1])
    assert_array_equal(recall_at_k(RANKS, 2), [1, 1, 0, 1])
    assert_array_equal(recall_at_k(RANKS, 9), [1, 1, 1, 1])


def test_precision_at_k_is_the_share_of_relevant_among_the_first_k():
    assert_allclose(precision_at_k(RANKS, 1), [1, 0, 0, 1])
    assert_allclose(precision_at_k(RANKS, 4), [3 / 4, 2 / 4, 0, 1])
    assert_allclose(precision_at_k(RANKS, 10), [3 / 10, 2 / 10, 1 / 10, 4 / 10])


def test_the_reciprocal_rank_is_that_of_the_nearest_relevant():
    assert_allclose(reciprocal_rank(RANKS), [1, 1 / 2, 1 / 9, 1])


def test_r_precision_counts_the_first_r_only():
    assert_allclose(r_precision(RANKS, R), [2 / 3, 1 / 2, 0, 1])


def test_map_at_r_is_the_mean_of_the_precisions_at_the_relevant_of_the_first_r():
    assert_allclose(map_at_r(RANKS, R), [(1 + 2 / 3) / 3, (1 / 2) / 2, 0, 1])


def test_a_relevant_item_beyond_r_changes_neither():
    changed = RANKS.copy()
    changed[1, 1] = 7
    assert_array_equal(r_precision(changed, R), r_precision(RANKS, R))
    assert_array_equal(map_at_r(changed, R), map_at_r(RANKS, R))


def test_no_queries_give_no_values():
    nothing, nobody = np.zeros((0, 5), dtype=np.int64), np.zeros(0, dtype=np.int64)
    for values in (
        recall_at_k(nothing, 3),
        precision_at_k(nothing, 3),
        reciprocal_rank(nothing),
        map_at_r(nothing, nobody),
        r_precision(nothing, nobody),
    ):
        assert values.shape == (0,)


@pytest.mark.parametrize("measure", [recall_at_k, precision_at_k])
@pytest.mark.parametrize("k", [0, -1])
def test_a_k_below_1_is_refused(measure, k):
    with pytest.raises(ValueError, match=f"k is {k}, expected at least 1"):
        measure(RANKS, k)


@pytest.mark.parametrize("measure", [r_precision, map_at_r])
@pytest.mark.parametrize("worst", [0, 5])
def test_a_query_without_relevant_items_or_with_too_few_slots_is_refused(measure, worst):
    with pytest.raises(ValueError, match=r"expected 1 to 4: leave out queries"):
        measure(RANKS, np.array([3, 2, 1, worst]))
