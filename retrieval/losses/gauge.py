"""The gauge of a training: how far the scores of its batches are spread and how well they rank, whatever the loss."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from retrieval.losses.closed_form import Settings, closed_form
from retrieval.losses.score_matrix import STATISTICS, at_least_float32, in_one_dtype, statistics
from retrieval.losses.weightings import WEIGHTINGS

COLLAPSED = 0.1  # of the largest spread: below it, the scores have collapsed
_MEMORY = 0.9  # of the running mean of the spread, for which a single batch is too small


def measure_batch(embeddings: Tensor, labels: Tensor) -> dict[str, float]:
    """How a batch ranks itself by cosine similarity, each embedding with all others as candidates.

    Args:
        embeddings: (batch, dim), of any norm.
        labels: (batch,) of any dtype.

    Returns:
        "perfect_queries": the share of queries with all relevant items strictly above all others, of those that have one.
        "mean_intruders": irrelevant items that score at least as high as a relevant one, in the mean over relevant items.
        "score_spread": the standard deviation of a query's scores, in the mean over queries; near 0, the scores have
        collapsed. Of a batch without a relevant item the first two are 0.

    Examples:
        >>> import torch
        >>> from retrieval.losses import measure_batch
        >>> measure_batch(torch.eye(4)[[0, 0, 1, 1]], torch.tensor([0, 0, 1, 1]))["perfect_queries"]
        1.0
        >>> measure_batch(torch.ones(4, 8), torch.tensor([0, 0, 1, 1]))  # equal embeddings rank nothing
        {'perfect_queries': 0.0, 'mean_intruders': 2.0, 'score_spread': 0.0}
    """
    labels, _ = in_one_dtype(labels, labels)
    settings = Settings(centered=True, scaled=True, weight=WEIGHTINGS["linear"], unit=True)
    with torch.no_grad(), torch.autocast(embeddings.device.type, enabled=False):
        found = closed_form(at_least_float32(embeddings), None, labels, labels, settings)
    return statistics(found.intruders[:, None], found.num_relevant, found.spread)


class Collapse(NamedTuple):
    """Scores that have collapsed: their spread, and the largest that it was."""

    spread: float
    largest: float


class Gauge:
    """Measures the batches of a training, and averages the figures over an epoch.

    Attributes:
        figures: of the last batch, see `measure_batch`.
    """

    def __init__(self) -> None:
        self.figures = dict.fromkeys(STATISTICS, 0.0)
        self._sums, self._count = dict.fromkeys(STATISTICS, 0.0), 0
        self._spread = self._largest = 0.0  # the running mean, and its maximum
        self._said = False

    def add(self, embeddings: Tensor, labels: Tensor) -> None:
        """Measures a batch; one that is not finite is left out. See `measure_batch` for the arguments."""
        figures = measure_batch(embeddings, labels)
        if not all(map(math.isfinite, figures.values())):
            return
        spread = figures["score_spread"]
        self._spread = _MEMORY * self._spread + (1 - _MEMORY) * spread if self._largest else spread
        self._largest = max(self._largest, self._spread)
        self.figures, self._count = figures, self._count + 1
        for name, value in figures.items():
            self._sums[name] += value

    def mean(self) -> dict[str, float]:
        """The mean figures of the batches since `clear`; empty if there was none."""
        return {name: total / self._count for name, total in self._sums.items()} if self._count else {}

    def clear(self) -> None:
        """Begins a new epoch."""
        self._sums, self._count = dict.fromkeys(STATISTICS, 0.0), 0

    def new_collapse(self) -> Collapse | None:
        """Tells once in a training that the spread of the scores, smoothed over some ten batches, is a tenth of what it was."""
        if self._said or self._spread >= COLLAPSED * self._largest:
            return None
        self._said = True
        return Collapse(self._spread, self._largest)

    def state_dict(self) -> dict[str, Any]:
        """Plain values, for a training that goes on."""
        state = {"sums": dict(self._sums), "count": self._count}
        return state | {"spread": self._spread, "largest": self._largest, "said": self._said}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the state of `state_dict`."""
        self._sums = {name: float(state["sums"][name]) for name in STATISTICS}
        self._count, self._said = int(state["count"]), bool(state["said"])
        self._spread, self._largest = float(state["spread"]), float(state["largest"])
