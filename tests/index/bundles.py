"""Bundles for the tests of the index: made with few words, and changed behind the back of the package."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from retrieval.index.bundle import Bundle, read_bundle
from retrieval.index.manifest import INDEX_FOLDER
from retrieval.index.writing import make_bundle, write_bundle


def write(folder: Path, *, overwrite: bool = False, **arguments: Any) -> Bundle:
    """Makes a bundle of arguments of `make_bundle` and writes it."""
    return write_bundle(make_bundle(**arguments, where=folder), folder, overwrite=overwrite)


def rewrite(folder: Path, **changes: Any) -> None:
    """Changes the facts of a manifest; sizes and checksums fit the files of the folder."""
    path = folder / "manifest.json"
    facts = {key: json.loads(path.read_text())[key] for key in INDEX_FOLDER.facts}
    contents = {name: (folder / name).read_bytes() for name in INDEX_FOLDER.files if (folder / name).is_file()}
    path.write_bytes(INDEX_FOLDER.text(facts | changes, contents))


def downgrade(folder: Path, items: bytes | None = None) -> None:
    """Makes a bundle one of version 2, with the given content of items.csv."""
    bundle = read_bundle(folder)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "label", "class", "path"])
    writer.writerows(zip(bundle.ids.tolist(), bundle.labels.tolist(), bundle.class_names, bundle.paths, strict=True))
    (folder / "items.arrows").unlink()
    (folder / "items.csv").write_bytes(text.getvalue().encode() if items is None else items)
    if bundle.thumbnails is not None:
        (folder / "thumbnails.arrows").unlink()
        with zipfile.ZipFile(folder / "thumbnails.zip", "w") as archive:
            for position, picture in enumerate(bundle.thumbnails):
                archive.writestr(f"{position}.jpg", picture)
    kind = replace(INDEX_FOLDER, version=2, mapped=())
    contents = {name: (folder / name).read_bytes() for name in INDEX_FOLDER.files if (folder / name).is_file()}
    facts = {key: bundle.manifest[key] for key in (*INDEX_FOLDER.facts, "calibration") if key in bundle.manifest}
    (folder / "manifest.json").write_bytes(kind.text(facts, contents))
