"""The nearest neighbours of queries in a gallery: exact inner products, in an order that ties cannot change.

faiss, or torch where faiss is missing, finds the candidates with float32 products. Of those nearer together than the rounding of
these, `exact` decides: score descending, then id ascending. Where ties run past the last candidate, the whole gallery is scored
so.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

from retrieval.evaluation.arrays import check_ids, check_unit_vectors, check_whole_numbers
from retrieval.evaluation.exact import NEAR_TIE, Items, score_everything, score_pairs, sort_keys

# Candidates beyond the k-th: chance near ties at the boundary end within these.
SLACK = 8
# faiss leaves BLAS, and becomes ten times slower, where queries x dimension of a call is below this.
BLAS_THRESHOLD = 128_000
# Query-candidate pairs held at a time: bounds the working memory, at some 60 bytes a pair.
MAX_PAIRS = 2**21
# Rows and columns of the scores that torch searches at one time.
TORCH_ROWS, TORCH_COLUMNS = 1024, 8192


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
    engine: str = "auto",
) -> Neighbours:
    """Finds the k gallery vectors with the largest inner product with each query.

    Args:
        queries: (num_queries, dim) float32 unit vectors.
        gallery: (num_items, dim) float32 unit vectors, at least one. Those of a file (np.memmap) are searched by torch, in parts.
        k: number of neighbours; may exceed the gallery.
        query_ids: (num_queries,) whole numbers. The gallery item with the query's own id is left out; nothing is left out
            without them.
        gallery_ids: (num_items,) whole numbers from 0, none twice; the positions if left out.
        engine: "faiss", "torch", or "auto", which is torch where faiss is not installed and on macOS, where faiss and torch may
            crash one another (each brings its own OpenMP). They find the same.

    Returns:
        Neighbours in canonical order: score descending, then id ascending. A score is the float32 product or, where another
        is nearer than its rounding, the float64 product rounded to float32.
        Copies of one vector always tie.

    Raises:
        ValueError: anything above does not hold.
    """
    blocks = list(search_in_blocks(queries, gallery, k, query_ids=query_ids, gallery_ids=gallery_ids, engine=engine))
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
    engine: str = "auto",
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
    if engine not in ("auto", "faiss", "torch"):
        raise ValueError(f"engine is {engine!r}, expected auto, faiss or torch")
    ids = np.arange(len(gallery)) if gallery_ids is None else check_ids("gallery_ids", gallery_ids, len(gallery))
    own_ids = None
    if query_ids is not None:
        own_ids = check_whole_numbers("query_ids", query_ids, len(queries))
    return nearest_in_blocks(Items(queries), Items(gallery), k, ids=ids, own_ids=own_ids, engine=engine)


def nearest_in_blocks(
    queries: Items, gallery: Items, k: int, *, ids: np.ndarray, own_ids: np.ndarray | None, engine: str = "auto"
) -> Iterator[Neighbours]:
    """The same of what is checked already."""
    if engine == "auto":
        unsafe = sys.platform == "darwin" or importlib.util.find_spec("faiss") is None
        engine = "torch" if unsafe or gallery.on_disk else "faiss"
    searched = _Gallery(gallery, ids, engine)
    width = min(k + 1 + SLACK, len(ids))
    fewest = -(-BLAS_THRESHOLD // queries.shape[1])
    size = max(fewest, MAX_PAIRS // width)
    bounds = np.linspace(0, len(queries), max(1, len(queries) // size) + 1).astype(int)
    for start, stop in pairwise(bounds.tolist()):
        rows = slice(start, stop)
        yield searched.nearest(Items(queries[rows]), k, None if own_ids is None else own_ids[rows])


class _Gallery:
    """Checked vectors and ids, and what searching them takes."""

    def __init__(self, items: Items, ids: np.ndarray, engine: str) -> None:
        self.items = items
        self.ids = ids
        self.candidates = _faiss_candidates(items) if engine == "faiss" else _torch_candidates(items)

    @cached_property
    def id_ranks(self) -> np.ndarray:
        return np.argsort(np.argsort(self.ids))

    def nearest(self, queries: Items, k: int, own_ids: np.ndarray | None) -> Neighbours:
        """The k nearest of every query, of the candidates where these suffice."""
        width = min(k + 1 + SLACK, len(self.ids))
        scores, positions = self.candidates(queries[:], width)
        worst = scores[:, -1].copy()
        self._rescore_near_ties(queries, scores, positions)
        found = self._in_order(scores, positions, k, own_ids)
        if width == len(self.ids):
            return found
        # What is no candidate may belong among the first k only if the worst candidate nearly ties with the k-th.
        undecided = np.flatnonzero(worst >= found.scores[:, -1] - NEAR_TIE)
        size = max(1, MAX_PAIRS // len(self.ids))
        for start in range(0, len(undecided), size):
            rows = undecided[start : start + size]
            everything = np.broadcast_to(np.arange(len(self.ids)), (len(rows), len(self.ids)))
            own = None if own_ids is None else own_ids[rows]
            exact = self._in_order(score_everything(queries[rows], self.items), everything, k, own)
            found.ids[rows], found.scores[rows] = exact.ids, exact.scores
        return found

    def _rescore_near_ties(self, queries: Items, scores: np.ndarray, positions: np.ndarray) -> None:
        """Replaces, in place, the scores that differ little from the next better or worse one."""
        near = scores[:, :-1] - scores[:, 1:] < NEAR_TIE
        nothing = np.zeros((len(scores), 1), dtype=bool)
        rows, columns = np.nonzero(np.hstack([near, nothing]) | np.hstack([nothing, near]))
        scores[rows, columns] = score_pairs(queries, rows, self.items, positions[rows, columns])

    def _in_order(self, scores: np.ndarray, positions: np.ndarray, k: int, own_ids: np.ndarray | None) -> Neighbours:
        """The first k candidates (num_queries, num_candidates) in canonical order, without the queries' own ids."""
        ids = self.ids[positions]
        if own_ids is not None:
            scores[ids == own_ids[:, None]] = -np.inf
        order = np.argsort(sort_keys(scores, self.id_ranks[positions]), axis=1)[:, :k]
        found = Neighbours(np.full((len(scores), k), -1), np.full((len(scores), k), -np.inf, dtype=np.float32))
        found.scores[:, : order.shape[1]] = np.take_along_axis(scores, order, axis=1)
        found.ids[:, : order.shape[1]] = np.take_along_axis(ids, order, axis=1)
        found.ids[found.scores == -np.inf] = -1
        return found


# Finds, for queries (num_queries, dim) and a width, the scores and positions (num_queries, width) of the nearest items, best first.
Candidates = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]


def _faiss_candidates(items: Items) -> Candidates:
    import faiss

    index = faiss.IndexFlatIP(items.shape[1])
    index.add(items[:])
    return lambda queries, width: index.search(queries, width)


def _torch_candidates(items: Items) -> Candidates:
    import torch

    def find(queries: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
        scores = torch.full((len(queries), width), -torch.inf)
        positions = torch.zeros((len(queries), width), dtype=torch.int64)
        for left in range(0, len(items), TORCH_COLUMNS):
            columns = torch.from_numpy(items[left : left + TORCH_COLUMNS].copy()).T
            for top in range(0, len(queries), TORCH_ROWS):
                rows = slice(top, top + TORCH_ROWS)
                tile = torch.from_numpy(queries[rows].copy()) @ columns
                best, places = tile.topk(min(width, tile.shape[1]), dim=1)
                best = torch.cat([scores[rows], best], dim=1)
                places = torch.cat([positions[rows], places + left], dim=1)
                scores[rows], chosen = best.topk(width, dim=1)
                positions[rows] = places.gather(1, chosen)
        return scores.numpy(), positions.numpy()

    return find
