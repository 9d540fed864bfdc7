"""Embeddings and labels of any common type, converted to what the exact engine takes: float32 unit vectors and int64 labels."""

from __future__ import annotations

import sys
from collections.abc import Hashable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
from numpy.typing import ArrayLike

from retrieval.evaluation.arrays import has_unit_rows

if TYPE_CHECKING:
    from torch import Tensor

# Numbers that are normalised in float64 at one time.
BLOCK_NUMBERS = 2**22
# A float32 row whose length differs from 1 by no more than this is a unit vector up to rounding.
ROUNDING = 1e-6


def unit_vectors(name: str, values: ArrayLike) -> np.ndarray:
    """Converts embeddings to float32 unit vectors.

    A float32 array whose rows all have length 1 (to 1e-3) is returned as it is, without a copy if it is contiguous; this
    includes np.memmap and torch tensors on the CPU. All other rows are divided by their length in float64, so that rows of
    1e-30 or 1e30 lose nothing and copies of one row stay copies.

    Args:
        name: the argument's name, for error messages.
        values: (num, dim) floats of any precision or integers: a NumPy array, a torch tensor on any device, a list of lists
            or of tensors, or an object that NumPy converts to an array, such as a pandas DataFrame.

    Returns:
        (num, dim) float32 NumPy array, contiguous, in memory unless it was a np.memmap of unit vectors.

    Raises:
        ValueError: the values are sparse, are not real numbers, are not two-dimensional, or are empty; or a row is zero, or
            holds NaN or infinity. The message names the first such row.
    """
    array = to_numpy(name, values)
    if array.dtype.kind not in "fiu":
        kind = f"{array.dtype} values" if array.ndim else type(values).__name__
        raise ValueError(f"{name}: {kind}, expected an array of floats or integers of shape (number, dimension)")
    if array.ndim != 2:
        remedy = (
            "; reshape a single vector to (1, dimension)" if array.ndim == 1 else "; flatten each item to one vector"
        )
        raise ValueError(f"{name}: shape {array.shape}, expected (number, dimension){remedy}")
    if not array.size:
        raise ValueError(
            f"{name}: shape {array.shape} is empty, expected at least one vector of at least one dimension"
        )
    if array.dtype == np.float32 and has_unit_rows(array):
        return array if array.flags.c_contiguous else np.ascontiguousarray(array)
    return normalise(name, array)


def number_labels(
    *labels: Sequence[Hashable] | ArrayLike, names: Sequence[str] = ("labels", "gallery_labels")
) -> list[np.ndarray]:
    """Numbers labels of any hashable type: labels that are equal, in one argument or in two, get the same number.

    Labels are equal if Python says so, as the keys of a dict: 1, 1.0 and True are equal, 1 and "1" are not. If all labels are
    integers that fit int64, they are their own numbers. Otherwise labels are numbered from 0 in ascending order, or in order of
    appearance if they cannot be sorted.

    Args:
        labels: (num,) each. NumPy arrays of any dtype, torch tensors on any device, lists, tuples, or objects that NumPy
            converts to an array, such as a pandas Series, whose index is ignored.
        names: the name of each argument, for error messages.

    Returns:
        One (num,) int64 array for each argument.

    Raises:
        ValueError: an argument is not a one-dimensional sequence; or a label is missing (None, NaN, NaT) or not hashable. The
            message names the position.
    """
    names = names[: len(labels)]
    columns = [_column(name, values) for name, values in zip(names, labels, strict=True)]
    if all(isinstance(column, np.ndarray) for column in columns):
        return [np.asarray(column).astype(np.int64, copy=False) for column in columns]
    lists = [column.tolist() if isinstance(column, np.ndarray) else column for column in columns]
    positions: dict[Hashable, int] = {}
    appearances = [_number_by_appearance(name, column, positions) for name, column in zip(names, lists, strict=True)]
    distinct = list(positions)
    missing = [i for i, label in enumerate(distinct) if _is_missing(label)]
    for name, column, appearance in zip(names, lists, appearances, strict=True) if missing else ():
        for position in np.flatnonzero(np.isin(appearance, missing))[:1]:
            raise ValueError(
                f"{name}: the label at position {position} is missing ({column[position]!r}); remove that row or label it"
            )
    numbers = _numbers(distinct)
    return [numbers[appearance] for appearance in appearances]


def to_numpy(name: str, values: ArrayLike) -> np.ndarray:
    """Converts a NumPy array, a torch tensor on any device, nested lists, or the like to a NumPy array, without a copy if it can.

    bfloat16 and narrower floats, which NumPy does not have, become float64.

    Raises:
        ValueError: the values are sparse or masked, or NumPy cannot convert them.
    """
    if hasattr(values, "toarray"):  # SciPy
        raise ValueError(f"{name}: a sparse {type(values).__name__}, expected a dense array; call .toarray()")
    try:
        if _is_tensor(values):
            return _tensor_to_numpy(name, values)
        if isinstance(values, list | tuple):
            values = [_tensor_to_numpy(name, row) if _is_tensor(row) else row for row in values]
        elif isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
            raise ValueError(
                f"{name}: an array with masked values, expected a value everywhere; drop or fill these rows"
            )
        array = np.asarray(values)
    except (TypeError, RuntimeError) as error:
        raise ValueError(f"{name}: NumPy cannot convert this {type(values).__name__}: {_first_line(error)}") from error
    except ValueError as error:
        if "inhomogeneous" not in str(error):
            raise
        raise ValueError(f"{name}: lists of unequal lengths, expected rows of one dimension") from None
    if array.dtype.kind == "V" and array.dtype.name.startswith(("bfloat", "float")):  # of the package ml_dtypes
        return array.astype(np.float64)
    return array


def _is_tensor(values: object) -> TypeGuard[Tensor]:
    """Whether the values are a torch tensor. Does not import torch: a tensor exists only after torch is imported."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(values, torch.Tensor)


def _tensor_to_numpy(name: str, tensor: Tensor) -> np.ndarray:
    import torch

    if tensor.layout != torch.strided:
        raise ValueError(f"{name}: a sparse tensor, expected a dense one; call .to_dense()")
    tensor = tensor.detach().cpu().resolve_conj().resolve_neg()
    if tensor.is_floating_point() and tensor.dtype not in (torch.float16, torch.float32, torch.float64):
        tensor = tensor.double()
    return np.asarray(tensor.numpy())


def normalise(name: str, values: np.ndarray) -> np.ndarray:
    """Divides every row of a (num, dim) array of real numbers by its length; see `unit_vectors`."""
    units = np.empty(values.shape, dtype=np.float32)
    not_finite: list[int] = []
    zero: list[int] = []
    size = max(1, BLOCK_NUMBERS // values.shape[1])
    with np.errstate(all="ignore"):
        for start in range(0, len(values), size):
            rows = values[start : start + size].astype(np.result_type(values.dtype, np.float64), order="C")
            lengths = _lengths(rows)
            extreme = np.flatnonzero(~((lengths > 1e-100) & (lengths < 1e100)))
            if len(extreme):  # their squares may overflow or underflow, or they are not valid
                largest = np.abs(rows[extreme]).max(axis=1)
                not_finite += (extreme[~np.isfinite(largest)] + start).tolist()
                zero += (extreme[largest == 0] + start).tolist()
                rows[extreme] /= largest[:, None]
                lengths[extreme] = _lengths(rows[extreme])
            if values.dtype == np.float32:
                lengths[np.abs(lengths - 1) <= ROUNDING] = 1
            units[start : start + size] = rows / lengths[:, None]
    for wrong, fault, remedy in (
        (not_finite, "holds NaN or infinity", "remove these rows, or look for the fault in the model"),
        (zero, "is zero and has no direction", "remove these rows"),
    ):
        if wrong:
            raise ValueError(f"{name}: row {wrong[0]} {fault} ({len(wrong)} of {len(values)} rows); {remedy}")
    return units


def _lengths(rows: np.ndarray) -> np.ndarray:
    # Neither einsum nor a matrix product: this sums every row in the same order, so that copies get the same length.
    return np.sqrt((rows * rows).sum(axis=1))


def _column(name: str, labels: Sequence[Hashable] | ArrayLike) -> np.ndarray | list[Any]:
    """Returns labels as an integer array if they are one and fit int64, else as a list."""
    if _is_tensor(labels) or hasattr(labels, "__array__"):
        array = to_numpy(name, labels)
        if array.ndim != 1:
            raise ValueError(f"{name}: shape {array.shape}, expected one label for each row, shape (number,)")
        if array.dtype.kind in "iu" and array.dtype != np.uint64:
            return array
        return list(array) if array.dtype.kind in "mM" else array.tolist()  # tolist() makes integers of nanoseconds
    if isinstance(labels, str | bytes) or not isinstance(labels, Sequence):
        raise ValueError(
            f"{name}: {type(labels).__name__}, expected a list, a NumPy array, a tensor or a pandas Series"
        )
    if all(not hasattr(kind, "__array__") for kind in set(map(type, labels))):
        return list(labels)
    return [_scalar(name, position, label) for position, label in enumerate(labels)]


def _scalar(name: str, position: int, label: object) -> object:
    """Returns a label, or the value of an array or a tensor without dimensions. Tensors are hashed by identity."""
    if not isinstance(label, np.ndarray) and not _is_tensor(label):
        return label
    if label.ndim:
        raise ValueError(
            f"{name}: the label at position {position} is an array of shape {tuple(label.shape)}, expected one value; "
            "pass a tuple"
        )
    return label.item()


def _number_by_appearance(name: str, labels: Iterable[Hashable], positions: dict[Hashable, int]) -> np.ndarray:
    """Returns the positions (num,) of the labels in a dict of distinct labels, to which new labels are added."""
    found = []
    for label in labels:
        try:
            found.append(positions.setdefault(label, len(positions)))
        except TypeError:
            raise ValueError(
                f"{name}: the label at position {len(found)} is not hashable ({type(label).__name__}); "
                "pass a string, a number or a tuple"
            ) from None
    return np.array(found, dtype=np.int64)


def _is_missing(label: object) -> bool:
    """Whether a label is None, NaN, NaT or pandas.NA, or a tuple with such a number in it: is not equal to itself."""
    if isinstance(label, tuple):
        return any(part is not None and _is_missing(part) for part in label)
    try:
        return label is None or bool(label != label)
    except TypeError:  # pandas.NA
        return True


def _numbers(distinct: list[Any]) -> np.ndarray:
    """Returns a number for each of some distinct labels."""
    if all(isinstance(label, int | np.integer) and -(2**63) <= label < 2**63 for label in distinct):
        return np.array([int(label) for label in distinct], dtype=np.int64)
    try:
        order = sorted(range(len(distinct)), key=distinct.__getitem__)
    except TypeError:
        return np.arange(len(distinct))
    numbers = np.empty(len(distinct), dtype=np.int64)
    numbers[order] = np.arange(len(distinct))
    return numbers


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
