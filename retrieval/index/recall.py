"""Figures of an index: of all queries, of each class, and of other rankings."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from retrieval import evaluation
from retrieval.errors import ConfigError
from retrieval.evaluation.arrays import check_k
from retrieval.evaluation.metrics import map_at_r, r_precision, recall_at_k
from retrieval.evaluation.search import search_in_blocks
from retrieval.index import editing, reranking
from retrieval.index.bundle import Bundle

KS = (1, 2, 4, 8)
METRICS = ("recall", "map@r", "r_precision")

Figures = dict[str, float]


@dataclass(frozen=True)
class Ranking:
    """How neighbours are ranked. Each part is left out where it is 0.

    Args:
        qe: Neighbours of alpha query expansion.
        alpha: The exponent of its weights.
        dba: Neighbours of database-side augmentation, with the same exponent.
        rerank: Neighbours of k-reciprocal re-ranking, which comes last.
    """

    qe: int = 0
    alpha: float = 3.0
    dba: int = 0
    rerank: int = 0

    def __bool__(self) -> bool:
        return bool(self.qe or self.dba or self.rerank)

    def steps(self) -> dict[str, Ranking]:
        """Each part alone, by its name, and all of them where there are several."""
        alone = {
            f"query expansion {self.qe}": Ranking(qe=self.qe, alpha=self.alpha),
            f"augmentation {self.dba}": Ranking(dba=self.dba, alpha=self.alpha),
            f"re-ranking {self.rerank}": Ranking(rerank=self.rerank),
        }
        used = {name: ranking for name, ranking in alone.items() if ranking}
        return used | ({"all of these": self} if len(used) > 1 else {})

    def apply(self, queries: np.ndarray, gallery: np.ndarray, own: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Queries and gallery after expansion and augmentation."""
        everything = np.arange(len(gallery))
        augmented = reranking.expand(gallery, gallery, self.dba, alpha=self.alpha, own=everything)
        return reranking.expand(queries, augmented, self.qe, alpha=self.alpha, own=own), augmented

    def nearest(
        self, queries: np.ndarray, gallery: np.ndarray, own: np.ndarray | None, k: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Positions (block, k) of the first items of all queries in their order, and their scores; -1 where there are no more.

        The item of a query itself, whose position is in `own`, is left out.
        """
        queries, gallery = self.apply(queries, gallery, own)
        if self.rerank:
            yield from reranking.rerank(queries, gallery, self.rerank, own=own, k=k)
            return
        for found in search_in_blocks(queries, gallery, k, query_ids=own):
            yield found.positions, found.scores


def evaluate(
    bundle: Bundle,
    ks: Sequence[int] | None,
    queries: Bundle | None = None,
    *,
    metrics: Sequence[str] = METRICS,
    macro: bool = False,
    interval_seed: int | None = None,
    sample: int | None = None,
    seed: int = 0,
) -> Figures:
    """Evaluates a bundle; see `retrieval.evaluation.evaluate`.

    Args:
        bundle: The bundle. Every item is a query against all others.
        ks: Cut-offs of recall@k; None takes those of `KS` that the gallery is large enough for.
        queries: A bundle whose items are the queries instead. Classes of the same name are the same class.
        metrics: See `retrieval.evaluation.evaluate`.
        macro: See there.
        interval_seed: See there.
        sample: Number of queries, sampled at random; all by default.
        seed: Seed of the sample.
    """
    arrays = _arrays(bundle, queries)
    options: dict[str, Any] = {"macro": macro, "interval_seed": interval_seed}
    with _mistakes(bundle):
        chosen = None
        if sample is not None and check_k(sample) < len(arrays["labels"]):
            chosen = np.random.default_rng(seed).choice(len(arrays["labels"]), sample, replace=False)
        ranked = evaluation.rank_queries(**arrays, ks=_cut_offs(arrays, ks), metrics=metrics, sample=chosen)
        return evaluation.figures(ranked, **options)


def evaluate_rankings(
    bundle: Bundle, ks: Sequence[int] | None, ranking: Ranking, queries: Bundle | None = None
) -> dict[str, Figures]:
    """recall@k, MAP@R and R-precision by the vectors themselves ("plain"), and by each part of a ranking."""
    arrays = _arrays(bundle, queries) | ({"embeddings" if queries is None else "gallery": bundle.vectors})
    arrays.pop("rows")
    ks = _cut_offs(arrays, ks)
    with _mistakes(bundle):
        plain = evaluation.evaluate(**arrays, ks=ks)  # first, since it checks the arguments
        figures = {name: _figures(arrays, ks, step) for name, step in ranking.steps().items()}
    plain.pop("ties")
    return {"plain": plain, **figures}


def evaluate_classes(
    bundle: Bundle,
    ks: Sequence[int] | None,
    queries: Bundle | None = None,
    metrics: Sequence[str] = METRICS,
) -> list[dict[str, Any]]:
    """The figures of every class, the worst class by the first figure first, then by name.

    Returns:
        {"class", "queries", "recall@1", ...} of every class that has queries.
    """
    arrays = _arrays(bundle, queries)
    names = dict(zip(arrays["labels"].tolist(), (queries or bundle).class_names, strict=True))
    with _mistakes(bundle):
        ranked = evaluation.rank_queries(**arrays, ks=_cut_offs(arrays, ks), metrics=metrics)
    figures = evaluation.class_figures(ranked)
    rows = [
        {"class": names[int(label)], "queries": int(count)}
        | {name: float(values[row]) for name, values in figures.values.items()}
        for row, (label, count) in enumerate(zip(figures.labels, figures.queries, strict=True))
    ]
    return sorted(rows, key=lambda row: (row[next(iter(figures.values))], row["class"]))


def _arrays(bundle: Bundle, queries: Bundle | None) -> dict[str, Any]:
    """The arguments of `retrieval.evaluation.rank_queries` for the queries and the gallery, whose vectors stay in their file."""
    gallery = {"ids": bundle.ids, "rows": bundle.rows}
    if queries is None:
        return {"embeddings": bundle.all_vectors, "labels": bundle.labels, **gallery}
    editing.require_comparable(bundle, queries)
    labels, gallery_labels = _number_alike(queries, bundle)
    return {
        "embeddings": queries.vectors,
        "labels": labels,
        **gallery,
        "gallery": bundle.all_vectors,
        "gallery_labels": gallery_labels,
    }


def _cut_offs(arrays: dict[str, Any], ks: Sequence[int] | None) -> Sequence[int]:
    if ks is not None:
        return ks
    others = len(arrays["ids"]) - ("gallery" not in arrays)
    return [k for k in KS if k <= others] or KS


def _number_alike(*bundles: Bundle) -> list[np.ndarray]:
    number: dict[str, int] = {}
    numbered = [bundle.items.numbered_classes for bundle in bundles]
    return [np.array([number.setdefault(name, len(number)) for name in names])[labels] for labels, names in numbered]


def _figures(arrays: dict[str, Any], ks: Sequence[int], ranking: Ranking) -> Figures:
    """recall@k, MAP@R and R-precision of a ranking."""
    order = np.argsort(arrays["ids"])
    own = None
    if "gallery" in arrays:
        queries, labels = arrays["embeddings"], arrays["labels"]
        gallery, gallery_labels = arrays["gallery"][order], arrays["gallery_labels"][order]
    else:
        queries = gallery = arrays["embeddings"][order]
        labels = gallery_labels = arrays["labels"][order]
        own = np.arange(len(gallery))
    known, counts = np.unique(gallery_labels, return_counts=True)
    positions = np.searchsorted(known, labels).clip(max=len(known) - 1)
    num_relevant = np.where(known[positions] == labels, counts[positions], 0) - (own is not None)
    slots = int(num_relevant.max())
    depth = min(max(*ks, slots), len(gallery))  # items beyond do not count for any figure
    ranks = []
    start = 0
    for nearest, _ in ranking.nearest(queries, gallery, own, depth):
        relevant = (gallery_labels[nearest] == labels[start : start + len(nearest), None]) & (nearest >= 0)
        of_relevant = np.argsort(~relevant, axis=1, kind="stable")[:, :slots] + 1
        of_relevant[np.arange(slots) >= relevant.sum(axis=1)[:, None]] = len(gallery) + 1  # empty slots
        ranks.append(of_relevant)
        start += len(nearest)
    kept = num_relevant > 0
    of_relevant, num_relevant = np.concatenate(ranks)[kept], num_relevant[kept]
    values = {f"recall@{k}": recall_at_k(of_relevant, k) for k in ks}
    values |= {"map@r": map_at_r(of_relevant, num_relevant), "r_precision": r_precision(of_relevant, num_relevant)}
    missing = int((~kept).sum())
    totals = {"queries": int(kept.sum()), "left_out": missing} | (
        {} if own is not None else {"not_in_gallery": missing}
    )
    return {name: float(value.mean()) for name, value in values.items()} | totals


@contextlib.contextmanager
def _mistakes(bundle: Bundle) -> Iterator[None]:
    """Names the index in an error about its vectors or the cut-offs."""
    try:
        yield
    except ValueError as error:
        raise ConfigError(f"{bundle}: cannot be measured: {error}") from error
