"""Names of classes and files: which can be stored, which look alike, and their natural order."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Iterable

from retrieval.errors import DatasetError

log = logging.getLogger("retrieval")

# Control characters, and bytes that are not UTF-8. Tables, logs and terminals cannot hold them.
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
# What tables hold where a value is missing, in lower case.
MISSING = frozenset({"nan", "none", "null", "na", "n/a", "#n/a", "<na>", "nat", "nil", "undefined"})


def natural_key(name: str) -> tuple[list[tuple[int, str]], str]:
    """A sort key that compares the numbers inside names by value."""
    parts = re.split(r"([0-9]+)", name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts], name


def look(name: str) -> str:
    """A name as it looks on a screen: equal for names that differ only in characters that cannot be told apart.

    Composed and decomposed accents, full-width and normal letters, and all kinds of spaces become equal. Invisible characters, such
    as zero-width spaces and soft hyphens, are removed.
    """
    normal = name if name.isascii() else unicodedata.normalize("NFKC", name)
    if not normal.isascii():
        visible = (character for character in normal if unicodedata.category(character) != "Cf")
        normal = unicodedata.normalize("NFKC", "".join(visible))
    return " ".join(normal.split())


def warn_missing(names: Iterable[str], where: object) -> None:
    """Logs the names of classes that are the text of a missing value."""
    for name in names:
        if name.lower() in MISSING:
            log.warning("%s: the class %r has the name of a missing value", where, name)


def refuse_alike(names: Iterable[str], where: object) -> None:
    """Refuses names of classes that look alike and differ in their characters: they would be two classes.

    Args:
        names: The names, each any number of times.
        where: The folder, list or data set, for the message.

    Raises:
        DatasetError: Two different names look alike; the message shows the characters of both.
    """
    first: dict[str, str] = {}
    for name in dict.fromkeys(names):
        other = first.setdefault(look(name), name)
        if other != name:
            raise DatasetError(
                f"{where}: the classes {other!r} and {name!r} look alike but are written {other!a} and {name!a}; "
                "give them one name, or names that differ visibly"
            )
