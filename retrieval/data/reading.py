"""The image that each data worker is reading, for the message if the worker hangs or dies."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
from collections.abc import Iterator
from multiprocessing.sharedctypes import RawArray

from torch.utils.data import get_worker_info

from retrieval.data.image_set import ImageSet

NOTHING = -1


class Reading:
    """The images in progress, in memory that all processes of a loader share.

    Args:
        images: The images that the workers read.
        workers: The number of workers.
    """

    def __init__(self, images: ImageSet, workers: int) -> None:
        self._images = images
        self._processes = RawArray(ctypes.c_longlong, max(workers, 1))
        self._indices = RawArray(ctypes.c_longlong, [NOTHING] * max(workers, 1))

    def note(self, index: int) -> None:
        """Records, in a worker, the image that it starts to read."""
        if (worker := get_worker_info()) is not None:
            self._processes[worker.id] = os.getpid()
            self._indices[worker.id] = index

    @contextlib.contextmanager
    def batch(self) -> Iterator[None]:
        """A block in which a batch is read. After it, the worker reads no image."""
        try:
            yield
        finally:
            self.note(NOTHING)

    def explain(self, error: RuntimeError, timeout: float) -> str | None:
        """One line with the images in progress, if torch's error is about a worker that hangs or was killed; otherwise None."""
        reason = " ".join(str(error).split())
        if reason.startswith("DataLoader timed out"):
            where = self._in_progress([])
            return f"no batch came from the data workers within {timeout:g} s{where}; look at the disk, or raise data.timeout"
        if reason.startswith("DataLoader worker (pid"):
            where = self._in_progress(re.findall(r"\d+", reason))
            return f"a data worker was lost ({reason}){where}; if memory ran out, lower data.workers or batch.size"
        return None

    def _in_progress(self, lost: list[str]) -> str:
        """The images that the lost workers were reading, or those of all workers if no lost one is known."""
        busy = {str(process): i for process, i in zip(self._processes, self._indices, strict=True) if i != NOTHING}
        indices = [busy[process] for process in lost if process in busy] or list(busy.values())
        paths = [self._images.where(i) for i in indices]
        return f"; images in progress: {', '.join(paths)}" if paths else ""
