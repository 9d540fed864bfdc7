"""The URL of an index on a server: scheme://host:port/name."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import urlsplit

from retrieval.errors import ConfigError, brief, did_you_mean

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,199}")


@dataclass(frozen=True)
class Address:
    """The parts of a URL.

    Args:
        url: The URL, for messages.
        scheme: Which kind of server.
        host: Its host.
        port: Its port; None for the usual one.
        name: The name of the index on it.
    """

    url: str
    scheme: str
    host: str
    port: int | None
    name: str


def parse(url: str, schemes: Collection[str]) -> Address:
    """Reads a URL.

    Raises:
        ConfigError: It is not of the form scheme://host:port/name, its scheme is unknown, or it holds a password.
    """
    example = f"{next(iter(schemes))}://host:port/name"
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname
    except (ValueError, AttributeError, TypeError):
        raise ConfigError(f"{brief(url)} is no URL of an index on a server, expected {example}") from None
    if parts.username is not None or parts.password is not None:
        raise ConfigError(
            f"the URL of {host} holds a user or a password; give {example}, and the token in the environment"
        )
    if parts.scheme not in schemes:
        hint = did_you_mean(parts.scheme, schemes) or f"; the servers are {', '.join(schemes)}"
        raise ConfigError(f"{brief(url)} is no URL of an index on a server, expected {example}{hint}")
    name = parts.path.removeprefix("/").removesuffix("/")
    if not host or port == 0 or parts.query or parts.fragment or not _NAME.fullmatch(name):
        raise ConfigError(
            f"{brief(url)} is no URL of an index on a server, expected {example}; a name has letters, digits and _ only"
        )
    return Address(f"{parts.scheme}://{parts.netloc}/{name}", parts.scheme, host, port, name)
