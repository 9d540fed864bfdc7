"""What the endpoints share: the gallery, the network, and the threads."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from fastapi import FastAPI, HTTPException, Request

from retrieval.errors import brief
from retrieval.index import Hit
from retrieval.serving.batching import Batcher, QueueFull
from retrieval.serving.encoder import Upload
from retrieval.serving.gallery import Gallery
from retrieval.serving.holder import Holder, State
from retrieval.serving.metrics import Metrics
from retrieval.serving.pictures import Pictures
from retrieval.serving.settings import Settings

Value = TypeVar("Value")


class Service:
    """The parts of the service.

    Args:
        gallery: The gallery.
        settings: The limits.
    """

    def __init__(self, gallery: Gallery, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.holder = Holder(gallery, settings.max_pixels, self.metrics)
        self.pictures = Pictures()
        self._threads = ThreadPoolExecutor(max(2, os.cpu_count() or 1), thread_name_prefix="serving")
        self.batcher = Batcher(
            settings.batch_size,
            settings.batch_wait,
            settings.queue,
            prepare_on=self._threads,
            observe=self.metrics.batches.observe,
        )

    @property
    def state(self) -> State:
        """The gallery that is served now."""
        return self.holder.state

    async def embed(self, state: State, uploads: Sequence[Upload]) -> tuple[list[Any], Any]:
        """Embeds image files; see `Batcher.embed`. A full queue is answered by 503."""
        try:
            return await self.batcher.embed(state.encoder, uploads)
        except QueueFull:
            headers = {"Retry-After": "1"}
            raise HTTPException(503, "too many images are under way; try again in a second", headers) from None

    async def call(self, function: Any, *arguments: Any) -> Any:
        """Calls a function on another thread."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)

    async def search(
        self, state: State, vectors: Any, k: int, class_name: str | None, least: float | None
    ) -> list[list[Hit]]:
        """The k nearest items of each vector; of one class, and with a least score, if they are given."""
        found = await self.call(state.gallery.search, vectors, k, class_name)
        return found if least is None else [[hit for hit in row if hit.score >= least] for row in found]

    @contextlib.asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        """Looks for a replaced index while the app runs, and ends the threads after it."""
        seconds = self.settings.reload
        watch = None if seconds is None else asyncio.create_task(self.holder.watch(seconds))
        try:
            yield
        finally:
            if watch is not None:
                watch.cancel()
                await asyncio.gather(watch, return_exceptions=True)
            await self.batcher.close()
            self._threads.shutdown()


def service_of(request: Request) -> Service:
    """The service of a request."""
    service: Service = request.app.state.service
    return service


def least_score(state: State, text: str | None) -> float | None:
    """The least score that `min_score` asks for; None if it is not given.

    Raises:
        HTTPException: It is neither a finite number nor "auto", or the gallery has no calibration.
    """
    if text is None:
        return None
    if text == "auto":
        if state.gallery.calibration is None:
            raise HTTPException(422, "min_score is auto, but this index has no calibrated threshold; give a number")
        return state.gallery.calibration.threshold
    with contextlib.suppress(ValueError):
        if math.isfinite(score := float(text)):
            return score
    raise HTTPException(422, f"min_score is {brief(text)}; give a finite number, or auto")
