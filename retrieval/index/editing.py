"""Changing index bundles: a changed one is written beside the old one, and takes its place at once."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.errors import IndexFormatError, RetrievalError
from retrieval.index.bundle import Bundle
from retrieval.index.manifest import MANIFEST
from retrieval.index.writing import require_replaceable, write_bundle


def contents(bundle: Bundle) -> dict[str, Any]:
    """What `write_bundle` must be given to write the same bundle again.

    Raises:
        RetrievalError: somebody else has changed the bundle since it was read.
    """
    _require_unchanged(bundle)
    manifest = bundle.manifest
    return {
        "vectors": bundle.vectors,
        "ids": bundle.ids,
        **_numbered(bundle.class_names),
        "paths": bundle.paths,
        "model": bundle.model,
        "weights": bundle.weights() if bundle.model is not None else None,
        "images_root": manifest["images_root"],
        "split": manifest["split"],
        "source": manifest["source"],
        "kind": manifest["type"],
        "pictures": bundle.thumbnails(),
    }


def rewrite(bundle: Bundle, **changes: Any) -> None:
    """Replaces a bundle by itself with changes, which are arguments of `write_bundle`.

    Raises:
        RetrievalError: see `contents`; the bundle stays as it is now.
    """

    def check(folder: Path) -> None:
        require_replaceable(folder)
        _require_unchanged(bundle)  # again, or what another program has written in the meantime would be lost

    write_bundle(bundle.folder, **contents(bundle) | changes, overwrite=True, check=check)


def require_new(bundle: Bundle, paths: Sequence[str]) -> None:
    """Checks that a bundle holds none of these paths.

    Raises:
        IndexFormatError: names the first that it holds.
    """
    known = set(bundle.paths)
    for path in paths:
        if path in known:
            raise IndexFormatError(f"{bundle.folder}: holds {path!r} already; remove it first")


def add(
    bundle: Bundle,
    vectors: np.ndarray,
    class_names: Sequence[str],
    paths: Sequence[str],
    pictures: Sequence[bytes] | None = None,
    *,
    images_root: str | None = None,
) -> None:
    """Adds items to a bundle, under the ids that follow its largest.

    Args:
        bundle: as read.
        vectors: (count, dim) unit vectors.
        class_names: of every new item.
        paths: of every new item, none of them in the bundle.
        pictures: a small JPEG of every new item, if the bundle has them.
        images_root: where all images lie, if elsewhere than the manifest says.

    Raises:
        IndexFormatError: a path is in the bundle already.
    """
    require_new(bundle, paths)
    old = bundle.thumbnails()
    first = int(bundle.ids.max()) + 1
    rewrite(
        bundle,
        vectors=np.concatenate([bundle.vectors, vectors]),
        ids=np.concatenate([bundle.ids, np.arange(first, first + len(paths))]),
        **_numbered((*bundle.class_names, *class_names)),
        paths=(*bundle.paths, *paths),
        pictures=None if old is None or pictures is None else [*old, *pictures],
        images_root=images_root or bundle.manifest["images_root"],
    )


def remove(bundle: Bundle, positions: np.ndarray) -> None:
    """Takes the items at these positions out of a bundle; the others keep their ids.

    Raises:
        IndexFormatError: none would be left.
    """
    kept = np.setdiff1d(np.arange(len(bundle.ids)), positions)
    if not len(kept):
        raise IndexFormatError(f"{bundle.folder}: nothing would be left; delete the folder instead")
    rewrite(bundle, **_select(contents(bundle), kept))


def merge(bundles: Sequence[Bundle], folder: str | Path, *, overwrite: bool = False) -> None:
    """Writes a bundle of the items of several. The first keeps its ids, those of the others are numbered on.

    Classes of one name are one class. Where the images lie in different folders, paths start from what these have in common.

    Raises:
        IndexFormatError: the bundles are of different models or dimensions, or hold a path twice.
    """
    first, *others = bundles
    for other in others:
        require_comparable(first, other)
    roots = [bundle.manifest["images_root"] for bundle in bundles]
    root, prefixes = _common_root(roots)
    paths = [f"{prefix}{path}" for prefix, bundle in zip(prefixes, bundles, strict=True) for path in bundle.paths]
    names = [name for bundle in bundles for name in bundle.class_names]
    seen: dict[str, Path] = {}
    for path, of in zip(paths, (bundle.folder for bundle in bundles for _ in bundle.paths), strict=True):
        if path in seen:
            raise IndexFormatError(f"{of}: holds {path!r}, as {seen[path]} does; remove it from one of them")
        seen[path] = of
    parts = [contents(bundle) for bundle in bundles]
    start = int(first.ids.max()) + 1
    pictures = [part["pictures"] for part in parts]
    write_bundle(
        folder,
        **parts[0]
        | {
            "vectors": np.concatenate([bundle.vectors for bundle in bundles]),
            "ids": np.concatenate([first.ids, np.arange(start, start + len(paths) - len(first.ids))]),
            **_numbered(names),
            "paths": paths,
            "images_root": root,
            "source": {"merged": [bundle.manifest["source"] for bundle in bundles]},
            "pictures": None if any(part is None for part in pictures) else [p for part in pictures for p in part],
        },
        overwrite=overwrite,
    )


def require_comparable(one: Bundle, other: Bundle) -> None:
    """Checks that vectors of two bundles can be compared.

    Raises:
        IndexFormatError: they are of different models or dimensions; names both.
    """
    pairs: Mapping[str, tuple[Any, Any]] = {
        "dimension": (one.manifest["dimension"], other.manifest["dimension"]),
        "model": (one.model_hash, other.model_hash),
    }
    for what, (first, second) in pairs.items():
        if first != second:
            raise IndexFormatError(
                f"{other.folder}: {what} is {second or 'not known'}, that of {one.folder} is {first or 'not known'}; "
                "only vectors of one model can be compared"
            )


def _require_unchanged(bundle: Bundle) -> None:
    if (bundle.folder / MANIFEST).read_bytes() != bundle.manifest_text:
        raise RetrievalError(f"{bundle.folder}: has been changed by another program in the meantime; try again")


def _common_root(roots: Sequence[str]) -> tuple[str, list[str]]:
    """The folder that all roots lie in, and what leads from there to each ("" or "folder/")."""
    try:
        root = os.path.commonpath(roots)
    except ValueError:
        raise IndexFormatError(
            f"images lie in {roots[0]} and elsewhere, which have no folder in common; add the images instead"
        ) from None
    below = [Path(path).relative_to(root).as_posix() for path in roots]
    return root, ["" if path == "." else f"{path}/" for path in below]


def _numbered(class_names: Sequence[str]) -> dict[str, Any]:
    """Labels by class name: numbered in the order in which the names first come."""
    number = {name: label for label, name in enumerate(dict.fromkeys(class_names))}
    return {"labels": np.array([number[name] for name in class_names]), "class_names": list(number)}


def _select(words: Mapping[str, Any], kept: np.ndarray) -> dict[str, Any]:
    names = [words["class_names"][words["labels"][place]] for place in kept]
    return {
        "vectors": words["vectors"][kept],
        "ids": words["ids"][kept],
        **_numbered(names),
        "paths": [words["paths"][place] for place in kept],
        "pictures": None if words["pictures"] is None else [words["pictures"][place] for place in kept],
    }
