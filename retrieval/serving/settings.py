"""The limits of the service."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

from retrieval.errors import ConfigError

LARGEST_K = 1000  # neighbours of a query


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The limits of the service, and how it batches images.

    Args:
        batch_size: Images that pass the network at a time, at most.
        batch_wait: Seconds that a batch waits for images that are being read already. An image that comes alone never waits.
        queue: Images that are read, wait or are embedded at a time. A request for more is answered by 503.
        max_images: Images of a request.
        max_bytes: Bytes of the body of a request.
        max_pixels: Pixels of an image. The limit of the model's preprocessing applies too.
        timeout: Seconds for a request, from its first byte to the last byte of the answer.
        reload: Seconds between two looks whether the index was replaced; None to keep it.
        token: The bearer token that requests must have; None for none.

    Raises:
        ValueError: A value cannot be used. The message begins with its name.
    """

    batch_size: int = 16
    batch_wait: float = 0.002
    queue: int = 256
    max_images: int = 16
    max_bytes: int = 20 * 2**20
    max_pixels: int = 50_000_000
    timeout: float = 30.0
    reload: float | None = None
    token: str | None = None

    def __post_init__(self) -> None:
        for name in ("batch_size", "queue", "max_images", "max_bytes", "max_pixels"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is {value!r}; give a whole number, at least 1")
        for name, least in (("batch_wait", 0.0), ("timeout", 0.001), ("reload", 0.001)):
            value = getattr(self, name)
            if (value is not None or name != "reload") and not (math.isfinite(value) and value >= least):
                raise ValueError(f"{name} is {value!r}; give a finite number of seconds, at least {least:g}")
        if self.queue < self.max_images:
            raise ValueError(f"queue is {self.queue}, less than the {self.max_images} images that a request may have")
        if self.token is not None and not _is_token(self.token):
            raise ValueError("token is empty or holds characters that no HTTP header can; give printable ASCII")


def read_token(name: str) -> str:
    """The token in an environment variable.

    Raises:
        ConfigError: The variable is not set, or what it holds cannot be a token.
    """
    token = os.environ.get(name, "")
    if not _is_token(token):
        reason = "holds characters that no HTTP header can" if token else "is not set, or is empty"
        raise ConfigError(f"the environment variable {name} {reason}; set it to the token, in printable ASCII")
    return token


def _is_token(text: str) -> bool:
    return bool(text) and all("!" <= character <= "~" for character in text)
