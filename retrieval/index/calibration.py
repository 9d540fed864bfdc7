"""The score that a search asks for by `min_score="auto"`: calibrated when an index is made, and stored in its manifest."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from retrieval.errors import brief, plural
from retrieval.evaluation.best_scores import find_best_scores

FALSE_ACCEPT_RATE = 0.01
_USEFUL = 0.5  # the least share of known queries to accept: below it, most of them find nothing
_ROUNDING = 1e-5  # of a score: a query's vector changes by less with the images that it is embedded with
_SAMPLE = 4000  # queries, at most
_PAIRS, _FEWEST = 2**29, 100  # of queries and items, at most; but no fewer queries than show the rate

ALL, UNSEEN = "all images", "images that the model was not trained on"


@dataclass(frozen=True)
class Calibration:
    """A threshold that tells queries whose class is in the index from other queries by their best score.

    The items of the index are the queries: once without their class in the index, once with the other items of their class.

    Args:
        threshold: A score that at most a share of `false_accept_rate` of the queries without their class reach, and 1e-5 above the
            best score of the next such query.
        false_accept_rate: That share.
        right_accept_rate: The share of the queries that reach the threshold with an item of their own class, among the queries
            whose class has another item; None if there are none.
        queries: The number of queries: all items, or a random sample of them.
        calibrated_on: Which items: `ALL`, or `UNSEEN`.
        ids: The ids [first, last + 1] that the images of `UNSEEN` have.

    Examples:
        >>> import retrieval
        >>> index = retrieval.Index.from_vectors([[3.0, 4.0], [4.0, 3.0], [0.0, 1.0], [1.0, 0.0]], ["a", "a", "b", "c"])
        >>> index.calibration.queries, round(index.calibration.threshold, 4), index.calibration.right_accept_rate
        (4, 0.8, 1.0)
    """

    threshold: float
    false_accept_rate: float
    right_accept_rate: float | None
    queries: int
    calibrated_on: str
    ids: tuple[int, int] | None = None

    @property
    def cautions(self) -> list[str]:
        """What to know before the threshold is used: it rests on too few queries, or it accepts few queries of known classes.

        Fewer than 1 / `false_accept_rate` queries cannot show such a rate: none of them reaches the threshold, and the rate may be
        anything up to 1 - 0.05^(1 / queries), the bound of the one-sided 95 % interval.
        """
        found = []
        if self.queries * self.false_accept_rate < 1:
            needed, bound = math.ceil(1 / self.false_accept_rate), 1 - 0.05 ** (1 / self.queries)
            found.append(
                f"min-score auto rests on {plural(self.queries, 'query', 'queries')}, too few to show a rate of "
                f"{100 * self.false_accept_rate:g} %: it may accept up to {100 * bound:.1f} % of queries of unknown classes; "
                f"{needed} queries or more are needed"
            )
        if self.right_accept_rate is not None and self.right_accept_rate < _USEFUL:
            found.append(
                f"min-score auto accepts only {100 * self.right_accept_rate:.1f} % of queries of known classes: the others get no "
                "image of their class; give a lower number to accept more, also of unknown classes"
            )
        return found

    def to_dict(self) -> dict[str, Any]:
        """The values as JSON can hold them."""
        return {**asdict(self), "ids": None if self.ids is None else list(self.ids)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Calibration:
        """The calibration of the values of `to_dict`.

        Raises:
            ValueError: The values are not such.
        """
        try:
            ids = values["ids"]
            calibration = cls(**{**values, "ids": None if ids is None else (int(ids[0]), int(ids[1]))})
            numbers = (calibration.threshold, calibration.false_accept_rate, calibration.right_accept_rate or 0.0)
            is_finite = all(type(number) is float and math.isfinite(number) for number in numbers)
            if is_finite and type(calibration.queries) is int and calibration.calibrated_on in (ALL, UNSEEN):
                return calibration
        except (TypeError, KeyError, IndexError, ValueError, OverflowError):
            pass
        raise ValueError(f"calibration is {brief(values)}, expected a threshold and how it was found")


def calibrate(
    vectors: np.ndarray,
    labels: np.ndarray,
    ids: np.ndarray,
    unseen: tuple[int, int] | None,
    removed: np.ndarray | None = None,
) -> Calibration | None:
    """Calibrates the threshold of an index; None for an index of a single class.

    Args:
        vectors: (count, dim) float32 unit vectors.
        labels: (count,) whole numbers.
        ids: (count,) The ids.
        unseen: The ids [first, last + 1] of the images that the model was not trained on. They are the queries where the index has
            any of them, since the scores of images that were trained on are too good.
        removed: (count,) Which items are removed; none by default.
    """
    is_left = np.ones(len(ids), dtype=bool) if removed is None else ~removed
    if labels[is_left].min() == labels[is_left].max():
        return None
    queries = np.flatnonzero(is_left)
    if unseen is not None:
        queries = np.flatnonzero((ids >= unseen[0]) & (ids < unseen[1]) & is_left)
        if not len(queries):
            return calibrate(vectors, labels, ids, None, removed)
    most = min(_SAMPLE, max(_FEWEST, _PAIRS // len(ids)))
    queries = np.sort(np.random.default_rng(0).permutation(queries)[:most])
    right, wrong = find_best_scores(vectors, labels, queries, removed)
    accepted = int(FALSE_ACCEPT_RATE * len(queries))
    threshold = np.sort(wrong)[::-1][accepted] + np.float32(_ROUNDING)
    of_class = right[right > -np.inf]
    return Calibration(
        threshold=float(threshold),
        false_accept_rate=FALSE_ACCEPT_RATE,
        right_accept_rate=float((of_class >= threshold).mean()) if len(of_class) else None,
        queries=len(queries),
        calibrated_on=ALL if unseen is None else UNSEEN,
        ids=unseen,
    )
