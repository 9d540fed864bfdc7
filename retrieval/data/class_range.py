"""Division into train and test by ranges of class ids, the protocol of CUB-200-2011 and Cars196 (Oh Song et al., CVPR 2016)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from retrieval.data.entry import Entry
from retrieval.errors import DatasetError

Range = tuple[int, int]


def check_ranges(train_classes: Sequence[int], test_classes: Sequence[int]) -> dict[str, Range]:
    """Returns the first and the last class id of "train" and "test", both included.

    Raises:
        ValueError: A range is not two class ids in order, or the ranges overlap.
    """
    ranges = {"train": _check_range("train_classes", train_classes), "test": _check_range("test_classes", test_classes)}
    if max(ranges["train"][0], ranges["test"][0]) <= min(ranges["train"][1], ranges["test"][1]):
        raise ValueError(f"train_classes {ranges['train']} and test_classes {ranges['test']} overlap; keep them apart")
    return ranges


def divide(
    folder: Path, ranges: Mapping[str, Range], entries: Sequence[tuple[int, Entry]], last: int
) -> dict[str, list[Entry]]:
    """Divides entries by the ranges of their class ids.

    Args:
        folder: The data folder, for messages.
        ranges: The result of `check_ranges`.
        entries: The entries with their class ids.
        last: The highest class id of the lists.

    Raises:
        DatasetError: A range ends after `last`.
    """
    for split, (_, end) in ranges.items():
        if end > last:
            raise DatasetError(
                f"{folder}: {split}_classes ends at {end}, the classes of the lists at {last}; choose existing "
                "classes, or unpack the official archive again"
            )
    return {
        split: [entry for class_id, entry in entries if first <= class_id <= end]
        for split, (first, end) in ranges.items()
    }


def _check_range(name: str, limits: Any) -> Range:
    if isinstance(limits, (list, tuple)) and len(limits) == 2 and all(type(limit) is int for limit in limits):
        first, last = limits
        if 1 <= first <= last:
            return first, last
    raise ValueError(f"{name} is {limits!r}; give the first and the last class id, e.g. (1, 100)")
