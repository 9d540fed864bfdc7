"""Compares the entries of a tile of scores with some limits of their row, in one of two ways: a pass a limit, or by sorting."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

COMPARED = 24  # up to this number of limits, a pass over the tile for each of them is faster than sorting
SORTED = 1 << 16  # numbers that are sorted at one time: what fits a core's cache


def count_reached(tile: Tensor, limits: Tensor, *, sums: int = 0) -> tuple[Tensor, Tensor]:
    """How many entries of each row of a tile reach each of the row's limits, and what these entries sum to.

    Comparing into a buffer of floats and summing that costs a hundredth of the product that made the tile; a boolean tile, which
    is summed as integers, costs more than the product.

    Args:
        tile: (num_rows, num_columns); the lowest number of the dtype stands for an entry that takes no part.
        limits: (num_rows, num_limits), infinite where there is none.
        sums: of how many of the last limits the sums are wanted.

    Returns:
        The numbers (num_rows, num_limits) and the sums (num_rows, sums), both in the dtype of the tile.
    """
    if limits.shape[1] > COMPARED:
        rows = max(8, SORTED // (limits.shape[1] + tile.shape[1]))
        parts = zip(tile.split(rows), limits.split(rows), strict=True)
        found = [_count_by_sorting(*part, sums=sums) for part in parts]
        counts, totals = (torch.cat(column) for column in zip(*found, strict=True))
        return counts, totals
    counts, totals = torch.empty_like(limits), limits.new_empty(len(limits), sums)
    first = limits.shape[1] - sums
    reached = torch.empty_like(tile)
    for slot, limit in enumerate(limits.T.contiguous()):  # strided limits compare forty times slower
        torch.ge(tile, limit[:, None], out=reached)
        counts[:, slot] = reached.sum(1)
        if slot >= first:
            totals[:, slot - first] = reached.mul_(tile).sum(1)
    return counts, totals


def weigh_reached(tile: Tensor, limits: Tensor, weights: Tensor) -> Tensor:
    """For each entry of a tile the sum of the weights (num_rows, num_limits) of those limits of its row that it reaches."""
    if limits.shape[1] > COMPARED:
        rows = max(8, SORTED // (limits.shape[1] + tile.shape[1]))
        parts = zip(*(part.split(rows) for part in (tile, limits, weights)), strict=True)
        return torch.cat([_weigh_by_sorting(*part) for part in parts])
    reached, total = torch.empty_like(tile), torch.zeros_like(tile)
    for limit, weight in zip(limits.T.contiguous(), weights.T.contiguous(), strict=True):
        total.addcmul_(torch.ge(tile, limit[:, None], out=reached), weight[:, None])
    return total


def transposed(tile: Tensor, num_limits: int) -> Tensor:
    """The transposed tile, in the order in memory in which it is compared with that many limits the fastest."""
    return tile.T.contiguous() if num_limits > COMPARED else tile.T


def _count_by_sorting(tile: Tensor, limits: Tensor, *, sums: int) -> tuple[Tensor, Tensor]:
    order, slots = _merge(limits, tile), limits.shape[1]
    starts = torch.arange(0, order.numel(), order.shape[1], device=order.device)[:, None]
    places = _positions(order < slots).view(limits.shape) - starts  # of the limits, ascending
    which = order.gather(1, places)
    above = tile.shape[1] + torch.arange(slots, device=tile.device) - places
    counts = torch.empty_like(limits).scatter_(1, which, above.to(limits.dtype))
    if not sums:
        return counts, counts[:, :0]
    entries = tile.masked_fill(tile == torch.finfo(tile.dtype).min, 0)
    running = torch.cat([torch.zeros_like(limits), entries], dim=1).gather(1, order).cumsum(1)
    totals = torch.empty_like(limits).scatter_(1, which, running[:, -1:] - running.gather(1, places))
    return counts, totals[:, slots - sums :]


def _weigh_by_sorting(tile: Tensor, limits: Tensor, weights: Tensor) -> Tensor:
    order = _merge(limits, tile)
    running = torch.cat([weights, torch.zeros_like(tile)], dim=1).gather(1, order).cumsum(1)
    return torch.empty_like(running).scatter_(1, order, running)[:, limits.shape[1] :]


def _positions(mask: Tensor) -> Tensor:
    """The places of the true entries in a flat mask; NumPy finds them ten times faster than torch."""
    if mask.device.type != "cpu":
        return mask.view(-1).nonzero()[:, 0]
    return torch.from_numpy(np.flatnonzero(mask.numpy()))


def _merge(limits: Tensor, tile: Tensor) -> Tensor:
    """The ascending order (num_rows, num_limits + num_columns) of limits and entries together, of equal ones the limits first.

    NumPy sorts integers ten times faster than torch sorts with indices: the position goes into the low half of a number whose high
    half has the order of the float32.
    """
    both = torch.cat([limits, tile], dim=1).add_(0.0)  # -0 becomes 0
    if both.dtype != torch.float32 or both.device.type != "cpu":
        return both.sort(dim=1, stable=True).indices
    bits = both.view(torch.int32)
    bits ^= (bits >> 31) & 0x7FFFFFFF
    keys = (bits.long() << 32).bitwise_or_(torch.arange(both.shape[1]))
    keys.numpy().sort(axis=1)
    return keys.bitwise_and_(0xFFFFFFFF)
