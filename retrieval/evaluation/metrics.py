"""Measures of a ranking, one value a query: plain NumPy on which neighbours are relevant.

`relevant` is a boolean (num_queries, num_neighbours) matrix, best neighbour first, the query itself not among them;
`num_relevant` is R, how many relevant items the whole gallery holds for each query, the query itself not counted.
The figure that papers report is the mean over the queries.
"""

from __future__ import annotations

import numpy as np


def recall_at_k(relevant: np.ndarray, k: int) -> np.ndarray:
    """Whether one of the first k neighbours is relevant (the hit rate): (num_queries,) of 0.0 and 1.0.

    Raises:
        ValueError: `k` is not between 1 and the number of neighbours.
    """
    if not 1 <= k <= relevant.shape[1]:
        raise ValueError(f"k is {k}, expected 1 to {relevant.shape[1]}, the number of neighbours given")
    return relevant[:, :k].max(axis=1).astype(np.float64)


def r_precision(relevant: np.ndarray, num_relevant: np.ndarray) -> np.ndarray:
    """The share of relevant items among the first R neighbours: (num_queries,) float64.

    Raises:
        ValueError: a query has R = 0, for which it is not defined, or more than there are neighbours.
    """
    return _first_r(relevant, num_relevant).sum(axis=1) / num_relevant


def map_at_r(relevant: np.ndarray, num_relevant: np.ndarray) -> np.ndarray:
    """The mean over i = 1 .. R of the precision of the first i neighbours where the i-th is relevant, else 0.

    Mean average precision at R when averaged over queries (Musgrave et al., ECCV 2020).

    Returns:
        (num_queries,) float64.

    Raises:
        ValueError: as for `r_precision`.
    """
    hits = _first_r(relevant, num_relevant)
    precision = np.cumsum(hits, axis=1) / np.arange(1, hits.shape[1] + 1)
    return (precision * hits).sum(axis=1) / num_relevant


def _first_r(relevant: np.ndarray, num_relevant: np.ndarray) -> np.ndarray:
    """`relevant` up to the largest R, False beyond each query's own R."""
    if len(num_relevant) and not 1 <= num_relevant.min() <= num_relevant.max() <= relevant.shape[1]:
        raise ValueError(
            f"num_relevant reaches from {num_relevant.min()} to {num_relevant.max()}, expected 1 to {relevant.shape[1]}: "
            "leave out queries without a relevant item, and give as many neighbours as the largest R"
        )
    width = num_relevant.max(initial=0)
    return relevant[:, :width] & (np.arange(width) < num_relevant[:, None])
