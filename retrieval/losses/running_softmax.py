"""The softmax of rows that are never there as a whole."""

from __future__ import annotations

import torch
from torch import Tensor


class RunningSoftmax:
    """softmax(sharpness * scores) along rows whose columns come some at a time.

    Of each row only the highest score so far is kept, and the sum of exp(sharpness * (score - highest)), which is scaled anew when
    the highest one rises (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018). The lowest number of the
    dtype stands for an entry that takes no part.

    Args:
        sharpness: (num_rows,) one over the temperature.
        state: `state` of another one with the same sharpness, which has all columns; none of them if left out.
    """

    def __init__(self, sharpness: Tensor, state: Tensor | None = None) -> None:
        self._sharpness = sharpness
        lowest = torch.full_like(sharpness, torch.finfo(sharpness.dtype).min)
        self.state = torch.stack([lowest, torch.zeros_like(sharpness)]) if state is None else state
        self._highest, self._sum = self.state  # views

    def add(self, scores: Tensor, rows: slice) -> None:
        """Takes further columns of some rows (rows, num_columns) in."""
        before = self._highest[rows].clone()
        self._highest[rows] = torch.maximum(before, scores.amax(1))
        self._sum[rows] *= ((before - self._highest[rows]) * self._sharpness[rows]).exp()
        self._sum[rows] += self._exponentials(scores, rows).sum(1)

    def weights(self, scores: Tensor, rows: slice) -> Tensor:
        """The weights of some columns of some rows, when all columns have been added."""
        return self._exponentials(scores, rows).div_(self._sum[rows, None])

    def weight_beside(self, scores: Tensor) -> Tensor:
        """The weight (num_rows, any) of all columns together in a softmax of them and one more score of the row."""
        ahead = (self._highest[:, None] - scores) * self._sharpness[:, None]
        return (ahead + self._sum.log()[:, None]).sigmoid()

    def _exponentials(self, scores: Tensor, rows: slice) -> Tensor:
        return (scores - self._highest[rows, None]).mul_(self._sharpness[rows, None]).exp_()
