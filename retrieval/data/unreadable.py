"""Opening every image once, to find and leave out those that cannot be read."""

from __future__ import annotations

import functools
import logging
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np

from retrieval.data.image_set import ImageSet
from retrieval.data.images import load_image
from retrieval.errors import DatasetError, RetrievalError

log = logging.getLogger("retrieval")

CHUNK = 16  # images per task of a process
MOST_PROCESSES = 61 if sys.platform == "win32" else 1024  # the limit of Windows


class Unreadable:
    """The images of a data set that cannot be read.

    They are left out when the data set is read, before it is divided and before ids are given. A run stores them, so that its later
    readings leave out the same images, whatever has become of them.

    Args:
        processes: The number of processes that open images; 0 or 1: this one.
        known: What an earlier reading has found. No image is opened then.
        max_pixels: See `retrieval.data.images.load_image`.
    """

    def __init__(
        self, processes: int = 1, known: Mapping[str, str] | None = None, *, max_pixels: int | None = None
    ) -> None:
        self.faults = dict(known or {})
        self._processes = max(1, processes)
        self._max_pixels = max_pixels
        self._is_known = known is not None

    def leave_out(self, images: ImageSet, split: str = "") -> ImageSet:
        """The images that can be read, in their order; `faults` then holds the reason for each of the others by its path.

        Args:
            images: The images.
            split: The split that they are of. It is part of the key of images without files.

        Raises:
            DatasetError: None can be read.
            RetrievalError: A process that opens images was lost.
        """
        keys = [path if images.is_on_disk else f"{split}/{path}" for path in images.paths]
        if not self._is_known:
            found = zip(keys, self._open(images), strict=True)
            self.faults |= {key: fault for key, fault in found if fault}
        kept = [position for position, key in enumerate(keys) if key not in self.faults]
        if len(kept) == len(keys):
            return images
        first = next(self.faults[key] for key in keys if key in self.faults)
        if not kept:
            raise DatasetError(f"{images.origin}: no image can be read; the first: {first}")
        if not self._is_known:
            log.warning(
                "%s: %d of %d images cannot be read and are skipped", images.origin, len(keys) - len(kept), len(keys)
            )
            for key in keys:
                if key in self.faults:
                    log.warning("skipped: %s", self.faults[key])
        return images.select(np.array(kept))

    def _open(self, images: ImageSet) -> Iterator[str | None]:
        if images.is_on_disk:
            yield from open_images([images.root / path for path in images.paths], self._processes, self._max_pixels)
            return
        for position in range(len(images)):
            try:
                images.load(position, max_pixels=self._max_pixels)
                yield None
            except DatasetError as error:
                yield one_line(error)


def readable(images: ImageSet, processes: int = 1, *, max_pixels: int | None = None) -> ImageSet:
    """The images that can be read, in their order; the others are logged.

    Args:
        images: The images. Each is opened once.
        processes: The number of processes that open them.
        max_pixels: See `retrieval.data.images.load_image`.

    Raises:
        DatasetError: None can be read.
        RetrievalError: A process that opens images was lost.
    """
    return Unreadable(processes, max_pixels=max_pixels).leave_out(images)


def readable_files(files: Sequence[Path], processes: int = 1, *, max_pixels: int | None = None) -> list[Path]:
    """As `readable`, of files."""
    faults = dict(zip(files, open_images(files, max(1, processes), max_pixels), strict=True))
    kept = [file for file in files if not faults[file]]
    lost = [fault for fault in faults.values() if fault]
    if lost and not kept:
        raise DatasetError(f"no image can be read; the first: {lost[0]}")
    if lost:
        log.warning("%d of %d images cannot be read and are skipped", len(files) - len(kept), len(files))
    for fault in lost:
        log.warning("skipped: %s", fault)
    return kept


def open_images(paths: Sequence[Path], processes: int, max_pixels: int | None = None) -> Iterator[str | None]:
    """Yields for each image, in order, the reason why it cannot be used, or None.

    Raises:
        RetrievalError: A process was lost.
    """
    find = functools.partial(_fault, max_pixels=max_pixels)
    if processes == 1:
        yield from map(find, paths)
        return
    try:
        with ProcessPoolExecutor(min(processes, MOST_PROCESSES), initializer=_leave_interrupts_to_the_parent) as pool:
            yield from pool.map(find, paths, chunksize=CHUNK)
    except BrokenProcessPool as error:
        raise RetrievalError("a process that opens images was lost; if memory ran out, use fewer processes") from error


def count_cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _fault(path: Path, max_pixels: int | None) -> str | None:
    try:
        load_image(path, max_pixels=max_pixels)
    except DatasetError as error:
        return one_line(error)
    return None


def one_line(message: object) -> str:
    """The message as one line that can be printed and written, even if a file name is not UTF-8."""
    return " ".join(str(message).splitlines()).encode(errors="backslashreplace").decode()


def _leave_interrupts_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
