"""The images and labels of a user's map-style data set; every problem with an item is one `DatasetError`."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping
from typing import Any

from PIL import Image
from torch.utils.data import IterableDataset

from retrieval.data.images import to_image
from retrieval.errors import DatasetError


def require_map_style(dataset: Any) -> None:
    """Checks that a data set has a length and is indexed by position.

    Raises:
        ValueError: `dataset` is not map-style.
    """
    indexed = hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
    if not indexed or isinstance(dataset, (str, Mapping, IterableDataset)):
        raise ValueError(f"the data set is of type {type(dataset).__name__}; give a map-style Dataset or a sequence")


def read_image(dataset: Any, position: int) -> Image.Image:
    """Reads the image of an item, which is an (image, label) pair or the image alone, as 8-bit RGB.

    Raises:
        DatasetError: The item cannot be read, or `to_image` does not accept its image.
    """
    item = _read_item(dataset, position)
    where = item_name(dataset, position)
    try:
        return to_image(item[0] if isinstance(item, (tuple, list)) and item else item)
    except DatasetError as error:
        raise DatasetError(f"{where}: {error}") from error
    except ValueError as error:
        remedy = "if the data set has a transform to tensors, create it without"
        raise DatasetError(f"{where}: {error}; {remedy}") from error


def read_labels(dataset: Any, labels: Iterable[Any] | None = None) -> list[Hashable]:
    """Returns one label per item: the given ones, else `dataset.targets` or `dataset.labels`, else those of the items.

    Scalars of NumPy and torch become Python numbers.

    Raises:
        ValueError: The number of given labels differs from the length of the data set.
        DatasetError: An item is not an (image, label) pair, or a label is not hashable or NaN.
    """
    found = _listed_labels(dataset) if labels is None else _to_list(labels)
    if found is None:
        found = [_read_label(dataset, position) for position in range(len(dataset))]
    if len(found) != len(dataset):
        raise ValueError(f"{len(found)} labels for {len(dataset)} items; give one per item")
    return [_plain(label, item_name(dataset, position)) for position, label in enumerate(found)]


def item_name(dataset: Any, position: int) -> str:
    """The position of an item and the type of its data set, for messages."""
    return f"item {position} of the data set {type(dataset).__name__}"


def _listed_labels(dataset: Any) -> list[Any] | None:
    """The labels that the data set lists as an attribute, if there is one per item."""
    for name in ("targets", "labels"):
        listed: Any = getattr(dataset, name, None)
        if hasattr(listed, "__len__") and not isinstance(listed, (str, Mapping)) and len(listed) == len(dataset):
            return _to_list(listed)
    return None


def _read_label(dataset: Any, position: int) -> Any:
    item = _read_item(dataset, position)
    if not isinstance(item, (tuple, list)) or len(item) < 2:
        where = item_name(dataset, position)
        raise DatasetError(f"{where}: is of type {type(item).__name__}; expected (image, label), or give the labels")
    return item[1]


def _read_item(dataset: Any, position: int) -> Any:
    try:
        return dataset[position]
    except Exception as error:  # the data set is the user's code, which can raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise DatasetError(f"{item_name(dataset, position)}: cannot be read ({reason})") from error


def _to_list(labels: Any) -> list[Any]:
    return labels.tolist() if hasattr(labels, "tolist") else list(labels)


def _plain(label: Any, where: str) -> Hashable:
    if getattr(label, "ndim", None) == 0:
        label = label.item()
    try:
        hash(label)
    except TypeError:
        hashable = False
    else:
        hashable = not hasattr(label, "ndim")  # the hash of a tensor does not depend on its values
    if not hashable:
        raise DatasetError(f"{where}: its label is of type {type(label).__name__}; give one hashable label per item")
    if isinstance(label, float) and math.isnan(label):  # every NaN would be a class of its own
        raise DatasetError(f"{where}: its label is {label}, a missing value; give it a label, or leave the item out")
    return label
