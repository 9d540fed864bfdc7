"""The images of one split: where they lie and which class each belongs to.

Every reader of this package returns `ImageSet`s; samplers and loaders know nothing of data sets beyond them.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from retrieval.errors import DatasetError


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images and their classes, in a fixed order; an image's position is its id.

    Args:
        root: the folder that `paths` start from.
        paths: one per image, relative to `root`, "/" between the parts, none twice.
        labels: (len(paths),) whole numbers 0 .. num_classes - 1, every class present; kept as a read-only int64 copy.
        class_names: one per class, none twice; `class_names[label]` is the name of a label.
        super_labels: (len(paths),) whole numbers, the super-class of each image's class, the same for all images of a class;
            kept as a read-only int64 copy. None where the data set has no super-classes.

    Raises:
        ValueError: the parts do not fit together, there is no image, or a path does not stay below `root`.
    """

    root: Path
    paths: tuple[str, ...]
    labels: np.ndarray
    class_names: tuple[str, ...]
    super_labels: np.ndarray | None = None

    def __post_init__(self) -> None:
        if not self.paths:
            raise ValueError("an image set without images; give at least one path")
        labels = _whole_numbers("labels", self.labels, len(self.paths))
        classes, first = np.unique(labels, return_index=True)
        if not np.array_equal(classes, np.arange(len(self.class_names))):
            raise ValueError(f"labels must be 0 .. {len(self.class_names) - 1}, every one present (one per class name)")
        for name, values in (("paths", self.paths), ("class_names", self.class_names)):
            if len(set(values)) < len(values):
                raise ValueError(f"{name} holds {first_repeated(values)!r} twice; give each once")
        for path in self.paths:
            if not stays_below_root(path):
                raise ValueError(
                    f"path {path!r} does not stay below the root; give it relative, with '/', without '..'"
                )
        super_labels = self.super_labels
        if super_labels is not None:
            super_labels = _whole_numbers("super_labels", super_labels, len(self.paths))
            if not np.array_equal(super_labels, super_labels[first][labels]):
                raise ValueError("super_labels differ within a class; give all images of a class the same")
        for name, value in (
            ("root", Path(self.root)),
            ("paths", tuple(self.paths)),
            ("labels", labels),
            ("class_names", tuple(self.class_names)),
            ("super_labels", super_labels),
        ):
            object.__setattr__(self, name, value)

    @classmethod
    def from_pairs(
        cls, root: str | Path, pairs: Iterable[tuple[str, str]], super_labels: np.ndarray | None = None
    ) -> ImageSet:
        """The set of (path, class name) pairs: images in the order given, classes in natural order of their names.

        Natural order counts "character9" before "character10", so that labels do not depend on the order of a listing.
        """
        pairs = list(pairs)
        class_names = sorted({name for _, name in pairs}, key=natural_key)
        label_of = {name: label for label, name in enumerate(class_names)}
        labels = np.array([label_of[name] for _, name in pairs], dtype=np.int64)
        return cls(Path(root), tuple(path for path, _ in pairs), labels, tuple(class_names), super_labels)

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def num_classes(self) -> int:
        """The number of classes; each has at least one image."""
        return len(self.class_names)

    def class_sizes(self) -> np.ndarray:
        """The number of images of each class: (num_classes,) int64."""
        return np.bincount(self.labels, minlength=self.num_classes)

    def select(self, indices: Sequence[int] | np.ndarray) -> ImageSet:
        """The images at these positions, in this order; classes left without an image are dropped.

        The classes that stay keep their order and are numbered anew from 0; super-classes keep their numbers.

        Args:
            indices: positions 0 .. len - 1, none twice, at least one.
        """
        indices = np.asarray(indices)
        if indices.ndim != 1 or indices.dtype.kind not in "iu" or not len(indices):
            raise ValueError(f"indices are {indices.dtype} {indices.shape}; give a list of at least one whole number")
        if indices.min() < 0 or indices.max() >= len(self):
            raise ValueError(
                f"indices reach from {indices.min()} to {indices.max()}; keep them in 0 .. {len(self) - 1}"
            )
        kept, labels = np.unique(self.labels[indices], return_inverse=True)
        return ImageSet(
            self.root,
            tuple(self.paths[index] for index in indices),
            labels,
            tuple(self.class_names[label] for label in kept),
            None if self.super_labels is None else self.super_labels[indices],
        )

    def fingerprint(self) -> str:
        """A sha256 (64 hex digits) of paths, labels, class names and super-labels: equal for the same list under any root."""
        content: list[object] = [self.paths, self.labels.tolist(), self.class_names]
        if self.super_labels is not None:
            content.append(self.super_labels.tolist())
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def require_pairs(images: ImageSet, split_name: str) -> None:
    """Checks that every class has the two images without which it cannot form a pair.

    Raises:
        DatasetError: names the first lone class, its folder and how many more there are.
    """
    lone = np.flatnonzero(images.class_sizes() < 2)
    if len(lone):
        path = images.paths[int(np.flatnonzero(images.labels == lone[0])[0])]
        more = f" (and {len(lone) - 1} more classes)" if len(lone) > 1 else ""
        raise DatasetError(
            f"{(images.root / path).parent}: class {images.class_names[lone[0]]!r}{more} of the {split_name} set has a "
            "single image; training compares images of one class, so add a second image or remove the class"
        )


def _whole_numbers(name: str, values: np.ndarray, length: int) -> np.ndarray:
    """A read-only copy (length,) int64."""
    numbers = np.array(values)
    if numbers.shape != (length,) or numbers.dtype.kind not in "iu":
        raise ValueError(f"{name} are {numbers.dtype} {numbers.shape}; give one whole number per path ({length},)")
    numbers = numbers.astype(np.int64)
    numbers.setflags(write=False)
    return numbers


def stays_below_root(path: str) -> bool:
    """Whether a relative path with "/" cannot leave the folder it is joined to, on any platform."""
    if not path or path.startswith("/") or "\\" in path or "\0" in path or re.match("[A-Za-z]:", path):
        return False
    return ".." not in path.split("/")


def require_portable(root: Path, path: str) -> None:
    """Checks that a path below a root, as a file system has it, can stand in a list and is the same on every system.

    Raises:
        DatasetError: it is not.
    """
    require_utf_8(root / path, path)
    if not stays_below_root(path):
        raise DatasetError(f"{root / path}: a name with '\\' does not work on every system; rename the file")


def require_utf_8(file: Path, part: str | None = None) -> None:
    """Checks that the name of a file, or a part of it, is text.

    Raises:
        DatasetError: it is not.
    """
    try:
        (str(file) if part is None else part).encode()
    except UnicodeEncodeError as error:
        name = os.fsencode(file).decode(errors="backslashreplace")
        raise DatasetError(f"{name}: its name is no UTF-8, which lists are written in; rename it") from error


def natural_key(name: str) -> tuple[list[tuple[int, str]], str]:
    """A sort key under which the numbers inside names count as numbers."""
    parts = re.split(r"([0-9]+)", name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts], name


def first_repeated(values: Iterable[str]) -> str | None:
    """The first value that has occurred before; None where all differ."""
    seen: set[str] = set()
    return next((value for value in values if value in seen or seen.add(value)), None)  # type: ignore[func-returns-value]
