"""Data sets by name, by a function of the user, or given as objects."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from retrieval.data import cars196, csv_list, cub200, folder, glyphs, inshop, omniglot, sop
from retrieval.data.division import divide, require_pairs_to_find
from retrieval.data.entry import refuse_closed_set
from retrieval.data.image_set import ImageSet
from retrieval.data.names import refuse_alike
from retrieval.data.own_splits import EXPECTED, NAMES, arrange, check_names
from retrieval.data.unreadable import Unreadable
from retrieval.errors import DatasetError, did_you_mean

log = logging.getLogger("retrieval")

Reader = Callable[..., Any]

DATASETS: dict[str, Reader] = {
    "cars196": cars196.read,
    "csv": csv_list.read,
    "cub200": cub200.read,
    "folder": folder.read,
    "glyphs": glyphs.read,
    "inshop": inshop.read,
    "omniglot": omniglot.read,
    "sop": sop.read,
}
# The data sets of one's own images. The others are published with their splits.
OWN = ("csv", "folder")

# The options of `divide`, for a single set of images.
DIVISION: dict[str, Any] = {"split": "classes", "test_share": None, "seed": 0}
_VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_EXPECTED = f"expected one ImageSet or torch Dataset, or a dict of them: {EXPECTED}"


def read_dataset(data: Any, /, root: str | Path | None = None, **options: Any) -> dict[str, ImageSet]:
    """Reads the images of a data set by split.

    The published data sets have "train" and "test", with different classes. "inshop" has "query" and "gallery" in place of "test".
    Some of its training classes have a single image.

    Your own images are a single set, which is divided by `retrieval.data.division.divide`, or bring splits of their own, which are
    used as they are; see `retrieval.data.own_splits.arrange`. They are in a folder ("folder"), in a list ("csv"), given as objects,
    or read by a reader of your own: a function with a parameter `root`, if it needs one, and any options. It returns a set or a
    dict of sets by split. A set is an `ImageSet` or a `torch.utils.data.Dataset`, which is converted by `ImageSet.from_dataset`.

    Args:
        data: A key of `DATASETS`, a reader, or directly what a reader may return.
        root: The folder of the data set, with "~" for the home folder. Required by readers with a parameter `root` without a
            default. Readers of your own get it as a `Path`.
        options: The options of the reader, e.g. `file` of "csv". Your own images also have the options `split`, `test_share` and
            `seed` of `divide`. A reader with parameters of these names gets them itself.

    Returns:
        "train", and "test" or "query" and "gallery" unless nothing is tested, and "validation" if the images bring it. Classes of
        the same name are the same class in all splits.

    Raises:
        ValueError: The data set or an option is unknown, `root` is missing, `root` is given and not used, or images that bring
            their own splits are to be divided.
        DatasetError: The folder does not contain the data set, or a reader returned something else.

    Examples:
        >>> pixels = np.zeros((8, 16, 16, 3), dtype=np.uint8)
        >>> images = ImageSet.from_dataset(pixels, labels=list("aabbccdd"))
        >>> splits = read_dataset(images, test_share=0.5)
        >>> splits["train"].num_classes, splits["test"].num_classes
        (2, 2)
    """
    return read_data(data, root, options)


def read_data(
    data: Any, root: str | Path | None, options: Mapping[str, Any], unreadable: Unreadable | None = None
) -> dict[str, ImageSet]:
    """Reads the images of a data set by split; see `read_dataset`.

    Args:
        data: See `read_dataset`.
        root: See `read_dataset`.
        options: See `read_dataset`.
        unreadable: Leaves out the images that cannot be read, before a set is divided. By default nothing is opened.
    """
    leave_out = unreadable.leave_out if unreadable else _keep_all
    if isinstance(data, (ImageSet, Dataset, Mapping)):
        if root is not None:
            raise ValueError(f"root is {str(root)!r}; leave it out for a {type(data).__name__}, which needs no folder")
        _check_names("the data set", options, list(DIVISION))
        return _image_sets(data, "the data set", {**DIVISION, **options}, leave_out)
    reader = find_reader(data)
    name = _name(reader)
    parameters = _parameters(reader)
    own_options = {option: value for option, value in options.items() if option != "split" or option in parameters}
    check_options(reader, own_options, options.get("split", DIVISION["split"]))
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
    if is_published(reader):  # the reader has checked its splits
        splits: dict[str, ImageSet] = {split: leave_out(images, split) for split, images in found.items()}
        return splits
    return _image_sets(found, name if root is None else str(root), {**DIVISION, **options}, leave_out)


def is_published(reader: str | Reader) -> bool:
    """Whether a reader, or a name, is that of a data set with published splits; the others are of one's own images."""
    return any(name not in OWN and reader in (name, known) for name, known in DATASETS.items())


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


def check_options(reader: str | Reader, options: Mapping[str, Any], split: str = "classes") -> None:
    """Checks the names of the options of a reader, without reading anything.

    Args:
        reader: The name of a data set, or a reader.
        options: The options by name, without `root` and the option `split` of `divide`.
        split: How a single set is divided.

    Raises:
        ValueError: The reader does not have such an option, or requires another one; or its splits are published, and `split` is
            not "classes".
    """
    reader = find_reader(reader)
    if split != DIVISION["split"] and is_published(reader):
        raise ValueError(
            f"split is {split!r}, but {_name(reader)} has published splits; leave it at classes, or read your own images with "
            "the name folder or csv"
        )
    parameters = _parameters(reader)
    own = [name for name, parameter in parameters.items() if parameter.kind not in _VARIABLE and name != "root"]
    if not _takes_any(parameters):
        added = [] if is_published(reader) else [name for name in DIVISION if name not in (*own, "split")]
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


def _keep_all(images: ImageSet, split: str) -> ImageSet:
    return images


def _image_sets(
    found: Any, origin: str, options: Mapping[str, Any], leave_out: Callable[[ImageSet, str], ImageSet]
) -> dict[str, ImageSet]:
    """The splits of own images: those that they bring, or the division of a single set."""
    division = {name: options[name] for name in DIVISION}
    if not isinstance(found, Mapping):
        images = leave_out(_image_set(found, origin), "")
        refuse_alike(images.class_names, images.origin)
        return require_pairs_to_find(divide(images, **division), images.origin)
    if not found or not set(found) <= NAMES.keys():
        raise DatasetError(f"{origin}: is a dict with the keys {', '.join(map(repr, found)) or '(none)'}; {_EXPECTED}")
    if division["split"] != DIVISION["split"]:
        raise ValueError(
            f"split is {division['split']!r}, but {origin} brings its own splits ({', '.join(found)}); leave it at classes, or "
            "merge them"
        )
    if division["test_share"] is not None:
        log.info("%s: test_share has no effect, since the images bring their own splits", origin)
    names = check_names(list(found), origin)
    splits = {split: leave_out(_image_set(found[name], f"{origin}, {name}"), split) for name, split in names.items()}
    refuse_alike((name for images in splits.values() for name in images.class_names), origin)
    return require_pairs_to_find(arrange(splits, origin), origin)


def _image_set(found: Any, name: str) -> ImageSet:
    if isinstance(found, ImageSet):
        return found
    if not isinstance(found, Dataset):
        raise DatasetError(f"{name}: is of type {type(found).__name__}; {_EXPECTED}")
    try:
        return ImageSet.from_dataset(found)
    except ValueError as error:
        raise DatasetError(f"{name}: {error}") from error
