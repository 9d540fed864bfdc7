"""Changed bundles: with items added or removed, or with the items of several."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.data.names import look, refuse_alike
from retrieval.errors import IndexFormatError
from retrieval.files import blocks
from retrieval.index import growing
from retrieval.index.bundle import Bundle, require_unchanged
from retrieval.index.writing import bundle_of, make_bundle, require_replaceable, staged, write_bundle

_ALIKE = 0.999  # the least cosine similarity of two vectors of one image, which differ by rounding


def contents(bundle: Bundle) -> dict[str, Any]:
    """The arguments of `make_bundle` that make the same bundle again.

    Raises:
        RetrievalError: The folder of the bundle has been changed since it was read.
    """
    require_unchanged(bundle)
    return {
        "vectors": bundle.vectors,
        "ids": bundle.ids,
        **_numbered(bundle),
        "paths": bundle.paths,
        **_facts(bundle),
    }


def _facts(bundle: Bundle) -> dict[str, Any]:
    """The arguments of `bundle_of` besides vectors and items."""
    manifest = bundle.manifest
    return {
        "model": bundle.model,
        "images_root": manifest["images_root"],
        "split": manifest["split"],
        "source": manifest["source"],
        "kind": manifest["type"],
        "pictures": bundle.thumbnails,
        "unseen": None if bundle.calibration is None else bundle.calibration.ids,
    }


def rewrite(bundle: Bundle, **changes: Any) -> Bundle:
    """A bundle with changed arguments of `make_bundle`. A bundle with a folder is replaced there at once.

    Raises:
        RetrievalError: See `contents`; the folder is then left as it is.
    """
    new = make_bundle(**contents(bundle) | changes, where=str(bundle))
    if bundle.folder is None:
        return new

    return _replace(bundle, new)


def compact(bundle: Bundle) -> Bundle:
    """The same items in a bundle of this version without removed rows, whose approximate index is of all vectors.

    Raises:
        RetrievalError: See `contents`; or the type of the index needs more items.
    """
    shape = (bundle.manifest["count"], bundle.manifest["dimension"])
    if bundle.folder is None or 4 * shape[0] * shape[1] <= blocks.BLOCK:
        return rewrite(bundle)
    require_unchanged(bundle)
    with staged(bundle.folder, _left(bundle), shape) as vectors:
        return _replace(bundle, bundle_of(vectors, bundle.items, **_facts(bundle), where=bundle.folder))


def whole(bundle: Bundle) -> Bundle:
    """The bundle, or one in memory of the same items if it has removed rows, or rows that its approximate index lacks."""
    if bundle.removed is None and bundle.stored.made == len(bundle.stored):
        return bundle
    return make_bundle(**contents(bundle), where=str(bundle))


def _left(bundle: Bundle) -> Iterator[np.ndarray]:
    """The vectors of a bundle, some at a time."""
    for start, tile in bundle.stored.tiles():
        yield tile if bundle.removed is None else tile[~bundle.removed[start : start + len(tile)]]


def _replace(bundle: Bundle, new: Bundle) -> Bundle:
    """Writes a new bundle into the folder of another one, unless that has been changed."""
    assert bundle.folder is not None

    def check(folder: Path) -> None:
        require_replaceable(folder)
        require_unchanged(bundle)  # again, or the changes of another program in the meantime would be lost

    return write_bundle(new, bundle.folder, overwrite=True, check=check)


def _numbered(bundle: Bundle) -> dict[str, Any]:
    """The labels and class names of a bundle, in the order in which the class names first occur."""
    labels, class_names = bundle.items.numbered_classes
    return {"labels": labels, "class_names": class_names}


def number_classes(class_names: Sequence[str]) -> dict[str, Any]:
    """Labels by class name, numbered in the order in which the names first occur."""
    number = {name: label for label, name in enumerate(dict.fromkeys(class_names))}
    return {"labels": np.array([number[name] for name in class_names]), "class_names": list(number)}


def require_new(bundle: Bundle, paths: Sequence[str]) -> None:
    """Checks that a bundle holds none of these paths, and that they differ.

    Raises:
        IndexFormatError: It holds one, or one repeats; the message names the first.
    """
    known = set(bundle.items.paths_at(bundle.items.rows_of_paths(paths)))
    for path in paths:
        if path in known:
            raise IndexFormatError(f"{bundle}: holds {path!r} already; remove it first")
        known.add(path)


def require_class_names(bundle: Bundle, names: Iterable[str]) -> None:
    """Checks that no new class looks like a class of a bundle and is written with other characters.

    Raises:
        DatasetError: One does; the message names both.
    """
    old = bundle.items.numbered_classes[1]
    new = set(names) - set(old)
    looks = {look(name) for name in new}
    refuse_alike([name for name in (*old, *sorted(new)) if look(name) in looks], bundle)


def positions_held(bundle: Bundle, class_names: Sequence[str], paths: Sequence[str]) -> dict[int, int]:
    """The images that a bundle holds: from their position in `paths` to that in the bundle.

    Raises:
        IndexFormatError: It holds one as another class.
    """
    rows = bundle.items.rows_of_paths(paths)
    known = dict(zip(bundle.items.paths_at(rows), rows.tolist(), strict=True))
    held = {i: known[path] for i, path in enumerate(paths) if path in known}
    names = bundle.items.classes_at(np.array(list(held.values()), dtype=np.int64))
    for i, name in zip(held, names, strict=True):
        if class_names[i] != name:
            raise IndexFormatError(
                f"{bundle}: holds {paths[i]!r} already, as class {name!r} and not {class_names[i]!r}; remove it first"
            )
    return held


def require_same_content(bundle: Bundle, vectors: np.ndarray, paths: Sequence[str], held: Mapping[int, int]) -> None:
    """Checks by their vectors that images are still those that a bundle holds.

    Args:
        bundle: The bundle.
        vectors: (count, dim) Unit vectors of all images.
        paths: (count,) Their paths.
        held: See `positions_held`.

    Raises:
        IndexFormatError: The content of one has changed; the message names the first.
    """
    positions = np.array(list(held.values()), dtype=np.int64)
    stored = bundle.stored.rows(positions if bundle.rows is None else bundle.rows[positions])
    for i, vector in zip(held, stored, strict=True):
        if float(vectors[i] @ vector) < _ALIKE:
            raise IndexFormatError(f"{bundle}: holds {paths[i]!r} already, with another content; remove it first")


def add(
    bundle: Bundle,
    vectors: np.ndarray,
    class_names: Sequence[str],
    paths: Sequence[str],
    pictures: Sequence[bytes] | None = None,
    *,
    images_root: str | None = None,
) -> Bundle:
    """Adds items to a bundle. Their ids follow its largest id.

    Args:
        bundle: The bundle.
        vectors: (count, dim) Unit vectors.
        class_names: The class of every new item.
        paths: The path of every new item; none of them may be in the bundle.
        pictures: A small JPEG of every new item, if the bundle has them.
        images_root: The folder of all images, if it is not that of the manifest.

    Raises:
        IndexFormatError: A path is in the bundle already.
    """
    require_new(bundle, paths)
    first = int(bundle.all_items.ids.max()) + 1
    if growing.grows(bundle):
        return growing.append(bundle, vectors, class_names, paths, pictures, images_root=images_root)
    old = bundle.thumbnails
    return rewrite(
        bundle,
        vectors=np.concatenate([bundle.vectors, vectors]),
        ids=np.concatenate([bundle.ids, np.arange(first, first + len(paths))]),
        **number_classes((*bundle.class_names, *class_names)),
        paths=(*bundle.paths, *paths),
        pictures=None if old is None or pictures is None else [*old, *pictures],
        images_root=images_root or bundle.manifest["images_root"],
    )


def remove(bundle: Bundle, positions: np.ndarray) -> Bundle:
    """Removes the items at these positions from a bundle. The others keep their ids.

    Raises:
        IndexFormatError: No item would be left.
    """
    if len(positions) == bundle.manifest["count"]:
        raise IndexFormatError(f"{bundle}: nothing would be left; delete the folder instead")
    if growing.grows(bundle):
        return growing.mark(bundle, positions)
    kept = np.setdiff1d(np.arange(len(bundle.ids)), positions)
    return rewrite(bundle, **_select(contents(bundle), kept))


def merge(bundles: Sequence[Bundle], where: str | Path = "index") -> Bundle:
    """A bundle, in memory, of the items of several.

    The first bundle keeps its ids; those of the others follow. Classes of the same name become one class. Where the images lie in
    different folders, the paths start from the folder that these have in common.

    Raises:
        IndexFormatError: The bundles are of different models or dimensions, or two hold the same path.
    """
    first, *others = bundles
    for other in others:
        require_comparable(first, other)
        require_class_names(first, other.class_names)
    root = _common_root([bundle.manifest["images_root"] for bundle in bundles])
    paths = [path_below(root, bundle.root / path) for bundle in bundles for path in bundle.paths]
    seen: dict[str, Bundle] = {}
    for path, owner in zip(paths, (bundle for bundle in bundles for _ in bundle.paths), strict=True):
        if path in seen:
            raise IndexFormatError(f"{owner}: holds {path!r}, as {seen[path]} does; remove it from one of them")
        seen[path] = owner
    parts = [contents(bundle) for bundle in bundles]
    start = int(first.ids.max()) + 1
    pictures = [part["pictures"] for part in parts]
    merged = {
        "vectors": np.concatenate([bundle.vectors for bundle in bundles]),
        "ids": np.concatenate([first.ids, np.arange(start, start + len(paths) - len(first.ids))]),
        **number_classes([name for bundle in bundles for name in bundle.class_names]),
        "paths": paths,
        "images_root": root,
        "split": _split_of([bundle.manifest["split"] for bundle in bundles]),
        "source": {"merged": [part["source"] for part in parts]} if others else parts[0]["source"],
        "pictures": None if any(part is None for part in pictures) else [p for part in pictures for p in part],
    }
    return make_bundle(**parts[0] | merged, where=where)


def require_comparable(one: Bundle, other: Bundle) -> None:
    """Checks that the vectors of two bundles can be compared.

    Raises:
        IndexFormatError: They are of different models or dimensions; the message names both.
    """
    pairs: Mapping[str, tuple[Any, Any]] = {
        "dimension": (one.manifest["dimension"], other.manifest["dimension"]),
        "model": (one.model_hash, other.model_hash),
    }
    for key, (first, second) in pairs.items():
        if first != second:
            raise IndexFormatError(
                f"{other}: {key} is {second or 'not known'}, that of {one} is {first or 'not known'}; "
                "only vectors of one model can be compared"
            )


def path_below(root: str | Path, file: Path) -> str:
    """The path of an image in a bundle: relative to the root of the images if the image is below it, absolute otherwise."""
    return (file.relative_to(root) if file.is_relative_to(root) else file).as_posix()


def _common_root(roots: Sequence[str]) -> str:
    """The folder that the roots have in common."""
    try:
        return os.path.commonpath(roots)
    except ValueError:
        raise IndexFormatError(
            f"images lie in {roots[0]} and elsewhere, which have no folder in common; add the images instead"
        ) from None


def _split_of(splits: Sequence[str]) -> str:
    """The split of merged bundles. Images that were trained on, or that chose the epoch, stay known where the splits differ."""
    if len(set(splits)) == 1:
        return splits[0]
    return "all" if {"train", "all"} & {*splits} else "validation" if "validation" in splits else splits[0]


def _select(arguments: Mapping[str, Any], kept: np.ndarray) -> dict[str, Any]:
    names = [arguments["class_names"][arguments["labels"][position]] for position in kept]
    pictures = arguments["pictures"]
    return {
        "vectors": arguments["vectors"][kept],
        "ids": arguments["ids"][kept],
        **number_classes(names),
        "paths": [arguments["paths"][position] for position in kept],
        "pictures": None if pictures is None else [pictures[position] for position in kept],
    }
