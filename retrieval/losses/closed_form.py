"""The recall loss from embeddings, without the matrix of scores.

The gradient of the loss with respect to the scores of one query, taken by identity with projection, is a sparse part (the slope
of the weighting at each relevant item), plus a constant, plus a multiple of the scores themselves. With G = A + a 1^T + diag(b) S,
where S = Q R^T, the gradients G R and G^T Q need only sums over the references and d x d matrices, never G or S. The forward pass
needs one number for each relevant pair, how many irrelevant references score higher, and counts it tile by tile. The projection
"local" adds a part W that is not sparse; its tiles are made again in the backward pass and multiplied at once.

Everything here works on rows sorted by label, in which the references of a label lie side by side ("slots" first .. first + size).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from retrieval.solvers import two_point
from retrieval.solvers.layer import refuse_second_derivative

TILE = (1024, 2048)  # rows and columns of the scores that exist at one time
OWN_TILE = (512, 512)  # the same where mirror images are left out: those of the tiles on the diagonal are not
GATHERED = 1 << 18  # entries of gathered embeddings that exist at one time
CHUNK = 1 << 18  # entries compared at one time: a megabyte, which stays in a core's cache


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
        generator: source of the noise.
        unit: divides embeddings by their norms first.
    """

    centered: bool
    scaled: bool
    weight: Callable[[Tensor], Tensor]
    noise: float = 0.0
    margin: float = 0.0
    local_margin: float | None = None
    generator: torch.Generator | None = None
    unit: bool = False


@dataclass(frozen=True)
class ClosedForm:
    """What the engine found for each query.

    Args:
        losses: (num_queries,), differentiable; 0 for a query without a relevant reference.
        num_relevant: (num_queries,).
        intruders: (num_queries, slots) irrelevant references above each relevant one, 0 in empty slots.
        spread: (num_queries,) standard deviation of the candidates' scores; only with the settings of "std" and "local".
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
        labels: (num_queries,) labels of the queries.
        ref_labels: (num_references,) labels of the references, `labels` again if these are the queries.
        settings: projection, weighting, noise.
        own: (num_queries,) places of the queries' own copies, no candidates, among separate references; None if there are none.

    Scores that differ by no more than the rounding of an inner product are ties.
    """
    labels, order = labels.sort(stable=True)
    ref_labels, ref_order = ref_labels.sort(stable=True)
    if references is None:
        own = torch.arange(len(labels), device=labels.device)
    elif own is not None:
        own = ref_order.argsort()[own[order]]
    queries = _SortedRows.apply(queries, order, settings.unit)
    references = None if references is None else _SortedRows.apply(references, ref_order, settings.unit)
    found = _ClosedForm.apply(queries, references, labels, ref_labels, own, settings)
    return ClosedForm(*(torch.zeros_like(values).index_copy(0, order, values) for values in found))


class _SortedRows(torch.autograd.Function):
    """Rows in another order, of norm 1 if asked for: one step with one copy, where fresh memory costs more than the arithmetic."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, order: Tensor, unit: bool) -> Tensor:
        ctx.unit, found = unit, rows.index_select(0, order)
        norms = torch.linalg.vector_norm(found, dim=1, keepdim=True).clamp(min=1e-12) if unit else found.new_ones(1)
        found = found.div_(norms) if unit else found
        ctx.save_for_backward(found, norms, order)
        return found

    @staticmethod
    def backward(ctx: Any, incoming: Tensor) -> tuple[Tensor, None, None]:
        refuse_second_derivative()
        found, norms, order = ctx.saved_tensors
        if ctx.unit:
            incoming = incoming.addcmul(_inner(found, incoming)[:, None], found, value=-1).div_(norms)
        return torch.empty_like(incoming).index_copy_(0, order, incoming), None, None


class _Rows:
    """One call's queries, references, slots and row statistics."""

    def __init__(
        self,
        queries: Tensor,
        references: Tensor | None,
        labels: Tensor,
        ref_labels: Tensor,
        own: Tensor | None,
        settings: Settings,
    ) -> None:
        self.settings = settings
        self.own = own
        self.symmetric = references is None
        self.detached = False  # set in the backward pass: nobody asks for the references' gradient, as of a memory
        self.queries, self.references = queries, queries if references is None else references
        self.labels, self.ref_labels = labels, ref_labels
        self.first = torch.searchsorted(ref_labels, labels)
        self.size = torch.searchsorted(ref_labels, labels, right=True) - self.first
        slots = torch.arange(max(int(self.size.max()), 1), device=labels.device)
        self.relevant = slots < self.size[:, None]  # (num_queries, slots)
        if own is not None:
            self.relevant &= self.first[:, None] + slots != own[:, None]
        self.num_relevant = self.relevant.sum(1)
        self.num_candidates = max(len(ref_labels) - (own is not None), 1)
        self._measure_rows()

    def _measure_rows(self) -> None:
        """Mean and norm of the candidates' scores, and the scores of the slots, less the score of the mean reference."""
        q, r = self.queries, self.references
        self.largest = q.norm(dim=1) * r.norm(dim=1).max()  # a bound of each query's scores
        self.middle = r.mean(0) if self.settings.centered else torch.zeros_like(r[0])
        self.offset = r - self.middle
        self.own_offset = self.offset if self.symmetric or self.own is None else self.offset[self.own]
        self.own_score = q.new_zeros(len(q)) if self.own is None else _inner(q, self.own_offset)
        self.mean = -self.own_score / self.num_candidates if self.settings.centered else q.new_zeros(len(q))
        self.slot_scores = torch.cat(
            [
                torch.bmm(q[query], self.offset[reference].transpose(1, 2))[present]
                for query, present, reference, _ in self.classes()
            ]
        )
        self.norm = q.new_ones(len(q))
        self.flat = torch.zeros_like(self.num_relevant, dtype=torch.bool)
        self.spread = self.norm
        if self.settings.scaled:
            self._measure_norms()

    def _measure_norms(self) -> None:
        q = self.queries
        self.moment = self.offset.T @ self.offset
        self.moment_queries = q @ self.moment
        everything = _inner(self.moment_queries, q)
        squares = everything - self.own_score.square() - self.num_candidates * self.mean.square()
        # Where the row's own entry is most of the sum, the difference is rounding: such rows, rare but for tiny batches and
        # collapsed embeddings, are measured entry by entry.
        for rows in torch.where(squares <= 0.05 * everything)[0].split(TILE[0]):
            squares[rows] = self._squares_entry_by_entry(rows)
        self.norm = squares.clamp(min=0).sqrt()
        self.spread = self.norm / self.num_candidates**0.5
        floor = 4 * torch.finfo(q.dtype).eps * self.num_candidates**0.5
        self.flat = self.norm <= (floor * self.largest if self.settings.centered else 0)
        self.norm = self.norm.masked_fill(self.flat, 1)

    def _squares_entry_by_entry(self, rows: Tensor) -> Tensor:
        total = self.queries.new_zeros(len(rows))
        for columns in torch.arange(len(self.offset), device=rows.device).split(TILE[1]):
            entries = self.queries[rows] @ self.offset[columns].T - self.mean[rows, None]
            if self.own is not None:
                entries.masked_fill_(self.own[rows, None] == columns, 0)
            total += entries.square().sum(1)
        return total

    def classes(self) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Where the queries and where the references of a few labels at a time are, and which places are not padding.

        All are (labels, most members of a label); every query comes once, in order.
        """
        labels = self.labels.unique_consecutive()
        blocks = (*_members(self.labels, labels), *_members(self.ref_labels, labels))
        step = max(1, GATHERED // (max(block.shape[1] for block in blocks) * self.queries.shape[1]))
        yield from zip(*(block.split(step) for block in blocks), strict=True)

    def thresholds(self, below: Tensor) -> Tensor:
        """(num_queries, slots): what an irrelevant score must exceed to count against a slot; infinite in empty slots.

        Args:
            below: (num_queries,) by how much it may be below the relevant score.
        """
        rounding = 4 * torch.finfo(self.queries.dtype).eps * self.largest
        rounding = rounding.where(~self.flat, 2 * self.num_candidates**0.5 * rounding)
        shift = self.queries @ self.middle - below + rounding
        return (self.slot_scores + shift[:, None]).masked_fill(~self.relevant, torch.inf)

    def tiles(self) -> Iterator[tuple[slice, slice, Tensor]]:
        """Tiles of the scores, those of pairs with the same label lowered out of sight.

        Without separate references only tiles on and above the diagonal come: the others are their mirror images.
        """
        num_rows, num_columns = len(self.queries), len(self.references)
        height, width = OWN_TILE if self.symmetric else TILE
        buffer = self.queries.new_empty(min(height, num_rows) * min(width, num_columns))
        for top in range(0, num_rows, height):
            rows = slice(top, min(top + height, num_rows))
            for left in range(top if self.symmetric else 0, num_columns, width):
                columns = slice(left, min(left + width, num_columns))
                shape = (rows.stop - rows.start, columns.stop - columns.start)
                tile = buffer[: shape[0] * shape[1]].view(shape)
                torch.mm(self.queries[rows], self.references[columns].T, out=tile)
                labels, ref_labels = self.labels[rows], self.ref_labels[columns]
                if labels[0] <= ref_labels[-1] and ref_labels[0] <= labels[-1]:
                    tile.masked_fill_(labels[:, None] == ref_labels, torch.finfo(tile.dtype).min)
                yield rows, columns, tile

    def count(self) -> None:
        """Counts the intruders of each slot and, for the local projection, the size of its block: (num_queries, slots)."""
        limits = [self._with_noise(self.thresholds(self.settings.margin * self.norm), slice(None), self.settings.noise)]
        if self.settings.local_margin is not None:
            self.block_thresholds = self.thresholds(self.settings.local_margin * self.norm / self.num_candidates**0.5)
            limits.append(self.block_thresholds)
        counts = [torch.zeros_like(limit) for limit in limits]
        for rows, columns, tile in self.tiles():
            mirrored = self.symmetric and rows != columns
            for limit, count, noise in zip(limits, counts, (self.settings.noise, 0.0), strict=False):
                _add_counts(self._with_noise(tile, rows, noise), limit[rows], count[rows])
                if mirrored:
                    _add_counts(self._with_noise(tile.T, columns, noise), limit[columns], count[columns])
        self.intruders, self.block = counts[0], counts[-1]

    def _with_noise(self, tile: Tensor, rows: slice, noise: float) -> Tensor:
        if not noise:
            return tile
        return tile + two_point(tile, noise, generator=self.settings.generator) * self.norm[rows, None]


def _members(values: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Where in the sorted values each label is, (labels, most members of a label), and which places are not padding."""
    first = torch.searchsorted(values, labels)
    size = torch.searchsorted(values, labels, right=True) - first
    place = torch.arange(max(int(size.max()), 1), device=values.device)
    return (first[:, None] + place).clamp(max=len(values) - 1), place < size[:, None]


def _inner(left: Tensor, right: Tensor) -> Tensor:
    """Inner products of rows. In parts, since a product of all rows is fresh memory, which costs more than the arithmetic."""
    step = max(1, CHUNK // left.shape[1])
    return torch.cat([(a * b).sum(1) for a, b in zip(left.split(step), right.split(step), strict=True)])


def _parts(tile: Tensor) -> Iterator[tuple[slice, slice]]:
    """Cuts a tile, or a transposed one, into parts that lie together in memory and fit a core's cache."""
    everything = slice(None)
    if tile.is_contiguous():
        step = max(1, CHUNK // tile.shape[1])
        yield from ((slice(start, start + step), everything) for start in range(0, tile.shape[0], step))
    else:
        step = max(1, CHUNK // tile.shape[0])
        yield from ((everything, slice(start, start + step)) for start in range(0, tile.shape[1], step))


def _add_counts(tile: Tensor, thresholds: Tensor, counts: Tensor) -> None:
    """Adds to `counts` (rows, slots) how many entries of each row of `tile` exceed its thresholds.

    Comparing into a buffer of floats and summing that costs a twelfth of the product that made the tile; a boolean tile, which is
    summed as integers, costs more than the product.
    """
    by_slot = thresholds.T.contiguous()  # strided thresholds compare forty times slower
    for rows, columns in _parts(tile):
        part = tile[rows, columns]
        above = torch.empty_like(part)
        for slot, limits in enumerate(by_slot):
            torch.gt(part, limits[rows, None], out=above)
            counts[rows, slot] += above.sum(1)


def _add_weights(tile: Tensor, thresholds: Tensor, weights: Tensor, out: Tensor) -> None:
    """Adds to `out`, of the tile's shape, the weights (rows, slots) of the thresholds that each entry exceeds."""
    by_slot = list(zip(thresholds.T.contiguous(), weights.T.contiguous(), strict=True))
    for rows, columns in _parts(tile):
        part, target = tile[rows, columns], out[rows, columns]
        above = torch.empty_like(part)
        for limits, weight in by_slot:
            torch.gt(part, limits[rows, None], out=above)
            target.addcmul_(above, weight[rows, None])


class _ClosedForm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        references: Tensor | None,
        labels: Tensor,
        ref_labels: Tensor,
        own: Tensor | None,
        settings: Settings,
    ) -> tuple[Tensor, ...]:
        rows = _Rows(queries, references, labels, ref_labels, own, settings)
        rows.count()
        with torch.enable_grad():
            intruders = rows.intruders.detach().requires_grad_()
            weights = settings.weight(intruders).masked_fill(~rows.relevant, 0)
            losses = weights.sum(1) / rows.num_relevant.clamp(min=1)
            (slopes,) = torch.autograd.grad(losses.sum(), intruders)
        ctx.rows, ctx.slopes = rows, slopes
        # Comparisons hide what is not finite; a diverged network must show in the loss.
        losses = losses.detach() + 0 * (rows.queries.sum(1) + rows.references.sum())
        found = rows.num_relevant, rows.intruders, rows.spread
        ctx.mark_non_differentiable(*found)
        return losses, *found

    @staticmethod
    def backward(ctx: Any, grad_losses: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        refuse_second_derivative()
        rows = ctx.rows
        pull = -ctx.slopes * grad_losses[:, None]  # minus: the higher the score, the lower the rank
        if rows.settings.scaled:
            pull = (pull / rows.norm[:, None]).masked_fill(rows.flat[:, None], 0)
        rows.detached = not (rows.symmetric or ctx.needs_input_grad[1])
        with torch.autocast(pull.device.type, enabled=False):  # the backward pass may be called inside one
            grad_queries, grad_references = _gradients(rows, pull)
        return grad_queries, grad_references if ctx.needs_input_grad[1] else None, None, None, None, None


def _gradients(rows: _Rows, pull: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients with respect to queries and references; one tensor, their sum, if the references are the queries.

    With s the scores, mu and sigma their mean and norm in a row, the projections pass a gradient g of the projected scores on as
    g (none), g - mean(g) (mean), g / sigma - s <g, s> / sigma^3 (norm), or both (std). All are A + a + b s for two numbers a
    and b of the row, where A = g / sigma is `pull`.

    Args:
        rows: what the forward pass found.
        pull: (num_queries, slots), A at the slots.
    """
    settings, q, offset = rows.settings, rows.queries, rows.offset
    grad_queries = torch.zeros_like(q)
    grad_references = grad_queries if rows.symmetric else torch.zeros_like(offset)
    along = q.new_zeros(len(q))
    if settings.local_margin is not None:
        pull, along = _add_local_gradients(rows, pull, grad_queries, grad_references)
    _add_slot_gradients(rows, pull, grad_queries, grad_references)

    constant = q.new_zeros(len(q))
    if settings.centered and settings.local_margin is None:  # the local projection leaves nothing to center
        constant -= pull.sum(1) / rows.num_candidates
    multiple = q.new_zeros(len(q))
    if settings.scaled:
        along += (pull * (rows.slot_scores - rows.mean[:, None])).sum(1)
        multiple = -along / rows.norm.square()
        constant -= multiple * rows.mean
        grad_queries.addcmul_(multiple[:, None], rows.moment_queries)
        if not rows.detached:
            grad_references.addmm_(offset, q.T @ (multiple[:, None] * q))
    grad_references += constant @ q
    if rows.own is not None:
        own = (constant + multiple * rows.own_score)[:, None]
        grad_queries.addcmul_(own, rows.own_offset, value=-1)
        if rows.symmetric:
            grad_references.addcmul_(own, q, value=-1)
        else:
            grad_references.index_add_(0, rows.own, own * q, alpha=-1)
    return grad_queries, grad_references


def _add_slot_gradients(rows: _Rows, pull: Tensor, grad_queries: Tensor, grad_references: Tensor) -> None:
    """Adds A R and A^T Q, where A is `pull` at the slots and zero elsewhere."""
    for query, present, reference, ref_present in rows.classes():
        block = pull[query].masked_fill(~present[:, :, None], 0)
        grad_queries[query[present]] += torch.bmm(block, rows.offset[reference])[present]
        if not rows.detached:
            gradients = torch.bmm(block.transpose(1, 2), rows.queries[query])
            grad_references[reference[ref_present]] += gradients[ref_present]


def _add_local_gradients(
    rows: _Rows, pull: Tensor, grad_queries: Tensor, grad_references: Tensor
) -> tuple[Tensor, Tensor]:
    """Adds the part of the local projection that is not sparse.

    A relevant item and the k irrelevant items above it, or below it by less than the margin, make a block in which the mean is
    taken off: the item keeps k / (k + 1) of its pull, and each of the others gets -1 / (k + 1) of it.

    Returns:
        What the slots keep (num_queries, slots), and <A, s - mean> of the rest (num_queries,).
    """
    q, thresholds, block = rows.queries, rows.block_thresholds, rows.block
    shares = (pull / (block + 1)).masked_fill(block == 0, 0)
    total = (shares * block).sum(1)
    along = q.new_zeros(len(q))
    for here, there, tile in rows.tiles():
        weights = torch.zeros_like(tile)
        _add_weights(tile, thresholds[here], shares[here], weights)
        along[here] -= torch.mul(weights, tile).sum(1)
        if not rows.symmetric:
            grad_queries[here].addmm_(weights, rows.offset[there], alpha=-1)
            if not rows.detached:
                grad_references[there].addmm_(weights.T, q[here], alpha=-1)
        elif here == there:
            grad_queries[here].addmm_(weights + weights.T, q[here], alpha=-1)
        else:
            mirrored = torch.zeros_like(tile)
            _add_weights(tile.T, thresholds[there], shares[there], mirrored.T)
            along[there] -= torch.mul(mirrored, tile).sum(0)
            weights += mirrored
            grad_queries[here].addmm_(weights, q[there], alpha=-1)
            grad_queries[there].addmm_(weights.T, q[here], alpha=-1)
    if rows.symmetric:  # above with the queries themselves in place of their offsets from the mean
        grad_queries.addr_(total, rows.middle)
    along += total * (q @ rows.middle + rows.mean)
    return shares * block, along
