"""Finding the files of a data set whose folders were doubled or renamed when it was packed again."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from retrieval.errors import DatasetError


def find(root: Path, places: Sequence[str], content: str) -> str | None:
    """The first of some folders that holds a file or folder; None if none does.

    Args:
        root: The folder that `places` are relative to.
        places: Folders that end in "/", or "" for the root itself.
        content: The name of the file or folder.
    """
    return next((place for place in places if os.path.exists(root / place / content)), None)  # noqa: PTH110 - Path.exists raises without rights


def find_folder(root: Path, name: str, content: str) -> Path:
    """The folder of an unpacked archive, given the folder itself or one above it; the folder may be doubled.

    Args:
        root: The given folder.
        name: The name of the folder in the archive.
        content: The name of a file in it.

    Raises:
        DatasetError: None of these folders holds the file.
    """
    places = (f"{name}/", f"{name}/{name}/", "")
    place = find(root, places, content)
    if place is None:
        raise DatasetError(
            f"{root}: {content} is missing ({looked_in(root, places)}); root must be the unpacked {name} or the folder above it"
        )
    return root / place


def looked_in(root: Path, places: Sequence[str]) -> str:
    """The folders that were looked in, for messages."""
    return f"looked in {', '.join(dict.fromkeys(str(root / place) for place in places))}"
