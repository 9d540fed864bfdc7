"""The figures of a set of embeddings: every item is a query against all others, or against a gallery of its own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from retrieval.evaluation.arrays import check_ids, check_unit_vectors, check_whole_numbers
from retrieval.evaluation.metrics import map_at_r, r_precision, recall_at_k
from retrieval.evaluation.search import search_in_blocks


def evaluate(
    embeddings: np.ndarray,
    labels: np.ndarray,
    *,
    ks: Sequence[int] = (1, 2, 4, 8),
    ids: np.ndarray | None = None,
    gallery: np.ndarray | None = None,
    gallery_labels: np.ndarray | None = None,
) -> dict[str, float]:
    """Ranks all other items for each item, by inner product, and measures how well its own class comes first.

    Neighbours come in canonical order, so that the figures do not depend on how ties fall: score descending, then id ascending.
    An item is kept out of its own neighbours by its id, not by its position: a copy of it may stand before it. With a gallery, the
    items are ranked against that and not against one another, and nothing is kept out.

    Args:
        embeddings: (num_items, dim) float32 unit vectors.
        labels: (num_items,) whole numbers; items of one label are relevant to one another.
        ks: cut-offs of recall@k, each below the number of items, or at most the size of the gallery.
        ids: (num_items,) whole numbers from 0, none twice, of the gallery if there is one; the positions if left out.
        gallery: (num_gallery_items, dim) float32 unit vectors.
        gallery_labels: (num_gallery_items,) whole numbers, by the same numbering as `labels`.

    Returns:
        "recall@<k>" for each k, "map@r" and "r_precision" (see `retrieval.evaluation.metrics`): fractions of 1, averaged over the
        "queries", the items that have another of their label to find; "left_out" counts the rest, those alone in their class.

    Raises:
        ValueError: anything above does not hold, or no item has another of its label to find.
    """
    embeddings = check_unit_vectors("embeddings", embeddings)
    labels = check_whole_numbers("labels", labels, len(embeddings))
    if (gallery is None) != (gallery_labels is None):
        raise ValueError("gallery and gallery_labels belong together; give both or neither")
    own = gallery is None or gallery_labels is None  # the items are their own gallery
    if gallery is None or gallery_labels is None:
        gallery, gallery_labels = embeddings, labels
    else:
        gallery = check_unit_vectors("gallery", gallery)
        gallery_labels = check_whole_numbers("gallery_labels", gallery_labels, len(gallery))
    _check_ks(ks, len(gallery) - own)
    if ids is not None:
        # In the order of the ids, positions can stand for them.
        order = np.argsort(check_ids("ids", ids, len(gallery)))
        gallery, gallery_labels = gallery[order], gallery_labels[order]
        if own:
            embeddings, labels = gallery, gallery_labels

    num_relevant = _count(labels, gallery_labels) - own
    queries = np.flatnonzero(num_relevant)
    if len(queries) == 0:
        raise ValueError(
            "no label occurs twice, so no item has a relevant one to be found; evaluate classes of two or more"
            if own
            else "no label of the items occurs in the gallery, so none has a relevant one to be found; number both alike"
        )
    num_relevant = num_relevant[queries]
    width = max(*ks, int(num_relevant.max()))

    values: dict[str, list[np.ndarray]] = {name: [] for name in (*(f"recall@{k}" for k in ks), "map@r", "r_precision")}
    start = 0
    for found in search_in_blocks(embeddings[queries], gallery, width, query_ids=queries if own else None):
        block = slice(start, start + len(found.ids))
        relevant = gallery_labels[found.ids] == labels[queries[block], None]
        for k in ks:
            values[f"recall@{k}"].append(recall_at_k(relevant, k))
        values["map@r"].append(map_at_r(relevant, num_relevant[block]))
        values["r_precision"].append(r_precision(relevant, num_relevant[block]))
        start = block.stop
    means = {name: float(np.concatenate(parts).mean()) for name, parts in values.items()}
    return means | {"queries": len(queries), "left_out": len(labels) - len(queries)}


def _count(labels: np.ndarray, gallery_labels: np.ndarray) -> np.ndarray:
    """How often each of the labels occurs in the gallery."""
    values, counts = np.unique(gallery_labels, return_counts=True)
    places = np.minimum(np.searchsorted(values, labels), max(0, len(values) - 1))
    return np.where(values[places] == labels, counts[places], 0)


def _check_ks(ks: Sequence[int], num_others: int) -> None:
    if not ks or min(ks) < 1 or len(set(ks)) < len(ks):
        raise ValueError(f"ks are {list(ks)}, expected different numbers from 1, e.g. 1, 2, 4, 8")
    if max(ks) > num_others:
        raise ValueError(
            f"k is {max(ks)}, but a query has {num_others} others to find; the largest usable k is {num_others}"
        )
