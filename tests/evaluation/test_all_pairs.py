"""`search_all_pairs` finds what `search` finds, and the smallest of all scores, whatever the tiles."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from retrieval.evaluation import all_pairs, search
from retrieval.evaluation.all_pairs import search_all_pairs
from retrieval.evaluation.inputs import unit_vectors


def clumps(num, dim, seed=0):
    random = np.random.default_rng(seed)
    return unit_vectors(
        "v",
        random.normal(size=(max(1, num // 6), dim))[random.integers(0, max(1, num // 6), num)]
        + 0.5 * random.normal(size=(num, dim)),
    )


def copies(num, dim):
    """Few different vectors, so that most scores tie."""
    return clumps(7, dim)[np.random.default_rng(1).integers(0, 7, num)]


@pytest.mark.parametrize("make", [clumps, copies])
@pytest.mark.parametrize("num", [1, 2, 15, 16, 17, 61, 300])
@pytest.mark.parametrize(("tile", "pending"), [(1024, 2**16), (16, 40), (16, 0), (50, 2**16)])
def test_it_finds_what_a_search_finds_and_the_smallest_score(monkeypatch, make, num, tile, pending):
    monkeypatch.setattr(all_pairs, "TILE", tile)
    monkeypatch.setattr(all_pairs, "PENDING", pending)
    vectors = make(num, 6)
    for k in (1, 4, num):
        found, least = search_all_pairs(vectors, k)
        expected = search(vectors, vectors, k, query_ids=np.arange(num))
        assert_array_equal(found.ids, expected.ids)
        assert_array_equal(found.positions, expected.positions)
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-6)
        np.testing.assert_allclose(least, (vectors.astype(np.float64) @ vectors.T).min(axis=1), atol=1e-6)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="row 0 has length 2"):
        search_all_pairs(np.full((2, 1), 2, dtype=np.float32), 1)
    with pytest.raises(ValueError, match="k is 0"):
        search_all_pairs(np.ones((2, 1), dtype=np.float32), 0)
