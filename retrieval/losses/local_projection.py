"""The projection "local", which unlike those of `retrieval.solvers.projections` knows what is relevant.

Among the permutations of n numbers, a raised entry displaces those only that compete with it for neighbouring ranks: the Jacobian
of the projection onto the permutahedron takes the mean off within such blocks (Blondel et al., "Fast Differentiable Sorting
and Ranking", ICML 2020). Here the block of a relevant item is itself and the irrelevant items above it or less than `reach` below.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from retrieval.solvers.layer import refuse_second_derivative


class LocalProjection(torch.autograd.Function):
    """Leaves projected scores as they are; takes the mean off their gradient within blocks of items that compete.

    Takes scores (num_queries, num_references), two boolean masks of their shape, and the reach (num_queries, 1).
    """

    @staticmethod
    def forward(ctx: Any, projected: Tensor, relevant: Tensor, irrelevant: Tensor, reach: Tensor) -> Tensor:
        ctx.save_for_backward(projected, relevant, irrelevant, reach)
        return projected.clone()

    @staticmethod
    def backward(ctx: Any, incoming: Tensor) -> tuple[Tensor, None, None, None]:
        refuse_second_derivative()
        projected, relevant, irrelevant, reach = ctx.saved_tensors
        query, item = relevant.nonzero(as_tuple=True)
        competes = irrelevant[query] & (projected[query] > projected[query, item, None] - reach[query])
        size = competes.sum(1)
        share = (incoming[query, item] / (size + 1)).masked_fill(size == 0, 0)
        gradient = torch.zeros_like(incoming)
        gradient[query, item] = share * size
        return gradient.index_add(0, query, competes * -share[:, None]), None, None, None
