"""The nearest neighbours of queries in a gallery by exact inner products, in an order that does not depend on ties.

faiss, or torch if faiss is not installed, finds candidates by float32 products. Candidates whose scores differ by less than the
rounding error are scored again by `exact`, and sorted by score descending, then id ascending. If such near ties extend beyond the
last candidate, `exact` scores the whole gallery.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from retrieval.evaluation.arrays import check_ids, check_k, check_unit_vectors, check_whole_numbers
from retrieval.evaluation.exact import NEAR_TIE, Items, score_everything, score_pairs, sort_keys

# Candidates beyond the k-th: near ties by chance at the k-th end within these.
SLACK = 8
# faiss stops using BLAS, and becomes ten times slower, if queries x dimension of a call is below this.
BLAS_THRESHOLD = 128_000
# Query-candidate pairs in memory at a time: limits the working memory, at about 60 bytes a pair.
MAX_PAIRS = 2**21
# Rows and columns of the scores that torch searches at one time.
TORCH_ROWS, TORCH_COLUMNS = 1024, 8192


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The nearest neighbours of queries, best first.

    Args:
        ids: (num_queries, k) int64; -1 where the gallery has no more items.
        scores: (num_queries, k) float32 inner products; -inf where the gallery has no more items.
        positions: (num_queries, k) int64, the rows of the gallery; -1 where the gallery has no more items.
    """

    ids: np.ndarray
    scores: np.ndarray
    positions: np.ndarray


def search(
    queries: np.ndarray,
    gallery: np.ndarray,
    k: int,
    *,
    query_ids: np.ndarray | None = None,
    gallery_ids: np.ndarray | None = None,
    engine: str = "auto",
) -> Neighbours:
    """Finds the k gallery vectors with the largest inner product with each query. See `Gallery` for many calls.

    Args:
        queries: (num_queries, dim) float32 unit vectors.
        gallery: see `vectors` of `Gallery`.
        k: number of neighbours; may exceed the size of the gallery.
        query_ids: (num_queries,) whole numbers. The gallery item with a query's own id is left out of its neighbours. Without
            them no item is left out.
        gallery_ids: see `ids` of `Gallery`.
        engine: see `Gallery`.

    Returns:
        Neighbours in canonical order: score descending, then id ascending. A score is the float32 product, or the float64
        product rounded to float32 if another score differs by less than the error of float32. Copies of one vector always tie.

    Raises:
        ValueError: an argument is not as described.
    """
    found = search_in_blocks(queries, gallery, k, query_ids=query_ids, gallery_ids=gallery_ids, engine=engine)
    return concatenate(list(found))


def search_in_blocks(
    queries: np.ndarray,
    gallery: np.ndarray,
    k: int,
    *,
    query_ids: np.ndarray | None = None,
    gallery_ids: np.ndarray | None = None,
    engine: str = "auto",
) -> Iterator[Neighbours]:
    """Like `search`, but yields the neighbours of consecutive blocks of queries, which limits the memory."""
    vectors, ids = _check_gallery(gallery, gallery_ids, engine, "gallery", "gallery_ids")
    queries, k, own_ids = _check_queries(queries, k, query_ids, gallery.shape[1])
    return nearest_in_blocks(Items(queries), Items(vectors), k, ids=ids, own_ids=own_ids, engine=engine)


def nearest_in_blocks(
    queries: Items, gallery: Items, k: int, *, ids: np.ndarray, own_ids: np.ndarray | None, engine: str = "auto"
) -> Iterator[Neighbours]:
    """Like `search_in_blocks`, for arguments that are checked already. Starts when the first block is requested."""
    yield from Gallery._from_checked(gallery, ids, engine)._nearest_in_blocks(queries, k, own_ids)


class Gallery:
    """A gallery that is checked once and searched many times, also from several threads.

    It keeps a reference to `vectors`; do not change them while it is in use. faiss holds a copy as well.

    Args:
        vectors: (num_items, dim) float32 unit vectors, at least one. Vectors of a file (np.memmap) are read in parts, by torch.
        ids: (num_items,) different whole numbers from 0; the positions by default.
        engine: "faiss", "torch" or "auto". "auto" is "torch" if faiss is not installed, for a np.memmap, and on macOS, where
            faiss and torch may crash one another because each brings its own OpenMP. The engines return the same neighbours.

    Raises:
        ValueError: an argument is not as described.

    Examples:
        >>> import numpy as np
        >>> from retrieval.evaluation import Gallery
        >>> gallery = Gallery(np.eye(3, dtype=np.float32), ids=np.array([10, 20, 30]))
        >>> found = gallery.search(np.array([[0.6, 0.8, 0]], dtype=np.float32), k=2)
        >>> found.ids.tolist(), found.positions.tolist()
        ([[20, 10]], [[1, 0]])
    """

    def __init__(self, vectors: np.ndarray, *, ids: np.ndarray | None = None, engine: str = "auto") -> None:
        vectors, ids = _check_gallery(vectors, ids, engine, "vectors", "ids")
        self._prepare(Items(vectors), ids, engine)

    @classmethod
    def _from_checked(cls, items: Items, ids: np.ndarray, engine: str) -> Gallery:
        """Makes a gallery of items, ids and an engine that are checked already."""
        gallery = cls.__new__(cls)
        gallery._prepare(items, ids, engine)
        return gallery

    def _prepare(self, items: Items, ids: np.ndarray, engine: str) -> None:
        if engine == "auto":
            unsafe = sys.platform == "darwin" or importlib.util.find_spec("faiss") is None
            engine = "torch" if unsafe or items.on_disk else "faiss"
        self._items = items
        self._ids = ids
        self._id_ranks = np.argsort(np.argsort(ids))
        self._candidates = _faiss_candidates(items) if engine == "faiss" else _torch_candidates(items)

    def __len__(self) -> int:
        return len(self._items)

    def search(self, queries: np.ndarray, k: int, *, query_ids: np.ndarray | None = None) -> Neighbours:
        """Finds the k nearest items of each query. The function `search` describes the arguments, the result and the errors.

        Only the queries are checked. Apart from the product of the queries and the vectors, the work does not depend on the size
        of the gallery. The exception are near ties that extend beyond the last candidate, e.g. of many copies of one vector.
        """
        return concatenate(list(self.search_in_blocks(queries, k, query_ids=query_ids)))

    def search_in_blocks(
        self, queries: np.ndarray, k: int, *, query_ids: np.ndarray | None = None
    ) -> Iterator[Neighbours]:
        """Like `search`, but yields the neighbours of consecutive blocks of queries, which limits the memory."""
        queries, k, own_ids = _check_queries(queries, k, query_ids, self._items.shape[1])
        return self._nearest_in_blocks(Items(queries), k, own_ids)

    def _nearest_in_blocks(self, queries: Items, k: int, own_ids: np.ndarray | None) -> Iterator[Neighbours]:
        """Like `search_in_blocks`, for arguments that are checked already."""
        width = min(k + 1 + SLACK, len(self))
        size = max(-(-BLAS_THRESHOLD // queries.shape[1]), MAX_PAIRS // width)
        bounds = [0, len(queries)]
        if len(queries) >= 2 * size:
            bounds = np.linspace(0, len(queries), len(queries) // size + 1).astype(int).tolist()
        for start, stop in pairwise(bounds):
            rows = slice(start, stop)
            yield self._nearest(Items(queries[rows]), k, None if own_ids is None else own_ids[rows])

    def _nearest(self, queries: Items, k: int, own_ids: np.ndarray | None) -> Neighbours:
        """Returns the k nearest items of each query: from the candidates if these suffice, else from all items."""
        return self._chosen(queries, *self._candidates(queries[:], min(k + 1 + SLACK, len(self))), k, own_ids)

    def _chosen(
        self, queries: Items, scores: np.ndarray, positions: np.ndarray, k: int, own_ids: np.ndarray | None
    ) -> Neighbours:
        """Returns the k nearest items of each query, given its candidates (num_queries, width), best first."""
        width = scores.shape[1]
        worst = scores[:, -1].copy()
        self._rescore_near_ties(queries, scores, positions)
        found = self._in_order(scores, positions, k, own_ids)
        if width == len(self):
            return found
        # An item that is no candidate may be among the first k only if the worst candidate nearly ties with the k-th.
        undecided = np.flatnonzero(worst >= found.scores[:, -1] - NEAR_TIE)
        size = max(1, MAX_PAIRS // len(self))
        for start in range(0, len(undecided), size):
            rows = undecided[start : start + size]
            everything = np.broadcast_to(np.arange(len(self)), (len(rows), len(self)))
            own = None if own_ids is None else own_ids[rows]
            exact = self._in_order(score_everything(queries[rows], self._items), everything, k, own)
            found.ids[rows], found.scores[rows], found.positions[rows] = exact.ids, exact.scores, exact.positions
        return found

    def _rescore_near_ties(self, queries: Items, scores: np.ndarray, positions: np.ndarray) -> None:
        """Replaces, in place, the scores that nearly tie with the next better or the next worse one by exact scores."""
        ties = scores[:, :-1] - scores[:, 1:] < NEAR_TIE
        if not ties.any():
            return
        near = np.zeros(scores.shape, dtype=bool)
        near[:, :-1] |= ties
        near[:, 1:] |= ties
        rows, columns = np.nonzero(near)
        scores[rows, columns] = score_pairs(queries, rows, self._items, positions[rows, columns])

    def _in_order(self, scores: np.ndarray, positions: np.ndarray, k: int, own_ids: np.ndarray | None) -> Neighbours:
        """Returns the first k of some items (num_queries, num_candidates) in canonical order, without the queries' own ids."""
        if own_ids is not None:
            scores[self._ids[positions] == own_ids[:, None]] = -np.inf
        order = np.argsort(sort_keys(scores, self._id_ranks[positions]), axis=1)[:, :k]
        scores = np.take_along_axis(scores, order, axis=1)
        positions = np.take_along_axis(positions, order, axis=1)
        found = Neighbours(self._ids[positions], scores, positions)
        if scores.size and scores.min() == -np.inf:
            found.ids[scores == -np.inf] = found.positions[scores == -np.inf] = -1
        return _pad(found, k)


def _pad(found: Neighbours, k: int) -> Neighbours:
    """Fills the neighbours up to k of each query, as if the gallery had no more items."""
    num_queries, width = found.ids.shape
    if width == k:
        return found
    missing = np.full((num_queries, k - width), -1)
    scores = np.full(missing.shape, -np.inf, dtype=np.float32)
    return Neighbours(
        np.hstack([found.ids, missing]), np.hstack([found.scores, scores]), np.hstack([found.positions, missing])
    )


def concatenate(blocks: list[Neighbours]) -> Neighbours:
    """The neighbours of consecutive blocks of queries as one."""
    if len(blocks) == 1:
        return blocks[0]
    return Neighbours(
        np.concatenate([block.ids for block in blocks]),
        np.concatenate([block.scores for block in blocks]),
        np.concatenate([block.positions for block in blocks]),
    )


def _check_gallery(
    vectors: np.ndarray, ids: np.ndarray | None, engine: str, vectors_name: str, ids_name: str
) -> tuple[np.ndarray, np.ndarray]:
    vectors = check_unit_vectors(vectors_name, vectors)
    if len(vectors) == 0:
        raise ValueError("the gallery has no vectors, expected at least one")
    if engine not in ("auto", "faiss", "torch"):
        raise ValueError(f"engine is {engine!r}, expected auto, faiss or torch")
    return vectors, np.arange(len(vectors)) if ids is None else check_ids(ids_name, ids, len(vectors))


def _check_queries(
    queries: np.ndarray, k: int, query_ids: np.ndarray | None, dimension: int
) -> tuple[np.ndarray, int, np.ndarray | None]:
    queries = check_unit_vectors("queries", queries)
    if queries.shape[1] != dimension:
        raise ValueError(
            f"queries have {queries.shape[1]} dimensions and the gallery {dimension}; use one model for both"
        )
    own_ids = None if query_ids is None else check_whole_numbers("query_ids", query_ids, len(queries))
    return queries, check_k(k), own_ids


# Finds, for queries (num_queries, dim) and a width, the scores and positions (num_queries, width) of the nearest items, best first.
Candidates = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]


def _faiss_candidates(items: Items) -> Candidates:
    import faiss

    index = faiss.IndexFlatIP(items.shape[1])
    index.add(np.asarray(items[:]))
    return lambda queries, width: index.search(np.asarray(queries), width)


def _torch_candidates(items: Items) -> Candidates:
    import torch

    def find(queries: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
        scores = torch.full((len(queries), width), -torch.inf)
        positions = torch.zeros((len(queries), width), dtype=torch.int64)
        for left in range(0, len(items), TORCH_COLUMNS):
            columns = torch.from_numpy(_writable(items[left : left + TORCH_COLUMNS])).T
            for top in range(0, len(queries), TORCH_ROWS):
                rows = slice(top, top + TORCH_ROWS)
                tile = torch.from_numpy(_writable(queries[rows])) @ columns
                best, where = tile.topk(min(width, tile.shape[1]), dim=1)
                best = torch.cat([scores[rows], best], dim=1)
                where = torch.cat([positions[rows], where + left], dim=1)
                scores[rows], chosen = best.topk(width, dim=1)
                positions[rows] = where.gather(1, chosen)
        return scores.numpy(), positions.numpy()

    return find


def _writable(vectors: np.ndarray) -> np.ndarray:
    """Returns the vectors, or a copy if they are read-only, of which torch would warn."""
    return vectors if vectors.flags.writeable else vectors.copy()
