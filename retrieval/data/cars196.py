"""Cars196: 16,185 photographs of 196 models of cars (Krause et al., 3DRR 2013), in any of the three layouts it goes about in.

    root/cars_annos.mat, root/car_ims/000001.jpg .. 016185.jpg                        the authors' second edition

    root/devkit/{cars_meta,cars_train_annos}.mat                                      the first, as torchvision keeps it; or
    root/[devkit/]cars_test_annos_withlabels.mat                                      root/stanford_cars/devkit/..., likewise
    root/cars_train/00001.jpg .. 08144.jpg, root/cars_test/00001.jpg .. 08041.jpg

    root/{names,anno_train,anno_test}.csv                                             a folder per class, from Kaggle;
    root/car_data/[car_data/]{train,test}/<class name, "-" for "/">/00001.jpg         anno_*.csv: "<file>,<4 x box>,<class id>"

Retrieval trains on the classes 1-98 and tests on 99-196 (Oh Song et al., CVPR 2016). The two halves "train" and "test" of the
archives (the folders, or the flag `test` of `cars_annos.mat`) divide the images of every class; that is another task, so both
are read and divided anew by class. A copy without `cars_test/` can be read with `halves=["train"]`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from retrieval.data.class_range import check_ranges, divide
from retrieval.data.entry import CLOSED_SET, Entry, image_sets
from retrieval.data.image_set import ImageSet
from retrieval.data.list_file import Line, image_path, read_lines, refuse_repeated, split_commas, whole_number
from retrieval.data.mat_file import read_structs, read_texts
from retrieval.errors import DatasetError

TRAIN_CLASSES, TEST_CLASSES = (1, 98), (99, 196)
HALVES = ("train", "test")
# Images of the default classes, by the halves that are read.
PUBLISHED = {
    ("train", "test"): {"train": 8_054, "test": 8_131},
    ("train",): {"train": 4_052, "test": 4_092},
    ("test",): {"train": 4_002, "test": 4_039},
}


class _Photograph(NamedTuple):
    """One line or entry of the authors' lists."""

    where: str
    half: str
    folder: str
    name: str
    class_id: int


def read(
    root: str | Path,
    *,
    train_classes: Sequence[int] = TRAIN_CLASSES,
    test_classes: Sequence[int] = TEST_CLASSES,
    halves: Sequence[str] = HALVES,
    check_images: bool = True,
) -> dict[str, ImageSet]:
    """The "train" and "test" images of the given classes, in the order of the lists.

    Args:
        root: the folder of one of the layouts, or the one that holds it as `stanford_cars`.
        train_classes: the first and the last class id, both included.
        test_classes: likewise; must not overlap with `train_classes`.
        halves: of the authors' closed-set split, those to read: for copies that have one alone. Both are divided by class.
        check_images: whether the images must exist; their lists must in any case.

    Raises:
        ValueError: a range is not two class ids in order, the ranges overlap, or `halves` is not a list of "train" and "test".
        DatasetError: there is no such layout, a list is missing or malformed (with file and line or entry), a listed image is
            missing, or the default classes do not have the published number of images.
    """
    ranges = check_ranges(train_classes, test_classes)
    halves = _check_halves(halves)
    root = Path(root)
    folder = root / "stanford_cars" if (root / "stanford_cars").is_dir() else root
    names, photographs = _read_layout(folder, halves)
    entries = []
    for where, half, below, name, class_id in photographs:
        if not 1 <= class_id <= len(names):
            raise DatasetError(f"{where}: class {class_id} is not one of 1-{len(names)}; get another copy of the list")
        if half in halves:
            entries.append((class_id, Entry(where, below + image_path(where, name), names[class_id - 1])))
    published = {}
    for split, limits in (("train", TRAIN_CLASSES), ("test", TEST_CLASSES)):
        if ranges[split] == limits:
            published[split] = (PUBLISHED[halves][split], limits[1] - limits[0] + 1)
    return image_sets(
        folder,
        divide(folder, ranges, entries, len(names)),
        published=published,
        check_images=check_images,
        advice="unpack the archives again, or choose what is there by halves (e.g. [train]), train_classes and test_classes",
    )


def _check_halves(halves: Sequence[str]) -> tuple[str, ...]:
    if isinstance(halves, str) or not halves or not set(halves) <= set(HALVES):
        raise ValueError(f"halves is {halves!r}; give a list of train, test or both, e.g. [train]")
    return tuple(half for half in HALVES if half in halves)


def _read_layout(folder: Path, halves: Sequence[str]) -> tuple[list[str], list[_Photograph]]:
    """The class names in the order of their ids, and the photographs of the given halves at least."""
    if (folder / "car_ims").is_dir() and (folder / "cars_annos.mat").is_file():
        return _read_second_edition(folder / "cars_annos.mat")
    if (folder / "devkit").is_dir() and any((folder / f"cars_{half}").is_dir() for half in HALVES):
        return _read_first_edition(folder, halves)
    if (folder / "car_data").is_dir() and (folder / "names.csv").is_file():
        return _read_class_folders(folder, halves)
    closed_set = f". The folders train/ and test/ alone will not do: {CLOSED_SET}" if (folder / "test").is_dir() else ""
    raise DatasetError(
        f"{folder}: is no layout of Cars196; expected car_ims/ with cars_annos.mat, or cars_train/ and cars_test/ with devkit/, "
        f"or car_data/ with names.csv, anno_train.csv and anno_test.csv{closed_set}"
    )


def _read_second_edition(path: Path) -> tuple[list[str], list[_Photograph]]:
    photographs = []
    for where, (name, class_id, test) in read_structs(path, "annotations", ("relative_im_path", "class", "test")):
        photographs.append(_Photograph(where, HALVES[bool(test)], "", *_check_types(where, name, class_id)))
    return _distinct(read_texts(path, "class_names")), photographs


def _read_first_edition(folder: Path, halves: Sequence[str]) -> tuple[list[str], list[_Photograph]]:
    devkit = folder / "devkit"
    labelled = "cars_test_annos_withlabels.mat"  # the devkit's own cars_test_annos.mat does not say the classes
    lists = {
        "train": devkit / "cars_train_annos.mat",
        "test": devkit / labelled if (devkit / labelled).is_file() else folder / labelled,
    }
    photographs = []
    for half in halves:
        for where, (name, class_id) in read_structs(lists[half], "annotations", ("fname", "class")):
            photographs.append(_Photograph(where, half, f"cars_{half}/", *_check_types(where, name, class_id)))
    return _distinct(read_texts(devkit / "cars_meta.mat", "class_names")), photographs


def _read_class_folders(folder: Path, halves: Sequence[str]) -> tuple[list[str], list[_Photograph]]:
    remedy = "names.csv, anno_train.csv and anno_test.csv belong beside car_data/"
    lines = read_lines(folder / "names.csv", remedy=remedy)
    names = _distinct([Line(line.where, split_commas(line, 1)[0]) for line in lines])
    below = "car_data/car_data" if (folder / "car_data" / "car_data").is_dir() else "car_data"
    photographs = []
    for half in halves:
        for line in read_lines(folder / f"anno_{half}.csv", remedy=remedy):
            name, *_, last = split_commas(line, 6)
            class_id = whole_number(line.where, last, "class id")
            # Checked here, since the folder is named by the class.
            class_name = names[class_id - 1] if 1 <= class_id <= len(names) else ""
            image = f"{half}/{class_name.replace('/', '-')}/{image_path(line.where, name)}"
            photographs.append(_Photograph(line.where, half, f"{below}/", image, class_id))
    return names, photographs


def _check_types(where: str, name: object, class_id: object) -> tuple[str, int]:
    if not isinstance(name, str) or not isinstance(class_id, int):
        raise DatasetError(f"{where}: is no file name with the number of a class; get another copy of the file")
    return name, class_id


def _distinct(lines: Sequence[Line]) -> list[str]:
    """The class names, no two of them equal."""
    seen: set[object] = set()
    for line in lines:
        refuse_repeated(line.where, line.text, seen, "class")
    return [line.text for line in lines]
