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
from retrieval.files import folder_in_one_piece

Watch = Callable[[Iterable[Entry]], Iterable[Entry]]


@dataclass(frozen=True)
class Unpacked:
    """What was unpacked.

    Args:
        files: their number.
        bytes: their size together.
        md5: of every archive by its name, whether its md5 sum was compared with a published one.
    """

    files: int
    bytes: int
    md5: Mapping[str, bool]


def prepare(
    name: str, archives: Sequence[str | Path], root: str | Path, *, watch: Watch = lambda entries: entries
) -> Unpacked:
    """Unpacks the archives of a data set side by side into a new folder, all of them or nothing.

    Files ending in .csv, .mat and .txt are copied. Nothing leaves the folder: an entry that is no plain file or folder below it
    (an absolute path, "..", a link, a device) is refused, and the archive with it. Owners, rights and times are not taken over.

    Args:
        name: the data set; its published md5 sums are checked, for archives under the published names.
        archives: .tar, .tgz (.tar.gz) or .zip files, and lists.
        root: the folder; must not exist, or be empty.
        watch: is given the entries of each archive as they come and passes them on: for a progress bar.

    Raises:
        ValueError: there is no such data set.
        DatasetError: an archive is not the published one, damaged, of another kind, larger than any of images, or holds an entry
            that is refused.
        RetrievalError: the folder exists or cannot be written, e.g. because the disk is full.
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
                        f"{path}: its entry {shorten(entry)} is there twice, or in the way of another; nothing was unpacked"
                    ) from error
    return Unpacked(files, size, compared)


def _require_empty(root: Path) -> None:
    if not root.is_dir() or any(root.iterdir()):
        raise DatasetError(f"{root}: exists already; choose a folder that does not, or remove it")


def _check_md5(path: Path, published: Mapping[str, str]) -> bool:
    """Whether there is a published sum; the file has it then."""
    try:
        with path.open("rb") as file:
            if path.name not in published:
                return False
            found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror}); give an archive that is there") from error
    if found != published[path.name]:
        raise DatasetError(
            f"{path}: its md5 sum is {found}, published is {published[path.name]}; download it again, or rename it if it is "
            "meant to differ"
        )
    return True


def _write_file(path: Path, target: Path, content: Readable) -> int:
    """Writes what an archive holds into a new file; returns the number of bytes."""
    size = 0
    with target.open("xb") as file:
        while True:
            with damage_named(path):
                chunk = content.read(CHUNK)
            if not chunk:
                return size
            size += file.write(chunk)
