"""Pushes an index to a server: into a collection of its own, which takes the name over when it is complete.

The name of the collection follows from the index and the type, so a push that was stopped is continued by the same call, and a call
that has nothing to do sends nothing. What the name served before is served until then.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import replace as changed
from typing import TYPE_CHECKING, Any

import numpy as np

from retrieval.errors import ConfigError, EngineError, brief, did_you_mean, plural
from retrieval.index.engines.asking import found_by
from retrieval.index.engines.engine import Engine
from retrieval.index.engines.facts import Facts
from retrieval.index.engines.local import Local, local
from retrieval.training.progress import ProgressBar

if TYPE_CHECKING:
    from retrieval.index import Index

log = logging.getLogger("retrieval")

_NUMBERS = 1 << 19  # numbers of the vectors of a batch
_MOST_ROWS = 4096  # of a batch
_CHECKED = 100  # stored vectors that are compared with those of the index
_QUERIES = 200  # of the measurement at the end


def push(engine: Engine, index: Index, *, kind: str = "exact", replace: bool = False) -> dict[str, Any]:
    """Pushes an index to a server, and measures which share of the exact neighbours the server finds.

    Args:
        engine: The server, of `retrieval.index.engines.open`.
        index: The index.
        kind: The type of the index on the server: one of `engine.kinds`.
        replace: Replace another index of the name, and delete items of the collection that the index does not have.

    Returns:
        {"url", "collection", "type", "count", "sent": items that were not there, "removed": collections of earlier pushes that were
        dropped, "queries": size of the sample, "found@1", "found@10": shares of the exact neighbours}.

    Raises:
        ConfigError: The type is unknown.
        EngineError: The name serves another index and `replace` is off, or the server fails. What it served before is unchanged;
            the message says how to go on.
    """
    if kind not in engine.kinds:
        hint = did_you_mean(kind, engine.kinds) or f"; choose {', '.join(engine.kinds)}"
        raise ConfigError(f"type {brief(kind)} is unknown on {engine.url}{hint}")
    items = local(index)
    facts = items.facts(kind)
    collection = f"{engine.name}_{facts.digest}"
    served = engine.serving()
    _require_replaceable(engine, served, collection, facts, replace)
    progress = _Progress(engine, served, len(items))
    with progress:
        stored = engine.facts(collection)
        if stored is None or not stored.complete:
            engine.record(collection, facts)
        missing, strangers = _compare(engine, collection, items)
        progress.stored = len(items) - len(missing)
    if len(strangers) and not replace:
        raise EngineError(
            f"{engine.url}: {collection} holds {plural(len(strangers), 'item')} that the index does not have, the first of "
            f"id {strangers[0]}; give replace=True to delete them"
        )
    with progress:
        for start in range(0, len(strangers), engine.largest_k):
            engine.delete(collection, strangers[start : start + engine.largest_k].tolist())
        _send(engine, collection, items, missing, progress)
        if len(missing) or len(strangers) or stored is None or not stored.complete:
            engine.seal(collection)
            _verify(engine, collection, items)
            engine.record(collection, changed(facts, complete=True))
        if served != collection:
            engine.serve(collection)
    result = {"url": engine.url, "collection": collection, "type": kind, "count": len(items), "sent": len(missing)}
    result |= {"removed": _drop_earlier(engine, collection), **measure(engine, collection, index)}
    return result


def measure(engine: Engine, collection: str, index: Index) -> dict[str, Any]:
    """The share of the exact neighbours that a collection finds, over a sample of the items as queries.

    Neighbours are compared by their scores, so it does not matter which of several equal ones is found.
    """
    queries = local(index).sample(_QUERIES)
    ks = [k for k in (1, 10) if k <= len(index)]
    return {"queries": len(queries)} | {f"found@{k}": found_by(engine, collection, index, queries, k) for k in ks}


def _require_replaceable(engine: Engine, served: str | None, collection: str, facts: Facts, replace: bool) -> None:
    """Checks what the name stands for now."""
    if served is None or served == collection:
        return
    others = engine.facts(served)
    if others is None:
        raise EngineError(f"{engine.url}: is a collection that retrieval did not push; choose another name")
    if not replace:
        reason = others.difference(facts) or f"is of type {others.kind}, not {facts.kind}"
        raise EngineError(f"{engine.url}: {reason}; choose another name, or give replace=True")


class _Progress:
    """The number of stored items. In a block of it, an error of the server also says what is stored, and how to go on."""

    def __init__(self, engine: Engine, served: str | None, count: int) -> None:
        self.stored = 0
        self._state = f"of {plural(count, 'item')} are stored, " + (
            f"{engine.name} stays as it was" if served else f"{engine.name} is not served yet"
        )

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if isinstance(error, EngineError):
            raise EngineError(f"{error}; {self.stored:,} {self._state}; run the same again to go on") from error


def _send(engine: Engine, collection: str, items: Local, missing: np.ndarray, progress: _Progress) -> None:
    """Sends the items at some positions."""
    if progress.stored and len(missing):
        log.info("%s: %d of %d items are stored already", engine.url, progress.stored, len(items))
    with ProgressBar(len(items), "pushing", initial=progress.stored) as bar:
        for rows in _batches(items, missing):
            engine.add(collection, rows)
            progress.stored += len(rows)
            bar.update(len(rows))


def _batches(items: Local, positions: np.ndarray) -> Iterator[list[dict[str, Any]]]:
    size = max(1, min(_MOST_ROWS, _NUMBERS // items.vectors.shape[1]))
    for start in range(0, len(positions), size):
        some = positions[start : start + size]
        columns = (items.ids[some].tolist(), items.labels[some].tolist(), some.tolist(), items.vectors[some])
        yield [
            {
                "id": id_,
                "label": label,
                "class": items.classes[position],
                "path": items.paths[position],
                "vector": vector,
            }
            for id_, label, position, vector in zip(*columns, strict=True)
        ]


def _compare(engine: Engine, collection: str, items: Local) -> tuple[np.ndarray, np.ndarray]:
    """The positions of the items that a collection does not have, and the ids that it has and the index has not."""
    if not engine.count(collection):
        return np.arange(len(items)), np.array([], dtype=np.int64)
    stored = np.unique(np.concatenate(list(_stored_ids(engine, collection, np.sort(items.ids)))))
    return np.flatnonzero(~np.isin(items.ids, stored)), np.setdiff1d(stored, items.ids)


def _stored_ids(engine: Engine, collection: str, ids: np.ndarray) -> Iterator[np.ndarray]:
    """The ids of a collection, in parts that hold half as many ids of the index as a call returns."""
    starts = [0, *ids[engine.largest_k // 2 :: engine.largest_k // 2].tolist()]
    for first, last in zip(starts, [*(start - 1 for start in starts[1:]), 2**63 - 1], strict=True):
        yield from _ids_between(engine, collection, first, last)


def _ids_between(engine: Engine, collection: str, first: int, last: int) -> Iterator[np.ndarray]:
    """The ids from `first` to `last`; a part that a call does not return as a whole, since it holds strangers, is halved."""
    found = engine.ids(collection, first, last)
    if len(found) < engine.largest_k:
        yield found
    else:
        middle = (first + last) // 2
        yield from _ids_between(engine, collection, first, middle)
        yield from _ids_between(engine, collection, middle + 1, last)


def _verify(engine: Engine, collection: str, items: Local) -> None:
    """Checks the number of the items, and some of their vectors."""
    if (count := engine.count(collection)) != len(items):
        raise EngineError(f"{engine.url}: {collection} holds {plural(count, 'item')}, expected {len(items):,}")
    some = items.sample(min(_CHECKED, engine.largest_k))
    stored = engine.fetch(collection, items.ids[some].tolist())
    if not np.array_equal(stored, items.vectors[some]):
        raise EngineError(f"{engine.url}: {collection} holds other vectors than were sent")


def _drop_earlier(engine: Engine, collection: str) -> list[str]:
    """Drops the collections of earlier pushes to the name, also of those that were not finished."""
    pattern = re.compile(re.escape(engine.name) + r"_[0-9a-f]{16}")
    earlier = [
        name
        for name in sorted(engine.collections())
        if name != collection and pattern.fullmatch(name) and engine.facts(name) is not None
    ]
    for name in earlier:
        engine.drop(name)
    return earlier
