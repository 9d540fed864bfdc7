"""From the entries of a data set's lists to image sets, with all checks of the entries against each other and the disk."""

from __future__ import annotations

import contextlib
import os
import stat
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from retrieval.data.image_set import ImageSet
from retrieval.data.list_file import refuse_repeated, shorten
from retrieval.data.names import CONTROL, natural_key
from retrieval.errors import DatasetError

CLOSED_SET = (
    "retrieval is tested on classes never trained on, so a list that divides the images of every class (a closed-set "
    "split) cannot be used; put all images of a class into one split"
)

# Lists that users could take for splits, and the data sets that they belong to.
_CLOSED_SET_LISTS = {
    "train_test_split.txt": "cub200",
    **dict.fromkeys(("cars_train_annos.mat", "cars_test_annos.mat", "cars_test_annos_withlabels.mat"), "cars196"),
    **dict.fromkeys(("anno_train.csv", "anno_test.csv"), "cars196"),
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One image of a list.

    Args:
        where: The list and the line, for messages.
        path: The path relative to the data folder; see `retrieval.data.list_file.image_path`.
        class_name: The name of the class, the same in all splits.
        super_class: The name of the super-class; None in all entries if the data set has no super-classes.
    """

    where: str
    path: str
    class_name: str
    super_class: str | None = None


def refuse_closed_set(path: Path) -> None:
    """Refuses the lists that divide CUB-200-2011 and Cars196 for classification.

    Raises:
        DatasetError: The path is such a list. The message explains why, and how the data set is read.
    """
    if path.name in _CLOSED_SET_LISTS:
        raise DatasetError(
            f"{path}: {CLOSED_SET}, as the data set {_CLOSED_SET_LISTS[path.name]} does when its folder is the root"
        )


def image_sets(
    root: Path,
    splits: Mapping[str, Sequence[Entry]],
    *,
    published: Mapping[str, tuple[int, int]] | None = None,
    check_images: bool = True,
    shared_classes: bool = False,
    advice: str,
) -> dict[str, ImageSet]:
    """Checks the entries of all splits and makes their image sets.

    No image is listed twice. Unless `shared_classes`, no class is both in "train" and in another split, and "query" and "gallery"
    have the same classes with the same labels. Super-classes are numbered from 0 over all splits, in natural order of their names.

    Args:
        root: The data folder.
        splits: The entries of every split.
        published: The numbers of (images, classes) that a split must have.
        check_images: Whether the images must exist.
        shared_classes: Whether any two splits may share classes.
        advice: The remedy for the message if images are missing or their number is wrong.

    Raises:
        DatasetError: A check fails. The message names the list and the line, if a single line is wrong.
    """
    for split, entries in splits.items():
        if not entries:
            raise DatasetError(f"{root}: the lists have no image of the {split} set; {advice}")
        found = (len(entries), len({entry.class_name for entry in entries}))
        expected = (published or {}).get(split, found)
        if found != expected:
            raise DatasetError(
                f"{root}: the {split} set has {found[0]} images of {found[1]} classes in the lists, the published "
                f"protocol has {expected[0]} of {expected[1]}; {advice}"
            )
    for entry in _all(splits):
        for name in (entry.path, entry.class_name):
            if CONTROL.search(name):
                raise DatasetError(
                    f"{entry.where}: {shorten(name)} has a control character, such as a tab, which cannot be stored in a table; "
                    "correct the line"
                )
    names_on_disk: dict[Path, dict[str, str]] = {}
    splits = {
        split: [replace(entry, path=_path_on_disk(root, entry.path, names_on_disk)) for entry in entries]
        for split, entries in splits.items()
    }
    seen: set[object] = set()
    for entry in _all(splits):
        refuse_repeated(entry.where, entry.path, seen, "image")
    if not shared_classes:
        _check_classes(splits)
    super_classes = _number_super_classes(_all(splits))
    _check_links(root, _all(splits))
    if check_images:
        for split, entries in splits.items():
            _check_images(root, split, entries, advice)
    return {split: _image_set(root, entries, super_classes) for split, entries in splits.items()}


def _path_on_disk(root: Path, path: str, names: dict[Path, dict[str, str]]) -> str:
    """The path as the disk writes it, where the list writes it with other Unicode characters; otherwise the path itself.

    Args:
        root: The folder that the path is relative to.
        path: The path.
        names: The names in the folders that were looked at, by their normal form; it is filled.
    """
    if path.isascii() or os.path.lexists(root / path):
        return path
    found = Path()
    for part in path.split("/"):
        folder = root / found
        if not os.path.lexists(folder / part):
            if folder not in names:
                with contextlib.suppress(OSError):
                    names[folder] = {unicodedata.normalize("NFC", name): name for name in os.listdir(folder)}  # noqa: PTH208
            part = names.get(folder, {}).get(unicodedata.normalize("NFC", part), part)
        found /= part
    return found.as_posix()


def _image_set(root: Path, entries: Sequence[Entry], super_classes: Mapping[str, int]) -> ImageSet:
    pairs = [(entry.path, entry.class_name) for entry in entries]
    super_labels = np.array([super_classes[name] for _, name in pairs]) if super_classes else None
    return ImageSet.from_pairs(root, pairs, super_labels)


def _all(splits: Mapping[str, Sequence[Entry]]) -> Iterator[Entry]:
    return (entry for entries in splits.values() for entry in entries)


def _check_classes(splits: Mapping[str, Sequence[Entry]]) -> None:
    """Checks that no class of "train" is in another split, and that "query" and "gallery" have the same classes."""
    classes = {split: {entry.class_name for entry in entries} for split, entries in splits.items()}
    train = classes.get("train", set())
    for split, entries in splits.items():
        for entry in entries:
            if split != "train" and entry.class_name in train:
                raise DatasetError(
                    f"{entry.where}: class {shorten(entry.class_name)} is in train and in {split}; {CLOSED_SET}"
                )
    for split, other in (("query", "gallery"), ("gallery", "query")):
        for entry in splits.get(split, ()):
            if entry.class_name not in classes[other]:
                raise DatasetError(
                    f"{entry.where}: class {shorten(entry.class_name)} is in {split} and not in {other}; add an image of it "
                    f"to {other}, or remove the class"
                )


def _number_super_classes(entries: Iterable[Entry]) -> dict[str, int]:
    """The number of the super-class of each class; empty for a data set without super-classes."""
    super_of: dict[str, str] = {}
    for entry in entries:
        if entry.super_class is None:
            return {}
        if super_of.setdefault(entry.class_name, entry.super_class) != entry.super_class:
            raise DatasetError(
                f"{entry.where}: class {shorten(entry.class_name)} has super-class {shorten(entry.super_class)}, but "
                f"{shorten(super_of[entry.class_name])} in an earlier line; give it one super-class"
            )
    numbers = {name: number for number, name in enumerate(sorted(set(super_of.values()), key=natural_key))}
    return {name: numbers[super_class] for name, super_class in super_of.items()}


def _check_links(root: Path, entries: Iterable[Entry]) -> None:
    """Checks that symbolic links do not lead out of the root."""
    top = os.path.realpath(root)
    inside: dict[str, bool] = {"": True}
    for entry in entries:
        folder, _, _ = entry.path.rpartition("/")
        if folder not in inside:
            inside[folder] = _is_below(top, root / folder)
        path = root / entry.path
        if not inside[folder] or (os.path.islink(path) and not _is_below(top, path)):  # noqa: PTH114 - Path raises on long names
            raise DatasetError(
                f"{entry.where}: {shorten(entry.path)} leads out of {root} by a link; replace the link by the image, or choose "
                "a root that contains all images"
            )


def _is_below(top: str, path: Path) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(top)


def _check_images(root: Path, split: str, entries: Sequence[Entry], advice: str) -> None:
    missing = [entry.path for entry in entries if not _is_file(root / entry.path)]
    if missing:
        what = f"{len(entries)} {split} images".replace("  ", " ")
        raise DatasetError(
            f"{root / missing[0]}: this and {len(missing) - 1} more of the {what} do not exist; {advice}"
        )


def _is_file(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:  # also for names that are too long, for which Path.is_file raises
        return False
