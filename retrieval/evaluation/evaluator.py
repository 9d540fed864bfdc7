"""The figures of a set of embeddings: every item is a query against all others, or against a gallery of its own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from retrieval.evaluation.ranking import rank_queries
from retrieval.evaluation.summary import figures


def evaluate(
    embeddings: np.ndarray,
    labels: np.ndarray,
    *,
    ks: Sequence[int] = (1, 2, 4, 8),
    ids: np.ndarray | None = None,
    gallery: np.ndarray | None = None,
    gallery_labels: np.ndarray | None = None,
    metrics: Sequence[str] = ("recall", "map@r", "r_precision"),
    macro: bool = False,
    interval_seed: int | None = None,
) -> dict[str, float]:
    """Ranks all other items for each item, by inner product, and measures how well its own class comes first.

    Neighbours come in canonical order, so that the figures do not depend on how ties fall: score descending, then id ascending.
    An item is kept out of its own neighbours by its id, not by its position: a copy of it may stand before it. With a gallery, the
    items are ranked against that and not against one another, and nothing is kept out.

    Args:
        embeddings, labels, ks, ids, gallery, gallery_labels, metrics: see `retrieval.evaluation.rank_queries`.
        macro, interval_seed: see `retrieval.evaluation.figures`.

    Returns:
        "recall@<k>" and "precision@<k>" for each k, "map@r", "r_precision" and "mrr" (see `retrieval.evaluation.metrics`), as far
        as asked for: fractions of 1, averaged over the "queries", the items that have another of their label to find. "left_out"
        counts the rest, those alone in their class, and "ties" the queries whose nearest relevant item has exactly the score of
        an irrelevant one.

    Raises:
        ValueError: an argument is not as `rank_queries` says, or no item has another of its label to find.
    """
    ranking = rank_queries(
        embeddings, labels, ks=ks, ids=ids, gallery=gallery, gallery_labels=gallery_labels, metrics=metrics
    )
    return figures(ranking, macro=macro, interval_seed=interval_seed)
