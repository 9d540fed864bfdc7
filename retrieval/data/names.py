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


# Default_Ignorable_Code_Point of Unicode: characters without a shape, such as zero-width spaces, soft hyphens and fillers.
_SHAPELESS = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0"
    "\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
_BLANK_BRAILLE = "\u2800"  # the only empty character that Unicode counts among the symbols


def natural_key(name: str) -> tuple[list[tuple[int, str]], str]:
    """A sort key that compares the numbers inside names by value."""
    parts = re.split(r"([0-9]+)", name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts], name


def look(name: str) -> str:
    """A name as it looks on a screen: equal for names that differ only in characters that cannot be told apart.

    Composed and decomposed accents, full-width and normal letters, and all kinds of spaces become equal. Characters without a shape
    are removed.
    """
    if name.isascii():
        return " ".join(name.split())
    visible = _SHAPELESS.sub("", unicodedata.normalize("NFKC", name)).replace(_BLANK_BRAILLE, " ")
    shown = (character for character in visible if unicodedata.category(character) != "Cf")
    return " ".join(unicodedata.normalize("NFKC", "".join(shown)).split())


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
