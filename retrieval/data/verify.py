"""Checking a data set: its lists, the published counts, and every image."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.data.catalogue import find_source
from retrieval.data.entry import refuse_closed_set
from retrieval.data.folder import find_classes
from retrieval.data.image_set import ImageSet
from retrieval.data.registry import DATASETS, is_published, read_dataset
from retrieval.data.tree import describe_left_out
from retrieval.data.unreadable import count_cores, one_line, open_images
from retrieval.errors import DatasetError

Watch = Callable[[Iterable[Any], int], Iterable[Any]]


@dataclass(frozen=True)
class Report:
    """The result of a verification.

    Args:
        splits: The numbers of (classes, images) of every split that could be read.
        as_published: Whether these were compared with the published numbers. Differences are among the `faults`.
        faults: One line per fault.
        left_out: One line for each reason why files of a folder are not read, with their number. They are no faults.
    """

    splits: Mapping[str, tuple[int, int]]
    as_published: bool
    faults: tuple[str, ...]
    left_out: tuple[str, ...] = ()


def verify(
    name: str,
    root: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
    *,
    processes: int | None = None,
    watch: Watch = lambda results, total: results,
) -> Report:
    """Reads a data set, compares its counts with the published ones, opens all images, and collects all faults.

    Training classes of a single image are faults of your own images, since training refuses them. If a list cannot be read, its
    images are not checked.

    Args:
        name: The name of a data set.
        root: Its folder; see `read_dataset`.
        options: The options of its reader. If any is given, the counts are not compared, since the options can select a part.
        processes: The number of processes that open images; by default one per core.
        watch: Wraps the iterator over the results, one per image, for a progress bar. Its second argument is their number.

    Raises:
        ValueError: There is no such data set or option, or `processes` is not positive.
        DatasetError: An option names a closed-set split, which cannot be used for retrieval.
        RetrievalError: A process that opens images was lost.
    """
    source, options = find_source(name), dict(options or {})
    processes = count_cores() if processes is None else processes
    if processes < 1:
        raise ValueError(f"processes is {processes}; give at least 1")
    for value in options.values():
        if isinstance(value, str):
            refuse_closed_set(Path(value))
    # Readers stop at the first fault. The checks that are made here one by one are turned off.
    leave_out = {"check_images", "check_counts"} & inspect.signature(DATASETS[name]).parameters.keys()
    try:
        splits = read_dataset(name, root, **(dict.fromkeys(leave_out, False) | options))
    except DatasetError as error:
        return Report({}, False, (one_line(error),))
    counts = {split: (images.num_classes, len(images)) for split, images in splits.items()}
    compared = bool(source.published) and not options
    faults = list(_wrong_counts(splits, counts, source.published)) if compared else []
    faults += [] if is_published(name) else _lone_classes(splits["train"])
    left_out = (
        describe_left_out(find_classes(Path(root).expanduser()).tree.left_out) if name == "folder" and root else []
    )
    paths = [images.root / path for images in splits.values() for path in images.paths]
    faults += [fault for fault in watch(open_images(paths, processes), len(paths)) if fault]
    return Report(counts, compared, tuple(faults), tuple(map(one_line, left_out)))


def _wrong_counts(
    splits: Mapping[str, ImageSet], counts: Mapping[str, tuple[int, int]], published: Mapping[str, tuple[int, int]]
) -> Iterator[str]:
    for split, expected in published.items():
        found = counts[split]
        if found != expected:
            yield one_line(
                f"{splits[split].root}: the {split} set has {found[0]:,} classes and {found[1]:,} images, the published protocol "
                f"has {expected[0]:,} and {expected[1]:,}; unpack the official archive again"
            )


def _lone_classes(images: ImageSet) -> Iterator[str]:
    """A line for each class of a single image, which training refuses."""
    first = np.unique(images.labels, return_index=True)[1]
    for label in np.flatnonzero(images.class_sizes() < 2):
        yield one_line(
            f"{images.where(first[label])}: is the single image of its class {images.class_names[label]!r}, which training "
            "refuses; add a second one, remove the class, or set data.lone_classes to leave_out"
        )
