"""Stanford Online Products: 120,053 photographs of 22,634 products in 12 categories (Oh Song et al., CVPR 2016).

    root/[Stanford_Online_Products/]Ebay_train.txt     11,318 classes, 59,551 images
    root/[Stanford_Online_Products/]Ebay_test.txt      11,316 classes, 60,502 images
    root/[Stanford_Online_Products/]bicycle_final/111085122871_0.JPG, and 11 more folders

The first line of a list is "image_id class_id super_class_id path". The other lines have these four values, with paths relative
to the folder of the list. A class is one product, often with two images. Its super-class is its product category.
"""

from __future__ import annotations

from pathlib import Path

from retrieval.data.entry import Entry, image_sets
from retrieval.data.image_set import ImageSet
from retrieval.data.layout import find_folder
from retrieval.data.list_file import image_path, parse_integer, read_lines, refuse_repeated, shorten, split_line
from retrieval.errors import DatasetError

COLUMNS = ("image_id", "class_id", "super_class_id", "path")
PUBLISHED = {"train": (59_551, 11_318), "test": (60_502, 11_316)}


def read(root: str | Path, *, check_counts: bool = True, check_images: bool = True) -> dict[str, ImageSet]:
    """Reads the "train" and "test" images, in the order of the lists. The name of a class is its id.

    Args:
        root: The folder `Stanford_Online_Products`, which may be doubled, or its parent folder.
        check_counts: Whether the lists must have the published numbers of images and classes.
        check_images: Whether all listed images must exist. The lists must always exist.

    Raises:
        DatasetError: A list is missing or malformed (with file and line), a class is in both splits, a listed image is missing,
            or the numbers are not the published ones.
    """
    folder = find_folder(Path(root), "Stanford_Online_Products", "Ebay_train.txt")
    return image_sets(
        folder,
        {split: read_list(folder / f"Ebay_{split}.txt") for split in PUBLISHED},
        published=PUBLISHED if check_counts else None,
        check_images=check_images,
        advice="unpack the official archive again, or with lists of your own set check_counts to false",
    )


def read_list(path: Path) -> list[Entry]:
    """Reads the entries of one list.

    Raises:
        DatasetError: The list is missing or malformed (with file and line).
    """
    first, *lines = read_lines(path, remedy="root must be the unpacked Stanford_Online_Products or the folder above it")
    if first.text.split() != list(COLUMNS):
        raise DatasetError(
            f"{first.where}: {shorten(first.text)} is not {' '.join(COLUMNS)!r}, the first line of a list; "
            "unpack the official archive again"
        )
    entries = []
    image_ids: set[object] = set()
    for line in lines:
        values = split_line(line, COLUMNS)
        image, label, super_class = (
            parse_integer(line.where, value, name) for value, name in zip(values[:3], COLUMNS, strict=False)
        )
        refuse_repeated(line.where, image, image_ids, COLUMNS[0])
        entries.append(Entry(line.where, image_path(line.where, values[3]), str(label), str(super_class)))
    return entries
