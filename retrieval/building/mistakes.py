"""Wrong arguments that came from the configuration."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from retrieval.errors import ConfigError


@contextlib.contextmanager
def mistakes_in(section: str) -> Iterator[None]:
    """A ValueError in this block is a mistake of that section of the configuration."""
    try:
        yield
    except ValueError as error:
        raise ConfigError(f"{section}: {error}") from error
