"""The manifest of an index bundle: what the folder holds, with the size and sha256 of every file.

It finds damage and mix-ups, before anything else of the bundle is read. It is no signature: who can write the files can write
the manifest.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from retrieval.errors import IndexFormatError

FORMAT = "retrieval index"
VERSION = 2
VECTORS_OF_VERSION_1 = "vectors.faiss"
MANIFEST = "manifest.json"
VECTORS, ITEMS, MODEL, WEIGHTS = "vectors.npy", "items.csv", "model.json", "model.safetensors"
APPROXIMATE, THUMBNAILS = "approximate.faiss", "thumbnails.zip"
FILES = (VECTORS, ITEMS, MODEL, WEIGHTS, APPROXIMATE, THUMBNAILS)

REMEDY = "build the index again with `retrieval index`"

_TYPES: Mapping[str, type] = {
    "created": str,
    "versions": dict,
    "metric": str,
    "normalised": bool,
    "dimension": int,
    "count": int,
    "num_classes": int,
    "images_root": str,
    "split": str,
    "source": dict,
    "type": str,
    "approximate": dict,
    "files": dict,
}


def write_manifest(folder: Path, facts: Mapping[str, Any]) -> None:
    """Describes the files of a bundle, all of which must be written already.

    Args:
        folder: of the bundle.
        facts: everything that `read_manifest` asks for besides the files.
    """
    files = {name: _describe(folder / name) for name in FILES if (folder / name).exists()}
    manifest = {"format": FORMAT, "version": VERSION, **facts, "files": files}
    text = json.dumps(manifest | {"checksum": _checksum(manifest)}, indent=2, allow_nan=False)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a bundle, after checking it and every file it lists.

    Raises:
        IndexFormatError: the folder holds no bundle, one of another version, or one whose files are not those written.
    """
    manifest = _parse(folder)
    for name, expected in manifest["files"].items():
        check_file(folder / name, expected)
    return manifest


def check_file(path: Path, expected: Mapping[str, Any]) -> None:
    """Checks that a file has the size and sha256 that the manifest expects.

    Raises:
        IndexFormatError: it has not, or cannot be read.
    """
    try:
        found = _describe(path)
    except FileNotFoundError:
        raise IndexFormatError(f"{path}: missing, expected {expected['size']} bytes; {REMEDY}") from None
    except OSError as error:
        raise IndexFormatError(f"{path}: cannot be read ({error.strerror}); mend that, or {REMEDY}") from error
    for what, value in found.items():
        if value != expected[what]:
            raise IndexFormatError(f"{path}: {what} is {value}, expected {expected[what]} by {MANIFEST}; {REMEDY}")


def _describe(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _checksum(manifest: Mapping[str, Any]) -> str:
    """The sha256 of what the manifest says, however it is laid out."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True, allow_nan=False).encode()).hexdigest()


def _parse(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        found = "is a file" if folder.exists() else "does not exist"
        raise IndexFormatError(f"{folder}: {found}, expected the folder of an index; {REMEDY}, or give its folder")
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        inside = " or ".join(shlex.quote(str(place.parent)) for place in sorted(folder.glob(f"*/{MANIFEST}"))[:3])
        hint = f"did you mean {inside}?" if inside else f"{REMEDY}, or give another folder"
        raise IndexFormatError(f"{folder}: has no {MANIFEST}, so it is no index, or not a whole one; {hint}") from None
    except OSError as error:
        raise IndexFormatError(f"{path}: cannot be read ({error.strerror}); mend that, or {REMEDY}") from error
    except (ValueError, RecursionError) as error:
        raise IndexFormatError(f"{path}: is not valid JSON ({error}); {REMEDY}") from error

    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise IndexFormatError(
            f'{path}: does not say "format": "{FORMAT}", so this is another kind of folder; {REMEDY}'
        )
    if manifest.get("version") != VERSION:
        raise IndexFormatError(
            f"{path}: version is {manifest.get('version')!r}, expected {VERSION}; {REMEDY}, or use the version of "
            "`retrieval` that made it"
        )
    checksum = manifest.pop("checksum", None)
    try:
        found = _checksum(manifest)
    except (ValueError, RecursionError) as error:
        raise IndexFormatError(f"{path}: is not valid JSON ({error}); {REMEDY}") from error
    if checksum != found:
        raise IndexFormatError(f"{path}: has been altered (checksum is {found}, expected {checksum}); {REMEDY}")

    for key, kind in _TYPES.items():
        if type(manifest.get(key)) is not kind:
            raise IndexFormatError(
                f"{path}: {key} is {manifest.get(key)!r}, expected a value of type {kind.__name__}; {REMEDY}"
            )
    for name, expected in manifest["files"].items():
        # Known names only: no file outside the folder is ever opened.
        if name not in FILES or not isinstance(expected, dict) or expected.keys() != {"size", "sha256"}:
            raise IndexFormatError(
                f"{path}: lists {name!r} as {expected!r}, expected one of {', '.join(FILES)} with size and sha256; {REMEDY}"
            )
    missing = [name for name in (VECTORS, ITEMS) if name not in manifest["files"]]
    if missing or (MODEL in manifest["files"]) != (WEIGHTS in manifest["files"]):
        listed = ", ".join(manifest["files"]) or "no files"
        raise IndexFormatError(
            f"{path}: lists {listed}, expected {VECTORS} and {ITEMS}, and {MODEL} with {WEIGHTS} or neither; {REMEDY}"
        )
    return manifest
