"""Better rankings from the neighbours of neighbours; none of these needs a model or labels.

expand      alpha query expansion (Radenovic, Tolias, Chum, TPAMI 2019): a query becomes the weighted mean of itself and its
            first neighbours. Of every gallery vector it is database-side augmentation (Arandjelovic, Zisserman, CVPR 2012).
rerank      k-reciprocal re-ranking (Zhong et al., CVPR 2017): neighbours count that have each other among their first k.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from retrieval.evaluation import Neighbours, search
from retrieval.evaluation.all_pairs import search_all_pairs

_BLOCK = 2**24  # numbers in memory at a time, or a part of it
_TILE = 1024  # rows and columns of a tile of products
_FEW = 16  # neighbours are few below this part of all items
_ROUNDING = 1e-5  # of scores, with a margin


def expand(
    queries: np.ndarray,
    gallery: np.ndarray,
    k: int,
    *,
    alpha: float = 3.0,
    own: np.ndarray | None = None,
) -> np.ndarray:
    """The queries moved towards their k nearest gallery vectors, each weighted by its score (if positive) to the power of alpha.

    Args:
        queries: (num_queries, dim) float32 unit vectors; each counts once, with weight 1.
        gallery: (num_items, dim) float32 unit vectors.
        k: neighbours that count; 0 changes nothing.
        alpha: 0 counts all alike.
        own: (num_queries,) the queries' own positions in the gallery, if they have one: it is not counted again.

    Returns:
        (num_queries, dim) float32 unit vectors.

    Raises:
        ValueError: `k` or `alpha` is negative.
    """
    if k < 0 or not 0 <= alpha < np.inf:
        raise ValueError(f"k is {k} and alpha {alpha}; give numbers from 0")
    if k == 0:
        return queries
    found = search(queries, gallery, min(k, len(gallery)), query_ids=own)
    # A score is by rounding a little above 1 at times, of which a high power would be anything.
    scores = found.scores.astype(np.float64).clip(0, 1)
    weights = np.where(found.ids >= 0, scores**alpha, 0).astype(np.float32)
    moved = queries.astype(np.float64)
    for place in range(found.ids.shape[1]):
        moved += weights[:, place, None] * gallery[found.ids[:, place]]
    return (moved / np.linalg.norm(moved, axis=1, keepdims=True)).astype(np.float32)


def rerank(
    queries: np.ndarray,
    gallery: np.ndarray,
    k1: int = 20,
    *,
    k2: int | None = None,
    weight: float = 0.3,
    own: np.ndarray | None = None,
    k: int | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The first items of every query by k-reciprocal re-ranking, some queries at a time and in their order.

    Queries and gallery are one set, as in the paper: what is close to one query may bring another closer. Apart from the search for
    the nearest and the farthest vectors, only neighbours are looked at: an item whose neighbourhood shares nothing with that of the
    query keeps its place among those of which the same is true.

    Args:
        queries: (num_queries, dim) float32 unit vectors.
        gallery: (num_items, dim) float32 unit vectors.
        k1: neighbours of which the reciprocal ones count.
        k2: neighbours over which these are averaged: three tenths of k1, as in the paper, by default; 1 leaves them as they are.
        weight: of the distance of the vectors against that of the neighbourhoods; 1 leaves the ranking as it is.
        own: (num_queries,) the queries' own positions in the gallery, if they are gallery items: these are left out.
        k: number of items for each query; all of them by default.

    Yields:
        (block, k) positions, best first, -1 where there are no more; and float32 scores, higher is closer, -inf there: minus the
        distance of the paper, whose first part is the squared euclidean distance here brought to 0 .. 1 for each query. Of equal
        scores the first position comes first.

    Raises:
        ValueError: a number is out of range.
    """
    k2 = max(1, round(0.3 * k1)) if k2 is None else k2
    if k1 < 1 or k2 < 1 or not 0 <= weight <= 1:
        raise ValueError(f"k1 is {k1}, k2 {k2}, weight {weight}; give k1 and k2 from 1, and a weight from 0 to 1")
    everything = gallery if own is not None else np.concatenate([gallery, queries])
    places = own if own is not None else np.arange(len(gallery), len(everything))
    k = len(gallery) if k is None else min(k, len(gallery))
    return _rerank(queries, gallery, everything, places, k1, k2, weight, k)


def _rerank(
    queries: np.ndarray,
    gallery: np.ndarray,
    everything: np.ndarray,
    places: np.ndarray,
    k1: int,
    k2: int,
    weight: float,
    k: int,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    width = min(max(k1 + 1, k2), len(everything))
    own = places if everything is gallery else None
    itself = np.arange(len(everything))
    found, farthest = _others(everything, max(k if queries is gallery else 1, width - 1))
    near = np.hstack([itself[:, None], found.positions[:, : width - 1]])
    members = _neighbourhoods(everything, near, k1)
    if k2 > 1:
        members = (_average(near[:, :k2]) @ members).tocsr()
    by_member = members[: len(gallery)].T.tocsr()
    plain = found if queries is gallery else search(queries, gallery, k, query_ids=own)
    if queries is not gallery or farthest is None:
        farthest = _farthest(queries, gallery)
    farthest = np.maximum(farthest, 1e-12)
    sums = _Sums(by_member)
    for rows in sums.blocks(members, places):
        shared = sums.shared(members[places[rows]])
        near_rows = Neighbours(*(part[rows, :k] for part in (plain.ids, plain.scores, plain.positions)))
        candidates = _Candidates(queries[rows], gallery, near_rows, farthest[rows], None if own is None else own[rows])
        yield candidates.first(shared, weight)


@dataclass(frozen=True, eq=False)
class _Candidates:
    """What may come first for some queries.

    Args:
        queries: (num_queries, dim) The queries.
        gallery: (num_items, dim) The items.
        near: The items that are nearest by the vectors.
        farthest: (num_queries,) The largest distance from an item.
        own: (num_queries,) The positions of the queries themselves, which are left out.
    """

    queries: np.ndarray
    gallery: np.ndarray
    near: Neighbours
    farthest: np.ndarray
    own: np.ndarray | None

    def first(self, shared: sparse.csr_array, weight: float) -> tuple[np.ndarray, np.ndarray]:
        """Positions and scores of the first items, as many as are near, given what items share with the queries."""

        def combined(overlap: np.ndarray, distances: np.ndarray) -> np.ndarray:
            return -((1 - weight) * (1 - overlap / (2 - overlap)) + weight * distances).astype(np.float32)

        positions, count = self.near.positions, len(self.gallery)
        rows = np.arange(len(positions))
        overlap = np.asarray(shared[np.repeat(rows, positions.shape[1]), positions.ravel()]).reshape(positions.shape)
        distances = (2 - 2 * np.where(positions >= 0, self.near.scores, -1)) / self.farthest[:, None]
        scores = combined(overlap, distances)
        scores[positions < 0] = -np.inf

        # Other items are farther than these. Only those count that share enough to come before the last of these nevertheless.
        by_row = np.repeat(rows, np.diff(shared.indptr))
        worst, far = scores.min(axis=1) - _ROUNDING, distances.max(axis=1)
        enough = np.flatnonzero(combined(shared.data, far[by_row]) >= worst[by_row])
        by_row, columns, overlap = by_row[enough], shared.indices[enough], shared.data[enough]
        keys = by_row * count + columns
        known = np.where(positions >= 0, rows[:, None] * count + positions, -1)
        is_left = ~np.isin(keys, known)
        if self.own is not None:
            is_left &= columns != self.own[by_row]
        by_row, columns, overlap = by_row[is_left], columns[is_left], overlap[is_left]
        away = (2 - 2 * _products(self.queries, self.gallery, by_row, columns)) / self.farthest[by_row]
        more = combined(overlap, away)
        enough = np.flatnonzero(more >= worst[by_row])
        return _sorted(positions, scores, by_row[enough], columns[enough], more[enough])


def _sorted(
    positions: np.ndarray, scores: np.ndarray, by_row: np.ndarray, columns: np.ndarray, more: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The first of some items (count, k) and others, of which each has its row: by descending score, then ascending position."""
    count, k = positions.shape
    rows = np.concatenate([np.repeat(np.arange(count), k), by_row])
    items, values = np.concatenate([positions.ravel(), columns]), np.concatenate([scores.ravel(), more])
    order = np.lexsort((items, -values, rows))
    starts = np.searchsorted(rows[order], np.arange(count))
    first = order[starts[:, None] + np.arange(k)]
    return items[first], values[first]


def _products(queries: np.ndarray, gallery: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """The inner products of pairs of a query and an item."""
    products = np.empty(len(rows), dtype=np.float32)
    step = max(1, _BLOCK // 16 // queries.shape[1])
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        products[part] = np.einsum("ij,ij->i", queries[rows[part]], gallery[columns[part]])
    return products


def _others(vectors: np.ndarray, k: int) -> tuple[Neighbours, np.ndarray | None]:
    """The k nearest others of every vector, and the largest squared distance of each, if that takes no time of its own."""
    if k > len(vectors) // _FEW:
        return search(vectors, vectors, k, query_ids=np.arange(len(vectors))), None
    found, least = search_all_pairs(vectors, k)
    return found, 2 - 2 * least


def _farthest(queries: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """The largest squared distance of every query from a gallery item."""
    least = np.full(len(queries), np.inf, dtype=np.float32)
    for top in range(0, len(queries), _TILE):
        rows = slice(top, top + _TILE)
        for left in range(0, len(gallery), _TILE):
            least[rows] = np.minimum(least[rows], (queries[rows] @ gallery[left : left + _TILE].T).min(axis=1))
    return 2 - 2 * least


def _average(near: np.ndarray) -> sparse.csr_array:
    """The matrix that replaces every row by the mean of the rows near to it."""
    count, k = near.shape
    weights = np.full(near.size, 1 / k, dtype=np.float32)
    return sparse.csr_array((weights, (np.repeat(np.arange(count), k), near.ravel())), shape=(count, count))


def _neighbourhoods(vectors: np.ndarray, near: np.ndarray, k1: int) -> sparse.csr_array:
    """V of the paper: row i holds the k-reciprocal neighbours of i, expanded, weighted by exp(-distance), with sum 1."""
    near = near.astype(np.int32)
    width, half = min(k1 + 1, near.shape[1]), min(max(1, round(k1 / 2)) + 1, near.shape[1])
    step = max(1, 2 * _BLOCK // (width * width * half))
    blocks = [slice(start, start + step) for start in range(0, len(near), step)]
    is_half = np.concatenate([_are_reciprocal(near, block, half) for block in blocks])
    parts = [_expanded(near, is_half, block, width) for block in blocks]
    columns = np.concatenate([columns for columns, _ in parts])
    counts = np.concatenate([counts for _, counts in parts])
    rows = np.repeat(np.arange(len(near)), counts)
    weights = np.exp(2 * _products(vectors, vectors, rows, columns) - 2)  # of the squared distance
    weights /= np.bincount(rows, weights, minlength=len(near))[rows]
    starts = np.concatenate([[0], np.cumsum(counts)])
    return sparse.csr_array((weights.astype(np.float32), columns, starts), shape=(len(near), len(near)))


def _expanded(near: np.ndarray, is_half: np.ndarray, block: slice, width: int) -> tuple[np.ndarray, np.ndarray]:
    """The expanded neighbourhoods of some items, one after another, and the number of members of each.

    A neighbour brings its own reciprocal neighbours, of half as many, if more than two thirds of them are neighbours already.
    """
    own = np.where(_are_reciprocal(near, block, width), near[block, :width], -1)
    brought = near[own, : is_half.shape[1]]  # (count, width, half)
    counts = is_half[own] & (own >= 0)[:, :, None]
    is_known = (brought[..., None] == own[:, None, None, :]).any(axis=3) & counts
    joins = is_known.sum(axis=2) > 2 / 3 * counts.sum(axis=2)
    brought = np.where(counts & joins[:, :, None], brought, -1)
    members = np.sort(np.concatenate([own, brought.reshape(len(own), -1)], axis=1), axis=1)
    is_first = members >= 0
    is_first[:, 1:] &= members[:, 1:] != members[:, :-1]
    return members[is_first], is_first.sum(axis=1)


def _are_reciprocal(near: np.ndarray, block: slice, width: int) -> np.ndarray:
    """Which of the first neighbours (count, width) of some items have the item among theirs; itself is one."""
    forward = near[block, :width]
    return (near[forward, :width] == forward[:, :1, None]).any(axis=2)


class _Sums:
    """What neighbourhoods share with those of the gallery items: the sum of the smaller weights.

    Args:
        by_member: (num_members, num_items) The gallery items that have a member, with its weight.
    """

    def __init__(self, by_member: sparse.csr_array) -> None:
        self._by_member = by_member
        self._lengths = np.diff(by_member.indptr)
        self._one = sparse.eye_array(by_member.shape[1], format="csr", dtype=np.float32)

    def blocks(self, members: sparse.csr_array, places: np.ndarray) -> Iterator[slice]:
        """Consecutive rows of `places` whose neighbourhoods meet not too many others at a time."""
        lengths = np.concatenate([[0], np.cumsum(self._lengths[members.indices])])
        meets = np.cumsum(lengths[members.indptr[places + 1]] - lengths[members.indptr[places]])
        start = 0
        while start < len(places):
            before = meets[start - 1] if start else 0
            stop = max(start + 1, int(np.searchsorted(meets, before + _BLOCK // 8, side="right")))
            yield slice(start, min(stop, start + _TILE, len(places)))
            start = min(stop, start + _TILE, len(places))

    def shared(self, members: sparse.csr_array) -> sparse.csr_array:
        """(count, num_items) of some neighbourhoods (count, num_members)."""
        lengths = self._lengths[members.indices]
        ends = np.cumsum(lengths)
        starts = self._by_member.indptr[members.indices]
        flat = np.repeat(starts - (ends - lengths), lengths) + np.arange(ends[-1] if len(ends) else 0)
        smaller = np.minimum(np.repeat(members.data, lengths), self._by_member.data[flat])
        bounds = np.concatenate([[0], ends])[members.indptr]
        shape = (members.shape[0], self._by_member.shape[1])
        # The product with the identity adds up the entries of each item, without sorting them.
        return sparse.csr_array((smaller, self._by_member.indices[flat], bounds), shape=shape) @ self._one
