"""Blackbox: the gradient of a piecewise linear interpolation of the loss, at the price of a second solve."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Blackbox:
    """dL/dw = (y(w + lambda dL/dy) - y(w)) / lambda for y(w) = argmin <w, y>.

    Calls the solver once more in the backward pass (Vlastelica et al., "Differentiation of Blackbox Combinatorial Solvers",
    ICLR 2020; Rolinek et al., CVPR 2020, algorithm 1, for ranking).

    Args:
        lambda_: how far the costs are moved, in units of costs per unit of dL/dy; above 0. Too small and the solution
            does not change, so that the gradient is 0; too large and it says little about the costs at hand. What multiplies
            the loss, such as the scale of float16 training, acts as another lambda; `retrieval.losses` take it out.
    """

    lambda_: float

    def __post_init__(self) -> None:
        if not self.lambda_ > 0:
            raise ValueError(f"lambda_ is {self.lambda_}, expected above 0")

    def save(self, costs: Tensor, solution: Tensor) -> tuple[Tensor, ...]:
        return costs, solution

    def gradient(self, incoming: Tensor, saved: tuple[Tensor, ...], solver: Callable[[Tensor], Tensor]) -> Tensor:
        costs, solution = saved
        return (solver(costs + self.lambda_ * incoming) - solution) / self.lambda_
