"""The scores of the nearest right and the nearest wrong item of queries."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from retrieval.evaluation.arrays import check_unit_vectors, check_whole_numbers

# Scores in memory at a time, and their queries.
MAX_SCORES, MAX_QUERIES = 2**24, 1024


class BestScores(NamedTuple):
    """The best scores of some queries.

    Args:
        right: (num_queries,) float32, the score of the nearest other item of the query's class; -inf where there is none.
        wrong: (num_queries,) float32, the score of the nearest item of another class; -inf where there is none. It is the best
            score of the query in a gallery without its class.
    """

    right: np.ndarray
    wrong: np.ndarray


def best_scores(
    embeddings: np.ndarray, labels: np.ndarray, queries: np.ndarray, left_out: np.ndarray | None = None
) -> BestScores:
    """Finds the best right and the best wrong score of items against all other items, from all scores, in tiles.

    Args:
        embeddings: (num_items, dim) float32 unit vectors.
        labels: (num_items,) whole numbers; items with the same label are of one class.
        queries: (num_queries,) positions of items.
        left_out: (num_items,) which items are no items of the gallery; none by default.

    Raises:
        ValueError: an argument is not as described.
    """
    embeddings = check_unit_vectors("embeddings", embeddings)
    return find_best_scores(embeddings, check_whole_numbers("labels", labels, len(embeddings)), queries, left_out)


def find_best_scores(
    embeddings: np.ndarray, labels: np.ndarray, queries: np.ndarray, left_out: np.ndarray | None = None
) -> BestScores:
    """As `best_scores`, of arguments that have been checked: a check of many vectors takes as long as their scores."""
    right = np.full(len(queries), -np.inf, dtype=np.float32)
    wrong = right.copy()
    rows = np.asarray(embeddings[queries])
    members = np.flatnonzero(np.isin(labels, labels[queries]))  # the items of the queries' classes
    size = max(1, min(len(embeddings), MAX_SCORES // MAX_QUERIES))
    for left in range(0, len(embeddings), size):
        items = np.asarray(embeddings[left : left + size])
        here = members[slice(*np.searchsorted(members, (left, left + size)))]
        here = here[np.argsort(labels[here], kind="stable")]
        first, last = (np.searchsorted(labels[here], labels[queries], side=side) for side in ("left", "right"))
        for top in range(0, len(queries), MAX_QUERIES):
            scores = rows[top : top + MAX_QUERIES] @ items.T
            if left_out is not None:
                scores[:, left_out[left : left + size]] = -np.inf
            inside = np.flatnonzero((first < last)[top : top + MAX_QUERIES])
            for row, i in ((scores[j], j + top) for j in inside):
                if left <= queries[i] < left + len(items):
                    row[queries[i] - left] = -np.inf
                of_class = here[first[i] : last[i]] - left
                right[i] = max(right[i], row[of_class].max())
                row[of_class] = -np.inf
            part = slice(top, top + MAX_QUERIES)
            wrong[part] = np.maximum(wrong[part], scores.max(axis=1))
    return BestScores(right, wrong)
