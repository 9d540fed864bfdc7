"""Any images, listed in a CSV file.

    root/images.csv           "path,label[,split][,super_class]", then one line per image
    root/<path of a line>

The first line names the columns, in any order. Paths are relative to the root. A path may be written with other Unicode characters
than on the disk (composed or decomposed accents). A label is any text; images with equal labels form a class. The values of the
split column are train and test, or train, query and gallery, and also valid (or val, validation). If the classes of test are those
of train, the test images are queries against the training images; if not, they are searched among themselves. Without this column,
the images are divided at random into what is trained on and what is tested. A super-class is any text, equal for all images of a
class. An apostrophe in front of =, +, - or @, as in '=a, keeps a spreadsheet from taking a text for a formula; it is no part of the
text. It is part of a path if only the file with the apostrophe exists.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path, PurePosixPath

from retrieval.data.entry import Entry, image_sets, refuse_closed_set
from retrieval.data.image_set import ImageSet
from retrieval.data.list_file import Line, image_path, read_lines, shorten, split_commas
from retrieval.data.names import MISSING, refuse_alike
from retrieval.data.own_splits import NAMES, check_names
from retrieval.errors import DatasetError, did_you_mean, plural
from retrieval.files.cells import unguard

log = logging.getLogger("retrieval")

COLUMNS = ("path", "label", "split", "super_class")
_REMEDY = f"expected a list whose first line is {','.join(COLUMNS[:2])}[,{'][,'.join(COLUMNS[2:])}]"


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
    entries = read_list(path, root)
    found = {name: name for name in entries} if "" in entries else check_names(list(entries), str(path))
    advice = "correct the list, or choose the root that its paths are relative to"
    splits = {split: entries[name] for name, split in found.items()}
    sets = image_sets(root, splits, check_images=check_images, shared_classes=True, advice=advice)
    return sets.get("", sets)


def read_list(path: Path, root: Path) -> dict[str, list[Entry]]:
    """Reads the entries of every split in the list, in the order of `retrieval.data.own_splits.NAMES`.

    Without a split column, all entries are in the split "".

    A label that is the text of a missing value, such as "nan", is logged with its line.

    Args:
        path: The list.
        root: The folder that its paths are relative to.

    Raises:
        DatasetError: The list is missing or malformed (with file and line), or two classes look alike.
    """
    first, *lines = read_lines(path, remedy=_REMEDY)
    names = _columns(first)
    splits: dict[str, list[Entry]] = {split: [] for split in (NAMES if "split" in names else [""])}
    missing: dict[str, list[str]] = {}
    for line in lines:
        values = dict(zip(names, split_commas(line, len(names)), strict=True))
        for name, value in values.items():
            if not value:
                raise DatasetError(f"{line.where}: the column {name} is empty; correct the line")
            if name != "path" or not _is_written_so(root, value):
                values[name] = unguard(value)
        split = values.get("split", "").lower()
        if split not in splits:
            raise DatasetError(
                f"{line.where}: split {shorten(values['split'])} is none of {', '.join(splits)}; correct the line"
            )
        if values["label"].lower() in MISSING:
            missing.setdefault(values["label"], []).append(line.where)
        path_ = image_path(line.where, values["path"])
        splits[split].append(Entry(line.where, path_, values["label"], values.get("super_class")))
    if not lines:
        raise DatasetError(f"{first.where}: no image is listed; {_REMEDY}")
    for label, wheres in missing.items():
        log.warning(
            "%s: label %r is the text of a missing value; the class has %s",
            wheres[0],
            label,
            plural(len(wheres), "image"),
        )
    refuse_alike((entry.class_name for entries in splits.values() for entry in entries), path)
    return {split: entries for split, entries in splits.items() if entries}


def _is_written_so(root: Path, path: str) -> bool:
    """Whether a path with an apostrophe in front is that of an image, and without it is none: another program wrote the list."""
    return os.path.lexists(root / path) and not os.path.lexists(root / unguard(path))


def _columns(first: Line) -> list[str]:
    """The names of the columns in the first line.

    Raises:
        DatasetError: The values are not separated by commas, the line is not a header, or its columns are not those of a list.
    """
    for separator, name in ((";", "semicolons"), ("\t", "tabs"), ("|", "vertical bars")):
        if set(COLUMNS[:2]) <= {value.strip(' "') for value in first.text.split(separator)}:
            raise DatasetError(
                f"{first.where}: the values are separated by {name}, not by commas; save the list with commas, and put values "
                "with a comma in quotes"
            )
    names = split_commas(first)
    if len(names) > 1 and not set(names) & set(COLUMNS) and PurePosixPath(names[0]).suffix:
        raise DatasetError(f"{first.where}: is an image, not the names of the columns; add the first line; {_REMEDY}")
    for name in names:
        if name not in COLUMNS or names.count(name) > 1:
            problem = "occurs twice" if name in COLUMNS else f"is not known{did_you_mean(name, COLUMNS)}"
            raise DatasetError(f"{first.where}: column {shorten(name)} {problem}; {_REMEDY}")
    for name in COLUMNS[:2]:
        if name not in names:
            raise DatasetError(f"{first.where}: the column {name} is missing; {_REMEDY}")
    return names
