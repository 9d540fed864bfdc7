"""Any images, listed in a CSV file.

    root/images.csv           "path,label[,split][,super_class]", then one line per image
    root/<path of a line>

The first line names the columns, in any order. Paths are relative to the root. A label is any text; images with equal labels
form a class. The values of the split column are train and test, or train, query and gallery, and also valid (or val, validation).
If the classes of test are those of train, the test images are queries against the training images; if not, they are searched among
themselves. Without this column, the images are divided at random into what is trained on and what is tested. A super-class is any
text, equal for all images of a class. An apostrophe in front of =, +, - or @, as in '=a, keeps a spreadsheet from taking a text
for a formula; it is no part of the text.
"""

from __future__ import annotations

from pathlib import Path

from retrieval.data.entry import Entry, image_sets, refuse_closed_set
from retrieval.data.image_set import ImageSet
from retrieval.data.list_file import image_path, read_lines, shorten, split_commas
from retrieval.data.own_splits import NAMES, check_names
from retrieval.errors import DatasetError, did_you_mean

COLUMNS = ("path", "label", "split", "super_class")


def read(root: str | Path, *, file: str = "images.csv", check_images: bool = True) -> ImageSet | dict[str, ImageSet]:
    """Reads the images in the order of the list.

    Args:
        root: The folder that the paths are relative to.
        file: The list, relative to the root.
        check_images: Whether all listed images must exist. The list must always exist.

    Returns:
        All images as one set; or, if the list has a split column, a set for each split: "train", "validation", "test", "query",
        "gallery".

    Raises:
        DatasetError: The list is missing or malformed (with file and line), its splits do not go together, or a listed image is
            missing.
    """
    root = Path(root)
    path = root / file
    refuse_closed_set(path)
    entries = read_list(path)
    found = {name: name for name in entries} if "" in entries else check_names(list(entries), str(path))
    advice = "correct the list, or choose the root that its paths are relative to"
    splits = {split: entries[name] for name, split in found.items()}
    sets = image_sets(root, splits, check_images=check_images, shared_classes=True, advice=advice)
    return sets.get("", sets)


def read_list(path: Path) -> dict[str, list[Entry]]:
    """Reads the entries of every split in the list, in the order of `retrieval.data.own_splits.NAMES`.

    Without a split column, all entries are in the split "".

    Raises:
        DatasetError: The list is missing or malformed (with file and line).
    """
    remedy = f"expected a list whose first line is {','.join(COLUMNS[:2])}[,{'][,'.join(COLUMNS[2:])}]"
    first, *lines = read_lines(path, remedy=remedy)
    names = split_commas(first)
    for name in names:
        if name not in COLUMNS or names.count(name) > 1:
            problem = "occurs twice" if name in COLUMNS else f"is not known{did_you_mean(name, COLUMNS)}"
            raise DatasetError(f"{first.where}: column {shorten(name)} {problem}; {remedy}")
    for name in COLUMNS[:2]:
        if name not in names:
            raise DatasetError(f"{first.where}: the column {name} is missing; {remedy}")
    known = list(NAMES) if "split" in names else [""]
    splits: dict[str, list[Entry]] = {split: [] for split in known}
    for line in lines:
        values = dict(zip(names, split_commas(line, len(names)), strict=True))
        for name, value in values.items():
            if not value:
                raise DatasetError(f"{line.where}: the column {name} is empty; correct the line")
        split = values.get("split", "")
        if split not in splits:
            raise DatasetError(f"{line.where}: split {shorten(split)} is none of {', '.join(known)}; correct the line")
        path_ = image_path(line.where, values["path"])
        splits[split].append(Entry(line.where, path_, values["label"], values.get("super_class")))
    if not lines:
        raise DatasetError(f"{first.where}: no image is listed; {remedy}")
    return {split: entries for split, entries in splits.items() if entries}
