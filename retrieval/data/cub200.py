"""CUB-200-2011: 11,788 photographs of 200 bird species (Wah et al., CNS-TR-2011-001).

    root/[CUB_200_2011/]images.txt                "<image id> <path below images/>"
    root/[CUB_200_2011/]image_class_labels.txt    "<image id> <class id>"
    root/[CUB_200_2011/]classes.txt               "<class id> <class name>"
    root/[CUB_200_2011/]images/[images/]

The folder may be doubled, as in some copies: root/CUB_200_2011/CUB_200_2011/.

Retrieval trains on the classes 1-100 and tests on 101-200 (Oh Song et al., CVPR 2016). The archive's own
`train_test_split.txt` divides the images of every class, which is another task. It is never read.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from retrieval.data.class_range import check_ranges, divide
from retrieval.data.entry import Entry, image_sets
from retrieval.data.image_set import ImageSet
from retrieval.data.layout import find, find_folder
from retrieval.data.list_file import image_path, parse_integer, read_lines, refuse_repeated, shorten, split_line
from retrieval.errors import DatasetError

TRAIN_CLASSES, TEST_CLASSES = (1, 100), (101, 200)
PUBLISHED = {("train", TRAIN_CLASSES): (5_864, 100), ("test", TEST_CLASSES): (5_924, 100)}


def read(
    root: str | Path,
    *,
    train_classes: Sequence[int] = TRAIN_CLASSES,
    test_classes: Sequence[int] = TEST_CLASSES,
    check_images: bool = True,
) -> dict[str, ImageSet]:
    """Reads the "train" and "test" images of the given classes, in the order of `images.txt`.

    Args:
        root: The folder `CUB_200_2011`, which may be doubled, or its parent folder.
        train_classes: The first and the last class id of the training classes, both included.
        test_classes: The first and the last class id of the test classes; must not overlap with `train_classes`.
        check_images: Whether all listed images must exist. The lists must always exist.

    Raises:
        ValueError: A range is not two class ids in order, or the ranges overlap.
        DatasetError: A list is missing or malformed (with file and line), a listed image is missing, or the default
            classes do not have the published number of images (5,864 and 5,924).
    """
    ranges = check_ranges(train_classes, test_classes)
    folder = find_folder(Path(root), "CUB_200_2011", "classes.txt")
    names = {key: text for _, key, text in _read_pairs(folder / "classes.txt", "class")}
    entries = _read_entries(folder, names)
    return image_sets(
        folder,
        divide(folder, ranges, entries, max(names)),
        published={split: PUBLISHED[split, limits] for split, limits in ranges.items() if (split, limits) in PUBLISHED},
        check_images=check_images,
        advice="looked in images/ and images/images/; unpack the official archive again, or choose other train_classes and "
        "test_classes",
    )


def _read_pairs(path: Path, name: str) -> list[tuple[str, int, str]]:
    """The lines "<id> <text>" of a list as (position, id, text); refuses repeated ids and texts."""
    pairs = []
    ids: set[object] = set()
    texts: set[object] = set()
    for line in read_lines(path, remedy="root must be the unpacked CUB_200_2011 or the folder above it"):
        key, text = split_line(line, (f"{name} id", name))
        number = parse_integer(line.where, key, f"{name} id")
        refuse_repeated(line.where, number, ids, f"{name} id")
        refuse_repeated(line.where, text, texts, name)
        pairs.append((line.where, number, text))
    return pairs


def _read_entries(folder: Path, names: dict[int, str]) -> list[tuple[int, Entry]]:
    """All images with their class ids, in the order of `images.txt`."""
    images = _read_pairs(folder / "images.txt", "image")
    labels = folder / "image_class_labels.txt"
    class_ids: dict[int, int] = {}
    seen: set[object] = set()
    known = {key for _, key, _ in images}
    for line in read_lines(labels, remedy="unpack the official archive again"):
        image, text = split_line(line, ("image id", "class id"))
        key = parse_integer(line.where, image, "image id")
        refuse_repeated(line.where, key, seen, "image id")
        class_id = parse_integer(line.where, text, "class id")
        if class_id not in names:
            raise DatasetError(f"{line.where}: {class_id} is not a class id of classes.txt; correct one of the lists")
        if key not in known:
            raise DatasetError(f"{line.where}: image id {key} is not in images.txt; correct one of the lists")
        class_ids[key] = class_id
    for where, key, text in images:
        if key not in class_ids:
            raise DatasetError(f"{where}: image {shorten(text)} has no line in {labels.name}; correct one of the lists")
    below = find(labels.parent, ("images/",), "images") or ""
    return [
        (class_ids[key], Entry(where, f"{below}images/{image_path(where, text)}", names[class_ids[key]]))
        for where, key, text in images
    ]
