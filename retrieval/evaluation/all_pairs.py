"""The nearest and the farthest of every vector among all vectors of one set: each product is made once, and none is kept.

A search of a set in itself makes every product twice. Here a tile of products serves its rows and its columns.
"""

from __future__ import annotations

import numpy as np

from retrieval.evaluation.arrays import check_k, check_unit_vectors
from retrieval.evaluation.exact import Items, sort_keys
from retrieval.evaluation.search import MAX_PAIRS, SLACK, Gallery, Neighbours, concatenate

# Rows and columns of a tile of products.
TILE = 1024
# Scores of the rows of a tile that wait to be sorted.
PENDING = 2**16


def search_all_pairs(vectors: np.ndarray, k: int) -> tuple[Neighbours, np.ndarray]:
    """Finds the k nearest others of every vector, and its smallest score.

    Args:
        vectors: (num, dim) float32 unit vectors, at least one.
        k: number of neighbours, small against `num`; the time grows with it.

    Returns:
        The neighbours as `search(vectors, vectors, k, query_ids=np.arange(num))` finds them; and (num,) float32, the smallest inner
        product of each vector with any.

    Raises:
        ValueError: an argument is not as described.
    """
    vectors, k = check_unit_vectors("vectors", vectors), check_k(k)
    num = len(vectors)
    best = _Best(num, min(k + 1 + SLACK, num))
    least = np.full(num, np.inf, dtype=np.float32)
    for top in range(0, num, TILE):
        rows = slice(top, top + TILE)
        for left in range(top, num, TILE):
            columns = slice(left, left + TILE)
            products = vectors[rows] @ vectors[columns].T
            least[rows] = np.minimum(least[rows], products.min(axis=1))
            best.add(top, left, products)
            if left > top:
                least[columns] = np.minimum(least[columns], products.min(axis=0))
                best.add(left, top, products.T)
    ids = np.arange(num)
    gallery, (scores, positions) = Gallery._from_checked(Items(vectors), ids, "torch"), best.sorted()
    size = MAX_PAIRS // scores.shape[1]
    blocks = [slice(start, start + size) for start in range(0, num, size)]
    found = [gallery._chosen(Items(vectors[it]), scores[it], positions[it], k, ids[it]) for it in blocks]
    return concatenate(found), least


class _Best:
    """The best scores of every row so far, from tiles in any order.

    Args:
        num: The number of rows.
        width: The number of scores to keep of each.
    """

    def __init__(self, num: int, width: int) -> None:
        self._scores = np.full((num, width), -np.inf, dtype=np.float32)
        self._positions = np.zeros((num, width), dtype=np.int64)
        self._limits = np.full(num, -np.inf, dtype=np.float32)  # no score below can be among the best
        self._pending: dict[int, list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = {}

    def add(self, top: int, left: int, products: np.ndarray) -> None:
        """Takes the tile of products that begins in a row and a column."""
        width = self._scores.shape[1]
        limits = self._limits[top : top + len(products)]
        if top not in self._pending and products.shape[1] > width:
            limits[:] = np.partition(products, -width, axis=1)[:, -width]
        if products.flags.c_contiguous:
            rows, columns = np.divmod(np.flatnonzero(products >= limits[:, None]), products.shape[1])
        else:
            columns, rows = np.divmod(np.flatnonzero(limits <= products.T), len(products))
        waiting = self._pending.setdefault(top, [])
        waiting.append((rows, columns + left, products[rows, columns]))
        if sum(len(found) for found, _, _ in waiting) > PENDING:
            self._sort(top)

    def sorted(self) -> tuple[np.ndarray, np.ndarray]:
        """The scores and positions (num, width), best first."""
        for top in self._pending:
            self._sort(top)
        return self._scores, self._positions

    def _sort(self, top: int) -> None:
        """Puts what waits for the rows of a tile in its place."""
        part = slice(top, top + TILE)
        scores, positions, limits = self._scores[part], self._positions[part], self._limits[part]
        num, width = scores.shape
        own = np.repeat(np.arange(num), width), positions.ravel(), scores.ravel()
        rows, columns, values = (np.concatenate(parts) for parts in zip(own, *self._pending[top], strict=True))
        self._pending[top] = []
        order = np.argsort(rows << 32 | (sort_keys(values, np.zeros(1, dtype=np.int64)) >> 32) + 2**31)
        first = np.cumsum(np.bincount(rows)) - np.bincount(rows)
        chosen = order[first[:, None] + np.arange(width)]
        scores[:], positions[:] = values[chosen], columns[chosen]
        limits[:] = scores[:, -1]
