"""Images of several requests that pass the network together, and a limit on how many are under way."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from retrieval.serving.encoder import Encoder, Upload


class QueueFull(Exception):
    """More images are under way than the service takes."""


@dataclass
class _Job:
    encoder: Encoder
    prepared: Any
    vector: asyncio.Future[np.ndarray]


class Batcher:
    """Prepares images on several threads, and embeds those that are ready together.

    A batch starts as soon as the network is free. It waits, for a moment, only while fewer images are ready than it can hold and
    others are being prepared.

    Args:
        batch_size: Images of a batch, at most.
        wait: Seconds that a batch waits, at most.
        capacity: Images under way, at most.
        prepare_on: The threads that prepare images.
        observe: Called with the size of every batch.
    """

    def __init__(
        self,
        batch_size: int,
        wait: float,
        capacity: int,
        *,
        prepare_on: ThreadPoolExecutor,
        observe: Callable[[int], None] = lambda size: None,
    ) -> None:
        self._batch_size, self._wait, self._capacity = batch_size, wait, capacity
        self._prepare_on, self._observe = prepare_on, observe
        self._network = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="network")
        self._ready: deque[_Job] = deque()
        self._preparing = 0
        self._arrived = asyncio.Event()
        self._runner: asyncio.Task[None] | None = None
        self.under_way = 0

    async def embed(self, encoder: Encoder, uploads: Sequence[Upload]) -> tuple[list[Any], np.ndarray]:
        """Embeds the images of a request.

        Returns:
            The prepared images, and their unit vectors (number, dim).

        Raises:
            QueueFull: There is no room for them.
            RetrievalError: One cannot be read or embedded.
        """
        if self.under_way + len(uploads) > self._capacity:
            raise QueueFull
        if self._runner is None:
            self._runner = asyncio.create_task(self._run())
        tasks = [asyncio.create_task(self._embed(encoder, upload)) for upload in uploads]
        self.under_way += len(tasks)
        for task in tasks:
            task.add_done_callback(self._leave)
        # If the request is cancelled, its images keep their places until they are done: a thread cannot be stopped.
        await asyncio.shield(asyncio.wait(tasks))
        results = [task.result() for task in tasks]
        return [prepared for prepared, _ in results], np.stack([vector for _, vector in results])

    async def close(self) -> None:
        """Ends the threads of the network."""
        if self._runner is not None:
            self._runner.cancel()
            await asyncio.gather(self._runner, return_exceptions=True)
        self._network.shutdown()

    async def _embed(self, encoder: Encoder, upload: Upload) -> tuple[Any, np.ndarray]:
        loop = asyncio.get_running_loop()
        self._preparing += 1
        try:
            prepared = await loop.run_in_executor(self._prepare_on, encoder.prepare, upload)
            job = _Job(encoder, prepared, loop.create_future())
            self._ready.append(job)
        finally:
            self._preparing -= 1
            self._arrived.set()
        return prepared, await job.vector

    def _leave(self, task: asyncio.Task[Any]) -> None:
        self.under_way -= 1
        if not task.cancelled():
            task.exception()  # asyncio logs errors that nobody has asked for, as those of a request that has gone

    async def _run(self) -> None:
        while True:
            await self._collect()
            batch = [self._ready.popleft()]
            while self._ready and len(batch) < self._batch_size and self._ready[0].encoder is batch[0].encoder:
                batch.append(self._ready.popleft())
            self._observe(len(batch))
            await self._embed_batch(batch)

    async def _collect(self) -> None:
        """Waits until a batch should start."""
        loop = asyncio.get_running_loop()
        while not self._ready:
            self._arrived.clear()
            await self._arrived.wait()
        until = loop.time() + self._wait
        while len(self._ready) < self._batch_size and self._preparing and (left := until - loop.time()) > 0:
            self._arrived.clear()
            try:
                await asyncio.wait_for(self._arrived.wait(), left)
            except TimeoutError:
                return

    async def _embed_batch(self, batch: list[_Job]) -> None:
        """Embeds a batch. If that fails, each image is embedded alone, so that none fails for another one."""
        loop = asyncio.get_running_loop()
        prepared, encoder = [job.prepared for job in batch], batch[0].encoder
        size = encoder.share or len(batch)
        parts = [prepared[start : start + size] for start in range(0, len(batch), size)]
        try:
            made = await asyncio.gather(*(loop.run_in_executor(self._network, encoder.embed, part) for part in parts))
            for job, vector in zip(batch, np.concatenate(made), strict=True):
                job.vector.set_result(vector)
        except Exception as error:  # noqa: BLE001 - whatever a network raises belongs to the requests
            if len(batch) == 1:
                batch[0].vector.set_exception(error)
                return
            for job in batch:
                await self._embed_batch([job])
