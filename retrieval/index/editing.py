"""Changed bundles: with items added or removed, or with the items of several."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.data.names import look, refuse_alike
from retrieval.errors import IndexFormatError, RetrievalError
from retrieval.index.bundle import Bundle, number_classes
from retrieval.index.writing import make_bundle, require_replaceable, write_bundle

_ALIKE = 0.999  # the least cosine similarity of two vectors of one image, which differ by rounding


def contents(bundle: Bundle) -> dict[str, Any]:
    """The arguments of `make_bundle` that make the same bundle again.

    Raises:
        RetrievalError: The folder of the bundle has been changed since it was read.
    """
    require_unchanged(bundle)
    manifest = bundle.manifest
    return {
        "vectors": bundle.vectors,
        "ids": bundle.ids,
        **number_classes(bundle.class_names),
        "paths": bundle.paths,
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

    def check(folder: Path) -> None:
        require_replaceable(folder)
        require_unchanged(bundle)  # again, or the changes of another program in the meantime would be lost

    return write_bundle(new, bundle.folder, overwrite=True, check=check)


def require_new(bundle: Bundle, paths: Sequence[str]) -> None:
    """Checks that a bundle holds none of these paths, and that they differ.

    Raises:
        IndexFormatError: It holds one, or one repeats; the message names the first.
    """
    known = set(bundle.paths)
    for path in paths:
        if path in known:
            raise IndexFormatError(f"{bundle}: holds {path!r} already; remove it first")
        known.add(path)


def require_class_names(bundle: Bundle, names: Iterable[str]) -> None:
    """Checks that no new class looks like a class of a bundle and is written with other characters.

    Raises:
        DatasetError: One does; the message names both.
    """
    new = set(names) - set(bundle.class_names)
    looks = {look(name) for name in new}
    refuse_alike([name for name in (*dict.fromkeys(bundle.class_names), *sorted(new)) if look(name) in looks], bundle)


def positions_held(bundle: Bundle, class_names: Sequence[str], paths: Sequence[str]) -> dict[int, int]:
    """The images that a bundle holds: from their position in `paths` to that in the bundle.

    Raises:
        IndexFormatError: It holds one as another class.
    """
    known = {path: position for position, path in enumerate(bundle.paths)}
    held = {i: known[path] for i, path in enumerate(paths) if path in known}
    for i, position in held.items():
        if class_names[i] != bundle.class_names[position]:
            raise IndexFormatError(
                f"{bundle}: holds {paths[i]!r} already, as class {bundle.class_names[position]!r} and not {class_names[i]!r}; "
                "remove it first"
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
    for i, position in held.items():
        if float(vectors[i] @ bundle.vectors[position]) < _ALIKE:
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
    old = bundle.thumbnails
    first = int(bundle.ids.max()) + 1
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
    kept = np.setdiff1d(np.arange(len(bundle.ids)), positions)
    if not len(kept):
        raise IndexFormatError(f"{bundle}: nothing would be left; delete the folder instead")
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


def require_unchanged(bundle: Bundle) -> None:
    """Checks that the folder of a bundle still holds what was read.

    Raises:
        RetrievalError: Another program has changed it.
    """
    if not bundle.is_current():
        raise RetrievalError(f"{bundle}: has been changed by another program in the meantime; try again")


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
