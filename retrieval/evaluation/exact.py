"""Scores that do not depend on where a vector stands: float64 products, rounded to float32, and the order that they give.

A float32 product of a block has last bits that depend on the position in it: two copies of one vector may differ by some 1e-7.
Whatever comes nearer together than that is scored again here, and copies of one vector tie.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

# Twice the largest error of a float32 inner product of unit vectors (8e-7 measured up to 2,048 dimensions), and a margin.
NEAR_TIE = 4e-6
# Numbers of the float64 products of single pairs held at a time: small enough for the processor's cache.
RESCORED_NUMBERS = 2**18
# Query-item pairs held at a time where queries are scored against everything, at some 30 bytes a pair.
EXACT_PAIRS = 2**23


class Items:
    """Vectors in an order of their own. Those of a file (np.memmap) are read when asked for, others are copied once.

    Args:
        vectors: (num, dim) float32.
        order: (num_items,) their positions; all as they are if left out.
    """

    def __init__(self, vectors: np.ndarray, order: np.ndarray | None = None) -> None:
        self.on_disk = is_on_disk(vectors)
        self._vectors = vectors if self.on_disk or order is None else vectors[order]
        self._order = order if self.on_disk else None
        self.shape = (len(vectors) if order is None else len(order), vectors.shape[1])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        """Some of the vectors, contiguous, in memory."""
        found = self._vectors[rows] if self._order is None else self._vectors[self._order[rows]]
        return np.asarray(found)

    def part(self, rows: slice) -> Items:
        """Some of the vectors, read when asked for as these are."""
        if self._order is None:
            return Items(self._vectors[rows])
        return Items(self._vectors, self._order[rows])

    @cached_property
    def distinct(self) -> tuple[np.ndarray, np.ndarray]:
        """The positions of the distinct vectors, and which of them each vector is. Reads all of a file at once."""
        vectors = self._vectors if self._order is None else self._vectors[self._order]
        as_bytes = np.ascontiguousarray(vectors).view(np.dtype((np.void, vectors.itemsize * vectors.shape[1])))
        _, first, inverse = np.unique(as_bytes.ravel(), return_index=True, return_inverse=True)
        return first, inverse


def is_on_disk(vectors: np.ndarray) -> bool:
    """Whether the vectors, or what they are a view of, are those of a file."""
    owner: object = vectors
    while isinstance(owner, np.ndarray) and not isinstance(owner, np.memmap):
        owner = owner.base
    return isinstance(owner, np.memmap)


def score_pairs(queries: Items, rows: np.ndarray, items: Items, positions: np.ndarray) -> np.ndarray:
    """The scores (num_pairs,) float32 of pairs of a query and an item."""
    scores = np.empty(len(rows), dtype=np.float32)
    size = max(1, RESCORED_NUMBERS // items.shape[1])
    for start in range(0, len(rows), size):
        pairs = slice(start, start + size)
        # Not a matrix product: this sums every pair in the same order, so that copies get the same score.
        products = queries[rows[pairs]].astype(np.float64) * items[positions[pairs]]
        scores[pairs] = products.sum(axis=1)
    return scores


def score_everything(queries: np.ndarray, items: Items) -> np.ndarray:
    """The scores (num_queries, num_items) float32: each distinct vector is scored once, so that copies get the same score."""
    first, inverse = items.distinct
    scores = np.empty((len(queries), len(first)), dtype=np.float32)
    queries = queries.astype(np.float64)
    for start in range(0, len(first), 4096):
        tile = slice(start, start + 4096)
        scores[:, tile] = queries @ items[first[tile]].astype(np.float64).T
    return scores[:, inverse]


def sort_keys(scores: np.ndarray, id_ranks: np.ndarray) -> np.ndarray:
    """One int64 a pair that ascends in canonical order, score descending, then id ascending; the id's rank is in its lower half.

    Sorting by it is much faster than by score and id in turn.
    """
    bits = (scores + np.float32(0)).view(np.int32)  # adding 0 makes -0.0 tie with 0.0
    ascending = np.where(
        bits < 0, bits ^ np.int32(0x7FFFFFFF), bits
    )  # negative floats have their bits the other way round
    return (~ascending).astype(np.int64) << 32 | id_ranks
