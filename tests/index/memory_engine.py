"""An engine in memory, for tests of what is written once for every engine. It can fail, lose neighbours and hold strangers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from retrieval.errors import EngineError
from retrieval.index.engines.address import Address
from retrieval.index.engines.facts import Facts
from retrieval.index.search import Hit


@dataclass
class Server:
    """What a server holds.

    Args:
        facts: The facts of every collection; None for one that another program made.
        rows: The rows of every collection by their id.
        aliases: The collection of every name.
        sealed: The collections whose rows are on disk.
        calls: The verbs that were called.
        fails_at: The verb that fails, and how often it works before.
        lost: How many of the nearest rows a search does not find.
    """

    facts: dict[str, Facts | None] = field(default_factory=dict)
    rows: dict[str, dict[int, dict[str, Any]]] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    sealed: set[str] = field(default_factory=set)
    calls: list[str] = field(default_factory=list)
    fails_at: tuple[str, int] | None = None
    lost: int = 0

    def note(self, verb: str) -> None:
        """Counts a call, which fails if it is its turn."""
        self.calls.append(verb)
        if self.fails_at and self.fails_at[0] == verb and self.calls.count(verb) > self.fails_at[1]:
            raise EngineError("the server is gone")


def assert_alike(found: Any, expected: Any) -> None:
    """The hits are the same, one query's or several queries'; the exact search of a bundle rounds scores to float32 earlier."""
    if expected and isinstance(expected[0], Hit):
        assert [replace(hit, score=0.0) for hit in found] == [replace(hit, score=0.0) for hit in expected]
        np.testing.assert_allclose([hit.score for hit in found], [hit.score for hit in expected], atol=1e-6)
    else:
        assert len(found) == len(expected)
        for row, other in zip(found, expected, strict=True):
            assert_alike(row, other)


SERVERS: dict[str, Server] = {}


def open(address: Address, timeout: float) -> Memory:
    """Connects to the server of a host."""
    if address.host not in SERVERS:
        raise EngineError(f"{address.url}: nothing answers")
    return Memory(SERVERS[address.host], address.url, address.name)


class Memory:
    """A connection."""

    largest_k = 64
    kinds = ("exact", "hnsw")

    def __init__(self, server: Server, url: str = "memory://here/photos", name: str = "photos") -> None:
        self.server, self.url, self.name = server, url, name
        self.is_closed = False

    def serving(self) -> str | None:
        self.server.note("serving")
        return self.name if self.name in self.server.facts else self.server.aliases.get(self.name)

    def collections(self) -> list[str]:
        return list(self.server.facts)

    def facts(self, collection: str) -> Facts | None:
        return self.server.facts.get(collection)

    def record(self, collection: str, facts: Facts) -> None:
        self.server.note("record")
        self.server.facts[collection] = facts
        self.server.rows.setdefault(collection, {})

    def add(self, collection: str, rows: Sequence[dict[str, Any]]) -> None:
        self.server.note("add")
        self.server.sealed.discard(collection)
        for row in rows:
            self.server.rows[collection][row["id"]] = {**row, "vector": np.array(row["vector"])}

    def delete(self, collection: str, ids: Sequence[int]) -> None:
        assert len(ids) <= self.largest_k
        for id_ in ids:
            del self.server.rows[collection][id_]

    def count(self, collection: str) -> int:
        return len(self.server.rows[collection])

    def ids(self, collection: str, first: int, last: int) -> np.ndarray:
        found = [id_ for id_ in self.server.rows[collection] if first <= id_ <= last]
        return np.array(found[::-1][: self.largest_k], dtype=np.int64)

    def fetch(self, collection: str, ids: Sequence[int]) -> np.ndarray:
        assert len(ids) <= self.largest_k
        return np.array([self.server.rows[collection][id_]["vector"] for id_ in ids])

    def seal(self, collection: str) -> None:
        self.server.note("seal")
        self.server.sealed.add(collection)

    def serve(self, collection: str) -> None:
        self.server.note("serve")
        assert collection in self.server.sealed
        self.server.aliases[self.name] = collection

    def drop(self, collection: str) -> None:
        self.server.note("drop")
        assert collection not in self.server.aliases.values()
        del self.server.facts[collection], self.server.rows[collection]

    def search(self, collection: str, queries: np.ndarray, k: int, label: int | None) -> np.ndarray:
        assert 1 <= k <= self.largest_k
        rows = [row for row in self.server.rows[collection].values() if label in (None, row["label"])]
        ids, vectors = np.array([row["id"] for row in rows]), np.array([row["vector"] for row in rows])
        nearest = np.argsort(-(queries @ vectors.T), axis=1)[:, self.server.lost :][:, :k]
        return np.pad(ids[nearest], ((0, 0), (0, k - nearest.shape[1])), constant_values=-1)

    def close(self) -> None:
        self.is_closed = True
