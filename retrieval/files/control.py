"""Characters that act on a terminal instead of being shown: control characters and direction overrides."""

from __future__ import annotations

import copy
import logging
import re
from pathlib import PurePath

_ACTING = "\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069"  # C0, DEL, C1; line separators; bidirectional controls
CONTROL = re.compile(f"[{_ACTING}]")
_NOT_SHOWN = re.compile(f"[{_ACTING}\ud800-\udfff]")  # also the bytes of a name that is not UTF-8


def escape(text: str, keep: str = "") -> str:
    r"""The text with each control character as `\u` and four hex digits, which JSON and most shells read.

    Args:
        text: The text.
        keep: Control characters that are kept.

    Examples:
        >>> print(escape("a\x1b[31m\nb", keep="\n"))
        a\u001b[31m
        b
    """
    return _NOT_SHOWN.sub(lambda found: found[0] if found[0] in keep else f"\\u{ord(found[0]):04x}", text)


class LineFormatter(logging.Formatter):
    """Formats log records with their control characters escaped, in texts, paths and errors also the line breaks."""

    def format(self, record: logging.LogRecord) -> str:
        """The text of a record."""
        if isinstance(args := record.args, tuple):
            record = copy.copy(record)
            named = (str, PurePath, BaseException)
            record.args = tuple(escape(str(value)) if isinstance(value, named) else value for value in args)
        return escape(super().format(record), keep="\n\t")
