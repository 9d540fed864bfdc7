"""Folders with a manifest: `manifest.json` lists every file with its size and sha256, a large one with the checksums of its blocks.

The manifest finds damage and mixed-up files before anything else of the folder is used. It is not a signature: whoever can write
the files can write the manifest.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrieval.errors import RetrievalError, brief
from retrieval.files import blocks
from retrieval.files.blocks import Bytes, Entry, Finished
from retrieval.files.claims import is_being_replaced
from retrieval.files.reading import open_file, read_file
from retrieval.files.writing import sync_file

if TYPE_CHECKING:
    from retrieval.files.mapped import BlockFile

MANIFEST = "manifest.json"

_LARGEST = 2**24  # bytes of a manifest

Files = dict[str, bytes]
# The content of a file to be written: as a whole, in parts, or written already.
Content = Bytes | Iterable[Bytes] | Finished


@dataclass(frozen=True)
class Contents:
    """What a folder with a manifest holds.

    Args:
        manifest: The manifest.
        files: The content of the files that were read, each of the size and checksum in the manifest.
        text: The content of manifest.json.
        mapped: The files that are checked when they are used.
    """

    manifest: dict[str, Any]
    files: Files
    text: bytes
    mapped: dict[str, BlockFile] = field(default_factory=dict)


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
        earlier: The earlier versions that are read, too.
        mapped: The names of the files that are mapped instead of read where they are larger than a block. Only a kind with such
            names has checksums by blocks. In a folder with a mapped file, these files may grow: what follows their size is not
            part of them, but of an addition that is not finished.
    """

    format: str
    version: int
    noun: str
    files: Collection[str]
    facts: Mapping[str, type]
    remedy: str
    error: type[RetrievalError]
    check: Callable[[Mapping[str, Any]], None] = lambda manifest: None
    earlier: Collection[int] = ()
    mapped: Collection[str] = ()

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
                listed = {name: entry for name, entry in manifest["files"].items() if names is None or name in names}
                grows = any(name in self.mapped and "block" in entry for name, entry in manifest["files"].items())
                mapped = {
                    name: self.map_file(folder / name, entry)
                    for name, entry in listed.items()
                    if name in self.mapped and "block" in entry
                }
                files = {
                    name: self._read_file(folder / name, entry, grows and name in self.mapped)
                    for name, entry in listed.items()
                    if name not in mapped
                }
                return Contents(manifest, files, text or b"", mapped)
            except self.error:
                # The lock is asked first: it is released after the new folder has its name.
                if not is_being_replaced(folder) and _generation(folder) == generation:
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
        version, known = manifest.get("version"), (*self.earlier, self.version)
        if type(version) is not int or version not in known:
            expected = " or ".join(map(str, known))
            raise self.error(
                f"{path}: version is {brief(version)}, expected {expected}; {self.remedy}, or use the version of "
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
            if name not in self.files or not blocks.is_entry(entry, in_blocks=bool(self.mapped)):
                raise self.error(
                    f"{path}: lists {brief(name)} as {brief(entry)}, expected one of {', '.join(self.files)} with its checksum; "
                    f"{self.remedy}"
                )
        try:
            self.check(manifest)
        except ValueError as error:
            raise self.error(f"{path}: {error}; {self.remedy}") from error
        return manifest

    def write(self, folder: Path, facts: Mapping[str, Any], contents: Mapping[str, Content]) -> bytes:
        """Writes the files and the manifest into a new folder.

        Args:
            folder: The folder, usually that of `folder_in_one_piece`.
            facts: The keys of the manifest besides the files.
            contents: The content of every file.

        Returns:
            The content of manifest.json.
        """
        text = self.text_of(
            facts, {name: self._write_file(folder / name, content) for name, content in contents.items()}
        )
        (folder / MANIFEST).write_bytes(text)
        return text

    def text(self, facts: Mapping[str, Any], contents: Mapping[str, Bytes]) -> bytes:
        """The content of manifest.json for files of these contents."""
        return self.text_of(facts, {name: blocks.entry_of(it, self._block) for name, it in contents.items()})

    def text_of(self, facts: Mapping[str, Any], entries: Mapping[str, Entry]) -> bytes:
        """The content of manifest.json for files of these entries."""
        files = {name: entries[name] for name in self.files if name in entries}
        manifest = {"format": self.format, "version": self.version, **facts, "files": files}
        text = json.dumps(manifest | {"checksum": _checksum(manifest)}, indent=2, allow_nan=False)
        return f"{text}\n".encode()

    def map_file(self, path: Path, entry: Entry, *, is_checked: bool = False) -> BlockFile:
        """Maps a file of blocks; `is_checked` tells whether this process has just written it.

        Raises:
            RetrievalError: Of the kind's class: it cannot be opened, or is shorter than its entry says.
        """
        from retrieval.files.mapped import BlockFile  # not at the top: NumPy is not needed for other folders

        try:
            return BlockFile(path, entry, self.differs(path), is_checked=is_checked)
        except FileNotFoundError:
            raise self._gone(path, entry) from None
        except OSError as error:
            raise self._not_read(path, error) from error

    def append(self, path: Path, entry: Entry, content: Bytes) -> Entry:
        """Appends to a file, after a check of the bytes that it shares a block with, and flushes it to the disk.

        What follows the size of the entry is of a killed process, and is replaced. The file stays as it is for those who read it
        by its old entry.

        Returns:
            The entry of the longer file.

        Raises:
            RetrievalError: Of the kind's class: the end of the file is not that of its entry.
            OSError: The file cannot be written.
        """
        block = int(entry.get("block", max(blocks.BLOCK, entry["size"])))
        size = entry["size"]
        if "block" in entry:
            file = self.map_file(path, entry)
            file.check(size // block * block)
            before = file.bytes[size // block * block :].tobytes()
        else:
            before = self._read_file(path, entry, grows=True) if size % block else b""
        with path.open("r+b") as opened:
            opened.seek(size)
            opened.truncate()
            longer = blocks.write_in_blocks(opened, [content], block=block, entry=entry, before=before)
        sync_file(path)
        return longer

    def differs(self, path: Path) -> Callable[[str, Any, Any], RetrievalError]:
        """Makes the errors for a file that is not that of its entry: from what differs, its value, and the value of the entry."""
        return lambda key, value, expected: self._differs(path, key, value, expected)

    @property
    def _block(self) -> int | None:
        return blocks.BLOCK if self.mapped else None

    def _write_file(self, path: Path, content: Content) -> Entry:
        if isinstance(content, Finished):
            content.path.replace(path)
            return content.entry
        if isinstance(content, bytes | memoryview):
            path.write_bytes(content)
            return blocks.entry_of(content, self._block)
        with path.open("wb") as file:
            return blocks.write_in_blocks(file, content)

    def _read_file(self, path: Path, expected: Entry, grows: bool = False) -> bytes:
        """Reads a file of this entry; `grows` tells whether it may be longer."""
        try:
            with open_file(path) as file:
                size = os.fstat(file.fileno()).st_size
                if size < expected["size"] or (size > expected["size"] and not grows):  # before memory is taken
                    raise self._differs(path, "size", size, expected["size"])
                content = file.read(expected["size"])
        except FileNotFoundError:
            raise self._gone(path, expected) from None
        except OSError as error:
            raise self._not_read(path, error) from error
        blocks.require_entry(content, expected, self.differs(path))
        return content

    def _gone(self, path: Path, entry: Entry) -> RetrievalError:
        return self.error(f"{path}: missing, expected {entry['size']} bytes; {self.remedy}")

    def _not_read(self, path: Path, error: OSError) -> RetrievalError:
        return self.error(f"{path}: cannot be read ({error.strerror}); mend that, or {self.remedy}")

    def _differs(self, path: Path, key: str, value: Any, expected: Any) -> RetrievalError:
        value, expected = str(value)[:80], str(expected)[:80]
        return self.error(f"{path}: {key} is {value}, expected {expected} by {MANIFEST}; {self.remedy}")

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


def _checksum(manifest: Mapping[str, Any]) -> str:
    """The sha256 of a manifest's content, whatever its layout."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True, allow_nan=False).encode()).hexdigest()
