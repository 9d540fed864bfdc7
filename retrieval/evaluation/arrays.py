"""What arrays must be before they reach faiss, which checks little and under `python -O` nothing."""

from __future__ import annotations

import numpy as np

UNIT_TOLERANCE = 1e-3


def check_unit_vectors(name: str, vectors: np.ndarray) -> np.ndarray:
    """The vectors, contiguous, if they are a (num, dim) float32 array of finite rows of length 1 (to 1e-3).

    Raises:
        ValueError: they are not; names the first row at fault.
    """
    if not isinstance(vectors, np.ndarray) or vectors.dtype != np.float32 or vectors.ndim != 2 or not vectors.shape[1]:
        found = f"{vectors.dtype} {vectors.shape}" if isinstance(vectors, np.ndarray) else type(vectors).__name__
        raise ValueError(f"{name}: {found}, expected a float32 NumPy array (number, dimension)")
    with np.errstate(over="ignore", invalid="ignore"):
        lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    wrong = np.flatnonzero(~(np.abs(lengths - 1) <= UNIT_TOLERANCE))  # written so that NaN is wrong, too
    if len(wrong):
        raise ValueError(
            f"{name}: row {wrong[0]} has length {lengths[wrong[0]]:.6g} ({len(wrong)} of {len(vectors)} rows are at fault), "
            "expected finite unit vectors; normalise them"
        )
    return vectors if vectors.flags.c_contiguous else np.ascontiguousarray(vectors)


def check_whole_numbers(name: str, values: np.ndarray, count: int) -> np.ndarray:
    """The values as int64, if they are `count` whole numbers that int64 can hold.

    Raises:
        ValueError: they are not.
    """
    values = np.asarray(values)
    if values.shape != (count,) or not np.issubdtype(values.dtype, np.integer) or values.dtype == np.uint64:
        raise ValueError(f"{name}: {values.dtype} {values.shape}, expected whole numbers (int64) of shape ({count},)")
    return values.astype(np.int64)


def check_ids(name: str, ids: np.ndarray, count: int) -> np.ndarray:
    """The ids as int64, if they are `count` whole numbers from 0, none twice.

    Raises:
        ValueError: they are not.
    """
    ids = check_whole_numbers(name, ids, count)
    if count and ids.min() < 0:
        raise ValueError(f"{name}: {ids.min()} is negative, expected numbers from 0 (-1 stands for no neighbour)")
    in_order = np.sort(ids)
    repeated = in_order[1:][in_order[1:] == in_order[:-1]]
    if len(repeated):
        raise ValueError(f"{name}: {repeated[0]} occurs twice, expected every id once")
    return ids
