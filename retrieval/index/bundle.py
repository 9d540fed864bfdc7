"""An index bundle: a folder that holds a gallery, and the model that embeds queries for it.

    manifest.json       what the rest is; checked first
    vectors.faiss       the unit vectors, a faiss IndexFlatIP: exact inner product
    items.csv           id, label, class and path of every vector, in the same order
    model.json          how to build the model and prepare an image        (these two may both
    model.safetensors   the model's weights                                 be absent)

It holds everything that a search needs except the images, so it can be moved and copied.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

import retrieval
from retrieval.errors import IndexFormatError
from retrieval.evaluation.arrays import check_ids, check_unit_vectors, check_whole_numbers
from retrieval.files import folder_in_one_piece
from retrieval.index.items import check_names, items_csv, read_items
from retrieval.index.manifest import (
    FILES,
    ITEMS,
    MANIFEST,
    MODEL,
    REMEDY,
    VECTORS,
    WEIGHTS,
    check_file,
    read_manifest,
    write_manifest,
)
from retrieval.index.vectors import METRIC, read_vectors, vectors_faiss


@dataclass(frozen=True, eq=False)
class Bundle:
    """A bundle as read and checked by `read_bundle`; the items keep the order of the file.

    Args:
        folder: where it lies.
        vectors: (count, dimension) float32 unit vectors.
        ids: (count,) int64, from 0, none twice.
        labels: (count,) int64.
        class_names: of every item.
        paths: of every item, relative to the images' root, "/" between the parts.
        model: what `write_bundle` was given, or None.
        manifest: see `retrieval.index.manifest`.
    """

    folder: Path
    vectors: np.ndarray
    ids: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    paths: tuple[str, ...]
    model: dict[str, Any] | None
    manifest: dict[str, Any]

    def describe(self, position: int) -> dict[str, Any]:
        """The "label", "class" and "path" of the item at a position (not: of an id)."""
        return {
            "label": int(self.labels[position]),
            "class": self.class_names[position],
            "path": self.paths[position],
        }

    def weights(self) -> bytes:
        """The content of model.safetensors, checked against the manifest once more.

        Raises:
            IndexFormatError: the bundle has no model, or the file has changed.
        """
        if self.model is None:
            raise IndexFormatError(f"{self.folder}: holds vectors without a model; {REMEDY}")
        check_file(self.folder / WEIGHTS, self.manifest["files"][WEIGHTS])
        return (self.folder / WEIGHTS).read_bytes()


def write_bundle(
    folder: str | Path,
    *,
    vectors: np.ndarray,
    ids: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    paths: Sequence[str],
    model: Mapping[str, Any] | None,
    weights: bytes | None,
    images_root: str,
    split: str,
    source: Mapping[str, Any],
    overwrite: bool = False,
) -> None:
    """Writes a bundle, whole or not at all.

    Args:
        folder: of the new bundle.
        vectors: (count, dim) float32 unit vectors, at least one.
        ids: (count,) whole numbers from 0, none twice.
        labels: (count,) whole numbers from 0.
        class_names: `class_names[label]` is the name of a label.
        paths: of every item, relative to the images' root, "/" between the parts.
        model: any JSON object that says how to build the model; None together with `weights`.
        weights: the content of model.safetensors.
        images_root: where the images lay, for information.
        split: which split of the data set this is.
        source: any JSON object: where the vectors come from.
        overwrite: replace a bundle that is there; a folder with other files in it is left alone.

    Raises:
        ValueError: the arguments do not fit together.
        IndexFormatError: `folder` holds other files than a bundle's, or a name is not fit for items.csv.
        RetrievalError: `folder` exists and `overwrite` is off, or it cannot be written.
    """
    folder = Path(folder)
    vectors = check_unit_vectors("vectors", vectors)
    ids = check_ids("ids", ids, len(vectors))
    labels = check_whole_numbers("labels", labels, len(vectors))
    if not len(vectors) or labels.min() < 0 or labels.max() >= len(class_names) or len(paths) != len(vectors):
        raise ValueError(
            f"{len(vectors)} vectors, {len(paths)} paths, {len(class_names)} class names; expected at least one vector, "
            "a path for each, and a class name for every label from 0"
        )
    if (model is None) != (weights is None):
        raise ValueError("model and weights belong together: give both or neither")
    names = [class_names[label] for label in labels]
    check_names(folder, names, paths)
    _check_replaceable(folder, overwrite)
    contents = {VECTORS: vectors_faiss(vectors), ITEMS: items_csv(ids, labels, names, paths)}
    if model is not None and weights is not None:
        contents |= {MODEL: json.dumps(model, indent=2, allow_nan=False).encode(), WEIGHTS: weights}
    facts = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": _versions(),
        "metric": METRIC,
        "normalised": True,
        "dimension": vectors.shape[1],
        "count": len(vectors),
        "num_classes": len(np.unique(labels)),
        "images_root": images_root,
        "split": split,
        "source": dict(source),
    }
    with folder_in_one_piece(folder, overwrite=overwrite) as new:
        for name, content in contents.items():
            (new / name).write_bytes(content)
        write_manifest(new, facts)


def read_bundle(folder: str | Path) -> Bundle:
    """Reads a bundle, after checking every file against the manifest, and the files against one another.

    Raises:
        IndexFormatError: the folder does not hold a whole, unaltered bundle; one line that names the file.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    for key, expected in (("metric", METRIC), ("normalised", True)):
        if manifest[key] != expected:
            raise IndexFormatError(f"{folder / MANIFEST}: {key} is {manifest[key]!r}, expected {expected!r}; {REMEDY}")
    vectors = read_vectors(folder / VECTORS, (manifest["count"], manifest["dimension"]))
    ids, labels, names, paths = read_items(folder / ITEMS, manifest["count"], manifest["num_classes"])
    model = _read_model(folder / MODEL) if MODEL in manifest["files"] else None
    return Bundle(folder, vectors, ids, labels, names, paths, model, manifest)


def _read_model(path: Path) -> dict[str, Any]:
    try:
        model = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise IndexFormatError(f"{path}: is not valid JSON ({error}); {REMEDY}") from error
    if not isinstance(model, dict):
        raise IndexFormatError(f"{path}: holds a {type(model).__name__}, expected a JSON object; {REMEDY}")
    return model


def _check_replaceable(folder: Path, overwrite: bool) -> None:
    if not overwrite or not folder.is_dir():
        return
    foreign = sorted(entry.name for entry in folder.iterdir() if entry.name not in (*FILES, MANIFEST))
    if foreign:
        raise IndexFormatError(
            f"{folder}: holds {foreign[0]!r}, which is no part of an index and would be lost; "
            "move it away, or choose another folder"
        )


def _versions() -> dict[str, str]:
    import faiss

    return {"retrieval": retrieval.__version__, "faiss": faiss.__version__, "numpy": np.__version__}
