"""What is in a user's archive, read with care: it may hold anything.

No entry is let out that is not a plain file or folder below the folder it will be unpacked into.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Protocol

from retrieval.data.image_set import stays_below_root
from retrieval.data.list_file import shorten
from retrieval.errors import DatasetError

COPIED = (".csv", ".mat", ".txt")  # lists that come beside the archives

# Images hardly shrink, so an archive that grows beyond this is none of images: the larger of the two counts.
GROWTH = 100
SMALL = 1 << 30  # bytes

ENTRY_COST = 4096  # bytes that an entry takes at least: a block of the disk
MOST_AT_ONCE = 1 << 24  # bytes of a read; only a header that is made to fill the memory has more
CHUNK = 1 << 20
LONGEST_NAME, LONGEST_PART = 1024, 255  # bytes of a path and of a name in it

# What the standard library lets out on damaged archives.
_DAMAGE = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError),
    *(ValueError, RuntimeError, LookupError, OverflowError, MemoryError),
)


class Readable(Protocol):
    """What an entry's content is read from."""

    def read(self, size: int = -1, /) -> bytes:
        """At most `size` bytes; none at the end."""


Entry = tuple[str, Readable | None]  # the name, and the content; None for a folder


def read_entries(path: Path) -> Iterator[Entry]:
    """The folders and files of an archive, checked; a file must be read before the next is asked for.

    Args:
        path: a .tar, .tgz (.tar.gz) or .zip archive, told by its content; or a list by itself, ending in .csv, .mat or .txt.

    Raises:
        DatasetError: it is damaged, encrypted, of another kind, or larger than any archive of images; or an entry is no plain
            file or folder (but a link or a device), or does not stay below the folder.
    """
    with damage_named(path), path.open("rb") as file:
        head = file.read(512)
        file.seek(0)
        budget = _Budget(path, max(SMALL, GROWTH * path.stat().st_size))
        if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
            yield from _read_zip(path, file, budget)
        elif head.startswith(b"\x1f\x8b"):
            with gzip.GzipFile(fileobj=file) as plain:
                yield from _read_tar(path, _Metered(plain, budget), budget)
        elif head[257:262] == b"ustar" or path.suffix == ".tar":
            yield from _read_tar(path, _Metered(file, budget), budget)
        elif path.suffix in COPIED:
            yield path.name, file
        else:
            raise DatasetError(
                f"{path}: is no .tar, .tgz or .zip archive, nor one of {', '.join(COPIED)}; unpack it yourself"
            )


def _read_zip(path: Path, file: IO[bytes], budget: _Budget) -> Iterator[Entry]:
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            budget.take(ENTRY_COST)
            kind = stat.S_IFMT(info.external_attr >> 16)  # 0 where the archive was not made on Unix
            name = _check_name(path, info.filename, kind in (0, stat.S_IFREG, stat.S_IFDIR))
            if info.flag_bits & 1:
                raise DatasetError(f"{path}: is encrypted; unpack it yourself, with its password")
            if info.is_dir():
                yield name, None
            else:
                with archive.open(info) as content:
                    yield name, _Metered(content, budget)


def _read_tar(path: Path, file: _Metered, budget: _Budget) -> Iterator[Entry]:
    with tarfile.open(fileobj=file, mode="r:") as archive:  # type: ignore[call-overload]
        for member in archive:
            budget.take(ENTRY_COST)
            name = _check_name(path, member.name, member.isreg() or member.isdir())
            yield name, None if member.isdir() else archive.extractfile(member)
    # tarfile takes a header that it cannot read for the end; at the true end stands a block of zeros.
    if file.last != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("it breaks off")
    while file.read(CHUNK):  # to the check sum behind the contents
        pass


def _check_name(path: Path, name: str, plain: bool) -> str:
    """The name of an entry, without "." in it."""
    parts = os.fsencode(name).split(b"/")
    if not plain:
        reason = "is a link, a device or of no known kind"
    elif not stays_below_root(name):
        reason = "does not stay below the folder"
    elif max(map(len, parts)) > LONGEST_PART or len(name) > LONGEST_NAME:
        reason = "has too long a name"
    else:
        return PurePosixPath(name).as_posix()
    raise DatasetError(
        f"{path}: its entry {shorten(name)} {reason}; nothing was unpacked, get the archive from its authors"
    )


@contextlib.contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Errors of reading become one line."""
    try:
        yield
    except _DAMAGE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DatasetError(f"{path}: cannot be unpacked ({reason}); download it again") from error


class _Budget:
    """How many bytes an archive may still grow to."""

    def __init__(self, path: Path, limit: int) -> None:
        self._path, self._limit, self._left = path, limit, limit

    def take(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise DatasetError(
                f"{self._path}: unpacks to more than {self._limit:,} bytes, more than images do; unpack it yourself if you "
                "trust it"
            )


class _Metered:
    """A file whose bytes count, and come in portions; remembers the last."""

    def __init__(self, file: IO[bytes] | gzip.GzipFile, budget: _Budget) -> None:
        self._file, self._budget = file, budget
        self.seek, self.tell = file.seek, file.tell
        self.last = b""

    def read(self, size: int = -1, /) -> bytes:
        if not 0 <= size <= MOST_AT_ONCE:
            raise ValueError(f"it has a header of more than {MOST_AT_ONCE:,} bytes")
        self.last = self._file.read(size)
        self._budget.take(len(self.last))
        return self.last
