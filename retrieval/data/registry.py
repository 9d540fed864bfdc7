"""Data sets by name, for configuration files and the command line."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path

from retrieval.data import cars196, csv_list, cub200, folder, glyphs, inshop, omniglot, sop
from retrieval.data.entry import refuse_closed_set
from retrieval.data.image_set import ImageSet
from retrieval.errors import did_you_mean

DATASETS: dict[str, Callable[..., dict[str, ImageSet]]] = {
    "cars196": cars196.read,
    "csv": csv_list.read,
    "cub200": cub200.read,
    "folder": folder.read,
    "glyphs": glyphs.read,
    "inshop": inshop.read,
    "omniglot": omniglot.read,
    "sop": sop.read,
}


def read_dataset(name: str, root: str | Path | None = None, **options: object) -> dict[str, ImageSet]:
    """The "train" and "test" images of a data set; no class is in both.

    Data sets whose queries search another set than their own, "inshop" and some of "csv", have "query" and "gallery" in place
    of "test"; a label means the same class in both. Some training classes of "inshop" have a single image.

    Args:
        name: a key of `DATASETS`.
        root: the folder of the data set, "~" allowed; None only for "glyphs", which makes its images itself.
        options: further arguments of that data set's reader, e.g. `test_share` of "folder".

    Raises:
        ValueError: there is no such data set or option, or `root` is needed.
        DatasetError: the folder does not hold the data set.
    """
    if name not in DATASETS:
        raise ValueError(
            f"there is no data set {name!r}; known are {', '.join(DATASETS)}{did_you_mean(name, DATASETS)}"
        )
    reader = DATASETS[name]
    parameters = inspect.signature(reader).parameters
    known = [option for option in parameters if option != "root"]
    for option in options:
        if option not in known:
            listed = ", ".join(known) or "none"
            raise ValueError(f"{name} has no option {option!r}; known are {listed}{did_you_mean(option, known)}")
    if root is not None:
        root = Path(root).expanduser()
        refuse_closed_set(root)
        return reader(root, **options)
    if parameters["root"].default is inspect.Parameter.empty:
        raise ValueError(f"{name} needs a root; give the folder that holds its images")
    return reader(**options)
