"""Cars196: 16,185 photographs of 196 models of cars (Krause et al., 3DRR 2013), in any of its three layouts.

    root/cars_annos.mat, root/car_ims/000001.jpg .. 016185.jpg                        the authors' second edition

    root/devkit/{cars_meta,cars_train_annos}.mat                                      the first edition, as torchvision
    root/[devkit/]cars_test_annos_withlabels.mat                                      stores it; or the same files below
    root/cars_train/00001.jpg .. 08144.jpg, root/cars_test/00001.jpg .. 08041.jpg     root/stanford_cars/

    root/{names,anno_train,anno_test}.csv                                             one folder per class, from Kaggle;
    root/car_data/[car_data/]{train,test}/<class name, "-" for "/">/00001.jpg         anno_*.csv: "<file>,<4 x box>,<class id>"

Folders of images may be doubled, as in most copies (root/cars_train/cars_train/), and the devkit may lie in car_devkit/.

Retrieval trains on the classes 1-98 and tests on 99-196 (Oh Song et al., CVPR 2016). The archives are divided into the halves
"train" and "test" (by folder, or by the flag `test` of `cars_annos.mat`). These divide the images of every class, which is another
task. The reader therefore merges both halves and divides them by class. A copy without `cars_test/` can be read with
`halves=["train"]`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from retrieval.data.class_range import check_ranges, divide
from retrieval.data.entry import CLOSED_SET, Entry, image_sets
from retrieval.data.image_set import ImageSet
from retrieval.data.layout import find, looked_in
from retrieval.data.list_file import Line, image_path, parse_integer, read_lines, refuse_repeated, split_commas
from retrieval.data.mat_file import read_structs, read_texts
from retrieval.errors import DatasetError

TRAIN_CLASSES, TEST_CLASSES = (1, 98), (99, 196)
HALVES = ("train", "test")
PLACES = ("stanford_cars/", "stanford_cars/stanford_cars/", "")  # below the root, of a layout
DEVKITS = ("devkit/", "devkit/devkit/", "car_devkit/devkit/", "car_devkit/")
# The md5 sums of the published lists; for those of the devkit no sums were published, these are the ones of a genuine copy.
MD5 = {
    "cars_annos.mat": "b407c6086d669747186bd1d764ff9dbc",
    "cars_meta.mat": "4591ba8ddb31503892280ed8c6ed1c16",
    "cars_test_annos_withlabels.mat": "b0a2b23655a3edd16d84508592a98d10",
    "cars_train_annos.mat": "7b154abe023e6274e597db035347ff56",
}
# The numbers of images of the default classes, by the halves that are read.
PUBLISHED = {
    ("train", "test"): {"train": 8_054, "test": 8_131},
    ("train",): {"train": 4_052, "test": 4_092},
    ("test",): {"train": 4_002, "test": 4_039},
}


class _Photograph(NamedTuple):
    """One line or entry of the lists."""

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
    check_md5: bool = True,
) -> dict[str, ImageSet]:
    """Reads the "train" and "test" images of the given classes, in the order of the lists.

    Args:
        root: The folder with one of the layouts, or its parent folder if it is called `stanford_cars`.
        train_classes: The first and the last class id of the training classes, both included.
        test_classes: The first and the last class id of the test classes; must not overlap with `train_classes`.
        halves: The halves of the authors' closed-set split to read, for copies that have only one. Both are divided by class.
        check_images: Whether all listed images must exist. The lists must always exist.
        check_md5: Whether the .mat files must have the published md5 sums. Set it to false to read edited files. A damaged
            file that is not checked can crash SciPy, and with it the whole process.

    Raises:
        ValueError: A range is not two class ids in order, the ranges overlap, or `halves` is not a list of "train" and "test".
        DatasetError: The folder has none of the layouts, a list is missing, malformed or not the published one (with file and
            line or entry), a listed image is missing, or the default classes do not have the published number of images.
    """
    ranges = check_ranges(train_classes, test_classes)
    halves = _check_halves(halves)
    folder, read_layout = _find_layout(Path(root))
    names, photographs = read_layout(folder, halves, MD5 if check_md5 else {})
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
        advice="looked in this folder and in a doubled one (as cars_train/cars_train/); unpack the archives again, or select "
        "existing images by halves (e.g. [train]), train_classes and test_classes",
    )


def _check_halves(halves: Sequence[str]) -> tuple[str, ...]:
    if isinstance(halves, str) or not halves or not set(halves) <= set(HALVES):
        raise ValueError(f"halves is {halves!r}; give a list of train, test or both, e.g. [train]")
    return tuple(half for half in HALVES if half in halves)


def _find_layout(root: Path) -> tuple[Path, Callable[..., tuple[list[str], list[_Photograph]]]]:
    """The folder with one of the layouts, and its reader.

    A reader takes the folder, the halves and the md5 sums, and returns the class names in the order of their ids and the
    photographs of at least the given halves.
    """
    for folder in (root / place for place in PLACES):
        if (folder / "car_ims").is_dir() and (folder / "cars_annos.mat").is_file():
            return folder, _read_second_edition
        if _devkit(folder) is not None and any((folder / f"cars_{half}").is_dir() for half in HALVES):
            return folder, _read_first_edition
        if (folder / "car_data").is_dir() and (folder / "names.csv").is_file():
            return folder, _read_class_folders
    closed_set = (
        f". The folders train/ and test/ alone are not enough: {CLOSED_SET}" if (root / "test").is_dir() else ""
    )
    raise DatasetError(
        f"{root}: has none of the layouts of Cars196 ({looked_in(root, PLACES)}); expected car_ims/ with cars_annos.mat, or "
        "cars_train/ and cars_test/ with devkit/, or car_data/ with names.csv, anno_train.csv and anno_test.csv"
        f"{closed_set}"
    )


def _devkit(folder: Path) -> Path | None:
    """The devkit's folder: the first with its lists, or else the first that exists."""
    place = find(folder, DEVKITS, "cars_meta.mat") or find(folder, DEVKITS, "")
    return None if place is None else folder / place


def _images_in(folder: Path, name: str) -> str:
    """The folder of images with that name, which may be doubled; ends in "/"."""
    return f"{find(folder, (f'{name}/',), name) or ''}{name}/"


def _read_second_edition(
    folder: Path, halves: Sequence[str], md5: Mapping[str, str]
) -> tuple[list[str], list[_Photograph]]:
    path = folder / "cars_annos.mat"
    below = _images_in(folder, "car_ims").removesuffix("car_ims/")  # the listed names begin with it
    photographs = []
    fields = ("relative_im_path", "class", "test")
    for where, (name, class_id, test) in read_structs(path, "annotations", fields, md5=md5.get(path.name)):
        photographs.append(_Photograph(where, HALVES[bool(test)], below, *_check_types(where, name, class_id)))
    return _distinct(read_texts(path, "class_names", md5=md5.get(path.name))), photographs


def _read_first_edition(
    folder: Path, halves: Sequence[str], md5: Mapping[str, str]
) -> tuple[list[str], list[_Photograph]]:
    devkit = _devkit(folder) or folder
    labelled = "cars_test_annos_withlabels.mat"  # the devkit's own cars_test_annos.mat does not have the classes
    lists = {
        "train": devkit / "cars_train_annos.mat",
        "test": devkit / labelled if (devkit / labelled).is_file() else folder / labelled,
    }
    photographs = []
    for half in halves:
        path, below = lists[half], _images_in(folder, f"cars_{half}")
        for where, (name, class_id) in read_structs(path, "annotations", ("fname", "class"), md5=md5.get(path.name)):
            photographs.append(_Photograph(where, half, below, *_check_types(where, name, class_id)))
    meta = devkit / "cars_meta.mat"
    return _distinct(read_texts(meta, "class_names", md5=md5.get(meta.name))), photographs


def _read_class_folders(
    folder: Path, halves: Sequence[str], _md5: Mapping[str, str]
) -> tuple[list[str], list[_Photograph]]:
    remedy = "put names.csv, anno_train.csv and anno_test.csv next to car_data/"
    listed = read_lines(folder / "names.csv", remedy=remedy)
    names = _distinct([Line(line.where, split_commas(line, 1)[0]) for line in listed])
    below = _images_in(folder, "car_data")
    photographs = []
    for half in halves:
        for line in read_lines(folder / f"anno_{half}.csv", remedy=remedy):
            fields = split_commas(line, 6)
            name, last = fields[0], fields[-1]
            class_id = parse_integer(line.where, last, "class id")
            # The name of the class is part of the path. The caller checks the id.
            class_name = names[class_id - 1] if 1 <= class_id <= len(names) else ""
            image = f"{half}/{class_name.replace('/', '-')}/{image_path(line.where, name)}"
            photographs.append(_Photograph(line.where, half, below, image, class_id))
    return names, photographs


def _check_types(where: str, name: object, class_id: object) -> tuple[str, int]:
    if not isinstance(name, str) or not isinstance(class_id, int):
        raise DatasetError(f"{where}: is not a file name with a class id; get another copy of the file")
    return name, class_id


def _distinct(lines: Sequence[Line]) -> list[str]:
    """The class names; refuses repeated ones."""
    seen: set[object] = set()
    for line in lines:
        refuse_repeated(line.where, line.text, seen, "class")
    return [line.text for line in lines]
