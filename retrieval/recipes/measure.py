"""An index measured: its figures, those of each class, and what better rankings gain."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from retrieval import evaluation
from retrieval.errors import ConfigError
from retrieval.evaluation.metrics import map_at_r, r_precision, recall_at_k
from retrieval.index import Bundle, editing, read_bundle, reranking
from retrieval.training.record import Figures

KS = (1, 2, 4, 8)


@dataclass(frozen=True)
class Ranking:
    """How neighbours are ranked; each part is left out where it is 0.

    Args:
        expand: neighbours of alpha query expansion.
        alpha: its exponent.
        augment: neighbours of database-side augmentation, with the same exponent.
        rerank: neighbours of which the reciprocal ones count in re-ranking, which comes last.
    """

    expand: int = 0
    alpha: float = 3.0
    augment: int = 0
    rerank: int = 0

    def __bool__(self) -> bool:
        return bool(self.expand or self.augment or self.rerank)

    def steps(self) -> dict[str, Ranking]:
        """Each part alone, by its name, and all of them where there are several."""
        alone = {
            f"query expansion {self.expand}": Ranking(expand=self.expand, alpha=self.alpha),
            f"augmentation {self.augment}": Ranking(augment=self.augment, alpha=self.alpha),
            f"re-ranking {self.rerank}": Ranking(rerank=self.rerank),
        }
        wanted = {name: ranking for name, ranking in alone.items() if ranking}
        return wanted | ({"all of these": self} if len(wanted) > 1 else {})

    def apply(self, queries: np.ndarray, gallery: np.ndarray, own: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Queries and gallery as expansion and augmentation leave them."""
        everything = np.arange(len(gallery))
        augmented = reranking.expand(gallery, gallery, self.augment, alpha=self.alpha, own=everything)
        return reranking.expand(queries, augmented, self.expand, alpha=self.alpha, own=own), augmented

    def scores(self, queries: np.ndarray, gallery: np.ndarray, own: np.ndarray | None) -> Iterator[np.ndarray]:
        """Scores (some queries, num_items) of all queries in their order; a query's own item has -inf."""
        queries, gallery = self.apply(queries, gallery, own)
        step = max(1, 2**24 // len(gallery))
        plain = (queries[start : start + step] @ gallery.T for start in range(0, len(queries), step))
        start = 0
        for block in reranking.rerank(queries, gallery, self.rerank, own=own) if self.rerank else plain:
            if own is not None:
                block[np.arange(len(block)), own[start : start + len(block)]] = -np.inf
            start += len(block)
            yield block


def evaluate(
    index: str | Path, ks: Sequence[int] | None = None, *, queries: str | Path | None = None, **words: Any
) -> Figures:
    """Measures an index bundle; see `retrieval.evaluation.evaluate`.

    Args:
        index: folder of the bundle: every item is a query against all others.
        ks: cut-offs of recall@k; if left out, those of `KS` that the gallery is large enough for.
        queries: folder of another bundle, whose items are the queries instead; classes of one name are the same.
        words: metrics, macro, interval_seed.
    """
    measured = _measured(index, queries)
    with _mistakes(index):
        return evaluation.evaluate(**measured, ks=_cut_offs(measured, ks), **words)


def evaluate_rankings(
    index: str | Path, ks: Sequence[int] | None, ranking: Ranking, *, queries: str | Path | None = None
) -> dict[str, Figures]:
    """recall@k, MAP@R and R-precision of an index by the vectors as they are ("plain"), and by each part of a ranking."""
    measured = _measured(index, queries)
    ks = _cut_offs(measured, ks)
    with _mistakes(index):
        plain = evaluation.evaluate(**measured, ks=ks)  # first, since it checks the arguments
        figures = {name: _figures(measured, ks, step) for name, step in ranking.steps().items()}
    return {"plain": {name: plain[name] for name in next(iter(figures.values()))}, **figures}


def evaluate_classes(
    index: str | Path,
    ks: Sequence[int] | None = None,
    *,
    queries: str | Path | None = None,
    metrics: Sequence[str] = ("recall", "map@r", "r_precision"),
) -> list[dict[str, Any]]:
    """The figures of every class: "class", "queries", "recall@1", ...; the worst first by the first figure, then by name."""
    measured = _measured(index, queries)
    names = dict(zip(measured["labels"].tolist(), read_bundle(queries or index).class_names, strict=True))
    with _mistakes(index):
        ranked = evaluation.rank_queries(**measured, ks=_cut_offs(measured, ks), metrics=metrics)
    found = evaluation.class_figures(ranked)
    rows = [
        {"class": names[int(label)], "queries": int(count)}
        | {name: float(values[place]) for name, values in found.values.items()}
        for place, (label, count) in enumerate(zip(found.labels, found.queries, strict=True))
    ]
    return sorted(rows, key=lambda row: (row[next(iter(found.values))], row["class"]))


def _measured(index: str | Path, queries: str | Path | None) -> dict[str, Any]:
    """The arguments of `retrieval.evaluation.evaluate` that say what is ranked against what."""
    bundle = read_bundle(index)
    if queries is None:
        return {"embeddings": bundle.vectors, "labels": bundle.labels, "ids": bundle.ids}
    asked = read_bundle(queries)
    editing.require_comparable(bundle, asked)
    labels, gallery_labels = _number_alike(asked, bundle)
    return {
        "embeddings": asked.vectors,
        "labels": labels,
        "ids": bundle.ids,
        "gallery": bundle.vectors,
        "gallery_labels": gallery_labels,
    }


def _cut_offs(measured: dict[str, Any], ks: Sequence[int] | None) -> Sequence[int]:
    if ks is not None:
        return ks
    others = len(measured["ids"]) - ("gallery" not in measured)
    return [k for k in KS if k <= others] or KS


def _number_alike(*bundles: Bundle) -> list[np.ndarray]:
    number: dict[str, int] = {}
    return [np.array([number.setdefault(name, len(number)) for name in bundle.class_names]) for bundle in bundles]


def _figures(measured: dict[str, Any], ks: Sequence[int], ranking: Ranking) -> Figures:
    """recall@k, MAP@R and R-precision of another ranking than by the vectors as they are."""
    order = np.argsort(measured["ids"])
    own = None
    if "gallery" in measured:
        queries, labels = measured["embeddings"], measured["labels"]
        gallery, gallery_labels = measured["gallery"][order], measured["gallery_labels"][order]
    else:
        queries = gallery = measured["embeddings"][order]
        labels = gallery_labels = measured["labels"][order]
        own = np.arange(len(gallery))
    known, counts = np.unique(gallery_labels, return_counts=True)
    places = np.searchsorted(known, labels).clip(max=len(known) - 1)
    num_relevant = np.where(known[places] == labels, counts[places], 0) - (own is not None)
    slots = int(num_relevant.max())
    depth = min(max(*ks, slots), len(gallery))  # what is further away counts for nothing
    ranks = []
    start = 0
    for scores in ranking.scores(queries, gallery, own):
        nearest = reranking.nearest(scores, depth)
        relevant = gallery_labels[nearest] == labels[start : start + len(scores), None]
        found = np.argsort(~relevant, axis=1, kind="stable")[:, :slots] + 1
        found[np.arange(slots) >= relevant.sum(axis=1)[:, None]] = len(gallery) + 1  # slots that nothing fills
        ranks.append(found)
        start += len(scores)
    kept = num_relevant > 0
    of_relevant, num_relevant = np.concatenate(ranks)[kept], num_relevant[kept]
    values = {f"recall@{k}": recall_at_k(of_relevant, k) for k in ks}
    values |= {"map@r": map_at_r(of_relevant, num_relevant), "r_precision": r_precision(of_relevant, num_relevant)}
    return {name: float(value.mean()) for name, value in values.items()} | {
        "queries": int(kept.sum()),
        "left_out": int((~kept).sum()),
    }


@contextlib.contextmanager
def _mistakes(index: str | Path) -> Iterator[None]:
    """A complaint about the embeddings is here about what a user asked for."""
    try:
        yield
    except ValueError as error:
        raise ConfigError(f"{index}: cannot be measured: {error}") from error
