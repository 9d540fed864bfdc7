"""Unpacking a user's archives into the folder that a reader expects."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from retrieval.data.archives import CHUNK, Entry, Readable, damage_named, read_entries
from retrieval.data.catalogue import find_source
from retrieval.data.list_file import shorten
from retrieval.errors import DatasetError
from retrieval.files import folder_in_one_piece, open_file

Watch = Callable[[Iterable[Entry]], Iterable[Entry]]


@dataclass(frozen=True)
class Unpacked:
    """A summary of what was unpacked.

    Args:
        files: The number of files.
        bytes: Their total size.
        md5: By the name of the archive, whether its md5 sum was compared with a published one.
    """

    files: int
    bytes: int
    md5: Mapping[str, bool]


def prepare(
    name: str, archives: Sequence[str | Path], root: str | Path, *, watch: Watch = lambda entries: entries
) -> Unpacked:
    """Unpacks the archives of a data set into one new folder. If an archive fails, no folder is left behind.

    Files ending in .csv, .mat and .txt are copied. An archive is refused if one of its entries is not a plain file or folder
    below the target folder (an absolute path, "..", a link, a device). Owners, permissions and times are not restored.

    Args:
        name: The data set. Archives with published names must have the published md5 sums.
        archives: .tar, .tgz (.tar.gz) or .zip files, and lists.
        root: The target folder, which must not exist or be empty.
        watch: Wraps the iterator over the entries of each archive, for a progress bar.

    Raises:
        ValueError: There is no such data set.
        DatasetError: An archive is not the published one, is damaged, of another format, unpacks to more than images do, or
            has an entry that is refused.
        RetrievalError: The folder exists or cannot be written, e.g. because the disk is full.
    """
    published, root = find_source(name).md5, Path(root).expanduser()
    if not find_source(name).archives:
        raise DatasetError(f"{name}: {find_source(name).origin}")
    empty = root.is_dir()
    if root.exists():
        _require_empty(root)
    paths = [Path(archive).expanduser() for archive in archives]
    compared = {path.name: _check_md5(path, published) for path in paths}
    files = size = 0
    with folder_in_one_piece(root, overwrite=empty, check=_require_empty) as folder:
        for path in paths:
            for entry, content in watch(read_entries(path)):
                try:
                    (folder / entry if content is None else (folder / entry).parent).mkdir(parents=True, exist_ok=True)
                    if content is not None:
                        size += _write_file(path, folder / entry, content)
                        files += 1
                except (FileExistsError, NotADirectoryError) as error:
                    raise DatasetError(
                        f"{path}: its entry {shorten(entry)} occurs twice or conflicts with another entry; nothing was unpacked"
                    ) from error
    return Unpacked(files, size, compared)


def _require_empty(root: Path) -> None:
    if not root.is_dir() or any(root.iterdir()):
        raise DatasetError(f"{root}: exists already; choose a new folder, or remove this one")


def _check_md5(path: Path, published: Mapping[str, str]) -> bool:
    """Whether an md5 sum is published for the archive; refuses the archive if its own differs."""
    try:
        with open_file(path) as file:
            if path.name not in published:
                return False
            found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror}); give an existing archive") from error
    if found != published[path.name]:
        raise DatasetError(
            f"{path}: its md5 sum is {found}, the published one is {published[path.name]}; download it again, or rename it "
            "if it is meant to differ"
        )
    return True


def _write_file(path: Path, target: Path, content: Readable) -> int:
    """Writes the content of an entry to a new file; returns the number of bytes."""
    size = 0
    with target.open("xb") as file:
        while True:
            with damage_named(path):
                chunk = content.read(CHUNK)
            if not chunk:
                return size
            size += file.write(chunk)
