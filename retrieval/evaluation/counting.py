"""The ranks of the relevant items of every query, by counting what scores higher, without sorting or keeping the scores.

The rank of a query's j-th best relevant item is j plus the number of irrelevant items above it. One product of all scores, made
in tiles that fit a core's cache and compared with the scores of the relevant items at once, gives these numbers; half of it
where the items are their own gallery. Float32 products decide wherever they are further apart than their rounding; of nearer
pairs `exact` decides, so that the ranks are those of the canonical order: score descending, then id ascending.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from retrieval.evaluation.exact import EXACT_PAIRS, NEAR_TIE, Items, score_everything, score_pairs, sort_keys
from retrieval.evaluation.search import nearest_in_blocks

TILE = 512  # rows and columns of the scores that exist at one time: a megabyte, which stays in a core's cache
PANEL = 16 * TILE  # rows that are read at one time
BAND = 64  # rows whose relevant scores are computed at one time, together with those of their neighbours
# Relevant items of a query above which a search for its neighbours costs less than counting above each of them.
MOST_COUNTED = 32
# Relevant items whose counts are held at a time, at some 30 bytes each.
MAX_SLOTS = 2**23
# Nearly tied pairs that wait for their exact scores.
MAX_PENDING = 2**15
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
class Counting:
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

    def ranks(self) -> Iterator[Ranks]:
        """The ranks of all queries, some at a time and in their order."""
        first, last = (np.searchsorted(self.gallery_classes, self.classes, side) for side in ("left", "right"))
        rows = [slice(start, min(start + TILE, len(self.queries))) for start in range(0, len(self.queries), TILE)]
        widths = [int((last[part] - first[part]).max()) - (self.own is not None) for part in rows]
        counted = [1 if self.depth == 1 or width > MOST_COUNTED else width for width in widths]
        groups = TILE * np.cumsum(counted) // MAX_SLOTS
        searched = []
        for group in np.unique(groups):
            chosen = np.flatnonzero(groups == group)
            blocks = [_Block(self, rows[i], first[rows[i]], last[rows[i]], counted[i]) for i in chosen]
            _count(self, blocks, mirror=self.symmetric and len(blocks) == len(rows))
            for i, block in zip(chosen, blocks, strict=True):
                if self.depth == 1 or counted[i] == widths[i]:
                    yield block.finish()
                else:
                    searched.append(block.finish())  # only the nearest relevant item is counted
        if searched:
            yield from self._search(searched, widths[-1])

    def _search(self, nearest: list[Ranks], width: int) -> Iterator[Ranks]:
        """The ranks up to `depth` of the last queries, those with many relevant items; the nearest is ranked already."""
        rows = slice(nearest[0].rows.start, nearest[-1].rows.stop)
        first, tied = np.concatenate([found.ranks[:, 0] for found in nearest]), np.concatenate([found.tied for found in nearest])
        own_ids = None if self.own is None else self.id_ranks[self.own[rows]]
        classes = _by_id(self)
        start = rows.start
        for found in nearest_in_blocks(
            Items(self.queries[rows]), self.gallery, self.depth, ids=self.id_ranks, own_ids=own_ids
        ):
            block = slice(start, start + len(found.ids))
            relevant = (classes[found.ids] == self.classes[block, None]) & (found.ids >= 0)
            here = slice(start - rows.start, block.stop - rows.start)
            ranks = _places(relevant, width)
            ranks[:, 0] = first[here]
            yield Ranks(block, ranks, tied[here])
            start = block.stop


def _by_id(task: Counting) -> np.ndarray:
    """The classes of the gallery's items, in the order of their ids."""
    classes = np.empty_like(task.gallery_classes)
    classes[task.id_ranks] = task.gallery_classes
    return classes


def _places(relevant: np.ndarray, width: int) -> np.ndarray:
    """The ranks (num_queries, width) of the first relevant neighbours among some (num_queries, num_neighbours)."""
    ranks = np.full((len(relevant), width), NO_RANK)
    rows, columns = np.nonzero(relevant)
    counts = relevant.sum(axis=1)
    nth = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    kept = nth < width
    ranks[rows[kept], nth[kept]] = columns[kept] + 1
    return ranks


class _Block:
    """Some queries, their relevant items, and how many irrelevant ones are above these.

    The relevant items of a query lie side by side in the gallery: they are the positions `slots` (num_queries, most relevant
    items) where `relevant` is true. Numbers of a slot are (slots, num_queries), so that one limit of all queries is contiguous.
    """

    def __init__(self, task: Counting, rows: slice, first: np.ndarray, last: np.ndarray, width: int) -> None:
        self.task, self.rows, self.width = task, rows, width
        self.near = np.zeros(len(first), dtype=np.int64)  # how many nearly tied pairs there are
        self.crowded = np.zeros(len(first), dtype=bool)  # with too many of these, to be ranked by sorting
        self.pending: list[tuple[Tensor, ...]] = []
        self.num_pending = 0
        self.slots = first[:, None] + np.arange(int((last - first).max()) - (task.own is not None))
        if task.own is not None:
            self.slots += self.slots >= task.own[rows, None]
        self.relevant = self.slots < last[:, None]
        self.slots = self.slots.clip(max=len(task.gallery) - 1)
        scores = self._slot_scores(first, last)
        if width < self.slots.shape[1]:
            scores = self._keep_nearest(scores)
        limits = torch.from_numpy(np.where(self.relevant, scores, np.float32(np.inf)).T.copy())
        self.limits = torch.cat([limits + NEAR_TIE, limits - NEAR_TIE])
        self.above = torch.zeros(limits.shape, dtype=torch.int32)
        # Of the irrelevant items with exactly the score of a slot, those before it by their id, and those after it.
        self.before, self.after = torch.zeros_like(self.above), torch.zeros_like(self.above)

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
        """Counts a tile of the scores (num_queries, columns), those of items of a query's own class lowered out of sight.

        Comparing into a buffer of floats and summing that costs a hundredth of the product that made the tile; a boolean tile
        costs several times as much.

        Args:
            tile: the scores.
            scratch: a buffer in the shape and the memory layout of the tile.
            left: the gallery's position of the first column.
        """
        if not len(self.limits):
            return
        counts = torch.stack([torch.gt(tile, limit[:, None], out=scratch).sum(1) for limit in self.limits])
        surely, perhaps = counts.to(torch.int32).chunk(2)
        self.above += surely
        if torch.equal(surely, perhaps):
            return
        near = perhaps - surely
        self.near += near.sum(0).numpy()
        self.crowded |= self.near > 64 + len(self.task.gallery) // 64
        near[:, torch.from_numpy(self.crowded)] = 0
        slots, rows = near.nonzero(as_tuple=True)
        high, low = (limits[slots, rows, None] for limits in self.limits.chunk(2))
        candidates = tile[rows]
        pairs, columns = ((candidates > low) & ~(candidates > high)).nonzero(as_tuple=True)
        self.pending.append((rows[pairs], slots[pairs], columns + left))
        self.num_pending += len(pairs)
        if self.num_pending > MAX_PENDING:
            self._resolve()

    def _resolve(self) -> None:
        """Decides of the nearly tied pairs which is above the other."""
        if not self.num_pending:
            return
        rows, slots, items = (torch.cat(parts).numpy() for parts in zip(*self.pending, strict=True))
        self.pending, self.num_pending = [], 0
        queries, gallery, id_ranks = self.task.queries, self.task.gallery, self.task.id_ranks
        scores = score_pairs(queries, rows + self.rows.start, gallery, items)
        width = self.slots.shape[1]
        pairs, which = np.unique(rows * width + slots, return_inverse=True)
        relevant = self.slots.ravel()[pairs]
        limits = score_pairs(queries, pairs // width + self.rows.start, gallery, relevant)[which]
        ties = scores == limits
        first = id_ranks[items] < id_ranks[relevant][which]
        places = torch.from_numpy(slots), torch.from_numpy(rows)
        for counts, found in (
            (self.above, (scores > limits) | (ties & first)),
            (self.before, ties & first),
            (self.after, ties & ~first),
        ):
            counts.index_put_(places, torch.from_numpy(found.astype(np.int32)), accumulate=True)

    def finish(self) -> Ranks:
        """The ranks of the block's queries, when all tiles are counted."""
        self._resolve()
        ranks = np.full((len(self.slots), self.width), NO_RANK)
        tied = np.zeros(len(ranks), dtype=bool)
        if self.slots.size:
            ranks[self.relevant] = self.above.T.numpy()[self.relevant]
            ranks.sort(axis=1)
            ranks += np.where(ranks == NO_RANK, 0, np.arange(1, self.width + 1))
            fewest, most = (
                np.where(self.relevant, counts.T.numpy(), NO_RANK).min(axis=1)
                for counts in (self.above - self.before, self.above + self.after)
            )
            tied = fewest < most
        crowded = np.flatnonzero(self.crowded)
        size = max(1, EXACT_PAIRS // len(self.task.gallery))
        for start in range(0, len(crowded), size):
            rows = crowded[start : start + size]
            ranks[rows], tied[rows] = _rank_by_sorting(self.task, rows + self.rows.start, self.width)
        return Ranks(self.rows, ranks, tied)


def _rank_by_sorting(task: Counting, rows: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """The first ranks (num_rows, width) of the relevant items of some queries, and whether the first ties, from exact scores."""
    keys = sort_keys(score_everything(task.queries[rows], task.gallery), task.id_ranks)
    if task.own is not None:
        keys[np.arange(len(rows)), task.own[rows]] = NO_RANK  # last of all
    keys.sort(axis=1)
    num_others = keys.shape[1] - (task.own is not None)
    relevant = _by_id(task)[keys[:, :num_others] & 0x7FFFFFFF] == task.classes[rows, None]
    scores = keys[:, :num_others] >> 32
    nearest = np.take_along_axis(scores, relevant.argmax(axis=1)[:, None], axis=1)
    tied = ((scores == nearest) & ~relevant).any(axis=1) & relevant.any(axis=1)
    return _places(relevant, width), tied


def _count(task: Counting, blocks: list[_Block], *, mirror: bool) -> None:
    """Shows all tiles of the scores to the blocks; with `mirror` those above the diagonal, to both blocks that they concern."""
    product, above = torch.empty(2, TILE, TILE)
    start, stop = blocks[0].rows.start, blocks[-1].rows.stop
    for top in range(start, stop, PANEL):
        queries = torch.from_numpy(task.queries[top : min(top + PANEL, stop)])
        for left in range(top if mirror else 0, len(task.gallery), PANEL):
            items = queries if mirror and left == top else torch.from_numpy(task.gallery[left : left + PANEL])
            for i, j in np.ndindex(-(-len(queries) // TILE), -(-len(items) // TILE)):
                row, column = top + i * TILE, left + j * TILE
                block = blocks[(row - start) // TILE]
                mirrored = blocks[column // TILE] if mirror and column > row else None
                if (mirror and column < row) or not (len(block.limits) or (mirrored and len(mirrored.limits))):
                    continue
                q, g = (part[k * TILE : (k + 1) * TILE] for part, k in ((queries, i), (items, j)))
                tile = torch.mm(q, g.T, out=product[: len(q), : len(g)])
                classes, others = task.classes[row : row + TILE], task.gallery_classes[column : column + TILE]
                if classes[0] <= others[-1] and others[0] <= classes[-1]:
                    tile.masked_fill_(torch.from_numpy(classes[:, None] == others), -torch.inf)
                scratch = above[: len(q), : len(g)]
                block.add(tile, scratch, column)
                if mirrored:
                    mirrored.add(tile.T, scratch.T, row)
