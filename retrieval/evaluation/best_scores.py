"""The scores of the nearest right and the nearest wrong item of queries."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from retrieval.evaluation.arrays import check_unit_vectors, check_whole_numbers

# Scores in memory at a time.
MAX_SCORES = 2**24


class BestScores(NamedTuple):
    """The best scores of some queries.

    Args:
        right: (num_queries,) float32, the score of the nearest other item of the query's class; -inf where there is none.
        wrong: (num_queries,) float32, the score of the nearest item of another class; -inf where there is none. It is the best
            score of the query in a gallery without its class.
    """

    right: np.ndarray
    wrong: np.ndarray


def best_scores(embeddings: np.ndarray, labels: np.ndarray, queries: np.ndarray) -> BestScores:
    """Finds the best right and the best wrong score of items against all other items, from all scores, in blocks of queries.

    Args:
        embeddings: (num_items, dim) float32 unit vectors.
        labels: (num_items,) whole numbers; items with the same label are of one class.
        queries: (num_queries,) positions of items.

    Raises:
        ValueError: an argument is not as described.
    """
    embeddings = check_unit_vectors("embeddings", embeddings)
    labels = check_whole_numbers("labels", labels, len(embeddings))
    order = np.argsort(labels, kind="stable")
    first, last = (np.searchsorted(labels[order], labels[queries], side=side) for side in ("left", "right"))
    right = np.full(len(queries), -np.inf, dtype=np.float32)
    wrong = right.copy()
    step = max(1, MAX_SCORES // len(embeddings))
    for start in range(0, len(queries), step):
        scores = embeddings[queries[start : start + step]] @ embeddings.T
        for row, i in zip(scores, range(start, len(queries)), strict=False):
            row[queries[i]] = -np.inf
            of_class = order[first[i] : last[i]]
            right[i] = row[of_class].max()
            row[of_class] = -np.inf
        wrong[start : start + step] = scores.max(axis=1)
    return BestScores(right, wrong)
