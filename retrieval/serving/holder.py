"""The gallery that is served now. A replaced one is taken up between requests, never half."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from retrieval.serving.encoder import Encoder
from retrieval.serving.gallery import Gallery
from retrieval.serving.metrics import Metrics

log = logging.getLogger("retrieval")


@dataclass(frozen=True)
class State:
    """What a request works with, from its beginning to its end.

    Args:
        gallery: The gallery.
        encoder: The model of the gallery.
        generation: 1 for the first gallery, and one more for each that has replaced it.
    """

    gallery: Gallery
    encoder: Encoder
    generation: int


class Holder:
    """Holds the current state, and replaces it as a whole.

    Args:
        gallery: The first gallery.
        max_pixels: See `Encoder`.
        metrics: Counts the replacements.
    """

    def __init__(self, gallery: Gallery, max_pixels: int, metrics: Metrics) -> None:
        self._max_pixels = max_pixels
        self._metrics = metrics
        self.state = State(gallery, Encoder(gallery.model, max_pixels), 1)

    def refresh(self) -> bool:
        """Takes up a gallery that has replaced the current one; returns whether there was one.

        Raises:
            RetrievalError: The new gallery cannot be read; the current one stays.
        """
        old = self.state
        new = old.gallery.successor()
        if new is None:
            return False
        encoder = old.encoder if new.model is old.encoder.model else Encoder(new.model, self._max_pixels)
        self.state = State(new, encoder, old.generation + 1)
        self._metrics.reloads += 1
        return True

    async def watch(self, seconds: float) -> None:
        """Calls `refresh` again and again. A gallery that cannot be read is logged once, and counted."""
        last = ""
        while True:
            await asyncio.sleep(seconds)
            try:
                if await asyncio.to_thread(self.refresh):
                    log.info("the index was replaced: %d items", len(self.state.gallery))
                last = ""
            except Exception as error:  # noqa: BLE001 - the service goes on, whatever the folder holds
                self._metrics.reload_errors += 1
                if str(error) != last:
                    log.warning("%s; the index of before is still served", error)
                last = str(error)
