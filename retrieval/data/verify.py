"""Whether a data set is whole: its lists, the published counts, and every image opened."""

from __future__ import annotations

import inspect
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrieval.data.catalogue import find_source
from retrieval.data.entry import refuse_closed_set
from retrieval.data.image_set import ImageSet
from retrieval.data.images import load_image
from retrieval.data.registry import DATASETS, read_dataset
from retrieval.errors import DatasetError, RetrievalError

Watch = Callable[[Iterable[Any], int], Iterable[Any]]

CHUNK = 16  # images that a process opens before it reports


@dataclass(frozen=True)
class Report:
    """What a verification found.

    Args:
        splits: of every split that could be read, the numbers of (classes, images).
        as_published: whether these were compared with the published ones, and so are right where `faults` says nothing of them.
        faults: one line each.
    """

    splits: Mapping[str, tuple[int, int]]
    as_published: bool
    faults: tuple[str, ...]


def verify(
    name: str,
    root: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
    *,
    processes: int | None = None,
    watch: Watch = lambda results, total: results,
) -> Report:
    """Reads a data set, compares its counts with those published, and opens all of its images; collects all faults.

    A list that cannot be read is a fault that hides those of its images.

    Args:
        name: a data set.
        root: its folder; see `read_dataset`.
        options: of its reader. With any, another part of the data may be meant, and no counts are compared here.
        processes: that open images; as many as there are cores by default.
        watch: is given the results, one per image and as they come, and their number, and passes them on: for a progress bar.

    Raises:
        ValueError: there is no such data set or option, or `processes` is no positive number.
        DatasetError: an option names a closed-set split, which is no split for retrieval.
        RetrievalError: a process that opens images was lost.
    """
    source, options = find_source(name), dict(options or {})
    processes = count_cores() if processes is None else processes
    if processes < 1:
        raise ValueError(f"processes is {processes}; give at least 1")
    for value in options.values():
        if isinstance(value, str):
            refuse_closed_set(Path(value))
    # Readers stop at the first fault. What is checked here, one by one, they need not look at.
    leave_out = {"check_images", "check_counts"} & inspect.signature(DATASETS[name]).parameters.keys()
    try:
        splits = read_dataset(name, root, **(dict.fromkeys(leave_out, False) | options))
    except DatasetError as error:
        return Report({}, False, (_one_line(error),))
    counts = {split: (images.num_classes, len(images)) for split, images in splits.items()}
    compared = bool(source.published) and not options
    faults = list(_wrong_counts(splits, counts, source.published)) if compared else []
    paths = [images.root / path for images in splits.values() for path in images.paths]
    faults += [fault for fault in watch(open_images(paths, processes), len(paths)) if fault]
    return Report(counts, compared, tuple(faults))


def open_images(paths: Sequence[Path], processes: int) -> Iterator[str | None]:
    """For each image, in order, why it cannot be used, or None.

    Raises:
        RetrievalError: a process was lost.
    """
    if processes == 1:
        yield from map(_fault, paths)
        return
    try:
        with ProcessPoolExecutor(processes, initializer=_leave_interrupts_to_the_parent) as pool:
            yield from pool.map(_fault, paths, chunksize=CHUNK)
    except BrokenProcessPool as error:
        raise RetrievalError(
            "a process that opens images was lost; if memory ran out, verify with fewer processes"
        ) from error


def count_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _wrong_counts(
    splits: Mapping[str, ImageSet], counts: Mapping[str, tuple[int, int]], published: Mapping[str, tuple[int, int]]
) -> Iterator[str]:
    for split, expected in published.items():
        found = counts[split]
        if found != expected:
            yield _one_line(
                f"{splits[split].root}: the {split} set has {found[0]:,} classes and {found[1]:,} images, the published protocol "
                f"has {expected[0]:,} and {expected[1]:,}; unpack the official archive again"
            )


def _fault(path: Path) -> str | None:
    try:
        load_image(path)
    except DatasetError as error:
        return _one_line(error)
    return None


def _one_line(message: object) -> str:
    """The message as a line that can be printed and written, whatever characters a file name has."""
    return " ".join(str(message).splitlines()).encode(errors="backslashreplace").decode()


def _leave_interrupts_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
