"""Writing an index bundle, whole or not at all."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.evaluation.arrays import check_ids, check_unit_vectors, check_whole_numbers
from retrieval.files import folder_in_one_piece, require_only
from retrieval.index import approximate, thumbnails
from retrieval.index.items import check_names, items_csv
from retrieval.index.manifest import (
    APPROXIMATE,
    FILES,
    ITEMS,
    MANIFEST,
    MODEL,
    THUMBNAILS,
    VECTORS,
    VECTORS_OF_VERSION_1,
    WEIGHTS,
    write_manifest,
)
from retrieval.index.vectors import METRIC, vectors_npy


def require_replaceable(folder: Path) -> None:
    """Checks that a folder holds nothing but a bundle, be it of an earlier version or damaged.

    Raises:
        RetrievalError: something else would be lost.
    """
    is_bundle = any((folder / name).exists() for name in (MANIFEST, ITEMS))  # vectors alone may be anybody's
    require_only(folder, (*FILES, MANIFEST, VECTORS_OF_VERSION_1) if is_bundle else (), "an index")


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
    kind: str = approximate.EXACT,
    pictures: Sequence[bytes] | None = None,
    overwrite: bool = False,
    check: Callable[[Path], None] = require_replaceable,
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
        kind: "exact", or how to find candidates faster: see `retrieval.index.approximate.factory_string`. How often that finds
            what exact search finds is measured, and stands in the manifest.
        pictures: a small JPEG of every item.
        overwrite: replace a bundle that is there; a folder with other files in it is left alone.
        check: of the folder that is replaced, before the work and right before the new bundle takes its place.

    Raises:
        ValueError: the arguments do not fit together.
        IndexFormatError: a name is not fit for items.csv.
        RetrievalError: `folder` exists and `overwrite` is off, it holds other files than a bundle's, or it cannot be written.
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
    if pictures is not None and len(pictures) != len(vectors):
        raise ValueError(f"{len(pictures)} pictures of {len(vectors)} items; give one of each")
    factory = kind if kind == approximate.EXACT else approximate.factory_string(kind, *vectors.shape)
    names = [class_names[label] for label in labels]
    check_names(folder, names, paths)
    if overwrite and folder.is_dir():
        check(folder)
    contents: dict[str, bytes | memoryview] = {
        VECTORS: vectors_npy(vectors),
        ITEMS: items_csv(ids, labels, names, paths),
    }
    if model is not None and weights is not None:
        contents |= {MODEL: json.dumps(model, indent=2, allow_nan=False).encode(), WEIGHTS: weights}
    if pictures is not None:
        contents[THUMBNAILS] = thumbnails.pack(pictures)
    measured: dict[str, Any] = {}
    if factory != approximate.EXACT:
        index = approximate.build(factory, vectors)
        contents[APPROXIMATE], measured = index.content(), approximate.measure(index, vectors)
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
    }
    with folder_in_one_piece(folder, overwrite=overwrite, check=check) as new:
        for name, content in contents.items():
            (new / name).write_bytes(content)
        write_manifest(new, facts)


def _versions() -> dict[str, str]:
    versions = {}
    for name in ("retrieval", "numpy", "torch", "timm", "faiss-cpu"):
        with contextlib.suppress(metadata.PackageNotFoundError):  # faiss has other names elsewhere
            versions[name] = metadata.version(name)
    return versions
