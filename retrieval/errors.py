"""Errors that a user can mend outside the code.

    RetrievalError              exit code 1, one line on the screen
    ├── ConfigError             exit code 2, one line per mistake
    ├── DatasetError            a folder, list or image: names the path
    ├── CheckpointError         a run folder or its files
    ├── IndexFormatError        an index bundle or its files
    ├── EngineError             a server of an index, or what it holds
    └── DivergedError           a training whose numbers are no longer finite

A wrong argument to a function is a plain `ValueError` with the value and the remedy.
"""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Iterable
from difflib import get_close_matches


class RetrievalError(Exception):
    """An error that a user can mend. The message says what is wrong, where, and how to mend it.

    It names the arguments of Python, `overwrite=True`. The command line writes them as its options, `--overwrite`.

    Args:
        lines: The message, usually of one line. A line break within a line, as a name may have one, is shown escaped.

    Examples:
        >>> import retrieval
        >>> try:
        ...     retrieval.Index.open("no-such-folder")
        ... except retrieval.RetrievalError as error:
        ...     print(str(error)[:30])
        no-such-folder: does not exist
    """

    exit_code = 1

    def __init__(self, *lines: object) -> None:
        self.lines = [str(line) for line in lines]
        super().__init__("\n".join(self.lines))


class ConfigError(RetrievalError):
    """All mistakes of a configuration at once.

    Args:
        mistakes: one line each.
    """

    exit_code = 2

    def __init__(self, mistakes: Iterable[str]) -> None:
        self.mistakes = [mistakes] if isinstance(mistakes, str) else list(mistakes)
        super().__init__(*self.mistakes)


class DatasetError(RetrievalError):
    """A data folder, list or image that cannot be used."""


class CheckpointError(RetrievalError):
    """A run folder or checkpoint that cannot be used."""


class IndexFormatError(RetrievalError):
    """An index bundle that is incomplete, altered or of another kind."""


class EngineError(RetrievalError):
    """A server that an index is pushed to: it cannot be reached, fails, or holds another index."""


class DivergedError(RetrievalError):
    """A training that has diverged: its loss, gradient or embeddings cannot be used. Another configuration may not diverge."""


def reason_of(error: Exception) -> str:
    """What another library's error says, on one line and not too long."""
    return textwrap.shorten(str(error), 300, placeholder=" ...")


def plural(count: int, one: str, many: str = "") -> str:
    """A number with its noun: "1 image", "2,000 images"; `many` is the plural of a noun that does not just take an s."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def brief(value: object, length: int = 60) -> str:
    """The representation of a value for messages: on one line and not too long."""
    text = " ".join(repr(value).split())
    return text if len(text) <= length else f"{text[: length - 1]}…"


def did_you_mean(word: str, known: Iterable[str], count: int = 3) -> str:
    """A hint of the known words nearest to `word`, as a shell takes them and ready to append: "" where none is near."""
    near = get_close_matches(word, list(known), n=count, cutoff=0.5)
    return f"; did you mean {' or '.join(map(shlex.quote, near))}?" if near else ""
