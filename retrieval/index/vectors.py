"""vectors.faiss of an index bundle: the gallery's unit vectors as faiss keeps them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from retrieval.errors import IndexFormatError
from retrieval.evaluation.arrays import check_unit_vectors
from retrieval.index.manifest import REMEDY

METRIC = "inner_product"
# What marks a faiss file as an IndexFlatIP; other types are not even handed to faiss's reader.
FLAT_INNER_PRODUCT = b"IxFI"


def vectors_faiss(vectors: np.ndarray) -> bytes:
    """The content of the file for (count, dimension) float32 unit vectors."""
    import faiss

    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    # To memory, not to a file: faiss reports a full disk as a RuntimeError.
    return faiss.serialize_index(index).tobytes()


def read_vectors(path: Path, shape: tuple[int, int]) -> np.ndarray:
    """Reads the vectors.

    Args:
        path: the file.
        shape: the count and dimension that it must have.

    Raises:
        IndexFormatError: it has not, is of another type or metric, or its vectors are not finite and of unit length.
    """
    import faiss

    content = path.read_bytes()
    if content[:4] != FLAT_INNER_PRODUCT:
        raise IndexFormatError(
            f"{path}: index type is {content[:4]!r}, expected {FLAT_INNER_PRODUCT!r} (IndexFlatIP); {REMEDY}"
        )
    try:
        index = faiss.deserialize_index(np.frombuffer(content, dtype=np.uint8))
    except RuntimeError as error:
        raise IndexFormatError(f"{path}: faiss cannot read it ({str(error).splitlines()[0]}); {REMEDY}") from error
    if index.metric_type != faiss.METRIC_INNER_PRODUCT or (index.ntotal, index.d) != shape:
        raise IndexFormatError(
            f"{path}: holds {index.ntotal} x {index.d} values under metric {index.metric_type}, expected "
            f"{shape[0]} x {shape[1]} and {faiss.METRIC_INNER_PRODUCT} ({METRIC}); {REMEDY}"
        )
    # Into an array of ours: pytorch-metric-learning turns on a part of faiss that otherwise hands out torch tensors here.
    vectors = index.reconstruct_n(0, index.ntotal, np.empty(shape, dtype=np.float32))
    try:
        return check_unit_vectors("vectors", vectors)
    except ValueError as error:
        raise IndexFormatError(f"{path}: {error}; {REMEDY}") from error
