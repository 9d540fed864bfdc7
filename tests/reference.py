"""Slow, plain versions of what is fast: the tests compare the two."""

from __future__ import annotations

import math

import numpy as np


def plain_recall_loss(scores, relevant, irrelevant, weighting: str) -> float:
    """The recall loss of a matrix of scores, by counting intruders, ties among them, with loops."""
    weights = {
        "loglog": lambda r: math.log1p(math.log1p(r)),
        "log": math.log1p,
        "sqrt": lambda r: math.sqrt(1 + r) - 1,
        "linear": float,
    }
    per_query = []
    for row, right, wrong in zip(scores.tolist(), relevant.tolist(), irrelevant.tolist(), strict=True):
        values = []
        for p in range(len(row)):
            if right[p]:
                intruders = sum(wrong[n] and row[n] >= row[p] for n in range(len(row)))
                values.append(weights[weighting](intruders))
        if values:
            per_query.append(sum(values) / len(values))
    return sum(per_query) / len(per_query) if per_query else 0.0


def plain_neighbours(queries, gallery, k: int, query_ids=None, gallery_ids=None):
    """Ids and scores of the k nearest of each query, by sorting all of (-score, id); padded with -1 and -inf."""
    gallery_ids = range(len(gallery)) if gallery_ids is None else gallery_ids
    all_ids, all_scores = [], []
    for row, query in enumerate(queries):
        # float64 products summed in one order for all: copies tie exactly
        scores = (query.astype(np.float64) * gallery.astype(np.float64)).sum(axis=1).astype(np.float32)
        own = None if query_ids is None else query_ids[row]
        ranking = sorted((-float(s), int(i)) for s, i in zip(scores, gallery_ids, strict=True) if i != own)[:k]
        ranking += [(math.inf, -1)] * (k - len(ranking))
        all_ids.append([i for _, i in ranking])
        all_scores.append([-s for s, _ in ranking])
    return np.array(all_ids).reshape(-1, k), np.array(all_scores, dtype=np.float32).reshape(-1, k)


def plain_evaluation(embeddings, labels, ks, ids=None) -> dict[str, float]:
    """All figures of every item against all others, query by query and neighbour by neighbour."""
    ids = list(range(len(labels))) if ids is None else [int(i) for i in ids]
    rankings = plain_neighbours(embeddings, embeddings, len(ids) - 1, ids, ids)
    return _plain_figures(rankings, labels, dict(zip(ids, labels.tolist(), strict=True)), ks)


def plain_gallery_evaluation(embeddings, labels, gallery, gallery_labels, ks, ids=None) -> dict[str, float]:
    """The same for every item against all of a gallery, to which the ids belong."""
    ids = list(range(len(gallery))) if ids is None else [int(i) for i in ids]
    rankings = plain_neighbours(embeddings, gallery, len(ids), None, ids)
    figures = _plain_figures(rankings, labels, dict(zip(ids, gallery_labels.tolist(), strict=True)), ks)
    return figures | {"not_in_gallery": sum(label not in gallery_labels for label in labels)}


def _plain_figures(rankings, labels, label_of, ks) -> dict[str, float]:
    names = (*(f"{name}@{k}" for name in ("recall", "precision") for k in ks), "map@r", "r_precision", "mrr")
    values = {name: [] for name in names}
    ties = 0
    for label, ranking, scores in zip(labels.tolist(), rankings[0].tolist(), rankings[1].tolist(), strict=True):
        right = [label_of[other] == label for other in ranking]
        r = sum(right)
        if r == 0:
            continue
        for k in ks:
            values[f"recall@{k}"].append(float(any(right[:k])))
            values[f"precision@{k}"].append(sum(right[:k]) / k)
        values["map@r"].append(sum(sum(right[: i + 1]) / (i + 1) for i in range(r) if right[i]) / r)
        values["r_precision"].append(sum(right[:r]) / r)
        first = right.index(True)
        values["mrr"].append(1 / (first + 1))
        ties += any(s == scores[first] and not is_right for s, is_right in zip(scores, right, strict=True))
    queries = len(values["map@r"])
    figures = {name: sum(column) / queries for name, column in values.items()}
    return figures | {"queries": queries, "left_out": len(labels) - queries, "ties": ties}


def plain_smooth_ap_loss(scores, relevant, irrelevant, tau: float) -> float:
    """Smooth-AP of a matrix of scores, by loops over queries, relevant items and their competitors."""
    per_query = []
    for row, right, wrong in zip(scores.tolist(), relevant.tolist(), irrelevant.tolist(), strict=True):
        precisions = []
        for p in range(len(row)):
            if right[p]:
                rank_among_relevant = _soft_rank(row, p, right, tau)
                precisions.append(rank_among_relevant / (rank_among_relevant + _soft_rank(row, p, wrong, tau) - 1))
        if precisions:
            per_query.append(1 - sum(precisions) / len(precisions))
    return sum(per_query) / len(per_query) if per_query else 0.0


def plain_recall_surrogate_loss(scores, relevant, competitors, ks, tau_k: float, tau_rank: float) -> float:
    """RS@k of a matrix of scores, by loops over queries, cut-offs, relevant items and their competitors."""
    per_query = []
    for row, right, rivals in zip(scores.tolist(), relevant.tolist(), competitors.tolist(), strict=True):
        if not any(right):
            continue
        recalls = []
        for k in ks:
            ranks = [_soft_rank(row, p, rivals, tau_rank) for p in range(len(row)) if right[p]]
            recalls.append(min(k, sum(_sigmoid((k - rank) / tau_k) for rank in ranks)) / min(k, len(ranks)))
        per_query.append(1 - sum(recalls) / len(ks))
    return sum(per_query) / len(per_query) if per_query else 0.0


def _soft_rank(row, p: int, rivals, tau: float) -> float:
    return 1 + sum(_sigmoid((row[j] - row[p]) / tau) for j in range(len(row)) if rivals[j] and j != p)


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > 0 else math.exp(x) / (1 + math.exp(x))
