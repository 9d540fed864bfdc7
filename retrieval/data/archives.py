"""The entries of a user's archive, which is not trusted: only plain files and folders below the target folder are yielded.

The "data" filter of `tarfile` is not enough. It covers neither .zip files nor archives that unpack to a huge size, it allows
links, and `tarfile` takes a broken header for the end of the archive.
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

COPIED = (".csv", ".mat", ".txt")  # lists that are published next to the archives

# Images are compressed already. An archive that unpacks to more than both limits does not contain images.
GROWTH = 100
SMALL = 1 << 30  # bytes

ENTRY_COST = 4096  # bytes that an entry takes at least, a block of the disk
MOST_AT_ONCE = 1 << 24  # bytes of a read; only a malicious header asks for more
CHUNK = 1 << 20
LONGEST_NAME, LONGEST_PART = 1024, 255  # bytes of a path and of one part of it

# The exceptions that the standard library raises on damaged archives.
_DAMAGE = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError),
    *(ValueError, RuntimeError, LookupError, OverflowError, MemoryError),
)


class Readable(Protocol):
    """The content of an entry."""

    def read(self, size: int = -1, /) -> bytes:
        """Reads at most `size` bytes; none at the end."""


Entry = tuple[str, Readable | None]  # the name and the content, which is None for a folder


def read_entries(path: Path) -> Iterator[Entry]:
    """Yields the checked folders and files of an archive. A file must be read before the next entry is requested.

    Args:
        path: A .tar, .tgz (.tar.gz) or .zip archive, recognised by its content, or a single list (.csv, .mat or .txt).

    Raises:
        DatasetError: The archive is damaged, encrypted, of another format or unpacks to more than images do; or an entry is
            not a plain file or folder (e.g. a link or a device), or its path leads out of the folder.
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
                f"{path}: is not a .tar, .tgz or .zip archive, and not one of {', '.join(COPIED)}; unpack it yourself"
            )


def _read_zip(path: Path, file: IO[bytes], budget: _Budget) -> Iterator[Entry]:
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            budget.take(ENTRY_COST)
            kind = stat.S_IFMT(info.external_attr >> 16)  # 0 if the archive was not made on Unix
            name = _check_name(path, info.filename, kind in (0, stat.S_IFREG, stat.S_IFDIR))
            if info.flag_bits & 1:
                raise DatasetError(f"{path}: is encrypted; unpack it yourself with its password")
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
    # tarfile takes a header that it cannot read for the end. The true end is a block of zeros.
    if file.last != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("it is cut off")
    while file.read(CHUNK):  # up to the checksum after the contents
        pass


def _check_name(path: Path, name: str, plain: bool) -> str:
    """The name of an entry without "." parts."""
    parts = os.fsencode(name).split(b"/")
    if not plain:
        reason = "is a link, a device or of an unknown kind"
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
    """Turns errors of reading into one `DatasetError`."""
    try:
        yield
    except _DAMAGE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DatasetError(f"{path}: cannot be unpacked ({reason}); download it again") from error


class _Budget:
    """The number of bytes that an archive may still unpack to."""

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
    """A file whose bytes are counted and read in limited chunks; keeps the last chunk."""

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
