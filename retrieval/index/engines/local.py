"""What pushing and asking need of an index: computed once for each state of it."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from retrieval.errors import IndexFormatError, did_you_mean
from retrieval.index.engines.facts import Facts, facts_of

if TYPE_CHECKING:
    from retrieval.index import Index


class Local:
    """One state of an index.

    Args:
        index: The index.
    """

    def __init__(self, index: Index) -> None:
        self.name = str(index.folder or "the index")
        self.manifest: Mapping[str, Any] = index.manifest
        self.vectors, self.ids, self.labels = index.vectors, index.ids, index.labels
        self.classes, self.paths = index.classes, index.paths
        self._model = index.describe()["model"]

    def __len__(self) -> int:
        return len(self.ids)

    def facts(self, kind: str) -> Facts:
        """The facts of the collection that holds the index as a type."""
        return replace(self._facts, kind=kind)

    def positions(self, ids: np.ndarray) -> np.ndarray:
        """The positions of ids; -1 for an id that the index does not have."""
        at = self._order[np.searchsorted(self.ids, ids, sorter=self._order).clip(max=len(self) - 1)]
        return np.where(self.ids[at] == ids, at, -1)

    def scores(self, query: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """The exact scores of a query with some items."""
        return (self.vectors[positions].astype(np.float64) * query).sum(axis=1).astype(np.float32)

    def label_of(self, class_name: str) -> int:
        """The label of a class.

        Raises:
            IndexFormatError: The index does not have the class.
        """
        if class_name not in self._labels:
            hint = did_you_mean(class_name, self._labels)
            raise IndexFormatError(f"{self.name}: has no class {class_name!r}{hint}")
        return self._labels[class_name]

    def sample(self, size: int) -> np.ndarray:
        """Positions of all items, or of a random sample of that size; the same ones each time."""
        return np.sort(np.random.default_rng(0).permutation(len(self))[:size])

    @cached_property
    def _facts(self) -> Facts:
        return facts_of(self._model, self.vectors, self.ids, self.labels, self.classes, self.paths)

    @cached_property
    def _order(self) -> np.ndarray:
        return np.argsort(self.ids, kind="stable")

    @cached_property
    def _labels(self) -> dict[str, int]:
        return dict(zip(self.classes, self.labels.tolist(), strict=True))


_LOCALS: weakref.WeakKeyDictionary[Index, Local] = weakref.WeakKeyDictionary()
_LOCK = threading.Lock()


def local(index: Index) -> Local:
    """The present state of an index; the same object as long as the index does not change."""
    with _LOCK:
        known = _LOCALS.get(index)
        if known is None or known.manifest is not index.manifest:
            known = _LOCALS[index] = Local(index)
        return known
