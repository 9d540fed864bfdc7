"""The scores of queries against references, of which only tiles ever exist, and what is known of each row."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
from torch import Tensor
from torch.linalg import vecdot, vector_norm

from retrieval.losses.closed_form_settings import Settings
from retrieval.losses.moments import quadratic_forms, symmetric_product
from retrieval.losses.running_softmax import RunningSoftmax
from retrieval.solvers import two_point
from retrieval.threads import Each, workers

TILE = 512  # rows and columns of the scores that exist at one time: a megabyte, which stays in a core's cache
TILE_ON_DEVICES = 8192  # the same where starting an operation costs more than its memory
BAND = 64  # rows whose relevant scores are computed at one time, together with those of their neighbours
ENTRIES = 1 << 21  # scores that exist at one time where a row is measured entry by entry
SHARE = 0.25  # of the memory of all scores that may be spent on what is known of all relevant pairs


Noises = dict[tuple[int, int], torch.Generator | None]  # sources of noise by tile


class Slots(NamedTuple):
    """The relevant references of some queries, of which those of a query lie side by side.

    Args:
        rows: the queries.
        relevant: (num_rows, slots), false in empty slots.
        scores: of the same shape, less the score of the mean reference; zeros if they were not wanted.
    """

    rows: slice
    relevant: Tensor
    scores: Tensor


class Scores:
    """Queries and references, sorted by label.

    Attributes:
        intruders: for all slots of all queries, strip after strip, the intruders; `of_strip` gives those of one.
        rivals: the same for the rivals in the block of the local projection, or empty.
        reached: (num_queries,) of the local projection: the scores of all rivals, by the shares they have for a gradient of 1.
        softmax_state: (3, num_queries) of the projection "softmax", or empty.
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
        self.first, self.last = (torch.searchsorted(ref_labels, labels, right=right) for right in (False, True))
        self.num_relevant = self.last - self.first
        if own is not None:
            self.num_relevant = self.num_relevant - ((own >= self.first) & (own < self.last)).long()
        self.num_candidates = max(len(ref_labels) - (own is not None), 1)
        self._same_label = self.first.tolist(), self.last.tolist()
        self._arrange()
        self._measure_rows()
        if settings.scaled:
            self._measure_norms()
        if settings.noise or settings.relevant_temperature is not None:
            self._measure_spread()

    def _arrange(self) -> None:
        """Cuts queries and references into strips, and decides whether a tile also serves as its mirror image."""
        side = TILE if self.queries.device.type == "cpu" else TILE_ON_DEVICES
        self.strips, self.columns = (
            [slice(top, min(top + side, size)) for top in range(0, size, side)]
            for size in (len(self.queries), len(self.references))
        )
        widths = [last - first for first, last in zip(*self._same_label, strict=True)]
        self.widths = [max(1, *widths[rows], 0) for rows in self.strips]
        sizes = [width * (rows.stop - rows.start) for width, rows in zip(self.widths, self.strips, strict=True)]
        self._starts = [sum(sizes[:strip]) for strip in range(len(sizes) + 1)]
        whole = torch.int16 if self.num_candidates < 2**15 else torch.int32
        self.intruders = self.labels.new_zeros(self._starts[-1], dtype=whole)
        self.rivals = torch.zeros_like(self.intruders) if self.settings.local_margin is not None else self.intruders[:0]
        self.reached, self.softmax_state = self.queries.new_zeros(len(self.queries)), self.queries[:0, 0]

    def mirrored(self, numbers: int) -> bool:
        """Whether a tile also serves as its mirror image, for which so many numbers of all slots are kept at one time."""
        return self.symmetric and numbers * self._starts[-1] <= SHARE * len(self.queries) ** 2

    def of_strip(self, counts: Tensor, strip: int, rows: slice | None = None) -> Tensor:
        """The part (num_rows, slots) of `intruders` or `rivals` that belongs to one strip, or to some rows of it."""
        found = counts[self._starts[strip] : self._starts[strip + 1]].view(-1, self.widths[strip])
        start = self.strips[strip].start
        return found if rows is None else found[rows.start - start : rows.stop - start]

    def parts(self, strip: int) -> Iterator[slice]:
        """The rows of a strip, some at a time where they have many slots."""
        rows = self.strips[strip]
        step = max(BAND, TILE * TILE // self.widths[strip])
        for top in range(rows.start, rows.stop, step):
            yield slice(top, min(top + step, rows.stop))

    def _measure_rows(self) -> None:
        """Mean of the candidates' scores, less the score of the mean reference."""
        q, r = self.queries, self.references
        self.largest = vector_norm(q, dim=1) * vector_norm(r, dim=1).max()  # a bound of each query's scores
        self.middle = r.mean(0) if self.settings.centered else torch.zeros_like(r[0])
        self.offset = r - self.middle if self.settings.centered else r
        self.own_offset = self.offset if self.symmetric or self.own is None else self.offset[self.own]
        self.own_score = self._scores_of_own(self.own_offset)
        self.mean = -self.own_score / self.num_candidates if self.settings.centered else q.new_zeros(len(q))
        self.of_middle = q @ self.middle
        self.norm = self.spread = q.new_ones(len(q))
        self.flat = torch.zeros_like(self.num_relevant, dtype=torch.bool)

    def _scores_of_own(self, own_offset: Tensor) -> Tensor:
        return self.queries.new_zeros(len(self.queries)) if self.own is None else vecdot(self.queries, own_offset)

    def _measure_norms(self) -> None:
        q = self.queries
        moments = symmetric_product(self.offset, self.offset)
        if self.dense:
            everything = quadratic_forms(q, moments)
        else:
            self.moment_queries = q @ moments  # for the gradient
            everything = vecdot(self.moment_queries, q)
        norm = self._norms(everything, self.offset, self.own_score, self.mean)
        self.spread = norm / self.num_candidates**0.5
        floor = 4 * torch.finfo(q.dtype).eps * self.num_candidates**0.5
        self.flat = norm <= (floor * self.largest if self.settings.centered else 0)
        self.norm = norm.masked_fill(self.flat, 1)

    def _measure_spread(self) -> None:
        """The standard deviations of the scores, 0 where all are equal, and the distances of the two points of the noise."""
        settings, q = self.settings, self.queries
        if not (settings.centered and settings.scaled):
            offset, own_score, mean = self.offset, self.own_score, self.mean
            if not settings.centered:
                offset = self.references - self.references.mean(0)
                own_score = self._scores_of_own(offset if self.symmetric or self.own is None else offset[self.own])
                mean = -own_score / self.num_candidates
            everything = quadratic_forms(q, symmetric_product(offset, offset))
            self.spread = self._norms(everything, offset, own_score, mean) / self.num_candidates**0.5
        rounding = 4 * torch.finfo(q.dtype).eps * self.largest
        self.true_spread = self.spread.masked_fill(self.spread <= rounding, 0)
        self.noise = settings.noise * self.true_spread

    def _norms(self, everything: Tensor, offset: Tensor, own_score: Tensor, mean: Tensor) -> Tensor:
        """Norms (num_queries,) of the candidates' scores less their mean.

        Args:
            everything: (num_queries,) sums of the squared scores of `offset`, the own entry and the mean included.
            offset: (num_references, dim) the references, or what of them is not their mean.
            own_score: (num_queries,) of the own entries of `offset`.
            mean: (num_queries,) of the candidates' scores of `offset`.
        """
        squares = everything - own_score.square() - self.num_candidates * mean.square()
        # Where the row's own entry is most of the sum, the difference is rounding: such rows, rare but for tiny batches and
        # collapsed embeddings, are measured entry by entry.
        for rows in torch.where(squares <= 0.05 * everything)[0].split(max(1, ENTRIES // len(offset))):
            entries = self.queries[rows] @ offset.T - mean[rows, None]
            if self.own is not None:
                entries.scatter_(1, self.own[rows, None], 0)
            squares[rows] = entries.square().sum(1)
        return squares.clamp(min=0).sqrt()

    @property
    def dense(self) -> bool:
        """Whether irrelevant items have a part of their own in the gradient, as in "local" and "softmax"."""
        return self.settings.local_margin is not None or self.settings.temperature is not None

    @property
    def deviation(self) -> Tensor:
        """(num_queries,) standard deviations of the scores, 1 / sqrt(num_candidates) where all are equal."""
        return self.norm / self.num_candidates**0.5

    def all_parts(self) -> Iterator[tuple[int, slice]]:
        """The parts of all strips, with their strips."""
        return ((strip, rows) for strip in range(len(self.strips)) for rows in self.parts(strip))

    def relevant(self, strip: int, rows: slice) -> Tensor:
        """(num_rows, slots): which slots of some rows of a strip are not empty."""
        slots = torch.arange(self.widths[strip], device=self.first.device)
        relevant = slots < (self.last - self.first)[rows, None]
        if self.own is not None:
            relevant &= slots != (self.own - self.first)[rows, None]
        return relevant

    def slots(self, strip: int, rows: slice, *, scored: bool = True) -> Slots:
        """The relevant references of some queries of a strip, with their scores if they are wanted or decide the shares."""
        relevant = self.relevant(strip, rows)
        if not scored and self.settings.relevant_temperature is None:
            return Slots(rows, relevant, self.queries.new_zeros(()).expand(relevant.shape))
        found = self.queries.new_zeros(relevant.shape)
        for band, span, places in self.bands(strip, rows):
            block = self.queries[band] @ self.offset[span].T
            part = found[band.start - rows.start : band.stop - rows.start]
            if places is None:
                part[:, : block.shape[1]] = block
            else:
                torch.gather(block, 1, places, out=part)
        return Slots(rows, relevant, found)

    def bands(self, strip: int, part: slice) -> Iterator[tuple[slice, slice, Tensor | None]]:
        """Some rows of a part at a time, a span of columns with all their slots, and the slots' places in it (rows, slots).

        The places are None if all rows have the same label, so that the slots are the span, in order, and perhaps empty ones. The
        rows are whole labels as far as the part goes, so that among themselves the span is the rows again.
        """
        slots = torch.arange(self.widths[strip], device=self.first.device)
        top, end = part.start, part.stop
        while top < end:
            stop = min(top + BAND, end)
            while stop < end and self._same_label[0][stop] == self._same_label[0][stop - 1]:
                stop += 1
            left = min(self._same_label[0][top], len(self.references) - 1)
            span = slice(left, max(self._same_label[1][stop - 1], left + 1))
            rows, one_label = slice(top, stop), self._same_label[0][top] == self._same_label[0][stop - 1]
            one_label = one_label and self._same_label[1][top] > self._same_label[0][top]
            places = None if one_label else (self.first[rows, None] + slots - left).clamp(max=span.stop - left - 1)
            yield rows, span, places
            top = stop

    def shares(self, slots: Slots) -> Tensor:
        """(num_rows, slots): the shares of the relevant references in the loss of a query, which sum to 1; 0 in empty slots."""
        rows, temperature = slots.rows, self.settings.relevant_temperature
        if temperature is None:
            return slots.relevant.to(slots.scores.dtype) / self.num_relevant[rows, None].clamp(min=1)
        spread = self.true_spread[rows, None]
        logits = (slots.scores / (temperature * spread)).masked_fill(spread == 0, 0)
        return logits.masked_fill_(~slots.relevant, torch.finfo(logits.dtype).min).softmax(1) * slots.relevant

    def limits(self, slots: Slots, below: Tensor) -> Tensor:
        """(num_rows, slots): what an irrelevant score must reach to count against a slot, so that it counts if it ties with the
        relevant score; infinite in empty slots.

        Args:
            slots: of some rows.
            below: (num_queries,) by how much it may be below the relevant score.
        """
        rows, flat = slots.rows, self.flat[slots.rows]
        rounding = 4 * torch.finfo(self.queries.dtype).eps * self.largest[rows]
        rounding = rounding.where(~flat, 2 * self.num_candidates**0.5 * rounding)
        lowered = self.of_middle[rows] - (rounding + below[rows])
        return (slots.scores + lowered[:, None]).masked_fill_(~slots.relevant, torch.inf)

    def with_noise(self, part: Tensor, rows: slice, generator: torch.Generator | None) -> Tensor:
        """Scores or limits of some rows with the noise of the settings, where there is one."""
        if not self.settings.noise:
            return part
        return torch.addcmul(part, two_point(part, 1.0, generator=generator), self.noise[rows, None])

    def noises(self, tiles: list[tuple[int, int]]) -> Noises:
        """A source of noise for each tile, so that the noise is the same whichever thread is the first."""
        if not self.settings.noise:
            return dict.fromkeys(tiles)
        device = self.queries.device
        seeds = torch.randint(2**62, (len(tiles),), generator=self.settings.generator, device=device)
        sources = (torch.Generator(device).manual_seed(seed) for seed in seeds.tolist())
        return dict(zip(tiles, sources, strict=True))

    def tile(self, strip: int, other: int) -> tuple[Tensor | None, Tensor | None]:
        """The scores of two strips, those of pairs with the same label lowered out of sight, and the mask of these pairs.

        The mask is None where there are no such pairs; the tile is None where there are no others.
        """
        rows, columns = self.strips[strip], self.columns[other]
        first, last = (each[rows] for each in self._same_label)
        if first[0] == first[-1] <= columns.start and columns.stop <= last[0]:
            return None, None
        tile = self.queries[rows] @ self.references[columns].T
        if first[0] >= columns.stop or columns.start >= last[-1]:
            return tile, None
        same = self.labels[rows, None] == self.ref_labels[columns]
        return tile.masked_fill_(same, torch.finfo(tile.dtype).min), same

    def groups(self, *, mirrored: bool) -> Iterator[tuple[range, list[tuple[int, int]]]]:
        """Strips of queries that are worked on at one time, and the tiles of their scores.

        Mirrored, these are all strips, and the tiles on and above the diagonal, neighbours of which share no strip.
        """
        if mirrored:
            strips = range(len(self.strips))
            yield strips, [(strip, strip + step) for step in strips for strip in range(len(strips) - step)]
            return
        for strip in range(len(self.strips)):
            yield range(strip, strip + 1), [(strip, other) for other in range(len(self.columns))]

    def workers(self) -> AbstractContextManager[Each]:
        """Gives a function that does some work for each of some tiles, on several threads where it pays."""
        alone = self.queries.device.type != "cpu" or len(self.strips) * len(self.columns) < 9
        return workers(alone=alone)

    def softmax(self, rows: slice) -> RunningSoftmax:
        """The softmax over the irrelevant references of some rows, when it is known."""
        return RunningSoftmax(self.sharpness()[rows], self.softmax_state[:, rows])

    def sharpness(self) -> Tensor:
        assert self.settings.temperature is not None
        return 1 / (self.settings.temperature * self.deviation)
