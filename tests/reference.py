"""Slow, plain versions of what is fast: the tests compare the two."""

from __future__ import annotations

import math


def plain_recall_loss(scores, relevant, irrelevant, weighting: str) -> float:
    """The recall loss of a matrix of scores, by counting intruders with loops."""
    weights = {"loglog": lambda r: math.log1p(math.log1p(r)), "log": math.log1p, "linear": float}
    per_query = []
    for row, right, wrong in zip(scores.tolist(), relevant.tolist(), irrelevant.tolist(), strict=True):
        values = []
        for p in range(len(row)):
            if right[p]:
                intruders = sum(wrong[n] and row[n] > row[p] for n in range(len(row)))
                values.append(weights[weighting](intruders))
        if values:
            per_query.append(sum(values) / len(values))
    return sum(per_query) / len(per_query) if per_query else 0.0
