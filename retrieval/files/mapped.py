"""Large files that are mapped into memory; each of their blocks is checked when it is first used."""

from __future__ import annotations

import contextlib
import mmap
import os
import sys
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.files.blocks import CORES, Entry, checksum, checksums_of, kind_of
from retrieval.files.reading import open_file

_AHEAD = 4 * CORES  # blocks that are read from the disk ahead of their use, each by a thread, which mostly waits

_MADV_POPULATE_READ = 22  # of Linux 5.14; Python does not name it


class BlockFile:
    """A file that is mapped into memory. Each of its blocks is checked when it is first used, also from several threads.

    The blocks are checked again after the file has changed, as its time of modification tells. What has been appended to it is not
    part of it.

    Args:
        path: The file.
        entry: Its entry in the manifest, with blocks.
        refused: Makes the error for a block, or a size, that is not that of the entry.
        is_checked: Whether this process has just written the file.

    Raises:
        OSError: The file cannot be opened.
    """

    def __init__(
        self, path: Path, entry: Entry, refused: Callable[[str, Any, Any], Exception], *, is_checked: bool = False
    ) -> None:
        self.path, self.size, self.entry = path, int(entry["size"]), entry
        self._block, self._refused = int(entry["block"]), refused
        self._kind, self._checksums = kind_of(entry), checksums_of(entry)
        with open_file(path) as file:
            if (size := os.fstat(file.fileno()).st_size) < self.size:
                raise refused("size", size, self.size)
            self.bytes = np.memmap(file, dtype=np.uint8, mode="r", shape=(self.size,))
            self._handle = os.dup(file.fileno())
        weakref.finalize(self, os.close, self._handle)
        self._checked = np.full(len(self._checksums), is_checked)
        self._state = self._find_state()

    def check(self, start: int = 0, stop: int | None = None) -> None:
        """Checks the blocks of some bytes.

        Raises:
            Exception: That of `refused`: the file is not that of the manifest.
        """
        stop = self.size if stop is None else stop
        self.check_blocks(np.arange(start // self._block, -(-stop // self._block)))

    def check_blocks(self, numbers: np.ndarray) -> None:
        """Checks blocks by their numbers; see `check`."""
        self._forget_if_changed()
        missing = numbers[~self._checked[numbers]].tolist()
        if missing:
            with ThreadPoolExecutor(min(CORES, len(missing))) as pool:
                for number, found in zip(missing, pool.map(self._checksum, missing), strict=True):
                    self._note(number, found)

    def check_rows(self, start: int, width: int, rows: np.ndarray) -> None:
        """Checks the blocks of some rows of a table that begins at `start`, with rows of `width` bytes."""
        first = (start + rows * width) // self._block
        last = (start + rows * width + width - 1) // self._block
        most = int((last - first).max(initial=0))
        self.check_blocks(np.unique(np.concatenate([np.minimum(first + i, last) for i in range(most + 1)])))

    def sweep(self, bounds: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        """Yields ascending bounds of bytes, each after its check, while other threads check the blocks that follow."""
        self._forget_if_changed()
        numbers = iter(np.flatnonzero(~self._checked).tolist())
        running: deque[tuple[int, Future[str]]] = deque()
        with ThreadPoolExecutor(_AHEAD) as pool:
            try:
                for start, stop in bounds:
                    last = -(-stop // self._block)
                    while True:
                        for number in islice(numbers, _AHEAD - len(running)):
                            running.append((number, pool.submit(self._checksum, number)))
                        if not running or running[0][0] >= last:
                            break
                        number, found = running.popleft()
                        self._note(number, found.result())
                    yield start, stop
            finally:
                for _, found in running:
                    found.cancel()

    def _announce(self, number: int) -> None:
        """Lets the system read a block from the disk ahead of its use; a mapped file is else read in small pieces."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._handle, number * self._block, self._block, os.POSIX_FADV_WILLNEED)

    def _checksum(self, number: int) -> str:
        self._announce(number)
        self._map(number)
        return checksum(self._kind, self.bytes[number * self._block : (number + 1) * self._block])

    def _map(self, number: int) -> None:
        """Puts the pages of a block into the page table at once; each few of them would else be a fault of their own."""
        if sys.platform != "linux":
            return
        start = number * self._block // mmap.PAGESIZE * mmap.PAGESIZE
        pages: Any = self.bytes.base
        with contextlib.suppress(OSError):  # an earlier kernel
            pages.madvise(_MADV_POPULATE_READ, start, min((number + 1) * self._block, self.size) - start)

    def _note(self, number: int, found: str) -> None:
        if found != self._checksums[number]:
            raise self._refused(f"{self._kind} of block {number}", found, self._checksums[number])
        self._checked[number] = True

    def _forget_if_changed(self) -> None:
        state = self._find_state()
        if state == self._state:
            return
        if state[0] < self.size:  # reading beyond the end of a mapped file ends the process
            raise self._refused("size", state[0], self.size)
        self._checked[:] = False
        self._state = state

    def _find_state(self) -> tuple[int, int]:
        status = os.fstat(self._handle)
        return status.st_size, status.st_mtime_ns
