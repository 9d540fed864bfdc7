"""Any images: one folder per class.

    root/<class>/**/*.jpg                                   divided at random into what is trained on and what is tested
    root/train/<class>/**/*.jpg, root/test/<class>/...      the splits are used as they are
    root/train/..., root/query/..., root/gallery/...        the same, with queries that search a gallery

Next to `train` there may also be `valid` (or `val`, `validation`). If the classes of `test` are those of `train`, the test images
are queries against the training images; if not, they are searched among themselves.

A class is a folder directly below the root (or below `train`, `test`, ...). Images at any depth inside it belong to it, as in
torchvision's `ImageFolder`. Hidden files and folders (including `._*`) are skipped. Everything else that is not read is counted in
the log: files of other types, folders without images, images next to the class folders, and folders next to `train` and `test`.
A class folder may be a symbolic link; links to folders inside it are not followed.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from retrieval.data.image_set import ImageSet, natural_key, require_portable
from retrieval.data.own_splits import NAMES, check_names
from retrieval.errors import DatasetError

log = logging.getLogger("retrieval")

SUFFIXES = frozenset({".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})

# Folders that only a root with splits of its own has. One that is called `valid` alone is a class.
_MARKS = {"train", "test", "query", "gallery"}


def read(root: str | Path) -> ImageSet | dict[str, ImageSet]:
    """Reads the images of a folder.

    Args:
        root: The folder with the class folders, or with `train` and other splits.

    Returns:
        All images as one set; or, if the folder brings splits, a set for each: "train", "validation", "test", "query", "gallery".

    Raises:
        DatasetError: There are no images, or the splits do not go together.
    """
    root = Path(root)
    folders, files = _list(root)
    if not _MARKS & set(folders) or _is_class(root, folders):
        return _read_classes(root, "")
    try:
        found = check_names(folders, str(root))
    except DatasetError as error:
        raise DatasetError(f"{error}; or put all class folders directly below root to have them divided") from error
    beside = ", ".join(found)
    _log_left_out(root, [name for name in folders if name not in NAMES], f"folders next to {beside}")
    _log_left_out(root, files, f"files next to {beside}")
    return {split: _read_classes(root, f"{name}/") for name, split in found.items()}


def _is_class(root: Path, folders: list[str]) -> bool:
    """Whether the only folder with the name of a split is a class: its images are not in class folders."""
    named = [name for name in folders if name in NAMES]
    return len(named) == 1 and len(folders) > 1 and any(map(_is_image, _list(root / named[0])[1]))


def _list(folder: Path) -> tuple[list[str], list[str]]:
    """The names of the folders and of the files in a folder in natural order, without hidden ones."""
    try:
        entries = sorted(
            (entry for entry in os.scandir(folder) if not entry.name.startswith(".")),
            key=lambda entry: natural_key(entry.name),
        )
        are_folders = [entry.is_dir() for entry in entries]
    except OSError as error:
        raise DatasetError(
            f"{folder}: cannot be read ({error.strerror}); expected one folder of images per class"
        ) from error
    folders = [entry.name for entry, is_folder in zip(entries, are_folders, strict=True) if is_folder]
    return folders, [entry.name for entry, is_folder in zip(entries, are_folders, strict=True) if not is_folder]


def _read_classes(root: Path, below: str) -> ImageSet:
    """The classes in the folder `below` ("" or "name/") of `root`; paths are relative to `root`."""
    folder = root / below
    names, files = _list(folder)
    try:
        found = {name: sorted(_walk(folder / name)) for name in names}
    except OSError as error:
        raise DatasetError(f"{error.filename}: cannot be read ({error.strerror})") from error
    pairs = [(f"{below}{name}/{path}", name) for name, paths in found.items() for path in paths if _is_image(path)]
    if not pairs:
        raise DatasetError(
            f"{folder}: no images in class folders; expected <class>/<image>{{{','.join(sorted(SUFFIXES))}}}"
        )
    for path, _ in pairs:
        require_portable(root, path)
    _log_left_out(folder, [name for name in files if _is_image(name)], "images next to the class folders")
    _log_left_out(folder, [name for name in names if not any(map(_is_image, found[name]))], "folders without images")
    others = Counter(Path(path).suffix.lower() or "without a suffix" for paths in found.values() for path in paths)
    types = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common() if suffix not in SUFFIXES)
    if types:
        log.info("%s: files of other types are left out: %s", folder, types)
    return ImageSet.from_pairs(root, pairs)


def _walk(folder: Path) -> Iterator[str]:
    """The paths of the files at any depth below a folder, relative to it, without hidden ones."""

    def fail(error: OSError) -> None:
        raise error

    for current, folders, files in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if not name.startswith("."):
                yield (Path(current) / name).relative_to(folder).as_posix()


def _is_image(path: str) -> bool:
    return Path(path).suffix.lower() in SUFFIXES


def _log_left_out(folder: Path, names: list[str], what: str) -> None:
    if names:
        log.info("%s: %s: %d left out, the first is %s", folder, what, len(names), names[0])
