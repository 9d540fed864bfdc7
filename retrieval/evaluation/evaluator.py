"""`evaluate`: the figures of embeddings of any common type. Every item is a query against all others, or against a gallery."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from retrieval.evaluation.inputs import number_labels, to_numpy, unit_vectors
from retrieval.evaluation.ranking import rank_queries
from retrieval.evaluation.summary import figures

Labels = Sequence[Hashable] | ArrayLike


def evaluate(
    embeddings: ArrayLike,
    labels: Labels,
    *,
    ks: Sequence[int] = (1, 2, 4, 8),
    ids: ArrayLike | None = None,
    gallery: ArrayLike | None = None,
    gallery_labels: Labels | None = None,
    metrics: Sequence[str] = ("recall", "map@r", "r_precision"),
    macro: bool = False,
    interval_seed: int | None = None,
) -> dict[str, float]:
    """Measures how well embeddings retrieve items of the same label: ranks all other items for each item by cosine similarity.

    recall@k is a hit rate: the fraction of queries with at least one item of their label among the first k. Ties are canonical:
    neighbours are sorted by score descending, then by id ascending, so the figures do not depend on chance. An item is never its
    own neighbour, but a copy of it with another id is. With a gallery, items are ranked against the gallery only, and none is left
    out.

    Args:
        embeddings: (num_items, dim) vectors of any length: NumPy arrays, torch tensors on any device, or nested lists, of floats
            of any precision or integers. Vectors are divided by their length, unless they are float32 unit vectors (to 1e-3).
            A np.memmap of float32 unit vectors is read in parts.
        labels: (num_items,) labels of any hashable type: a list, a NumPy array, a torch tensor or a pandas Series. Items with
            equal labels are relevant to one another; 1 and 1.0 are equal, 1 and "1" are not.
        ks: cut-offs of recall@k and precision@k, each less than the number of items, or at most the size of the gallery.
        ids: different whole numbers from 0, one for each item, or for each gallery item if `gallery` is given; the positions by
            default. They decide ties.
        gallery: (num_gallery_items, dim) vectors, of the same types as `embeddings`.
        gallery_labels: (num_gallery_items,) their labels, of the same types as `labels`.
        metrics: some of "recall", "precision" (both at every k), "map@r", "r_precision", "mrr"; see
            `retrieval.evaluation.metrics`. With only "recall" and "mrr" it is faster.
        macro: adds "macro <name>", the mean over classes of the mean over the queries of a class.
        interval_seed: adds "<name> low" and "<name> high", the bounds of the 95 % bootstrap interval for this seed.

    Returns:
        The mean of each metric over the queries, as a fraction of 1: "recall@<k>", "precision@<k>", "map@r", "r_precision",
        "mrr". Also "queries", the number of items with a relevant item; "left_out", the number of the other items, which are not
        queries because they are alone with their label; and "ties", the number of queries whose nearest relevant item has exactly
        the score of an irrelevant one. With a gallery, items are left out because their label is not in the gallery, and
        "not_in_gallery" is their number, too.

    Raises:
        ValueError: an argument is not as described. Among others: vectors that are zero or not finite, sparse tensors, different
            numbers of vectors and labels, missing labels (None, NaN), a k that is too large, or no item with a relevant item.

    Examples:
        >>> import retrieval
        >>> embeddings = [[3.0, 0.0], [2.0, 0.1], [0.0, 1.0], [2.0, 0.5]]
        >>> retrieval.evaluate(embeddings, ["cat", "cat", "dog", "dog"], ks=(1, 3), metrics=["recall"])
        {'recall@1': 0.75, 'recall@3': 1.0, 'queries': 4, 'left_out': 0, 'ties': 0}
    """
    if (gallery is None) != (gallery_labels is None):
        raise ValueError("gallery and gallery_labels belong together; give both or neither")
    vectors = unit_vectors("embeddings", embeddings)
    gallery_vectors, gallery_numbers = None, None
    if gallery is None or gallery_labels is None:
        (numbers,) = number_labels(labels)
    else:
        gallery_vectors = unit_vectors("gallery", gallery)
        numbers, gallery_numbers = number_labels(labels, gallery_labels)
        _check_count("gallery_labels", gallery_numbers, "gallery", gallery_vectors)
    _check_count("labels", numbers, "embeddings", vectors)
    ranking = rank_queries(
        vectors,
        numbers,
        ks=ks,
        ids=None if ids is None else to_numpy("ids", ids),
        gallery=gallery_vectors,
        gallery_labels=gallery_numbers,
        metrics=metrics,
    )
    return figures(ranking, macro=macro, interval_seed=interval_seed)


def _check_count(name: str, labels: np.ndarray, vectors_name: str, vectors: np.ndarray) -> None:
    if len(labels) != len(vectors):
        raise ValueError(
            f"{name}: {len(labels)} labels, but {vectors_name} has {len(vectors)} rows; give one label for each row"
        )
