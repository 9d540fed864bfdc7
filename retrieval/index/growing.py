"""Changes of a large bundle in its folder: new items are appended to its files, removed ones are marked.

No byte that the manifest lists is overwritten. The new manifest replaces the old one at last, so a process that is killed leaves
the old generation whole, and a bundle that is open stays as it was opened. `retrieval.index.editing.compact` writes all files anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.files import blocks, write_bytes
from retrieval.files.blocks import Bytes, Entry
from retrieval.files.writing import not_written
from retrieval.index import thumbnails
from retrieval.index.bundle import Bundle, read_bundle, require_unchanged
from retrieval.index.calibration import calibrate
from retrieval.index.items import Items, different
from retrieval.index.manifest import CALIBRATION, INDEX_FOLDER, ITEMS, MANIFEST, REMOVED, ROWS, THUMBNAILS, VECTORS
from retrieval.index.vectors import Vectors, open_vectors


def grows(bundle: Bundle) -> bool:
    """Whether a bundle is changed in its folder: its vectors are more than a block, and its files are of this version."""
    if bundle.folder is None or bundle.text is None:
        return False
    manifest = INDEX_FOLDER.parse(bundle.folder, bundle.text)
    return manifest["version"] == INDEX_FOLDER.version and "block" in manifest["files"][VECTORS]


def append(
    bundle: Bundle,
    vectors: np.ndarray,
    class_names: Sequence[str],
    paths: Sequence[str],
    pictures: Sequence[bytes] | None,
    *,
    images_root: str | None,
) -> Bundle:
    """Appends items; see `retrieval.index.editing.add`."""
    folder, manifest = _state(bundle)
    labels, names = _labels(bundle, class_names)
    first = int(bundle.all_items.ids.max()) + 1
    new = Items.of(np.arange(first, first + len(paths)), labels, names, paths, folder)
    contents: dict[str, Bytes] = {
        VECTORS: np.ascontiguousarray(vectors, dtype="<f4").data,
        ITEMS: new.content(),
    }
    if pictures is not None and THUMBNAILS in bundle.files:
        contents[THUMBNAILS] = thumbnails.content(pictures)
    items = bundle.all_items.followed_by(new)
    try:
        entries = manifest["files"] | {
            name: INDEX_FOLDER.append(folder / name, manifest["files"][name], content)
            for name, content in contents.items()
        }
    except OSError as error:
        raise not_written(folder, error) from error
    file = INDEX_FOLDER.map_file(folder / VECTORS, entries[VECTORS])
    removed = bundle.removed
    if removed is not None:
        removed = np.concatenate([removed, np.zeros(len(paths), dtype=bool)])
        entries = _with_marks(folder, entries, removed)
    stored = open_vectors(folder / VECTORS, file, len(items), manifest["dimension"])
    facts = _facts(bundle, stored, items, removed) | {"images_root": images_root or manifest["images_root"]}
    return _commit(folder, facts, entries)


def mark(bundle: Bundle, positions: np.ndarray) -> Bundle:
    """Marks items as removed; see `retrieval.index.editing.remove`."""
    folder, manifest = _state(bundle)
    removed = np.zeros(len(bundle.stored), dtype=bool) if bundle.removed is None else bundle.removed.copy()
    removed[positions if bundle.rows is None else bundle.rows[positions]] = True
    entries = _with_marks(folder, manifest["files"], removed)
    return _commit(folder, _facts(bundle, bundle.stored, bundle.all_items, removed), entries)


def _state(bundle: Bundle) -> tuple[Path, dict[str, Any]]:
    """The folder, and the manifest that it still has.

    Raises:
        RetrievalError: Another program has changed it.
    """
    require_unchanged(bundle)
    assert bundle.folder is not None
    return bundle.folder, INDEX_FOLDER.parse(bundle.folder, bundle.text)


def _labels(bundle: Bundle, class_names: Sequence[str]) -> tuple[np.ndarray, dict[int, str]]:
    """The labels of new items, those of known classes as they are, and the name of each."""
    number = bundle.all_items.label_of_class
    following = int(bundle.all_items.labels.max()) + 1
    for name in class_names:
        if name not in number:
            number[name], following = following, following + 1
    return np.array([number[name] for name in class_names]), {label: name for name, label in number.items()}


def _facts(bundle: Bundle, vectors: Vectors, items: Items, removed: np.ndarray | None) -> dict[str, Any]:
    """The facts of the manifest for other items, with a threshold that is found again."""
    facts = {key: bundle.manifest[key] for key in INDEX_FOLDER.facts}
    unseen = None if bundle.calibration is None else bundle.calibration.ids
    calibration = calibrate(vectors.all(), items.labels, items.ids, unseen, removed)
    count = len(items) if removed is None else len(items) - int(np.count_nonzero(removed))
    labels = items.labels if removed is None else items.labels[~removed]
    return {
        **facts,
        "count": count,
        "num_classes": len(different(labels)),
        **({} if calibration is None else {CALIBRATION: calibration.to_dict()}),
        **({} if removed is None else {ROWS: len(items)}),
    }


def _with_marks(folder: Path, entries: Mapping[str, Entry], removed: np.ndarray) -> dict[str, Entry]:
    """Writes the marks into the file that the manifest does not list, and returns the entries with it in place of the other."""
    name = REMOVED[1] if REMOVED[0] in entries else REMOVED[0]
    content = np.packbits(removed).tobytes()
    write_bytes(folder / name, content)
    kept = {key: entry for key, entry in entries.items() if key not in REMOVED}
    return kept | {name: blocks.entry_of(content, blocks.BLOCK)}


def _commit(folder: Path, facts: Mapping[str, Any], entries: Mapping[str, Entry]) -> Bundle:
    """Writes the manifest, and opens the new generation."""
    write_bytes(folder / MANIFEST, INDEX_FOLDER.text_of(facts, entries))
    for name in REMOVED:
        if name not in entries:
            (folder / name).unlink(missing_ok=True)
    return read_bundle(folder)
