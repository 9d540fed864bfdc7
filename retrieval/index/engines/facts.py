"""The facts that are stored with a pushed collection: which index it holds, and whether it holds all of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import chain, islice

import numpy as np

from retrieval.errors import brief
from retrieval.index.manifest import METRIC

_ROWS = 1 << 16  # vectors that are hashed at a time; those of a file are not read at once
# In the order in which a difference is reported: vectors of another model differ, too.
_NAMES = {
    "model": "model",
    "dimension": "dimension",
    "metric": "metric",
    "normalised": "normalisation",
    "count": "count",
    "vectors": "vectors",
    "items": "ids, classes and paths",
}


@dataclass(frozen=True)
class Facts:
    """The facts of a collection.

    Args:
        model: The sha256 of the model; None for vectors without a model.
        vectors: The sha256 of the vectors, as float32 numbers.
        items: The sha256 of the ids, labels, classes and paths.
        metric: The score of two vectors.
        dimension: Numbers of a vector.
        normalised: Whether the vectors are of unit length.
        count: The number of items.
        kind: The type of the index on the server.
        complete: Whether all items were stored and checked.
    """

    model: str | None
    vectors: str
    items: str
    metric: str
    dimension: int
    normalised: bool
    count: int
    kind: str
    complete: bool = False

    @classmethod
    def from_json(cls, text: object) -> Facts | None:
        """The facts of the text that `to_json` makes; None for any other value."""
        try:
            values = json.loads(str(text))
            return cls(**{field.name: values[field.name] for field in fields(cls)})
        except (ValueError, TypeError, LookupError, RecursionError):
            return None

    def to_json(self) -> str:
        """The facts as text."""
        return json.dumps(asdict(self))

    @property
    def digest(self) -> str:
        """16 characters that are equal for the same index with the same type: the end of the name of its collection."""
        values = {name: value for name, value in asdict(self).items() if name != "complete"}
        return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]

    def difference(self, index: Facts) -> str:
        """The first fact in which a collection differs from an index, in words; "" where it holds that index."""
        for key, name in _NAMES.items():
            ours, theirs = getattr(self, key), getattr(index, key)
            if ours != theirs:
                return f"holds another {name} ({_short(ours)}) than the index ({_short(theirs)})"
        return ""


def facts_of(
    model: str | None,
    vectors: np.ndarray,
    ids: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    paths: Sequence[str],
) -> Facts:
    """The facts of the items of an index, of no type."""
    count, dimension = vectors.shape
    texts = (f"{len(text)} {text}".encode() for column in (classes, paths) for text in column)
    return Facts(
        model=model,
        vectors=_sha256(np.ascontiguousarray(vectors[row : row + _ROWS]) for row in range(0, count, _ROWS)),
        items=_sha256(chain([ids.tobytes(), labels.tobytes()], map(b"".join, _batched(texts)))),
        metric=METRIC,
        dimension=dimension,
        normalised=True,
        count=count,
        kind="",
    )


def _batched(texts: Iterator[bytes]) -> Iterator[list[bytes]]:
    while batch := list(islice(texts, _ROWS)):
        yield batch


def _sha256(blocks: Iterable[bytes | np.ndarray]) -> str:
    digest = hashlib.sha256()
    for block in blocks:
        digest.update(block)  # type: ignore[arg-type]
    return digest.hexdigest()


def _short(value: object) -> str:
    return value[:12] if isinstance(value, str) else brief(value)
