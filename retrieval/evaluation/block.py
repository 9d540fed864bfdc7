"""Some queries at a time: their relevant items, and how many irrelevant ones are above each of these."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from retrieval.evaluation.exact import EXACT_PAIRS, NEAR_TIE, Items, score_everything, score_pairs, sort_keys
from retrieval.evaluation.tile import count_above

BAND = 64  # queries whose relevant scores are computed at one time, together with those of their neighbours
NEAR_ROWS = 2**12  # rows of a tile that are looked through at one time for what nearly ties with a slot
MAX_PENDING = 2**15  # nearly tied pairs that wait for their exact scores
NO_RANK = np.int64(np.iinfo(np.int64).max)  # in the ranks of a query with fewer relevant items than another


class Ranks(NamedTuple):
    """What is found of some queries.

    Args:
        rows: which queries.
        ranks: (num_queries, most relevant items) int64, ascending, from 1; `NO_RANK` where a query has no more.
        tied: (num_queries,) whether an irrelevant item has exactly the score of the nearest relevant one.
    """

    rows: slice
    ranks: np.ndarray
    tied: np.ndarray


@dataclass(frozen=True, eq=False)
class Task:
    """Queries and a gallery, both in ascending order of their classes, and what is to be found.

    Args:
        queries: the queries.
        gallery: the items to be ranked.
        classes: (num_queries,) int64.
        gallery_classes: (num_items,) int64, by the same numbering.
        own: (num_queries,) the position in the gallery of the query itself, which is kept out; None: there is none.
        id_ranks: (num_items,) int64, the place of an item's id among all ids.
        symmetric: the queries are the gallery, in the same order.
        depth: up to which rank relevant items are wanted; 1 for that of the nearest alone, which is found at any depth.
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
    """The classes of the gallery's items, in the order of their ids."""
    classes = np.empty_like(task.gallery_classes)
    classes[task.id_ranks] = task.gallery_classes
    return classes


def places_of_relevant(relevant: np.ndarray, width: int) -> np.ndarray:
    """The ranks (num_queries, width) of the first relevant neighbours among some (num_queries, num_neighbours)."""
    ranks = np.full((len(relevant), width), NO_RANK)
    rows, columns = np.nonzero(relevant)
    counts = relevant.sum(axis=1)
    nth = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    kept = nth < width
    ranks[rows[kept], nth[kept]] = columns[kept] + 1
    return ranks


class Block:
    """Some queries, their relevant items, and how many irrelevant ones are above these.

    The relevant items of a query lie side by side in the gallery: they are the positions `slots` (num_queries, most relevant
    items) where `relevant` is true. Numbers of a slot are (slots, num_queries), so that one limit of all queries is contiguous.
    """

    def __init__(self, task: Task, rows: slice, first: np.ndarray, last: np.ndarray, width: int) -> None:
        self.task, self.rows, self.width = task, rows, width
        self.near = np.zeros(len(first), dtype=np.int64)  # how many nearly tied pairs there are
        self.crowded = np.zeros(len(first), dtype=bool)  # with too many of these, to be ranked by sorting
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
        # Of the irrelevant items with exactly the score of a slot, those before it by their id, and those after it.
        self.before, self.after = np.zeros_like(self.above), np.zeros_like(self.above)

    def _slot_scores(self, first: np.ndarray, last: np.ndarray) -> np.ndarray:
        scores = np.empty(self.slots.shape, dtype=np.float32)
        for top in range(0, len(first) if scores.size else 0, BAND):
            band = slice(top, min(top + BAND, len(first)))
            left, right = first[top], max(last[band.stop - 1], first[top] + 1)
            queries = self.task.queries[slice(self.rows.start + band.start, self.rows.start + band.stop)]
            products = torch.from_numpy(queries) @ torch.from_numpy(self.task.gallery[left:right]).T
            places = np.clip(self.slots[band] - left, 0, right - left - 1)
            scores[band] = np.take_along_axis(products.numpy(), places, axis=1)
        return scores

    def _keep_nearest(self, scores: np.ndarray) -> np.ndarray:
        """Reduces the slots to that of the nearest relevant item in canonical order; returns its scores."""
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
        """Counts a tile of the scores; several threads may do so at a time, each a tile of its own.

        Args:
            tile: (num_queries, num_columns) scores, those of items of a query's own class lowered out of sight; dense, or
                the transpose of such.
            scratch: (num_queries * num_columns,) a buffer.
            left: the gallery's position of the first column.
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
        """Finds what nearly ties with some slots of some rows."""
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
        """Decides of the nearly tied pairs which is above the other."""
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
        for counts, found in (
            (self.above, (scores > limits) | (ties & first)),
            (self.before, ties & first),
            (self.after, ties & ~first),
        ):
            np.add.at(counts, (slots, rows), found)

    def finish(self) -> Ranks:
        """The ranks of the block's queries, when all tiles are counted and near ties resolved."""
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
    """The first ranks (num_rows, width) of the relevant items of some queries, and whether the first ties, from exact scores."""
    keys = sort_keys(score_everything(task.queries[rows], task.gallery), task.id_ranks)
    if task.own is not None:
        keys[np.arange(len(rows)), task.own[rows]] = NO_RANK  # last of all
    keys.sort(axis=1)
    num_others = keys.shape[1] - (task.own is not None)
    relevant = classes_by_id(task)[keys[:, :num_others] & 0x7FFFFFFF] == task.classes[rows, None]
    scores = keys[:, :num_others] >> 32
    nearest = np.take_along_axis(scores, relevant.argmax(axis=1)[:, None], axis=1)
    tied = ((scores == nearest) & ~relevant).any(axis=1) & relevant.any(axis=1)
    return places_of_relevant(relevant, width), tied
