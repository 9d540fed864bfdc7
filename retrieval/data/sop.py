"""Stanford Online Products: 120,053 photographs of 22,634 things for sale, of 12 kinds (Oh Song et al., CVPR 2016).

    root/[Stanford_Online_Products/]Ebay_train.txt     11,318 classes, 59,551 images
    root/[Stanford_Online_Products/]Ebay_test.txt      11,316 classes, 60,502 images
    root/[Stanford_Online_Products/]bicycle_final/111085122871_0.JPG, and 11 more folders

A list begins with the line "image_id class_id super_class_id path"; the lines after it hold these four, paths from the folder
that holds the list. A class is one thing, many have two images; its super-class is its kind.
"""

from __future__ import annotations

from pathlib import Path

from retrieval.data.entry import Entry, image_sets
from retrieval.data.image_set import ImageSet
from retrieval.data.list_file import image_path, read_lines, refuse_repeated, shorten, split_line, whole_number
from retrieval.errors import DatasetError

COLUMNS = ("image_id", "class_id", "super_class_id", "path")
PUBLISHED = {"train": (59_551, 11_318), "test": (60_502, 11_316)}


def read(root: str | Path, *, check_counts: bool = True, check_images: bool = True) -> dict[str, ImageSet]:
    """The "train" and "test" images, in the order of the lists; a class is named by its id.

    Args:
        root: the folder `Stanford_Online_Products` or the one that holds it.
        check_counts: whether the lists must have the published numbers of images and classes.
        check_images: whether the images must exist; their lists must in any case.

    Raises:
        DatasetError: a list is missing or malformed (with file and line), a class is in both, a listed image is missing, or
            the numbers are not those published.
    """
    root = Path(root)
    folder = root / "Stanford_Online_Products" if (root / "Stanford_Online_Products").is_dir() else root
    return image_sets(
        folder,
        {split: read_list(folder / f"Ebay_{split}.txt") for split in PUBLISHED},
        published=PUBLISHED if check_counts else None,
        check_images=check_images,
        advice="unpack the official archive again, or with lists of your own set check_counts to false",
    )


def read_list(path: Path) -> list[Entry]:
    """The entries of one list.

    Raises:
        DatasetError: it is missing or malformed (with file and line).
    """
    first, *lines = read_lines(path, remedy="root must be the unpacked Stanford_Online_Products or the folder above it")
    if first.text.split() != list(COLUMNS):
        raise DatasetError(
            f"{first.where}: {shorten(first.text)} is not {' '.join(COLUMNS)!r}, with which a list begins; "
            "unpack the official archive again"
        )
    entries = []
    image_ids: set[object] = set()
    for line in lines:
        values = split_line(line, COLUMNS)
        image, label, super_class = (
            whole_number(line.where, value, name) for value, name in zip(values[:3], COLUMNS, strict=False)
        )
        refuse_repeated(line.where, image, image_ids, COLUMNS[0])
        entries.append(Entry(line.where, image_path(line.where, values[3]), str(label), str(super_class)))
    return entries
