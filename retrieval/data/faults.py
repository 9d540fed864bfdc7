"""The list of faults that `retrieval data verify` writes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from retrieval.errors import DatasetError
from retrieval.files import make_place, require_place, write_text

HEADING = "# faults of"


def fault_file(name: str, file: str | Path | None) -> Path:
    """The file for the faults of a data set, by default `<name>-faults.txt`, checked before the work begins.

    Raises:
        DatasetError: The file exists and is not a list of faults.
        RetrievalError: It cannot be made.
    """
    path = Path(file or f"{name}-faults.txt")
    if path.is_file() and path.stat().st_size and not path.read_bytes().startswith(HEADING.encode()):
        raise DatasetError(f"{path}: exists and lists no faults, so it is left alone; choose another --faults")
    if file:
        require_place(path)
    return path


def write_faults(path: Path, name: str, faults: Sequence[str]) -> None:
    """Writes the faults, one a line. Without faults, only the list of an earlier call is replaced."""
    if faults or path.is_file():
        make_place(path)
        write_text(path, "".join(f"{line}\n" for line in (f"{HEADING} {name}", *faults)))
