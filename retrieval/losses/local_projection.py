"""The projections "local" and "softmax", which unlike those of `retrieval.solvers.projections` know what is relevant.

A ranking does not change when a constant is taken off all scores that compete for the same places. Among the permutations of n
numbers, a raised entry displaces those only that compete with it for neighbouring ranks: the Jacobian of the projection onto the
permutahedron takes the mean off within such blocks (Blondel et al., "Fast Differentiable Sorting and Ranking", ICML 2020). A
relevant item p competes with irrelevant ones only, for these are what is counted. What p gains, the others of its block lose by
their shares, and p keeps what is not its own share:

- "local": the block is p and the irrelevant items above it or at most a reach below, all with the same share, which is
  the mean of the block taken off;
- "softmax": it is p and all irrelevant items, with the shares softmax(scores / temperature), which is their soft maximum,
  temperature * logsumexp(scores / temperature), taken off.

Both stand behind "std", whose Jacobian is an orthogonal projection, which takes the directions of the mean and of the scores out,
divided by the norm of the row. They leave the division out: a query whose scores are all alike does not pull harder than others.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from retrieval.solvers.layer import refuse_second_derivative


class LocalProjection(torch.autograd.Function):
    """Leaves projected scores as they are; lets their gradient through in blocks of items that compete, times the norm.

    Takes scores (num_queries, num_references), two boolean masks of their shape, the reach or the temperature
    (num_queries, 1), the other of these two None, and the norm (num_queries, 1) by which the scores were divided.
    """

    @staticmethod
    def forward(
        ctx: Any,
        projected: Tensor,
        relevant: Tensor,
        irrelevant: Tensor,
        reach: Tensor | None,
        temperature: Tensor | None,
        norm: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(projected, relevant, irrelevant, reach, temperature, norm)
        return projected.clone()

    @staticmethod
    def backward(ctx: Any, incoming: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative()
        projected, relevant, irrelevant, reach, temperature, norm = ctx.saved_tensors
        incoming = incoming * norm
        query, item = relevant.nonzero(as_tuple=True)
        ahead = projected[query] - projected[query, item, None]
        logits = ahead / temperature[query] if reach is None else torch.zeros_like(ahead)
        competes = irrelevant[query] if reach is None else irrelevant[query] & (ahead >= -reach[query])
        logits = torch.cat([logits.masked_fill(~competes, -torch.inf), logits.new_zeros(len(query), 1)], dim=1)
        shares = logits.softmax(dim=1)[:, :-1] * incoming[query, item, None]  # the last is the item's own
        gradient = torch.zeros_like(incoming).index_put((query, item), shares.sum(dim=1))
        return gradient.index_add(0, query, -shares), None, None, None, None, None
