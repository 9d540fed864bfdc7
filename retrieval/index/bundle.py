"""An index bundle: a folder that holds a gallery, and the model that embeds queries for it.

    manifest.json       what the rest is; checked first
    vectors.npy         the unit vectors (count, dimension), float32
    items.csv           id, label, class and path of every vector, in the same order
    model.json          how to build the model and prepare an image        (these two may both
    model.safetensors   the model's weights                                 be absent)
    approximate.faiss   a faster way to candidates, for large galleries    (may be absent)
    thumbnails.zip      small pictures of the images                       (may be absent)

It holds everything that a search needs except the images, so it can be moved and copied.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.errors import IndexFormatError
from retrieval.index import approximate, thumbnails
from retrieval.index.items import read_items
from retrieval.index.manifest import (
    APPROXIMATE,
    ITEMS,
    MANIFEST,
    MODEL,
    REMEDY,
    THUMBNAILS,
    VECTORS,
    WEIGHTS,
    check_file,
    read_manifest,
)
from retrieval.index.vectors import METRIC, read_vectors


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
        manifest_text: the bytes of its file.
    """

    folder: Path
    vectors: np.ndarray
    ids: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    paths: tuple[str, ...]
    model: dict[str, Any] | None
    manifest: dict[str, Any]
    manifest_text: bytes

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
        return self._read(WEIGHTS)

    def approximate(self) -> approximate.Approximate | None:
        """The faster way to candidates; None in an index of type "exact".

        Raises:
            IndexFormatError: its file has changed, or is none that is allowed.
        """
        if APPROXIMATE not in self.manifest["files"]:
            return None
        check_file(self.folder / APPROXIMATE, self.manifest["files"][APPROXIMATE])
        return approximate.read(self.folder / APPROXIMATE, self.manifest["type"], self.vectors)

    def thumbnails(self) -> list[bytes] | None:
        """A small JPEG of every item, in their order; None where the bundle has none.

        Raises:
            IndexFormatError: the file has changed, or is no such archive.
        """
        if THUMBNAILS not in self.manifest["files"]:
            return None
        return thumbnails.unpack(self.folder / THUMBNAILS, self._read(THUMBNAILS), len(self.ids))

    @property
    def model_hash(self) -> str | None:
        """What two bundles have in common whose vectors can be compared: a sha256 over model and weights, None without a model."""
        files = self.manifest["files"]
        if MODEL not in files:
            return None
        return hashlib.sha256(f"{files[MODEL]['sha256']} {files[WEIGHTS]['sha256']}".encode()).hexdigest()

    def _read(self, name: str) -> bytes:
        check_file(self.folder / name, self.manifest["files"][name])
        return (self.folder / name).read_bytes()


def read_bundle(folder: str | Path) -> Bundle:
    """Reads a bundle, after checking every file against the manifest, and the files against one another.

    Raises:
        IndexFormatError: the folder does not hold a whole, unaltered bundle; one line that names the file.
    """
    folder = Path(folder)
    before = _manifest_text(folder)
    try:
        return _read(folder)
    except IndexFormatError:
        # Where another program has put a new bundle in its place meanwhile, half of what was read is of the old one.
        if _manifest_text(folder) == before:
            raise
        return _read(folder)


def _read(folder: Path) -> Bundle:
    text = _manifest_text(folder)
    manifest = read_manifest(folder)
    for key, expected in (("metric", METRIC), ("normalised", True)):
        if manifest[key] != expected:
            raise IndexFormatError(f"{folder / MANIFEST}: {key} is {manifest[key]!r}, expected {expected!r}; {REMEDY}")
    if (manifest["type"] == approximate.EXACT) == (APPROXIMATE in manifest["files"]):
        there = "is there" if APPROXIMATE in manifest["files"] else "is missing"
        raise IndexFormatError(
            f"{folder / MANIFEST}: type is {manifest['type']!r}, but {APPROXIMATE} {there}; {REMEDY}"
        )
    vectors = read_vectors(folder / VECTORS, (manifest["count"], manifest["dimension"]))
    ids, labels, names, paths = read_items(folder / ITEMS, manifest["count"], manifest["num_classes"])
    model = _read_model(folder / MODEL) if MODEL in manifest["files"] else None
    return Bundle(folder, vectors, ids, labels, names, paths, model, manifest, text)


def _manifest_text(folder: Path) -> bytes:
    try:
        return (folder / MANIFEST).read_bytes()
    except OSError:
        return b""  # `read_manifest` says what is wrong


def _read_model(path: Path) -> dict[str, Any]:
    try:
        model = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise IndexFormatError(f"{path}: is not valid JSON ({error}); {REMEDY}") from error
    if not isinstance(model, dict):
        raise IndexFormatError(f"{path}: holds a {type(model).__name__}, expected a JSON object; {REMEDY}")
    return model
