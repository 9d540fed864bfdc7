"""Errors of arguments that came from a configuration."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from retrieval.errors import ConfigError


@contextlib.contextmanager
def mistakes_in(section: str) -> Iterator[None]:
    """Turns a ValueError of the block into a mistake of that section of the configuration."""
    try:
        yield
    except ValueError as error:
        raise ConfigError(f"{section}: {error}") from error
