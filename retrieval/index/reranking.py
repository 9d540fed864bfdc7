"""Better rankings from the neighbours of neighbours; none of these needs a model or labels.

expand      alpha query expansion (Radenovic, Tolias, Chum, TPAMI 2019): a query becomes the weighted mean of itself and its
            first neighbours. Of every gallery vector it is database-side augmentation (Arandjelovic, Zisserman, CVPR 2012).
rerank      k-reciprocal re-ranking (Zhong et al., CVPR 2017): neighbours count that have each other among their first k.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from scipy import sparse

from retrieval.evaluation import search

_BLOCK = 2**24  # numbers of a block of distances


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
) -> Iterator[np.ndarray]:
    """Scores by k-reciprocal re-ranking, some queries at a time and in their order.

    Queries and gallery are one set, as in the paper: what is close to one query may bring another closer.

    Args:
        queries: (num_queries, dim) float32 unit vectors.
        gallery: (num_items, dim) float32 unit vectors.
        k1: neighbours of which the reciprocal ones count.
        k2: neighbours over which these are averaged: three tenths of k1, as in the paper, by default; 1 leaves them as they are.
        weight: of the distance of the vectors against that of the neighbourhoods; 1 leaves the ranking as it is.
        own: (num_queries,) the queries' own positions in the gallery, if they are gallery items.

    Yields:
        (block, num_items) float32 scores, higher is closer: minus the distance of the paper, whose first part is the squared
        euclidean distance here brought to 0 .. 1 for each query.

    Raises:
        ValueError: a number is out of range.
    """
    k2 = max(1, round(0.3 * k1)) if k2 is None else k2
    if k1 < 1 or k2 < 1 or not 0 <= weight <= 1:
        raise ValueError(f"k1 is {k1}, k2 {k2}, weight {weight}; give k1 and k2 from 1, and a weight from 0 to 1")
    everything = gallery if own is not None else np.concatenate([gallery, queries])
    places = own if own is not None else np.arange(len(gallery), len(everything))
    return _rerank(queries, gallery, everything, places, k1, k2, weight)


def nearest(scores: np.ndarray, k: int) -> np.ndarray:
    """Positions (num_queries, k) of the largest scores of each row (num_queries, num_items), best first.

    Of equal scores the first comes first, as in a stable sort of the whole row, which takes many times as long.
    """
    least = torch.from_numpy(scores).topk(k, dim=1).values[:, -1].numpy()
    rows = []
    for row, limit in zip(scores, least, strict=True):
        places = np.flatnonzero(row >= limit)
        rows.append(places[np.argsort(-row[places], kind="stable")[:k]])
    return np.stack(rows)


def _rerank(
    queries: np.ndarray,
    gallery: np.ndarray,
    everything: np.ndarray,
    places: np.ndarray,
    k1: int,
    k2: int,
    weight: float,
) -> Iterator[np.ndarray]:
    near = _neighbours(everything, min(max(k1 + 1, k2), len(everything)))
    members = _neighbourhoods(everything, near, k1)
    if k2 > 1:
        members = _average(near[:, :k2]) @ members
    by_member = members[: len(gallery)].T.tocsr()
    step = max(1, _BLOCK // len(gallery))
    for start in range(0, len(queries), step):
        rows = places[start : start + step]
        shared = np.stack([_shared(members, by_member, int(row), len(gallery)) for row in rows])
        distances = 2 - 2 * (queries[start : start + step] @ gallery.T)
        distances /= np.maximum(distances.max(axis=1, keepdims=True), 1e-12)
        yield -((1 - weight) * (1 - shared / (2 - shared)) + weight * distances).astype(np.float32)


def _average(near: np.ndarray) -> sparse.csr_array:
    """The matrix that replaces every row by the mean of the rows near to it."""
    count, k = near.shape
    weights = np.full(near.size, 1 / k, dtype=np.float32)
    return sparse.csr_array((weights, (np.repeat(np.arange(count), k), near.ravel())), shape=(count, count))


def _neighbours(vectors: np.ndarray, k: int) -> np.ndarray:
    """Of every vector itself and then its nearest others: (count, k) positions."""
    count = len(vectors)
    if k == 1:
        return np.arange(count)[:, None]
    others = search(vectors, vectors, k - 1, query_ids=np.arange(count)).ids
    return np.hstack([np.arange(count)[:, None], others])


def _neighbourhoods(vectors: np.ndarray, near: np.ndarray, k1: int) -> sparse.csr_array:
    """V of the paper: row i holds the k-reciprocal neighbours of i, expanded, weighted by exp(-distance), with sum 1."""
    full = [_reciprocal(near, i, k1) for i in range(len(near))]
    half = [_reciprocal(near, i, max(1, round(k1 / 2))) for i in range(len(near))]
    columns, values = [], []
    for i, own in enumerate(full):
        known = set(own.tolist())
        parts = [own, *(half[j] for j in own if sum(x in known for x in half[j].tolist()) > 2 / 3 * len(half[j]))]
        members = np.unique(np.concatenate(parts))
        weights = np.exp(2 * (vectors[members] @ vectors[i]) - 2)  # of the squared distance
        columns.append(members)
        values.append((weights / weights.sum()).astype(np.float32))
    starts = np.concatenate([[0], np.cumsum([len(part) for part in columns])])
    return sparse.csr_array((np.concatenate(values), np.concatenate(columns), starts), shape=(len(near), len(near)))


def _reciprocal(near: np.ndarray, i: int, k: int) -> np.ndarray:
    """The first k neighbours of i that have i among theirs, and i itself."""
    forward = near[i, : k + 1]
    return forward[(near[forward, : k + 1] == i).any(axis=1)]


def _shared(members: sparse.csr_array, by_member: sparse.csr_array, row: int, count: int) -> np.ndarray:
    """What the neighbourhood of a row shares with that of every gallery item: the sum of the smaller weights (count,)."""
    shared = np.zeros(count, dtype=np.float32)
    for place in range(members.indptr[row], members.indptr[row + 1]):
        member, weight = members.indices[place], members.data[place]
        part = slice(by_member.indptr[member], by_member.indptr[member + 1])
        shared[by_member.indices[part]] += np.minimum(weight, by_member.data[part])
    return shared
