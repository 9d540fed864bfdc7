"""Retrieval metrics, one value for each query, computed from the ranks of its relevant items by plain NumPy.

`ranks` is an int64 array (num_queries, num_slots). Each row holds the ranks of the query's relevant items in the gallery without
the query itself, ascending from 1. Slots that are not used hold a number larger than any rank. `num_relevant` is R, the number of
relevant items. Papers report the mean over the queries.
"""

from __future__ import annotations

import numpy as np


def recall_at_k(ranks: np.ndarray, k: int) -> np.ndarray:
    """Returns whether at least one of the first k neighbours is relevant (the hit rate): (num_queries,) of 0.0 and 1.0.

    Raises:
        ValueError: `k` is below 1.
    """
    return _up_to(ranks[:, :1], k).max(axis=1).astype(np.float64)


def precision_at_k(ranks: np.ndarray, k: int) -> np.ndarray:
    """Returns the fraction of the first k neighbours that are relevant: (num_queries,) float64; below 1 if k exceeds R.

    Raises:
        ValueError: `k` is below 1.
    """
    return _up_to(ranks, k).sum(axis=1) / k


def reciprocal_rank(ranks: np.ndarray) -> np.ndarray:
    """Returns 1 divided by the rank of the nearest relevant item: (num_queries,) float64. Its mean is MRR."""
    return 1 / ranks[:, 0]


def r_precision(ranks: np.ndarray, num_relevant: np.ndarray) -> np.ndarray:
    """Returns the fraction of the first R neighbours that are relevant: (num_queries,) float64.

    Raises:
        ValueError: a query has R = 0, for which the metric is not defined, or fewer slots than R.
    """
    return _among_first_r(ranks, num_relevant).sum(axis=1) / num_relevant


def map_at_r(ranks: np.ndarray, num_relevant: np.ndarray) -> np.ndarray:
    """Returns the mean over i = 1 .. R of the precision of the first i neighbours if the i-th is relevant, else of 0.

    Its mean over the queries is mean average precision at R (Musgrave et al., ECCV 2020).

    Returns:
        (num_queries,) float64.

    Raises:
        ValueError: as for `r_precision`.
    """
    precision = np.arange(1, ranks.shape[1] + 1) / ranks
    # Not sum(): its order of addition depends on the number of slots, and unused slots must not change the last bit.
    total = np.cumsum(precision * _among_first_r(ranks, num_relevant), axis=1)[:, -1]
    return total / num_relevant


def _up_to(ranks: np.ndarray, k: int) -> np.ndarray:
    if k < 1:
        raise ValueError(f"k is {k}, expected at least 1")
    return ranks <= k


def _among_first_r(ranks: np.ndarray, num_relevant: np.ndarray) -> np.ndarray:
    if len(num_relevant) and not 1 <= num_relevant.min() <= num_relevant.max() <= ranks.shape[1]:
        raise ValueError(
            f"num_relevant ranges from {num_relevant.min()} to {num_relevant.max()}, expected 1 to {ranks.shape[1]}: "
            "leave out queries without relevant items, and give one slot for each relevant item"
        )
    return ranks <= num_relevant[:, None]
