"""The images below a folder, and why other files are not read."""

from __future__ import annotations

import heapq
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from retrieval.data.image_set import require_portable
from retrieval.data.names import natural_key
from retrieval.errors import DatasetError
from retrieval.files import own_output
from retrieval.files.image_formats import RAW_SUFFIXES, is_image, missing_package

log = logging.getLogger("retrieval")

# What systems and programs put beside photographs without hiding it, in lower case.
_OF_A_SYSTEM = {
    *(
        "@eadir",
        "@tmp",
        "@recycle",
        "@recently-snapshot",
        "@__thumb",
        "#recycle",
        "#snapshot",
        "$recycle.bin",
        "recycler",
    ),
    *("system volume information", "found.000", "lost+found", "__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini"),
}

HIDDEN = "hidden"
OF_A_SYSTEM = "of the system"
OWN = "written by this program"
BROKEN_LINK = "behind broken links"
SECOND_LINK = "behind links to folders that are read already"
NOT_REGULAR = "of pipes, sockets and devices"
RAW = "camera raw"
OTHER = "of other types"
_OF_IMAGES = ("in need of", "next to", RAW)  # reasons why images are not read


@dataclass
class Tree:
    """The images below a folder.

    Args:
        root: The folder.
        images: The paths of the images, relative to the root with "/", in no particular order.
        folders: The paths of the folders that were searched, relative to the root, in natural order.
        left_out: For every reason, the relative paths of what was not read. A folder is one path that ends in "/".
    """

    root: Path
    images: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)

    @property
    def top(self) -> list[str]:
        """The names of the folders directly in the root."""
        return [folder for folder in self.folders if "/" not in folder]

    def leave_out(self, reason: str, paths: Iterable[str]) -> None:
        """Records why paths are not read."""
        if paths := list(paths):
            self.left_out.setdefault(reason, []).extend(paths)


def list_images(root: Path) -> Tree:
    """Finds the images below a folder, at any depth.

    An image is a file with the suffix of an image format, or any other file that can be opened as an image. A link to a folder is
    followed unless that folder is read already. Hidden files and folders, those of the system, and the outputs of this program are
    not read.

    Raises:
        DatasetError: A folder cannot be read, or the name of an image does not work on every system.
    """
    tree = Tree(root)
    real = Path(os.path.realpath(root))
    known = {str(real)}
    folders, links = [("", real)], list[tuple[str, Path]]()
    while folders or links:
        if folders:
            below, place = folders.pop()
        else:  # links come last, so that a folder is read where it lies
            below, place = heapq.heappop(links)
            if str(place) in known:
                tree.leave_out(SECOND_LINK, [below])
                continue
        known.add(str(place))
        for entry in reversed(list(_entries(tree, root, below))):
            if entry.is_symlink() or getattr(entry, "is_junction", bool)():
                heapq.heappush(links, (f"{below}{entry.name}/", Path(os.path.realpath(entry.path))))
            elif str(place / entry.name) in known:
                tree.leave_out(SECOND_LINK, [f"{below}{entry.name}/"])
            else:
                folders.append((f"{below}{entry.name}/", place / entry.name))
    tree.folders = sorted(tree.folders, key=natural_key)
    return tree


def _entries(tree: Tree, root: Path, below: str) -> Iterator[os.DirEntry[str]]:
    """The folders in a folder that are to be searched; its files are added to the tree."""
    try:
        with os.scandir(root / below) as scanned:
            entries = sorted(scanned, key=lambda entry: entry.name)
    except OSError as error:
        raise DatasetError(
            f"{root / below}: cannot be read ({error.strerror}); expected a folder of images, one folder per class"
        ) from error
    for entry in entries:
        path = f"{below}{entry.name}"
        try:
            is_folder, is_file = entry.is_dir(), entry.is_file()
            is_there = is_folder or is_file or Path(entry.path).exists()
        except OSError:  # a link that leads to itself
            is_folder = is_file = is_there = False
        if is_folder:
            reason = _folder_reason(Path(entry.path))
        else:
            reason = _file_reason(Path(entry.path)) if is_file else NOT_REGULAR if is_there else BROKEN_LINK
        if reason:
            tree.leave_out(reason, [f"{path}/" if is_folder else path])
        elif is_folder:
            tree.folders.append(path)
            yield entry
        else:
            require_portable(root, path)
            tree.images.append(path)


def _folder_reason(folder: Path) -> str | None:
    return _name_reason(folder.name) or (OWN if own_output(folder) else None)


def _file_reason(file: Path) -> str | None:
    """Why a regular file is not read; None for an image."""
    reason = _name_reason(file.name)
    if reason or is_image(file):
        return reason
    if file.suffix.lower() in RAW_SUFFIXES:
        return RAW
    package = missing_package(file)
    return f"in need of the package {package}" if package else OTHER


def _name_reason(name: str) -> str | None:
    if name.startswith("."):
        return HIDDEN
    return OF_A_SYSTEM if name.lower() in _OF_A_SYSTEM else None


def describe_left_out(left_out: Mapping[str, list[str]]) -> list[str]:
    """For every reason the number of paths, with their suffixes where these are the reason, or else with the first."""
    parts = []
    for reason, paths in left_out.items():
        if reason in (OTHER, RAW):
            counts = Counter(Path(path).suffix.lower() or "without a suffix" for path in paths)
            detail = ", ".join(f"{count:,} {suffix}" for suffix, count in counts.most_common(5))
            detail += f", and {len(counts) - 5} more types" if len(counts) > 5 else ""
        else:
            detail = f"the first is {paths[0]!r}" if len(paths) > 1 else repr(paths[0])
        parts.append(f"{len(paths):,} {reason} ({detail})")
    return parts


def log_left_out(root: Path, left_out: Mapping[str, list[str]]) -> None:
    """Logs in one line what is not read. With debug messages (`--verbose`), a line for each path follows."""
    if left_out:
        level = logging.WARNING if any(reason.startswith(_OF_IMAGES) for reason in left_out) else logging.INFO
        log.log(level, "%s: not read: %s", root, "; ".join(describe_left_out(left_out)))
    for reason, paths in left_out.items():
        for path in paths:
            log.debug("%s: not read: %s", root / path, reason)
