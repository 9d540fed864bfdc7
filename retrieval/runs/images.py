"""The images that a run was trained and measured on: a list in its folder, and a check that they are still the same.

A run names its images by a folder or a list, which may change later. Its splits are read again for an index, a report or a resumed
training; a class that was trained on could then be in the test split.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import shlex
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from retrieval.config import Config
from retrieval.data import ImageSet
from retrieval.errors import CheckpointError
from retrieval.files import read_file, read_text, write_bytes
from retrieval.runs.record import LARGEST_RECORD
from retrieval.training import RunFolder

log = logging.getLogger("retrieval")

COLUMNS = ("split", "class", "path")
_NAMED = 3  # classes and images that a message names, of each kind of difference

Row = tuple[str, str, str]


def write_images(folder: RunFolder, splits: Mapping[str, ImageSet]) -> None:
    """Writes images.csv: split, class and path of every image of a run."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(_rows(splits))
    write_bytes(folder.images, text.getvalue().encode(errors="surrogateescape"))


def require_same_images(splits: Mapping[str, ImageSet], folder: RunFolder, remedy: str) -> None:
    """Checks that splits have the images and classes that a run was started with. Their folder may be another one.

    Args:
        splits: The splits as they are read now.
        folder: The folder of the run.
        remedy: What else can be done than to restore the data, for the message.

    Raises:
        CheckpointError: They have not; the message names the splits, classes and images that differ.
    """
    try:
        then = dict(json.loads(read_text(folder.environment, LARGEST_RECORD))["data"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError):  # no reason to lose a run
        log.warning("%s: cannot be read, so it is not known whether the images are still the same", folder.environment)
        return
    changed = sorted(name for name, images in splits.items() if images.fingerprint() != then.get(name))
    changed += sorted(name for name in then if name not in splits)
    if changed:
        raise CheckpointError(
            f"{folder.path}: was started with other images or classes ({', '.join(changed)}){_differences(folder, splits)}; "
            f"restore the data, {remedy}"
        )


def indexing_remedy(config: Config, folder: RunFolder) -> str:
    """What to do with images that have changed, where a run was to be indexed or measured: the end of a message."""
    root, run = config.data.root, shlex.quote(str(folder.path))
    if root is None or not Path(root).exists():
        return "or train again"
    option = "--images" if Path(root).is_dir() else "--list"
    return f"train again, or index the images as they are now with `retrieval index {run} {option} {shlex.quote(root)}`"


def _rows(splits: Mapping[str, ImageSet]) -> Iterable[Row]:
    for name, images in splits.items():
        for path, label in zip(images.paths, images.labels.tolist(), strict=True):
            yield name, images.class_names[label], path


def _differences(folder: RunFolder, splits: Mapping[str, ImageSet]) -> str:
    """What differs from images.csv, ready to append; "" for a run of an earlier version, which has no such file."""
    try:
        text = read_file(folder.images, LARGEST_RECORD).decode(errors="surrogateescape")
        header, *rows = csv.reader(io.StringIO(text, newline=""), strict=True)
        if tuple(header) != COLUMNS:
            return ""
        then = {(split, class_, path) for split, class_, path in rows}
    except (OSError, ValueError, csv.Error):
        return ""
    now = set(_rows(splits))
    gone, new = ({path: class_ for _, class_, path in sorted(rows)} for rows in (then - now, now - then))
    old_classes, classes = ({class_ for _, class_, _ in rows} for rows in (then, now))
    both = gone.keys() & new.keys()
    found = [
        _named("new class", "new classes", classes - old_classes),
        _named("missing class", "missing classes", old_classes - classes),
        _named("new image", "new images", {path for path in new.keys() - both if new[path] in old_classes}),
        _named("missing image", "missing images", {path for path in gone.keys() - both if gone[path] in classes}),
        _named("image of another class", "images of another class", {path for path in both if gone[path] != new[path]}),
        _named("image in another split", "images in another split", {path for path in both if gone[path] == new[path]}),
    ]
    return f": {', '.join(filter(None, found)) or 'another order, or other super-classes'}"


def _named(one: str, several: str, names: Collection[str]) -> str:
    """The number of names and the first of them; "" where there is none."""
    if not names:
        return ""
    shown = ", ".join(map(repr, sorted(names)[:_NAMED])) + ", ..." * (len(names) > _NAMED)
    return f"{len(names):,} {one if len(names) == 1 else several} ({shown})"
