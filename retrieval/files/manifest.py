"""Folders with a manifest: `manifest.json` lists every file with its size and sha256.

The manifest finds damage and mixed-up files before anything else of the folder is used. It is not a signature: whoever can write
the files can write the manifest.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrieval.errors import RetrievalError, brief
from retrieval.files.claims import is_being_replaced
from retrieval.files.reading import open_file, read_file

MANIFEST = "manifest.json"

_LARGEST = 2**20  # bytes of a manifest

Files = dict[str, bytes]


@dataclass(frozen=True)
class Contents:
    """What a folder with a manifest holds.

    Args:
        manifest: The manifest.
        files: The content of the files that were read, each of the size and sha256 in the manifest.
        text: The content of manifest.json.
    """

    manifest: dict[str, Any]
    files: Files
    text: bytes


@dataclass(frozen=True)
class FolderKind:
    """A kind of folder with a manifest.

    Args:
        format: The value of "format" in the manifest.
        version: The value of "version".
        noun: The name of such a folder in messages, with its article.
        files: The names that the manifest may list.
        facts: The other keys of the manifest, with their types.
        remedy: How to mend a folder, for messages.
        error: The class of the errors.
        check: A function that checks the values of these keys. It raises a `ValueError`.
    """

    format: str
    version: int
    noun: str
    files: Collection[str]
    facts: Mapping[str, type]
    remedy: str
    error: type[RetrievalError]
    check: Callable[[Mapping[str, Any]], None] = lambda manifest: None

    def read(self, folder: Path, names: Collection[str] | None = None) -> Contents:
        """Reads a folder as one generation: a folder that is replaced meanwhile is read again.

        Args:
            folder: The folder.
            names: The files to read; None reads all that the manifest lists.

        Raises:
            RetrievalError: Of the kind's class: the folder is missing, of another kind or version, incomplete or altered.
        """
        while True:
            generation, text = _generation(folder), manifest_text(folder)
            try:
                manifest = self.parse(folder, text)
                files = {
                    name: self._read_file(folder / name, expected)
                    for name, expected in manifest["files"].items()
                    if names is None or name in names
                }
                return Contents(manifest, files, text or b"")
            except self.error:
                if _generation(folder) == generation and not is_being_replaced(folder):
                    raise

    def claims(self, folder: Path) -> bool:
        """Whether the manifest of a folder, which may be damaged, says that the folder is of this kind."""
        return f'"format": "{self.format}"'.encode() in (manifest_text(folder) or b"")

    def parse(self, folder: Path, text: bytes | None) -> dict[str, Any]:
        """The checked manifest of a folder from the text of its file.

        Raises:
            RetrievalError: See `read`.
        """
        path = folder / MANIFEST
        if text is None:
            raise self._missing(folder)
        try:
            manifest = json.loads(text.decode())
        except (ValueError, RecursionError) as error:
            raise self.error(f"{path}: is not valid JSON ({error}); {self.remedy}") from error
        if not isinstance(manifest, dict) or manifest.get("format") != self.format:
            raise self.error(
                f'{path}: does not say "format": "{self.format}", so this is another kind of folder; {self.remedy}'
            )
        if (version := manifest.get("version")) != self.version:
            raise self.error(
                f"{path}: version is {brief(version)}, expected {self.version}; {self.remedy}, or use the version of "
                "`retrieval` that made it"
            )
        expected = manifest.pop("checksum", None)
        try:
            checksum = _checksum(manifest)
        except (ValueError, RecursionError) as error:
            raise self.error(f"{path}: is not valid JSON ({error}); {self.remedy}") from error
        if checksum != expected:
            raise self.error(
                f"{path}: has been altered (checksum is {checksum}, expected {brief(expected, 80)}); {self.remedy}"
            )
        for key, type_ in {**self.facts, "files": dict}.items():
            if type(manifest.get(key)) is not type_:
                raise self.error(
                    f"{path}: {key} is {brief(manifest.get(key))}, expected a value of type {type_.__name__}; {self.remedy}"
                )
        for name, entry in manifest["files"].items():
            # Known names only: no file outside the folder is ever opened.
            if name not in self.files or not _is_entry(entry):
                raise self.error(
                    f"{path}: lists {brief(name)} as {brief(entry)}, expected one of {', '.join(self.files)} with size and sha256; "
                    f"{self.remedy}"
                )
        try:
            self.check(manifest)
        except ValueError as error:
            raise self.error(f"{path}: {error}; {self.remedy}") from error
        return manifest

    def write(self, folder: Path, facts: Mapping[str, Any], contents: Mapping[str, bytes | memoryview]) -> bytes:
        """Writes the files and the manifest into a new folder.

        Args:
            folder: The folder, usually that of `folder_in_one_piece`.
            facts: The keys of the manifest besides the files.
            contents: The content of every file.

        Returns:
            The content of manifest.json.
        """
        for name, content in contents.items():
            (folder / name).write_bytes(content)
        text = self.text(facts, contents)
        (folder / MANIFEST).write_bytes(text)
        return text

    def text(self, facts: Mapping[str, Any], contents: Mapping[str, bytes | memoryview]) -> bytes:
        """The content of manifest.json for files of these contents."""
        files = {name: describe(contents[name]) for name in self.files if name in contents}
        manifest = {"format": self.format, "version": self.version, **facts, "files": files}
        text = json.dumps(manifest | {"checksum": _checksum(manifest)}, indent=2, allow_nan=False)
        return f"{text}\n".encode()

    def _read_file(self, path: Path, expected: Mapping[str, Any]) -> bytes:
        try:
            with open_file(path) as file:
                size = os.fstat(file.fileno()).st_size
                if size != expected["size"]:  # before memory is taken
                    raise self._differs(path, "size", size, expected)
                content = file.read(size)
        except FileNotFoundError:
            raise self.error(f"{path}: missing, expected {expected['size']} bytes; {self.remedy}") from None
        except OSError as error:
            raise self.error(f"{path}: cannot be read ({error.strerror}); mend that, or {self.remedy}") from error
        for key, value in describe(content).items():
            if value != expected[key]:
                raise self._differs(path, key, value, expected)
        return content

    def _differs(self, path: Path, key: str, value: Any, expected: Mapping[str, Any]) -> RetrievalError:
        return self.error(f"{path}: {key} is {value}, expected {str(expected[key])[:80]} by {MANIFEST}; {self.remedy}")

    def _missing(self, folder: Path) -> RetrievalError:
        path = folder / MANIFEST
        if not folder.is_dir():
            state = "is a file" if folder.exists() else "does not exist"
            return self.error(
                f"{folder}: {state}, expected the folder of {self.noun}; {self.remedy}, or give its folder"
            )
        if path.exists():
            return self.error(f"{path}: cannot be read{_reason(path)}; mend that, or {self.remedy}")
        inside = " or ".join(shlex.quote(str(found.parent)) for found in sorted(folder.glob(f"*/{MANIFEST}"))[:3])
        hint = f"did you mean {inside}?" if inside else f"{self.remedy}, or give another folder"
        return self.error(f"{folder}: has no {MANIFEST}, so it is not {self.noun}, or not a whole one; {hint}")


def manifest_text(folder: Path) -> bytes | None:
    """The content of the manifest of a folder; None where it cannot be read."""
    try:
        return read_file(folder / MANIFEST, _LARGEST)
    except OSError:
        return None


def _generation(folder: Path) -> tuple[int, int] | None:
    """What differs once a folder is replaced, even by one of the same content; None where there is no folder."""
    try:
        state = folder.stat()
    except (OSError, ValueError):  # a ValueError: no file can have this name
        return None
    return state.st_ino, state.st_mtime_ns


def _reason(path: Path) -> str:
    """Why a file cannot be read, in parentheses; "" where it can be read by now."""
    try:
        read_file(path, _LARGEST)
    except OSError as error:
        return f" ({error.strerror})"
    return ""


def describe(content: bytes | memoryview) -> dict[str, Any]:
    """The entry of a manifest for a file of this content."""
    return {"size": memoryview(content).nbytes, "sha256": hashlib.sha256(content).hexdigest()}


def _is_entry(entry: Any) -> bool:
    if not isinstance(entry, dict) or entry.keys() != {"size", "sha256"}:
        return False
    return type(entry["size"]) is int and entry["size"] >= 0 and isinstance(entry["sha256"], str)


def _checksum(manifest: Mapping[str, Any]) -> str:
    """The sha256 of a manifest's content, whatever its layout."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True, allow_nan=False).encode()).hexdigest()
