"""The gradients of the closed form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from threading import Lock

import torch
from torch import Tensor
from torch.linalg import vecdot

from retrieval.losses.intruders import block_limits, share_out, slopes
from retrieval.losses.moments import symmetric_product
from retrieval.losses.score_tiles import Scores, Slots
from retrieval.losses.tile import transposed, weigh_reached


def gradients(scores: Scores, grad_losses: Tensor, *, of_references: bool) -> tuple[Tensor, Tensor | None]:
    """The gradients with respect to queries and references; one tensor, their sum, if the references are the queries.

    With s the scores, mu and sigma their mean and norm in a row, the projections pass a gradient g of the projected scores on as
    g (none), g - mean(g) (mean), g / sigma - s <g, s> / sigma^3 (norm), or both (std). All are A + c + b s for two numbers c
    and b of the row, where A = g / sigma. With "spreading", b is smaller by that share. "local" and "softmax" first take g through
    their blocks, and leave out the division.

    Args:
        scores: what the forward pass found.
        grad_losses: (num_queries,).
        of_references: whether separate references want a gradient; those of a memory do not.
    """
    grad_queries = torch.zeros_like(scores.queries)
    grad_references = grad_queries if scores.symmetric else None
    if of_references and not scores.symmetric:
        grad_references = torch.zeros_like(scores.references)
    if scores.settings.local_margin is not None or scores.settings.temperature is not None:
        _add_dense(scores, grad_losses, grad_queries, grad_references)
    else:
        _add_sparse(scores, grad_losses, grad_queries, grad_references)
    return grad_queries, grad_references


def _pull(scores: Scores, grad_losses: Tensor, strip: int, slots: Slots) -> Tensor:
    """(num_rows, slots): the gradient of the projected scores at the slots; minus: the higher the score, the lower the rank."""
    pull = -slopes(scores, strip, slots) * grad_losses[slots.rows, None]
    return pull.masked_fill_(scores.flat[slots.rows, None], 0)


def _add_at_slots(
    scores: Scores, strip: int, part: slice, values: Tensor, grad_queries: Tensor, grad_references: Tensor | None
) -> None:
    """Adds A (R - its mean) and A^T Q for some rows of a strip, where A is `values` at the slots and zero elsewhere.

    Taking the mean off changes nothing where the whole gradient of a row of scores, not only A, sums to 0.
    """
    for rows, span, places in scores.bands(strip, part):
        inside = values[rows.start - part.start : rows.stop - part.start]
        block = inside.new_zeros(len(inside), span.stop - span.start)
        if places is None:
            block[:] = inside[:, : block.shape[1]]
        else:
            block.scatter_add_(1, places, inside)
        if scores.symmetric and rows == span:  # both at once
            both = (block + block.T) @ scores.offset[span]
            grad_queries[rows] += both.addr_(block.sum(0), scores.middle)
            continue
        grad_queries[rows] += block @ scores.offset[span]
        if grad_references is not None:
            grad_references[span] += block.T @ scores.queries[rows]


def _add_sparse(scores: Scores, grad_losses: Tensor, grad_queries: Tensor, grad_references: Tensor | None) -> None:
    """Adds the gradients where A is zero but at the slots: c and b s need only sums over the references and their moments."""
    settings, q, offset = scores.settings, scores.queries, scores.offset
    constant, multiple = q.new_zeros(2, len(q))
    for strip, rows in scores.all_parts():
        slots = scores.slots(strip, rows, scored=settings.scaled)
        pull = _pull(scores, grad_losses, strip, slots) / scores.norm[rows, None]  # ones if it is not scaled
        if settings.centered:
            constant[rows] = -pull.sum(1) / scores.num_candidates
        if settings.scaled:
            along = (pull * (slots.scores - scores.mean[rows, None])).sum(1)
            multiple[rows] = (settings.spreading - 1) * along / scores.norm[rows].square()
        _add_at_slots(scores, strip, rows, pull, grad_queries, grad_references)
    if settings.scaled:
        constant -= multiple * scores.mean
        grad_queries.addcmul_(multiple[:, None], scores.moment_queries)
    own = (constant + multiple * scores.own_score)[:, None]
    if scores.own is not None:
        grad_queries.addcmul_(own, scores.own_offset, value=-1)
    if grad_references is not None:
        if settings.scaled:
            grad_references.addmm_(offset, symmetric_product(q, multiple[:, None] * q))
        grad_references += constant @ q
        if scores.own is not None:
            grad_references.index_add_(0, scores.own, own * q, alpha=-1)


def _add_dense(scores: Scores, grad_losses: Tensor, grad_queries: Tensor, grad_references: Tensor | None) -> None:
    """Adds the gradients of "local" and "softmax", in which irrelevant items have a part too.

    Its tiles are made again, get b (s - mean) added, and are multiplied at once. A constant is not needed: both leave nothing to
    center.
    """
    mirrored = scores.mirrored(0 if scores.settings.local_margin is None else 2)  # a limit and a share
    locks = [Lock() for _ in range(max(len(scores.strips), len(scores.columns)))]
    with scores.workers() as each:
        for strips, tiles in scores.groups(mirrored=mirrored):
            parts = {
                strip: _add_relevant(scores, grad_losses, strip, grad_queries, grad_references) for strip in strips
            }

            def add(strip: int, other: int, parts: dict[int, _Irrelevant] = parts) -> None:
                tile, same = scores.tile(strip, other)
                if tile is None:
                    return
                here, there = scores.strips[strip], scores.columns[other]
                found = parts[strip].gradient(tile, same)
                if mirrored and strip == other:
                    found = found + found.T
                elif mirrored:
                    turned = transposed(tile, scores.widths[other])
                    found = found + parts[other].gradient(turned, None if same is None else same.T).T
                with locks[strip]:
                    grad_queries[here].addmm_(found, scores.references[there])
                if grad_references is not None and not (mirrored and strip == other):
                    with locks[other]:
                        grad_references[there].addmm_(found.T, scores.queries[here])

            each(add, tiles)


@dataclass(frozen=True)
class _Irrelevant:
    """The gradients at the irrelevant items of the queries of a strip.

    Args:
        weigh: from columns of the scores (num_rows, any) to what the items lose.
        multiple: (num_rows,), b.
        mean: (num_rows,) of the scores.
    """

    weigh: Callable[[Tensor], Tensor]
    multiple: Tensor
    mean: Tensor

    def gradient(self, tile: Tensor, same: Tensor | None) -> Tensor:
        """The gradients at some columns, zero where the mask of pairs with the same label is true."""
        constant = -self.multiple * self.mean
        found = (tile * self.multiple[:, None]).add_(constant[:, None]).sub_(self.weigh(tile))
        return found if same is None else found.masked_fill_(same, 0)


def _add_relevant(
    scores: Scores,
    grad_losses: Tensor,
    strip: int,
    grad_queries: Tensor,
    grad_references: Tensor | None,
) -> _Irrelevant:
    """Adds the gradients at the relevant items of the queries of a strip; returns those at the irrelevant ones.

    "softmax": a relevant item keeps what irrelevant items weigh in the softmax of it and them, and they lose that by their softmax
    weights. "local": see `share_out`.
    """
    settings, limits, shares, multiples = scores.settings, [], [], []
    for rows in scores.parts(strip):
        slots = scores.slots(strip, rows)
        pull = settings.slope * _pull(scores, grad_losses, strip, slots)
        if settings.local_margin is not None:
            pull, share = share_out(scores, strip, rows, pull)
            lost = scores.reached[rows] * settings.slope * grad_losses[rows].masked_fill(scores.flat[rows], 0)
            limits.append(block_limits(scores, slots))
        else:
            softmax = scores.softmax(rows)
            pull = pull * softmax.weight_beside(slots.scores + scores.of_middle[rows, None])
            share = pull.sum(1)
            lost = torch.where(share == 0, share, share * softmax.mean())
        shares.append(share)
        total = pull.sum(1)
        centered = (slots.scores - scores.mean[rows, None]).masked_fill_(~slots.relevant, 0)
        along = vecdot(pull, centered) - lost + total * (scores.of_middle[rows] + scores.mean[rows])
        multiples.append((settings.spreading - 1) * along / scores.norm[rows].square())
        pull = pull + multiples[-1][:, None] * centered
        _add_at_slots(scores, strip, rows, pull, grad_queries, grad_references)
        grad_queries[rows].addr_(pull.sum(1), scores.middle)  # the tiles are multiplied by the references themselves
    rows = scores.strips[strip]
    weigh: Callable[[Tensor], Tensor]
    if settings.local_margin is not None:
        weigh = partial(weigh_reached, limits=torch.cat(limits), weights=torch.cat(shares))
    else:
        weigh = partial(scores.softmax(rows).weights, totals=torch.cat(shares))
    return _Irrelevant(weigh, torch.cat(multiples), (scores.mean + scores.of_middle)[rows])
