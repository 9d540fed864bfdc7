"""Identity: a solver as a layer, at the price of no second solve."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Identity:
    """dL/dw = -dL/dy for y(w) = argmin <w, y>: descent raises the cost of what the loss wants less of.

    No second solver call and no hyper-parameter (Sahoo et al., "Backpropagation through Combinatorial Algorithms: Identity with
    Projection Works", ICLR 2023, equation 3). Needs a projection of the costs: the bare identity moves them in directions
    that leave the solution as it is.
    """

    def save(self, costs: Tensor, solution: Tensor) -> tuple[Tensor, ...]:
        return ()

    def gradient(self, incoming: Tensor, saved: tuple[Tensor, ...], solver: Any) -> Tensor:
        return -incoming
