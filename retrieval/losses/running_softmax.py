"""The softmax of rows that are never there as a whole."""

from __future__ import annotations

import torch
from torch import Tensor


class RunningSoftmax:
    """softmax(sharpness * scores) along rows whose columns come some at a time.

    Of each row only the highest score so far is kept, and the sum of exp(sharpness * (score - highest)), which is scaled anew when
    the highest one rises (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018).

    Args:
        scores: (num_rows, num_columns) the first columns, at least one.
        sharpness: (num_rows,) one over the temperature.
    """

    def __init__(self, scores: Tensor, sharpness: Tensor) -> None:
        self._sharpness = sharpness
        self._highest = scores.amax(1)
        self._sum = self._exponentials(scores, slice(None)).sum(1)

    def add(self, scores: Tensor, rows: slice) -> None:
        """Takes further columns of some rows (rows, num_columns) in."""
        before = self._highest[rows].clone()
        self._highest[rows] = torch.maximum(before, scores.amax(1))
        self._sum[rows] *= ((before - self._highest[rows]) * self._sharpness[rows]).exp()
        self._sum[rows] += self._exponentials(scores, rows).sum(1)

    def weights(self, scores: Tensor, rows: slice) -> Tensor:
        """The weights of some columns of some rows, when all columns have been added."""
        return self._exponentials(scores, rows).div_(self._sum[rows, None])

    def _exponentials(self, scores: Tensor, rows: slice) -> Tensor:
        return (scores - self._highest[rows, None]).mul_(self._sharpness[rows, None]).exp_()
