"""The softmax of rows that are never there as a whole."""

from __future__ import annotations

import torch
from torch import Tensor

FAR = -200.0  # the exponential is 0


class RunningSoftmax:
    """softmax(sharpness * scores) along rows whose columns come some at a time.

    Of each row only the highest score so far is kept, and the sums of e = exp(sharpness * (score - highest)) and of
    e * (score - highest), which are scaled anew when the highest one rises (Milakov and Gimelshein, "Online normalizer calculation
    for softmax", 2018). The lowest number of the dtype stands for an entry that takes no part.

    Args:
        sharpness: (num_rows,) one over the temperature.
        state: `state` of another one with the same sharpness, which has all columns; none of them if left out.
    """

    def __init__(self, sharpness: Tensor, state: Tensor | None = None) -> None:
        self._sharpness = sharpness
        if state is None:
            state = sharpness.new_zeros(3, *sharpness.shape)
            state[0] = torch.finfo(sharpness.dtype).min
        self.state = state
        self._highest, self._sum, self._products = state  # views

    def add(self, found: Tensor) -> None:
        """Takes further columns in, by what `partial` found in them."""
        highest = torch.maximum(self._highest, found[0])
        before, after = (self._rescaled(part, highest) for part in (self.state, found))
        self._sum.copy_(before[0] + after[0])
        self._products.copy_(before[1] + after[1])
        self._highest.copy_(highest)

    def partial(self, scores: Tensor) -> Tensor:
        """The state (3, num_rows) of some columns (num_rows, any) alone. Changes nothing."""
        highest = scores.amax(1)
        below = scores - highest[:, None]
        exponentials = torch.mul(below, self._sharpness[:, None]).exp_()
        return torch.stack([highest, exponentials.sum(1), below.mul_(exponentials).sum(1)])

    def _rescaled(self, state: Tensor, highest: Tensor) -> tuple[Tensor, Tensor]:
        below = ((state[0] - highest) * self._sharpness).clamp(min=FAR)
        return state[1] * below.exp(), (state[2] + state[1] * below / self._sharpness) * below.exp()

    def weights(self, scores: Tensor, totals: Tensor | None = None) -> Tensor:
        """The weights of some columns, when all columns have been added, times the `totals` (num_rows,) of the rows."""
        share = 1 / self._sum if totals is None else totals / self._sum
        some = self._highest > torch.finfo(scores.dtype).min
        top = self._highest.where(some, 0) * self._sharpness
        return (scores * self._sharpness[:, None]).sub_(top[:, None]).exp_().mul_(share[:, None])

    def weight_beside(self, scores: Tensor) -> Tensor:
        """The weight (num_rows, any) of all columns together in a softmax of them and one more score of the row."""
        ahead = (self._highest[:, None] - scores) * self._sharpness[:, None]
        return (ahead + self._sum.log()[:, None]).sigmoid()

    def mean(self) -> Tensor:
        """The mean (num_rows,) of all columns by their weights."""
        return self._highest + self._products / self._sum
