"""What a server of vectors must be able to do. Everything else about engines is written once, over these verbs."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from retrieval.index.engines.facts import Facts


class Engine(Protocol):
    """A connection to a server, and the name under which it serves one index.

    Every push fills a collection of its own. The name is an alias, which is moved to that collection when it is complete. Every
    call has a time limit.

    Attributes:
        url: The address, for messages.
        name: The name.
        largest_k: The largest number of items that one call returns for a query.
        kinds: The types of index that the server knows.
    """

    url: str
    name: str
    largest_k: int
    kinds: tuple[str, ...]

    def serving(self) -> str | None:
        """The collection that the name stands for; None without one."""

    def collections(self) -> list[str]:
        """All collections on the server."""

    def facts(self, collection: str) -> Facts | None:
        """The facts that are stored with a collection; None if it does not exist or was not pushed by this package."""

    def record(self, collection: str, facts: Facts) -> None:
        """Stores the facts of a collection. A collection that does not exist is made, empty and ready for every other call."""

    def add(self, collection: str, rows: list[dict[str, Any]]) -> None:
        """Writes rows {"id", "label", "class", "path", "vector"}. A row of the same id is replaced."""

    def delete(self, collection: str, ids: list[int]) -> None:
        """Removes rows, at most `largest_k`."""

    def count(self, collection: str) -> int:
        """The number of rows, with all that was written before."""

    def ids(self, collection: str, first: int, last: int) -> np.ndarray:
        """Ids from `first` to `last`, in any order: all of them where they are fewer than `largest_k`, else that many of them."""

    def fetch(self, collection: str, ids: list[int]) -> np.ndarray:
        """(number of ids, dim) float32 vectors of rows that exist, at most `largest_k`."""

    def seal(self, collection: str) -> None:
        """Waits until the rows are on disk, and indexed as the type of the collection says."""

    def serve(self, collection: str) -> None:
        """Lets the name stand for a collection, in one step."""

    def drop(self, collection: str) -> None:
        """Deletes a collection that the name does not stand for."""

    def search(self, collection: str, queries: np.ndarray, k: int, label: int | None) -> np.ndarray:
        """(num_queries, k) ids of the nearest rows of each query, of one label if it is given; -1 where no more are found."""

    def close(self) -> None:
        """Closes the connection."""
