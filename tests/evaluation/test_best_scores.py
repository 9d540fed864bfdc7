"""Promises of `retrieval.evaluation.best_scores`."""

from __future__ import annotations

import numpy as np
import pytest

from retrieval.evaluation import best_scores
from retrieval.evaluation.inputs import unit_vectors


def slow(embeddings, labels, queries):
    """Right and wrong scores by loops over all pairs."""
    found = []
    for query in queries:
        scores = {i: float(embeddings[query] @ embeddings[i]) for i in range(len(labels)) if i != query}
        right = [score for i, score in scores.items() if labels[i] == labels[query]]
        wrong = [score for i, score in scores.items() if labels[i] != labels[query]]
        found.append((max(right, default=-np.inf), max(wrong, default=-np.inf)))
    return np.array(found).T


@pytest.mark.parametrize("most", [2**24, 64, 1])
@pytest.mark.parametrize("of", ["a lone label", "unequal classes", "one class"])
def test_the_best_right_and_wrong_scores_are_those_of_all_pairs(monkeypatch, most, of):
    import sys

    monkeypatch.setattr(sys.modules["retrieval.evaluation.best_scores"], "MAX_SCORES", most)
    random = np.random.default_rng(0)
    labels = {"a lone label": [3, 3, 9, 1, 1, 1, 3], "unequal classes": [0, 5, 5, 5, 0, 0, 0, 0], "one class": [2] * 5}[
        of
    ]
    embeddings = unit_vectors("embeddings", random.normal(size=(len(labels), 6)))
    queries = random.permutation(len(labels))[: len(labels) - 1]
    right, wrong = best_scores(embeddings, np.array(labels), queries)
    np.testing.assert_allclose([right, wrong], slow(embeddings, labels, queries), atol=1e-6)


def test_a_copy_of_a_query_with_another_label_is_the_best_wrong_one():
    right, wrong = best_scores(np.eye(3, dtype=np.float32)[[0, 0, 1]], np.array([0, 1, 0]), np.array([0, 1]))
    assert right.tolist() == [0, -np.inf]
    assert wrong.tolist() == [1, 1]
