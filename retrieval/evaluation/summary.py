"""Averages of a ranking's values, over queries, over classes and class by class, and how far they can be trusted."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from retrieval.evaluation.ranking import Ranking

RESAMPLES = 1000


class ClassFigures(NamedTuple):
    """The figures of every class that has queries, in ascending order of its label. Arrays are (num_classes,).

    Args:
        labels: int64.
        queries: int64, number of queries.
        values: float64 by the name of the figure, the mean over the class's queries.
    """

    labels: np.ndarray
    queries: np.ndarray
    values: dict[str, np.ndarray]


def class_figures(ranking: Ranking) -> ClassFigures:
    """The figures of the queries of each class."""
    labels, inverse, counts = np.unique(ranking.labels, return_inverse=True, return_counts=True)
    means = {
        name: np.bincount(inverse, column, minlength=len(labels)) / counts for name, column in ranking.values.items()
    }
    return ClassFigures(labels, counts, means)


def intervals(
    ranking: Ranking, *, seed: int = 0, level: float = 0.95, resamples: int = RESAMPLES
) -> dict[str, tuple[float, float]]:
    """Between which values the figures would lie, had other queries of the same kind been asked: bootstrap percentiles.

    Args:
        ranking: the queries, which are drawn again with replacement, each for itself. The gallery stays as it is.
        seed: of the draws; one seed gives one result.
        level: share of the resamples within the interval.
        resamples: their number.
    """
    columns = np.stack(list(ranking.values.values()))
    num_queries = columns.shape[1]
    generator = np.random.default_rng(seed)
    means = np.empty((resamples, len(columns)))
    for row in means:
        draws = np.bincount(generator.integers(num_queries, size=num_queries), minlength=num_queries)
        row[:] = columns @ draws / num_queries
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return {name: (float(low[i]), float(high[i])) for i, name in enumerate(ranking.values)}


def figures(ranking: Ranking, *, macro: bool = False, interval_seed: int | None = None) -> dict[str, float]:
    """The figures of a ranking and its counts, as `retrieval.evaluation.evaluate` returns them.

    Args:
        ranking: the values of every query.
        macro: adds "macro <name>", the mean over the classes of the mean over a class's queries.
        interval_seed: adds "<name> low" and "<name> high", the bounds of the 95 % interval; see `intervals`.
    """
    found = {name: float(column.mean()) for name, column in ranking.values.items()}
    if macro:
        found |= {f"macro {name}": float(means.mean()) for name, means in class_figures(ranking).values.items()}
    if interval_seed is not None:
        for name, (low, high) in intervals(ranking, seed=interval_seed).items():
            found |= {f"{name} low": low, f"{name} high": high}
    return found | {"queries": len(ranking.queries), "left_out": ranking.left_out, "ties": int(ranking.tied.sum())}
