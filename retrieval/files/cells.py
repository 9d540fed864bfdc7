"""Texts in CSV files that a spreadsheet may open, which takes a text such as "=cmd()" for a formula."""

from __future__ import annotations

import re
from typing import Any

_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_NUMBER = re.compile(r"'*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def guard(value: Any) -> Any:
    """The value of a cell; a text that a spreadsheet would take for a formula gets an apostrophe in front.

    Examples:
        >>> guard("=1+1"), guard("-0.5"), guard("a=b"), guard(-0.5)
        ("'=1+1", '-0.5', 'a=b', -0.5)
    """
    return f"'{value}" if isinstance(value, str) and _is_formula(value) else value


def unguard(text: str) -> str:
    """The text that `guard` has made this one of."""
    return text[1:] if text.startswith("'") and _is_formula(text) else text


def _is_formula(text: str) -> bool:
    """Whether a text begins as a formula, perhaps after apostrophes, and is no number."""
    return bool(_FORMULA.match(text)) and not _NUMBER.fullmatch(text)
