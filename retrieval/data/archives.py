"""The entries of a user's archive, which is not trusted: only plain files and folders below the target folder are yielded.

The "data" filter of `tarfile` is not enough. It covers neither .zip files nor archives that unpack to a huge size, it allows
links, and `tarfile` takes a broken header for the end of the archive. The sizes in the headers are not trusted either: what is
read from the archive and what is written to the disk are counted, each up to a limit.
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
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Protocol

from retrieval.data.image_set import stays_below_root
from retrieval.data.list_file import shorten
from retrieval.errors import DatasetError, reason_of
from retrieval.files import open_file
from retrieval.files.control import CONTROL

COPIED = (".csv", ".mat", ".txt")  # lists that are published next to the archives

# Images are compressed already. An archive that unpacks to more than both limits does not contain images.
GROWTH = 100
SMALL = 1 << 30  # bytes

ENTRY_COST = 4096  # bytes that a file or folder takes at least, a block of the disk
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

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Goes to a place."""

    def tell(self) -> int:
        """The place."""


Entry = tuple[str, Readable | None]  # the name and the content, which is None for a folder


def read_entries(path: Path) -> Iterator[Entry]:
    """Yields the checked folders and files of an archive. A file must be read before the next entry is requested.

    Args:
        path: A .tar, .tgz (.tar.gz) or .zip archive, recognised by its content, or a single list (.csv, .mat or .txt).

    Raises:
        DatasetError: The archive is damaged, encrypted, of another format or unpacks to more than images do; or an entry is
            not a plain file or folder (e.g. a link, a device or a sparse file), its path leads out of the folder, or its name
            has a control character.
    """
    with damage_named(path), open_file(path) as file:
        limit = max(SMALL, GROWTH * path.stat().st_size)
        yield from _counted(_read(path, file, _Budget(path, limit)), _Budget(path, limit))


def _read(path: Path, file: IO[bytes], budget: _Budget) -> Iterator[Entry]:
    """The entries; what is unpacked of a .tar is counted, with the headers and what lies between the entries."""
    head = file.read(512)
    file.seek(0)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        yield from _read_zip(path, file)
    elif head.startswith(b"\x1f\x8b"):
        with gzip.GzipFile(fileobj=file) as plain:
            yield from _read_tar(path, _Metered(plain, budget))
    elif head[257:262] == b"ustar" or path.suffix == ".tar":
        yield from _read_tar(path, _Metered(file, budget))
    elif path.suffix in COPIED:
        yield path.name, file
    else:
        raise DatasetError(
            f"{path}: is not a .tar, .tgz or .zip archive, and not one of {', '.join(COPIED)}; unpack it yourself"
        )


def _counted(entries: Iterable[Entry], budget: _Budget) -> Iterator[Entry]:
    """The entries; what they take on the disk is counted: a block for each file and each new folder, and the contents."""
    known: set[str] = set()
    for name, content in entries:
        budget.take(ENTRY_COST)
        folder, _, _ = name.rpartition("/")
        while folder and folder not in known:
            budget.take(ENTRY_COST)
            known.add(folder)
            folder, _, _ = folder.rpartition("/")
        yield name, None if content is None else _Metered(content, budget)


def _read_zip(path: Path, file: IO[bytes]) -> Iterator[Entry]:
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)  # 0 if the archive was not made on Unix
            name = _check_name(path, info.filename, kind in (0, stat.S_IFREG, stat.S_IFDIR))
            if info.flag_bits & 1:
                raise DatasetError(f"{path}: is encrypted; unpack it yourself with its password")
            # zipfile decodes the other methods without a limit on the memory: a few bytes of bzip2 are gigabytes.
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise DatasetError(f"{path}: is compressed by another method than deflate; unpack it yourself")
            if info.is_dir():
                yield name, None
            else:
                with archive.open(info) as content:
                    yield name, content


def _read_tar(path: Path, file: _Metered) -> Iterator[Entry]:
    with tarfile.open(fileobj=file, mode="r:") as archive:  # type: ignore[call-overload]
        for member in archive:
            # tarfile fills the holes of a sparse file, whose sizes the archive makes up.
            name = _check_name(path, member.name, (member.isreg() and not member.issparse()) or member.isdir())
            if member.size < 0:
                raise tarfile.ReadError("a size is negative")
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
        reason = "is a link, a device, a sparse file or of an unknown kind"
    elif CONTROL.search(name):
        reason = "has a control character in its name"
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
        reason = reason_of(error) or type(error).__name__
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

    def __init__(self, file: Readable, budget: _Budget) -> None:
        self._file, self._budget = file, budget
        self.last = b""

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """For `tarfile`."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """For `tarfile`."""
        return self._file.tell()

    def read(self, size: int = -1, /) -> bytes:
        if not 0 <= size <= MOST_AT_ONCE:
            raise ValueError(f"it has a header of more than {MOST_AT_ONCE:,} bytes")
        self.last = self._file.read(size)
        self._budget.take(len(self.last))
        return self.last
