"""Any images: one folder per class.

    root/<class>/**/*.jpg                                      the classes are divided at random into train and test
    root/train/<class>/**/*.jpg, root/test/<class>/**/*.jpg    the splits are used as they are

A class is a folder directly below the root (or below `train` and `test`). Images at any depth inside it belong to it, as in
torchvision's `ImageFolder`. Hidden files and folders (including `._*`), folders without images, and files next to the class
folders are skipped. A class folder may be a symbolic link; links to folders inside it are not followed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from retrieval.data.class_splits import split_classes
from retrieval.data.entry import CLOSED_SET
from retrieval.data.image_set import ImageSet, natural_key, require_portable
from retrieval.data.list_file import shorten
from retrieval.errors import DatasetError

SUFFIXES = frozenset({".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})


def read(root: str | Path, *, test_share: float = 0.5, seed: int = 0) -> dict[str, ImageSet]:
    """Reads the "train" and "test" images of a folder. No class is in both.

    Args:
        root: The folder with the class folders, or with `train` and `test`.
        test_share: The fraction of the classes in "test"; unused if `train` and `test` exist.
        seed: The seed of that division; unused if `train` and `test` exist.

    Raises:
        DatasetError: There are too few classes, only one of `train` and `test` exists, or a class is in both.
    """
    root = Path(root)
    given = [name for name in ("train", "test") if (root / name).is_dir()]
    if len(given) == 2:
        train, test = (_read_classes(root, f"{name}/") for name in given)
        both = sorted(set(train.class_names) & set(test.class_names), key=natural_key)
        if both:
            raise DatasetError(
                f"{root}: {len(both)} classes are in train/ and in test/, the first is {both[0]!r}; {CLOSED_SET}, or all class "
                "folders directly below root"
            )
        return {"train": train, "test": test}
    if given:
        raise DatasetError(
            f"{root}: has only {given[0]}/; add the other one of train/ and test/, or put the class folders directly "
            "below root to have the classes divided"
        )
    return divide_classes(_read_classes(root, ""), test_share, seed)


def divide_classes(images: ImageSet, test_share: float, seed: int) -> dict[str, ImageSet]:
    """Divides the classes at random into "train" and "test".

    Raises:
        ValueError: `test_share` is not between 0 and 1, or a part would have fewer than two classes.
        DatasetError: There are fewer than four classes.
    """
    if images.num_classes < 4:
        names = ", ".join(shorten(name) for name in images.class_names)
        raise DatasetError(
            f"{images.origin}: has {images.num_classes} classes with images ({names}); train and test need two or more each: "
            "add classes, or choose the folder that contains all of them"
        )
    train, test = split_classes(images, test_share, seed=seed)
    return {"train": train, "test": test}


def _read_classes(root: Path, below: str) -> ImageSet:
    """The classes in the folder `below` ("" or "name/") of `root`; paths are relative to `root`."""
    folder = root / below
    try:
        names = sorted((entry.name for entry in os.scandir(folder) if _is_class(entry)), key=natural_key)
        pairs = [(f"{below}{name}/{path}", name) for name in names for path in sorted(_image_paths(folder / name))]
    except OSError as error:
        raise DatasetError(
            f"{folder}: cannot be read ({error.strerror}); expected one folder of images per class"
        ) from error
    if not pairs:
        raise DatasetError(
            f"{folder}: no images in class folders; expected <class>/<image>{{{','.join(sorted(SUFFIXES))}}}"
        )
    for path, _ in pairs:
        require_portable(root, path)
    return ImageSet.from_pairs(root, pairs)


def _is_class(entry: os.DirEntry[str]) -> bool:
    return not entry.name.startswith(".") and entry.is_dir()


def _image_paths(folder: Path) -> Iterator[str]:
    """The paths of the images at any depth below `folder`, relative to it."""

    def fail(error: OSError) -> None:
        raise error

    for current, folders, files in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES:
                yield (Path(current) / name).relative_to(folder).as_posix()
