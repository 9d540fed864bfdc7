"""The exact nearest vectors of queries in one pass over all vectors, of which a few blocks are in memory at a time."""

from __future__ import annotations

import contextlib
import functools

import numpy as np
from threadpoolctl import ThreadpoolController

from retrieval.evaluation.exact import NEAR_TIE, Items, score_pairs
from retrieval.index.vectors import Vectors

_QUERIES = 256  # rows of a tile of scores
_FEW = 32  # queries whose products take less time than the threads of BLAS wait for each other, and for those that check the blocks


def nearest(
    queries: np.ndarray,
    vectors: Vectors,
    k: int,
    *,
    ids: np.ndarray | None = None,
    removed: np.ndarray | None = None,
    first: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the k vectors with the largest inner product with each query, in canonical order: score descending, then id ascending.

    A float32 product finds the candidates of each tile of vectors. Those that may be among the first k are scored again in float64,
    so that copies of a vector tie.

    Args:
        queries: (num_queries, dim) float32 unit vectors.
        vectors: The vectors.
        k: Number of neighbours.
        ids: (rows,) The ids, which decide ties; the positions by default.
        removed: (rows,) Which vectors are left out.
        first: The position that the search begins with.

    Returns:
        Positions (num_queries, k), -1 where there are no more, and scores (num_queries, k) float32, -inf there.
    """
    positions = np.full((len(queries), k), -1, dtype=np.int64)
    scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
    limits = np.full(len(queries), -2, dtype=np.float32)  # no score of unit vectors is below
    tops = range(0, len(queries), _QUERIES)
    few = _controller().limit(limits=1, user_api="blas") if len(queries) <= _FEW else contextlib.nullcontext()
    with few, np.errstate(over="ignore", invalid="ignore"):  # of rows in a forged file, which may be of any length
        for start, tile in vectors.tiles(first):
            gone = None if removed is None else removed[start : start + len(tile)]
            for part in (slice(top, top + _QUERIES) for top in tops):
                rows, columns = _candidates(_products(queries[part], tile, gone), limits[part], k)
                exact = score_pairs(Items(queries[part]), rows, Items(tile), columns)
                _merge(positions[part], scores[part], rows, columns + start, exact, ids)
                limits[part] = np.maximum(limits[part], scores[part][:, -1] - NEAR_TIE)
    return positions, scores


@functools.cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


def _products(queries: np.ndarray, tile: np.ndarray, gone: np.ndarray | None) -> np.ndarray:
    """The float32 products of queries and vectors; -inf for those that are left out."""
    products = queries @ tile.T
    if gone is not None:
        products[:, gone] = -np.inf
    return products


def _candidates(products: np.ndarray, limits: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows and columns of the products that may be among the first k of their row."""
    passing = products >= limits[:, None]
    for row in np.flatnonzero(np.count_nonzero(passing, axis=1) > 4 * k + 64):
        least = np.partition(products[row], -k)[-k] - NEAR_TIE if k < products.shape[1] else limits[row]
        passing[row] = products[row] >= max(least, limits[row])
    rows, columns = np.nonzero(passing)
    return rows, columns


def _merge(
    positions: np.ndarray,
    scores: np.ndarray,
    rows: np.ndarray,
    found: np.ndarray,
    found_scores: np.ndarray,
    ids: np.ndarray | None,
) -> None:
    """Puts what was found for some rows in its place among the first k, in place. `rows` ascend."""
    k = positions.shape[1]
    if not len(rows):
        return
    different, starts = np.unique(rows, return_index=True)
    for row, start, stop in zip(different, starts, [*starts[1:], len(rows)], strict=True):
        everything = np.concatenate([positions[row][positions[row] >= 0], found[start:stop]])
        values = np.concatenate([scores[row][positions[row] >= 0], found_scores[start:stop]])
        order = np.lexsort((everything if ids is None else ids[everything], -values))[:k]
        positions[row, : len(order)], scores[row, : len(order)] = everything[order], values[order]
