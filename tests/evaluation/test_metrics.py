from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from retrieval.evaluation.metrics import map_at_r, r_precision, recall_at_k

RELEVANT = np.array(
    [
        [1, 0, 1, 1],
        [0, 1, 0, 1],
        [0, 0, 0, 0],
        [1, 1, 1, 1],
    ],
    dtype=bool,
)
R = np.array([3, 2, 1, 4])


def test_recall_at_k_is_whether_one_of_the_first_k_is_relevant():
    assert_array_equal(recall_at_k(RELEVANT, 1), [1, 0, 0, 1])
    assert_array_equal(recall_at_k(RELEVANT, 2), [1, 1, 0, 1])
    assert_array_equal(recall_at_k(RELEVANT, 4), [1, 1, 0, 1])


def test_r_precision_counts_the_first_r_only():
    assert_allclose(r_precision(RELEVANT, R), [2 / 3, 1 / 2, 0, 1])


def test_map_at_r_is_the_mean_of_the_precisions_at_the_relevant_of_the_first_r():
    assert_allclose(map_at_r(RELEVANT, R), [(1 + 2 / 3) / 3, (1 / 2) / 2, 0, 1])


def test_a_relevant_item_beyond_r_changes_neither():
    changed = RELEVANT.copy()
    changed[1, 2:] = ~changed[1, 2:]
    assert_array_equal(r_precision(changed, R), r_precision(RELEVANT, R))
    assert_array_equal(map_at_r(changed, R), map_at_r(RELEVANT, R))


def test_no_queries_give_no_values():
    nothing, nobody = np.zeros((0, 5), dtype=bool), np.zeros(0, dtype=np.int64)
    assert (
        recall_at_k(nothing, 3).shape == r_precision(nothing, nobody).shape == map_at_r(nothing, nobody).shape == (0,)
    )


@pytest.mark.parametrize("k", [0, 5, -1])
def test_a_k_beyond_the_neighbours_is_refused(k):
    with pytest.raises(ValueError, match=f"k is {k}, expected 1 to 4"):
        recall_at_k(RELEVANT, k)


@pytest.mark.parametrize("measure", [r_precision, map_at_r])
@pytest.mark.parametrize("worst", [0, 5])
def test_a_query_without_relevant_items_or_with_too_few_neighbours_is_refused(measure, worst):
    with pytest.raises(ValueError, match=r"expected 1 to 4: leave out queries"):
        measure(RELEVANT, np.array([3, 2, 1, worst]))
