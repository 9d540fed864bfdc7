"""Counts the intruders of every relevant pair, tile by tile."""

from __future__ import annotations

from threading import Lock

import torch
from torch import Tensor

from retrieval.losses.running_softmax import RunningSoftmax
from retrieval.losses.score_tiles import Noises, Scores, Slots
from retrieval.losses.tile import count_reached, transposed


def count_intruders(scores: Scores) -> tuple[Tensor, Tensor]:
    """Fills `intruders`, and for the projections "local" and "softmax" what else their gradients need.

    Returns:
        Losses and sums of the intruders over relevant references, both (num_queries,).
    """
    losses, sums = scores.queries.new_zeros(2, len(scores.queries))
    if scores.settings.temperature is not None:
        scores.softmax_state = scores.queries.new_zeros(3, len(scores.queries))
    with scores.workers() as each:
        # Of a slot, these are a limit and a count of 2 bytes, or with "local" two of both and a sum.
        mirrored = scores.mirrored(2 if scores.settings.local_margin is None else 4)
        for strips, tiles in scores.groups(mirrored=mirrored):
            tallies, noises = {strip: _Tally(scores, strip) for strip in strips}, scores.noises(tiles)

            def count(strip: int, other: int, tallies: dict[int, _Tally] = tallies, noises: Noises = noises) -> None:
                tile, _ = scores.tile(strip, other)
                if tile is None:
                    return
                tallies[strip].add(tile, noises[strip, other])
                if mirrored and strip != other:
                    tallies[other].add(transposed(tile, scores.widths[other]), noises[strip, other])

            each(count, tiles)
            for strip, tally in tallies.items():
                rows = scores.strips[strip]
                losses[rows], sums[rows] = tally.finish()
    return losses, sums


def weigh_intruders(scores: Scores, slots: Slots, intruders: Tensor) -> Tensor:
    """The losses of some queries: the mean of w(r) over their relevant references, by their shares."""
    weights = scores.settings.weight(intruders).masked_fill(~slots.relevant, 0)
    return (weights * scores.shares(slots)).sum(1)


def slopes(scores: Scores, strip: int, slots: Slots) -> Tensor:
    """(num_rows, slots): the derivatives of the losses of some queries of a strip by their intruders."""
    with torch.inference_mode(False), torch.enable_grad():
        intruders = scores.of_strip(scores.intruders, strip, slots.rows).to(scores.queries.dtype).clone()
        losses = weigh_intruders(scores, slots, intruders.requires_grad_())
        return torch.autograd.grad(losses.sum(), intruders)[0]


def share_out(scores: Scores, strip: int, rows: slice, pull: Tensor) -> tuple[Tensor, Tensor]:
    """What the local projection leaves of the pull of each slot, and what each rival in its block loses by it.

    A relevant item and its k rivals, the irrelevant items above it or at most the margin below it, make a block in which the mean
    is taken off: the item keeps k / (k + 1) of its pull, and each rival gets -1 / (k + 1) of it.

    Args:
        scores: with `rivals`.
        strip: of the queries.
        rows: some queries of the strip.
        pull: (num_rows, slots), the gradient at the slots.
    """
    rivals = scores.of_strip(scores.rivals, strip, rows).to(pull.dtype)
    shares = (pull / (rivals + 1)).masked_fill_(rivals == 0, 0)
    return shares * rivals, shares


class _Tally:
    """What is counted for the queries of one strip. Several threads may add tiles at one time."""

    def __init__(self, scores: Scores, strip: int) -> None:
        settings = scores.settings
        self.scores, self.strip, self.rows = scores, strip, scores.strips[strip]
        limits, blocks = [], []
        for rows in scores.parts(strip):
            slots = scores.slots(strip, rows)
            exact = scores.limits(slots, settings.margin * scores.norm)
            limits.append(scores.with_noise(exact, rows, settings.generator))
            if settings.local_margin is not None:
                blocks.append(block_limits(scores, slots))
        self.limits = torch.cat(limits)
        self.intruders = scores.of_strip(scores.intruders, strip)
        self.block_limits: Tensor | None = None
        if blocks:
            self.block_limits = torch.cat(blocks)
            self.rivals, self.reached = scores.of_strip(scores.rivals, strip), torch.zeros_like(self.limits)
        self.softmax = None if settings.temperature is None else RunningSoftmax(scores.sharpness()[self.rows])
        self.lock = Lock()

    def add(self, tile: Tensor, noise: torch.Generator | None) -> None:
        """Counts some columns (num_rows, any), with noise from this source."""
        slots = self.limits.shape[1]
        if self.block_limits is None or self.scores.settings.noise:
            counts, _ = count_reached(self.scores.with_noise(tile, self.rows, noise), self.limits)
            rivals, reached = counts[:, :0], counts[:, :0]
            if self.block_limits is not None:
                rivals, reached = count_reached(tile, self.block_limits, sums=slots)
        else:  # at once, which sorts once
            counts, reached = count_reached(tile, torch.cat([self.limits, self.block_limits], dim=1), sums=slots)
            counts, rivals = counts.split(slots, dim=1)
        found = None if self.softmax is None else self.softmax.partial(tile)
        with self.lock:
            self.intruders += counts.to(self.intruders.dtype)
            if self.block_limits is not None:
                self.rivals += rivals.to(self.rivals.dtype)
                self.reached += reached
            if self.softmax is not None and found is not None:
                self.softmax.add(found)

    def finish(self) -> tuple[Tensor, Tensor]:
        """Completes the scores; returns the losses and the sums of the intruders."""
        scores, strip, losses, sums = self.scores, self.strip, [], []
        for rows in scores.parts(strip):
            slots = scores.slots(strip, rows, scored=False)
            if self.block_limits is not None:
                _, shares = share_out(scores, strip, rows, -slopes(scores, strip, slots))
                reached = self.reached[rows.start - self.rows.start : rows.stop - self.rows.start]
                scores.reached[rows] = (shares * reached).sum(1)
            intruders = scores.of_strip(scores.intruders, strip, rows).to(self.limits.dtype)
            losses.append(weigh_intruders(scores, slots, intruders))
            sums.append(intruders.sum(1))
        if self.softmax is not None:
            scores.softmax_state[:, self.rows] = self.softmax.state
        return torch.cat(losses), torch.cat(sums)


def block_limits(scores: Scores, slots: Slots) -> Tensor:
    """(num_rows, slots): what an irrelevant score must reach to be in the block of a slot in the local projection."""
    assert scores.settings.local_margin is not None
    return scores.limits(slots, scores.settings.local_margin * scores.deviation)
