"""The ranks of the relevant items of every query, by counting higher scores, without storing or sorting all scores.

The rank of a query's j-th best relevant item is j plus the number of irrelevant items above it. The scores are computed in tiles
that fit a core's cache, and each tile is compared with the scores of the relevant items at once. If the items are their own
gallery, half of the tiles suffice. Float32 products decide if they differ by more than their rounding error. Otherwise `exact`
decides. The ranks are therefore those of the canonical order: score descending, then id ascending.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from threading import Lock
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from retrieval.evaluation.block import Block, Ranks, Task, classes_by_id, ranks_of_relevant
from retrieval.evaluation.search import nearest_in_blocks
from retrieval.evaluation.tile import TILE
from retrieval.threads import single_threads

PANEL = 16 * TILE  # rows that are read at one time
# Searching a query's neighbours takes as long as counting for SEARCH_ITEMS relevant items, and for one more per SEARCH_NEIGHBOURS.
SEARCH_ITEMS, SEARCH_NEIGHBOURS = 64, 8
MAX_SLOTS = 2**23  # relevant items whose counts are in memory at a time, at about 30 bytes each


def rank_relevant(task: Task) -> Iterator[Ranks]:
    """Yields the ranks of consecutive blocks of queries."""
    first, last = (np.searchsorted(task.gallery_classes, task.classes, side) for side in ("left", "right"))
    rows = [slice(start, min(start + TILE, len(task.queries))) for start in range(0, len(task.queries), TILE)]
    widths = [int((last[part] - first[part]).max()) - (task.own is not None) for part in rows]
    most = SEARCH_ITEMS + task.depth // SEARCH_NEIGHBOURS
    counted = [1 if task.depth == 1 or width > most else width for width in widths]
    groups = TILE * np.cumsum(counted) // MAX_SLOTS
    nearest = []
    for group in np.unique(groups):
        chosen = np.flatnonzero(groups == group)
        with single_threads() as pool:
            arguments = [(task, rows[i], first[rows[i]], last[rows[i]], counted[i]) for i in chosen]
            blocks = list(pool.map(Block, *zip(*arguments, strict=True)))
            _count(task, blocks, pool, mirror=task.symmetric and len(blocks) == len(rows))
            list(pool.map(Block.resolve, blocks))
        for i, block in zip(chosen, blocks, strict=True):
            if task.depth == 1 or counted[i] == widths[i]:
                yield block.finish()
            else:
                nearest.append(block.finish())  # only the nearest relevant item is counted
    if nearest:
        yield from _search(task, nearest, widths[-1])


def _search(task: Task, nearest: list[Ranks], width: int) -> Iterator[Ranks]:
    """Yields the ranks up to `depth` of the last queries, which have many relevant items. The nearest one is ranked already."""
    rows = slice(nearest[0].rows.start, nearest[-1].rows.stop)
    first = np.concatenate([found.ranks[:, 0] for found in nearest])
    tied = np.concatenate([found.tied for found in nearest])
    own_ids = None if task.own is None else task.id_ranks[task.own[rows]]
    classes = classes_by_id(task)
    start = rows.start
    queries = task.queries.part(rows)
    for found in nearest_in_blocks(queries, task.gallery, task.depth, ids=task.id_ranks, own_ids=own_ids):
        block = slice(start, start + len(found.ids))
        relevant = (classes[found.ids] == task.classes[block, None]) & (found.ids >= 0)
        here = slice(start - rows.start, block.stop - rows.start)
        ranks = ranks_of_relevant(relevant, width)
        ranks[:, 0] = first[here]
        yield Ranks(block, ranks, tied[here])
        start = block.stop


class _Work(NamedTuple):
    """A tile of the scores that a thread computes and counts.

    Args:
        block: the block of the queries.
        mirrored: the block of the items, if the transposed tile is counted for them as queries; else None.
        queries: (num_rows, dim).
        items: (num_columns, dim).
        column: position of the first item in the gallery.
    """

    block: Block
    mirrored: Block | None
    queries: Tensor
    items: Tensor
    column: int


def _count(task: Task, blocks: list[Block], pool: ThreadPoolExecutor, *, mirror: bool) -> None:
    """Counts all tiles for the blocks. With `mirror`, only tiles from the diagonal upwards, each for its rows and its columns."""
    work, turn = _tiles(task, blocks, mirror=mirror), Lock()
    running: list[Future[None]] = []
    try:
        running += [pool.submit(_count_tiles, task, work, turn) for _ in range(torch.get_num_threads())]
        wait(running, return_when=FIRST_EXCEPTION)
    finally:
        with turn:
            work.close()  # so that the other threads stop after an error or an interrupt
    for thread in running:
        thread.result()


def _tiles(task: Task, blocks: list[Block], *, mirror: bool) -> Generator[_Work, None, None]:
    start, stop = blocks[0].rows.start, blocks[-1].rows.stop
    for top in range(start, stop, PANEL):
        queries = torch.from_numpy(task.queries[top : min(top + PANEL, stop)])
        for left in range(top if mirror else 0, len(task.gallery), PANEL):
            items = queries if mirror and left == top else torch.from_numpy(task.gallery[left : left + PANEL])
            for i, j in np.ndindex(-(-len(queries) // TILE), -(-len(items) // TILE)):
                row, column = top + i * TILE, left + j * TILE
                block = blocks[(row - start) // TILE]
                mirrored = blocks[column // TILE] if mirror and column > row else None
                if (mirror and column < row) or not (len(block.high) or (mirrored and len(mirrored.high))):
                    continue
                q, g = (part[k * TILE : (k + 1) * TILE] for part, k in ((queries, i), (items, j)))
                yield _Work(block, mirrored, q, g, column)


def _count_tiles(task: Task, work: Iterator[_Work], turn: Lock) -> None:
    """Runs in each thread: takes the next tile, computes it and counts it, until no tile is left."""
    product, scratch = torch.empty(2, TILE * TILE)
    while True:
        with turn:
            following = next(work, None)
        if following is None:
            return
        block, mirrored, queries, items, column = following
        size = len(queries) * len(items)
        tile = torch.mm(queries, items.T, out=product[:size].view(len(queries), len(items)))
        classes, others = task.classes[block.rows], task.gallery_classes[column : column + len(items)]
        if classes[0] <= others[-1] and others[0] <= classes[-1]:
            tile.masked_fill_(torch.from_numpy(classes[:, None] == others), -torch.inf)
        block.add(tile, scratch[:size], column)
        if mirrored:
            mirrored.add(tile.T, scratch[:size], block.rows.start)
