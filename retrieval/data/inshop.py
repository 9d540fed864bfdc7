"""In-Shop Clothes Retrieval of DeepFashion: 52,712 photographs of 7,982 articles (Liu et al., CVPR 2016).

    root/[Eval/]list_eval_partition.txt               the number of images; a line of column names;
                                                      "<path> <item id> <train | query | gallery>"
    root/[Img/]img/WOMEN/Dresses/id_00000002/02_1_front.jpg
    root/[Img/]img/img/WOMEN/ ...                     as some copies are packed

    train       3,997 classes, 25,882 images
    query       3,985 classes, 14,218 images
    gallery     3,985 classes, 12,612 images, of the same articles as the queries

A class is an article. Its super-class is the category ("WOMEN/Dresses") of its first image, since about one article in a hundred
is listed in two categories. Some classes have a single image. The 12 of them in training form no pair.
"""

from __future__ import annotations

from pathlib import Path

from retrieval.data.entry import Entry, image_sets
from retrieval.data.image_set import ImageSet
from retrieval.data.layout import find, looked_in
from retrieval.data.list_file import image_path, parse_integer, read_lines, shorten, split_line
from retrieval.errors import DatasetError

LIST_PLACES = ("Eval/", "", "Eval/Eval/")
IMAGE_PLACES = ("Img/img/", "Img/Img/", "Img/", "img/", "")  # of the folder img; a doubled one first
LIST = "list_eval_partition.txt"
COLUMNS = ("image_name", "item_id", "evaluation_status")
PUBLISHED = {"train": (25_882, 3_997), "query": (14_218, 3_985), "gallery": (12_612, 3_985)}


def read(root: str | Path, *, check_counts: bool = True, check_images: bool = True) -> dict[str, ImageSet]:
    """Reads the "train", "query" and "gallery" images. A label means the same article in "query" and in "gallery".

    Args:
        root: The folder with `Eval/` and `Img/`, or with `list_eval_partition.txt` and `img/`.
        check_counts: Whether the list must have the published numbers of images and classes.
        check_images: Whether all listed images must exist. The list must always exist.

    Raises:
        DatasetError: The list is missing or malformed (with file and line), an article is both in "train" and in another split,
            an article is only in "query" or only in "gallery", a listed image is missing, or the numbers are not the
            published ones.
    """
    root = Path(root)
    place = find(root, LIST_PLACES, LIST)
    if place is None:
        raise DatasetError(
            f"{root}: {LIST} is missing ({looked_in(root, LIST_PLACES)}); root must be the folder with Eval/ and Img/"
        )
    return image_sets(
        root,
        read_list(root / place / LIST, below=find(root, IMAGE_PLACES, "img") or ""),
        published=PUBLISHED if check_counts else None,
        check_images=check_images,
        advice=f"{looked_in(root, IMAGE_PLACES)} for the folder img; unpack the official archives again, or with a list of your "
        "own set check_counts to false",
    )


def read_list(path: Path, *, below: str = "") -> dict[str, list[Entry]]:
    """Reads the entries of every split.

    Args:
        path: The list.
        below: The folder that the paths of the list are relative to, ending in "/", or "".

    Raises:
        DatasetError: The list is missing or malformed (with file and line).
    """
    count, *lines = read_lines(path, remedy="root must be the folder that contains it, directly or in Eval/")
    expected = parse_integer(count.where, count.text, "the number of images")
    if not lines or tuple(lines[0].text.split()) != COLUMNS:
        where, text = lines[0] if lines else count
        raise DatasetError(
            f"{where}: {shorten(text)} is not {' '.join(COLUMNS)!r}, the column names in line 2; correct the list"
        )
    splits: dict[str, list[Entry]] = {split: [] for split in PUBLISHED}
    categories: dict[str, str] = {}
    for line in lines[1:]:
        name, item, split = split_line(line, COLUMNS)
        if split not in splits:
            raise DatasetError(f"{line.where}: {shorten(split)} is none of {', '.join(splits)}; correct the line")
        image = image_path(line.where, name)
        category = categories.setdefault(item, "/".join(image.split("/")[1:-2]))
        splits[split].append(Entry(line.where, below + image, item, category))
    if len(lines) - 1 != expected:
        raise DatasetError(
            f"{count.where}: states {expected} images, {len(lines) - 1} are listed; get a complete copy of the list"
        )
    return splits
