"""approximate.faiss of an index bundle: a faiss index that finds candidates without scoring every vector.

The candidates are scored again by the exact vectors, so a neighbour can be missed, but its score is never wrong. The share of
neighbours that are found is measured when the index is built.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.errors import IndexFormatError, RetrievalError
from retrieval.files.blocks import Bytes
from retrieval.index import scan
from retrieval.index.manifest import REMEDY
from retrieval.index.vectors import Vectors

EXACT = "exact"
ALLOWED = "[PCA<d>,][IVF<n>,]Flat|SQ8|SQfp16|PQ<m>x<bits>, or HNSW<m>[,Flat|,SQ8]"
_FACTORY = re.compile(
    r"(?:PCA(?P<pca>\d+),)?"
    r"(?:HNSW(?P<links>\d+)(?:,Flat|,SQ8)?|(?:IVF(?P<lists>\d+),)?(?:Flat|SQ8|SQfp16|PQ(?P<parts>\d+)(?:x(?P<bits>\d+))?))"
)
# The first bytes of allowed faiss files; others are not given to faiss.
_MARKS = (b"IxFI", b"IwFl", b"IwPQ", b"IwSq", b"IHNf", b"IHNs", b"IxPq", b"IxSQ", b"IxPT")
# The mark of lists on disk inside a file: faiss would open the path that follows. Unit vectors hold no such bytes.
_ON_DISK = b"ilod"
_POINTS_A_CENTROID = 39  # faiss warns below this
_SAMPLE = 1000
_TRAINING = 2**19  # vectors that an index is trained on, at most, where fewer would not be too few
_CANDIDATES = 10  # candidates scored exactly for each neighbour asked for
_FEWEST_CANDIDATES = 100
_EXPLORED = 128  # size of HNSW's list of candidates in a search


class Approximate:
    """A faiss index over the first vectors of a bundle. Vectors that were added later are all scored.

    Args:
        index: The faiss index.
        vectors: (count, dim) The exact vectors.
        removed: (count,) Which of them are left out.
    """

    def __init__(self, index: Any, vectors: np.ndarray | Vectors, removed: np.ndarray | None = None) -> None:
        self._index = index
        self._vectors = Vectors.of(vectors)
        self._removed = removed

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Positions (num_queries, k), -1 where none was found, and exact scores; by descending score, then ascending position."""
        count, made = len(self._vectors), self._index.ntotal
        share = 1.0 if self._removed is None else made / max(1, made - np.count_nonzero(self._removed[:made]))
        width = min(made, math.ceil(share * max(_FEWEST_CANDIDATES, _CANDIDATES * k)))
        _, candidates = self._index.search(np.ascontiguousarray(queries), width)
        if candidates.max() >= made:
            raise IndexFormatError(f"approximate.faiss: finds item {candidates.max()} of {made}; {REMEDY}")
        if made < count:
            later, _ = scan.nearest(queries, self._vectors, k, removed=self._removed, first=made)
            candidates = np.hstack([candidates, later])
        positions = np.full((len(queries), k), -1, dtype=np.int64)
        scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
        for row, (query, found) in enumerate(zip(queries, candidates, strict=True)):
            found = np.unique(found[found >= 0])
            found = found if self._removed is None else found[~self._removed[found]]
            exact = (self._vectors.rows(found).astype(np.float64) * query).sum(axis=1).astype(np.float32)
            best = np.lexsort((found, -exact))[:k]
            positions[row, : len(best)], scores[row, : len(best)] = found[best], exact[best]
        return positions, scores

    def content(self) -> bytes:
        """The content of the file.

        Raises:
            RetrievalError: It happens to hold bytes that `read` refuses.
        """
        import faiss

        content = faiss.serialize_index(self._index).tobytes()
        if _ON_DISK in content:
            raise RetrievalError("this index happens to hold bytes that cannot be read safely; choose another --type")
        return content


def factory_string(kind: str, count: int, dimension: int) -> str:
    """The faiss factory string of "ivf", "hnsw" or "pq" for a gallery of that size; other strings are checked and returned.

    Raises:
        ValueError: The type is not allowed, or the gallery is too small or too narrow for it.
    """
    lists = max(1, min(int(4 * math.sqrt(count)), count // _POINTS_A_CENTROID))
    parts = next(parts for parts in range(max(1, dimension // 8), 0, -1) if dimension % parts == 0)
    bits = max(1, min(8, int(math.log2(max(2, count / _POINTS_A_CENTROID)))))
    names = {"ivf": f"IVF{lists},Flat", "hnsw": "HNSW32", "pq": f"PQ{parts}x{bits}"}
    factory = names.get(kind, kind)
    found = _FACTORY.fullmatch(factory)
    if not found:
        raise ValueError(f"type {kind!r} is not allowed; choose exact, {', '.join(names)}, or {ALLOWED}")
    number = {name: int(word) for name, word in found.groupdict().items() if word}
    if any(value < 1 for value in number.values()):
        raise ValueError(f"type {factory!r} has a number below 1")
    width = number.get("pca", dimension)
    if "pca" in number and width > min(dimension, count):
        raise ValueError(f"type {factory!r} keeps {width} dimensions of {count} vectors of {dimension}; keep fewer")
    if width % number.get("parts", 1):
        raise ValueError(
            f"type {factory!r} cuts {width} dimensions into {number['parts']} equal parts; choose a divisor"
        )
    if "parts" in number and (bits := number.get("bits", 8)) > 12:
        raise ValueError(f"type {factory!r} has {bits} bits a part; choose at most 12")
    if number.get("links", 2) not in range(2, 257):
        raise ValueError(f"type {factory!r} has {number['links']} links a vector; choose 2 to 256")
    centroids = centroids_of(factory)
    if centroids > 1 and count < _POINTS_A_CENTROID * centroids:
        fewest = _POINTS_A_CENTROID * centroids
        raise ValueError(
            f"type {factory!r} needs at least {fewest:,} vectors, there are {count:,}; use exact, or a smaller one"
        )
    return factory


def build(factory: str, vectors: np.ndarray | Vectors) -> Approximate:
    """Trains and fills an index of a type that `factory_string` has checked; vectors of a file are read block by block.

    Raises:
        RetrievalError: faiss cannot build it.
    """
    import faiss

    vectors = Vectors.of(vectors)
    try:
        index = faiss.index_factory(vectors.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
        inner = _inner(index)
        if hasattr(inner, "cp"):  # `factory_string` allows a single list of any length; faiss warns of a short one
            inner.cp.min_points_per_centroid = 1
        # Plain arrays: with faiss.contrib.torch_utils, which others may import, faiss refuses arrays that are mapped.
        index.train(np.asarray(_training_sample(vectors, centroids_of(factory))))
        for _, tile in vectors.tiles():
            index.add(np.asarray(tile))
    except RuntimeError as error:
        raise RetrievalError(
            f"faiss cannot build {factory} ({str(error).splitlines()[0]}); use another --type"
        ) from error
    _set_effort(index)
    return Approximate(index, vectors)


def centroids_of(factory: str) -> int:
    """The largest number of centroids that the training of an index must find."""
    found = _FACTORY.fullmatch(factory)
    number = {name: int(word) for name, word in found.groupdict().items() if word} if found else {}
    return max(number.get("lists", 1), 2 ** number.get("bits", 8) if "parts" in number else 1)


def measure(approximate: Approximate, vectors: np.ndarray | Vectors) -> dict[str, Any]:
    """The share of the exact nearest neighbours that are found, over a random sample of the vectors as queries.

    Returns:
        "queries", and "recall@1" and "recall@10" against the exact answer; a query counts as its own neighbour.
    """
    vectors = Vectors.of(vectors)
    sample = np.random.default_rng(0).permutation(len(vectors))[:_SAMPLE]
    ks = [k for k in (1, 10) if k <= len(vectors)]
    queries = vectors.rows(sample)
    exact, _ = scan.nearest(queries, vectors, max(ks))
    found, _ = approximate.search(queries, max(ks))
    shares = {
        f"recall@{k}": float(np.mean([np.isin(e[:k], f[:k]).mean() for e, f in zip(exact, found, strict=True)]))
        for k in ks
    }
    return {"queries": len(sample), **shares}


def read(
    path: Path,
    content: Bytes | np.ndarray,
    factory: str,
    vectors: np.ndarray | Vectors,
    removed: np.ndarray | None = None,
) -> Approximate:
    """Reads the approximate index of a bundle.

    Args:
        path: The file, for messages.
        content: Its content.
        factory: The type of the index, as a faiss factory string.
        vectors: (count, dim) The vectors, the first of which it must be of.
        removed: See `Approximate`.

    Raises:
        IndexFormatError: Its type is not allowed, it keeps its lists in other files, or it is of other vectors.
    """
    import faiss

    vectors = Vectors.of(vectors)
    content = np.frombuffer(content, dtype=np.uint8)
    mark = content[:4].tobytes()
    if mark not in _MARKS:
        raise IndexFormatError(f"{path}: index type is {mark!r}, expected one of {ALLOWED}; {REMEDY}")
    if _holds(content, _ON_DISK):
        raise IndexFormatError(f"{path}: keeps its lists in another file, expected them inside; {REMEDY}")
    shape = (vectors.made, vectors.shape[1])
    try:
        factory = factory_string(factory, *shape)
        with _bounded(len(content)):
            index = faiss.deserialize_index(content)
        expected = faiss.index_factory(shape[1], factory, faiss.METRIC_INNER_PRODUCT)
    except (RuntimeError, MemoryError, ValueError) as error:
        reason = (str(error).splitlines() or ["memory"])[0]
        raise IndexFormatError(f"{path}: cannot be read ({reason}); {REMEDY}") from error
    if _kinds(index) != _kinds(expected):
        raise IndexFormatError(f"{path}: is a {_kinds(index)}, expected {_kinds(expected)} ({factory}); {REMEDY}")
    if index.metric_type != faiss.METRIC_INNER_PRODUCT or (index.ntotal, index.d) != shape:
        raise IndexFormatError(
            f"{path}: holds {index.ntotal} x {index.d} values under metric {index.metric_type}, expected "
            f"{shape[0]} x {shape[1]} and {faiss.METRIC_INNER_PRODUCT} (inner_product); {REMEDY}"
        )
    _set_effort(index)  # not that of the file, which may be any number
    return Approximate(index, vectors, removed)


def _training_sample(vectors: Vectors, centroids: int) -> np.ndarray:
    """The vectors that an index is trained on: all of them, or a random sample of many."""
    size = max(_TRAINING, _POINTS_A_CENTROID * centroids)
    if len(vectors) <= size:
        return vectors.all()
    return vectors.rows(np.sort(np.random.default_rng(0).choice(len(vectors), size, replace=False)))


def _holds(content: np.ndarray, mark: bytes) -> bool:
    """Whether a mark occurs in some bytes."""
    step = 2**23
    return any(mark in content[start : start + step + len(mark)].tobytes() for start in range(0, len(content), step))


@contextlib.contextmanager
def _bounded(size: int) -> Iterator[None]:
    """A block in which faiss reads no part that is larger than a file of this size; by itself it allows a terabyte."""
    import faiss

    bytes_before, loops_before = faiss.get_deserialization_vector_byte_limit(), faiss.get_deserialization_loop_limit()
    faiss.set_deserialization_vector_byte_limit(size)
    faiss.set_deserialization_loop_limit(size)
    try:
        yield
    finally:
        faiss.set_deserialization_vector_byte_limit(bytes_before)
        faiss.set_deserialization_loop_limit(loops_before)


def _set_effort(index: Any) -> None:
    """Sets how many lists or candidates a search explores."""
    inner = _inner(index)
    if hasattr(inner, "nprobe"):
        inner.nprobe = max(1, min(inner.nlist, max(8, inner.nlist // 8)))
    if hasattr(inner, "hnsw"):
        inner.hnsw.efSearch = _EXPLORED


def _inner(index: Any) -> Any:
    """The index behind a transform of the vectors."""
    import faiss

    index = faiss.downcast_index(index)
    return faiss.downcast_index(index.index) if isinstance(index, faiss.IndexPreTransform) else index


def _kinds(index: Any) -> str:
    """The faiss classes that an index consists of."""
    import faiss

    index = faiss.downcast_index(index)
    parts = [type(index).__name__.replace("IndexFlatIP", "IndexFlat")]
    if isinstance(index, faiss.IndexPreTransform):
        chain: Any = index.chain
        parts += [type(faiss.downcast_VectorTransform(chain.at(i))).__name__ for i in range(chain.size())]
        parts.append(_kinds(index.index))
    elif isinstance(index, faiss.IndexHNSW):
        parts.append(_kinds(index.storage))
    elif isinstance(index, faiss.IndexIVF):
        lists: Any = index.invlists
        parts += [f"{index.nlist} lists", type(faiss.downcast_InvertedLists(lists)).__name__, _kinds(index.quantizer)]
    return " ".join(parts)
