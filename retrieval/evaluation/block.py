"""A block of queries: counts the irrelevant items above each relevant item of each query."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from retrieval.evaluation.exact import EXACT_PAIRS, NEAR_TIE, Items, score_everything, score_pairs, sort_keys
from retrieval.evaluation.tile import count_above

BAND = 64  # queries whose scores with their relevant items are computed by one product
SPARSE = 4  # a product makes at most so many scores for each that is needed; else each query is scored alone
NEAR_ROWS = 2**12  # rows of a tile that are searched at one time for near ties with a slot
MAX_PENDING = 2**15  # nearly tied pairs that are kept until they are scored exactly
NO_RANK = np.int64(np.iinfo(np.int64).max)  # fills the ranks of a query that has fewer relevant items than another


class Ranks(NamedTuple):
    """The ranks of the relevant items of some queries.

    Args:
        rows: the queries.
        ranks: (num_queries, max_relevant) int64, ascending, from 1; `NO_RANK` where a query has no more relevant items.
        tied: (num_queries,) whether an irrelevant item has exactly the score of the nearest relevant one.
    """

    rows: slice
    ranks: np.ndarray
    tied: np.ndarray


@dataclass(frozen=True, eq=False)
class Task:
    """Queries and a gallery, both sorted by class, and the depth to which relevant items are ranked.

    Args:
        queries: the queries.
        gallery: the items that are ranked.
        classes: (num_queries,) int64.
        gallery_classes: (num_items,) int64, with the same numbering.
        own: (num_queries,) position of the query itself in the gallery, which is not ranked; None if the gallery does not
            contain the queries.
        id_ranks: (num_items,) int64, the position of an item's id among the sorted ids.
        symmetric: whether the queries are the gallery, in the same order.
        depth: the largest rank that is needed. With 1 only the nearest relevant item is ranked, whatever its rank.
    """

    queries: Items
    gallery: Items
    classes: np.ndarray
    gallery_classes: np.ndarray
    own: np.ndarray | None
    id_ranks: np.ndarray
    symmetric: bool
    depth: int


def classes_by_id(task: Task) -> np.ndarray:
    """Returns the classes of the gallery's items in the order of their ids."""
    classes = np.empty_like(task.gallery_classes)
    classes[task.id_ranks] = task.gallery_classes
    return classes


def ranks_of_relevant(relevant: np.ndarray, width: int) -> np.ndarray:
    """Converts a mask of relevant neighbours (num_queries, num_neighbours) to the ranks (num_queries, width) of the first ones."""
    ranks = np.full((len(relevant), width), NO_RANK)
    rows, columns = np.nonzero(relevant)
    counts = relevant.sum(axis=1)
    nth = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    kept = nth < width
    ranks[rows[kept], nth[kept]] = columns[kept] + 1
    return ranks


class Block:
    """Some queries, their relevant items, and the number of irrelevant items above each of these.

    The gallery is sorted by class, so the relevant items of a query are contiguous. `slots` (num_queries, max_relevant) are their
    positions, valid where `relevant` is true. Limits and counts have the shape (max_relevant, num_queries), so that the limits of
    one slot are contiguous.
    """

    def __init__(self, task: Task, rows: slice, first: np.ndarray, last: np.ndarray, width: int) -> None:
        self.task, self.rows, self.width = task, rows, width
        self.near = np.zeros(len(first), dtype=np.int64)  # number of nearly tied pairs
        self.crowded = np.zeros(len(first), dtype=bool)  # has too many of them and is ranked by sorting
        self.pending: list[tuple[np.ndarray, ...]] = []
        self.num_pending = 0
        self.lock = Lock()
        self.slots = first[:, None] + np.arange(int((last - first).max()) - (task.own is not None))
        if task.own is not None:
            self.slots += self.slots >= task.own[rows, None]
        self.relevant = self.slots < last[:, None]
        self.slots = self.slots.clip(max=len(task.gallery) - 1)
        scores = self._slot_scores(first, last)
        if width < self.slots.shape[1]:
            scores = self._keep_nearest(scores)
        limits = torch.from_numpy(np.where(self.relevant, scores, np.float32(np.inf)).T.copy())
        self.low, self.high = limits - NEAR_TIE, limits + NEAR_TIE
        self.above = np.zeros(limits.shape, dtype=np.int32)
        # Numbers of irrelevant items with exactly the score of a slot, and with a smaller or a larger id.
        self.before, self.after = np.zeros_like(self.above), np.zeros_like(self.above)

    def _slot_scores(self, first: np.ndarray, last: np.ndarray) -> np.ndarray:
        scores = np.empty(self.slots.shape, dtype=np.float32)
        for top in range(0, len(first) if scores.size else 0, BAND):
            band = slice(top, min(top + BAND, len(first)))
            left, right = first[top], max(last[band.stop - 1], first[top] + 1)
            queries = self.task.queries[slice(self.rows.start + band.start, self.rows.start + band.stop)]
            if right - left > SPARSE * self.slots[band].size:  # of a sample, the classes lie far apart
                for row, query in enumerate(queries, top):
                    scores[row] = self.task.gallery[self.slots[row]] @ query
                continue
            products = torch.from_numpy(queries) @ torch.from_numpy(self.task.gallery[left:right]).T
            columns = np.clip(self.slots[band] - left, 0, right - left - 1)
            scores[band] = np.take_along_axis(products.numpy(), columns, axis=1)
        return scores

    def _keep_nearest(self, scores: np.ndarray) -> np.ndarray:
        """Keeps only the slot of the nearest relevant item in canonical order, and returns its scores."""
        scores[~self.relevant] = -np.inf
        near = self.relevant & (scores >= scores.max(axis=1, keepdims=True) - NEAR_TIE)
        rows, slots = np.nonzero(near & (near.sum(axis=1, keepdims=True) > 1))
        items = self.slots[rows, slots]
        scores[rows, slots] = score_pairs(self.task.queries, rows + self.rows.start, self.task.gallery, items)
        keys = sort_keys(np.where(near, scores, np.float32(-np.inf)), self.task.id_ranks[self.slots])
        best = keys.argmin(axis=1)[:, None]
        self.slots = np.take_along_axis(self.slots, best, axis=1)
        self.relevant = np.take_along_axis(self.relevant, best, axis=1)
        return np.take_along_axis(scores, best, axis=1)

    def add(self, tile: Tensor, scratch: Tensor, left: int) -> None:
        """Counts the scores of one tile. Several threads may call it at the same time, with different tiles.

        Args:
            tile: (num_queries, num_columns) scores, -inf for items of a query's own class; contiguous, or the transpose of a
                contiguous tensor.
            scratch: (num_queries * num_columns,) a buffer.
            left: position of the first column in the gallery.
        """
        if not len(self.high):
            return
        above, near = count_above(tile, scratch, self.low, self.high)
        with self.lock:
            self.above += above
        slots, rows = np.nonzero(near & ~self.crowded)
        for start in range(0, len(rows), NEAR_ROWS):
            part = slice(start, start + NEAR_ROWS)
            self._note_near_ties(tile, slots[part], rows[part], left)

    def _note_near_ties(self, tile: Tensor, slots: np.ndarray, rows: np.ndarray, left: int) -> None:
        """Collects the items that nearly tie with some slots of some rows."""
        low, high = (limits.numpy()[slots, rows, None] for limits in (self.low, self.high))
        scores = tile.numpy()[rows]
        near = (scores > low) & (scores <= high)
        with self.lock:
            np.add.at(self.near, rows, near.sum(axis=1))
            self.crowded |= self.near > 64 + len(self.task.gallery) // 64
            near[self.crowded[rows]] = False
            pairs, columns = np.divmod(np.flatnonzero(near), tile.shape[1])
            self.pending.append((rows[pairs], slots[pairs], columns + left))
            self.num_pending += len(pairs)
            if self.num_pending > MAX_PENDING:
                self.resolve()

    def resolve(self) -> None:
        """Scores the collected pairs exactly and counts them."""
        if not self.num_pending:
            return
        rows, slots, items = (np.concatenate(parts) for parts in zip(*self.pending, strict=True))
        self.pending, self.num_pending = [], 0
        queries, gallery, id_ranks = self.task.queries, self.task.gallery, self.task.id_ranks
        scores = score_pairs(queries, rows + self.rows.start, gallery, items)
        width = self.slots.shape[1]
        pairs, which = np.unique(rows * width + slots, return_inverse=True)
        relevant = self.slots.ravel()[pairs]
        limits = score_pairs(queries, pairs // width + self.rows.start, gallery, relevant)[which]
        ties = scores == limits
        first = id_ranks[items] < id_ranks[relevant][which]
        for counts, counted in (
            (self.above, (scores > limits) | (ties & first)),
            (self.before, ties & first),
            (self.after, ties & ~first),
        ):
            np.add.at(counts, (slots, rows), counted)

    def finish(self) -> Ranks:
        """Returns the ranks of the block's queries, after all tiles are counted and near ties are resolved."""
        ranks = np.full((len(self.slots), self.width), NO_RANK)
        tied = np.zeros(len(ranks), dtype=bool)
        if self.slots.size:
            ranks[self.relevant] = self.above.T[self.relevant]
            ranks.sort(axis=1)
            ranks += np.where(ranks == NO_RANK, 0, np.arange(1, self.width + 1))
            fewest, most = (
                np.where(self.relevant, counts.T, NO_RANK).min(axis=1)
                for counts in (self.above - self.before, self.above + self.after)
            )
            tied = fewest < most
        crowded = np.flatnonzero(self.crowded)
        size = max(1, EXACT_PAIRS // len(self.task.gallery))
        for start in range(0, len(crowded), size):
            rows = crowded[start : start + size]
            ranks[rows], tied[rows] = _rank_by_sorting(self.task, rows + self.rows.start, self.width)
        return Ranks(self.rows, ranks, tied)


def _rank_by_sorting(task: Task, rows: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Ranks all items by exact scores. Returns the first ranks (num_rows, width) of relevant items, and whether the first ties."""
    keys = sort_keys(score_everything(task.queries[rows], task.gallery), task.id_ranks)
    if task.own is not None:
        keys[np.arange(len(rows)), task.own[rows]] = NO_RANK  # comes last
    keys.sort(axis=1)
    num_others = keys.shape[1] - (task.own is not None)
    relevant = classes_by_id(task)[keys[:, :num_others] & 0x7FFFFFFF] == task.classes[rows, None]
    scores = keys[:, :num_others] >> 32
    nearest = np.take_along_axis(scores, relevant.argmax(axis=1)[:, None], axis=1)
    tied = ((scores == nearest) & ~relevant).any(axis=1) & relevant.any(axis=1)
    return ranks_of_relevant(relevant, width), tied
