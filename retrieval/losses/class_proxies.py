"""The class proxies as a second list of candidates, in which only the proxy of the query's own class is relevant.

For a query of class y with scores x_1 .. x_C against the proxies, the intruders are r = rk(x)_y - 1: the other proxies that score
as high as the own one. The loss of the list is w(r), with the weighting of the batch's list. Its gradient is taken by identity with
the projection P(x) = x - t logsumexp(x / t), which takes the soft maximum at an absolute temperature t off. That is the same number
for all scores, so their ranking stays. Identity turns dw / drk_y = w'(r) into -w'(r) at y and 0 elsewhere, and the Jacobian of P,
I - 1 softmax(x / t)^T, turns this into

    w'(r) (softmax(x / t) - onehot(y)),

which is w'(r) t times the gradient of the cross-entropy of softmax(x / t), the normalised softmax loss. Nothing is divided by the
spread of the scores, nor with the projections "softmax" and "local" of the batch's list, so that both gradients have one unit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.linalg import vector_norm

from retrieval.losses.running_softmax import RunningSoftmax
from retrieval.losses.score_matrix import rank_as_scores
from retrieval.losses.tile import count_reached
from retrieval.solvers import solve
from retrieval.solvers.layer import refuse_second_derivative

ENTRIES = 1 << 21  # scores that exist at one time
LEAST = 512  # proxies of a tile

Weight = Callable[[Tensor], Tensor]


def proxy_losses(scores: Tensor, labels: Tensor, weight: Weight, temperature: float) -> tuple[Tensor, Tensor]:
    """The definition, which holds the whole matrix of scores.

    Args:
        scores: (num_queries, num_classes), higher is closer.
        labels: (num_queries,) int64, in 0 .. num_classes - 1.
        weight: w(r) for a tensor of intruders r.
        temperature: of the soft maximum, in units of the scores.

    Returns:
        Losses, differentiable, and intruders, both (num_queries,).
    """
    soft_maximum = temperature * (scores / temperature).logsumexp(dim=1, keepdim=True)
    intruders = solve(scores - soft_maximum, rank_as_scores).gather(1, labels[:, None])[:, 0] - 1
    return weight(intruders), intruders.detach()


def proxy_losses_of_inner_products(
    queries: Tensor, proxies: Tensor, labels: Tensor, weight: Weight, temperature: float, slope: float = 1.0
) -> tuple[Tensor, Tensor]:
    """`proxy_losses` for scores slope <query, proxy> + constant, of which only tiles exist, in the backward pass too.

    Scores that differ by no more than the rounding of an inner product are ties.

    Args:
        queries: (num_queries, dim), float32 or float64.
        proxies: (num_classes, dim) of the same dtype, at least two.
        labels: (num_queries,) int64, in 0 .. num_classes - 1.
        weight: w(r) for a tensor of intruders r.
        temperature: of the soft maximum, in units of the scores.
        slope: of the scores by the inner product.

    Returns:
        Losses, differentiable, and intruders, both (num_queries,).
    """
    losses, intruders = _ProxyLosses.apply(queries, proxies, labels, weight, temperature / slope, slope)
    return losses, intruders


class _ProxyLosses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, proxies: Tensor, labels: Tensor, weight: Weight, temperature: float, slope: float
    ) -> tuple[Tensor, Tensor]:
        own = (queries * proxies[labels]).sum(1)
        rounding = 4 * torch.finfo(queries.dtype).eps * vector_norm(queries, dim=1) * vector_norm(proxies, dim=1).max()
        softmax = RunningSoftmax(torch.full_like(own, 1 / temperature))  # over the other proxies
        intruders = torch.zeros_like(own)
        for _, tile, _ in _tiles(queries, proxies, labels):
            intruders += count_reached(tile, (own - rounding)[:, None])[0][:, 0]
            softmax.add(softmax.partial(tile))
        # Comparisons hide what is not finite; a diverged network must show in the loss.
        losses = weight(intruders) + 0 * (queries.sum(1) + proxies.sum())
        ctx.mark_non_differentiable(intruders)
        ctx.save_for_backward(queries, proxies, labels, own, intruders, softmax.state)
        ctx.weight, ctx.temperature, ctx.slope = weight, temperature, slope
        return losses, intruders

    @staticmethod
    def backward(ctx: Any, grad_losses: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        refuse_second_derivative()
        queries, proxies, labels, own, intruders, state = ctx.saved_tensors
        with torch.enable_grad():
            counts = intruders.detach().requires_grad_()
            (slopes,) = torch.autograd.grad(ctx.weight(counts).sum(), counts)
        softmax = RunningSoftmax(torch.full_like(own, 1 / ctx.temperature), state)
        pull = ctx.slope * slopes * grad_losses * softmax.weight_beside(own[:, None])[:, 0]
        grads: list[Tensor | None] = [
            torch.zeros_like(part) if needed else None
            for part, needed in zip((queries, proxies), ctx.needs_input_grad, strict=False)
        ]
        grad_queries, grad_proxies = grads
        with torch.autocast(queries.device.type, enabled=False):  # the backward pass may be called inside one
            for columns, tile, mine in _tiles(queries, proxies, labels):
                gradient = softmax.weights(tile, pull)
                gradient[mine] = -pull[mine[0]]
                if grad_queries is not None:
                    grad_queries.addmm_(gradient, proxies[columns])
                if grad_proxies is not None:
                    torch.mm(gradient.T, queries, out=grad_proxies[columns])
        return grad_queries, grad_proxies, None, None, None, None


def _tiles(queries: Tensor, proxies: Tensor, labels: Tensor) -> Iterator[tuple[slice, Tensor, tuple[Tensor, Tensor]]]:
    """Some proxies at a time, their scores, those of the own classes lowered out of sight, and the places of the latter."""
    step = max(LEAST, ENTRIES // len(queries))
    for start in range(0, len(proxies), step):
        columns = slice(start, min(start + step, len(proxies)))
        tile = queries @ proxies[columns].T
        rows = ((labels >= columns.start) & (labels < columns.stop)).nonzero()[:, 0]
        mine = rows, labels[rows] - start
        tile[mine] = torch.finfo(tile.dtype).min
        yield columns, tile, mine
