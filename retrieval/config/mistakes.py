"""Errors of arguments that came from a configuration."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator

from retrieval.errors import ConfigError


@contextlib.contextmanager
def mistakes_in(section: str, keys: Collection[str] = ()) -> Iterator[None]:
    """Turns a ValueError of the block into a mistake of that section of the configuration; see `mistake`."""
    try:
        yield
    except ValueError as error:
        raise ConfigError(mistake(section, error, keys)) from error


def mistake(section: str, error: object, keys: Collection[str] = (), options: Collection[str] = ()) -> str:
    """The line of an error in a section of the configuration.

    A message that begins with a key of the section, such as "margin is -1", begins with its full dotted name instead.

    Args:
        section: The dotted name of the section.
        error: The error, or its message.
        keys: The keys of the section.
        options: The keys below its key `options`.
    """
    name = str(error).partition(" ")[0]
    separator = ".options." if name in options else "." if name in keys else ": "
    return f"{section}{separator}{error}"
