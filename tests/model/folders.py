"""Saved models and indexes as another program could write them: any content, and a manifest that fits it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from retrieval.files.manifest import FolderKind
from retrieval.model.places import INDEX_FOLDER, MODEL_FOLDER

KINDS = {"saved model": MODEL_FOLDER, "index": INDEX_FOLDER}


def rewrite(folder: Path, **changes: Any) -> None:
    """Changes the facts of a manifest; sizes and checksums fit the files of the folder."""
    kind = MODEL_FOLDER if MODEL_FOLDER.claims(folder) else INDEX_FOLDER
    facts = {key: json.loads((folder / "manifest.json").read_text())[key] for key in kind.facts}
    contents = {name: (folder / name).read_bytes() for name in kind.files if (folder / name).is_file()}
    (folder / "manifest.json").write_bytes(kind.text(facts | changes, contents))


def write_forged(folder: Path, kind: FolderKind, contents: Mapping[str, bytes], dimension: int) -> Path:
    """Writes a folder of a kind that holds these files, in place of an earlier one."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    known: dict[str, Any] = dict.fromkeys(("count", "num_classes", "dimension"), dimension)
    known |= {"metric": "inner_product", "normalised": True, "type": "exact"}
    facts = {key: known.get(key, type_()) for key, type_ in kind.facts.items()}
    kind.write(folder, facts, contents)
    return folder
