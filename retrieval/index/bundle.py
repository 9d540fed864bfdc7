"""An index bundle: a folder that holds a gallery and the model that embeds queries for it.

    manifest.json       size and checksum of every file, by blocks where it is large; checked first
    vectors.npy         the unit vectors (count, dimension), float32
    items.arrows        id, label, class and path of every vector, in the same order
    model.json          how to build the model and prepare an image           (all three may
    model.safetensors   the weights of the model, if it is a timm network      be missing)
    model.onnx          the model, if it is another network
    approximate.faiss   an approximate index, for large galleries             (may be missing)
    thumbnails.arrows   small pictures of the images                          (may be missing)
    removed-0.bits      which rows of a large index are removed; or -1        (may be missing)

A bundle holds everything that a search needs except the images, so it can be moved and copied. Files of one block (8 MiB) are read
and checked when the bundle is opened. Larger ones are mapped, and each block is checked when it is first used. docs/index_format.md
describes the format and its promises.
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.errors import IndexFormatError, RetrievalError, brief
from retrieval.evaluation.arrays import has_unit_rows
from retrieval.files.blocks import Bytes
from retrieval.files.manifest import Files, manifest_text
from retrieval.files.mapped import BlockFile
from retrieval.index import approximate
from retrieval.index.calibration import Calibration
from retrieval.index.items import Items, check_texts, different, read_items
from retrieval.index.manifest import (
    APPROXIMATE,
    CALIBRATION,
    INDEX_FOLDER,
    ITEMS,
    ITEMS_OF_VERSION_2,
    MANIFEST,
    METRIC,
    REMEDY,
    REMOVED,
    ROWS,
    THUMBNAILS,
    THUMBNAILS_OF_VERSION_2,
    VECTORS,
)
from retrieval.index.thumbnails import Pictures, read_pictures
from retrieval.index.vectors import Vectors, open_vectors
from retrieval.model.description import DESCRIPTION, StoredModel
from retrieval.training import RunFolder

log = logging.getLogger("retrieval")

_PREFERRED = ("index-all", "index-gallery", "index-test")  # of the indexes of a run, to search in


@dataclass(frozen=True, eq=False)
class Bundle:
    """The content of a bundle. The items keep the order of the file.

    The vectors and tables of a large bundle have rows of removed items, too. `rows` are those of the items that are left, which the
    properties `vectors` to `thumbnails` hold.

    Args:
        stored: The vectors of all rows.
        manifest: The facts of `retrieval.index.manifest.INDEX_FOLDER`, and the calibration where there is one.
        content_of_items: The items of all rows, or a file of them.
        model: The model; None for vectors without a model.
        files: The content of approximate.faiss and the thumbnails, where the bundle has them.
        removed: (rows,) Which rows are those of removed items; None where none is.
        folder: The folder of the bundle; None for one that is only in memory.
        text: The content of manifest.json.
    """

    stored: Vectors
    manifest: Mapping[str, Any]
    content_of_items: Items | BlockFile
    model: StoredModel | None = None
    files: Mapping[str, Bytes | BlockFile] = field(default_factory=dict)
    removed: np.ndarray | None = None
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
    def rows(self) -> np.ndarray | None:
        """(count,) The rows of the items; None where these are all rows."""
        return None if self.removed is None else np.flatnonzero(~self.removed)

    @property
    def all_items(self) -> Items:
        """The items of all rows.

        Raises:
            IndexFormatError: The file is not that of the manifest, or malformed.
        """
        if isinstance(self.content_of_items, BlockFile):
            self.content_of_items.check()  # again, if the file has changed: the table stays in it
        return self._parsed_items

    @cached_property
    def _parsed_items(self) -> Items:
        content = self.content_of_items
        if isinstance(content, Items):
            return content
        return _checked_items(self._path(ITEMS), content.bytes, len(self.stored), self.manifest, self.removed)

    @property
    def items(self) -> Items:
        """The items."""
        return self.all_items if self.rows is None else self._left_items

    @cached_property
    def _left_items(self) -> Items:
        return self.all_items if self.rows is None else self.all_items.select(self.rows)

    @property
    def vectors(self) -> np.ndarray:
        """(count, dimension) float32 unit vectors. Those of a large bundle are checked and mapped, unless rows are removed.

        Raises:
            IndexFormatError: The file is not that of the manifest, or holds other vectors.
        """
        return self.all_vectors if self.rows is None else self._left_vectors

    @property
    def all_vectors(self) -> np.ndarray:
        """The vectors of all rows, checked; those of a large bundle are mapped."""
        return self._units.all()

    @cached_property
    def _left_vectors(self) -> np.ndarray:
        vectors = np.asarray(self.all_vectors)[self.rows]
        vectors.setflags(write=False)
        return vectors

    @property
    def ids(self) -> np.ndarray:
        """(count,) int64, from 0, none twice."""
        return self.items.ids

    @property
    def labels(self) -> np.ndarray:
        """(count,) int64."""
        return self.items.labels

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """(count,) The class of every item."""
        return self.items.class_names

    @cached_property
    def paths(self) -> tuple[str, ...]:
        """(count,) The path of every item, absolute or relative to the root of the images, with "/" between the parts."""
        return self.items.paths

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
        content = self.content(APPROXIMATE)
        return approximate.read(
            self._path(APPROXIMATE), content, self.manifest["type"], self.stored, removed=self.removed
        )

    @property
    def has_thumbnails(self) -> bool:
        """Whether the bundle has a small picture of every item."""
        return THUMBNAILS in self.files or THUMBNAILS_OF_VERSION_2 in self.files

    @property
    def thumbnails(self) -> Pictures | None:
        """A small JPEG of every item; None where the bundle has none.

        Raises:
            IndexFormatError: The file is not a table of such pictures.
        """
        if not self.has_thumbnails:
            return None
        self.content(self._name_of_thumbnails)  # checks it again, if the file has changed
        return self._pictures if self.rows is None else self._pictures.select(self.rows)

    @cached_property
    def _pictures(self) -> Pictures:
        name = self._name_of_thumbnails
        return read_pictures(self._path(name), self.content(name), len(self.stored))

    @property
    def _name_of_thumbnails(self) -> str:
        return THUMBNAILS if THUMBNAILS in self.files else THUMBNAILS_OF_VERSION_2

    @cached_property
    def model_hash(self) -> str | None:
        """A sha256 over the model: equal for bundles whose vectors can be compared. None without a model."""
        return None if self.model is None else self.model.fingerprint()

    def picture(self, position: int) -> Path | bytes:
        """The thumbnail of an item, or the file of its image where the bundle has no thumbnails."""
        if self.thumbnails is None:
            return self.root / self.items.paths_at(np.array([position]))[0]
        return self.thumbnails[position]

    def is_current(self) -> bool:
        """Whether the folder still holds the generation that was read."""
        return self.folder is None or manifest_text(self.folder) == self.text

    def check(self) -> None:
        """Checks everything that opening has not checked.

        Raises:
            IndexFormatError: A file is not that of the manifest, or malformed; the message names it.
        """
        self.all_items.check()
        _ = self.approximate, self.thumbnails, self.all_vectors

    @cached_property
    def _units(self) -> Vectors:
        """The vectors of all rows, after a check of their lengths. Those of files that are not mapped have been checked."""
        for start, tile in self.stored.tiles() if self.stored.file else ():
            if not has_unit_rows(tile):
                path = self._path(VECTORS)
                raise IndexFormatError(f"{path}: a row from {start} on is not finite and of unit length; {REMEDY}")
        return self.stored

    def content(self, name: str) -> Bytes:
        """The checked content of a file of `files`."""
        content = self.files[name]
        if isinstance(content, BlockFile):
            content.check()
            return content.bytes.data
        return content

    def _path(self, name: str) -> Path:
        return Path(name) if self.folder is None else self.folder / name


def read_bundle(folder: str | Path) -> Bundle:
    """Opens a bundle after checking the manifest, the sizes of all files, and the content of those that are not mapped.

    Raises:
        IndexFormatError: The folder does not hold a complete and unaltered bundle; the message names the file.
    """
    folder = Path(folder)
    if not (folder / MANIFEST).exists() and RunFolder(folder).config.exists():
        raise IndexFormatError(_is_a_run(folder))
    contents = INDEX_FOLDER.read(folder)
    manifest, files = contents.manifest, contents.files
    _check_manifest(folder / MANIFEST, manifest)
    marks = next((name for name in REMOVED if name in files), "")
    removed = _read_removed(folder / marks, files.get(marks), manifest)
    rows = manifest["count"] if removed is None else len(removed)
    place = ITEMS if ITEMS in manifest["files"] else ITEMS_OF_VERSION_2
    items: Items | BlockFile = (
        contents.mapped[place]
        if place in contents.mapped
        else _checked_items(folder / place, files[place], rows, manifest, removed)
    )
    vectors = contents.mapped.get(VECTORS, files.get(VECTORS, b""))
    everything: dict[str, Bytes | BlockFile] = {**files, **contents.mapped}
    optional = (APPROXIMATE, THUMBNAILS, THUMBNAILS_OF_VERSION_2)
    return Bundle(
        stored=open_vectors(folder / VECTORS, vectors, rows, manifest["dimension"]),
        manifest=manifest,
        content_of_items=items,
        model=_read_model(folder / DESCRIPTION, files),
        files={name: everything[name] for name in optional if name in everything},
        removed=removed,
        folder=folder,
        text=contents.text,
    )


def require_unchanged(bundle: Bundle) -> None:
    """Checks that the folder of a bundle still holds what was read.

    Raises:
        RetrievalError: Another program has changed it.
    """
    if not bundle.is_current():
        raise RetrievalError(f"{bundle}: has been changed by another program in the meantime; try again")


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


def _check_manifest(path: Path, manifest: Mapping[str, Any]) -> None:
    names = manifest["files"]
    items = ITEMS if manifest["version"] == INDEX_FOLDER.version else ITEMS_OF_VERSION_2
    missing = [name for name in (VECTORS, items) if name not in names]
    weights = [name for name in names if name in ("model.safetensors", "model.onnx")]
    if missing or len(weights) != (DESCRIPTION in names) or len({*REMOVED} & {*names}) != (ROWS in manifest):
        listed = ", ".join(names) or "no files"
        raise IndexFormatError(
            f"{path}: lists {listed}, expected {VECTORS} and {items}, and {DESCRIPTION} with its weights or neither; {REMEDY}"
        )
    if ROWS in manifest and (type(manifest[ROWS]) is not int or manifest[ROWS] <= manifest["count"]):
        raise IndexFormatError(f"{path}: {ROWS} is {brief(manifest[ROWS])}, expected more than the count; {REMEDY}")
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


def _checked_items(
    path: Path, content: bytes | np.ndarray, rows: int, manifest: Mapping[str, Any], removed: np.ndarray | None
) -> Items:
    """The items of a file, whose classes are as many as the manifest says."""
    items = read_items(path, content, rows)
    labels = items.labels if removed is None else items.labels[~removed]
    if (found := len(different(labels))) != manifest["num_classes"]:
        raise IndexFormatError(f"{path}: {found} different labels, expected {manifest['num_classes']}; {REMEDY}")
    return items


def _read_removed(path: Path, content: bytes | None, manifest: Mapping[str, Any]) -> np.ndarray | None:
    """Which rows are removed: a bit for each, the first one the highest of its byte. None where no file says so."""
    if content is None:
        return None
    rows, count = manifest[ROWS], manifest["count"]
    removed = np.unpackbits(np.frombuffer(content, dtype=np.uint8)).astype(bool)
    if len(content) != -(-rows // 8) or removed[rows:].any() or rows - np.count_nonzero(removed) != count:
        raise IndexFormatError(f"{path}: does not leave {count} of {rows} rows, as the manifest says; {REMEDY}")
    return removed[:rows]
