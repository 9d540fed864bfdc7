"""Averages of a ranking's values over queries, within classes and over classes, and their confidence intervals."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from retrieval.evaluation.ranking import Ranking

RESAMPLES = 1000


class ClassFigures(NamedTuple):
    """The figures of every class that has queries, sorted by label. Arrays are (num_classes,).

    Args:
        labels: int64.
        queries: int64, number of queries.
        values: maps the name of a figure to its mean over the queries of each class, float64.
    """

    labels: np.ndarray
    queries: np.ndarray
    values: dict[str, np.ndarray]


def class_figures(ranking: Ranking) -> ClassFigures:
    """Averages the values of the queries of each class."""
    labels, inverse, counts = np.unique(ranking.labels, return_inverse=True, return_counts=True)
    means = {
        name: np.bincount(inverse, column, minlength=len(labels)) / counts for name, column in ranking.values.items()
    }
    return ClassFigures(labels, counts, means)


def intervals(
    ranking: Ranking, *, seed: int = 0, level: float = 0.95, resamples: int = RESAMPLES
) -> dict[str, tuple[float, float]]:
    """Returns bootstrap percentile intervals (low, high) of the figures, which show how much they depend on the queries.

    Args:
        ranking: its queries are resampled independently, with replacement. The gallery stays the same.
        seed: seed of the resampling; the same seed gives the same intervals.
        level: fraction of the resamples within the interval.
        resamples: number of resamples.
    """
    columns = np.stack(list(ranking.values.values()))
    num_queries = columns.shape[1]
    generator = np.random.default_rng(seed)
    means = np.empty((resamples, len(columns)))
    for row in means:
        counts = np.bincount(generator.integers(num_queries, size=num_queries), minlength=num_queries)
        row[:] = columns @ counts / num_queries
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return {name: (float(low[i]), float(high[i])) for i, name in enumerate(ranking.values)}


def figures(ranking: Ranking, *, macro: bool = False, interval_seed: int | None = None) -> dict[str, float]:
    """Returns the figures and the counts of a ranking, as `retrieval.evaluate` does.

    Args:
        ranking: the values of every query.
        macro: adds "macro <name>", the mean over classes of the mean over the queries of a class.
        interval_seed: adds "<name> low" and "<name> high", the bounds of the 95 % interval for this seed; see `intervals`.
    """
    means = {name: float(column.mean()) for name, column in ranking.values.items()}
    if macro:
        means |= {f"macro {name}": float(column.mean()) for name, column in class_figures(ranking).values.items()}
    if interval_seed is not None:
        for name, (low, high) in intervals(ranking, seed=interval_seed).items():
            means |= {f"{name} low": low, f"{name} high": high}
    counts = {"queries": len(ranking.queries), "left_out": ranking.left_out}
    if ranking.not_in_gallery is not None:
        counts["not_in_gallery"] = ranking.not_in_gallery
    return means | counts | {"ties": int(ranking.tied.sum())}
