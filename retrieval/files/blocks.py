"""Checksums of large files by blocks: all cores compute them, and a block is checked when it is first used.

A file of one block has one sha256; a larger file has a list of them, one for each block.
"""

from __future__ import annotations

import hashlib
import os
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from retrieval.files.reading import open_file

BLOCK = 2**23  # bytes of a block of the files that are written
SMALLEST, LARGEST = 64, 2**31  # of the files that are read
_CORES = os.cpu_count() or 1

Entry = dict[str, Any]  # of a manifest: "size" and "sha256", and "block" where sha256 is a list
Bytes = bytes | memoryview


@dataclass(frozen=True)
class Finished:
    """A file that has been written already, elsewhere on the disk of its folder. It is moved into the folder.

    Args:
        path: The file.
        entry: Its entry in the manifest.
    """

    path: Path
    entry: Entry


def entry_of(content: Bytes, block: int | None) -> Entry:
    """The entry of a manifest for a file of this content; `block` None: one sha256, whatever the size."""
    return _entry(memoryview(content).cast("B").nbytes, _digests(content, block), block)


def write_in_blocks(
    file: BinaryIO, parts: Iterable[Bytes], *, block: int | None = None, entry: Entry | None = None, before: Bytes = b""
) -> Entry:
    """Writes a file part by part, while other threads compute the checksums of its blocks.

    Args:
        file: The file, at the place where the content begins.
        parts: The content, in parts of any size.
        block: The size of a block; by default `BLOCK`.
        entry: The entry of what is in the file already.
        before: The content of its last block, if that is not full.

    Returns:
        The entry of the file.
    """
    block = block or BLOCK
    size = entry["size"] if entry else 0
    digests = _list_of(entry)[: size // block] if entry else []
    running: list[Future[str]] = []
    pieces, held = ([memoryview(before)], len(before)) if before else ([], 0)
    with ThreadPoolExecutor(_CORES) as pool:
        for part in parts:
            view = memoryview(part).cast("B")
            size += len(view)
            while len(view):
                piece, view = view[: block - held], view[block - held :]
                file.write(piece)
                pieces, held = [*pieces, piece], held + len(piece)
                if held == block:
                    running.append(pool.submit(_sha256, *pieces))
                    pieces, held = [], 0
            if len(running) > 4 * _CORES:
                running[-4 * _CORES].result()  # so that few blocks are in memory
        running += [pool.submit(_sha256, *pieces)] if pieces else []
        return _entry(size, digests + [digest.result() for digest in running], block)


def is_entry(entry: Any, *, in_blocks: bool) -> bool:
    """Whether a value is an entry of a manifest; `in_blocks` tells whether sha256 may be a list."""
    if not isinstance(entry, dict) or type(entry.get("size")) is not int or entry["size"] < 0:
        return False
    if entry.keys() == {"size", "sha256"}:
        return isinstance(entry["sha256"], str)
    if not in_blocks or entry.keys() != {"size", "sha256", "block"} or type(entry["block"]) is not int:
        return False
    digests, block = entry["sha256"], entry["block"]
    if not isinstance(digests, list) or not SMALLEST <= block <= LARGEST or entry["size"] <= block:
        return False
    return len(digests) == -(-entry["size"] // block) and all(isinstance(digest, str) for digest in digests)


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
        self._block, self._digests, self._refused = int(entry["block"]), entry["sha256"], refused
        with open_file(path) as file:
            if (size := os.fstat(file.fileno()).st_size) < self.size:
                raise refused("size", size, self.size)
            self.bytes = np.memmap(file, dtype=np.uint8, mode="r", shape=(self.size,))
            self._handle = os.dup(file.fileno())
        weakref.finalize(self, os.close, self._handle)
        self._checked = np.full(len(self._digests), is_checked)
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
            with ThreadPoolExecutor(min(_CORES, len(missing))) as pool:
                for number, digest in zip(missing, pool.map(self._digest, missing), strict=True):
                    self._note(number, digest)

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
        with ThreadPoolExecutor(_CORES) as pool:
            try:
                for start, stop in bounds:
                    last = -(-stop // self._block)
                    while True:
                        for number in islice(numbers, 4 * _CORES - len(running)):
                            running.append((number, pool.submit(self._digest, number)))
                        if not running or running[0][0] >= last:
                            break
                        number, digest = running.popleft()
                        self._note(number, digest.result())
                    yield start, stop
            finally:
                for _, digest in running:
                    digest.cancel()

    def _digest(self, number: int) -> str:
        return _sha256(self.bytes[number * self._block : (number + 1) * self._block])

    def _note(self, number: int, digest: str) -> None:
        if digest != self._digests[number]:
            raise self._refused(f"sha256 of block {number}", digest, self._digests[number])
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


def _entry(size: int, digests: list[str], block: int | None) -> Entry:
    if block is None or size <= block:
        return {"size": size, "sha256": digests[0] if digests else _sha256(b"")}
    return {"size": size, "block": block, "sha256": digests}


def _list_of(entry: Entry) -> list[str]:
    digests = entry["sha256"]
    return digests if isinstance(digests, list) else [digests]


def _digests(content: Bytes, block: int | None) -> list[str]:
    view = memoryview(content).cast("B")
    if block is None or view.nbytes <= block:
        return [_sha256(view)]
    with ThreadPoolExecutor(_CORES) as pool:
        return list(pool.map(_sha256, (view[start : start + block] for start in range(0, view.nbytes, block))))


def _sha256(*pieces: Any) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()
