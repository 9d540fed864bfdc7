from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from retrieval.index import Index
from retrieval.index.reranking import expand, rerank


def unit_vectors(count, dimension=5, seed=0):
    vectors = np.random.default_rng(seed).standard_normal((count, dimension))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def slow_expand(queries, gallery, k, alpha, own):
    moved = []
    for i, query in enumerate(queries):
        scores = gallery @ query
        order = [j for j in np.argsort(-scores, kind="stable") if own is None or j != own[i]][:k]
        total = query + sum(max(scores[j], 0) ** alpha * gallery[j] for j in order)
        moved.append(total / np.linalg.norm(total))
    return np.array(moved)


def slow_rerank(vectors, k1, k2, weight):
    """The paper, with dense matrices, for a set whose every item is a query."""
    count = len(vectors)
    squared = 2 - 2 * vectors @ vectors.T
    rank = np.array([[i, *(j for j in np.argsort(squared[i], kind="stable") if j != i)] for i in range(count)])

    def reciprocal(i, k):
        return [j for j in rank[i, : k + 1] if i in rank[j, : k + 1]]

    members = np.zeros((count, count))
    for i in range(count):
        own = reciprocal(i, k1)
        expanded = set(own)
        for j in own:
            other = reciprocal(j, max(1, round(k1 / 2)))
            if len(set(other) & set(own)) > 2 / 3 * len(other):
                expanded |= set(other)
        for j in expanded:
            members[i, j] = np.exp(-squared[i, j])
        members[i] /= members[i].sum()
    members = np.array([members[rank[i, :k2]].mean(axis=0) for i in range(count)])
    scores = np.empty((count, count))
    for i in range(count):
        for j in range(count):
            shared = np.minimum(members[i], members[j]).sum()
            scores[i, j] = -((1 - weight) * (1 - shared / (2 - shared)) + weight * squared[i, j] / squared[i].max())
    return scores


@pytest.mark.parametrize(("k", "alpha"), [(1, 3.0), (4, 0.0), (4, 3.0), (100, 1.0)])
@pytest.mark.parametrize("among", [True, False])
def test_expansion_is_the_weighted_mean_of_a_query_and_its_neighbours(k, alpha, among):
    gallery = unit_vectors(23)
    queries, own = (gallery, np.arange(23)) if among else (unit_vectors(9, seed=1), None)
    found = expand(queries, gallery, k, alpha=alpha, own=own)
    assert found.dtype == np.float32
    assert_allclose(found, slow_expand(queries, gallery, k, alpha, own), atol=1e-6)


def test_the_largest_weights_count_copies_alone():
    gallery = unit_vectors(9)
    copies = np.concatenate([gallery, gallery[:3] * np.float32(1 + 1e-6)])  # a score just above 1, by rounding
    found = expand(copies, copies, 4, alpha=1e308, own=np.arange(len(copies)))
    assert_allclose(found, copies, atol=1e-5)


def test_expansion_by_no_neighbour_changes_nothing():
    queries = unit_vectors(4)
    assert expand(queries, unit_vectors(9, seed=1), 0) is queries


def dense(blocks, count):
    """The scores (num_queries, count) of blocks of positions and scores; -inf for items that are in none."""
    positions, values = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    assert (np.diff(values, axis=1)[positions[:, 1:] >= 0] <= 0).all()
    scores = np.full((len(positions), count + 1), -np.inf)
    np.put_along_axis(scores, positions, values, axis=1)
    return scores[:, :-1]


def clumps(count, dimension=3, seed=0):
    """Unit vectors in small clumps, so that neighbourhoods are expanded."""
    random = np.random.default_rng(seed)
    vectors = random.standard_normal((-(-count // 6), dimension))[np.arange(count) // 6]
    vectors = vectors + 0.2 * random.standard_normal((count, dimension))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("make", [unit_vectors, clumps])
@pytest.mark.parametrize(("k1", "k2", "weight"), [(5, 2, 0.3), (4, 1, 0.0), (6, 3, 0.7), (50, 6, 0.3), (1, 1, 0.3)])
def test_reranking_is_that_of_the_paper(monkeypatch, make, k1, k2, weight):
    vectors = make(67, dimension=3)
    monkeypatch.setattr("retrieval.index.reranking._BLOCK", 3000)
    monkeypatch.setattr("retrieval.index.reranking._TILE", 16)
    blocks = list(rerank(vectors, vectors, k1, k2=k2, weight=weight, own=np.arange(67)))
    assert len(blocks) > 4
    expected = slow_rerank(vectors, k1, k2, weight)
    np.fill_diagonal(expected, -np.inf)
    assert_allclose(dense(blocks, 67), expected, atol=1e-5)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("k", [1, 4, 20, 66])
def test_the_first_items_are_those_of_the_whole_ranking(monkeypatch, weight, k):
    vectors = clumps(67)
    monkeypatch.setattr("retrieval.index.reranking._TILE", 16)
    blocks = list(rerank(vectors, vectors, 6, weight=weight, own=np.arange(67), k=k))
    positions, found = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    expected = slow_rerank(vectors, 6, 2, weight)
    np.fill_diagonal(expected, -np.inf)
    assert_allclose(found, -np.sort(-expected, axis=1)[:, :k], atol=1e-5)
    assert_allclose(np.take_along_axis(expected, positions, axis=1), found, atol=1e-5)
    assert (np.sort(positions)[:, 1:] != np.sort(positions)[:, :-1]).all()


def test_queries_from_elsewhere_are_ranked_as_one_set_with_the_gallery():
    vectors = unit_vectors(26, dimension=3)
    scores = dense(rerank(vectors[20:], vectors[:20], 5, k2=2), 20)
    everything = slow_rerank(vectors, 5, 2, 0.0)[20:, :20]
    squared = 2 - 2 * vectors[20:] @ vectors[:20].T
    assert_allclose(scores, 0.7 * everything - 0.3 * squared / squared.max(axis=1, keepdims=True), atol=1e-5)


def test_the_weight_of_the_vectors_alone_leaves_the_ranking_as_it_is():
    vectors = unit_vectors(30)
    scores = dense(rerank(vectors, vectors, 5, weight=1.0, own=np.arange(30)), 30)
    expected = vectors @ vectors.T
    np.fill_diagonal(expected, -np.inf)
    assert (np.argsort(-scores, axis=1) == np.argsort(-expected, axis=1)).mean() > 0.99


def test_copies_come_in_the_order_of_their_positions():
    vectors = np.repeat(clumps(12), 3, axis=0)
    ((positions, scores),) = rerank(vectors, vectors, 5, own=np.arange(36), k=2)
    others = [[i for i in range(36) if i // 3 == row // 3 and i != row] for row in range(36)]
    assert_array_equal(positions, others)
    assert_array_equal(scores[:, 0], scores[:, 1])


def test_wrong_numbers_are_named():
    vectors = unit_vectors(5)
    for words in ({"k1": 0}, {"k2": 0}, {"weight": 1.5}):
        with pytest.raises(ValueError, match="k1 is"):
            next(rerank(vectors, vectors, **words))
    for alpha in (-1, np.nan, np.inf):
        with pytest.raises(ValueError, match=f"alpha {alpha}"):
            expand(vectors, vectors, 1, alpha=alpha)


def test_a_query_that_shares_no_neighbour_with_any_item_is_ranked_by_its_scores():
    index = Index.from_vectors([[1.0, 0.0, 0.0], [1.0, 1e-4, 0.0]], ["x", "x"])
    hits = index.search(np.array([0.0, 0.2, 1.0]), k=2, rerank=1)
    assert [hit.id for hit in hits] == [1, 0]
