"""Projections: maps of the costs that leave the solver's answer unchanged.

Put before the solver and differentiated as usual, a projection removes from the gradient the directions in which moving the
costs changes nothing (Sahoo et al., ICLR 2023, section 3.4). All work along the last dimension, of shape (..., n), and take an
optional mask of the same shape: entries outside it do not take part, come out as zero, and receive no gradient.
A flat row, in which all entries are equal, comes out as zeros with a zero gradient.
Where a problem is a matrix of costs, as in `match`, `whole` makes them work on all of it at once.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def center(costs: Tensor, mask: Tensor | None = None) -> Tensor:
    """costs - mean(costs): valid where all solutions have the same sum (rankings, k-subsets, assignments)."""
    if mask is None:
        return costs - costs.mean(dim=-1, keepdim=True)
    inside = costs.masked_fill(~mask, 0)
    mean = inside.sum(dim=-1, keepdim=True) / mask.sum(dim=-1, keepdim=True).clamp(min=1)
    return (inside - mean).masked_fill(~mask, 0)


def normalize(costs: Tensor, mask: Tensor | None = None) -> Tensor:
    """costs / ||costs||: valid for every solver with a linear objective, since the scale of the costs does not matter."""
    inside = costs if mask is None else costs.masked_fill(~mask, 0)
    return _divide_by_norm(inside, floor=torch.zeros_like(inside[..., :1]))


def standardize(costs: Tensor, mask: Tensor | None = None, *, spreading: float = 0.0) -> Tensor:
    """`normalize(center(costs))`: a unit vector that sums to zero. Divides by the L2 norm, not by the standard deviation.

    Args:
        costs: (..., n).
        mask: of the same shape.
        spreading: the share that is kept of the gradient along the centred costs. The norm takes it out, since moving along it
            only spreads the costs: 0 keeps nothing of it, and 1 takes the norm for a constant.
    """
    inside = costs if mask is None else costs.masked_fill(~mask, 0)
    return _divide_by_norm(center(costs, mask), floor=rounding_floor(inside), spreading=spreading)


def whole(projection: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The projection of all costs (..., n, m) of an assignment at once; `normalize` of each row alone would change the solution."""
    return lambda costs: projection(costs.flatten(-2)).view_as(costs)


def rounding_floor(costs: Tensor) -> Tensor:
    """The norm (..., 1) below which a centred row is rounding error only, that is: the row was flat."""
    with torch.no_grad():
        largest = costs.abs().amax(dim=-1, keepdim=True)
        return 4 * torch.finfo(costs.dtype).eps * costs.shape[-1] ** 0.5 * largest


def _divide_by_norm(costs: Tensor, floor: Tensor, spreading: float = 0.0) -> Tensor:
    norm = torch.linalg.vector_norm(costs, dim=-1, keepdim=True)
    flat = norm <= floor
    if spreading:
        norm = norm.detach().lerp(norm, 1 - spreading) if spreading < 1 else norm.detach()
    return (costs / norm.masked_fill(flat, 1)).masked_fill(flat, 0)
