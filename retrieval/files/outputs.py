"""Checks of an output before the work begins, and the marks by which outputs are known: nothing is replaced unless asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from retrieval.errors import RetrievalError
from retrieval.files.folders import make_place, require_elsewhere, require_place
from retrieval.files.manifest import MANIFEST
from retrieval.files.reading import open_regular

# Says that a page was made here, and so may be replaced.
REPORT_MARK = '<meta name="generator" content="retrieval report">'
_RUN_FILES = ("config.yaml", "environment.json")
_FORMAT = '"format": "retrieval '  # of every manifest
_PICTURES = "-pictures"  # the end of the name of the folder with the pictures of a report


def require_free_folder(out: str | Path, overwrite: bool, check: Callable[[Path], None]) -> None:
    """Checks that a folder can be written.

    Args:
        out: The folder.
        overwrite: Whether an existing folder may be replaced.
        check: Raises an error if replacing the folder would lose other files.

    Raises:
        RetrievalError: The folder exists and may not be replaced, is the current folder, or cannot be made.
    """
    out = Path(out)
    if out.exists() and not overwrite:
        raise RetrievalError(f"{out}: exists already; choose another --out or pass --overwrite")
    if out.is_dir():
        require_elsewhere(out)
        check(out)
    require_place(out)


def require_free_file(out: str | Path, overwrite: bool) -> None:
    """Checks that a file can be written.

    Raises:
        RetrievalError: The file exists and `overwrite` is off, or it cannot be made.
    """
    out = Path(out)
    if out.exists() and not overwrite:
        raise RetrievalError(f"{out}: exists already; choose another name or pass --overwrite")
    require_place(out)


def claim_file(out: str | Path, overwrite: bool) -> None:
    """Checks an output file again, right before it is written, and makes its folder.

    Raises:
        RetrievalError: See `require_free_file`.
    """
    require_free_file(out, overwrite)
    make_place(Path(out))


def own_output(folder: Path) -> str | None:
    """What a folder is if this program has written it: "a run", "an index or a model", "pictures of a report"; otherwise None."""
    if all((folder / name).is_file() for name in _RUN_FILES):
        return "a run"
    if _has_mark(folder / MANIFEST, _FORMAT):
        return "an index or a model"
    page = folder.with_name(f"{folder.name.removesuffix(_PICTURES)}.html")
    if folder.name.endswith(_PICTURES) and _has_mark(page, REPORT_MARK):
        return "pictures of a report"
    return None


def _has_mark(file: Path, mark: str) -> bool:
    """Whether a file holds a mark near its beginning; False if it cannot be read."""
    try:
        with open_regular(file) as opened:
            return mark.encode() in opened.read(1000)
    except OSError:
        return False
