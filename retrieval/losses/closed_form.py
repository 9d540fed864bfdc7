"""The recall loss from embeddings, without the matrix of scores.

The gradient of the loss with respect to the scores of one query, taken by identity with projection, is a sparse part (the slope
of the weighting at each relevant item), plus a constant, plus a multiple of the scores themselves. With G = A + c 1^T + diag(b) S,
where S = Q R^T, the gradients G R and G^T Q need only sums over the references and d x d matrices, never G or S. The forward pass
needs one number for each relevant pair, how many irrelevant references score as high, and counts it tile by tile. The projections
"local" and "softmax" add a part W that is not sparse; its tiles are made again in the backward pass and multiplied at once.

One product of all scores is all the arithmetic that grows with the square of the batch (three for those two projections), half of
it where a batch is its own reference; memory grows with the rows only. Both also grow with the size of the largest class: counts
are kept for every pair of a row and a relevant reference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.linalg import vecdot, vector_norm

from retrieval.losses.running_softmax import RunningSoftmax
from retrieval.solvers import two_point
from retrieval.solvers.layer import refuse_second_derivative

TILE = 512  # rows and columns of the scores that exist at one time: a megabyte, which stays in a core's cache
TILE_ON_DEVICES = 8192  # the same where starting an operation costs more than its memory
BAND = 64  # rows whose relevant scores are computed at one time, together with those of their neighbours
ENTRIES = 1 << 21  # scores that exist at one time where a row is measured entry by entry


@dataclass(frozen=True)
class Settings:
    """What the engine is asked for; the words of `retrieval.losses.recall` in numbers.

    Args:
        centered: the projection takes the mean off.
        scaled: the projection divides by the norm.
        weight: w(r) for a tensor of intruders r.
        noise: alpha of the two-point noise, in units of the projected scores.
        margin: by how much a relevant item must be above an irrelevant one, in the same units.
        local_margin: reach of the local projection below a relevant item, in standard deviations of the row; None: not local.
        temperature: of the projection "softmax", in the same units; None: not this projection.
        slope: of a score by the inner product; only the gradients of "local" and "softmax" depend on it.
        generator: source of the noise.
        unit: divides embeddings by their norms first.
    """

    centered: bool
    scaled: bool
    weight: Callable[[Tensor], Tensor]
    noise: float = 0.0
    margin: float = 0.0
    local_margin: float | None = None
    temperature: float | None = None
    slope: float = 1.0
    generator: torch.Generator | None = None
    unit: bool = False


class ClosedForm(NamedTuple):
    """What the engine found for each query.

    Args:
        losses: (num_queries,), differentiable; 0 for a query without a relevant reference.
        num_relevant: (num_queries,).
        intruders: (num_queries, slots) irrelevant references above each relevant one, 0 in empty slots.
        spread: (num_queries,) standard deviation of the candidates' scores; only with the settings of "std", "local" and "softmax".
    """

    losses: Tensor
    num_relevant: Tensor
    intruders: Tensor
    spread: Tensor


def closed_form(
    queries: Tensor,
    references: Tensor | None,
    labels: Tensor,
    ref_labels: Tensor,
    settings: Settings,
    own: Tensor | None = None,
) -> ClosedForm:
    """The loss of every query against references of its own and other labels.

    Args:
        queries: (num_queries, dim), float32 or float64; the score is the inner product.
        references: (num_references, dim); None for the queries themselves, each without its own entry.
        labels: (num_queries,) labels of the queries, of a signed or floating dtype.
        ref_labels: (num_references,) labels of the references in the same dtype, `labels` again if these are the queries.
        settings: projection, weighting, noise.
        own: (num_queries,) places of the queries' own copies, no candidates, among separate references; None if there are none.

    Scores that differ by no more than the rounding of an inner product are ties, and an irrelevant reference that ties with a
    relevant one counts as above it.
    """
    labels, order = labels.sort(stable=True)
    if references is None:
        ref_labels, own = labels, torch.arange(len(labels), device=labels.device)
    else:
        ref_labels, ref_order = ref_labels.sort(stable=True)
        references = _sorted_rows(references, ref_order, settings.unit)
        own = None if own is None else ref_order.argsort()[own[order]]
    queries = _sorted_rows(queries, order, settings.unit)
    found = _ClosedForm.apply(queries, references, labels, ref_labels, own, settings)
    return ClosedForm(*(torch.zeros_like(values).index_copy(0, order, values) for values in found))


def _sorted_rows(rows: Tensor, order: Tensor, unit: bool) -> Tensor:
    return cast(Tensor, _UnitRows.apply(rows, order)) if unit else rows.index_select(0, order)


class _UnitRows(torch.autograd.Function):
    """Rows in another order, of norm 1: one step with one copy, where fresh memory costs more than the arithmetic."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, order: Tensor) -> Tensor:
        found = rows.index_select(0, order)
        norms = vector_norm(found, dim=1, keepdim=True).clamp(min=1e-12)
        ctx.save_for_backward(found.div_(norms), norms, order)
        return found

    @staticmethod
    def backward(ctx: Any, incoming: Tensor) -> tuple[Tensor, None]:
        refuse_second_derivative()
        found, norms, order = ctx.saved_tensors
        # Not vecdot, which an autocast around the backward pass would round.
        along = (found * incoming).sum(1, keepdim=True)
        across = incoming.addcmul(along, found, value=-1).div_(norms)
        return torch.empty_like(across).index_copy_(0, order, across), None


class _ClosedForm(torch.autograd.Function):
    """Takes what `_Scores` takes; returns the fields of `ClosedForm`, in sorted order."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, *others: Any) -> tuple[Tensor, ...]:
        scores = _Scores(queries, *others)
        scores.count_intruders()
        losses = scores.weigh_intruders(scores.intruders)
        # Comparisons hide what is not finite; a diverged network must show in the loss.
        losses = losses + 0 * (queries.sum(1) + scores.references.sum())
        found = scores.num_relevant, scores.intruders, scores.spread
        ctx.mark_non_differentiable(*found)
        tensors = {name: value for name, value in vars(scores).items() if isinstance(value, Tensor)}
        ctx.save_for_backward(*tensors.values())  # freed after the backward pass, unlike attributes of ctx
        ctx.names, ctx.others = list(tensors), {n: v for n, v in vars(scores).items() if n not in tensors}
        return losses, *found

    @staticmethod
    def backward(ctx: Any, grad_losses: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        refuse_second_derivative()
        scores = object.__new__(_Scores)
        vars(scores).update(ctx.others, **dict(zip(ctx.names, ctx.saved_tensors, strict=True)))
        with torch.autocast(grad_losses.device.type, enabled=False):  # the backward pass may be called inside one
            pull = -scores.slopes() * grad_losses[:, None]  # minus: the higher the score, the lower the rank
            grad_queries, grad_references = _gradients(scores, pull, of_references=ctx.needs_input_grad[1])
        return grad_queries, None if scores.symmetric else grad_references, None, None, None, None


class _Scores:
    """The scores of queries against references, of which only tiles ever exist, and what is known of each row.

    Queries and references are sorted by label, so that the relevant references of a query lie side by side: in the columns
    `slots` (num_queries, most references of a label), where `relevant`, of the same shape, is true.
    """

    def __init__(
        self,
        queries: Tensor,
        references: Tensor | None,
        labels: Tensor,
        ref_labels: Tensor,
        own: Tensor | None,
        settings: Settings,
    ) -> None:
        self.settings, self.own = settings, own
        self.symmetric = references is None
        self.queries, self.references = queries, queries if references is None else references
        self.labels, self.ref_labels = labels, ref_labels
        self.first, last = (torch.searchsorted(ref_labels, labels, right=right) for right in (False, True))
        widest = max(1, int((last - self.first).max()))
        self.slots = self.first[:, None] + torch.arange(widest, device=labels.device)
        self.relevant = self.slots < last[:, None]
        if own is not None:
            self.relevant &= self.slots != own[:, None]
        self.num_relevant = self.relevant.sum(1)
        self.num_candidates = max(len(ref_labels) - (own is not None), 1)
        self._same_label = self.first.tolist(), last.tolist()
        self._measure_rows()
        if settings.scaled:
            self._measure_norms()

    def _measure_rows(self) -> None:
        """Mean of the candidates' scores, and the scores of the slots, both less the score of the mean reference."""
        q, r = self.queries, self.references
        self.largest = vector_norm(q, dim=1) * vector_norm(r, dim=1).max()  # a bound of each query's scores
        self.middle = r.mean(0) if self.settings.centered else torch.zeros_like(r[0])
        self.offset = r - self.middle
        self.own_offset = self.offset if self.symmetric or self.own is None else self.offset[self.own]
        self.own_score = q.new_zeros(len(q)) if self.own is None else vecdot(q, self.own_offset)
        self.mean = -self.own_score / self.num_candidates if self.settings.centered else q.new_zeros(len(q))
        bands = ((q[rows] @ self.offset[span].T).gather(1, places) for rows, span, places in self.bands())
        self.slot_scores = torch.cat(list(bands))
        self.norm = self.spread = q.new_ones(len(q))
        self.flat = torch.zeros_like(self.num_relevant, dtype=torch.bool)

    def _measure_norms(self) -> None:
        q = self.queries
        self.moment_queries = q @ (self.offset.T @ self.offset)
        everything = vecdot(self.moment_queries, q)
        squares = everything - self.own_score.square() - self.num_candidates * self.mean.square()
        # Where the row's own entry is most of the sum, the difference is rounding: such rows, rare but for tiny batches and
        # collapsed embeddings, are measured entry by entry.
        for rows in torch.where(squares <= 0.05 * everything)[0].split(max(1, ENTRIES // len(self.offset))):
            entries = q[rows] @ self.offset.T - self.mean[rows, None]
            if self.own is not None:
                entries.scatter_(1, self.own[rows, None], 0)
            squares[rows] = entries.square().sum(1)
        norm = squares.clamp(min=0).sqrt()
        self.spread = norm / self.num_candidates**0.5
        floor = 4 * torch.finfo(q.dtype).eps * self.num_candidates**0.5
        self.flat = norm <= (floor * self.largest if self.settings.centered else 0)
        self.norm = norm.masked_fill(self.flat, 1)

    def bands(self) -> Iterator[tuple[slice, slice, Tensor]]:
        """Some rows at a time, a span of columns with all their slots, and the slots' places in it (rows, slots)."""
        for top in range(0, len(self.queries), BAND):
            rows = slice(top, min(top + BAND, len(self.queries)))
            left = min(self._same_label[0][top], len(self.references) - 1)
            span = slice(left, max(self._same_label[1][rows.stop - 1], left + 1))
            yield rows, span, (self.slots[rows] - left).clamp(max=span.stop - left - 1)

    def tiles(self) -> Iterator[tuple[slice, slice, Tensor]]:
        """Tiles of the scores, those of pairs with the same label lowered out of sight.

        Without separate references only tiles on and above the diagonal come: the others are their mirror images.
        """
        num_rows, num_columns = len(self.queries), len(self.references)
        side = TILE if self.queries.device.type == "cpu" else TILE_ON_DEVICES
        for top in range(0, num_rows, side):
            rows = slice(top, min(top + side, num_rows))
            for left in range(top if self.symmetric else 0, num_columns, side):
                columns = slice(left, min(left + side, num_columns))
                tile = self.queries[rows] @ self.references[columns].T
                if self._same_label[0][top] < columns.stop and left < self._same_label[1][rows.stop - 1]:
                    same = self.labels[rows, None] == self.ref_labels[columns]
                    tile.masked_fill_(same, torch.finfo(tile.dtype).min)
                yield rows, columns, tile

    def thresholds(self, below: Tensor) -> Tensor:
        """(num_queries, slots): what an irrelevant score must reach to count against a slot, so that it counts if it ties with
        the relevant score; infinite in empty slots.

        Args:
            below: (num_queries,) by how much it may be below the relevant score.
        """
        rounding = 4 * torch.finfo(self.queries.dtype).eps * self.largest
        rounding = rounding.where(~self.flat, 2 * self.num_candidates**0.5 * rounding)
        return (self.raw_slots() - (rounding + below)[:, None]).masked_fill_(~self.relevant, torch.inf)

    def count_intruders(self) -> None:
        """Counts the intruders of each slot and, for the local projection, the rivals in its block: (num_queries, slots)."""
        settings, deviation = self.settings, self.norm / self.num_candidates**0.5
        limits = self._with_noise(self.thresholds(settings.margin * self.norm), slice(None), settings.noise)
        counted = [(limits, torch.zeros_like(limits), settings.noise)]
        if settings.local_margin is not None:
            self.block_limits = self.thresholds(settings.local_margin * deviation)
            counted.append((self.block_limits, torch.zeros_like(limits), 0.0))
        if settings.temperature is not None:
            self.sharpness = 1 / (settings.temperature * deviation)
            softmax = RunningSoftmax(self.sharpness)
        for rows, columns, tile in self.tiles():
            mirrored = [(columns, tile.T)] if self.symmetric and rows != columns else []
            for here, part in [(rows, tile), *mirrored]:
                for limits, counts, noise in counted:
                    counts[here] += _count_above(self._with_noise(part, here, noise), limits[here])
                if settings.temperature is not None:
                    softmax.add(part, here)
        self.intruders, self.rivals = counted[0][1], counted[-1][1]
        if settings.temperature is not None:
            self.softmax_state = softmax.state

    def weigh_intruders(self, intruders: Tensor) -> Tensor:
        """The losses of the queries: the mean of w(r) over their relevant references."""
        weights = self.settings.weight(intruders).masked_fill(~self.relevant, 0)
        return weights.sum(1) / self.num_relevant.clamp(min=1)

    def slopes(self) -> Tensor:
        """(num_queries, slots): the derivative of a query's loss by the intruders of each slot."""
        with torch.enable_grad():
            intruders = self.intruders.detach().requires_grad_()
            (found,) = torch.autograd.grad(self.weigh_intruders(intruders).sum(), intruders)
        return found

    def raw_slots(self) -> Tensor:
        """(num_queries, slots): the scores of the slots as tiles have them."""
        return self.slot_scores + (self.queries @ self.middle)[:, None]

    def weigh(self, tile: Tensor, rows: slice, shares: Tensor) -> Tensor:
        """What the entries of a tile take of their rows' `shares`, see `_add_dense_gradients`."""
        if self.settings.temperature is None:
            return _weigh_above(tile, self.block_limits[rows], shares[rows])
        return self.softmax().weights(tile, rows).mul_(shares[rows])

    def softmax(self) -> RunningSoftmax:
        return RunningSoftmax(self.sharpness, self.softmax_state)

    def _with_noise(self, tile: Tensor, rows: slice, noise: float) -> Tensor:
        if not noise:
            return tile
        return tile + two_point(tile, noise, generator=self.settings.generator) * self.norm[rows, None]


def _count_above(tile: Tensor, limits: Tensor) -> Tensor:
    """How many entries of each row of `tile` reach each of the row's limits (rows, slots).

    Comparing into a buffer of floats and summing that costs a hundredth of the product that made the tile; a boolean tile, which
    is summed as integers, costs more than the product.
    """
    above = torch.empty_like(tile)
    by_slot = limits.T.contiguous()  # strided limits compare forty times slower
    return torch.stack([torch.ge(tile, limit[:, None], out=above).sum(1) for limit in by_slot], dim=1)


def _weigh_above(tile: Tensor, limits: Tensor, weights: Tensor) -> Tensor:
    """For each entry of `tile` the sum of the weights (rows, slots) of those limits of its row that it reaches."""
    above, total = torch.empty_like(tile), torch.zeros_like(tile)
    for limit, weight in zip(limits.T.contiguous(), weights.T.contiguous(), strict=True):
        total.addcmul_(torch.ge(tile, limit[:, None], out=above), weight[:, None])
    return total


def _gradients(scores: _Scores, pull: Tensor, *, of_references: bool) -> tuple[Tensor, Tensor | None]:
    """The gradients with respect to queries and references; one tensor, their sum, if the references are the queries.

    With s the scores, mu and sigma their mean and norm in a row, the projections pass a gradient g of the projected scores on as
    g (none), g - mean(g) (mean), g / sigma - s <g, s> / sigma^3 (norm), or both (std). All are A + c + b s for two numbers c
    and b of the row, where A = g / sigma. "local" and "softmax" first take g through their blocks, and leave out the division.

    Args:
        scores: what the forward pass found.
        pull: (num_queries, slots), g at the slots.
        of_references: whether separate references want a gradient; those of a memory do not.
    """
    settings, q, offset = scores.settings, scores.queries, scores.offset
    grad_queries = torch.zeros_like(q)
    grad_references = grad_queries if scores.symmetric else torch.zeros_like(offset) if of_references else None
    constant, multiple, along = q.new_zeros(3, len(q))
    pull = pull.masked_fill(scores.flat[:, None], 0)
    if settings.local_margin is not None or settings.temperature is not None:  # they leave nothing to center
        pull, along = _add_dense_gradients(scores, settings.slope * pull, grad_queries, grad_references)
    else:
        pull = pull / scores.norm[:, None]  # ones if it is not scaled
        if settings.centered:
            constant = -pull.sum(1) / scores.num_candidates

    for rows, span, places in scores.bands():  # A R and A^T Q, where A is `pull` at the slots and zero elsewhere
        block = q.new_zeros(len(places), span.stop - span.start).scatter_add_(1, places, pull[rows])
        grad_queries[rows] += block @ offset[span]
        if grad_references is not None:
            grad_references[span] += block.T @ q[rows]
    if settings.scaled:
        along = along + (pull * (scores.slot_scores - scores.mean[:, None])).sum(1)
        multiple = -along / scores.norm.square()
        constant = constant - multiple * scores.mean
        grad_queries.addcmul_(multiple[:, None], scores.moment_queries)
    own = (constant + multiple * scores.own_score)[:, None]
    if scores.own is not None:
        grad_queries.addcmul_(own, scores.own_offset, value=-1)
    if grad_references is not None:
        if settings.scaled:
            grad_references.addmm_(offset, q.T @ (multiple[:, None] * q))
        grad_references += constant @ q
        if scores.own is not None:
            grad_references.index_add_(0, scores.own, own * q, alpha=-1)
    return grad_queries, grad_references


def _add_dense_gradients(
    scores: _Scores, pull: Tensor, grad_queries: Tensor, grad_references: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Adds the part of the gradients that is not sparse, that of irrelevant items in the projections "local" and "softmax".

    "local": a relevant item and its k rivals, the irrelevant items above it or below it by less than the margin, make a block in
    which the mean is taken off: the item keeps k / (k + 1) of its pull, and each rival gets -1 / (k + 1) of it. "softmax": the item
    keeps what irrelevant items weigh in the softmax of it and them, and they get minus that by their softmax weights.

    Returns:
        What the slots keep (num_queries, slots), and <A, s - mean> of the rest (num_queries,).
    """
    q = scores.queries
    if scores.settings.temperature is None:
        shares = (pull / (scores.rivals + 1)).masked_fill(scores.rivals == 0, 0)
        pull = shares * scores.rivals
    else:
        pull = pull * scores.softmax().weight_beside(scores.raw_slots())
        shares = pull.sum(1, keepdim=True)
    total = pull.sum(1)  # what the others lose
    along = q.new_zeros(len(q))
    for here, there, tile in scores.tiles():
        weights = scores.weigh(tile, here, shares)
        along[here] -= vecdot(weights, tile)
        if scores.symmetric and here != there:  # the mirror image takes part in both products
            mirrored = scores.weigh(tile.T, there, shares)
            along[there] -= vecdot(mirrored, tile.T)
            weights += mirrored.T
        grad_queries[here].addmm_(weights, scores.references[there], alpha=-1)
        if grad_references is not None:
            grad_references[there].addmm_(weights.T, q[here], alpha=-1)
    grad_queries.addr_(total, scores.middle)  # above, the references stood in place of their offsets from the mean
    return pull, along + total * (q @ scores.middle + scores.mean)
