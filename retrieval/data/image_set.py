"""The images of one split and the class of each.

Every reader of this package returns `ImageSet`s. Samplers and loaders know nothing else about a data set.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from retrieval.data.dataset_items import item_name, read_image, read_labels, require_map_style
from retrieval.data.images import decoding_of, load_image
from retrieval.data.names import CONTROL, natural_key, warn_missing
from retrieval.errors import DatasetError


@dataclass(frozen=True, eq=False)
class ImageSet(Dataset[tuple[Any, int]]):
    """Images and their classes in a fixed order; the position of an image is its id.

    An `ImageSet` is a map-style `torch.utils.data.Dataset` of (image, label): `images[index]` loads one image, applies the
    transform to it and returns it with its label.

    Args:
        root: The folder that `paths` are relative to.
        paths: One path per image, relative to `root`, with "/" as separator, each at most once.
        labels: (len(paths),) integers from 0 to num_classes - 1, with at least one image per class. Stored as a read-only
            int64 copy.
        class_names: One name per class, each at most once; `class_names[label]` is the name of a label.
        super_labels: (len(paths),) integers, the super-class of the class of each image, equal for all images of a class.
            Stored as a read-only int64 copy. None if the data set has no super-classes.
        transform: Applied to each RGB image by `images[index]`; None returns the PIL image itself.

    Raises:
        ValueError: The arguments do not fit together, there is no image, a path leads out of `root`, or a name has a control
            character, which tables cannot hold.

    Examples:
        >>> import numpy as np
        >>> import retrieval
        >>> images = retrieval.ImageSet.from_dataset(np.zeros((4, 8, 8, 3), dtype=np.uint8), labels=["a", "b", "b", "a"])
        >>> len(images), images.class_names, images[1][1]
        (4, ('a', 'b'), 1)
    """

    root: Path
    paths: tuple[str, ...]
    labels: np.ndarray
    class_names: tuple[str, ...]
    super_labels: np.ndarray | None = None
    transform: Callable[[Image.Image], Any] | None = field(default=None, kw_only=True)
    # The data set of `from_dataset`. Its images have no files, so `paths` holds their positions in it.
    _dataset: Any = field(default=None, kw_only=True, repr=False)

    def __post_init__(self) -> None:
        if not self.paths:
            raise ValueError("an image set without images; give at least one path")
        labels = _integers("labels", self.labels, len(self.paths))
        classes, first = np.unique(labels, return_index=True)
        if not np.array_equal(classes, np.arange(len(self.class_names))):
            raise ValueError(f"labels must be 0 .. {len(self.class_names) - 1}, every one present (one per class name)")
        for name, values in (("paths", self.paths), ("class_names", self.class_names)):
            if len(set(values)) < len(values):
                raise ValueError(f"{name} holds {first_repeated(values)!r} twice; give each once")
            if CONTROL.search("/".join(map(str, values))):
                wrong = next(value for value in values if CONTROL.search(str(value)))
                raise ValueError(f"{name} holds {wrong!r}, which has a control character; rename it")
        for path in self.paths:
            if not stays_below_root(path):
                raise ValueError(
                    f"path {path!r} does not stay below the root; give it relative, with '/', without '..'"
                )
        super_labels = self.super_labels
        if super_labels is not None:
            super_labels = _integers("super_labels", super_labels, len(self.paths))
            if not np.array_equal(super_labels, super_labels[first][labels]):
                raise ValueError("super_labels differ within a class; give all images of a class the same one")
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
        """Makes a set from (path, class name) pairs, with the images in the given order.

        Classes are numbered in natural order of their names: "character9" comes before "character10". Labels therefore do
        not depend on the order of a listing.
        """
        pairs = list(pairs)
        class_names = sorted({name for _, name in pairs}, key=natural_key)
        label_of = {name: label for label, name in enumerate(class_names)}
        labels = np.array([label_of[name] for _, name in pairs], dtype=np.int64)
        return cls(Path(root), tuple(path for path, _ in pairs), labels, tuple(class_names), super_labels)

    @classmethod
    def from_dataset(
        cls, dataset: Any, *, labels: Iterable[Any] | None = None, class_names: Sequence[str] | None = None
    ) -> ImageSet:
        """Makes a set from any map-style data set of (image, label) items, such as those of torchvision.

        An image is anything that `to_image` accepts. Images are read when they are needed. The labels are `labels`, else
        `dataset.targets` or `dataset.labels` (without a `target_transform`), else those of the items, which are read once.

        Args:
            dataset: A map-style `torch.utils.data.Dataset`, or a sequence. Without a transform that makes float tensors.
            labels: One label per item, of any hashable type. With them, an item may also be the image alone.
            class_names: The names of the labels 0, 1, ...; by default `str(label)`.

        Returns:
            A set with the made-up paths "000000", "000001", ... and the root ".". Classes are numbered in the order of their
            labels if all labels are integers, otherwise in natural order of their names. It can be sent to data-loader
            workers if `dataset` can.

        Raises:
            ValueError: `dataset` is not map-style, the number of labels differs from its length, or a label has no class name.
            DatasetError: An item cannot be read, or is not an (image, label) pair with a hashable label.

        Examples:
            >>> pixels = np.zeros((3, 8, 8, 3), dtype=np.uint8)
            >>> images = ImageSet.from_dataset(pixels, labels=["cat", "dog", "cat"])
            >>> images.class_names, images.labels.tolist()
            (('cat', 'dog'), [0, 1, 0])
        """
        require_map_style(dataset)
        found = read_labels(dataset, labels)
        different = set(found)
        integers = all(isinstance(label, int) for label in different)
        ordered: list[Any] = sorted(different, key=None if integers else lambda label: natural_key(str(label)))
        names = [str(label) for label in ordered]
        if class_names is not None:
            for label in ordered:
                if not isinstance(label, int) or not 0 <= label < len(class_names):
                    raise ValueError(f"label {label!r} has no class name; {len(class_names)} are given, for 0, 1, ...")
            names = [class_names[label] for label in ordered]
        warn_missing(names, f"the data set {type(dataset).__name__}")
        number_of = {label: number for number, label in enumerate(ordered)}
        numbers = np.array([number_of[label] for label in found], dtype=np.int64)
        paths = tuple(f"{position:06}" for position in range(len(found)))
        return cls(Path(), paths, numbers, tuple(names), _dataset=dataset)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image = self.load(index, **decoding_of(self.transform))
        return image if self.transform is None else self.transform(image), int(self.labels[index])

    def load(self, index: int, *, max_pixels: int | None = None, least_side: int | None = None) -> Image.Image:
        """Loads one image as 8-bit RGB, without the transform.

        Args:
            index: The position of the image.
            max_pixels: Of a file, see `load_image`.
            least_side: Of a file, see `load_image`.

        Raises:
            DatasetError: The image cannot be read; the message names its file or its position.
        """
        path = self.paths[index]
        if self.is_on_disk:
            return load_image(self.root / path, max_pixels=max_pixels, least_side=least_side)
        return read_image(self._dataset, int(path))

    def picture(self, index: int) -> Path | bytes:
        """The file of an image, or a PNG of it if it has no file; for reports.

        Raises:
            DatasetError: The image has no file and cannot be read.
        """
        if self.is_on_disk:
            return self.root / self.paths[index]
        content = io.BytesIO()
        self.load(index).save(content, "PNG")
        return content.getvalue()

    @property
    def is_on_disk(self) -> bool:
        """Whether the images are the files at `paths`. Those of `from_dataset` are not."""
        return self._dataset is None

    @property
    def origin(self) -> str:
        """The folder of the images, or the data set that they come from; for messages."""
        return str(self.root) if self.is_on_disk else f"the data set {type(self._dataset).__name__}"

    def where(self, index: int) -> str:
        """The file of an image, or its position in the data set that it comes from; for messages."""
        path = self.paths[index]
        return str(self.root / path) if self.is_on_disk else item_name(self._dataset, int(path))

    def with_transform(self, transform: Callable[[Image.Image], Any] | None) -> ImageSet:
        """The same images with another transform."""
        return replace(self, transform=transform)

    @property
    def num_classes(self) -> int:
        """The number of classes. Every class has at least one image."""
        return len(self.class_names)

    def class_sizes(self) -> np.ndarray:
        """The number of images of each class: (num_classes,) int64."""
        return np.bincount(self.labels, minlength=self.num_classes)

    def select(self, indices: Sequence[int] | np.ndarray) -> ImageSet:
        """Selects the images at these positions, in this order; classes without an image are dropped.

        The remaining classes keep their order and are renumbered from 0. Super-classes keep their numbers.

        Args:
            indices: At least one position from 0 to len - 1, each at most once.
        """
        indices = np.asarray(indices)
        if indices.ndim != 1 or indices.dtype.kind not in "iu" or not len(indices):
            raise ValueError(f"indices are {indices.dtype} {indices.shape}; give a list of at least one integer")
        if indices.min() < 0 or indices.max() >= len(self):
            raise ValueError(
                f"indices range from {indices.min()} to {indices.max()}; keep them in 0 .. {len(self) - 1}"
            )
        kept, labels = np.unique(self.labels[indices], return_inverse=True)
        return replace(
            self,
            paths=tuple(self.paths[index] for index in indices),
            labels=labels,
            class_names=tuple(self.class_names[label] for label in kept),
            super_labels=None if self.super_labels is None else self.super_labels[indices],
        )

    def fingerprint(self) -> str:
        """A sha256 (64 hex digits) of paths, labels, class names and super-labels; it does not depend on the root."""
        content: list[object] = [self.paths, self.labels.tolist(), self.class_names]
        if self.super_labels is not None:
            content.append(self.super_labels.tolist())
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def require_pairs(images: ImageSet, split_name: str) -> None:
    """Checks that every class has at least two images, which form a pair.

    Raises:
        DatasetError: Names the first class with a single image, its folder and the number of the other ones.
    """
    lone = np.flatnonzero(images.class_sizes() < 2)
    if len(lone):
        index = int(np.flatnonzero(images.labels == lone[0])[0])
        where = (images.root / images.paths[index]).parent if images.is_on_disk else images.where(index)
        more = f" (and {len(lone) - 1} more classes)" if len(lone) > 1 else ""
        raise DatasetError(
            f"{where}: class {images.class_names[lone[0]]!r}{more} of the {split_name} set has a "
            "single image; training compares images of one class, so add a second image or remove the class"
        )


def _integers(name: str, values: np.ndarray, length: int) -> np.ndarray:
    """A read-only copy (length,) int64."""
    numbers = np.array(values)
    if numbers.shape != (length,) or numbers.dtype.kind not in "iu":
        raise ValueError(f"{name} are {numbers.dtype} {numbers.shape}; give one integer per path ({length},)")
    numbers = numbers.astype(np.int64)
    numbers.setflags(write=False)
    return numbers


def stays_below_root(path: str) -> bool:
    """Whether a relative path with "/" cannot lead out of the folder that it is joined to, on any platform."""
    if not path or path.startswith("/") or "\\" in path or "\0" in path or re.match("[A-Za-z]:", path):
        return False
    return ".." not in path.split("/")


def require_portable(root: Path, path: str) -> None:
    """Checks that a path below a root can be written to a list and means the same file on every system.

    Raises:
        DatasetError: The path is not UTF-8, or contains a backslash or a control character.
    """
    require_utf_8(root / path, path)
    if CONTROL.search(path):
        raise DatasetError(
            f"{str(root / path)!r}: a name with a control character, such as a tab or a line break, cannot be stored in a table; "
            "rename the file or folder"
        )
    if not stays_below_root(path):
        raise DatasetError(f"{root / path}: a name with '\\' does not work on every system; rename the file")


def require_utf_8(file: Path, part: str | None = None) -> None:
    """Checks that the name of a file, or a part of it, is UTF-8.

    Raises:
        DatasetError: The name is not UTF-8.
    """
    try:
        (str(file) if part is None else part).encode()
    except UnicodeEncodeError as error:
        name = os.fsencode(file).decode(errors="backslashreplace")
        raise DatasetError(f"{name}: its name is no UTF-8, which lists are written in; rename it") from error


def first_repeated(values: Iterable[str]) -> str | None:
    """The first value that has occurred before; None if all values differ."""
    seen: set[str] = set()
    return next((value for value in values if value in seen or seen.add(value)), None)  # type: ignore[func-returns-value]
