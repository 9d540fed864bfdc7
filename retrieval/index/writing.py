"""Makes index bundles in memory, and writes them completely or not at all."""

from __future__ import annotations

import contextlib
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from retrieval import __version__
from retrieval.evaluation.arrays import check_ids, check_unit_vectors, check_whole_numbers
from retrieval.files import begins_with, blocks, claimed, folder_in_one_piece, require_only
from retrieval.files.blocks import Bytes, Finished
from retrieval.files.claims import NEW
from retrieval.files.manifest import Content
from retrieval.files.mapped import BlockFile
from retrieval.files.writing import not_written, remove_leftovers
from retrieval.index import approximate, tables, thumbnails
from retrieval.index.bundle import Bundle
from retrieval.index.calibration import calibrate
from retrieval.index.items import ITEMS_HEADER, Items, check_texts, different
from retrieval.index.manifest import (
    APPROXIMATE,
    CALIBRATION,
    INDEX_FOLDER,
    ITEMS,
    ITEMS_OF_VERSION_2,
    MANIFEST,
    METRIC,
    REMOVED,
    THUMBNAILS,
    VECTORS,
    VECTORS_OF_VERSION_1,
)
from retrieval.index.vectors import Vectors, npy_parts, open_vectors, vectors_npy, write_vectors
from retrieval.model.description import StoredModel


def make_bundle(
    *,
    vectors: np.ndarray | Vectors,
    ids: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    paths: Sequence[str] | None,
    where: str | Path = "index",
    **facts: Any,
) -> Bundle:
    """Makes a bundle in memory.

    Args:
        vectors: (count, dim) float32 unit vectors, at least one.
        ids: (count,) Whole numbers from 0, none twice.
        labels: (count,) Whole numbers from 0.
        class_names: `class_names[label]` is the name of a label.
        paths: The path of every item, absolute or relative to the root of the images, with "/" between the parts; by default the
            ids.
        where: The folder of the bundle, for messages.
        facts: The other arguments of `bundle_of`.

    Raises:
        ValueError: The arguments do not fit together.
        IndexFormatError: A name cannot be stored.
    """
    vectors = vectors if isinstance(vectors, Vectors) else check_unit_vectors("vectors", vectors)
    ids = check_ids("ids", ids, len(vectors))
    labels = check_whole_numbers("labels", labels, len(vectors))
    num_paths = len(ids if paths is None else paths)
    if not len(vectors) or labels.min() < 0 or labels.max() >= len(class_names) or num_paths != len(vectors):
        raise ValueError(
            f"{len(vectors)} vectors, {num_paths} paths, {len(class_names)} class names; expected at least one vector, "
            "a path for each, and a class name for every label from 0"
        )
    return bundle_of(vectors, Items.of(ids, labels, class_names, paths, where), where=where, **facts)


def bundle_of(
    vectors: np.ndarray | Vectors,
    items: Items,
    *,
    model: StoredModel | None,
    images_root: str,
    split: str,
    source: Mapping[str, Any],
    kind: str = approximate.EXACT,
    pictures: Sequence[bytes] | None = None,
    unseen: tuple[int, int] | None = None,
    where: str | Path = "index",
) -> Bundle:
    """Makes a bundle in memory of unit vectors and items, as many of each.

    Args:
        vectors: The vectors.
        items: The items.
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
        ValueError: The type of the index does not fit, or there are not as many pictures as vectors.
    """
    vectors = Vectors.of(vectors)
    if pictures is not None and len(pictures) != len(vectors):
        raise ValueError(f"{len(pictures)} pictures of {len(vectors)} items; give one of each")
    factory = kind if kind == approximate.EXACT else approximate.factory_string(kind, *vectors.shape)
    check_texts(Path(where), images_root=images_root, split=split)
    files: dict[str, Bytes | BlockFile] = {}
    measured: dict[str, Any] = {}
    if pictures is not None:
        files[THUMBNAILS] = thumbnails.content(pictures)
    if factory != approximate.EXACT:
        index = approximate.build(factory, vectors)
        files[APPROXIMATE], measured = index.content(), approximate.measure(index, vectors)
    array = vectors.all()
    array.setflags(write=False)
    calibration = calibrate(array, items.labels, items.ids, unseen)
    facts = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "metric": METRIC,
        "normalised": True,
        "dimension": vectors.shape[1],
        "count": len(vectors),
        "num_classes": len(different(items.labels)),
        "images_root": images_root,
        "split": split,
        "source": dict(source),
        "type": factory,
        "approximate": measured,
        **({} if calibration is None else {CALIBRATION: calibration.to_dict()}),
    }
    return Bundle(vectors, facts, items, model, files)


@contextlib.contextmanager
def staged(out: str | Path, parts: Iterable[np.ndarray], shape: tuple[int, int]) -> Iterator[Vectors]:
    """Vectors of many blocks in a file beside a folder, so that they need not be in memory. `write_bundle` moves the file into it.

    Args:
        out: The folder.
        parts: Consecutive unit vectors.
        shape: The number and the dimension of all of them.

    Raises:
        RetrievalError: The file cannot be written.
    """
    with claimed(out) as hidden:
        folder = hidden / f"{NEW}{secrets.token_hex(4)}"
        try:
            folder.mkdir()
            file = write_vectors(folder / VECTORS, parts, shape)
            yield open_vectors(file.path, INDEX_FOLDER.map_file(file.path, file.entry, is_checked=True), *shape)
        except OSError as error:
            raise not_written(Path(out), error) from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)


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
    vectors, is_staged = bundle.stored, False
    content: Content = npy_parts((tile for _, tile in vectors.tiles()), vectors.shape)
    if vectors.file is not None and (is_staged := vectors.file.path.parent.name.startswith(NEW)):
        content = Finished(vectors.file.path, vectors.file.entry)
    elif vectors.nbytes <= blocks.BLOCK:
        content = vectors_npy(vectors.all())
    contents: dict[str, Content] = {
        VECTORS: content,
        ITEMS: bundle.items.content(),
        **({} if bundle.model is None else bundle.model.to_files()),
        **{name: bundle.content(name) for name in bundle.files},
    }
    facts = {key: bundle.manifest[key] for key in (*INDEX_FOLDER.facts, CALIBRATION) if key in bundle.manifest}
    with folder_in_one_piece(folder, overwrite=overwrite, check=check) as new:
        text = INDEX_FOLDER.write(new, facts, contents)
    if is_staged and isinstance(content, Finished):
        file = INDEX_FOLDER.map_file(folder / VECTORS, content.entry, is_checked=True)
        vectors = open_vectors(folder / VECTORS, file, *vectors.shape)
    return replace(bundle, stored=vectors, folder=folder, text=text)


def require_replaceable(folder: Path) -> None:
    """Checks that a folder holds nothing but a bundle, which may be of an earlier version or damaged.

    Raises:
        RetrievalError: Something else would be lost.
    """
    # Other programs have a manifest.json, too.
    is_bundle = INDEX_FOLDER.claims(folder) or tables.is_table(folder / ITEMS, tables.ITEMS)
    is_bundle = is_bundle or begins_with(folder / ITEMS_OF_VERSION_2, ITEMS_HEADER)
    if is_bundle:  # what a killed process has left is no other file
        remove_leftovers([folder / name for name in (MANIFEST, *REMOVED)])
    require_only(folder, (*INDEX_FOLDER.files, MANIFEST, VECTORS_OF_VERSION_1) if is_bundle else (), "an index")


def versions() -> dict[str, str]:
    """The versions of the packages that a bundle is made with."""
    versions = {"retrieval": __version__}
    for name in ("numpy", "torch", "timm", "faiss-cpu", "pyarrow"):
        with contextlib.suppress(metadata.PackageNotFoundError):  # faiss has other names elsewhere
            versions[name] = metadata.version(name)
    return versions
