"""An index bundle: a folder that holds a gallery and the model that embeds queries for it.

    manifest.json       size and sha256 of every file; checked first
    vectors.npy         the unit vectors (count, dimension), float32
    items.csv           id, label, class and path of every vector, in the same order
    model.json          how to build the model and prepare an image           (all three may
    model.safetensors   the weights of the model, if it is a timm network      be missing)
    model.onnx          the model, if it is another network
    approximate.faiss   an approximate index, for large galleries             (may be missing)
    thumbnails.zip      small pictures of the images                          (may be missing)

A bundle holds everything that a search needs except the images, so it can be moved and copied.
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.errors import IndexFormatError, brief
from retrieval.files.manifest import Files, manifest_text
from retrieval.index import approximate, thumbnails
from retrieval.index.calibration import Calibration
from retrieval.index.items import check_texts, read_items
from retrieval.index.manifest import (
    APPROXIMATE,
    CALIBRATION,
    INDEX_FOLDER,
    ITEMS,
    MANIFEST,
    METRIC,
    REMEDY,
    THUMBNAILS,
    VECTORS,
)
from retrieval.index.vectors import read_vectors
from retrieval.model.description import DESCRIPTION, StoredModel
from retrieval.training import RunFolder

log = logging.getLogger("retrieval")

_PREFERRED = ("index-all", "index-gallery", "index-test")  # of the indexes of a run, to search in


@dataclass(frozen=True, eq=False)
class Bundle:
    """The checked content of a bundle, in memory. The items keep the order of the file.

    Args:
        vectors: (count, dimension) float32 unit vectors.
        ids: (count,) int64, from 0, none twice.
        labels: (count,) int64.
        class_names: The class of every item.
        paths: The path of every item, absolute or relative to the root of the images, with "/" between the parts.
        manifest: The facts of `retrieval.index.manifest.INDEX_FOLDER`, and the calibration where there is one.
        model: The model; None for vectors without a model.
        files: The content of approximate.faiss and thumbnails.zip, where the bundle has them.
        folder: The folder of the bundle; None for one that is only in memory.
        text: The content of manifest.json.
    """

    vectors: np.ndarray
    ids: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    paths: tuple[str, ...]
    manifest: Mapping[str, Any]
    model: StoredModel | None = None
    files: Mapping[str, bytes | memoryview] = field(default_factory=dict)
    folder: Path | None = None
    text: bytes | None = None

    def __str__(self) -> str:
        """The folder, the file of vectors that it was read from, or "the index in memory"."""
        return str(self.folder or self.manifest["source"].get("vectors", "the index in memory"))

    @property
    def root(self) -> Path:
        """The folder that the relative paths start from."""
        return Path(self.manifest["images_root"])

    @cached_property
    def calibration(self) -> Calibration | None:
        """The threshold of `min_score="auto"`; None for a single class, and in a bundle of an earlier version."""
        return Calibration.from_dict(self.manifest[CALIBRATION]) if CALIBRATION in self.manifest else None

    @cached_property
    def approximate(self) -> approximate.Approximate | None:
        """The approximate index; None in an index of type "exact".

        Raises:
            IndexFormatError: Its file is not of an allowed type.
        """
        if APPROXIMATE not in self.files:
            return None
        content = bytes(self.files[APPROXIMATE])
        return approximate.read(self._path(APPROXIMATE), content, self.manifest["type"], self.vectors)

    @cached_property
    def thumbnails(self) -> list[bytes] | None:
        """A small JPEG of every item; None where the bundle has none.

        Raises:
            IndexFormatError: The file is not an archive of such pictures.
        """
        if THUMBNAILS not in self.files:
            return None
        return thumbnails.unpack(self._path(THUMBNAILS), bytes(self.files[THUMBNAILS]), len(self.ids))

    @cached_property
    def model_hash(self) -> str | None:
        """A sha256 over the model: equal for bundles whose vectors can be compared. None without a model."""
        return None if self.model is None else self.model.fingerprint()

    def picture(self, position: int) -> Path | bytes:
        """The thumbnail of an item, or the file of its image where the bundle has no thumbnails."""
        return self.root / self.paths[position] if self.thumbnails is None else self.thumbnails[position]

    def is_current(self) -> bool:
        """Whether the folder still holds the generation that was read."""
        return self.folder is None or manifest_text(self.folder) == self.text

    def _path(self, name: str) -> Path:
        return Path(name) if self.folder is None else self.folder / name


def read_bundle(folder: str | Path) -> Bundle:
    """Reads a bundle after checking every file against the manifest, and the files against one another.

    Raises:
        IndexFormatError: The folder does not hold a complete and unaltered bundle; the message names the file.
    """
    folder = Path(folder)
    if not (folder / MANIFEST).exists() and RunFolder(folder).config.exists():
        raise IndexFormatError(_is_a_run(folder))
    contents = INDEX_FOLDER.read(folder)
    manifest, files = contents.manifest, contents.files
    _check_manifest(folder / MANIFEST, manifest)
    shape = (manifest["count"], manifest["dimension"])
    ids, labels, names, paths = read_items(folder / ITEMS, files[ITEMS], shape[0], manifest["num_classes"])
    return Bundle(
        vectors=read_vectors(folder / VECTORS, files[VECTORS], shape),
        ids=ids,
        labels=labels,
        class_names=names,
        paths=paths,
        manifest=manifest,
        model=_read_model(folder / DESCRIPTION, files),
        files={name: files[name] for name in (APPROXIMATE, THUMBNAILS) if name in files},
        folder=folder,
        text=contents.text,
    )


def index_to_search(folder: str | Path) -> Path:
    """The folder of an index: the given one, or that of a training run's index.

    Of several indexes of a run, it is that of all images, else that of the gallery, else that of the test images, else the first by
    name; a line says so.
    """
    folder = Path(folder)
    indexes = _indexes_of_run(folder)
    if not indexes:
        return folder
    first = next((folder / name for name in _PREFERRED if folder / name in indexes), indexes[0])
    if len(indexes) > 1:
        others = ", ".join(index.name for index in indexes if index != first)
        log.info("searching %s; the run has other indexes, too: %s", first, others)
    return first


def _indexes_of_run(folder: Path) -> list[Path]:
    """The indexes in the folder of a training run, by name; none if it is an index itself or anything else."""
    if (folder / MANIFEST).exists() or not RunFolder(folder).config.is_file():
        return []
    return sorted(manifest.parent for manifest in folder.glob(f"*/{MANIFEST}") if INDEX_FOLDER.claims(manifest.parent))


def _is_a_run(folder: Path) -> str:
    """The message for the folder of a training run in place of an index."""
    indexes = _indexes_of_run(folder)
    if indexes:
        return f"{folder}: is a training run, expected an index; give {' or '.join(shlex.quote(str(it)) for it in indexes)}"
    command = f"retrieval index {shlex.quote(str(folder))}"
    return f"{folder}: is a training run without an index; make one with `{command}`"


def number_classes(class_names: Sequence[str]) -> dict[str, Any]:
    """Labels by class name, numbered in the order in which the names first occur."""
    number = {name: label for label, name in enumerate(dict.fromkeys(class_names))}
    return {"labels": np.array([number[name] for name in class_names]), "class_names": list(number)}


def _check_manifest(path: Path, manifest: Mapping[str, Any]) -> None:
    names = manifest["files"]
    missing = [name for name in (VECTORS, ITEMS) if name not in names]
    weights = [name for name in names if name in ("model.safetensors", "model.onnx")]
    if missing or len(weights) != (DESCRIPTION in names):
        listed = ", ".join(names) or "no files"
        raise IndexFormatError(
            f"{path}: lists {listed}, expected {VECTORS} and {ITEMS}, and {DESCRIPTION} with its weights or neither; {REMEDY}"
        )
    for key, expected in (("metric", METRIC), ("normalised", True)):
        if manifest[key] != expected:
            raise IndexFormatError(f"{path}: {key} is {brief(manifest[key])}, expected {expected!r}; {REMEDY}")
    if (manifest["type"] == approximate.EXACT) == (APPROXIMATE in names):
        state = "exists" if APPROXIMATE in names else "is missing"
        raise IndexFormatError(f"{path}: type is {brief(manifest['type'])}, but {APPROXIMATE} {state}; {REMEDY}")
    check_texts(path, images_root=manifest["images_root"], split=manifest["split"])
    if CALIBRATION in manifest:
        try:
            Calibration.from_dict(manifest[CALIBRATION])
        except ValueError as error:
            raise IndexFormatError(f"{path}: {error}; {REMEDY}") from error


def _read_model(path: Path, files: Files) -> StoredModel | None:
    try:
        return StoredModel.from_files(files)
    except ValueError as error:
        raise IndexFormatError(f"{path}: {error}; {REMEDY}") from error
