"""Checksums of large files by blocks: all cores compute them, and a block is checked when it is first used.

A file of one block has one sha256; a larger file has a list of them, one for each block.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

BLOCK = 2**23  # bytes of a block of the files that are written
SMALLEST, LARGEST = 64, 2**31  # of the files that are read
CORES = os.cpu_count() or 1

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
    with ThreadPoolExecutor(CORES) as pool:
        for part in parts:
            if not memoryview(part).nbytes:  # which cannot be cast
                continue
            view = memoryview(part).cast("B")
            size += len(view)
            while len(view):
                piece, view = view[: block - held], view[block - held :]
                file.write(piece)
                pieces, held = [*pieces, piece], held + len(piece)
                if held == block:
                    running.append(pool.submit(sha256_of, *pieces))
                    pieces, held = [], 0
            if len(running) > 4 * CORES:
                running[-4 * CORES].result()  # so that few blocks are in memory
        running += [pool.submit(sha256_of, *pieces)] if pieces else []
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


def _entry(size: int, digests: list[str], block: int | None) -> Entry:
    if block is None or size <= block:
        return {"size": size, "sha256": digests[0] if digests else sha256_of(b"")}
    return {"size": size, "block": block, "sha256": digests}


def _list_of(entry: Entry) -> list[str]:
    digests = entry["sha256"]
    return digests if isinstance(digests, list) else [digests]


def _digests(content: Bytes, block: int | None) -> list[str]:
    view = memoryview(content).cast("B")
    if block is None or view.nbytes <= block:
        return [sha256_of(view)]
    with ThreadPoolExecutor(CORES) as pool:
        return list(pool.map(sha256_of, (view[start : start + block] for start in range(0, view.nbytes, block))))


def sha256_of(*pieces: Any) -> str:
    """The sha256 of a block, from consecutive pieces of it."""
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()
