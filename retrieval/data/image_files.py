"""Images on disk that are not part of a named data set: a folder, a list of files, or a CSV list."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from retrieval.data.csv_list import read_list
from retrieval.data.entry import image_sets
from retrieval.data.folder import SUFFIXES
from retrieval.data.image_set import ImageSet, require_portable, require_utf_8
from retrieval.errors import ConfigError, DatasetError


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
    return _image_set(root, paths)


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


def images_below(root: str | Path, files: Iterable[str | Path]) -> ImageSet:
    """Makes an image set of files below a root; repeated files are dropped. The class is given by `folder_class`.

    Raises:
        ConfigError: A file is not below the root.
    """
    top = Path(root).resolve()
    paths = []
    for file in map(Path, files):
        resolved = file.resolve()
        if not resolved.is_relative_to(top):
            raise ConfigError(
                f"{file}: does not lie below {root}, where the images of the index are; "
                "copy it there or, if all of them have moved, give their new folder with --root"
            )
        paths.append(resolved.relative_to(top).as_posix())
    return _image_set(top, dict.fromkeys(paths))


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


def _image_set(root: Path, paths: Iterable[str]) -> ImageSet:
    pairs = []
    for path in paths:
        require_portable(root, path)
        pairs.append((path, folder_class(path)))
    return ImageSet.from_pairs(root, pairs)


def _image_paths(root: Path) -> Iterator[str]:
    for path in root.rglob("*"):
        parts = path.relative_to(root).parts
        if path.suffix.lower() in SUFFIXES and not any(part.startswith(".") for part in parts) and path.is_file():
            yield "/".join(parts)
