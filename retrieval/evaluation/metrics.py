"""Measures of a ranking, one value a query: plain NumPy on the ranks of what is relevant.

`ranks` is an int64 (num_queries, num_slots) matrix: in each row the ranks of the query's relevant items, from 1 and ascending, in
the whole gallery without the query itself; slots beyond those hold numbers larger than any rank. `num_relevant` is R, how many
relevant items there are. The figure that papers report is the mean over the queries.
"""

from __future__ import annotations

import numpy as np


def recall_at_k(ranks: np.ndarray, k: int) -> np.ndarray:
    """Whether one of the first k neighbours is relevant (the hit rate): (num_queries,) of 0.0 and 1.0.

    Raises:
        ValueError: `k` is below 1.
    """
    return _up_to(ranks[:, :1], k).max(axis=1).astype(np.float64)


def precision_at_k(ranks: np.ndarray, k: int) -> np.ndarray:
    """The share of relevant items among the first k neighbours: (num_queries,) float64; below 1 where k exceeds R.

    Raises:
        ValueError: `k` is below 1.
    """
    return _up_to(ranks, k).sum(axis=1) / k


def reciprocal_rank(ranks: np.ndarray) -> np.ndarray:
    """One over the rank of the nearest relevant item: (num_queries,) float64; MRR when averaged."""
    return 1 / ranks[:, 0]


def r_precision(ranks: np.ndarray, num_relevant: np.ndarray) -> np.ndarray:
    """The share of relevant items among the first R neighbours: (num_queries,) float64.

    Raises:
        ValueError: a query has R = 0, for which it is not defined, or fewer slots than R.
    """
    return _among_first_r(ranks, num_relevant).sum(axis=1) / num_relevant


def map_at_r(ranks: np.ndarray, num_relevant: np.ndarray) -> np.ndarray:
    """The mean over i = 1 .. R of the precision of the first i neighbours where the i-th is relevant, else 0.

    Mean average precision at R when averaged over queries (Musgrave et al., ECCV 2020).

    Returns:
        (num_queries,) float64.

    Raises:
        ValueError: as for `r_precision`.
    """
    precision = np.arange(1, ranks.shape[1] + 1) / ranks
    # Not sum(), which adds in an order that depends on the number of slots: a value is the same with more empty ones, to the bit.
    total = np.cumsum(precision * _among_first_r(ranks, num_relevant), axis=1)[:, -1]
    return total / num_relevant


def _up_to(ranks: np.ndarray, k: int) -> np.ndarray:
    if k < 1:
        raise ValueError(f"k is {k}, expected at least 1")
    return ranks <= k


def _among_first_r(ranks: np.ndarray, num_relevant: np.ndarray) -> np.ndarray:
    if len(num_relevant) and not 1 <= num_relevant.min() <= num_relevant.max() <= ranks.shape[1]:
        raise ValueError(
            f"num_relevant reaches from {num_relevant.min()} to {num_relevant.max()}, expected 1 to {ranks.shape[1]}: "
            "leave out queries without a relevant item, and give a slot for each of them"
        )
    return ranks <= num_relevant[:, None]
