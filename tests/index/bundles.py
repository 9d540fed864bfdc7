"""Bundles for the tests of the index: made with few words, and changed behind the back of the package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from retrieval.index.bundle import Bundle
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
