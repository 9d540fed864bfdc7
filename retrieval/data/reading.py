"""Which image every data worker is busy with, so that one that hangs or dies can be told what it died of."""

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
    """A note in memory that all processes of a loader share.

    Args:
        images: what they read.
        workers: how many there are.
    """

    def __init__(self, images: ImageSet, workers: int) -> None:
        self._images = images
        self._processes = RawArray(ctypes.c_longlong, max(workers, 1))
        self._indices = RawArray(ctypes.c_longlong, [NOTHING] * max(workers, 1))

    def note(self, index: int) -> None:
        """Writes down, in a worker, that it begins with an image."""
        if (worker := get_worker_info()) is not None:
            self._processes[worker.id] = os.getpid()
            self._indices[worker.id] = index

    @contextlib.contextmanager
    def batch(self) -> Iterator[None]:
        """The time of a batch, at whose end nothing is in work any more."""
        try:
            yield
        finally:
            self.note(NOTHING)

    def explain(self, error: RuntimeError, timeout: float) -> str | None:
        """One line, with the images in work, for torch's error of a worker that hangs or was killed; None for any other error."""
        reason = " ".join(str(error).split())
        if reason.startswith("DataLoader timed out"):
            where = self._in_work([])
            return f"no batch came from the data workers within {timeout:g} s{where}; look at the disk, or raise data.timeout"
        if reason.startswith("DataLoader worker (pid"):
            where = self._in_work(re.findall(r"\d+", reason))
            return f"a data worker was lost ({reason}){where}; if memory ran out, lower data.workers or batch.size"
        return None

    def _in_work(self, lost: list[str]) -> str:
        """The images that the lost processes, or all if none of them is known, are busy with."""
        busy = {str(process): i for process, i in zip(self._processes, self._indices, strict=True) if i != NOTHING}
        indices = [busy[process] for process in lost if process in busy] or list(busy.values())
        paths = [str(self._images.root / self._images.paths[i]) for i in indices]
        return f"; in work: {', '.join(paths)}" if paths else ""
