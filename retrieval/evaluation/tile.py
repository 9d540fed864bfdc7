"""How many scores of a row are above each of some limits, in two ways: by comparing with all of them, and by sorting them.

A limit is a range, from `low` to `high`. What is above it is counted; whether anything is within is told, for others to look at.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

TILE = 512  # rows and columns: a megabyte, which stays in a core's cache; NumPy is many times slower with longer rows to sort
COMPARED = 4  # up to so many limits of a row are compared with in less time than the row takes to be sorted


def count_above(tile: Tensor, scratch: Tensor, low: Tensor, high: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Counts in whichever way is faster.

    Args:
        tile: (num_rows, num_columns) scores, dense, or the transpose of such.
        scratch: (num_rows * num_columns,) a buffer.
        low: (num_limits, num_rows).
        high: (num_limits, num_rows).

    Returns:
        Of each limit the number of scores above `high`, and whether there are any above `low` but not above `high`:
        (num_limits, num_rows) each.
    """
    count = _by_comparing if len(high) <= COMPARED else _by_sorting
    return count(tile, scratch, low, high)


def _by_comparing(tile: Tensor, scratch: Tensor, low: Tensor, high: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Comparing into a buffer of floats and summing that is several times as fast as with a buffer of booleans."""
    compared = scratch.as_strided(tile.shape, tile.stride())
    surely, perhaps = (
        torch.stack([torch.gt(tile, limit[:, None], out=compared).sum(1) for limit in limits]).int().numpy()
        for limits in (high, low)
    )
    return surely, perhaps > surely


def _by_sorting(tile: Tensor, scratch: Tensor, low: Tensor, high: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """NumPy sorts, torch searches: it would take ten times as long to sort."""
    ascending = scratch.view(tile.shape).copy_(tile)
    ascending.numpy().sort(axis=1)
    places = torch.searchsorted(ascending, high.T.contiguous(), right=True)  # how many are not above
    nearest = ascending.gather(1, (places - 1).clamp(min=0))
    within = (places > 0) & (nearest > low.T)
    return (tile.shape[1] - places).T.numpy(), within.T.numpy()
