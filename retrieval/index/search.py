"""Searches a bundle: the nearest items of every query."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from retrieval.evaluation import Gallery
from retrieval.evaluation.inputs import to_numpy
from retrieval.index import scan
from retrieval.index.approximate import Approximate
from retrieval.index.bundle import Bundle
from retrieval.index.recall import Ranking
from retrieval.model import Model
from retrieval.model.places import load_stored

_IN_MEMORY = 2**28  # bytes of vectors: more of a mapped file are read anew by every search


@dataclass(frozen=True)
class Hit:
    """An item that a search returns.

    Args:
        rank: 1 for the nearest.
        score: The inner product of the unit vectors; higher is closer.
        id: The id of the item.
        label: The label of its class.
        class_name: The name of its class.
        path: Its path, relative to the root of the images; absolute for an image that was added from elsewhere.

    Examples:
        >>> import retrieval
        >>> index = retrieval.Index.from_vectors([[1.0, 0.0], [0.0, 1.0]], ["cat", "dog"], paths=["a.jpg", "b.jpg"])
        >>> index.search([0.6, 0.8], k=1)
        [Hit(rank=1, score=0.800000011920929, id=1, label=1, class_name='dog', path='b.jpg')]
    """

    rank: int
    score: float
    id: int
    label: int
    class_name: str
    path: str

    def to_dict(self) -> dict[str, Any]:
        """The values by name, with the key "class" for the name of the class."""
        return {"class" if key == "class_name" else key: value for key, value in asdict(self).items()}


class Generation:
    """One state of an index. Everything that a search reads comes from the same bundle, also while another one replaces it.

    Args:
        bundle: The bundle.
        model: The model that embeds queries; by default that of the bundle.
        device: The device of the bundle's own model.
    """

    def __init__(self, bundle: Bundle, model: Model | None = None, *, device: str = "auto") -> None:
        self.bundle = bundle
        self._model = model
        self._device = device
        self._lock = threading.Lock()

    def followed_by(self, bundle: Bundle) -> Generation:
        """The next state of the index. A model that is built already is kept if the new bundle holds the same one."""
        model = self._model if bundle.model_hash == self.bundle.model_hash else None
        return Generation(bundle, model, device=self._device)

    @property
    def model(self) -> Model:
        """The model; that of the bundle is built when it is first used.

        Raises:
            IndexFormatError: The bundle holds no model, or one that this version cannot build.
        """
        with self._lock:
            if self._model is None:
                stored = load_stored(str(self.bundle), self.bundle.manifest, self.bundle.model)
                self._model = Model.of(stored).to(self._device)
            return self._model

    @property
    def built_model(self) -> Model | None:
        """The model, if it has been built already."""
        return self._model

    @property
    def gallery(self) -> Gallery:
        """The vectors, ready for exact search; made at the first search."""
        with self._lock:
            return self._gallery

    @property
    def approximate(self) -> Approximate | None:
        """The approximate index, if the bundle has one."""
        with self._lock:
            return self.bundle.approximate

    @cached_property
    def _gallery(self) -> Gallery:
        return Gallery(np.array(self.bundle.vectors), ids=self.bundle.ids)  # a copy: a file may change after its check

    def search(self, queries: np.ndarray, k: int, *, exact: bool, ranking: Ranking) -> list[list[Hit]]:
        """The k nearest items of every query (num_queries, dim), best first; fewer where the index finds no more.

        Raises:
            ValueError: The queries have another dimension than the index.
        """
        dimension = self.bundle.manifest["dimension"]
        if queries.shape[1] != dimension:
            raise ValueError(
                f"queries have {queries.shape[1]} dimensions and {self.bundle} {dimension}; use one model for both"
            )
        k = min(k, self.bundle.manifest["count"])
        rows, scores = self._nearest(queries, k, exact=exact, ranking=ranking)
        items = self.bundle.all_items
        found = rows.ravel().clip(min=0)
        columns = [rows, scores, items.ids[rows], items.labels[rows]]
        texts = [np.array(column, dtype=object) for column in (items.classes_at(found), items.paths_at(found))]
        columns += [column.reshape(rows.shape) for column in texts]
        return [
            [
                Hit(rank, score, id_, label, name, path)
                for rank, (row, score, id_, label, name, path) in enumerate(zip(*query, strict=True), start=1)
                if row >= 0
            ]
            for query in zip(*(column.tolist() for column in columns), strict=True)  # of plain numbers and texts
        ]

    def _nearest(self, queries: np.ndarray, k: int, *, exact: bool, ranking: Ranking) -> tuple[np.ndarray, np.ndarray]:
        """The rows (num_queries, k) of the nearest items, -1 where there are no more, and their scores."""
        bundle = self.bundle
        approximate = None if exact or ranking else self.approximate
        if approximate is not None:
            return approximate.search(queries, k)
        if ranking:
            positions, scores = _ranked(queries, bundle, k, ranking)
            return (positions if bundle.rows is None else np.where(positions >= 0, bundle.rows[positions], -1)), scores
        if bundle.removed is not None or (bundle.stored.file is not None and bundle.stored.nbytes > _IN_MEMORY):
            return scan.nearest(queries, bundle.stored, k, ids=bundle.all_items.ids, removed=bundle.removed)
        neighbours = self.gallery.search(queries, k)
        return neighbours.positions, neighbours.scores


def query_vectors(queries: Any) -> np.ndarray | None:
    """Queries that are vectors already, as an array (dim,) or (num_queries, dim); None where they are images."""
    if isinstance(queries, Tensor):
        return queries if queries.is_floating_point() and queries.ndim <= 2 else None  # type: ignore[return-value]
    if isinstance(queries, np.ndarray):
        kinds = "fiu" if queries.ndim == 1 else "fi"  # a uint8 array (height, width) is an image
        return queries if queries.dtype.kind in kinds and queries.ndim <= 2 else None
    if isinstance(queries, Sequence) and not isinstance(queries, (str, bytes)) and len(queries):
        first = queries[0]
        if isinstance(first, (int, float, np.number)) or _is_vector(first):
            return to_numpy("queries", list(queries))
    return None


def _is_vector(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return bool(value) and isinstance(value[0], (int, float, np.number))
    if isinstance(value, Tensor):
        return value.ndim == 1 and value.is_floating_point()
    return isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype.kind in "fi"


def _ranked(queries: np.ndarray, bundle: Bundle, k: int, ranking: Ranking) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(bundle.ids)
    is_ordered = bool((order[:-1] < order[1:]).all())
    vectors = bundle.vectors if is_ordered else bundle.vectors[order]  # those of a large bundle stay mapped
    found = list(ranking.nearest(queries, vectors, None, k))
    positions = np.concatenate([positions for positions, _ in found])
    return np.where(positions >= 0, order[positions], -1), np.concatenate([scores for _, scores in found])
