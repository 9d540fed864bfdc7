"""The nearest neighbours of queries in a gallery: exact inner products, in an order that ties cannot change.

faiss finds the candidates with float32 products, whose last bits depend on the position in a block: two copies of one
vector may differ by some 1e-7. Whatever comes nearer together than that is scored again in float64, rounded to float32, and
put in order: score descending, then id ascending. Where ties run past the last candidate, the whole gallery is scored so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from retrieval.evaluation.arrays import check_ids, check_unit_vectors, check_whole_numbers

# Twice the largest error of a float32 inner product of unit vectors (8e-7 measured up to 2,048 dimensions), and a margin.
NEAR_TIE = 4e-6
# Candidates beyond the k-th: chance near ties at the boundary end within these.
SLACK = 8
# faiss leaves BLAS, and becomes ten times slower, where queries x dimension of a call is below this.
BLAS_THRESHOLD = 128_000
# Query-candidate pairs held at a time: bounds the working memory, at some 60 bytes a pair.
MAX_PAIRS = 2**21
# The same for the float64 products of near ties, in numbers: small enough for the processor's cache.
RESCORED_NUMBERS = 2**18


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The nearest neighbours of queries, best first.

    Args:
        ids: (num_queries, k) int64; -1 where the gallery has no more.
        scores: (num_queries, k) float32 inner products; -inf where the gallery has no more.
    """

    ids: np.ndarray
    scores: np.ndarray


def search(
    queries: np.ndarray,
    gallery: np.ndarray,
    k: int,
    *,
    query_ids: np.ndarray | None = None,
    gallery_ids: np.ndarray | None = None,
) -> Neighbours:
    """Finds the k gallery vectors with the largest inner product with each query.

    Args:
        queries: (num_queries, dim) float32 unit vectors.
        gallery: (num_items, dim) float32 unit vectors, at least one.
        k: number of neighbours; may exceed the gallery.
        query_ids: (num_queries,) whole numbers. The gallery item with the query's own id is left out; nothing is left out
            without them.
        gallery_ids: (num_items,) whole numbers from 0, none twice; the positions if left out.

    Returns:
        Neighbours in canonical order: score descending, then id ascending. A score is the float32 product or, where another
        is nearer than its rounding, the float64 product rounded to float32.
        Copies of one vector always tie.

    Raises:
        ValueError: anything above does not hold.
    """
    blocks = list(search_in_blocks(queries, gallery, k, query_ids=query_ids, gallery_ids=gallery_ids))
    return Neighbours(
        np.concatenate([block.ids for block in blocks]), np.concatenate([block.scores for block in blocks])
    )


def search_in_blocks(
    queries: np.ndarray,
    gallery: np.ndarray,
    k: int,
    *,
    query_ids: np.ndarray | None = None,
    gallery_ids: np.ndarray | None = None,
) -> Iterator[Neighbours]:
    """The same as `search`, some queries at a time and in their order, so that memory stays bounded."""
    queries = check_unit_vectors("queries", queries)
    gallery = check_unit_vectors("gallery", gallery)
    if len(gallery) == 0:
        raise ValueError("gallery has no vectors, expected at least one")
    if queries.shape[1] != gallery.shape[1]:
        raise ValueError(
            f"queries have {queries.shape[1]} dimensions and the gallery {gallery.shape[1]}; embed both alike"
        )
    if k < 1:
        raise ValueError(f"k is {k}, expected at least 1")
    ids = np.arange(len(gallery)) if gallery_ids is None else check_ids("gallery_ids", gallery_ids, len(gallery))
    own_ids = None
    if query_ids is not None:
        own_ids = check_whole_numbers("query_ids", query_ids, len(queries))
    return _blocks(queries, _Gallery(gallery, ids), k, own_ids)


def _blocks(queries: np.ndarray, gallery: _Gallery, k: int, own_ids: np.ndarray | None) -> Iterator[Neighbours]:
    width = min(k + 1 + SLACK, len(gallery.ids))
    fewest = -(-BLAS_THRESHOLD // queries.shape[1])
    size = max(fewest, MAX_PAIRS // width)
    for rows in np.array_split(np.arange(len(queries)), max(1, len(queries) // size)):
        yield gallery.nearest(queries[rows], k, None if own_ids is None else own_ids[rows])


class _Gallery:
    """Checked vectors and ids, and what searching them takes."""

    def __init__(self, vectors: np.ndarray, ids: np.ndarray) -> None:
        import faiss

        self.vectors = vectors
        self.ids = ids
        self.index = faiss.IndexFlatIP(vectors.shape[1])
        self.index.add(vectors)

    @cached_property
    def id_ranks(self) -> np.ndarray:
        ranks = np.empty(len(self.ids), dtype=np.int64)
        ranks[np.argsort(self.ids)] = np.arange(len(self.ids))
        return ranks

    @cached_property
    def distinct(self) -> tuple[np.ndarray, np.ndarray]:
        """The positions of the distinct vectors, and which of them each vector is."""
        as_bytes = self.vectors.view(np.dtype((np.void, self.vectors.itemsize * self.vectors.shape[1])))
        _, first, inverse = np.unique(as_bytes.ravel(), return_index=True, return_inverse=True)
        return first, inverse

    def nearest(self, queries: np.ndarray, k: int, own_ids: np.ndarray | None) -> Neighbours:
        """The k nearest of every query, of faiss's candidates where these suffice."""
        width = min(k + 1 + SLACK, len(self.ids))
        scores, positions = self.index.search(queries, width)
        worst = scores[:, -1].copy()
        self._rescore_near_ties(queries, scores, positions)
        found = self._in_order(scores, positions, k, own_ids)
        if width == len(self.ids):
            return found
        # What faiss left out may belong among the first k only if the worst candidate nearly ties with the k-th.
        undecided = np.flatnonzero(worst >= found.scores[:, -1] - NEAR_TIE)
        size = max(1, MAX_PAIRS // len(self.ids))
        for start in range(0, len(undecided), size):
            rows = undecided[start : start + size]
            everything = np.broadcast_to(np.arange(len(self.ids)), (len(rows), len(self.ids)))
            own = None if own_ids is None else own_ids[rows]
            exact = self._in_order(self._score_everything(queries[rows]), everything, k, own)
            found.ids[rows], found.scores[rows] = exact.ids, exact.scores
        return found

    def _rescore_near_ties(self, queries: np.ndarray, scores: np.ndarray, positions: np.ndarray) -> None:
        """Replaces, in place, the scores that differ little from the next better or worse one."""
        near = scores[:, :-1] - scores[:, 1:] < NEAR_TIE
        nothing = np.zeros((len(scores), 1), dtype=bool)
        rows, columns = np.nonzero(np.hstack([near, nothing]) | np.hstack([nothing, near]))
        items = positions[rows, columns]
        size = max(1, RESCORED_NUMBERS // queries.shape[1])
        for first in range(0, len(rows), size):
            pairs = slice(first, first + size)
            # Not a matrix product: this sums every pair in the same order, so that copies get the same score.
            products = queries[rows[pairs]].astype(np.float64) * self.vectors[items[pairs]]
            scores[rows[pairs], columns[pairs]] = products.sum(axis=1)

    def _score_everything(self, queries: np.ndarray) -> np.ndarray:
        """Scores (num_queries, num_items), each distinct vector scored once, so that copies get the same score."""
        first, inverse = self.distinct
        scores = np.empty((len(queries), len(first)), dtype=np.float32)
        queries = queries.astype(np.float64)
        for start in range(0, len(first), 4096):
            tile = slice(start, start + 4096)
            scores[:, tile] = queries @ self.vectors[first[tile]].astype(np.float64).T
        return scores[:, inverse]

    def _in_order(self, scores: np.ndarray, positions: np.ndarray, k: int, own_ids: np.ndarray | None) -> Neighbours:
        """The first k candidates (num_queries, num_candidates) in canonical order, without the queries' own ids."""
        ids = self.ids[positions]
        if own_ids is not None:
            scores[ids == own_ids[:, None]] = -np.inf
        order = np.argsort(_sort_keys(scores, self.id_ranks[positions]), axis=1)[:, :k]
        found = Neighbours(np.full((len(scores), k), -1), np.full((len(scores), k), -np.inf, dtype=np.float32))
        found.scores[:, : order.shape[1]] = np.take_along_axis(scores, order, axis=1)
        found.ids[:, : order.shape[1]] = np.take_along_axis(ids, order, axis=1)
        found.ids[found.scores == -np.inf] = -1
        return found


def _sort_keys(scores: np.ndarray, id_ranks: np.ndarray) -> np.ndarray:
    """One int64 a pair that ascends in canonical order: much faster to sort by than by score and id in turn."""
    bits = (scores + np.float32(0)).view(np.int32)  # adding 0 makes -0.0 tie with 0.0
    ascending = np.where(
        bits < 0, bits ^ np.int32(0x7FFFFFFF), bits
    )  # negative floats have their bits the other way round
    return (~ascending).astype(np.int64) << 32 | id_ranks
