"""CUB-200-2011: 11,788 photographs of 200 bird species (Wah et al., CNS-TR-2011-001).

    root/[CUB_200_2011/]images.txt                "<image id> <path below images/>"
    root/[CUB_200_2011/]image_class_labels.txt    "<image id> <class id>"
    root/[CUB_200_2011/]classes.txt               "<class id> <class name>"
    root/[CUB_200_2011/]images/

Retrieval trains on the classes 1-100 and tests on 101-200 (Oh Song et al., CVPR 2016). The archive's own
`train_test_split.txt` divides the images of every class; it is another task and never read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from retrieval.data.image_set import ImageSet, stays_below_root
from retrieval.errors import DatasetError

TRAIN_CLASSES, TEST_CLASSES = (1, 100), (101, 200)
PUBLISHED = {("train", TRAIN_CLASSES): 5_864, ("test", TEST_CLASSES): 5_924}


def read(
    root: str | Path, *, train_classes: Sequence[int] = TRAIN_CLASSES, test_classes: Sequence[int] = TEST_CLASSES
) -> dict[str, ImageSet]:
    """The "train" and "test" images of the given classes, in the order of `images.txt`.

    Args:
        root: the folder `CUB_200_2011` or the one that holds it.
        train_classes: the first and the last class id, both included.
        test_classes: likewise; must not overlap with `train_classes`.

    Raises:
        ValueError: a range is not two class ids in order, or the ranges overlap.
        DatasetError: a list is missing or malformed (with file and line), a listed image is missing, or the default
            classes do not have the published number of images (5,864 and 5,924).
    """
    ranges = {"train": _check_range("train_classes", train_classes), "test": _check_range("test_classes", test_classes)}
    if max(ranges["train"][0], ranges["test"][0]) <= min(ranges["train"][1], ranges["test"][1]):
        raise ValueError(f"train_classes {ranges['train']} and test_classes {ranges['test']} overlap; keep them apart")
    root = Path(root)
    folder = root / "CUB_200_2011" if (root / "CUB_200_2011").is_dir() else root
    names = _read_texts(folder / "classes.txt")
    paths = _read_texts(folder / "images.txt")
    class_ids = _read_class_ids(folder / "image_class_labels.txt", names, paths)
    splits = {}
    for split, (first, last) in ranges.items():
        if last not in names:
            raise ValueError(
                f"{split}_classes ends at {last}; {folder / 'classes.txt'} goes to {max(names, default=0)}"
            )
        pairs = [
            (f"images/{paths[image]}", names[label]) for image, label in class_ids.items() if first <= label <= last
        ]
        splits[split] = _check_images(folder, split, (first, last), pairs)
    return splits


def _check_range(name: str, limits: Sequence[int]) -> tuple[int, int]:
    if len(limits) == 2 and all(type(limit) is int for limit in limits) and 1 <= limits[0] <= limits[1]:
        return limits[0], limits[1]
    raise ValueError(f"{name} is {limits!r}; give the first and the last class id, e.g. (1, 100)")


def _read_rows(path: Path) -> Iterator[tuple[str, int, str]]:
    """The rows "<id> <text>" of a list: where it stands (for messages), id, text. No id comes twice."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise DatasetError(
            f"{path}: cannot be read ({error.strerror}); root must be the unpacked CUB_200_2011 or the folder above it"
        ) from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: is not UTF-8 text ({error}); unpack the official archive again") from error
    seen: set[int] = set()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        columns = line.strip().split(maxsplit=1)
        if len(columns) != 2 or not re.fullmatch("[0-9]{1,9}", columns[0]):
            raise DatasetError(f"{where}: {line.strip()!r} is not '<whole number> <value>'; mend the line")
        if int(columns[0]) in seen:
            raise DatasetError(f"{where}: id {columns[0]} is there twice; remove one of its lines")
        seen.add(int(columns[0]))
        yield where, int(columns[0]), columns[1]


def _read_texts(path: Path) -> dict[int, str]:
    """Names of folders or files by id."""
    texts: dict[int, str] = {}
    seen: set[str] = set()
    for where, key, text in _read_rows(path):
        if not stays_below_root(text):
            raise DatasetError(
                f"{where}: {text!r} does not stay below the data folder; unpack the official archive again"
            )
        if text in seen:
            raise DatasetError(f"{where}: {text!r} is there twice; remove one of its lines")
        seen.add(text)
        texts[key] = text
    return texts


def _read_class_ids(path: Path, names: dict[int, str], paths: dict[int, str]) -> dict[int, int]:
    """The class id of every image id, in the order of `paths`."""
    class_ids: dict[int, int] = {}
    for where, image, text in _read_rows(path):
        if not re.fullmatch("[0-9]{1,9}", text) or int(text) not in names:
            raise DatasetError(f"{where}: {text!r} is not a class id of classes.txt; mend one of the lists")
        if image not in paths:
            raise DatasetError(f"{where}: image id {image} is not in images.txt; mend one of the lists")
        class_ids[image] = int(text)
    unlabelled = [image for image in paths if image not in class_ids]
    if unlabelled:
        raise DatasetError(
            f"{path}: {len(unlabelled)} images of images.txt have no line, the first is id {unlabelled[0]}"
        )
    return {image: class_ids[image] for image in paths}


def _check_images(folder: Path, split: str, limits: tuple[int, int], pairs: list[tuple[str, str]]) -> ImageSet:
    """The set of a split, once its number of images is right and all of them exist."""
    published = PUBLISHED.get((split, limits), len(pairs))
    if len(pairs) != published:
        raise DatasetError(
            f"{folder}: the {split} classes {limits[0]}-{limits[1]} have {len(pairs)} images in the lists, the published "
            f"protocol has {published}; unpack the official archive again, or choose other {split}_classes"
        )
    if not pairs:
        raise DatasetError(f"{folder}: the lists have no image of the {split} classes {limits[0]}-{limits[1]}")
    missing = [path for path, _ in pairs if not (folder / path).is_file()]
    if missing:
        raise DatasetError(
            f"{folder / missing[0]}: this and {len(missing) - 1} more of the {len(pairs)} {split} images do not exist; "
            f"unpack the images, or choose {split}_classes that are there"
        )
    return ImageSet.from_pairs(folder, pairs)
