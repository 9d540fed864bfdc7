"""Index bundles changed: images added and removed, several merged."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.errors import ConfigError, IndexFormatError, did_you_mean
from retrieval.files import require_elsewhere
from retrieval.index import Bundle, editing, read_bundle
from retrieval.index.manifest import REMEDY
from retrieval.index.writing import require_replaceable
from retrieval.recipes.embedding import embed_in_parts, side_folder, thumbnails_of
from retrieval.recipes.outputs import require_free_folder
from retrieval.recipes.sources import below, device_of, folder_class, images_of, source_of


def add_images(
    index: str | Path,
    places: Sequence[str | Path],
    *,
    class_name: str | None = None,
    root: str | Path | None = None,
    device: str = "auto",
) -> int:
    """Embeds images with the model of an index and adds them to it.

    Args:
        index: folder of the bundle.
        places: image files and folders, below the images' root.
        class_name: of all of them; by default the folder directly below the root, where this is so in the index.
        root: where the index's images are now, if elsewhere than when it was made.
        device: where to compute.

    Returns:
        How many were added.
    """
    if class_name is not None and not class_name.strip():
        raise ConfigError("the name of the class is empty; give one, or leave it out")
    require_elsewhere(Path(index))
    bundle = read_bundle(index)
    source = source_of(bundle)
    images_root = str(Path(root).resolve()) if root else bundle.manifest["images_root"]
    images = below(images_root, images_of(places))
    if class_name is None:
        _require_folder_classes(bundle)
    editing.require_new(bundle, images.paths)
    with side_folder(Path(index), source, images) as side:
        vectors = embed_in_parts(source, images, device_of(source, device), side)
        names = [class_name or images.class_names[label] for label in images.labels]
        pictures = thumbnails_of(images) if bundle.thumbnails() is not None else None
        editing.add(bundle, vectors, names, images.paths, pictures, images_root=images_root)
    return len(images)


def remove_images(
    index: str | Path, paths: Sequence[str], *, ids: Sequence[int] = (), class_names: Sequence[str] = ()
) -> int:
    """Takes items out of an index, by path, id or class; returns how many.

    Raises:
        IndexFormatError: one of these is not in the index, or nothing would be left.
    """
    bundle = read_bundle(index)
    positions: set[int] = set()
    for what, wanted, values in (
        ("path", paths, bundle.paths),
        ("id", ids, bundle.ids.tolist()),
        ("class", class_names, bundle.class_names),
    ):
        positions |= _places(bundle, what, wanted, values)
    if not positions:
        raise ConfigError("nothing to remove; give a path, --id or --class")
    try:
        editing.remove(bundle, np.array(sorted(positions)))
    except ValueError as error:  # the type of the index wants more items
        raise IndexFormatError(f"{bundle.folder}: {error}; {REMEDY}") from error
    return len(positions)


def merge_indices(indices: Sequence[str | Path], out: str | Path, *, overwrite: bool = False) -> int:
    """Writes one index of the items of several; returns how many there are."""
    require_free_folder(out, overwrite, require_replaceable)
    bundles = [read_bundle(index) for index in indices]
    editing.merge(bundles, out, overwrite=overwrite)
    return sum(len(bundle.ids) for bundle in bundles)


def describe_index(index: str | Path) -> dict[str, Any]:
    """What an index holds: "index", "count", "dimension", "classes", "type", "approximate", "model"."""
    bundle = read_bundle(index)
    facts = bundle.manifest
    return {
        "index": str(index),
        "count": facts["count"],
        "dimension": facts["dimension"],
        "classes": facts["num_classes"],
        "type": facts["type"],
        "approximate": facts["approximate"],
        "model": bundle.model_hash,
    }


def _require_folder_classes(bundle: Bundle) -> None:
    """Checks that the classes of an index are folders directly below its images' root: not those of a split in train/ or test/."""
    if not any(folder_class(path) == name for path, name in zip(bundle.paths, bundle.class_names, strict=True)):
        raise ConfigError(
            f"{bundle.folder}: its classes are not the folders in that of its images ({bundle.paths[0]!r} is of class "
            f"{bundle.class_names[0]!r}); give the class of the new images with --class"
        )


def _places(bundle: Bundle, what: str, wanted: Sequence[Any], values: Sequence[Any]) -> set[int]:
    """The positions of the items that have one of the values wanted; each must be there."""
    places: dict[Any, list[int]] = {}
    for place, value in enumerate(values):
        places.setdefault(value, []).append(place)
    for value in wanted:
        if value not in places:
            hint = did_you_mean(str(value), map(str, places))
            raise IndexFormatError(f"{bundle.folder}: has no {what} {value!r}{hint}")
    return {place for value in wanted for place in places[value]}
