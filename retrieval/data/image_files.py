"""Images on disk that are not part of a named data set: a folder, a list of files, or a CSV list."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from retrieval.data.csv_list import read_list
from retrieval.data.entry import image_sets
from retrieval.data.folder import SUFFIXES
from retrieval.data.image_set import ImageSet, require_portable, require_utf_8
from retrieval.errors import ConfigError, DatasetError

log = logging.getLogger("retrieval")


def images_in(folder: str | Path) -> ImageSet:
    """Finds all images below a folder, at any depth, in the order of their paths.

    Hidden files and the contents of hidden folders are skipped. The class of an image is given by `folder_class`.

    Raises:
        DatasetError: The folder does not exist or contains no image.
    """
    root = Path(folder)
    if not root.is_dir():
        raise DatasetError(f"{root}: is no folder; give the folder with the images")
    paths = sorted(_image_paths(root))
    if not paths:
        raise DatasetError(f"{root}: contains no images; expected files *{{{','.join(sorted(SUFFIXES))}}}")
    for path in paths:
        require_portable(root, path)
    return ImageSet.from_pairs(root, [(path, folder_class(path)) for path in paths])


def image_files(paths: Iterable[str | Path]) -> list[Path]:
    """Replaces each folder among the paths by the images in it; see `images_in`. Files are kept as they are.

    Raises:
        DatasetError: A file or folder does not exist, a folder contains no image, or a name is not UTF-8.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        if not path.exists():
            raise DatasetError(f"{path}: does not exist; give an image, or a folder of images")
        files += [path / name for name in images_in(path).paths] if path.is_dir() else [path]
    for file in files:
        require_utf_8(file)
    return files


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
    entries = [entry for part in read_list(file).values() for entry in part]
    advice = "correct the list, or give the folder that its paths are relative to with --root"
    return image_sets(Path(root) if root else file.parent, {"listed": entries}, advice=advice)["listed"]


def folder_class(path: str) -> str:
    """The class of an image from its relative path: the first folder, or "." if there is none."""
    return path.partition("/")[0] if "/" in path else "."


def _classes_in(place: Path) -> dict[Path, str]:
    """The class of each image that a file or folder gives, by the absolute path of the image."""
    files = image_files([place])
    top = Path(os.path.abspath(place))  # not resolved: a link keeps its name  # noqa: PTH100
    if not place.is_dir():
        return {top: top.parent.name}
    paths = [file.relative_to(place).as_posix() for file in files]
    direct = sum("/" not in path for path in paths)
    if 0 < direct < len(paths):
        log.info("%s: %d images are beside its folders; their class is %r", place, direct, top.name)
    return {top / path: folder_class(path) if "/" in path else top.name for path in paths}


def _image_paths(root: Path) -> Iterator[str]:
    for path in root.rglob("*"):
        parts = path.relative_to(root).parts
        if path.suffix.lower() in SUFFIXES and not any(part.startswith(".") for part in parts) and path.is_file():
            yield "/".join(parts)
