"""In-Shop Clothes Retrieval of DeepFashion: 52,712 photographs of 7,982 articles (Liu et al., CVPR 2016).

    root/[Eval/]list_eval_partition.txt               the number of images; a line of headings;
                                                      "<path> <item id> <train | query | gallery>"
    root/[Img/]img/WOMEN/Dresses/id_00000002/02_1_front.jpg

    train       3,997 classes, 25,882 images
    query       3,985 classes, 14,218 images
    gallery     3,985 classes, 12,612 images, of the same articles as the queries

A class is an article; its super-class is the category ("WOMEN/Dresses") of the first of its images, since about one article in
a hundred is filed under two. Some classes have a single image, 12 of them in training, where they cannot form a pair.
"""

from __future__ import annotations

from pathlib import Path

from retrieval.data.entry import Entry, image_sets
from retrieval.data.image_set import ImageSet
from retrieval.data.list_file import image_path, read_lines, shorten, split_line, whole_number
from retrieval.errors import DatasetError

LIST = "list_eval_partition.txt"
COLUMNS = ("image_name", "item_id", "evaluation_status")
PUBLISHED = {"train": (25_882, 3_997), "query": (14_218, 3_985), "gallery": (12_612, 3_985)}


def read(root: str | Path, *, check_counts: bool = True, check_images: bool = True) -> dict[str, ImageSet]:
    """The "train", "query" and "gallery" images; a label means the same article in "query" and in "gallery".

    Args:
        root: the folder that holds `Eval/` and `Img/`, or `list_eval_partition.txt` and `img/`.
        check_counts: whether the list must have the published numbers of images and classes.
        check_images: whether the images must exist; their list must in any case.

    Raises:
        DatasetError: the list is missing or malformed (with file and line), an article is both in training and in the test, a
            query has no article in the gallery, a listed image is missing, or the numbers are not those published.
    """
    root = Path(root)
    path = next((path for path in (root / "Eval" / LIST, root / LIST) if path.is_file()), root / LIST)
    below = "Img/" if (root / "Img" / "img").is_dir() else ""
    return image_sets(
        root,
        read_list(path, below=below),
        published=PUBLISHED if check_counts else None,
        check_images=check_images,
        advice="unpack the official archives again, or with a list of your own set check_counts to false",
    )


def read_list(path: Path, *, below: str = "") -> dict[str, list[Entry]]:
    """The entries of every split.

    Args:
        path: the list.
        below: the folder, with "/" after it, in which the paths of the list begin.

    Raises:
        DatasetError: it is missing or malformed (with file and line).
    """
    count, *lines = read_lines(path, remedy="root must be the folder that holds it, or has it in Eval/")
    expected = whole_number(count.where, count.text, "the number of images")
    if not lines or tuple(lines[0].text.split()) != COLUMNS:
        where, text = lines[0] if lines else count
        raise DatasetError(
            f"{where}: {shorten(text)} is not {' '.join(COLUMNS)!r}, the headings of line 2; mend the list"
        )
    splits: dict[str, list[Entry]] = {split: [] for split in PUBLISHED}
    categories: dict[str, str] = {}
    for line in lines[1:]:
        name, item, split = split_line(line, COLUMNS)
        if split not in splits:
            raise DatasetError(f"{line.where}: {shorten(split)} is none of {', '.join(splits)}; mend the line")
        image = image_path(line.where, name)
        category = categories.setdefault(item, "/".join(image.split("/")[1:-2]))
        splits[split].append(Entry(line.where, below + image, item, category))
    if len(lines) - 1 != expected:
        raise DatasetError(
            f"{count.where}: {expected} images are announced, {len(lines) - 1} are listed; is the list whole?"
        )
    return splits
