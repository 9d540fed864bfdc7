"""What the splits that own images bring are used for."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

import numpy as np

from retrieval.data.image_set import ImageSet
from retrieval.errors import DatasetError, plural

log = logging.getLogger("retrieval")

# The names of a split in folders, lists and dicts, and the name that it has in a run.
NAMES = {
    "train": "train",
    **dict.fromkeys(("validation", "valid", "val"), "validation"),
    "test": "test",
    "query": "query",
    "gallery": "gallery",
}
EXPECTED = "train and test, or train, query and gallery, each with or without validation"


def split_of(name: str) -> str | None:
    """The name in a run of a split that is called `name`, in whatever case; None for another name."""
    return NAMES.get(name.lower())


def check_names(names: Iterable[str], origin: str) -> dict[str, str]:
    """Checks which splits are given.

    Args:
        names: Names of `NAMES`, in any case.
        origin: The folder, list or data set, for messages.

    Returns:
        The name in a run of every given split, in the order of `NAMES`.

    Raises:
        DatasetError: These splits do not go together.
    """
    found = {name: NAMES[name.lower()] for name in sorted(names, key=lambda name: list(NAMES).index(name.lower()))}
    kinds = list(found.values())
    for kind in kinds:
        if len(alike := [name for name in found if found[name] == kind]) > 1:
            raise DatasetError(f"{origin}: has {' and '.join(alike)}; the {kind} images need one name: merge them")
    tested = set(kinds) - {"train", "validation"}
    if "train" not in kinds or tested not in ({"test"}, {"query", "gallery"}, set()) or kinds == ["train"]:
        raise DatasetError(f"{origin}: its splits are {', '.join(found)}; expected {EXPECTED}")
    return found


def arrange(splits: Mapping[str, ImageSet], origin: str) -> dict[str, ImageSet]:
    """Decides from the classes how the test images are searched, and logs it in one line.

    If the test classes are no training classes (an open set), the test images are searched among themselves. If they are training
    classes (a closed set), the test images are queries and the training images are their gallery. Where some of them are, the kind
    with more test images decides: in a closed set, queries without a class in the gallery are left out of the figures; in an open
    set, images of training classes are left out.

    Args:
        splits: "train"; "validation" or not; and "test", or "query" and "gallery", or neither.
        origin: The folder, list or data set, for messages.

    Returns:
        The splits of a run: "train" and "validation", and "test", or "query" and "gallery".

    Raises:
        DatasetError: There are fewer than two training classes, or no query has an image of its class in the gallery.
    """
    if splits["train"].num_classes < 2:
        raise DatasetError(f"{origin}: its train has a single class; training needs two or more: add classes")
    arranged = {name: splits[name] for name in ("train", "validation") if name in splits}
    if "test" in splits:
        tested, line = _arrange_test(splits["train"], splits["test"])
    elif "query" in splits:
        tested, line = _arrange_queries(splits["query"], splits["gallery"], origin)
    else:
        tested, line = {}, "nothing is tested"
    log.info("%s: its own splits %s are used; %s", origin, ", ".join(splits), line)
    return arranged | tested


def _arrange_test(train: ImageSet, test: ImageSet) -> tuple[dict[str, ImageSet], str]:
    known = np.isin(test.class_names, train.class_names)
    images_known = known[test.labels]
    if not known.any():
        return {"test": test}, "no test class is a training class: the test images are searched among themselves"
    if images_known.sum() * 2 >= len(test):
        line = "the test classes are training classes: the test images are queries, the training images their gallery"
        if not known.all():
            line += f"; {_count(test, ~images_known)} of classes that are not in train are left out"
        return {"query": test, "gallery": train}, line
    return {"test": test.select(np.flatnonzero(~images_known))}, (
        "most test classes are no training classes: the test images are searched among themselves; "
        f"{_count(test, images_known)} of training classes are left out"
    )


def _arrange_queries(query: ImageSet, gallery: ImageSet, origin: str) -> tuple[dict[str, ImageSet], str]:
    known = np.isin(query.class_names, gallery.class_names)
    if not known.any():
        raise DatasetError(f"{origin}: no class of query is in gallery; give both the same class names")
    line = "the query images are searched in the gallery"
    if not known.all():
        line += f"; {_count(query, ~known[query.labels])} of classes that are not in gallery are left out"
    return {"query": query, "gallery": gallery}, line


def _count(images: ImageSet, mask: np.ndarray) -> str:
    """The number of images in a mask and of their classes: "12 images of 3 classes"; ready for "of classes that ..."."""
    count = len(np.unique(images.labels[mask]))
    return f"{plural(mask.sum(), 'image')} ({plural(count, 'class', 'classes')})"
