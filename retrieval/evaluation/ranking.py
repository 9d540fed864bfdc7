"""Ranks the relevant items of every query, and computes the metrics of each query from these ranks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from retrieval.evaluation import metrics as measures
from retrieval.evaluation.arrays import check_ids, check_k, check_unit_vectors, check_whole_numbers
from retrieval.evaluation.exact import Items

METRICS = ("recall", "precision", "map@r", "r_precision", "mrr")


@dataclass(frozen=True, eq=False)
class Ranking:
    """The ranks and metrics of every query that has a relevant item. Arrays are (num_queries,).

    Args:
        queries: int64, the positions of the queries in `embeddings`, ascending.
        labels: int64.
        num_relevant: int64, the number of relevant items.
        first_rank: int64, the rank of the nearest relevant item, from 1.
        tied: whether an irrelevant item has exactly the score of the nearest relevant one, so that the ids decide its rank.
        values: maps the name of a figure, e.g. "recall@1" or "map@r", to its float64 values; see `retrieval.evaluation.metrics`.
        left_out: number of items without a relevant item.
        not_in_gallery: number of these whose label the gallery lacks, which with a gallery are all of them; None without a gallery,
            where they are alone with their label.
    """

    queries: np.ndarray
    labels: np.ndarray
    num_relevant: np.ndarray
    first_rank: np.ndarray
    tied: np.ndarray
    values: dict[str, np.ndarray]
    left_out: int
    not_in_gallery: int | None = None


def rank_queries(
    embeddings: np.ndarray,
    labels: np.ndarray,
    *,
    ks: Sequence[int] = (1, 2, 4, 8),
    ids: np.ndarray | None = None,
    gallery: np.ndarray | None = None,
    gallery_labels: np.ndarray | None = None,
    metrics: Sequence[str] = METRICS,
    shard: tuple[int, int] = (0, 1),
    sample: np.ndarray | None = None,
    rows: np.ndarray | None = None,
) -> Ranking:
    """Ranks all other items, or a gallery, for each item, and returns the metrics of each query.

    `retrieval.evaluate` averages them, and takes more types of arguments. With only "recall" and "mrr" it is faster, since then
    only the nearest relevant item of a query is ranked.

    Args:
        embeddings: (num_items, dim) float32 unit vectors; a np.memmap is read in parts.
        labels: (num_items,) whole numbers; items with the same label are relevant to one another.
        ks: cut-offs of recall@k and precision@k, each less than the number of items, or at most the size of the gallery.
        ids: different whole numbers from 0, one for each item, or for each gallery item if `gallery` is given; the positions by
            default.
        gallery: (num_gallery_items, dim) float32 unit vectors, or a np.memmap of them.
        gallery_labels: (num_gallery_items,) whole numbers, with the same numbering as `labels`.
        metrics: some of "recall", "precision" (both at every k), "map@r", "r_precision", "mrr".
        shard: (i, n) ranks only the i-th of n parts of the queries, e.g. in one of n processes; see `merge_rankings`.
        sample: positions of the items that are queries; by default all are.
        rows: the rows of `gallery`, or without one of `embeddings`, that are items: one for each label and id. By default all are.

    Raises:
        ValueError: an argument is not as described, or no item has a relevant item.
    """
    embeddings = check_unit_vectors("embeddings", embeddings)
    places = np.arange(len(embeddings if gallery is None else gallery)) if rows is None else rows
    labels = check_whole_numbers("labels", labels, len(places) if gallery is None else len(embeddings))
    if (gallery is None) != (gallery_labels is None):
        raise ValueError("gallery and gallery_labels belong together; give both or neither")
    own = gallery is None or gallery_labels is None  # whether the items are their own gallery
    if gallery is None or gallery_labels is None:
        gallery, gallery_labels = embeddings, labels
    else:
        gallery = check_unit_vectors("gallery", gallery)
        gallery_labels = check_whole_numbers("gallery_labels", gallery_labels, len(places))
    ks = _check_request(ks, metrics, shard, len(places) - own)
    if embeddings.shape[1] != gallery.shape[1]:
        raise ValueError(
            f"queries have {embeddings.shape[1]} dimensions and the gallery {gallery.shape[1]}; use one model for both"
        )
    ids = np.arange(len(places)) if ids is None else check_ids("ids", ids, len(places))

    classes, gallery_classes, num_relevant = _classes(labels, gallery_labels)
    num_relevant -= own
    if not (num_relevant > 0).any():
        raise ValueError(
            "no label occurs twice, so no item has a relevant item; evaluate classes of two or more items"
            if own
            else "no label of the items occurs in the gallery, so no item has a relevant item; use the same labels for both"
        )
    asked = np.arange(len(labels)) if sample is None else np.unique(sample)
    mine = np.array_split(asked, shard[1])[shard[0]]
    if not (num_relevant[mine] > 0).any() and sample is not None:
        raise ValueError(f"none of the {len(mine)} sampled queries has a relevant item; sample more")
    symmetric = own and len(mine) == len(labels)
    ranked = mine if symmetric else mine[num_relevant[mine] > 0]
    order = ranked[np.argsort(classes[ranked], kind="stable")]
    gallery_order = order if symmetric else np.argsort(gallery_classes, kind="stable")

    from retrieval.evaluation.block import Task  # not at the top: importing torch takes a second
    from retrieval.evaluation.counting import rank_relevant

    gallery_items = Items(gallery, places[gallery_order])
    task = Task(
        queries=gallery_items if symmetric else Items(embeddings, places[order] if own else order),
        gallery=gallery_items,
        classes=classes[order],
        gallery_classes=gallery_classes[gallery_order],
        own=np.argsort(gallery_order)[order] if own else None,
        id_ranks=np.argsort(np.argsort(ids))[gallery_order],
        symmetric=symmetric,
        depth=_depth(ks, metrics, int(num_relevant.max())),
    )
    first_rank = np.zeros(len(labels), dtype=np.int64)
    tied = np.zeros(len(labels), dtype=bool)
    values: dict[str, np.ndarray] = {}
    for part in rank_relevant(task):
        block = order[part.rows]
        some = num_relevant[block] > 0
        block, ranks = block[some], part.ranks[some]
        if len(block):
            first_rank[block], tied[block] = ranks[:, 0], part.tied[some]
            for name, column in _measure(ranks, num_relevant[block], ks, metrics).items():
                values.setdefault(name, np.zeros(len(labels)))[block] = column
    queries = mine[num_relevant[mine] > 0]
    return Ranking(
        queries,
        labels[queries],
        num_relevant[queries],
        first_rank[queries],
        tied[queries],
        {name: column[queries] for name, column in values.items()},
        len(mine) - len(queries),
        None if own else len(mine) - len(queries),
    )


def merge_rankings(parts: Sequence[Ranking]) -> Ranking:
    """Merges the rankings of all shards, given in order, into the ranking of all queries."""
    names = next(part.values for part in parts if len(part.queries))  # a part without queries has no values
    return Ranking(
        np.concatenate([part.queries for part in parts]),
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.num_relevant for part in parts]),
        np.concatenate([part.first_rank for part in parts]),
        np.concatenate([part.tied for part in parts]),
        {name: np.concatenate([part.values[name] for part in parts if len(part.queries)]) for name in names},
        sum(part.left_out for part in parts),
        None if parts[0].not_in_gallery is None else sum(part.not_in_gallery or 0 for part in parts),
    )


def _classes(labels: np.ndarray, gallery_labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Numbers the classes of queries and gallery by ascending size, and returns the numbers and the size of each query's class.

    Counting takes time in proportion to the largest class of a block. In this order the classes of a block have similar sizes.
    """
    names, inverse, sizes = np.unique(gallery_labels, return_inverse=True, return_counts=True)
    number = np.argsort(np.argsort(sizes, kind="stable"))
    if not len(names):
        return np.full(len(labels), -1), inverse, np.zeros(len(labels), dtype=np.int64)
    positions = np.minimum(np.searchsorted(names, labels), len(names) - 1)
    known = names[positions] == labels
    return np.where(known, number[positions], -1), number[inverse], np.where(known, sizes[positions], 0)


def _depth(ks: Sequence[int], metrics: Sequence[str], most_relevant: int) -> int:
    """Returns the largest rank at which relevant items other than the nearest affect the metrics."""
    depth = most_relevant if {"map@r", "r_precision"} & set(metrics) else 1
    return max(depth, *ks) if "precision" in metrics else depth


def _measure(
    ranks: np.ndarray, num_relevant: np.ndarray, ks: Sequence[int], metrics: Sequence[str]
) -> dict[str, np.ndarray]:
    values: dict[str, np.ndarray] = {}
    if "recall" in metrics:
        values |= {f"recall@{k}": measures.recall_at_k(ranks, k) for k in ks}
    if "precision" in metrics:
        values |= {f"precision@{k}": measures.precision_at_k(ranks, k) for k in ks}
    if "map@r" in metrics:
        values["map@r"] = measures.map_at_r(ranks, num_relevant)
    if "r_precision" in metrics:
        values["r_precision"] = measures.r_precision(ranks, num_relevant)
    if "mrr" in metrics:
        values["mrr"] = measures.reciprocal_rank(ranks)
    return values


def _check_request(ks: Sequence[int], metrics: Sequence[str], shard: tuple[int, int], num_others: int) -> list[int]:
    """Returns the ks as ints."""
    try:
        cut_offs = [check_k(k) for k in ks]
    except (TypeError, ValueError):
        cut_offs = []
    if not cut_offs or len(set(cut_offs)) < len(cut_offs):
        raise ValueError(f"ks are {_shown(ks)}, expected different whole numbers from 1, e.g. 1, 2, 4, 8")
    if max(cut_offs) > num_others:
        raise ValueError(
            f"k is {max(cut_offs)}, but a query has {num_others} others in the gallery; the largest usable k is {num_others}"
        )
    if isinstance(metrics, str) or not metrics or not all(metric in METRICS for metric in metrics):
        raise ValueError(f"metrics are {_shown(metrics)}, expected some of {', '.join(METRICS)}")
    if not 0 <= shard[0] < shard[1]:
        raise ValueError(f"shard is {shard}, expected (i, n) with i from 0 to n - 1")
    return cut_offs


def _shown(values: object) -> str:
    return str(list(values)) if isinstance(values, Iterable) and not isinstance(values, str) else repr(values)
