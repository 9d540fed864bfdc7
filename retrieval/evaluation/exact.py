"""Scores that do not depend on the position of a vector in an array, and the canonical order of these scores.

In a float32 matrix product the last bits of a score depend on its position: two copies of one vector may differ by about 1e-7.
Scores that differ by less than this error are computed again here, in float64 and rounded to float32. Copies of one vector then
tie exactly.
"""

from __future__ import annotations

from threading import Lock

import numpy as np

# Twice the largest error of a float32 inner product of unit vectors, plus a margin; 8e-7 was measured up to 2,048 dimensions.
NEAR_TIE = 4e-6
# Numbers in memory at a time where single pairs are scored in float64: they fit the processor's cache.
RESCORED_NUMBERS = 2**18
# Query-item pairs in memory at a time where queries are scored against all items, at about 30 bytes a pair.
EXACT_PAIRS = 2**23


class Items:
    """Vectors in a given order. Vectors of a file (np.memmap) are read on access; others are copied once, if reordered.

    Args:
        vectors: (num, dim) float32.
        order: (num_items,) positions of the items in `vectors`; by default all vectors in their order.
    """

    def __init__(self, vectors: np.ndarray, order: np.ndarray | None = None) -> None:
        self.on_disk = is_on_disk(vectors)
        self._vectors = vectors if self.on_disk or order is None else vectors[order]
        self._order = order if self.on_disk else None
        self.shape = (len(vectors) if order is None else len(order), vectors.shape[1])
        self._distinct: tuple[np.ndarray, np.ndarray] | None = None
        self._lock = Lock()

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        """Returns some of the vectors, contiguous, in memory."""
        part = self._vectors[rows] if self._order is None else self._vectors[self._order[rows]]
        return np.asarray(part)

    def part(self, rows: slice) -> Items:
        """Returns some of the items; those of a file are still read on access."""
        if self._order is None:
            return Items(self._vectors[rows])
        return Items(self._vectors, self._order[rows])

    @property
    def distinct(self) -> tuple[np.ndarray, np.ndarray]:
        """The positions of the distinct vectors, and the index of each item's vector among them. Reads a whole file at once.

        Computed once, also if several threads ask for it.
        """
        with self._lock:
            if self._distinct is None:
                vectors = self._vectors if self._order is None else self._vectors[self._order]
                as_bytes = np.ascontiguousarray(vectors).view(np.dtype((np.void, vectors.itemsize * vectors.shape[1])))
                _, first, inverse = np.unique(as_bytes.ravel(), return_index=True, return_inverse=True)
                self._distinct = first, inverse
            return self._distinct


def is_on_disk(vectors: np.ndarray) -> bool:
    """Whether the vectors are a np.memmap or a view of one."""
    owner: object = vectors
    while isinstance(owner, np.ndarray) and not isinstance(owner, np.memmap):
        owner = owner.base
    return isinstance(owner, np.memmap)


def score_pairs(queries: Items, rows: np.ndarray, items: Items, positions: np.ndarray) -> np.ndarray:
    """Returns the exact scores (num_pairs,) float32 of pairs of a query and an item."""
    scores = np.empty(len(rows), dtype=np.float32)
    size = max(1, RESCORED_NUMBERS // items.shape[1])
    for start in range(0, len(rows), size):
        pairs = slice(start, start + size)
        # Not a matrix product: this sums every pair in the same order, so that copies get the same score.
        products = queries[rows[pairs]].astype(np.float64) * items[positions[pairs]]
        scores[pairs] = products.sum(axis=1)
    return scores


def score_everything(queries: np.ndarray, items: Items) -> np.ndarray:
    """Returns the exact scores (num_queries, num_items) float32. Each distinct vector is scored once, so that copies tie."""
    first, inverse = items.distinct
    scores = np.empty((len(queries), len(first)), dtype=np.float32)
    queries = queries.astype(np.float64)
    for start in range(0, len(first), 4096):
        tile = slice(start, start + 4096)
        scores[:, tile] = queries @ items[first[tile]].astype(np.float64).T
    return scores[:, inverse]


def sort_keys(scores: np.ndarray, id_ranks: np.ndarray) -> np.ndarray:
    """Returns one int64 for each pair; ascending keys are the canonical order: score descending, then id ascending.

    The lower 32 bits of a key are the rank of the id. Sorting keys is much faster than sorting by score and id in turn.
    """
    bits = (scores + np.float32(0)).view(np.int32)  # adding 0 makes -0.0 tie with 0.0
    # The bits of positive floats ascend with their values, those of negative floats descend.
    ascending = np.where(bits < 0, bits ^ np.int32(0x7FFFFFFF), bits)
    return (~ascending).astype(np.int64) << 32 | id_ranks
