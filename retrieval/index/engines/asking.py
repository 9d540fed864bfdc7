"""Searches and measures an index on a server. The server finds candidates; their scores are those of the index's own vectors."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from retrieval import evaluation
from retrieval.errors import ConfigError, EngineError, plural
from retrieval.evaluation.arrays import check_k
from retrieval.index.engines.engine import Engine
from retrieval.index.engines.local import Local, local
from retrieval.index.recall import KS
from retrieval.index.search import Hit, query_vectors

if TYPE_CHECKING:
    from retrieval.index import Index

log = logging.getLogger("retrieval")

_PAIRS = 200_000  # pairs of a query and a neighbour in one call
_NUMBERS = 1 << 20  # numbers of the queries in one call
_SAMPLE = 1000  # items that are queries in `evaluate`, at most
_EQUAL = 1e-6  # scores of equal neighbours differ by less
_TIES = 16  # neighbours beyond k: of several equal ones, the first by id counts, as in the exact search


def search(
    engine: Engine,
    index: Index,
    queries: Any,
    k: int = 10,
    *,
    class_name: str | None = None,
    min_score: float | str | None = None,
) -> Any:
    """Finds the nearest items of queries on a server; `retrieval.Index.search` describes queries, scores and the result.

    Args:
        engine: The server, of `retrieval.index.engines.open`.
        index: The index that was pushed to it.
        queries: One query or several: images or vectors.
        k: Number of items for each query. If the server finds fewer, the log says so.
        class_name: Only items of this class.
        min_score: Items with a lower score are left out; "auto" is the threshold of `index.calibration`.

    Raises:
        ValueError: The queries or `min_score` are of the wrong shape or type.
        ConfigError: k is more than the server returns, or `min_score` is "auto" and the index has no calibration.
        IndexFormatError: The index does not have the class.
        EngineError: The server serves another index, or fails.
    """
    queries = list(queries) if isinstance(queries, Iterator) else queries
    if isinstance(queries, Sequence) and not len(queries):
        raise ValueError("there is no query to search for; give at least one")
    k = _check_k(engine, k)
    least = _least_score(index, min_score)
    items = local(index)
    label = None if class_name is None else items.label_of(class_name)
    collection = collection_of(engine, items)
    rows, single = _vectors(index, queries)
    k = min(k, len(items) if label is None else int((items.labels == label).sum()))
    positions, scores = neighbours(engine, collection, items, rows, k, label)
    _say_fewer(engine, positions, k)
    hits = [
        [
            Hit(rank, score, int(items.ids[at]), int(items.labels[at]), items.classes[at], items.paths[at])
            for rank, (at, score) in enumerate(zip(*row, strict=True), start=1)
            if at >= 0 and (least is None or score >= least)
        ]
        for row in zip(positions.tolist(), scores.tolist(), strict=True)
    ]
    return hits[0] if single else hits


def evaluate(engine: Engine, index: Index, ks: Sequence[int] | None = None) -> dict[str, float]:
    """Measures an index on a server and in memory: every item, or a random sample of them, is a query against all others.

    Args:
        engine: The server, of `retrieval.index.engines.open`.
        index: The index that was pushed to it.
        ks: Cut-offs; by default those of 1, 2, 4, 8 that the index is large enough for.

    Returns:
        For each k, "recall@k" of the server, "exact recall@k" of the exact search, and "found@k": the share of the k exact
        neighbours that the server finds, by their scores. "queries" and "left_out" are the numbers of queries with and without
        another item of their class; "items" is the number of queries of "found@k".

    Raises:
        ConfigError: A k is not smaller than the number of items, or more than the server returns.
        EngineError: The server serves another index, or fails.
    """
    items = local(index)
    ks = ks or [k for k in KS if k < len(items)] or KS
    largest = max(_check_k(engine, k, others=1) for k in ks)
    if largest >= len(items):
        raise ConfigError(
            f"k is {largest} and the index has {plural(len(items) - 1, 'other item')}; give a smaller one"
        )
    collection = collection_of(engine, items)
    queries = items.sample(_SAMPLE)
    width = min(largest + 1 + _TIES, len(items), engine.largest_k)
    live = neighbours(engine, collection, items, items.vectors[queries], width, None)
    exact = _exact(index, queries, width)
    _say_fewer(engine, live[0], width)
    _, number, counts = np.unique(items.labels, return_inverse=True, return_counts=True)
    kept = counts[number[queries]] > 1
    if not kept.any():
        raise ConfigError("no class of the index has two items, so there is no recall to measure")
    figures: dict[str, float] = {}
    for name, found in (("recall", live), ("exact recall", exact)):
        ranks = _first_relevant(items, queries, _without(queries, *found)[0])[kept]
        figures |= {f"{name}@{k}": float((ranks <= k).mean()) for k in ks}
    scores = [_without(queries, *found)[1] for found in (live, exact)]
    figures |= {f"found@{k}": _share(scores[0], scores[1], k) for k in ks}
    return figures | {"queries": int(kept.sum()), "left_out": int((~kept).sum()), "items": len(queries)}


def collection_of(engine: Engine, items: Local) -> str:
    """The complete collection that the name stands for, after a check that it holds the index.

    Raises:
        EngineError: There is none, or it holds another index.
    """
    served = engine.serving()
    if served is None:
        raise EngineError(f"{engine.url}: serves no index; push one with `retrieval index push`")
    facts = engine.facts(served)
    if facts is None:
        raise EngineError(f"{engine.url}: is a collection that retrieval did not push; choose another name")
    if difference := facts.difference(items.facts(facts.kind)):
        raise EngineError(f"{engine.url}: {difference}; give the index that was pushed, or push this one")
    if not facts.complete:
        raise EngineError(f"{engine.url}: holds a part of the index; push it again to complete it")
    return served


def neighbours(
    engine: Engine, collection: str, items: Local, queries: np.ndarray, k: int, label: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Positions (num_queries, k), -1 where none was found, and exact scores; by descending score, then ascending id."""
    positions = np.full((len(queries), k), -1, dtype=np.int64)
    scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
    step = max(1, min(_PAIRS // k, _NUMBERS // queries.shape[1]))
    for start in range(0, len(queries), step):
        block = engine.search(collection, queries[start : start + step], k, label)
        for row, found in enumerate(block, start=start):
            ids = np.unique(found[found >= 0])
            at = items.positions(ids)
            if (strangers := ids[at < 0]).size:
                raise EngineError(
                    f"{engine.url}: finds an item of id {strangers[0]}, which the index does not have; "
                    "push it again with replace=True"
                )
            exact = items.scores(queries[row], at)
            best = np.lexsort((ids, -exact))
            positions[row, : len(at)], scores[row, : len(at)] = at[best], exact[best]
    return positions, scores


def found_by(engine: Engine, collection: str, index: Index, queries: np.ndarray, k: int) -> float:
    """The share of the k exact neighbours that a collection finds, by their scores; each of the queries is its own neighbour."""
    items = local(index)
    live = neighbours(engine, collection, items, items.vectors[queries], k, None)
    return _share(live[1], _exact(index, queries, k)[1], k)


def _exact(index: Index, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Like `neighbours`, by the exact search of the index."""
    items = local(index)
    hits = index.search(items.vectors[queries], k, exact=True)
    ids, scores = (np.array([[getattr(hit, name) for hit in row] for row in hits]) for name in ("id", "score"))
    return items.positions(ids), scores.astype(np.float32)


def _share(live: np.ndarray, exact: np.ndarray, k: int) -> float:
    """The share of the first k scores that are at least the k-th exact one."""
    return float((live[:, :k] >= exact[:, k - 1 : k] - _EQUAL).mean())


def _without(own: np.ndarray, positions: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Neighbours without the query itself; without the last one where the query is not among them."""
    drop = np.where((positions == own[:, None]).any(axis=1), (positions == own[:, None]).argmax(axis=1), -1)
    drop %= positions.shape[1]
    keep = np.arange(positions.shape[1]) != drop[:, None]
    shape = (len(positions), positions.shape[1] - 1)
    return positions[keep].reshape(shape), scores[keep].reshape(shape)


def _first_relevant(items: Local, queries: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """The rank of the first neighbour of the query's class; infinite without one."""
    relevant = (items.labels[positions] == items.labels[queries][:, None]) & (positions >= 0)
    return np.where(relevant.any(axis=1), 1.0 + relevant.argmax(axis=1), np.inf)


def _check_k(engine: Engine, k: int, others: int = 0) -> int:
    try:
        k = check_k(k)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if k + others > engine.largest_k:
        raise ConfigError(
            f"k is {k:,}, and {engine.url} returns at most {engine.largest_k - others:,}; give a smaller one"
        )
    return k


def _vectors(index: Index, queries: Any) -> tuple[np.ndarray, bool]:
    """(num_queries, dim) float32 unit vectors of the queries, and whether a single one was given."""
    given = query_vectors(queries)
    vectors = index.model.encode(queries) if given is None else given
    single = vectors.ndim == 1
    rows = evaluation.unit_vectors("queries", vectors[None] if single else vectors)
    if rows.shape[1] != (dimension := index.vectors.shape[1]):
        raise ValueError(f"queries have {rows.shape[1]} dimensions and the index {dimension}; use one model for both")
    return rows, single


def _least_score(index: Index, min_score: float | str | None) -> float | None:
    """The score that hits must have; None without a limit."""
    if min_score is None:
        return None
    if min_score == "auto":
        if index.calibration is None:
            raise ConfigError(f"{index.folder or 'the index'}: has no threshold for min_score auto; give a number")
        return index.calibration.threshold
    is_number = isinstance(min_score, (int, float, np.floating)) and not isinstance(min_score, bool)
    if not is_number or not math.isfinite(float(min_score)):
        raise ValueError(f"min_score is {min_score!r}, expected a finite number or 'auto'")
    return float(min_score)


def _say_fewer(engine: Engine, positions: np.ndarray, k: int) -> None:
    """Logs that the server found fewer than k neighbours."""
    found = (positions >= 0).sum(axis=1)
    if len(found) and found.min() < k:
        number = plural(int((found < k).sum()), "query", "queries")
        log.warning("%s: found fewer than %d neighbours for %s, %d at least", engine.url, k, number, found.min())
