"""Data sets by name, by a function of the user, or given as objects."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from retrieval.data import cars196, csv_list, cub200, folder, glyphs, inshop, omniglot, sop
from retrieval.data.entry import CLOSED_SET, refuse_closed_set
from retrieval.data.folder import divide_classes
from retrieval.data.image_set import ImageSet
from retrieval.data.list_file import shorten
from retrieval.errors import DatasetError, did_you_mean

Reader = Callable[..., Any]

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
SPLITS = (("train", "test"), ("train", "query", "gallery"))

# The options for a single set of images, whose classes are divided into train and test.
_DIVISION = {"test_share": 0.5, "seed": 0}
_VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_EXPECTED = "expected one ImageSet or torch Dataset, or a dict of them: train and test, or train, query and gallery"


def read_dataset(data: Any, /, root: str | Path | None = None, **options: Any) -> dict[str, ImageSet]:
    """Reads the "train" and "test" images of a data set. No class is in both.

    Data sets whose queries search another set ("inshop", and "csv" with such splits) have "query" and "gallery" in place of
    "test". A label means the same class in both. Some training classes of "inshop" have a single image.

    A reader of your own is a function with a parameter `root`, if it needs one, and any options. It returns a dict with these
    splits, or a single set whose classes are divided into train and test at random. A set is an `ImageSet` or a
    `torch.utils.data.Dataset`, which is converted by `ImageSet.from_dataset`.

    Args:
        data: A key of `DATASETS`, a reader, or directly what a reader may return.
        root: The folder of the data set, with "~" for the home folder. Required by readers with a parameter `root` without a
            default. Readers of your own get it as a `Path`.
        options: The options of the reader, e.g. `test_share` of "folder". A single set also has the options `test_share`, the
            fraction of the classes in "test" (0.5), and `seed` of the division (0). A reader with parameters of these
            names gets them itself. For a dict they have no effect.

    Raises:
        ValueError: The data set or an option is unknown, `root` is missing, or `root` is given and not used.
        DatasetError: The folder does not contain the data set, or a reader returned something else.

    Example:
        >>> pixels = np.zeros((8, 16, 16, 3), dtype=np.uint8)
        >>> images = ImageSet.from_dataset(pixels, labels=list("aabbccdd"))
        >>> splits = read_dataset(images, test_share=0.5)
        >>> splits["train"].num_classes, splits["test"].num_classes
        (2, 2)
    """
    if isinstance(data, (ImageSet, Dataset, Mapping)):
        if root is not None:
            raise ValueError(f"root is {str(root)!r}; leave it out for a {type(data).__name__}, which needs no folder")
        _check_names("the data set", options, list(_DIVISION))
        return _image_sets(data, "the data set", _DIVISION | options)
    reader = find_reader(data)
    name = _name(reader)
    check_options(reader, options)
    parameters = _parameters(reader)
    takes_root = "root" in parameters or _takes_any(parameters)
    if root is not None:
        if not takes_root:
            raise ValueError(f"{name} takes no root; leave it out, or add a parameter root to the reader")
        root = Path(root).expanduser()
        if reader in DATASETS.values():
            refuse_closed_set(root)
    elif "root" in parameters and parameters["root"].default is inspect.Parameter.empty:
        raise ValueError(f"{name} needs a root; give the folder with its images")
    given = {} if root is None else {"root": root}
    taken = {option: value for option, value in options.items() if option in parameters or _takes_any(parameters)}
    found = reader(**given, **taken)
    # The readers of this package have checked their splits already.
    return found if reader in DATASETS.values() else _image_sets(found, name, _DIVISION | options)


def find_reader(name: str | Reader) -> Reader:
    """Returns the reader of a data set: of one of `DATASETS` by its name; a function is returned as it is.

    Raises:
        ValueError: There is no such data set.
    """
    if callable(name):
        return name
    if not isinstance(name, str):
        raise ValueError(f"the data set is of type {type(name).__name__}; give a name, a reader, or image sets")
    if name not in DATASETS:
        raise ValueError(
            f"there is no data set {name!r}; known are {', '.join(DATASETS)}{did_you_mean(name, DATASETS)}"
        )
    return DATASETS[name]


def check_options(reader: str | Reader, options: Mapping[str, Any]) -> None:
    """Checks the names of the options of a reader, without reading anything.

    Args:
        reader: The name of a data set, or a reader.
        options: The options by name, without `root`.

    Raises:
        ValueError: The reader does not have such an option, or requires another one.
    """
    reader = find_reader(reader)
    parameters = _parameters(reader)
    own = [name for name, parameter in parameters.items() if parameter.kind not in _VARIABLE and name != "root"]
    if not _takes_any(parameters):
        added = [] if reader in DATASETS.values() else [name for name in _DIVISION if name not in own]
        _check_names(_name(reader), options, own + added)
    for name in own:
        if parameters[name].default is inspect.Parameter.empty and name not in options:
            raise ValueError(f"{_name(reader)} needs the option {name!r}; give it")


def _check_names(name: str, options: Mapping[str, Any], known: list[str]) -> None:
    for option in options:
        if option not in known:
            listed = ", ".join(known) or "none"
            raise ValueError(f"{name} has no option {option!r}; known are {listed}{did_you_mean(option, known)}")


def _parameters(reader: Reader) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(reader).parameters
    except (ValueError, TypeError) as error:  # of some functions written in C
        raise ValueError(f"{_name(reader)} has no signature; wrap it in a function") from error


def _takes_any(parameters: Mapping[str, inspect.Parameter]) -> bool:
    return any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())


def _name(reader: Reader) -> str:
    """The name of a data set, or the import path of a function of the user."""
    for name, known in DATASETS.items():
        if reader is known:
            return name
    return f"{getattr(reader, '__module__', '?')}:{getattr(reader, '__qualname__', type(reader).__name__)}"


def _image_sets(found: Any, name: str, options: Mapping[str, Any]) -> dict[str, ImageSet]:
    """The splits that a reader returned, or the division of a single set."""
    if not isinstance(found, Mapping):
        return divide_classes(_image_set(found, name), options["test_share"], options["seed"])
    expected = next((splits for splits in SPLITS if set(splits) == set(found)), None)
    if expected is None:
        raise DatasetError(f"{name}: is a dict with the keys {', '.join(map(repr, found)) or '(none)'}; {_EXPECTED}")
    splits = {split: _image_set(found[split], f"{name}, {split}") for split in expected}
    train = set(splits["train"].class_names)
    for split in expected[1:]:
        both = [class_name for class_name in splits[split].class_names if class_name in train]
        if both:
            raise DatasetError(
                f"{name}: {len(both)} classes are in train and in {split}, the first is {shorten(both[0])}; {CLOSED_SET}"
            )
    if "query" in splits and splits["query"].class_names != splits["gallery"].class_names:
        raise DatasetError(
            f"{name}: query and gallery must have the same classes in the same order; correct the class names"
        )
    return splits


def _image_set(found: Any, name: str) -> ImageSet:
    if isinstance(found, ImageSet):
        return found
    if not isinstance(found, Dataset):
        raise DatasetError(f"{name}: is of type {type(found).__name__}; {_EXPECTED}")
    try:
        return ImageSet.from_dataset(found)
    except ValueError as error:
        raise DatasetError(f"{name}: {error}") from error
