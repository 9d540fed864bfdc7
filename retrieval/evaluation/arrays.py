"""Checks of arrays before they reach faiss, which checks little, and nothing under `python -O`."""

from __future__ import annotations

from operator import index

import numpy as np

UNIT_TOLERANCE = 1e-3
LARGEST_ID = 2**62


def check_unit_vectors(name: str, vectors: np.ndarray) -> np.ndarray:
    """Returns the vectors, contiguous, if they are a (num, dim) float32 array of finite rows of length 1 (to 1e-3).

    Raises:
        ValueError: they are not; the message names the first wrong row.
    """
    if not isinstance(vectors, np.ndarray) or vectors.dtype != np.float32 or vectors.ndim != 2 or not vectors.shape[1]:
        given = f"{vectors.dtype} {vectors.shape}" if isinstance(vectors, np.ndarray) else type(vectors).__name__
        raise ValueError(f"{name}: {given}, expected a float32 NumPy array (number, dimension)")
    lengths = _lengths(vectors)
    wrong = np.flatnonzero(~_are_one(lengths))
    if len(wrong):
        raise ValueError(
            f"{name}: row {wrong[0]} has length {lengths[wrong[0]]:.6g} ({len(wrong)} of {len(vectors)} rows are at fault), "
            "expected finite unit vectors; normalise them"
        )
    return vectors if vectors.flags.c_contiguous else np.ascontiguousarray(vectors)


def has_unit_rows(vectors: np.ndarray) -> bool:
    """Whether all rows of a (num, dim) float32 array have length 1 (to 1e-3)."""
    return bool(_are_one(_lengths(vectors)).all())


def _lengths(vectors: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):
        return np.sqrt(np.einsum("ij,ij->i", vectors, vectors))


def _are_one(lengths: np.ndarray) -> np.ndarray:
    return np.abs(lengths - 1) <= UNIT_TOLERANCE  # False for NaN


def check_whole_numbers(name: str, values: np.ndarray, count: int) -> np.ndarray:
    """Returns the values as int64, if they are `count` whole numbers that fit int64.

    Raises:
        ValueError: they are not.
    """
    values = np.asarray(values)
    if values.shape != (count,) or not np.issubdtype(values.dtype, np.integer) or values.dtype == np.uint64:
        raise ValueError(f"{name}: {values.dtype} {values.shape}, expected whole numbers (int64) of shape ({count},)")
    return values.astype(np.int64)


def check_ids(name: str, ids: np.ndarray, count: int) -> np.ndarray:
    """Returns the ids as int64, if they are `count` different whole numbers from 0.

    Raises:
        ValueError: they are not.
    """
    ids = check_whole_numbers(name, ids, count)
    if count and ids.min() < 0:
        raise ValueError(f"{name}: {ids.min()} is negative, expected numbers from 0 (-1 stands for no neighbour)")
    if count and ids.max() >= LARGEST_ID:
        raise ValueError(
            f"{name}: {ids.max()} is too large, expected numbers below 2**62, so that later items can follow"
        )
    if (ids[1:] > ids[:-1]).all():
        return ids
    in_order = np.sort(ids)
    repeated = in_order[1:][in_order[1:] == in_order[:-1]]
    if len(repeated):
        raise ValueError(f"{name}: {repeated[0]} occurs twice, expected every id once")
    return ids


def check_k(k: int) -> int:
    """Returns k as an int, if it is a whole number from 1.

    Raises:
        ValueError: it is not.
    """
    try:
        number = index(k)
    except TypeError:
        number = None
    if number is None or isinstance(k, bool):
        raise ValueError(f"k is {k!r}, expected a whole number")
    if number < 1:
        raise ValueError(f"k is {number}, expected at least 1")
    return number
