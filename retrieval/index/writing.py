"""Makes index bundles in memory, and writes them completely or not at all."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.evaluation.arrays import check_ids, check_unit_vectors, check_whole_numbers
from retrieval.files import begins_with, folder_in_one_piece, require_only
from retrieval.index import approximate, thumbnails
from retrieval.index.bundle import Bundle
from retrieval.index.calibration import calibrate
from retrieval.index.items import ITEMS_HEADER, check_names, check_texts, items_csv
from retrieval.index.manifest import (
    APPROXIMATE,
    CALIBRATION,
    INDEX_FOLDER,
    ITEMS,
    MANIFEST,
    METRIC,
    THUMBNAILS,
    VECTORS,
    VECTORS_OF_VERSION_1,
)
from retrieval.index.vectors import vectors_npy
from retrieval.model.description import StoredModel


def make_bundle(
    *,
    vectors: np.ndarray,
    ids: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    paths: Sequence[str],
    model: StoredModel | None,
    images_root: str,
    split: str,
    source: Mapping[str, Any],
    kind: str = approximate.EXACT,
    pictures: Sequence[bytes] | None = None,
    unseen: tuple[int, int] | None = None,
    where: str | Path = "index",
) -> Bundle:
    """Makes a bundle in memory.

    Args:
        vectors: (count, dim) float32 unit vectors, at least one.
        ids: (count,) Whole numbers from 0, none twice.
        labels: (count,) Whole numbers from 0.
        class_names: `class_names[label]` is the name of a label.
        paths: The path of every item, absolute or relative to the root of the images, with "/" between the parts.
        model: The model that made the vectors, if it is known.
        images_root: The folder of the images, for information.
        split: The split of the data set, for information.
        source: The origin of the vectors, as a JSON object.
        kind: "exact", or an approximate type; see `retrieval.index.approximate.factory_string`. The share of the exact neighbours
            that it finds is measured and recorded.
        pictures: A small JPEG of every item.
        unseen: The ids [first, last + 1] of the images that the model was not trained on; see `retrieval.index.calibration`.
        where: The folder of the bundle, for messages.

    Raises:
        ValueError: The arguments do not fit together.
        IndexFormatError: A name cannot be stored.
    """
    vectors = check_unit_vectors("vectors", vectors)
    ids = check_ids("ids", ids, len(vectors))
    labels = check_whole_numbers("labels", labels, len(vectors))
    if not len(vectors) or labels.min() < 0 or labels.max() >= len(class_names) or len(paths) != len(vectors):
        raise ValueError(
            f"{len(vectors)} vectors, {len(paths)} paths, {len(class_names)} class names; expected at least one vector, "
            "a path for each, and a class name for every label from 0"
        )
    if pictures is not None and len(pictures) != len(vectors):
        raise ValueError(f"{len(pictures)} pictures of {len(vectors)} items; give one of each")
    factory = kind if kind == approximate.EXACT else approximate.factory_string(kind, *vectors.shape)
    for array in (vectors, ids, labels):
        array.setflags(write=False)
    names = tuple(class_names[label] for label in labels)
    check_names(Path(where), names, paths)
    check_texts(Path(where), images_root=images_root, split=split)
    files: dict[str, bytes | memoryview] = {}
    measured: dict[str, Any] = {}
    if pictures is not None:
        files[THUMBNAILS] = thumbnails.pack(pictures)
    if factory != approximate.EXACT:
        index = approximate.build(factory, vectors)
        files[APPROXIMATE], measured = index.content(), approximate.measure(index, vectors)
    calibration = calibrate(vectors, labels, ids, unseen)
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
        "type": factory,
        "approximate": measured,
        **({} if calibration is None else {CALIBRATION: calibration.to_dict()}),
    }
    return Bundle(vectors, ids, labels, names, tuple(paths), facts, model, files)


def write_bundle(
    bundle: Bundle,
    folder: str | Path,
    *,
    overwrite: bool = False,
    check: Callable[[Path], None] | None = None,
) -> Bundle:
    """Writes a bundle, completely or not at all.

    Args:
        bundle: The bundle.
        folder: The folder of the bundle.
        overwrite: Replace a bundle in that folder. A folder with other files in it is left alone.
        check: Checks the folder that is replaced, before the work and right before the new bundle takes its place; by default
            `require_replaceable`.

    Returns:
        The bundle, with its folder.

    Raises:
        RetrievalError: The folder exists and `overwrite` is off, it holds other files, or it cannot be written.
    """
    folder = Path(folder)
    check = check or require_replaceable
    if overwrite and folder.is_dir():
        check(folder)
    contents: dict[str, bytes | memoryview] = {
        VECTORS: vectors_npy(bundle.vectors),
        ITEMS: items_csv(bundle.ids, bundle.labels, bundle.class_names, bundle.paths),
        **({} if bundle.model is None else bundle.model.to_files()),
        **bundle.files,
    }
    facts = {key: bundle.manifest[key] for key in (*INDEX_FOLDER.facts, CALIBRATION) if key in bundle.manifest}
    with folder_in_one_piece(folder, overwrite=overwrite, check=check) as new:
        text = INDEX_FOLDER.write(new, facts, contents)
    return replace(bundle, folder=folder, text=text)


def require_replaceable(folder: Path) -> None:
    """Checks that a folder holds nothing but a bundle, which may be of an earlier version or damaged.

    Raises:
        RetrievalError: Something else would be lost.
    """
    is_bundle = INDEX_FOLDER.claims(folder) or begins_with(
        folder / ITEMS, ITEMS_HEADER
    )  # other programs have a manifest.json, too
    require_only(folder, (*INDEX_FOLDER.files, MANIFEST, VECTORS_OF_VERSION_1) if is_bundle else (), "an index")


def _versions() -> dict[str, str]:
    versions = {}
    for name in ("retrieval", "numpy", "torch", "timm", "faiss-cpu"):
        with contextlib.suppress(metadata.PackageNotFoundError):  # faiss has other names elsewhere
            versions[name] = metadata.version(name)
    return versions
