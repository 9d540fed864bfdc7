"""A search tile by tile finds what a full sort of exact scores finds."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from retrieval.evaluation import search
from retrieval.index import scan
from retrieval.index.vectors import Vectors


def unit_vectors(count, dimension=6, seed=0):
    vectors = np.random.default_rng(seed).standard_normal((count, dimension))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


class Tiles(Vectors):
    """Vectors in tiles of some rows."""

    step = 16

    def tiles(self, first=0):
        yield from ((start, self.all()[start : start + self.step]) for start in range(first, len(self), self.step))


def slow(queries, vectors, k, ids, removed, first):
    rows = [row for row in range(first, len(vectors)) if not removed[row]]
    positions, scores = np.full((len(queries), k), -1), np.full((len(queries), k), -np.inf, dtype=np.float32)
    for i, query in enumerate(queries):
        exact = {row: np.float32((query.astype(np.float64) * vectors[row]).sum()) for row in rows}
        order = sorted(rows, key=lambda row, exact=exact: (-exact[row], ids[row]))[:k]
        positions[i, : len(order)], scores[i, : len(order)] = order, [exact[row] for row in order]
    return positions, scores


@pytest.mark.parametrize("k", [1, 5, 100, 130])
@pytest.mark.parametrize("first", [0, 37])
@pytest.mark.parametrize("copies", [False, True])
def test_the_nearest_are_those_of_a_full_sort(monkeypatch, k, first, copies):
    monkeypatch.setattr(scan, "_QUERIES", 4)
    vectors, queries = unit_vectors(100), unit_vectors(9, seed=1)
    if copies:
        vectors = vectors[np.random.default_rng(2).integers(0, 6, 100)]
    ids = np.random.default_rng(3).permutation(100)
    removed = np.random.default_rng(4).random(100) < 0.2
    found = scan.nearest(queries, Tiles(vectors), k, ids=ids, removed=removed, first=first)
    expected = slow(queries, vectors, k, ids, removed, first)
    assert_array_equal(found[0], expected[0])
    assert_array_equal(found[1], expected[1])


def test_many_equal_vectors_come_in_the_order_of_their_ids():
    vectors = np.repeat(unit_vectors(2), 5000, axis=0)
    positions, _ = scan.nearest(vectors[:1], Tiles(vectors), 7, ids=np.arange(10_000)[::-1].copy())
    assert positions.tolist() == [[4999, 4998, 4997, 4996, 4995, 4994, 4993]]


def test_a_scan_finds_what_the_search_in_memory_finds():
    vectors, queries = unit_vectors(3000, 32), unit_vectors(50, 32, seed=1)
    assert_array_equal(scan.nearest(queries, Vectors(vectors), 10)[0], search(queries, vectors, 10).positions)
