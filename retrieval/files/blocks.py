"""Checksums of large files by blocks: all cores compute them, and a block is checked when it is first used.

A file of one block has one sha256. A larger file has a list of XXH3 checksums of 128 bits, one for each block: they find damage as
surely as sha256 and take a twelfth of its time. Files of earlier versions have a list of sha256.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import xxhash

BLOCK = 2**23  # bytes of a block of the files that are written
SMALLEST, LARGEST = 64, 2**31  # of the files that are read
CORES = os.cpu_count() or 1

Entry = dict[
    str, Any
]  # of a manifest: "size" and "sha256"; or "size", "block" and a list of checksums by the name of their kind
Bytes = bytes | memoryview

_WHOLE, _BY_BLOCK = "sha256", "xxh3_128"  # the kinds of checksum of the files that are written
_KINDS: dict[str, Callable[[], Any]] = {"sha256": hashlib.sha256, "xxh3_128": xxhash.xxh3_128}


@dataclass(frozen=True)
class Finished:
    """A file that has been written already, elsewhere on the disk of its folder. It is moved into the folder.

    Args:
        path: The file.
        entry: Its entry in the manifest.
    """

    path: Path
    entry: Entry


def entry_of(content: Bytes, block: int | None, kind: str = _BY_BLOCK) -> Entry:
    """The entry of a manifest for a file of this content.

    Args:
        content: The content.
        block: The size of a block; None: one sha256, whatever the size.
        kind: The kind of the checksums of blocks.
    """
    view = memoryview(content).cast("B")
    if block is None or view.nbytes <= block:
        return {"size": view.nbytes, _WHOLE: checksum(_WHOLE, view)}
    parts = [view[start : start + block] for start in range(0, view.nbytes, block)]
    with ThreadPoolExecutor(CORES) as pool:
        return {"size": view.nbytes, "block": block, kind: list(pool.map(lambda part: checksum(kind, part), parts))}


def require_entry(content: Bytes, entry: Entry, differs: Callable[[str, Any, Any], Exception]) -> None:
    """Checks that a content is that of an entry.

    Raises:
        Exception: That of `differs`, called with the key of the entry, its value for the content, and the value that is expected.
    """
    kind = kind_of(entry)
    for key, value in entry_of(content, entry.get("block"), kind).items():
        if value != entry[key]:
            raise differs(key, value, entry[key])


def write_in_blocks(
    file: BinaryIO, parts: Iterable[Bytes], *, block: int | None = None, entry: Entry | None = None, before: Bytes = b""
) -> Entry:
    """Writes a file part by part, while other threads compute the checksums of its blocks and send these to the disk.

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
    size, kept = (entry["size"], checksums_of(entry)[: entry["size"] // block]) if entry else (0, [])
    kind = kind_of(entry) if entry and kept else _BY_BLOCK
    handle, place = file.fileno(), file.tell() - len(before)

    def finish(start: int, *pieces: Any) -> str:
        found = checksum(kind, *pieces)
        if hasattr(os, "posix_fadvise"):  # or most of the file would wait for the flush at the end
            os.posix_fadvise(handle, start, block, os.POSIX_FADV_DONTNEED)
        return found

    running: list[Future[str]] = []
    pieces, held = ([memoryview(before)], len(before)) if before else ([], 0)
    with ThreadPoolExecutor(CORES) as pool:
        for part in parts:
            if not memoryview(part).nbytes:  # which cannot be cast
                continue
            view = memoryview(part).cast("B")
            size += len(view)
            while len(view):
                if held == block:
                    running.append(pool.submit(finish, place, *pieces))
                    pieces, held, place = [], 0, place + block
                piece, view = view[: block - held], view[block - held :]
                file.write(piece)
                pieces, held = [*pieces, piece], held + len(piece)
            if len(running) > 4 * CORES:
                running[-4 * CORES].result()  # so that few blocks are in memory
        if size <= block:
            return {"size": size, _WHOLE: kept[0] if kept else checksum(_WHOLE, *pieces)}
        if pieces:
            running.append(pool.submit(finish, place, *pieces))
        return {"size": size, "block": block, kind: kept + [it.result() for it in running]}


def is_entry(entry: Any, *, in_blocks: bool) -> bool:
    """Whether a value is an entry of a manifest; `in_blocks` tells whether it may have blocks."""
    if not isinstance(entry, dict) or type(entry.get("size")) is not int or entry["size"] < 0:
        return False
    if entry.keys() == {"size", _WHOLE}:
        return isinstance(entry[_WHOLE], str)
    keys = [{"size", "block", kind} for kind in _KINDS]
    if not in_blocks or entry.keys() not in keys or type(entry["block"]) is not int:
        return False
    checksums, block = checksums_of(entry), entry["block"]
    if not isinstance(checksums, list) or not SMALLEST <= block <= LARGEST or entry["size"] <= block:
        return False
    return len(checksums) == -(-entry["size"] // block) and all(isinstance(it, str) for it in checksums)


def kind_of(entry: Entry) -> str:
    """The kind of the checksums of an entry."""
    return next(kind for kind in _KINDS if kind in entry)


def checksums_of(entry: Entry) -> list[str]:
    """The checksums of an entry: one, or one for each block."""
    found = entry[kind_of(entry)]
    return found if "block" in entry else [found]


def checksum(kind: str, *pieces: Any) -> str:
    """The checksum of a block, from consecutive pieces of it, as hexadecimal digits."""
    state = _KINDS[kind]()
    for piece in pieces:
        state.update(piece)
    return str(state.hexdigest())
