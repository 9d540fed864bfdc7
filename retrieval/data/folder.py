"""Any images: one folder per class.

    root/<class>/**/*.jpg                                   divided at random into what is trained on and what is tested
    root/train/<class>/**/*.jpg, root/test/<class>/...      the splits are used as they are
    root/train/..., root/query/..., root/gallery/...        the same, with queries that search a gallery

Next to `train` there may also be `valid` (or `val`, `validation`). If the classes of `test` are those of `train`, the test images
are queries against the training images; if not, they are searched among themselves.

A class is a folder directly below the root (or below `train`, `test`, ...). Images at any depth inside it belong to it, as in
torchvision's `ImageFolder`. An image is a file with the suffix of an image format, or any other file that can be opened as one.
HEIC and JPEG XL are read if the package pillow-heif or pillow-jxl-plugin is installed. A folder may be a link; each is read once.

Hidden files and folders, those of the system (such as `@eaDir` and `$RECYCLE.BIN`), runs and indexes are skipped. They are counted
in the log, as is everything else that is not read: files of other types, folders without images, images next to the class folders,
and folders next to `train` and `test`. `--verbose` names each.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from retrieval.data.image_set import ImageSet
from retrieval.data.names import natural_key, refuse_alike, warn_missing
from retrieval.data.own_splits import check_names, split_of
from retrieval.data.tree import SECOND_LINK, Tree, describe_left_out, list_images, log_left_out
from retrieval.errors import DatasetError

# Folders that only a root with splits of its own has. One that is called `valid` alone is a class.
_MARKS = {"train", "test", "query", "gallery"}


@dataclass(frozen=True)
class Layout:
    """The images of a folder by split and class.

    Args:
        tree: The images, and what is not read.
        splits: For the name of each folder of a split, or "" without splits: for each class, or None beside the class folders, the
            paths of its images. All are relative to the root.
        has_others: Whether images that are not read lie next to the folders of splits.
    """

    tree: Tree
    splits: dict[str, dict[str | None, list[str]]]
    has_others: bool

    def pairs(self) -> Iterator[tuple[str, str | None]]:
        """The path and the class of every image of all splits."""
        for classes in self.splits.values():
            for name, paths in classes.items():
                yield from ((path, name) for path in paths)


def find(root: Path) -> Layout:
    """Finds the images of a folder, and which split and class each is of.

    Raises:
        DatasetError: A folder cannot be read, a name does not work on every system, or two classes look alike.
    """
    tree = list_images(root)
    marks = [name for name in tree.top if split_of(name)]
    direct = {path.split("/")[0] for path in tree.images if path.count("/") == 1}  # with images directly in them
    lone_class = len(marks) == 1 and len(tree.top) > 1 and marks[0] in direct
    has_splits = not lone_class and any(split_of(name) in _MARKS for name in marks)
    if has_splits:
        _refuse_linked(tree, marks)
    splits: dict[str, dict[str | None, list[str]]] = {name: {} for name in (marks if has_splits else [""])}
    beside = []
    for path in sorted(tree.images):
        split, _, below = path.partition("/") if has_splits else ("", "", path)
        if split in splits:
            name = below.partition("/")[0] if "/" in below else None
            splits[split].setdefault(name, []).append(path)
        else:
            beside.append(path)
    tree.leave_out(f"next to {', '.join(marks)}", beside)
    names = dict.fromkeys(name for classes in splits.values() for name in classes if name is not None)
    refuse_alike(names, root)
    warn_missing(names, root)
    ordered = {split: dict(sorted(classes.items(), key=_order)) for split, classes in splits.items()}
    return Layout(tree, ordered, has_others=bool(beside))


def _refuse_linked(tree: Tree, marks: list[str]) -> None:
    """Refuses the folder of a split that is a link to another one: its images would be in two splits.

    Raises:
        DatasetError: One is; the message names the first.
    """
    for name in marks:
        if f"{name}/" in tree.left_out.get(SECOND_LINK, []):
            raise DatasetError(
                f"{tree.root / name}: is a link to a folder that is read already, so its images would be in two splits; "
                "remove the link, or give the split images of its own"
            )


def read(root: str | Path) -> ImageSet | dict[str, ImageSet]:
    """Reads the images of a folder.

    Args:
        root: The folder with the class folders, or with `train` and other splits.

    Returns:
        All images as one set; or, if the folder brings splits, a set for each: "train", "validation", "test", "query", "gallery".

    Raises:
        DatasetError: There are no images, or the splits do not go together.
    """
    root = Path(root)
    layout = find_classes(root)
    log_left_out(root, layout.tree.left_out)
    if "" in layout.splits:
        return _image_set(layout, "")
    try:
        found = check_names(layout.splits, str(root))
    except DatasetError as error:
        raise DatasetError(f"{error}; or put all class folders directly below root to have them divided") from error
    return {split: _image_set(layout, name) for name, split in found.items()}


def find_classes(root: Path) -> Layout:
    """As `find`, without the images beside the class folders, which have no class."""
    layout = find(root)
    for classes in layout.splits.values():
        layout.tree.leave_out("next to the class folders", classes.pop(None, []))
    depth = 1 if "" in layout.splits else 2  # of class folders
    known = {path.rstrip("/") for path in layout.tree.left_out.get(SECOND_LINK, [])}
    known |= {"/".join(path.split("/")[:depth]) for path in layout.tree.images}
    empty = [name for name in layout.tree.folders if name.count("/") == depth - 1 and name not in known]
    layout.tree.leave_out("without images", [f"{name}/" for name in empty])
    return layout


def _image_set(layout: Layout, split: str) -> ImageSet:
    pairs = [(path, name or "") for name, paths in layout.splits[split].items() for path in paths]
    if not pairs:
        root = layout.tree.root
        raise DatasetError(
            f"{root / split}: no images in class folders; expected <class>/<image>; searched {_searched(layout.tree, split)}"
        )
    return ImageSet.from_pairs(layout.tree.root, pairs)


def _searched(tree: Tree, split: str) -> str:
    """The folders that were searched, and what is in them, for the message that there are no images."""
    names = [name for name in tree.top if not split or name == split]
    shown = ", ".join(map(repr, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    below = {
        reason: [path for path in paths if path.startswith(f"{split}/" if split else "")]
        for reason, paths in tree.left_out.items()
    }
    left_out = describe_left_out({reason: paths for reason, paths in below.items() if paths})
    return f"{f'the folders {shown}' if names else 'no folder'}, and found {'; '.join(left_out) or 'no files'}"


def _order(item: tuple[str | None, list[str]]) -> tuple[bool, object]:
    """Classes in natural order, after the images beside their folders."""
    name, _ = item
    return name is not None, natural_key(name or "")
