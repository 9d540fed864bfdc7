"""All images of several sets as one set."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch.utils.data import ConcatDataset

from retrieval.data.image_set import ImageSet


def union(parts: Sequence[ImageSet]) -> ImageSet:
    """The images of several sets, each image once, in the order of the sets. Classes of the same name are the same class.

    The paths of files start from the folder that the roots of the sets have in common. The images of one data set without files
    keep their positions in it; those of several are numbered again.

    Args:
        parts: At least one set.

    Raises:
        ValueError: The files of the sets are on several drives.
    """
    first = parts[0]
    if any(part._dataset is not first._dataset for part in parts):
        parts = _without_repeats(parts)
        names = [part.class_names[label] for part in parts for label in part.labels]
        plain = [part.with_transform(None) for part in parts]
        return ImageSet.from_dataset(ConcatDataset(plain), labels=names)
    root = Path(os.path.commonpath([part.root.absolute() for part in parts])) if first.is_on_disk else first.root
    class_of: dict[str, str] = {}
    for part in parts:
        below = part.root.absolute().relative_to(root) if first.is_on_disk else Path()
        for path, label in zip(part.paths, part.labels, strict=True):
            class_of.setdefault((below / path).as_posix(), part.class_names[label])
    images = ImageSet.from_pairs(root, class_of.items())
    return images if first.is_on_disk else replace(images, _dataset=first._dataset)


def _without_repeats(parts: Sequence[ImageSet]) -> list[ImageSet]:
    """The sets without the images that an earlier set has."""
    kept, seen = [], set[tuple[int, str]]()
    for part in parts:
        keys = [(id(part._dataset), path) for path in part.paths]
        new = [position for position, key in enumerate(keys) if key not in seen]
        kept += [part.select(new)] if new else []
        seen.update(keys)
    return kept
