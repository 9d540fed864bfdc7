"""The figures of a set of embeddings: every item is a query against all others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from retrieval.evaluation.arrays import check_ids, check_unit_vectors, check_whole_numbers
from retrieval.evaluation.metrics import map_at_r, r_precision, recall_at_k
from retrieval.evaluation.search import search_in_blocks


def evaluate(
    embeddings: np.ndarray, labels: np.ndarray, *, ks: Sequence[int] = (1, 2, 4, 8), ids: np.ndarray | None = None
) -> dict[str, float]:
    """Ranks all other items for each item, by inner product, and measures how well its own class comes first.

    Neighbours come in canonical order, so that the figures do not depend on how ties fall: score descending, then id ascending.
    An item is kept out of its own neighbours by its id, not by its position: a copy of it may stand before it.

    Args:
        embeddings: (num_items, dim) float32 unit vectors.
        labels: (num_items,) whole numbers; items of one label are relevant to one another.
        ks: cut-offs of recall@k, each below the number of items.
        ids: (num_items,) whole numbers from 0, none twice; the positions if left out.

    Returns:
        "recall@<k>" for each k, "map@r" and "r_precision" (see `retrieval.evaluation.metrics`): fractions of 1, averaged over the
        "queries", the items whose label occurs again; "left_out" counts those alone in their class.

    Raises:
        ValueError: anything above does not hold, or no label occurs twice.
    """
    embeddings = check_unit_vectors("embeddings", embeddings)
    labels = check_whole_numbers("labels", labels, len(embeddings))
    _check_ks(ks, len(embeddings))
    if ids is not None:
        # In the order of the ids, positions can stand for them.
        order = np.argsort(check_ids("ids", ids, len(embeddings)))
        embeddings, labels = embeddings[order], labels[order]

    _, class_of, class_sizes = np.unique(labels, return_inverse=True, return_counts=True)
    num_relevant = class_sizes[class_of] - 1
    queries = np.flatnonzero(num_relevant)
    if len(queries) == 0:
        raise ValueError(
            "no label occurs twice, so no item has a relevant one to be found; evaluate classes of two or more"
        )
    num_relevant = num_relevant[queries]
    width = max(*ks, int(num_relevant.max()))

    values: dict[str, list[np.ndarray]] = {name: [] for name in (*(f"recall@{k}" for k in ks), "map@r", "r_precision")}
    start = 0
    for found in search_in_blocks(embeddings[queries], embeddings, width, query_ids=queries):
        block = slice(start, start + len(found.ids))
        relevant = labels[found.ids] == labels[queries[block], None]
        for k in ks:
            values[f"recall@{k}"].append(recall_at_k(relevant, k))
        values["map@r"].append(map_at_r(relevant, num_relevant[block]))
        values["r_precision"].append(r_precision(relevant, num_relevant[block]))
        start = block.stop
    means = {name: float(np.concatenate(parts).mean()) for name, parts in values.items()}
    return means | {"queries": len(queries), "left_out": len(labels) - len(queries)}


def _check_ks(ks: Sequence[int], num_items: int) -> None:
    if not ks or min(ks) < 1 or len(set(ks)) < len(ks):
        raise ValueError(f"ks are {list(ks)}, expected different numbers from 1, e.g. 1, 2, 4, 8")
    if max(ks) >= num_items:
        raise ValueError(
            f"k is {max(ks)}, but a query has {num_items - 1} others to find; the largest usable k is {num_items - 1}"
        )
