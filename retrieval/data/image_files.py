"""Images on disk that are not part of a named data set: a folder, a list of files, or a CSV list."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from retrieval.data.csv_list import read_list
from retrieval.data.entry import image_sets
from retrieval.data.folder import find
from retrieval.data.image_set import ImageSet, require_portable, require_utf_8
from retrieval.data.names import refuse_alike
from retrieval.data.own_splits import check_names, split_of
from retrieval.data.tree import describe_left_out, log_left_out
from retrieval.errors import ConfigError, DatasetError, plural

log = logging.getLogger("retrieval")


def images_in(folder: str | Path) -> ImageSet:
    """Finds the images of a folder, at any depth, as the data set "folder" does.

    The class of an image is its class folder. Folders of splits (`train`, `test`, ...) are merged. The class of images beside the
    class folders is the given folder; training does not read these.

    Raises:
        DatasetError: The folder does not exist or contains no image, or two classes look alike.
    """
    root = Path(folder)
    if not root.is_dir():
        raise DatasetError(f"{root}: is no folder; give the folder with the images")
    beside = _absolute(root).name or "."
    return ImageSet.from_pairs(root, [(path, name or beside) for path, name in _classes_of(root)])


def image_files(paths: Iterable[str | Path]) -> list[Path]:
    """Replaces each folder among the paths by the images in it; see `images_in`. Files are kept as they are.

    Raises:
        DatasetError: A file or folder does not exist or is a pipe or a device, a folder contains no image, or a name cannot be
            stored.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            files += [path / name for name, _ in _classes_of(path)]
        else:
            _require_file(path)
            files.append(path)
    return files


def file_set(files: Sequence[Path]) -> ImageSet | None:
    """Image files as an image set of a single class, in their order, so that worker processes can read them.

    Returns:
        None if a file is given twice, a name does not work on every system, or the files are on several drives.
    """
    absolute = [_absolute(file) for file in files]
    try:
        root = Path(os.path.commonpath([file.parent for file in absolute]))
        return ImageSet.from_pairs(root, [(file.relative_to(root).as_posix(), "images") for file in absolute])
    except ValueError:
        return None


def given_images(places: Iterable[str | Path]) -> ImageSet:
    """Makes an image set of files and folders. The class of an image is the folder that it was given by.

    That of a file is the folder that it is in. That of an image in a given folder is the subfolder directly below the given one
    ("cats/siamese/1.jpg" given by its folder "cats" is of class "siamese"), or the given folder itself where the image is directly
    in it. An image that is given twice is taken once.

    Raises:
        DatasetError: A file or folder does not exist, a folder contains no image, or a name does not work on every system.
        ConfigError: There is no image, or an image is given twice with two classes.
    """
    class_of: dict[Path, str] = {}
    for place in map(Path, places):
        for file, name in _classes_in(place).items():
            if class_of.setdefault(file, name) != name:
                raise ConfigError(f"{file}: is given twice, as class {class_of[file]!r} and as {name!r}; give it once")
    if not class_of:
        raise ConfigError("there are no images; give folders or image files")
    try:
        root = Path(os.path.commonpath([file.parent for file in class_of]))
    except ValueError:
        raise ConfigError("the images are on several drives; give those of one drive at a time") from None
    pairs = [(file.relative_to(root).as_posix(), name) for file, name in class_of.items()]
    for path, _ in pairs:
        require_portable(root, path)
    refuse_alike(class_of.values(), root)
    return ImageSet.from_pairs(root, pairs)


def listed_images(file: str | Path, root: str | Path | None = None) -> ImageSet:
    """Reads the images of a CSV list with the columns path and label.

    Args:
        file: The list; see `retrieval.data.csv_list`. Its splits are merged.
        root: The folder that the paths are relative to; by default the folder of the list.

    Raises:
        DatasetError: The list is missing or malformed, or an image does not exist.
    """
    file = Path(file)
    folder = Path(root) if root else file.parent
    entries = [entry for part in read_list(file, folder).values() for entry in part]
    advice = "correct the list, or give the folder that its paths are relative to with --root"
    return image_sets(folder, {"listed": entries}, advice=advice)["listed"]


def _classes_in(place: Path) -> dict[Path, str]:
    """The class of each image that a file or folder gives, by the absolute path of the image."""
    top = _absolute(place)
    if not place.is_dir():
        _require_file(place)
        return {top: top.parent.name}
    found = _classes_of(place)
    return {top / path: name or top.name for path, name in found}


def _classes_of(folder: Path) -> list[tuple[str, str | None]]:
    """The relative path and the class of every image in a folder; None for an image beside the class folders."""
    layout = find(folder)
    log_left_out(folder, layout.tree.left_out)
    found = list(layout.pairs())
    if not found:
        left_out = describe_left_out(layout.tree.left_out)
        raise DatasetError(f"{folder}: contains no images; found {'; '.join(left_out) or 'no files'}")
    if "" not in layout.splits:
        if layout.has_others or len({*map(split_of, layout.splits)}) < len(layout.splits):
            check_names(layout.splits, str(folder))  # training refuses these splits, and here images would be lost
        log.info("%s: the images of its splits %s are taken together", folder, ", ".join(layout.splits))
    beside = sum(name is None for _, name in found)
    if 0 < beside < len(found):
        name = _absolute(folder).name
        log.info("%s: %s beside its folders: the class is %r", folder, plural(beside, "image"), name)
    return found


def _absolute(path: Path) -> Path:
    """The absolute path, in which links keep their names."""
    return Path(os.path.abspath(path))  # noqa: PTH100 - Path.resolve follows links


def _require_file(path: Path) -> None:
    """Checks that a path is a regular file whose name can be stored."""
    if not path.exists():
        raise DatasetError(f"{path}: does not exist; give an image, or a folder of images")
    if not path.is_file():
        raise DatasetError(f"{path}: is a pipe, a socket or a device; give an image file, or a folder of images")
    require_utf_8(path)
