"""Text on the terminal: names in it may hold control characters, which are shown escaped."""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Iterable, Iterator
from typing import Any, TextIO, cast

import click

from retrieval.files.control import escape


class _EscapingStream:
    """A text stream that escapes control characters other than line breaks and tabs, and what its encoding does not have."""

    encoding = "utf-8"  # click replaces a stream whose encoding is ASCII

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        encoding = self._stream.encoding or self.encoding
        return self._stream.write(escape(text, keep="\n\t").encode(encoding, "backslashreplace").decode(encoding))

    def writelines(self, lines: Iterable[str]) -> None:
        self.write("".join(lines))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def escaped_stdout() -> Iterator[None]:
    """A block in which stdout shows control characters escaped; inside of JSON, they stay what they are."""
    stdout = sys.stdout
    sys.stdout = cast(TextIO, _EscapingStream(stdout))
    try:
        yield
    finally:
        sys.stdout = stdout


def print_error(text: str) -> None:
    """Prints an error to stderr, on one line."""
    click.echo(f"error: {escape(text)}", err=True)


def print_traceback() -> None:
    """Prints the traceback of the current exception to stderr."""
    click.echo(escape(traceback.format_exc(), keep="\n\t"), err=True, nl=False)
