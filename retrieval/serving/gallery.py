"""What is served: a gallery that is searched by vectors and that knows its items."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from retrieval import evaluation
from retrieval.errors import ConfigError, did_you_mean
from retrieval.index import Calibration, Hit, Index, engines
from retrieval.model import Model


@dataclass(frozen=True)
class Item:
    """An item of a gallery.

    Args:
        id: Its id.
        label: The label of its class.
        class_name: The name of its class.
        path: Its path.
    """

    id: int
    label: int
    class_name: str
    path: str

    def to_dict(self) -> dict[str, Any]:
        """The values by name, with the key "class" for the name of the class."""
        return {"id": self.id, "label": self.label, "class": self.class_name, "path": self.path}


class Gallery(Protocol):
    """What the service needs of an index, or of a server of vectors. An object never changes; a replaced one is its `successor`."""

    @property
    def model(self) -> Model:
        """The model that embeds queries."""

    @property
    def calibration(self) -> Calibration | None:
        """The threshold of `min_score="auto"`."""

    @property
    def class_names(self) -> Sequence[str]:
        """The names of the classes, in order of their labels."""

    def __len__(self) -> int:
        """The number of items."""

    def describe(self) -> dict[str, Any]:
        """The facts of the gallery, which JSON can hold."""

    def search(self, vectors: np.ndarray, k: int, class_name: str | None = None) -> list[list[Hit]]:
        """The k nearest items of each vector (number, dim), best first; of one class if it is given.

        Raises:
            ConfigError: There is no such class.
        """

    def item(self, id_: int) -> Item | None:
        """The item of an id; None where there is none."""

    def vector(self, id_: int) -> np.ndarray:
        """(dim,) The vector of an item that exists."""

    def picture(self, id_: int) -> tuple[Path, bytes | None]:
        """The file of an item's image, which may be missing, and its stored thumbnail if there is one."""

    def successor(self) -> Gallery | None:
        """The gallery that has replaced this one; None while it is current.

        Raises:
            RetrievalError: The new one cannot be read.
        """


class IndexGallery:
    """A gallery that is an index in memory; see `Gallery`.

    Args:
        index: The index, in the state that it has now.
    """

    def __init__(self, index: Index) -> None:
        self._index = copy.copy(index)  # which keeps this state when the caller edits or reloads the other

    @property
    def model(self) -> Model:
        """See `Gallery`."""
        return self._index.model

    @property
    def calibration(self) -> Calibration | None:
        """See `Gallery`."""
        return self._index.calibration

    @cached_property
    def class_names(self) -> list[str]:
        """See `Gallery`."""
        _, first = np.unique(self._index.labels, return_index=True)
        names = self._index.classes
        return [names[position] for position in first.tolist()]

    def __len__(self) -> int:
        return len(self._index)

    def describe(self) -> dict[str, Any]:
        """See `Gallery`."""
        return self._index.describe()

    def search(self, vectors: np.ndarray, k: int, class_name: str | None = None) -> list[list[Hit]]:
        """See `Gallery`. A search in one class is exact, also where the index is approximate."""
        if class_name is None:
            hits: list[list[Hit]] = self._index.search(vectors, k)
            return hits
        self._require_class(class_name)
        positions = self._positions[class_name]
        ids = np.asarray(self._index.ids)[positions]
        found = evaluation.search(vectors, self._index.vectors_at(positions), min(k, len(ids)), gallery_ids=ids)
        label, paths = int(self._index.labels[positions[0]]), self._index.paths
        return [
            [
                Hit(rank, score, id_, label, class_name, paths[positions[place]])
                for rank, (score, id_, place) in enumerate(zip(*row, strict=True), start=1)
                if place >= 0
            ]
            for row in zip(found.scores.tolist(), found.ids.tolist(), found.positions.tolist(), strict=True)
        ]

    def item(self, id_: int) -> Item | None:
        """See `Gallery`."""
        position = self._position(id_)
        if position is None:
            return None
        index = self._index
        return Item(id_, int(index.labels[position]), index.classes[position], index.paths[position])

    def vector(self, id_: int) -> np.ndarray:
        """See `Gallery`."""
        return self._index.vectors_at([self._position(id_)])[0]

    def picture(self, id_: int) -> tuple[Path, bytes | None]:
        """See `Gallery`."""
        item = self.item(id_)
        assert item is not None
        stored = self._index.picture(id_)
        return self._index.root / item.path, stored if isinstance(stored, bytes) else None

    def successor(self) -> IndexGallery | None:
        """See `Gallery`."""
        new = copy.copy(self._index)
        return IndexGallery(new) if new.reload() else None

    def _require_class(self, class_name: str) -> None:
        if class_name not in self._positions:
            raise ConfigError(f"class is {class_name!r}, which no item has{did_you_mean(class_name, self.class_names)}")

    @cached_property
    def _positions(self) -> dict[str, np.ndarray]:
        """The positions of the items of every class."""
        labels = np.asarray(self._index.labels)
        order = np.argsort(labels, kind="stable")
        starts = np.flatnonzero(np.diff(labels[order], prepend=labels[order[0]] - 1))
        return dict(zip(self.class_names, np.split(order, starts[1:]), strict=True))

    @cached_property
    def _order(self) -> tuple[np.ndarray, np.ndarray]:
        """The ids in order, and their positions."""
        positions = np.argsort(self._index.ids)
        return np.asarray(self._index.ids)[positions], positions

    def _position(self, id_: int) -> int | None:
        ids, positions = self._order
        place = int(np.searchsorted(ids, id_)) if 0 <= id_ <= int(ids[-1]) else len(ids)
        return int(positions[place]) if place < len(ids) and ids[place] == id_ else None


class EngineGallery(IndexGallery):
    """A gallery that is searched on a server of vectors; the index that was pushed to it has the model and the items.

    Args:
        index: The index.
        engine: The server, of `retrieval.index.engines.open`.

    Raises:
        EngineError: The server serves another index, or fails.
    """

    def __init__(self, index: Index, engine: engines.Engine) -> None:
        super().__init__(index)
        self._engine = engine
        self.search(self._index.vectors_at([0]), 1)  # fails now, if it does

    def search(self, vectors: np.ndarray, k: int, class_name: str | None = None) -> list[list[Hit]]:
        """See `Gallery`."""
        if class_name is not None:
            self._require_class(class_name)
        hits: list[list[Hit]] = engines.search(self._engine, self._index, vectors, k, class_name=class_name)
        return hits

    def successor(self) -> EngineGallery | None:
        """See `Gallery`."""
        new = copy.copy(self._index)
        return EngineGallery(new, self._engine) if new.reload() else None
